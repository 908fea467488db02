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
from itertools import pairwise

import torch
from tqdm import tqdm

from ddpm_path import losses
from ddpm_path.gaussian import fixed_large, fixed_small, learned_variance, q_sample
from ddpm_path.guidance import clip_x0, on_eps
from ddpm_path.lab import claims, datasets, metrics, plots, recipes, zoo
from ddpm_path.lab.exercises import IMPORTANCE_WEIGHTS, LEARNED_VARIANCE, check
from ddpm_path.samplers import ancestral, ancestral_learned, last, start_noise
from ddpm_path.schedule import Discrete, cosine_betas, linear_betas, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)  # noqa: E731
linear, cosine = Discrete.from_betas(linear_betas()), Discrete.from_betas(cosine_betas())
kinds = {"linear-simple": linear, "cosine-simple": cosine, "cosine-hybrid": cosine, "cosine-vlb": cosine}
nets = {(kind, k): zoo.load(f"compare-{kind}-{k}")[0] for kind in kinds for k in range(3)}
full = {(kind, k): zoo.load_learned(f"compare-{kind}-{k}")[0] for kind, k in nets if "simple" not in kind}
digits, test = datasets.digits().train, datasets.digits().test

# %% [markdown]
# ## The schedule
#
# $\bar\alpha_t = f(t)/f(0)$, $f(t) = \cos^2\left(\frac{t/T + 0.008}{1.008} \cdot \frac\pi2\right)$, and no $\beta_t$
# above 0.999 [eq. 17]. How much of an image do we ignore if we start from pure noise at $t < T$? No network is needed
# for that: $\mathrm{KL}(q(x_t|x_0)\,\|\,\mathcal N(0, I))$.
#
# *Predict before you run:* which schedule wastes its noisiest 200 steps?

# %%
f = lambda t: torch.cos((t / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2  # noqa: E731
for t in torch.tensor([1, 500, 1000]).double():
    torch.testing.assert_close((1 - f(t) / f(t - 1)).clamp(max=0.999), cosine_betas()[int(t) - 1])
plots.show(plots.schedules({"linear": linear, "cosine": cosine}), "Linear's signal dies by t / T = 0.8; cosine's at 1.")
for t in (1000, 900, 800, 700, 600):
    a, b = (256 * losses.prior_term(schedule, test, t).mean() for schedule in (linear, cosine))
    print(f"pure noise at {t} ignores {a:.2f} bits of an image with linear, {b:.2f} with cosine")

# %% [markdown]
# **You should see** a third of a bit, out of hundreds, in linear's last 200 steps. Let us skip them.

# %%
rows = {}
for kind in ("linear-simple", "cosine-simple"):
    for start, steps in ((1000, 50), (800, 40)):
        name, times = f"{kind[:6]} from {start}", uniform_times(start, steps)
        rows[name] = metrics.sample(nets[kind, 0], kinds[kind], 12, (1, 16, 16), times, 0)
plots.show(plots.grid(torch.cat([*rows.values()]), 12, rows=tuple(rows)), "Four rows of digits")

# %% [markdown]
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
# the factor of $x_0$ in the posterior's mean. So we know the best $v$.
#
# *Predict:* what is it for a point ($\sigma = 0$), for $\sigma = 1$, for $\sigma = 2$?

# %%
bars, o = cosine.alpha_bar, 2 * torch.rand(5, generator=seed(0), dtype=torch.float64) - 1
ends = lambda t, s: (fixed_small(cosine(t), cosine(s)), fixed_large(cosine(t), cosine(s)))  # noqa: E731


def variance(o, t, s):
    beta, v = 1 - bars[t] / bars[s], (o + 1) / 2
    tilde = (1 - bars[s]) / (1 - bars[t]) * beta
    return torch.exp(v * beta.log() + (1 - v) * tilde.log())


def best_v(sigma, t, s):
    (scale, std), (small, large) = cosine(t), ends(t, s)
    left = sigma**2 * std**2 / (scale**2 * sigma**2 + std**2)  # Var(x_0 | x_t)
    return float((1 + (cosine(s)[0] * large / std**2) ** 2 * left / small).log() / (large / small).log())


for t, s in ((1000, 999), (500, 499), (500, 480), (2, 1)):
    torch.testing.assert_close(variance(o, t, s), learned_variance(o, *ends(t, s)))
    print(f"from {t} to {s} the small variance is {ends(t, s)[0] / ends(t, s)[1]:.3f} of the large")
times = uniform_times(1000, 50)[:-1]
curves = {f"sigma = {a:g}": [best_v(a, *step) for step in pairwise(times)] for a in (0.02, 0.2, 1.0, 2.0)}
plots.show(plots.curves(times[:-1], curves, "t, in 50 steps", "best v"), "The best v")

# %% [markdown]
# **You should see** 0 for a point, 1 for $\sigma = 1$, more beyond. But in short steps the two variances hardly
# differ, except near the data: there is little to learn.
#
# ## A loss for it
#
# $L_{simple}$ never sees the variance. $L_{hybrid} = L_{simple} + 0.001\,L_{vlb}$ does [eq. 16], and a stop-gradient
# holds the mean still in $L_{vlb}$. What moves eps, what moves $o$? Autograd knows.
#
# *Predict:* without the stop (the mistake), which term would rule eps near the data?

# %%
def gradients(t, x0=test[:32]):
    at, eps = torch.full((32,), float(t)), torch.randn(32, 1, 16, 16, generator=seed(0))
    answer = full["cosine-hybrid", 0](q_sample(x0, eps, cosine(at)), at)
    output, o = (half.detach().requires_grad_() for half in answer.chunk(2, dim=1))
    both, rest = (lambda x, t: torch.cat([output, o], 1)), (losses.EPS, cosine, x0, at, eps)
    plain = losses.simple(lambda x, t: output, *rest)
    for loss in (plain, losses.hybrid(both, *rest) - plain, 0.001 * losses.learned_bound(both, *rest)):
        yield [float(g.norm()) for g in torch.autograd.grad(loss.sum(), (output, o), materialize_grads=True)]


for t in (1, 2, 10, 100, 500):
    (simple, _), (stopped, on_o), (loose, _) = gradients(t)
    print(f"t = {t}: L_vlb moves o by {on_o:.1e}, eps by {stopped}; without the stop {loose / simple:.2f} of L_simple")
    assert stopped == 0 and on_o > 0

# %% [markdown]
# **You should see**
#
# ## What it learned
#
# *Predict:* where in an image is the network certain?

# %%
rows, eps = {"x_0": test[:10]}, torch.randn(10, 1, 16, 16, generator=seed(1))
for t in (2, 20, 100, 300, 600):
    at = torch.full((10,), float(t))
    rows[f"v, t = {t}"] = o = full["cosine-hybrid", 0](q_sample(test[:10], eps, cosine(at)), at)[:, 1:]
    paper, ink = ((o[where].mean() + 1) / 2 for where in (test[:10] == -1, test[:10] > -0.5))
    print(f"t = {t}: v is {paper:.2f} on paper, {ink:.2f} on ink")
plots.show(plots.grid(torch.cat([*rows.values()]), rows=tuple(rows)), "Ten digits above maps of v.")

# %% [markdown]
# ## Bits, term by term
#
# All networks code the same test digits in 1,000 steps, with the same noise. L_0 is the last step.
#
# *Predict:* in which term does cosine gain?


# %%
def step_back(kind, k, times=(2, 1, 0), variance=fixed_large):
    clipped = lambda eps_fn: clip_x0(eps_fn, kinds[kind])  # noqa: E731
    if (kind, k) in full:
        return losses.learned_reverse(on_eps(full[kind, k], clipped), kinds[kind], times)
    return losses.fixed_variance(clipped(nets[kind, k]), kinds[kind], variance, times)


def claim(key, a, b):
    differences = torch.tensor([float((a(k) - b(k)).mean()) for k in range(3)])
    claims.measure(key, differences.mean(), differences.std() / 3**0.5)


bits, every, quiet = {}, uniform_times(1000, 1000), redirect_stderr(io.StringIO())
for kind, k in tqdm(nets, desc="bits of 48 digits"):
    with quiet:
        bits[kind, k] = metrics.bits(step_back(kind, k), kinds[kind], test[:48], every)
for kind in kinds:
    parts = torch.tensor([[float(part.mean()) for part in bits[kind, k]] for k in range(3)])
    print(f"{kind:13}: {parts.sum(1).mean():.3f} bits/dim =", "prior {:.5f} + rate {:.3f} + L_0 {:.3f}".format(*parts.mean(0)))
bits_of = lambda kind, part: lambda k: part(bits[kind, k])  # noqa: E731
whole, rate = (lambda b: b.total), (lambda b: b.prior + b.rate)
claim("improved-cosine-bits", bits_of("linear-simple", whole), bits_of("cosine-simple", whole))
claim("improved-cosine-rate", bits_of("linear-simple", rate), bits_of("cosine-simple", rate))
claim("improved-vlb-bits", bits_of("cosine-hybrid", whole), bits_of("cosine-vlb", whole))

# %% [markdown]
# **You should see**
#
# ## Where L_vlb's noise comes from
#
# Its terms differ by orders of magnitude, so a uniform $t$ makes a noisy gradient. Draw $t$ with
# $p_t \propto \sqrt{\mathbb E L_t^2}$, from the latest losses of each $t$, and weigh by $1/(T p_t)$ [eq. 18].
#
# *Predict:* which times come up most?

# %%
def noise_of(net, k):
    draw, history = seed(k), losses.LossHistory(1000, each=2)

    def loss(t):
        x0 = digits[torch.randint(len(digits), t.shape, generator=draw)]
        return losses.learned_bound(net, losses.EPS, cosine, x0, t, torch.randn(x0.shape, generator=draw))

    with torch.no_grad():
        for t in torch.arange(1.0, 1001).repeat(2).split(200):
            history.add(t, loss(t))
    p = history.probabilities()
    noise = [metrics.gradient_noise(loss, [*net.parameters()], q, generator=draw) for q in (torch.full_like(p, 1e-3), p)]
    return p, torch.tensor(noise[0] / noise[1]).log2()


gain = {}
for k in tqdm(range(3), desc="gradients"):
    net, card = zoo.load_network(f"compare-cosine-vlb-{k}")
    torch.manual_seed(k)
    fresh = recipes.Recipe(**card["recipe"]).network()
    for name, network in (("fresh", fresh), ("final", net.requires_grad_())):
        p, gain[name, k] = noise_of(network, k)
for name in ("fresh", "final"):
    print(name, "weights, log2(noise uniform / by importance):", *(f"{gain[name, k]:.2f}" for k in range(3)))
name = min(("fresh", "final"), key=lambda name: sum(gain[name, k] for k in range(3)))
claim("improved-importance", lambda k: gain[name, k], lambda k: torch.zeros(()))
figure = plots.curves(range(1, 1001), {"p, final weights": p}, "t", "p")
figure.axes[0].set(xscale="log", yscale="log")
plots.show(figure, "p")

# %% [markdown]
# ## Fewer steps
#
# Respacing needs nothing new.

# %%
steps, coded = (25, 50, 100), {}
ways = {"small": ("cosine-simple", fixed_small), "large": ("cosine-simple", fixed_large), "learned": ("cosine-hybrid", None)}
for n in tqdm(steps, desc="few steps"):
    for (way, (kind, fixed)), k in ((item, k) for item in ways.items() for k in range(3)):
        with quiet:
            back = step_back(kind, k, uniform_times(1000, n), fixed)
            coded[way, n, k] = metrics.bits(back, cosine, test[:24], uniform_times(1000, n)).total.mean()
better = lambda n, k: torch.minimum(coded["small", n, k], coded["large", n, k])  # noqa: E731
worst = min(steps, key=lambda n: sum(better(n, k) - coded["learned", n, k] for k in range(3)))
claim("improved-hybrid-bits", lambda k: better(worst, k), lambda k: coded["learned", worst, k])
lines = {way: [torch.stack([coded[way, n, k] for k in range(3)]).mean() for n in steps] for way in ways}
plots.show(plots.curves(steps, lines, "steps", "bits/dim"), "bits over steps")

# %%
times, seen, rows, recogniser = uniform_times(1000, 25), {}, {}, zoo.load_recogniser("digits-recogniser")
for way, (kind, fixed) in (ways | {"vlb": ("cosine-vlb", None)}).items():
    for k in range(3 if way in ("small", "learned") else 1):
        draw = seed(0)
        x = start_noise(60, (1, 16, 16), draw)
        if fixed:
            states = ancestral(clip_x0(nets[kind, k], cosine), cosine, x, times, fixed, generator=draw)
        else:
            states = ancestral_learned(on_eps(full[kind, k], lambda e: clip_x0(e, cosine)), cosine, x, times, generator=draw)
        x = last(states)
        seen[way, k], rows[way] = recogniser.features(x), x[:12]
plots.show(plots.grid(torch.cat([*rows.values()]), 12, rows=tuple(rows)), "rows")
real = recogniser.features(test)
distance = lambda k: torch.tensor(metrics.kernel_difference(seen["small", k], seen["learned", k], real)[0])  # noqa: E731
claim("improved-hybrid-draws", distance, lambda k: torch.zeros(()))

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
