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
# # 15 · PNDM: better slopes for the same network
#
# DDIM (notebook 11) solves a differential equation in the simplest way: follow the slope where you stand.
# Classical solvers mix several slopes and need fewer steps, but added to $x$ as they are they may leave the noise
# levels that the network knows. [Liu et al.](https://arxiv.org/abs/2202.09778) (2022) keep DDIM's step, the
# *transfer*, and improve only the slope in it: *pseudo numerical methods for diffusion models*.
#
# The code of latent diffusion and Stable Diffusion offers one of them, PLMS.

# %%
import itertools
from functools import partial

import torch
from tqdm import tqdm

from ddpm_path import samplers
from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import ddim_step, x0_from_eps
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import MULTISTEP_WEIGHTS, TRANSFER, check
from ddpm_path.samplers import last
from ddpm_path.schedule import VP, Discrete, linear_betas, quadratic_times, ratio_times, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
net, cosine = zoo.load("mnist")
linear = Discrete.from_betas(linear_betas())
world = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15)

# %% [markdown]
# ## The transfer
#
# From $x_t$ along a slope $e$ to time $s$ [eq. 11]:
#
# $$\phi(x_t, e, t, s) = \sqrt{\tfrac{\bar\alpha_s}{\bar\alpha_t}}\,x_t -
# \frac{(\bar\alpha_s-\bar\alpha_t)\,e}
# {\sqrt{\bar\alpha_t}\big(\sqrt{(1-\bar\alpha_s)\bar\alpha_t}+\sqrt{(1-\bar\alpha_t)\bar\alpha_s}\big)}$$
#
# It looks new. It is DDIM's step, a straight line in disguise: $x/\text{scale}$ moves by $e$ times the change of
# `std / scale`.


# %%
def transfer(x, e, t, s):
    before, after = linear.alpha_bar[t], linear.alpha_bar[s]
    roots = ((1 - after) * before).sqrt() + ((1 - before) * after).sqrt()
    return (after / before).sqrt() * x - (after - before) / (before.sqrt() * roots) * e


for t, s in ((1000, 950), (500, 450), (1, 0)):
    x, e = 0.5 + torch.randn(2, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(transfer(x, e, t, s), ddim_step(x0_from_eps(x, e, linear(t)), e, linear(t), linear(s)))
    print(f"t = {t:4} to {s:3}: the transfer is DDIM's step")

# %% [markdown]
# ## Better slopes
#
# DDIM takes $e_t = \epsilon_\theta(x_t, t)$. Better is the mean slope over the step to come. *Adams–Bashforth*
# extrapolates it from slopes already paid for: $(55e_t - 59e_{t+1} + 37e_{t+2} - 9e_{t+3})/24$, counted in
# steps. The first three steps lack a past; there *Runge–Kutta* looks ahead, at four calls each. Together that is
# F-PNDM [alg. 2].


# %%
def runge_kutta(ask, x, e1, t, s):
    middle = (t + s) // 2
    e2 = ask(transfer(x, e1, t, middle), middle)
    e3 = ask(transfer(x, e2, t, middle), middle)
    return (e1 + 2 * e2 + 2 * e3 + ask(transfer(x, e3, t, s), s)) / 6


def by_hand(ask, x, times):
    past = []  # the latest first
    for t, s in itertools.pairwise(times):
        past = [ask(x, t), *past[:3]]
        if len(past) < 4:
            slope = runge_kutta(ask, x, past[0], t, s)
        else:
            slope = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        x = transfer(x, slope, t, s)
    return x


eps_fn, x, times = world.eps_fn(linear), torch.randn(6, 1, dtype=torch.float64), uniform_times(1000, 20)
mine = by_hand(lambda x, t: eps_fn(x, torch.tensor([t])), x, times)
torch.testing.assert_close(mine, last(samplers.f_pndm(eps_fn, linear, x, times)))
solvers = {  # and the steps that n network calls pay for
    "DDIM": (samplers.ddim, lambda n: n),
    "S-PNDM": (samplers.s_pndm, lambda n: n - 1),
    "PLMS": (samplers.plms, lambda n: n - 1),
    "F-PNDM": (samplers.f_pndm, lambda n: n - 9),
    "Runge-Kutta": (samplers.pseudo_runge_kutta, lambda n: n // 4),
}
for name, (sampler, _) in solvers.items():
    calls = []
    last(sampler(lambda x, t: calls.append(t) or eps_fn(x, t), linear, x, times))
    print(f"{name:11}: {len(calls)} network calls for 20 steps")

# %% [markdown]
# The warm-up costs F-PNDM 9 calls; S-PNDM (two slopes) and PLMS (four) start more simply, for 1. Compare at equal
# *calls*.
#
# ## Order
#
# With order $p$, twice the steps divide the error by $2^p$. For Gaussian data the exact end is a formula.
#
# *Predict before you run:* Adams–Bashforth with four slopes has order four. Has F-PNDM?

# %%
vp, normal, x = VP(), isotropic_mixture([1.0], [[0.0]], std=0.5), torch.tensor([[1.3]]).double()
(scale, std), (scale_end, std_end) = vp(0.6), vp(0.1)
truth = x * ((0.25 * scale_end**2 + std_end**2) / (0.25 * scale**2 + std**2)).sqrt()
even = partial(torch.linspace, dtype=torch.float64)
grids = {
    "t": (lambda n: even(0.6, 0.1, n + 1), samplers.halfway_in_time),
    "std / scale": (lambda n: vp.time_at(even(std / scale, std_end / scale_end, n + 1)), samplers.halfway_in_ratio),
}
orders = {}
for grid, (times, halfway) in grids.items():
    for name, (sampler, _) in solvers.items():
        sampler = partial(sampler, halfway=halfway) if name == "Runge-Kutta" else sampler
        ends = [last(sampler(normal.eps_fn(vp), vp, x, times(n))) for n in (320, 640)]
        orders[grid, name] = ((ends[0] - truth) / (ends[1] - truth)).log2().item()
    print(f"steps even in {grid:11}:", *(f"{name} {orders[grid, name]:.2f}" for name in solvers), sep="  ")
claims.measure("pndm-order", 0.1 - max(abs(orders["t", name] - 2) for name in ("S-PNDM", "F-PNDM")), 0.0)

# %% [markdown]
# **You should see** order 2, as the paper proves, not 4. The weights average over *t*; the transfer moves along
# *std / scale*, where equal steps in $t$ are unequal. On steps even in std / scale order 4 returns.
#
# ## A famous mistake: start in pure noise
#
# Our MNIST network has the cosine schedule. At $T$ its std / scale is 20,000.
#
# *Predict:* which solver minds?

# %%
z = isotropic_mixture([1.0], [[0.0]], std=1.0).quantile((torch.arange(2000).double()[:, None] + 0.5) / 2000, (1, 0))
latents, labels = samplers.start_noise(60, (1, 28, 28), seed(0)), metrics.balanced_labels(60, 10)
x6, net6, late = latents[:6], partial(net, label=labels[:6]), round(float(cosine.time_at(40)))


def end(name, calls, eps_fn, schedule, x, start):
    sampler, steps = solvers[name]
    return last(sampler(eps_fn, schedule, x, uniform_times(start, steps(calls))))


def error(name, calls, schedule, start):  # RMS from the ODE's exact end, which keeps every quantile
    truth = world.quantile(world.cdf(z, schedule(start)), (1.0, 0.0))
    return (end(name, calls, world.eps_fn(schedule), schedule, z, start) - truth).square().mean().sqrt()


for start in (1000, late):
    high, low = (std / scale for scale, std in map(cosine, uniform_times(start, 19)[:2]))
    print(f"from t = {start}: 19 steps, the first from std / scale = {high:,.0f} to {low:.0f}. RMS after 20 calls:")
    print("  ", *(f"{name} {error(name, 20, cosine, start):.2g}" for name in solvers), sep="  ")
rows = {f"{name}, t = {start}": (name, start) for start in (1000, late) for name in ("DDIM", "PLMS", "F-PNDM")}
drawn = [end(name, 20, net6, cosine, x6, start) for name, start in tqdm(rows.values())]
plots.show(plots.grid(torch.cat(drawn), 6, rows=tuple(rows)), "Digits in six rows: PLMS and F-PNDM from T in snow.")

# %% [markdown]
# **You should see** $T$ spoil all but DDIM. The first step is 20,000 long. DDIM's slope is taken at its noisy end,
# and holds for nearly all of it. The others mix in slopes from its far end, and carry them over the whole length.
#
# The cure: start where std / scale is 40. Best is to get there by one DDIM step (`ddim_first`): $x_{984}$ has a mean,
# noise none.
#
# ## Error against calls
#
# All start there. DDPM's noise leads anywhere, so it is judged by its distribution only, on the left. For the
# network: six latents, and as truth PLMS in 150 calls, most of them near data.
#
# *Predict:* who wins at 12 calls? At 96?

# %%
panels = {"exact: Wasserstein from the data": {}, "exact: RMS from the ODE's end": {}, "MNIST: RMS from converged": {}}
in_law, exact, mnist = panels.values()
budget, truth = (12, 24, 48, 96), last(samplers.plms(net6, cosine, x6, quadratic_times(late, 149)))
for name in tqdm(solvers):
    exact[name] = {n: error(name, n, cosine, late) for n in budget}
    in_law[name] = {n: metrics.wasserstein(end(name, n, world.eps_fn(cosine), cosine, z, late), world) for n in budget}
    mnist[name] = {n: (end(name, n, net6, cosine, x6, late) - truth).square().mean().sqrt() for n in budget}
ddpm = partial(samplers.ancestral, world.eps_fn(cosine), cosine, z)
in_law["DDPM"] = {n: metrics.wasserstein(last(ddpm(uniform_times(late, n), generator=seed(2))), world) for n in budget}
figure = plots.errors_by_calls(panels)
plots.show(figure, "Errors fall with the calls: DDIM's slowly, PLMS's faster, F-PNDM's from off the chart.")

# %% [markdown]
# **You should see**, by RMS, DDIM, PLMS and S-PNDM close at 12 calls, and PLMS ahead at 96. F-PNDM has three
# steps at 12 calls, off the chart, but catches up. Runge–Kutta pays four calls a step. DDPM is highest from 48 on.
# Two floors: left, the start is not quite $x_{984}$; right, the last step.
#
# ## Is it worth it?
#
# The paper's first claim, on our mixture, with PLMS.

# %%
margins = []
for name, schedule in {"linear": linear, "cosine": cosine}.items():
    start = round(float(schedule.time_at(40)))
    for n in (20, 50):
        euler, multistep = (error(solver, n, schedule, start) for solver in ("DDIM", "PLMS"))
        margins.append((euler / multistep).log2())
        print(f"{name}, {n} calls: RMS of DDIM {euler:.4f}, of PLMS {multistep:.4f}")
claims.measure("pndm-mixture", min(margins), 0.0)
by_ratio = last(samplers.plms(world.eps_fn(cosine), cosine, z, ratio_times(cosine, 19, late)))
print(f"PLMS on 19 steps even in std / scale: Wasserstein {metrics.wasserstein(by_ratio, world):.2f}")

# %% [markdown]
# **You should see** the least gain at 20 calls and linear betas. **If instead** DDIM wins, look where PLMS starts.
#
# The last line is far off: the grid of order four spends its few steps on noise. Order is a promise for many steps.
#
# ## The paper's headline
#
# *50 steps of F-PNDM draw as well as 1,000 of DDIM.* Here 250 must do, and 60 images, for a coarse verdict: the claim
# fails if F-PNDM is *clearly* worse, by the kernel distance to real digits.
#
# *Predict:* can you tell the rows apart?

# %%
model = partial(net, label=labels), cosine, latents
slow = last(tqdm(samplers.ddim(*model, uniform_times(1000, 250)), total=250))
fast = last(samplers.ddim_first(samplers.f_pndm)(*model, [1000, *uniform_times(late, 49)]))
figure = plots.grid(torch.cat([slow[:10], fast[:10]]), 10, rows=("DDIM, 250 calls", "F-PNDM, 59 calls"))
plots.show(figure, "Digits 0 to 9 by DDIM in 250 calls and below by F-PNDM in 59: ten pairs that look the same.")
recogniser = zoo.load_recogniser("mnist-recogniser")
features = [recogniser.features(images) for images in (slow, fast, datasets.mnist_sample()[0])]
(difference, s), apart = metrics.kernel_difference(*features), (slow - fast).square().mean().sqrt()
claims.measure("pndm-mnist", difference + 2 * s, 0.0, f"{difference:+.2f} +- {s:.2f}; RMS between pairs {apart:.3f}")

# %% [markdown]
# **You should see** the same digits. Differences come mostly from the start.
#
# ## Exercises
#
# 1. Write the transfer as the straight line that it is. Levels `now` and `then` are pairs `(scale, std)`.
# 2. Where do 55, -59, 37, -9 come from? With slopes known at 0, -1, -2, ..., the weights give the mean from 0
#    to 1 exactly for every polynomial of degree below the order. Derive them for orders 1 to 4, latest first.
#
# Solutions: `ddpm_path/lab/exercises/pndm.py`.


# %%
def transfer_in_levels(x, slope, now, then):
    raise NotImplementedError  # your lines instead: return x_s


_ = check(TRANSFER, transfer_in_levels)


# %%
def multistep_weights(order):
    raise NotImplementedError  # your lines instead: return the weights, (order,), float64


_ = check(MULTISTEP_WEIGHTS, multistep_weights)

# %% [markdown]
# ## What to read next
#
# Section 3 of the paper and `ddpm_path/samplers.py`. Then SR3 (open): the image is given, only small.
