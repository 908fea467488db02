# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Improved DDPM
#
# DDPM drew well, but needed a thousand steps, and as a *code* for images it lost to other models. [Nichol and
# Dhariwal](https://arxiv.org/abs/2102.09672) (2021) changed the schedule, the variance of the step back, and how the
# bound is trained. Four kinds of small network, three seeds each, tell what each change buys.
#
# Reading: the paper. You need 04 and 05.

# %%
import io
from contextlib import redirect_stderr
from functools import partial
from itertools import pairwise, product

import torch
from tqdm import tqdm

from ddpm_path import losses
from ddpm_path.gaussian import fixed_large, fixed_small, learned_variance, q_sample
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import claims, datasets, evaluation, metrics, plots, recipes, zoo
from ddpm_path.lab.exercises import IMPORTANCE_WEIGHTS, LEARNED_VARIANCE, check
from ddpm_path.samplers import ancestral, last, start_noise
from ddpm_path.schedule import Discrete, cosine_betas, linear_betas, on_schedule, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)  # noqa: E731
linear, cosine = Discrete.from_betas(linear_betas()), Discrete.from_betas(cosine_betas())
kinds = {"linear-simple": linear, "cosine-simple": cosine, "cosine-hybrid": cosine, "cosine-vlb": cosine}
hybrid = [zoo.load_learned(f"compare-cosine-hybrid-{k}")[0] for k in range(3)]
digits, test = datasets.digits().train, datasets.digits().test


def show(rows, alt):
    plots.show(plots.grid(torch.cat([x[:12] for x in rows.values()]), 12, rows=tuple(rows)), alt)


# %% [markdown]
# ## The schedule
#
# $\bar\alpha_t = f(t)/f(0)$, $f(t) = \cos^2\left(\frac{t/T + 0.008}{1.008} \cdot \frac\pi2\right)$, and no $\beta_t$
# above 0.999 [eq. 17]. How much of an image do we ignore if we start from pure noise at some $t < T$? That needs no
# network: $\mathrm{KL}(q(x_t|x_0)\,\|\,\mathcal N(0, I))$.
#
# *Predict before you run:* which schedule wastes its noisiest 200 steps?

# %%
f = lambda t: torch.cos((t / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2  # noqa: E731
for t in torch.tensor([1, 500, 1000]).double():
    torch.testing.assert_close((1 - f(t) / f(t - 1)).clamp(max=0.999), cosine_betas()[int(t) - 1])
plots.show(plots.schedules({"linear": linear, "cosine": cosine}), "SCHEDULES")
for t in (1000, 900, 800, 700, 600):
    a, b = (256 * losses.prior_term(schedule, test, t).mean() for schedule in (linear, cosine))
    print(f"pure noise at {t} ignores {a:.2f} bits of an image with linear, {b:.2f} with cosine")
rows, shape = {}, (1, 16, 16)
good = partial(zoo.load("digits")[0], label=torch.arange(12) % 10)
for (name, schedule), start in product({"linear": linear, "cosine": cosine}.items(), (1000, 800, 600)):
    eps_fn, x = clip_x0(on_schedule(good, cosine, schedule), schedule), start_noise(12, shape, seed(0))
    states = ancestral(eps_fn, schedule, x, uniform_times(start, start // 20), generator=seed(1))
    rows[f"{name} from {start}"] = last(states)
show(rows, "SKIPPED")

# %% [markdown]
# **You should see**
#
# ## The variance
#
# DDPM fixed the variance of the step back: $\tilde\beta$ is right for data at one point, $\beta$ for
# $\mathcal N(0, I)$. Now the network answers a second number $o$ for each pixel, which mixes their logarithms [eq. 15]:
#
# $$\Sigma = \exp(v \log\beta + (1-v)\log\tilde\beta), \qquad v = (o + 1)/2$$
#
# Steps may be long, from $t$ to any $s$: $\beta = 1 - \bar\alpha_t/\bar\alpha_s$ [eq. 19]. At $s = 0$, where
# $\tilde\beta = 0$, the code borrows that of the step before.
#
# For data $\mathcal N(0, \sigma^2)$ we know the best variance: $\tilde\beta + c^2\,\mathrm{Var}(x_0|x_t)$, where $c$ is
# the factor of $x_0$ in the posterior's mean.
#
# *Predict:* what is the best $v$ for a point ($\sigma = 0$), for $\sigma = 1$?

# %%
bars, o = cosine.alpha_bar, 2 * torch.rand(5, generator=seed(0), dtype=torch.float64) - 1
ends = lambda t, s: (fixed_small(cosine(t), cosine(s)), fixed_large(cosine(t), cosine(s)))  # noqa: E731


def best_v(sigma, t, s):
    (scale, std), (small, large) = cosine(t), ends(t, s)
    left = sigma**2 * std**2 / (scale**2 * sigma**2 + std**2)  # Var(x_0 | x_t)
    return float((1 + (cosine(s)[0] * large / std**2) ** 2 * left / small).log() / (large / small).log())


for t, s in ((1000, 999), (500, 499), (500, 480), (2, 1)):
    beta, v = 1 - bars[t] / bars[s], (o + 1) / 2
    tilde = (1 - bars[s]) / (1 - bars[t]) * beta
    by_hand = torch.exp(v * beta.log() + (1 - v) * tilde.log())
    torch.testing.assert_close(by_hand, learned_variance(o, *ends(t, s)))
    print(f"from {t} to {s} the small variance is {ends(t, s)[0] / ends(t, s)[1]:.3f} of the large")
times = uniform_times(1000, 50)[:-1]
curves = {f"sigma = {a:g}": [best_v(a, *step) for step in pairwise(times)] for a in (0.02, 0.2, 0.5, 1.0)}
plots.show(plots.curves(times[:-1], curves, "t, in 50 steps", "best v"), "BEST V")

# %% [markdown]
# **You should see**
#
# ## A loss for it
#
# $L_{simple}$ never sees the variance. $L_{hybrid} = L_{simple} + 0.001\,L_{vlb}$ does [eq. 16], and a stop-gradient
# holds the mean still in $L_{vlb}$. What moves eps, what moves $o$? Autograd knows.
#
# *Predict:* without the stop (the mistake), which term rules eps near the data?


# %%
def gradients(t):
    x0, at, eps = test[:32], torch.full((32,), float(t)), torch.randn(32, 1, 16, 16, generator=seed(0))
    answer = hybrid[0](q_sample(x0, eps, cosine(at)), at)
    output, o = (half.detach().requires_grad_() for half in answer.chunk(2, dim=1))
    held, loose = ((lambda x, t, e=e: torch.cat([e, o], 1)) for e in (output.detach(), output))
    rest = (losses.EPS, cosine, x0, at, eps)
    simple = losses.simple(lambda x, t: output, *rest)
    vlb, mistake = (0.001 * losses.learned_bound(net, *rest) for net in (held, loose))
    torch.testing.assert_close(losses.hybrid(loose, *rest), simple + vlb)
    for loss in (simple, vlb, mistake):
        yield [float(g.norm()) for g in torch.autograd.grad(loss.sum(), (output, o), materialize_grads=True)]


for t in (1, 2, 10, 100, 500):
    (simple, _), (stopped, on_o), (loose, _) = gradients(t)
    assert stopped == 0 and on_o > 0
    print(f"t = {t}: L_vlb moves o by {on_o:.1e}, eps by {stopped}; without the stop {loose / simple:.2f} of L_simple")

# %% [markdown]
# **You should see**
#
# ## What it learned
#
# *Predict:* where in an image is the network certain?

# %%
rows, eps = {"x_0": test[:12]}, torch.randn(12, 1, 16, 16, generator=seed(1))
for t in (2, 20, 100, 300, 600):
    at = torch.full((12,), float(t))
    rows[f"v, t = {t}"] = o = hybrid[0](q_sample(test[:12], eps, cosine(at)), at)[:, 1:]
    paper, ink = ((o[where].mean() + 1) / 2 for where in (test[:12] == -1, test[:12] > -0.5))
    print(f"t = {t}: v is {paper:.2f} on paper, {ink:.2f} on ink")
show(rows, "MAPS")

# %% [markdown]
# ## Bits
#
# Every network codes the same test digits in 1,000 steps, with the same noise; L_0 is the last step.
#
# *Predict:* in which term does cosine gain?


# %%
def claim(key, gain):  # one for each seed
    claims.measure(key, gain.mean(), gain.std() / 3**0.5)


def coded(kind, k, n, steps, variance=None):
    times = uniform_times(1000, steps)
    back = evaluation.step_back(f"compare-{kind}-{k}", times, variance)
    with redirect_stderr(io.StringIO()):  # its progress bar
        bits = metrics.bits(back, kinds[kind], test[:n], times)
    return torch.tensor([float(part.mean()) for part in bits])


parts = {kind: torch.stack([coded(kind, k, 48, 1000) for k in range(3)]) for kind in tqdm(kinds, desc="bits")}
for kind, part in parts.items():  # (3 seeds, 3 parts)
    print(f"{kind:13} {part.sum(1).mean():.3f} bits/dim:", *(f"{x:.4f}" for x in part.mean(0)), "(prior, rate, L_0)")
saved = parts["linear-simple"] - parts["cosine-simple"]
claim("improved-cosine-bits", saved.sum(1))
claim("improved-cosine-rate", saved[:, :2].sum(1))
claim("improved-vlb-bits", (parts["cosine-hybrid"] - parts["cosine-vlb"]).sum(1))

# %% [markdown]
# **You should see**
#
# ## Which times to draw
#
# The terms of $L_{vlb}$ differ by orders of magnitude: with uniform $t$ its gradient is noisy. Draw $t$ with
# $p_t \propto \sqrt{\mathbb E L_t^2}$, from the latest losses of each $t$, and weigh them by $1/(T p_t)$ [eq. 18].
#
# *Predict:* which times come up most?


# %%
def loss(net, draw, t):
    x0 = digits[torch.randint(len(digits), t.shape, generator=draw)]
    return losses.learned_bound(net, losses.EPS, cosine, x0, t, torch.randn(x0.shape, generator=draw))


gain = torch.zeros(2, 3)
for k in tqdm(range(3), desc="gradients"):
    net, card = zoo.load_network(f"compare-cosine-vlb-{k}")
    torch.manual_seed(k)
    for i, weights in enumerate((recipes.Recipe(**card["recipe"]).network(), net.requires_grad_())):
        draw = seed(k)
        p, gain[i, k] = metrics.importance_gain(partial(loss, weights, draw), [*weights.parameters()], 1000, 2, draw)
print("log2 of the noise saved, fresh and final weights:", *(f"{x:.2f}" for x in gain.flatten().tolist()))
print("half of the draws fall on t =", int((p.cumsum(0) < 0.5).sum()) + 1, "and below")
claim("improved-importance", gain[gain.mean(1).argmin()])

# %% [markdown]
# **You should see**
#
# ## Fewer steps
#
# Respacing needs nothing new: `times`, and the levels of each step. One L_simple network with either fixed variance
# against the hybrid one.

# %%
counts, table = (25, 50, 100), torch.zeros(3, 3, 3)
ways = {"small": ("cosine-simple", "small"), "large": ("cosine-simple", "large"), "hybrid": ("cosine-hybrid", None)}
for (i, (kind, variance)), j, k in tqdm([*product(enumerate(ways.values()), range(3), range(3))], desc="few steps"):
    table[i, j, k] = coded(kind, k, 24, counts[j], variance).sum()
gain = torch.minimum(table[0], table[1]) - table[2]  # (counts, seeds)
claim("improved-hybrid-bits", gain[gain.mean(1).argmin()])
lines = dict(zip(ways, table.mean(2).tolist(), strict=True))
plots.show(plots.curves(counts, lines, "steps", "bits/dim"), "STEPS")

# %%
few, features, farther = uniform_times(1000, 25), zoo.load_recogniser("digits-recogniser").features, []
for k in tqdm(range(3), desc="60 samples"):
    with redirect_stderr(io.StringIO()):
        plain = metrics.sample(zoo.load(f"compare-cosine-simple-{k}")[0], cosine, 60, shape, few, 0)
        learned = metrics.sample_learned(hybrid[k], cosine, 60, shape, few, 0)
    farther.append(metrics.kernel_difference(features(plain), features(learned), features(test))[0])
claim("improved-hybrid-draws", torch.tensor(farther))
show({"L_simple": plain, "hybrid": learned}, "ROWS")

# %% [markdown]
# ## Exercises
#
# Write (1) the learned variance from $o$ and the levels `(scale, std)`, `now` at $t$ and `then` at $s > 0$; (2) from a
# history of losses `(T, n)` the probability of each time (no floor), and the weight of a draw. Solutions:
# `ddpm_path/lab/exercises/improved.py`.


# %%
def my_variance(o, now, then):
    raise NotImplementedError  # your lines instead: return the variance


def importance_weights(history):
    raise NotImplementedError  # your lines instead: return p, weight


_ = check(LEARNED_VARIANCE, my_variance)
_ = check(IMPORTANCE_WEIGHTS, importance_weights)

# %% [markdown]
# ## What to read next
#
# The paper's section 5 on recall, and `13_guidance`.
