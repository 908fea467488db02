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
# # 06 · Score matching
#
# A year before DDPM, [Song and Ermon](https://arxiv.org/abs/1907.05600) (2019, NCSN) drew images another way: learn the
# *score*, the direction in which data grow more likely, and walk along it, with noise. It worked once the data were
# noised at many levels; [NCSNv2](https://arxiv.org/abs/2006.09011) (2020) tells how to choose them. It is DDPM from the
# other side: the network is a noise predictor.
#
# Reading: [Yang Song's blog](https://yang-song.net/blog/2021/score/). You need 03 and 04.

# %%
from functools import partial

import torch

from ddpm_path import score
from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.lab import claims, datasets, metrics, planar, plots, zoo
from ddpm_path.lab.exercises import LANGEVIN_UPDATE, WEIGHTED_LOSS, check
from ddpm_path.losses import EPS, simple
from ddpm_path.samplers import annealed_langevin, langevin, last, noise_source
from ddpm_path.schedule import VE, on_schedule

seed = lambda k: torch.Generator().manual_seed(k)
show = lambda rows, alt: plots.show(plots.grid(torch.cat([x[:10] for x in rows.values()]), rows=tuple(rows)), alt)
even = lambda *shape: 2 * torch.rand(*shape, generator=seed(0)).double() - 1

# %% [markdown]
# ## What a score is
#
# The score is $s(x) = \nabla \log p(x)$. Add noise of level $\sigma$, the schedule `VE`:
# $x_t = x_0 + \sigma_t\,\epsilon$. Given $x_0$ the score of $x_t$ is $-\epsilon/\sigma$; on average over the $x_0$ that
# could be behind it,
#
# $$\nabla \log p_\sigma(x_t) = -\mathbb E[\epsilon \mid x_t] / \sigma, \qquad \epsilon_\theta = -\sigma\, s_\theta$$
#
# The paper's toy: two round heaps, 20% lower left, 80% upper right.
#
# *Predict before you run:* do the arrows tell which heap is larger?

# %%
world, toy = isotropic_mixture([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], std=1.0), VE(1.0, 20.0)


def score_by_hand(x, sigma):  # each heap's share in x times its pull
    offset, variance = x[:, None] - world.means, 1 + sigma**2
    share = (world.weights.log() - offset.square().sum(-1) / (2 * variance)).softmax(1)
    return -(share[..., None] * offset / variance).sum(1)


x = 8 * even(400, 2)
for t in (toy.first, 0.5, 1.0):
    (by_autograd,) = torch.autograd.grad(world.log_prob(x.requires_grad_(), toy(t)).sum(), x)
    by_eps = score.score_fn_at(world.eps_fn(toy), toy, t)(x.detach())
    three = torch.stack([by_autograd, by_eps, world.score(x, toy(t))])
    torch.testing.assert_close(score_by_hand(x, toy(t)[1]).expand_as(three), three)
mesh = torch.cartesian_prod(*[torch.linspace(-9, 9, 15).double()] * 2)
fields = {f"level {s}: {s} x score": (mesh, s * score_by_hand(mesh, s)) for s in (1, 4, 20)}
plots.show(plots.arrows(fields, 10, 0.7), "Arrows to the nearer heap; more to the larger one; all to one centre.")

# %% [markdown]
# **You should see** arrows part on the diagonal at level 1: each side knows its own heap only. There a weight is a
# constant factor, and the score drops it. More noise joins the sides.
#
# ## Learning it without knowing it
#
# The explicit loss $\tfrac12 \mathbb E\lVert s_\theta - s\rVert^2$ needs the answer. These do not [eq. 1, 3, 5]:
#
# $$\mathbb E\big[\mathrm{tr}\nabla s_\theta + \tfrac12\lVert s_\theta\rVert^2\big],\quad
# \mathbb E\big[v^\top\nabla s_\theta v + \tfrac12(v^\top s_\theta)^2\big],\quad
# \tfrac12\mathbb E\lVert s_\theta(x_0+\sigma\epsilon) + \epsilon/\sigma\rVert^2$$
#
# Implicit; sliced, along a random $v$ (with $\lVert s\rVert^2$ as second term it varies less); denoising. Each
# should differ from the explicit one by a constant.

# %%
tilted = lambda a, x: a * world.score(x, (1.0, 2.0)) + (1 - a) * torch.tanh(x)
x0, eps = world.sample(200_000, seed(0))[0], torch.randn(200_000, 2, generator=seed(1)).double()
x, v = x0 + 2 * eps, score.rademacher(x0, seed(2))
for a in (1.0, 0.7, 0.0):  # 1 is the truth
    s = partial(tilted, a)
    losses = (score.implicit(s, x), score.sliced(s, x, v), score.sliced_vr(s, x, v), score.denoising(s, x0, eps, 2.0))
    explicit = score.explicit(s, partial(tilted, 1.0), x).mean()
    print(f"explicit {explicit:.3f}; less it:", *(f"{k.mean() - explicit:.3f} +- {k.std() / 447:.3f}," for k in losses))

# %% [markdown]
# **You should see** constant columns: three equal ones and denoising's. It needs no second derivative: NCSN trains
# with it.
#
# ## Langevin dynamics
#
# Walk uphill, with noise: $x \leftarrow x + \alpha\, s(x) + \sqrt{2\alpha}\, z$. *Annealed*: level by level down, with
# $\alpha$ proportional to $\sigma^2$. Our `step` is $\alpha/\sigma^2$. (The paper writes $\alpha/2$ and $\sqrt\alpha$;
# its image code as we do, with the same numeral: twice the step.)
#
# *Predict:* where do plain walks end?


# %%
def walk(eps_fn, schedule, x, levels, step, steps, draw, spread=2**0.5):
    for t in score.level_times(schedule, levels)[:-1]:
        for _ in range(steps):
            eps, sigma = eps_fn(x, torch.full(x.shape[:1], t).double()), schedule(t)[1].to(x)
            x = x - step * sigma * eps + spread * step**0.5 * sigma * draw()
    return x


start, levels, eps_fn = 8 * even(1280, 2), score.geometric_levels(20, 1, 10), world.eps_fn(toy)
times = score.level_times(toy, levels)[:-1]
annealed = last(annealed_langevin(eps_fn, toy, start, times, step=0.05, steps=100, generator=seed(1)))
mine = walk(eps_fn, toy, start, levels, 0.05, 100, noise_source(1280, (2,), seed(1), torch.float64))
torch.testing.assert_close(mine, annealed)
plain = last(langevin(eps_fn, toy, start, times[-1], step=0.05, steps=1000, generator=seed(1)))
heaps = {"data": world.sample(1280, seed(2))[0], "start": start, "plain": plain, "annealed": annealed}
plots.show(plots.scatter(heaps, limit=9), "Two heaps: unequal in the data and annealed, alike after plain walks.")
low = {name: round(float((x.sum(1) < 0).double().mean()), 3) for name, x in heaps.items()}
margin, share = min((sign * (abs(low[k] - 0.2) - 0.1), low[k]) for k, sign in (("plain", 1), ("annealed", -1)))
claims.measure("langevin-weights", margin, (share * (1 - share) / 1280) ** 0.5, f"in the small heap: {low}")

# %% [markdown]
# **You should see** half and half: plain walks keep the side they start on.
#
# ## Digits: NCSNv2's settings
#
# Its techniques: (1) the first level is the largest distance in the data; (2) neighbouring levels overlap by a half,
# which gives their ratio; (3) below; (4) the step that leaves a variance nearest the level's own; (5) an average of
# weights; and a last step without noise.
#
# Any noise predictor will do: here DDPM's, through `on_schedule`.
#
# *Predict:* at which level can you read the digits?

# %%
data = datasets.digits()
first, ratio = score.largest_distance(data.train), score.level_ratio(dims=256)
levels = score.geometric_levels(first, 0.02, score.level_count(first, 0.02, ratio))
step, sigmas = score.best_step(ratio, steps=3), VE(0.02, 18.5)
print(f"{len(levels)} levels from {first:.2f}; step {step:.3f}, variance {score.variance_ratio(step, ratio, 3):.3f}")
print(f"CIFAR-10's published 232 levels overlap by {score.level_overlap(5000 ** (1 / 231), dims=3072):.3f};", end=" ")
print("for a half there would be", score.level_count(50, 0.01, score.level_ratio(dims=3072)))
ddpm, cosine = zoo.load("digits")
ten = on_schedule(partial(ddpm, label=torch.arange(10)), cosine, sigmas)
grid, start = score.level_times(sigmas, levels), even(60, 1, 16, 16).float()
states = list(annealed_langevin(ten, sigmas, start[:10], grid, step, 2, generator=seed(1)))
rows = {f"level {sigmas(s.t)[1]:.2g}": s.x for s in (states[i] for i in (1, 40, 50, 60, 70, 97, 98))}
show(rows, "Digits 0 to 9 come out of noise, row by row; at level 1 little can be read, at 0.26 most.")

# %% [markdown]
# **You should see** all digits, and little of the denoising.
#
# ## Does it matter where the walks begin?
#
# All walks start at *one* training digit, a 0; the denoiser is exact. NCSN began at 1 in pixels of $[0, 1]$, our 2.
#
# *Predict:* how many leave?

# %%
exact, left, five = FiniteData(data.train).eps_fn(sigmas), {}, score.best_step(ratio, steps=5)
for top in (first, 2.0):
    times = score.level_times(sigmas, score.geometric_levels(top, 0.02, score.level_count(top, 0.02, ratio)))
    end = last(annealed_langevin(exact, sigmas, data.train[[0] * 100], times, five, steps=5, generator=seed(0)))
    nearest = torch.cdist(end.flatten(1), data.train.flatten(1)).argmin(1)
    left[top] = (data.train_labels[nearest] != data.train_labels[0]).double().mean()
    print(f"from level {top:.2f}: {left[top]:.2f} of the walks end in another class")
claims.measure("ncsnv2-first-level", left[first] - left[2.0], sum(p * (1 - p) / 100 for p in left.values()) ** 0.5)

# %% [markdown]
# ## Need the network know the level?
#
# Technique 3: $s_\theta(x, \sigma) = f_\theta(x)/\sigma$, so $\epsilon_\theta = -f_\theta(x)$: a noise predictor that
# ignores $t$. For $x_0 \sim \mathcal N(0, 0.25\,I)$ its best is known: the exact eps, averaged over possible levels.
#
# *Predict:* how much worse, in 2 dimensions? In 256?


# %%
def excess(dims, variance=0.25 + levels**2):
    eps, x0 = torch.randn(2, len(levels), 1000, dims, generator=seed(0)).double()
    x = x0 / 2 + levels[:, None, None] * eps
    square = x.square().sum(-1, keepdim=True)  # all in x that tells of its level
    share = (-square / (2 * variance) - dims / 2 * variance.log()).softmax(-1)  # of each level: (L, draws, L)
    known, blind = (levels / variance)[:, None, None] * x, (share @ (levels / variance))[..., None] * x
    return (blind - known).square().sum(-1), (known - eps).square().sum(-1).mean()


for dims in (2, 16, 256):
    more, least = excess(dims)
    print(f"{dims:3} dimensions: {more.mean() / least:.4f} on top of the least error")
margin = 0.05 - more.view(-1, 10, 100).mean((0, 2)) / least
claims.measure("ncsnv2-unconditional", margin.mean(), margin.std() / 10**0.5)

# %% [markdown]
# **You should see** the cost fade: in many dimensions the length of $x$ tells the level.
#
# ## Training, and the average
#
# $\lambda(\sigma) = \sigma^2$ brings the levels' losses to one size [eq. 6], and then the loss is DDPM's: `simple` with
# `EPS` on `VE`. A famous mistake is to leave it out. Four small networks, Adam at a steady rate as in NCSN.
#
# *Predict:* without $\lambda$, which levels count?

# %%
plane, ve = isotropic_mixture([0.3, 0.7], [[-1.0, -0.5], [1.0, 0.5]], std=0.3), VE(0.05, 8.0)
(_, net), *_ = pairs = [planar.fit(plane, ve, k) for k in range(4)]  # last weights and their average
x0, t = plane.sample(4096, seed(9))[0].float(), torch.rand(4096, generator=seed(9)).clamp(ve.first)
std, eps = ve(t)[1].float(), torch.randn(4096, 2, generator=seed(8))
raw = score.denoising(lambda x: -net(x, t) / std[:, None], x0, eps, std)
torch.testing.assert_close(std**2 * raw, simple(net, EPS, ve, x0, t, eps))  # times D / 2, which is 1
print(f"loss without lambda: {raw[t < 0.1].mean():.0f} at the lowest levels, {raw[t > 0.9].mean():.4f} at the highest")
distance = lambda net, x, t: (net(x, t) - plane.eps_fn(ve)(x, t)).square().mean()
x, empty, lowest = x0 + std[:, None] * eps, 4 * even(4096, 2).float(), torch.full((4096,), 0.1)
print(f"eps off by {distance(net, x0, lowest):.2f} at data, by {distance(net, empty, lowest):.2f} all over the plane")
off = torch.tensor([[distance(each, x, t) for each in pair] for pair in pairs])
gain = (off[:, 0] / off[:, 1]).log2()
claims.measure("ncsnv2-ema", gain.mean(), gain.std() / 2, "{:.4f} and {:.4f} off the exact eps".format(*off.mean(0)))

# %% [markdown]
# **You should see** the lowest levels outweigh the highest 400,000 times. And eps is wrong where no data taught it:
# plain walks fail there, too.
#
# ## NCSN's sampler and NCSNv2's
#
# `digits-ncsn` is NCSNv2's kind: no label, no time. Some 150 calls each: NCSN's ten levels from 2; NCSNv2's settings.
#
# *Predict:* which row is better?

# %%
net, sigmas = zoo.load("digits-ncsn")
ten_levels = score.level_times(sigmas, score.geometric_levels(2, 0.02, 10))[:-1]
old = last(annealed_langevin(net, sigmas, start, ten_levels, step=0.2, steps=15, generator=seed(1)))
*_, noisy, end = annealed_langevin(net, sigmas, start, grid, step, steps=3, generator=seed(1))
ends, seer = {"NCSN": old, "NCSNv2, noisy": noisy.x, "NCSNv2": end.x}, zoo.load_recogniser("digits-recogniser")
features = {name: seer.features(x) for name, x in (ends | {"real": data.test}).items()}
print("recognised:", ", ".join(f"{name} {metrics.recognised(seer, x, None)[0]:.2f}" for name, x in ends.items()))
show(ends, "Ten digits by NCSN, and two rows alike by NCSNv2; most can be read.")
for key, name in {"ncsnv2-sampling": "NCSN", "ncsnv2-denoising": "NCSNv2, noisy"}.items():
    claims.measure(key, *metrics.kernel_difference(features[name], features["NCSNv2"], features["real"]))

# %% [markdown]
# **You should see** digits and a few blots in each row.
#
# ## Two famous mistakes, on purpose
#
# The conventions mixed: a whole $\alpha$, but noise $\sqrt\alpha$. And levels counted upwards, as score-SDE code has
# them (`level_times` refuses that).
#
# *Predict:* which could pass a review?

# %%
draw, upside = partial(torch.randn, 10, 1, 16, 16, generator=seed(1)), start[:10]
for level in levels.flip(0):
    upside = walk(net, sigmas, upside, level[None], step, 3, draw)
mixed = walk(net, sigmas, start[:10], levels, step, 3, draw, spread=1.0)
show({"right": end.x, "mixed": mixed, "upside down": upside}, "Ten digits; ten others, as clear; only noise.")
x = walk(eps_fn, toy, annealed, torch.ones(1), 0.05, 200, partial(torch.randn, 1280, 2, generator=seed(2)), spread=1.0)
print("variance of the toy's heap, right and mixed:", *(f"{y[y.sum(1) > 0].var(0).mean():.2f}" for y in (annealed, x)))

# %% [markdown]
# **You should see** mixing pass: digits as clear, though the heap has half its variance, $1 + 1^2$ at level 1.
#
# ## Exercises
#
# Write (1) one update from eps; (2) the denoising loss of one level, $\lambda = \sigma^2$ included, from the score's
# estimate at $x_0 + \sigma\epsilon$, summed over dimensions. Solutions: `ddpm_path/lab/exercises/score.py`.


# %%
def langevin_update(x, eps, std, step, noise):
    raise NotImplementedError  # your lines instead: return the new x


def weighted_loss(score_there, eps, std):
    raise NotImplementedError  # your lines instead: return the loss, (B,)


_ = check(LANGEVIN_UPDATE, langevin_update)
_ = check(WEIGHTED_LOSS, weighted_loss)

# %% [markdown]
# ## What to read next
#
# NCSNv2's section 3. Then [`07_score_sde`](07_score_sde.ipynb), where levels and chains become one equation in
# continuous time.
