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
# DDPM drew well, but needed a thousand steps, and as a *code* it lost to other models. [Nichol and
# Dhariwal](https://arxiv.org/abs/2102.09672) (2021) changed the schedule, the variance of the step back, and how the
# bound is trained. What does each change buy? Small U-Nets tell, of three seeds each; `simple`, `hybrid` and `vlb`
# differ in their training alone.
#
# Reading: the paper. You need 04 and 05.

# %%
from functools import partial
from itertools import pairwise, product

import torch
from tqdm import tqdm

from ddpm_path import gaussian, guidance, losses, samplers
from ddpm_path.lab import claims, datasets, metrics, plots, probing, recipes, zoo
from ddpm_path.lab.exercises import IMPORTANCE_WEIGHTS, LEARNED_VARIANCE, check
from ddpm_path.schedule import Discrete, cosine_betas, linear_betas, on_schedule, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
schedules = {"linear": Discrete.from_betas(linear_betas()), "cosine": Discrete.from_betas(cosine_betas())}
nets = {(kind, k): zoo.load(f"compare-{kind}-simple-{k}")[0] for kind in ("linear", "cosine") for k in range(3)}
learned = {(kind, k): zoo.load_learned(f"compare-cosine-{kind}-{k}")[0] for kind in ("hybrid", "vlb") for k in range(3)}
cosine, digits, test = schedules["cosine"], datasets.digits().train, datasets.digits().test
clipped, shape = partial(guidance.clip_x0, schedule=cosine), (1, 16, 16)


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
f = lambda t: torch.cos((t / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
for t in torch.tensor([1, 500, 1000]).double():
    torch.testing.assert_close((1 - f(t) / f(t - 1)).clamp(max=0.999), cosine_betas()[int(t) - 1])
plots.show(plots.schedules(schedules), "Linear's scale nears 0 at t / T = 0.8, cosine's at 1.")
for t, (name, s) in product((1000, 900, 800, 700, 600), schedules.items()):
    print(f"{name} from {t}: {256 * losses.prior_term(s, test, t).mean():.2f} bits")
rows, noise = {}, samplers.start_noise(12, shape, seed(0))
good = partial(zoo.load("digits")[0], label=torch.arange(12) % 10)
for (name, schedule), start in product(schedules.items(), (1000, 800, 600)):
    eps_fn, times = guidance.clip_x0(on_schedule(good, cosine, schedule), schedule), uniform_times(start, start // 20)
    rows[f"{name} from {start}"] = samplers.last(samplers.ancestral(eps_fn, schedule, noise, times, generator=seed(1)))
show(rows, "Six rows of digits, clean but for a 6 and a 7 of cosine started at 600.")

# %% [markdown]
# **You should see** that linear's last 400 steps hold 3 bits of an image: it draws as well without them. Cosine's hold
# 54, and without them it botches 6 and 7. All rows are *one* network's: `on_schedule` moves it.
#
# ## Bits, term by term
#
# Networks of either schedule code the same digits in 1,000 steps.
#
# *Predict:* does cosine gain in the rate (all steps but the last) or in $L_0$, the last?


# %%
def claim(key, gain):  # one for each seed
    claims.measure(key, gain.mean(), gain.std() / 3**0.5)


def coded(reverse, schedule, n, times):
    return torch.tensor([float(part.mean()) for part in probing.bits(reverse, schedule, test[:n], times)])


every, parts, backs = uniform_times(1000, 1000), {}, {}
for (kind, k), net in tqdm(nets.items(), desc="bits of 48 digits"):
    backs[kind] = losses.fixed_variance(guidance.clip_x0(net, schedules[kind]), schedules[kind], gaussian.fixed_large)
    parts[kind, k] = coded(backs[kind], schedules[kind], 48, every)
    print(kind, k, "prior {:.5f}, rate {:.3f}, L_0 {:.3f} bits/dim".format(*parts[kind, k].tolist()))
saved = torch.stack([parts["linear", k] - parts["cosine", k] for k in range(3)])  # (3 seeds, 3 parts)
claim("improved-cosine-bits", saved.sum(1))
claim("improved-cosine-rate", saved[:, :2].sum(1))
at, noise = [1, 2, 3, 5, 10, 20, 50, 100, 200, 400, 600, 800, 900, 1000], torch.randn(48, *shape, generator=seed(0))
terms = lambda kind, t: losses.bound_term(backs[kind], schedules[kind], test[:48], t, t - 1, noise).mean()
lines = {kind: [terms(kind, torch.full((48,), float(t))) for t in at] for kind in schedules}
plots.show(plots.log_curves(at, lines, "t", "bits/dim of the term"), "Terms fall a millionfold; linear's end first.")

# %% [markdown]
# **You should see** cosine save 0.17 bits/dim, but all in $L_0$. Linear's first noise, 0.01, blurs neighbouring grey
# levels, 0.008 apart; cosine's, 0.006, does not, and a flat background costs less. For its finer $x_1$ cosine pays a
# *higher* rate. Only at the end, where linear's steps do next to nothing, do terms differ much.
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
ends = lambda t, s: (gaussian.fixed_small(cosine(t), cosine(s)), gaussian.fixed_large(cosine(t), cosine(s)))


def best_v(sigma, t, s):
    (scale, std), (small, large) = cosine(t), ends(t, s)
    left = sigma**2 * std**2 / (scale**2 * sigma**2 + std**2)  # Var(x_0 | x_t)
    return float((1 + (cosine(s)[0] * large / std**2) ** 2 * left / small).log() / (large / small).log())


for t, s in ((1000, 999), (500, 499), (500, 480), (2, 1)):
    beta, v = 1 - bars[t] / bars[s], (o + 1) / 2
    tilde = (1 - bars[s]) / (1 - bars[t]) * beta
    by_hand = torch.exp(v * beta.log() + (1 - v) * tilde.log())
    torch.testing.assert_close(by_hand, gaussian.learned_variance(o, *ends(t, s)))
    print(f"from {t} to {s} the small variance is {ends(t, s)[0] / ends(t, s)[1]:.3f} of the large")
times = uniform_times(1000, 50)[:-1]
curves = {f"sigma = {a:g}": [best_v(a, *step) for step in pairwise(times)] for a in (0.02, 0.2, 0.5, 1.0)}
plots.show(plots.curves(times[:-1], curves, "t, in 50 steps", "best v"), "Best v: 1 for sigma 1, else falling with t.")

# %% [markdown]
# **You should see** 0 for a point, 1 for $\sigma = 1$. Over one short step the two hardly differ, except at the data:
# only in few steps does the choice matter.
#
# ## A loss for it
#
# $L_{simple}$ never sees the variance. $L_{hybrid} = L_{simple} + 0.001\,L_{vlb}$ does [eq. 16], and a stop-gradient
# holds the mean still in $L_{vlb}$. So autograd should find no trace of $L_{vlb}$ in eps.
#
# *Predict:* without the stop (the mistake), which term rules eps near the data?


# %%
def gradients(t, x0=test[:32]):
    at, eps = torch.full((32,), float(t)), torch.randn(32, 1, 16, 16, generator=seed(0))
    x, rest = gaussian.q_sample(x0, eps, cosine(at)), (losses.EPS, cosine, x0, at, eps)
    output, o = (half.clone().requires_grad_() for half in gaussian.two_answers(learned["hybrid", 0](x, at), x))
    held, loose = (lambda x, t, e=e: torch.cat([e, o], 1) for e in (output.detach(), output))
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
# **You should see** exactly 0. Without the stop, $L_{vlb}$ would push eps almost as hard as $L_{simple}$ at $t = 1$,
# not at all at 500. **If instead** the trace is small but not 0, the stop stands in the wrong place.
#
# ## The $v$ that was learned
#
# *Predict:* how will that of `hybrid` change with $t$?

# %%
eps, some = torch.randn(test.shape, generator=seed(1)), (1, 2, 5, 10, 20, 50, 100, 200, 400, 800)
answer = lambda net, t: net(gaussian.q_sample(test, eps, cosine(t)), torch.full((355,), float(t)))
mean_v = lambda net, t: float(answer(net, t)[:, 1].mean() + 1) / 2
lines = {f"seed {k}": [mean_v(learned["hybrid", k], t) for t in some] for k in range(3)}
plots.show(plots.curves(torch.tensor(some).log10(), lines, "log10 t", "v"), "Seeds agree near t = 1, then part.")

# %% [markdown]
# **You should see** seeds agree on 0.7 near the data, on nothing beyond $t = 20$: there a short step's variances are
# alike, and nothing teaches $v$.
#
# ## Which times to draw
#
# The terms of $L_{vlb}$ differ by orders of magnitude: with uniform $t$ its gradient is noisy. Draw $t$ with $p_t
# \propto \sqrt{\mathbb E L_t^2}$, from the latest losses of each $t$, and count each as $L_t / p_t$ [eq. 18]: the
# code's terms are $T L_t$, their weight $1/(T p_t)$.
#
# *Predict:* which times come up most?


# %%
def loss(net, draw, t):
    x0 = digits[torch.randint(len(digits), t.shape, generator=draw)]
    return losses.learned_bound(net, losses.EPS, cosine, x0, t, torch.randn(x0.shape, generator=draw))


gain = torch.zeros(2, 3)
for k in tqdm(range(3), desc="gradients"):
    torch.manual_seed(k)
    fresh, final = recipes.RECIPES["compare-cosine-vlb-0"].network(), zoo.load_network(f"compare-cosine-vlb-{k}")[0]
    for i, net in enumerate((fresh, final.requires_grad_())):
        draw = seed(k)
        p, gain[i, k] = probing.importance_gain(partial(loss, net, draw), list(net.parameters()), 1000, 2, draw)
print("log2 of the noise saved, fresh and final weights:", *(f"{x:.1f}," for x in gain.flatten().tolist()), end=" ")
print(f"p: {p[0]:.3f} at t = 1, {p[-1]:.3f} at t = 1000; E L^2 falls {1000 * p.square().sum():.0f}-fold, final weights")
claim("improved-importance", min(gain, key=torch.mean))

# %% [markdown]
# **You should see** no clear gain, though $\mathbb E L^2$ falls many-fold: $t = 1000$ takes many draws. There
# $\beta = 0.999$ returns an error of eps 30-fold. Few uniform batches meet it, so their *median* looks calm.
#
# ## What the losses buy
#
# Few steps need nothing new but `times`. `vlb` was trained on $L_{vlb}$ alone, with these draws of $t$.
#
# *Predict:* which model codes best in 1,000 steps? Which variance in 25?

# %%
counts, bits = (25, 50, 100, 1000), torch.zeros(4, 4, 3)
for (j, n), k in tqdm([*product(enumerate(counts), range(3))], desc="bits of 24 digits"):
    times, net = uniform_times(1000, n), clipped(nets["cosine", k])
    ways = [losses.fixed_variance(net, cosine, v, times) for v in (gaussian.fixed_small, gaussian.fixed_large)]
    free = (guidance.on_eps(learned[kind, k], clipped) for kind in ("hybrid", "vlb"))
    ways += [losses.learned_reverse(net, cosine, times) for net in free]
    bits[:, j, k] = torch.stack([coded(way, cosine, 24, times).sum() for way in ways])
for name, line in zip(("simple, small", "simple, large", "hybrid", "vlb"), bits.mean(2).tolist(), strict=True):
    print(f"{name:13}", *(f"{n}: {x:.3f};" for n, x in zip(counts, line, strict=True)))
gain = torch.minimum(bits[0], bits[1]) - bits[2]  # (counts, seeds)
claim("improved-variance-bits", min(gain[:3], key=torch.mean))
claim("improved-hybrid-bits", gain[3])
claim("improved-vlb-bits", (bits[2] - bits[3])[3])

# %% [markdown]
# **You should see** hybrid save 0.14 bits/dim in 1,000 steps, and lose to the small variance in 25 to 100: in long
# steps $v$ counts at all $t$. The paper trained 250 times as long.
#
# *Predict:* who draws best?

# %%
features, rows, far = zoo.load_recogniser("digits-recogniser").features, {}, torch.zeros(3, 3, 3)
for (j, n), k in tqdm([*product(enumerate(counts[:3]), range(3))], desc="draws of three"):
    drawn = {"simple": metrics.sample(nets["cosine", k], cosine, 100, shape, uniform_times(1000, n), 0)}
    for kind in ("hybrid", "vlb"):
        drawn[kind] = metrics.sample_learned(learned[kind, k], cosine, 100, shape, uniform_times(1000, n), 0)
    far[:, j, k] = torch.tensor([metrics.kernel_distance(features(x), features(test)) for x in drawn.values()])
    rows |= {f"{kind}, {n}": x for kind, x in drawn.items()} if k == 0 else {}
show(rows, "Nine rows: simple and hybrid draw digits, alike; those of vlb are patchy in any number of steps.")
print("kernel distance in 25, 50, 100 steps:", dict(zip(drawn, far.mean(2).round().tolist(), strict=True)))
claim("improved-variance-draws", min(far[0] - far[1], key=torch.mean))
claim("improved-vlb-draws", (far[2] - far[1])[1])

# %% [markdown]
# **You should see** simple and hybrid draw alike, `vlb`, which codes as well, far worse: bits are details.
#
# ## Exercises
#
# Write (1) the learned variance from $o$ and the levels `(scale, std)`, `now` at $t$ and `then` at $s > 0$; (2) from a
# history of losses `(T, n)` the probability of each time, and the weight of a draw. Solutions:
# `ddpm_path/lab/exercises/improved.py`.


# %%
def my_variance(o, now, then):
    raise NotImplementedError  # your lines instead: return the variance


def importance_weights(history):
    raise NotImplementedError  # your lines instead: return p, weight


_ = check(LEARNED_VARIANCE, my_variance), check(IMPORTANCE_WEIGHTS, importance_weights)

# %% [markdown]
# Next: [`13_classifier_guidance`](13_classifier_guidance.ipynb).
