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
# # 11 · DDIM
#
# DDPM draws well, but takes a thousand steps, each with fresh noise. [Song, Meng and
# Ermon](https://arxiv.org/abs/2010.02502) (2020) noticed that its loss never looks at steps: only at $x_t$, given
# $x_0$. So *one* trained network serves a family of samplers, with less noise or none, in few steps. Without noise the
# first latent decides the image: we can interpolate, and walk back from image to latent.
#
# Reading: the paper. You need 03 and 04.

# %%
from functools import partial, reduce
from itertools import pairwise

import torch

from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import ddim_step, fixed_large, fixed_small, posterior, q_sample, x0_from_eps
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import SLERP, STEP_OF_ETA, check
from ddpm_path.samplers import ancestral, ddim, ddim_invert, ddim_invert_ahead, decode, last, slerp, start_noise
from ddpm_path.schedule import Discrete, leading_times, linear_betas, quadratic_times, ratio_times, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
schedule = Discrete.from_betas(linear_betas())
bars = schedule.alpha_bar  # bars[0] = 1 is data
world = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15)
eps_fn = world.eps_fn(schedule)

# %% [markdown]
# ## A family with one marginal
#
# Given $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$, build an earlier $x_s$ as [eq. 12, 16]
#
# $$x_s = \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\,\epsilon + \sigma z, \qquad
# \sigma = \eta \sqrt{\tfrac{1-\bar\alpha_s}{1-\bar\alpha_t}} \sqrt{1-\tfrac{\bar\alpha_t}{\bar\alpha_s}}$$
#
# with fresh $z \sim \mathcal N(0, I)$. The two noises are independent, so their variances add up to $1-\bar\alpha_s$:
# for $\eta \le 1$, $x_s$ is as noisy as the network expects. What $z$ takes, $\epsilon$ gives up. $\eta = 1$ is
# DDPM's step back; $\eta = 0$ is deterministic: DDIM. A sampler puts in the network's guesses of $\epsilon$ and $x_0$.


# %%
def step(x, eps, t, s, eta, z):
    x0 = (x - (1 - bars[t]).sqrt() * eps) / bars[t].sqrt()
    sigma = eta * ((1 - bars[s]) / (1 - bars[t]) * (1 - bars[t] / bars[s])).sqrt()
    return bars[s].sqrt() * x0 + (1 - bars[s] - sigma**2).sqrt() * eps + sigma * z


x0, (eps, z) = world.sample(50_000, seed(0))[0], torch.randn(2, 50_000, 1, generator=seed(1), dtype=torch.float64)
for t, s in ((1000, 900), (500, 499), (1, 0)):
    now, then = schedule(t), schedule(s)
    x = q_sample(x0, eps, now)
    torch.testing.assert_close(step(x, eps, t, s, 1.0, 0 * z), posterior(x0, x, now, then)[0])
    for eta in (0.0, 0.5, 1.0):
        end = step(x, eps, t, s, eta, z)
        torch.testing.assert_close(end, ddim_step(x0_from_eps(x, eps, now), eps, now, then, eta, z))
        print(f"{t} to {s}, eta {eta}: noise left {(end - then[0] * x0).std():.3f}, right is {then[1]:.3f}")

# %% [markdown]
# ## Straight lines
#
# Divide the step by $\sqrt{\bar\alpha_s}$. With $\eta = 0$, $\bar x = x/\sqrt{\bar\alpha}$ and
# $\varsigma = \sqrt{1/\bar\alpha - 1}$ (std / scale) it reads [eq. 13]
#
# $$\bar x_s = \bar x_t + (\varsigma_s - \varsigma_t)\,\epsilon_\theta(x_t, t)$$
#
# This is Euler's method for the ODE $d\bar x = \epsilon_\theta\,d\varsigma$, exact where eps is constant. On a line
# the ODE's solution is known: nobody overtakes, so each walker keeps the share of the world below it.
#
# *Predict before you run:* where do three steps go wrong?

# %%
begin = float(schedule.time_at(1.5))
fine, coarse = ratio_times(schedule, 90, begin), ratio_times(schedule, 3, begin)
shares, cells = torch.linspace(0.04, 0.96, 13)[:, None].double(), torch.linspace(-2.5, 2.5, 300)[:, None].double()
exact = torch.stack([world.quantile(shares, schedule(t)) / schedule(t)[0] for t in fine])[..., 0]
density = torch.stack([world.log_prob(cells * schedule(t)[0], schedule(t)).exp() for t in fine], 1)
x = world.quantile(shares[[1, 3, 9]], schedule(begin))
tangents = torch.stack([x / schedule(begin)[0], *(s.x / schedule(s.t)[0] for s in ddim(eps_fn, schedule, x, coarse))])
ratios, knots = ([float(std / scale) for scale, std in map(schedule, times)] for times in (fine, coarse))
torch.testing.assert_close(tangents[1], tangents[0] + (knots[1] - knots[0]) * eps_fn(x, torch.tensor([begin])))
figure = plots.trajectories(ratios, exact, density, (-2.5, 2.5), ("std / scale", "x / scale"))
figure.axes[0].plot(knots, tangents[..., 0], "o--", color="black", markersize=4)
plots.show(figure, "Exact paths run straight, then bend into two bands; one of three dashed walks ends between them.")

# %% [markdown]
# **You should see** tangents miss the bend; one ends where no data are. **If instead** exact paths cross, they follow
# no ODE.
#
# ## How wrong, and where to step
#
# We start at 2,000 quantiles of $\mathcal N(0, 1)$ and print the ends' root mean square distance from the exact ends.
#
# *Predict:* twice the steps, how much less error? Which grid is worst?

# %%
rms = lambda a, b: (a - b).square().flatten(1).mean(1).sqrt()
x = torch.special.ndtri((torch.arange(2000)[:, None].double() + 0.5) / 2000)
exact = world.quantile(world.cdf(x, schedule(1000)), (1.0, 0.0))
grids = {"uniform": uniform_times, "leading": leading_times, "quadratic": quadratic_times}
grids["even in std/scale"] = lambda T, steps: ratio_times(schedule, steps)
for name, grid in grids.items():
    ends = [decode(eps_fn, schedule, x, grid(1000, steps)) for steps in (10, 20, 40, 80)]
    errors = ", ".join(f"{rms(end.T, exact.T).item():.4f}" for end in ends)
    print(f"{name:16} {errors}; 10 steps:", *(f"{t:.0f}" for t in grid(1000, 10)))

# %% [markdown]
# **You should see** errors that nearly halve: order one. The paper's quadratic grid is fine near data, and wins. The
# last is worst: it spends its steps in noise.
#
# ## What noise costs
#
# How far 20,000 samples lie off on average (Wasserstein distance; table 1 has FID).
# $\hat\sigma$ is DDPM with the large variance; $\eta = 2$, ours, caps $\sigma^2$ at $1-\bar\alpha_s$.
#
# *Predict:* does noise help in 10 steps?

# %%
start = start_noise(20_000, (1,), seed(1)).double()
walks = {f"eta = {eta:g}": partial(ddim, eta=eta) for eta in (0.0, 0.5, 1.0, 2.0)}
walks["sigma-hat"] = partial(ancestral, variance=fixed_large)
w = lambda x, n=20_000: torch.tensor([metrics.wasserstein(part, world) for part in x.split(n)])
ends = {}
for steps in (10, 20, 50):
    for name, walk in walks.items():
        ends[name, steps] = last(walk(eps_fn, schedule, start, uniform_times(1000, steps), generator=seed(2)))
    print(steps, "steps:", ", ".join(f"{name} {w(ends[name, steps]).item():.4f}" for name in walks))
ddpm = last(ancestral(eps_fn, schedule, start, uniform_times(1000, 50), generator=seed(2)))
torch.testing.assert_close(ddpm, ends["eta = 1", 50])
worst = min((10, 20, 50), key=lambda steps: w(ends["eta = 1", steps]) - w(ends["eta = 0", steps]))
noisy, quiet = ends["eta = 1", worst], ends["eta = 0", worst]
error = (w(noisy, 2000) - w(quiet, 2000)).std() / 10**0.5
claims.measure("ddim-few-steps", w(noisy) - w(quiet), error, f"smallest at {worst} steps")

# %% [markdown]
# **You should see** that DDPM's small variance costs, as in the paper. But sigma-hat is *best* here: it
# replaces spread that long steps lose.
#
# ## MNIST in 10 steps
#
# *Predict:* which row keeps grain?

# %%
net, cosine = zoo.load("mnist")
labels, latents = torch.arange(50) % 10, start_noise(50, (1, 28, 28), seed(0))
digit, ten, some = partial(net, label=labels), partial(net, label=labels[-10:]), latents[-10:]


def show(rows, alt):
    plots.show(plots.grid(torch.cat([x[-10:] for x in rows.values()]), 10, rows=tuple(rows)), alt)


drawn = {k: last(walk(ten, cosine, some, uniform_times(1000, 10), generator=seed(2))) for k, walk in walks.items()}
show(drawn, "Digits 0 to 9 in five rows: smooth for eta = 0, 0.5 (4 and 7 are botched), 1 and 2; grain for sigma-hat.")

# %% [markdown]
# **You should see** grain with sigma-hat: each step leaves more noise than the next expects. In the paper it is
# hopeless (FID 367; $\eta = 1$: 41, DDIM: 13). Here $\eta = 2$ is cleanest: noise forgets a network's errors.
#
# ## Three famous mistakes, on purpose
#
# In 20 steps: one step *short* of data; noise *on top*, while $\epsilon$ keeps its whole factor; as $s$ the *neighbour*
# $t-1$, not the next time of the grid.
#
# *Predict:* which could pass a review?

# %%
times = uniform_times(1000, 20)
*_, before, end = ddim(ten, cosine, some, times, 1.0, generator=seed(2))
sigma = {s: fixed_small(cosine(t), cosine(s)).sqrt().float() for t, s in pairwise(times)}
draw = partial(torch.randn, 10, 1, 28, 28, generator=seed(2))
rows = {"right": end.x, "short": before.x}
rows["on top"] = last(ddim(ten, cosine, some, times, after=lambda x, s: x + sigma[s] * draw()))
rows["neighbour"] = reduce(lambda x, t: decode(ten, cosine, x, [t, t - 1]), times[:-1], some)
show(rows, "Ten digits: clean when right, grainy when short, in heavy snow with noise on top, gone with the neighbour.")

# %% [markdown]
# **You should see** faint grain, snow, pure noise. With more steps the grain would pass.
#
# ## One latent, one image
#
# *Predict:* what of a digit stays when 5 steps become 100? And with $\eta = 1$?

# %%
at = {steps: decode(digit, cosine, latents, uniform_times(1000, steps)) for steps in (20, 100)}
rows = {"5 steps": decode(ten, cosine, some, uniform_times(1000, 5)), "10 steps": drawn["eta = 0"]}
rows |= {"20 steps": at[20], "100 steps": at[100], "eta = 1, 10 steps": drawn["eta = 1"], "eta = 1, 20 steps": end.x}
show(rows, "Ten digits: one handwriting in 5, 10, 20 and 100 steps; quite another in two rows with eta = 1.")
same, other = rms(at[20], at[100]), rms(drawn["eta = 1"], end.x)
apart = torch.stack([torch.pdist(at[100][labels == k].flatten(1)) for k in range(10)]).mean() / 28  # sqrt(784)
print(f"20 and 100 steps are {same.mean():.3f} apart; with eta = 1 {other.mean():.3f}; two latents {apart:.3f}")
claims.measure("ddim-consistent", 0.5 - same.mean() / apart, same.std() / 50**0.5 / apart)

# %% [markdown]
# **You should see** one handwriting down the first four rows. With $\eta = 1$ the fresh noise decides instead.
#
# ## Between two latents
#
# Noise in 784 dimensions lies near a sphere of radius 28. `slerp` follows it; a straight line, `lerp`, cuts through.
# We give no label.
#
# *Predict:* what does a latent draw that is too short?

# %%
strips = {}
for name, mix in {"slerp": slerp, "lerp": torch.lerp}.items():
    path = [mix(latents[[2]], latents[[3]], share) for share in torch.linspace(0, 1, 10).tolist()]
    strips[name] = decode(net, cosine, torch.cat(path), times)
    middle = mix(latents[:30], latents[10:40], 0.5)
    ink = (decode(net, cosine, middle, uniform_times(1000, 10)).clamp(-1, 1).mean() + 1) / 2
    print(f"30 pairs half way by {name:5}: norm {middle.flatten(1).norm(dim=1).mean():.1f}, ink {ink:.3f}")
show(strips, "Slerp turns a 5 into a 9 and that into a 7; lerp, from the same 5 to the same 7, passes a bare stroke.")

# %% [markdown]
# **You should see** a bare stroke in the middle of lerp: a short latent draws less ink.
#
# ## Back to the latent
#
# With $\eta = 0$ the step also runs upwards. But it needs eps where it arrives. Two ways out: ask *here*, at
# $(x_t, t)$, or *ahead*, at $(x_t, s)$. First where the true latent is known.
#
# *Predict:* which is nearer?

# %%
inverts = {"here": ddim_invert, "ahead": ddim_invert_ahead}
x = world.quantile((torch.arange(2000)[:, None].double() + 0.5) / 2000, (1.0, 0.0))
exact = world.quantile(world.cdf(x, (1.0, 0.0)), schedule(1000))
for steps in (10, 20, 40, 80):
    for name, invert in inverts.items():
        grid = uniform_times(1000, steps)
        found = last(invert(eps_fn, schedule, x, grid[::-1]))
        off, back = rms(found.T, exact.T), rms(decode(eps_fn, schedule, found, grid).T, x.T)
        print(f"{name:5}, {steps} steps: latent off by {off.item():.3f}, round trip by {back.item():.3f}")

# %% [markdown]
# Now 50 real test digits, in $[0, 1]$ as in the paper's table 2.

# %%
images, true_labels = (part[:50] for part in datasets.mnist_sample())
true_digit, back = partial(net, label=true_labels), {"data": images}
for name, steps in (("here", 10), ("ahead", 10), ("here", 20), ("ahead", 20), ("here", 50)):
    grid = uniform_times(1000, steps)
    found = last(inverts[name](true_digit, cosine, images, grid[::-1]))
    back[f"{name}, {steps}"] = x = decode(true_digit, cosine, found, grid)
    print(f"{name:5}, {steps} steps: error {rms(x, images).square().mean() / 4:.4f}, latents' std {found.std():.2f}")
show(back, "Ten test digits above five rows of reconstructions, which differ in details of the strokes, if at all.")
few, many = (rms(back[f"here, {steps}"], images).square() for steps in (10, 50))
relative = torch.stack([few.std() / few.mean(), many.std() / many.mean()]).norm() / 50**0.5
claims.measure("ddim-reconstructs", (few.mean() / many.mean()).log2() - 2, relative / torch.tensor(2.0).log())

# %% [markdown]
# **You should see** the error fall. On the line *ahead* is nearer; on MNIST only in 10 steps. The latents should have
# std 1. But MNIST's background is $-1$ in every image: no noise there to enlarge.
#
# ## Exercises
#
# Write (1) the step of any $\eta$ from levels `(scale, std)`, `now` at $t$ and `then` at $s$; (2) slerp for batches
# `(B, C, H, W)`. Solutions: `ddpm_path/lab/exercises/ddim.py`.


# %%
def step_of_eta(x, eps, now, then, eta, noise):
    raise NotImplementedError  # your lines instead: return x_s


def my_slerp(a, b, share):
    raise NotImplementedError  # your lines instead: return the latent


_ = check(STEP_OF_ETA, step_of_eta)
_ = check(SLERP, my_slerp)

# %% [markdown]
# ## What to read next
#
# The paper's sections 3 to 5. Then [`12_improved_ddpm`](12_improved_ddpm.ipynb); [`15_pndm`](15_pndm.ipynb) solves this
# ODE to higher order.
