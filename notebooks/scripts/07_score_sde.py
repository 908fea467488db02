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
# # 07 · The score SDE
#
# DDPM adds noise in a thousand steps, NCSN at a list of levels. [Song et al.](https://arxiv.org/abs/2011.13456) (2020)
# let the steps shrink to nothing: both become stochastic differential equations, and one theory serves them. It
# gives new samplers, an ODE with the same marginals, and with it exact likelihoods. The network stays as it is:
# $\epsilon_\theta = -\mathrm{std}\,\nabla\log p_t$.
#
# Reading: the paper. You need 04 and 06.

# %%
from functools import partial

import torch

from ddpm_path import sde
from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.gaussian import bits_per_dim, fixed_large, q_sample
from ddpm_path.guidance import class_score, classifier_guided
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import CORRECTED, SUB_VP_COEFFICIENTS, check
from ddpm_path.samplers import (
    ancestral, annealed_langevin, ddim, ddim_first, decode, last, noise_source, plms, predictor_corrector, start_noise,
)  # fmt: skip
from ddpm_path.schedule import VE, VP, SubVP, even_times, on_schedule, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)  # noqa: E731
sdes = {"VP": VP(), "sub-VP": SubVP(), "VE": VE()}
ends = {"VP": 1e-3, "sub-VP": 1e-3, "VE": 1e-5}  # the last times with noise

# %% [markdown]
# ## From the marginal to the SDE
#
# All begins at $x_t = \mathrm{scale}\,x_0 + \mathrm{std}\,\epsilon$. The SDE $dx = f x\,dt + g\,dw$ has these
# marginals if
#
# $$f = \frac{d \log \mathrm{scale}}{dt}, \qquad g^2 = \frac{d\,\mathrm{std}^2}{dt} - 2 f\,\mathrm{std}^2$$
#
# VP is DDPM in small steps, VE is NCSN, sub-VP is VP with less noise [eq. 9, 11, 12]. By hand, with
# $B = \int_0^t \beta$:


# %%
def by_hand(name, t):
    beta, B, sigma = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2, 0.01 * 5000**t
    return {
        "VP": (-beta / 2, beta),
        "sub-VP": (-beta / 2, beta * (1 - torch.exp(-2 * B))),
        "VE": (0 * t, 2 * sigma**2 * torch.tensor(5000.0).double().log()),
    }[name]


times = torch.tensor([1e-5, 0.5, 1.0], dtype=torch.float64)
for name, schedule in sdes.items():
    torch.testing.assert_close(by_hand(name, times), sde.coefficients(schedule, times))
    print(f"{name:6} f", *(f"{v:8.3f}" for v in by_hand(name, times)[0]), "  g^2", *(f"{v:.3g}" for v in by_hand(name, times)[1]))
single = torch.tensor(1e-5)
careless = (1 - torch.exp(-(0.1 * single + 9.95 * single**2))).sqrt()
print(f"std of VP at 1e-5: {sdes['VP'](single)[1]:.4e}; as sqrt(1 - exp(-B)) in float32 {careless:.4e}")

# %% [markdown]
# The last line is a famous mistake: the schedule computes $-\mathrm{expm1}(-B)$, in float64.
#
# ## Two ways back
#
# Time reversed [eq. 6], and an ODE with the same marginals [eq. 13]:
#
# $$dx = (f x - g^2 \nabla\log p_t)\,dt + g\,d\bar w, \qquad dx = (f x - \tfrac12 g^2 \nabla\log p_t)\,dt$$
#
# Without noise only *half* of the score is left. On a line the exact answer is known: the ODE keeps each walker's
# share of the world.
#
# *Predict before you run:* how do the paths of the two differ, and what do they share?

# %%
world, schedule = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15), sdes["VP"]
eps_fn, shares = world.eps_fn(schedule), torch.linspace(0.08, 0.92, 9)[:, None].double()
grid = even_times(schedule, 300, 1e-3)
start = world.quantile(shares, schedule(1))
exact = torch.stack([world.quantile(shares, schedule(t)) for t in grid])[..., 0]
walk = predictor_corrector(eps_fn, schedule, start, grid, sde.euler_maruyama, generator=seed(0))
noisy = torch.stack([start, *(state.x for state in walk)])[..., 0]
cells = torch.linspace(-2.5, 2.5, 200)[:, None].double()
density = torch.stack([world.log_prob(cells, schedule(t)).exp() for t in grid], 1)
figure = plots.trajectories(grid, exact, density, (-2.5, 2.5))
figure.axes[0].plot(grid, noisy, color="black", linewidth=0.4, alpha=0.6)
figure.axes[0].set_xlim(1, 0)
plots.show(figure, "Smooth paths of the ODE and jagged ones of the SDE, from equal starts at t = 1, end in two bands.")
solved = sde.flow(eps_fn, schedule, start, 1.0, 1e-3)
print(f"RK45: {solved.calls} calls, off by {(solved.x[:, 0] - exact[-2]).abs().max():.1e}")

# %% [markdown]
# **You should see** smooth and jagged paths in the same two bands. **If instead** the smooth ones cross, half of
# $g^2$ became all.
#
# ## Predictors
#
# *Euler-Maruyama* takes the SDE's step; *reverse diffusion* runs the forward step backwards; *ancestral* is DDPM.
# Euler on the ODE, and RK45, need no noise. All end with the estimate of $x_0$. The number is
# how far 5,000 samples lie off on average (Wasserstein).
#
# *Predict:* which of the three SDEs is hardest in 50 steps? What does each mistake do?

# %%
predictors = {
    "Euler-Maruyama": sde.euler_maruyama,
    "reverse diffusion": sde.reverse_diffusion,
    "ancestral": sde.ancestral_step(fixed_large),
    "ODE, Euler": sde.flow_euler,
    "MISTAKE: whole g^2": lambda *a: (sde.euler_maruyama(*a)[0], 0.0),
    "MISTAKE: half, noise": lambda *a: (sde.flow_euler(*a)[0], sde.euler_maruyama(*a)[1]),
}
noise = start_noise(5000, (1,), seed(1)).double()
for name, predictor in predictors.items():
    found = []
    for kind, schedule in sdes.items():
        x, grid = schedule(1)[1] * noise, even_times(schedule, 50, ends[kind])
        x = last(predictor_corrector(world.eps_fn(schedule), schedule, x, grid, predictor, generator=seed(2)))
        found.append(f"{kind} {metrics.wasserstein(x, world):.3f}")
    print(f"{name:22}", ", ".join(found))

# %% [markdown]
# **You should see** VE worst, and both mistakes plain.
#
# ## A corrector
#
# The score also allows Langevin steps at one level: they repair what a predictor got wrong. Step size:
# noise and score in the ratio `snr`. The published code takes norms over the batch; here each sample has its own, or
# (in one dimension, where $|\epsilon|$ can vanish) the level's. A corrector costs calls, which buy smaller steps, too.
#
# *Predict:* who wins with few calls? With many?

# %%
schedule, noise = sdes["VE"], start_noise(10_000, (1,), seed(1)).double()
w = lambda x, n=10_000: torch.tensor([metrics.wasserstein(part, world) for part in x.split(n)])  # noqa: E731
for calls in (50, 100, 200, 400, 1000):
    x = []
    for steps, corrector in ((calls, None), ((calls + 1) // 2, sde.level_step(0.16))):
        x.append(
            last(
                predictor_corrector(
                    world.eps_fn(schedule), schedule, 50 * noise, even_times(schedule, steps, 1e-5),
                    sde.reverse_diffusion, corrector, generator=seed(2),
                )
            )
        )  # fmt: skip
    print(f"{calls:4} calls: predictor {w(x[0]).item():.4f}, with corrector {w(x[1]).item():.4f}")
error = (w(x[0], 1000) - w(x[1], 1000)).std() / 10**0.5
claims.measure("sde-corrector", w(x[0]) - w(x[1]), error)

# %% [markdown]
# **You should see** the predictor ahead with few calls.
#
# ## Likelihood
#
# Along the ODE $\log p$ changes by the divergence of its velocity [eq. 39], here by autograd. In many dimensions one
# random probe estimates it: $v^\top J v$ [eq. 40].
#
# *Predict:* VE starts from $\mathcal N(0, 50^2)$ instead of $p_1$. Is that error larger than RK45's?

# %%
plane = isotropic_mixture([0.5, 0.2, 0.3], [[0.2, 0.7], [-0.7, 0.0], [0.5, -0.6]], std=0.2)
data = plane.sample(200, seed(3))[0]
for name, schedule in sdes.items():
    x = q_sample(data, torch.randn(200, 2, generator=seed(4)).double(), schedule(1e-5))
    true, ideal, usual = plane.log_prob(x, schedule(1e-5)), lambda x: plane.log_prob(x, sdes[name](1)), sde.normal_prior(schedule)
    found = sde.likelihood(plane.eps_fn(schedule), schedule, x, ideal, sde.exact_divergence)
    gap = (usual(found.latent) - ideal(found.latent)).abs().max()
    probe = start_noise(200, (2,), seed(5)).sign()
    guess = sde.likelihood(plane.eps_fn(schedule), schedule, x, ideal, sde.hutchinson(probe)).log_prob - true
    print(
        f"{name:6} RK45 off by {(found.log_prob - true).abs().max():.0e} nats in {found.calls} calls; usual prior by "
        f"{gap:.0e}; one probe: mean {guess.mean():+.2f} +- {guess.std() / 200**0.5:.2f}"
    )

# %% [markdown]
# **You should see** RK45 below 0.001, VE's prior above it, probes right on average.
#
# ## One network, every method
#
# The U-Net `digits` knows only DDPM's chain. But noise is noise: `on_schedule` rescales its input. So it serves both
# families. Counted: how many of ten are recognised (benchmarks/sde.md has 200).
#
# *Predict:* which row fails?

# %%
net, chain = zoo.load("digits")
digit, noise = partial(net, label=torch.arange(10)), start_noise(10, (1, 16, 16), seed(0))
late = round(float(chain.time_at(40)))
rows = {
    "DDPM, 50 calls": last(ancestral(digit, chain, noise, uniform_times(1000, 50), generator=seed(1))),
    "DDIM, 20": decode(digit, chain, noise, uniform_times(1000, 20)),
    "PLMS, 21": last(ddim_first(plms)(digit, chain, noise, [1000, *uniform_times(late, 19)])),
}
ends["sub-VP"] = float(SubVP().time_at(0.01))  # the chain's first level has more noise than sub-VP at 1e-3
for name, schedule in sdes.items():
    eps_fn, x = on_schedule(digit, chain, schedule), float(schedule(1)[1]) * noise
    walk = lambda steps, *how: last(  # noqa: E731
        predictor_corrector(eps_fn, schedule, x, even_times(schedule, steps, ends[name]), *how, generator=seed(1))  # noqa: B023
    )
    rows[f"{name}, Euler-M., 60"] = walk(60, sde.euler_maruyama)
    rows[f"{name}, reverse, 60"] = walk(60, sde.reverse_diffusion)
    rows[f"{name}, corrected, 60"] = walk(30, sde.reverse_diffusion, sde.snr_step(0.16))
    solved = sde.flow(eps_fn, schedule, x, 1.0, ends[name], 1e-3, 1e-3)
    rows[f"{name}, ODE, {solved.calls + 1}"] = decode(eps_fn, schedule, solved.x, [ends[name], 0.0])
levels = [*(1 - torch.arange(20) / 20).tolist(), 0.0]
rows["annealed Langevin, 61"] = last(annealed_langevin(eps_fn, schedule, x, levels, 0.1, 3, generator=seed(1)))
recogniser = zoo.load_recogniser("digits-recogniser")
for name, x in rows.items():
    print(f"{name:24} {10 * metrics.recognised(recogniser, x, torch.arange(10))[0]:.0f} of 10")
plots.show(plots.grid(torch.cat(list(rows.values())), 10, rows=tuple(rows)), "Digits 0 to 9 by sixteen methods.")

# %% [markdown]
# **You should see** one network in every row.
#
# ## What is known is put back
#
# After every update the known pixels are drawn anew at that level; the last step is the denoising, so noise stays
# nowhere. Above: the lower half is unknown. Below: the exact world of training digits tinted by class, and test digits
# whose grey is known: `colourise` does the same in an orthonormal basis of colours.
#
# *Predict:* from where come the colours of a digit that the world does not hold?

# %%
images = datasets.digits()
first = torch.stack([(images.test_labels == k).nonzero()[0, 0] for k in range(10)])
known, mask = images.test[first], torch.arange(16).view(1, 1, 16, 1) < 8
schedule = sdes["VP"]
eps_fn = on_schedule(net, chain, schedule)
draw = lambda shape, k: noise_source(10, shape, seed(k))  # noqa: E731


def draw_under(after, eps_fn, noise, corrections):
    grid, step = even_times(schedule, 40, 1e-3), sde.snr_step(0.16)
    return last(predictor_corrector(eps_fn, schedule, noise, grid, sde.reverse_diffusion, step, corrections, after, seed(1)))


filled = draw_under(sde.inpaint(known, mask, schedule, draw((1, 16, 16), 2)), eps_fn, noise, 4)
plots.show(plots.grid(torch.cat([known, torch.where(mask, known, 0), filled])), "Ten digits, their upper halves, and what was drawn below.")
hue = 0.5 + 0.45 * torch.cos(2 * torch.pi * (torch.arange(10)[:, None] / 10 + torch.arange(3) / 3))  # one grey for all
tint = lambda x, k: (x + 1) * hue[k][:, :, None, None] - 1  # noqa: E731
tinted = FiniteData(tint(images.train, images.train_labels)).eps_fn(schedule)
grey = tint(known, torch.arange(10)).mean(1, keepdim=True)
coloured = draw_under(sde.colourise(grey, schedule, draw((3, 16, 16), 3)), tinted, start_noise(10, (3, 16, 16), seed(4)), 1)
print(f"grey kept to {(coloured.mean(1, keepdim=True) - grey).abs().max():.0e}")
plots.show(plots.grid(torch.cat([grey.expand(-1, 3, -1, -1), coloured, tint(known, torch.arange(10))])), "Ten grey digits, coloured, and as tinted by class.")

# %% [markdown]
# ## Bits per dimension
#
# The network `digits-vp` was trained in continuous time on dequantised digits (256 levels, smallest time $10^{-5}$).
# Two numbers: the ODE's likelihood, and the variational bound of the reverse SDE, in the limit of small steps with a
# Gaussian decoder. **They belong to two models:** unless the score is exact, the ODE's density is not the SDE's, so the
# first is no tighter version of the second.

# %%
net, schedule = zoo.load("digits-vp")
x = datasets.dequantise(images.test[:16], seed(0))
eps_fn, prior = partial(net, label=images.test_labels[:16]), sde.normal_prior(schedule)
probe = start_noise(16, (1, 16, 16), seed(1)).sign()
found = sde.likelihood(eps_fn, schedule, x, prior, sde.hutchinson(probe), rtol=1e-4, atol=1e-4)
bound = sde.variational_bound(eps_fn, schedule, x, noise_source(16, (1, 16, 16), seed(2)))
bits = [bits_per_dim(nats, 256) + torch.tensor(127.5).log2() for nats in (-found.log_prob, bound)]
for name, b in zip(("ODE", "bound"), bits, strict=True):
    print(f"{name}: {b.mean():.3f} +- {b.std() / 4:.3f} bits/dim")
claims.measure("sde-likelihood", (bits[1] - bits[0]).mean(), (bits[1] - bits[0]).std() / 4, f"{found.calls} calls")

# %% [markdown]
# **You should see** the ODE's number below the bound.
#
# ## Exercises
#
# Write (1) $f$ and $g^2$ of sub-VP; (2) a corrector's step on VE, each sample with its own norms, `(B, C, H, W)`.
# Solutions: `ddpm_path/lab/exercises/sde.py`.


# %%
def sub_vp_coefficients(t, beta_min, beta_max):
    raise NotImplementedError  # your lines instead: return f, g2


def corrected(x, eps, z, std, snr):
    raise NotImplementedError  # your lines instead: return x


_ = check(SUB_VP_COEFFICIENTS, sub_vp_coefficients)
_ = check(CORRECTED, corrected)

# %% [markdown]
# ## What to read next
#
# The paper's sections 3 to 5 and its appendices D and I. Then `11_ddim`, which is this ODE in its best clock.
