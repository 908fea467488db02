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
# let the steps shrink to nothing: both become stochastic differential equations (SDEs), with new samplers and an ODE
# that has exact likelihoods. The network stays: $\epsilon_\theta = -\mathrm{std}\,\nabla\log p_t$.
#
# You need 06.

# %%
from functools import partial

import torch

from ddpm_path import samplers, sde
from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.gaussian import bits_per_dim, fixed_large, q_sample
from ddpm_path.guidance import class_score, classifier_guided
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import CORRECTED, SUB_VP_COEFFICIENTS, check
from ddpm_path.samplers import ancestral, decode, last, noise_source, predictor_corrector, start_noise
from ddpm_path.schedule import VE, VP, SubVP, even_times, on_schedule, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
sdes, ends = {"VP": VP(), "sub-VP": SubVP(), "VE": VE()}, {"VP": 1e-3, "sub-VP": 1e-3, "VE": 1e-5}  # the last times


def walk(eps_fn, schedule, noise, steps, end, *how, after=None):
    x, grid = float(schedule(1)[1]) * noise, even_times(schedule, steps, end)  # 1, ..., end, 0
    return last(predictor_corrector(eps_fn, schedule, x, grid, *how, after=after, generator=seed(2)))


# %% [markdown]
# ## From the marginal to the SDE
#
# All begins at $x_t = \mathrm{scale}\,x_0 + \mathrm{std}\,\epsilon$. The SDE $dx = f x\,dt + g\,dw$ ($dw$: noise of
# variance $dt$) has these marginals if
#
# $$f = \frac{d \log \mathrm{scale}}{dt}, \qquad g^2 = \frac{d\,\mathrm{std}^2}{dt} - 2 f\,\mathrm{std}^2$$
#
# VP is DDPM, VE is NCSN, sub-VP has less noise [eq. 9, 11, 12]. By hand, $B = \int_0^t \beta$:


# %%
def by_hand(t):
    beta, B, sigma = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2, 0.01 * 5000**t
    yield -beta / 2, beta
    yield -beta / 2, beta * (1 - torch.exp(-2 * B))
    yield 0 * t, 2 * sigma**2 * torch.tensor(5000.0).double().log()


times = torch.tensor([1e-5, 0.5, 1.0], dtype=torch.float64)
for (name, schedule), (f, g2) in zip(sdes.items(), by_hand(times), strict=True):
    torch.testing.assert_close((f, g2), sde.coefficients(schedule, times))
    print(f"{name:6} at 1e-5, 0.5 and 1: f", *(f"{v:.2f}" for v in f), "and g^2", *(f"{v:.3g}" for v in g2))
t = torch.tensor(1e-5)
print(f"std of VP at 1e-5 {sdes['VP'](t)[1]:.4e}, in float32 {(1 - torch.exp(-(0.1 * t + 9.95 * t**2))).sqrt():.4e}")

# %% [markdown]
# The last number is a famous mistake; the schedule has $-\mathrm{expm1}(-B)$, in float64.
#
# ## Two ways back
#
# The SDE reversed [eq. 6], and an ODE with its marginals [eq. 13]:
#
# $$dx = (f x - g^2 \nabla\log p_t)\,dt + g\,d\bar w, \qquad dx = (f x - \tfrac12 g^2 \nabla\log p_t)\,dt$$
#
# Without noise only *half* of the score is left. On a line the ODE keeps each walker's share of the world.
#
# *Predict:* how do their paths differ, and what do they share?

# %%
world, schedule = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15), sdes["VP"]
eps_fn, shares = world.eps_fn(schedule), torch.linspace(0.08, 0.92, 9)[:, None].double()
grid = even_times(schedule, 150, 1e-3, start=0.5)
start = world.quantile(shares, schedule(0.5))
exact = torch.stack([world.quantile(shares, schedule(t)) for t in grid])[..., 0]
states = predictor_corrector(eps_fn, schedule, start, grid, sde.euler_maruyama, generator=seed(0))
noisy = torch.stack([start, *(state.x for state in states)])[..., 0]
cells = torch.linspace(-2.5, 2.5, 200)[:, None].double()
density = torch.stack([world.log_prob(cells, schedule(t)).exp() for t in grid], 1)
figure = plots.trajectories(grid, exact, density, (-2.5, 2.5))
figure.axes[0].plot(grid, noisy, color="black", linewidth=0.4, alpha=0.6)
plots.show(figure, "Smooth paths of the ODE and jagged ones of the SDE, from equal starts, end in two bands.")

# %% [markdown]
# **You should see** smooth and jagged paths in the same bands. **If instead** jagged ones miss the bands, half of the
# score is lost.
#
# ## Predictors
#
# *Euler-Maruyama* takes the SDE's step; *reverse diffusion* runs the forward step backwards; *ancestral* is DDPM. All
# end with the estimate of $x_0$. The number: how far 2,000 samples lie off (Wasserstein).
#
# *Predict:* which SDE is hardest in 50 steps? What does each mistake do?

# %%
predictors = {"Euler-Maruyama": sde.euler_maruyama, "reverse diffusion": sde.reverse_diffusion}
predictors |= {"ancestral": sde.ancestral_step(fixed_large), "ODE, Euler": sde.flow_euler}
predictors["MISTAKE: whole g^2"] = lambda *a: (sde.euler_maruyama(*a)[0], 0.0)
predictors["MISTAKE: half, noise"] = lambda *a: (sde.flow_euler(*a)[0], sde.euler_maruyama(*a)[1])
noise = start_noise(10_000, (1,), seed(1)).double()
for name, predictor in predictors.items():
    found = [walk(world.eps_fn(s), s, noise[:2000], 50, ends[k], predictor) for k, s in sdes.items()]
    print(f"{name:22}", ", ".join(f"{k} {metrics.wasserstein(x, world):.3f}" for k, x in zip(sdes, found, strict=True)))

# %% [markdown]
# **You should see** VE hardest on the ODE; whole $g^2$ collapses, half with noise blurs.
#
# ## A class on demand
#
# By Bayes' rule the score of a class is the world's and a noisy classifier's [eq. 14]; here both are exact, only the
# steps are not.

# %%
schedule, labels = sdes["VP"], torch.zeros(10_000, dtype=torch.long)
score = class_score(lambda x, t: world.log_class(x, schedule(t)), labels)
guided = classifier_guided(world.eps_fn(schedule), score, schedule, 1.0)
x = walk(guided, schedule, noise, 50, 1e-3, sde.reverse_diffusion)
print(f"mean {x.mean():.3f} and deviation {x.std():.3f}; class 0 has -0.6 and 0.15")

# %% [markdown]
# ## A corrector
#
# Langevin steps at one level, $\alpha s$ and noise $\sqrt{2\alpha}\,z$ in the ratio `snr`, repair what a predictor got
# wrong. The published code takes norms over the batch, ours of each sample or (on a line) the level's. Its calls could
# have bought smaller steps.
#
# *Predict:* who wins with few calls? With many?

# %%
w = lambda x, n=10_000: torch.tensor([metrics.wasserstein(part, world) for part in x.split(n)])
for calls in (50, 100, 200, 400, 1000):
    sides = ((calls, None), ((calls + 1) // 2, sde.level_step(0.16)))
    x = [walk(world.eps_fn(VE()), VE(), noise, n, 1e-5, sde.reverse_diffusion, how) for n, how in sides]
    print(f"{calls:4} calls: predictor {w(x[0]).item():.4f}, with corrector {w(x[1]).item():.4f}")
error = (w(x[0], 1000) - w(x[1], 1000)).std() / 10**0.5
claims.measure("sde-corrector", w(x[0]) - w(x[1]), error)

# %% [markdown]
# **You should see** the predictor ahead, then no difference: an exact score leaves nothing to repair. See
# `benchmarks/sde.md`.
#
# ## Likelihood
#
# Along the ODE $\log p$ changes by the divergence of its velocity [app. D.2]. In many dimensions a random probe
# estimates it: $v^\top J v$.
#
# *Predict:* VE starts from $\mathcal N(0, 50^2)$ instead of $p_1$. Does the ODE's solver, RK45, err more?

# %%
plane = isotropic_mixture([0.5, 0.2, 0.3], [[0.2, 0.7], [-0.7, 0.0], [0.5, -0.6]], std=0.2)
data, z = plane.sample(200, seed(3))[0], torch.randn(200, 2, generator=seed(4)).double()
for name, schedule in sdes.items():
    now, last_level, usual = schedule(1e-5), schedule(1), sde.normal_prior(schedule)
    x, ideal = q_sample(data, z, now), partial(plane.log_prob, now=last_level)
    run = partial(sde.likelihood, plane.eps_fn(schedule), schedule, x, ideal, rtol=1e-6, atol=1e-6)
    found, guess = run(sde.exact_divergence), run(sde.hutchinson(start_noise(200, (2,), seed(5)).sign()))
    off, guess = found.log_prob - plane.log_prob(x, now), guess.log_prob - found.log_prob
    gap = usual(found.latent) - ideal(found.latent)
    print(f"{name:6} RK45 off by {off.abs().max():.0e} nats in {found.calls} calls, its usual prior by up to ", end="")
    print(f"{gap.abs().max():.0e}; one probe: mean error {guess.mean():+.2f} +- {guess.std() / 200**0.5:.2f}")

# %% [markdown]
# **You should see** RK45 below 0.001, priors above it, probes right on average.
#
# ## One network, every method
#
# The U-Net `digits` knows only DDPM's chain. `on_schedule` rescales its input, so it serves both families. Counted:
# recognised, of ten (DDIM is 11, PLMS 15).
#
# *Predict:* which row fails?

# %%
net, chain = zoo.load("digits")
digit, noise = partial(net, label=torch.arange(10)), start_noise(10, (1, 16, 16), seed(0))
rows = {"DDPM, 50 calls": last(ancestral(digit, chain, noise, uniform_times(1000, 50), generator=seed(2)))}
rows["DDIM, 20"] = decode(digit, chain, noise, uniform_times(1000, 20))
late = [1000, *uniform_times(984, 19)]  # 984: std / scale = 40
rows["PLMS, 21"] = last(samplers.ddim_first(samplers.plms)(digit, chain, noise, late))
ends["sub-VP"] = float(SubVP().time_at(0.01))  # at 1e-3 sub-VP has less noise than the chain's first level
for name, schedule in sdes.items():
    eps_fn, x = on_schedule(digit, chain, schedule), float(schedule(1)[1]) * noise
    draw = partial(walk, eps_fn, schedule, noise)
    rows[f"{name}, Euler-M., 40"] = draw(40, ends[name], sde.euler_maruyama)
    rows[f"{name}, reverse, 40"] = draw(40, ends[name], sde.reverse_diffusion)
    rows[f"{name}, corrected, 39"] = draw(20, ends[name], sde.reverse_diffusion, sde.snr_step(0.16))
    solved = sde.flow(eps_fn, schedule, x, 1.0, ends[name], 1e-3, 1e-3)
    rows[f"{name}, ODE, {solved.calls + 1}"] = decode(eps_fn, schedule, solved.x, [ends[name], 0.0])
grid = even_times(schedule, 40, 1e-5, start=float(schedule.time_at(20)))
walker = samplers.annealed_langevin(eps_fn, schedule, 20 * noise, grid, 0.17, 3, generator=seed(2))
rows["Langevin, 121"] = last(walker)
recogniser = zoo.load_recogniser("digits-recogniser")
for name, x in rows.items():
    print(f"{name:24} {10 * metrics.recognised(recogniser, x, torch.arange(10))[0]:.0f} of 10")
plots.show(plots.grid(torch.cat(list(rows.values())), 10, rows=tuple(rows)), "Digits 0 to 9 by sixteen methods.")

# %% [markdown]
# **You should see** digits in every row, and grain in VP's: even times leave too few steps near the data. The ODE's
# three rows are DDIM's digits.
#
# ## What is known is put back
#
# After every update the known pixels are drawn anew at that level; the last step denoises the others, too. First the
# lower half is unknown. Then the world is exact, training digits tinted by class; of test digits the grey is known, one
# channel in an orthonormal basis of colours.
#
# *Predict:* what colours does a digit get that the world does not hold?

# %%
images = datasets.digits()
known, labels = images.test[:10], images.test_labels[:10]
mask, how = torch.arange(16).view(1, 1, 16, 1) < 8, (sde.reverse_diffusion, sde.snr_step(0.16))
after = sde.inpaint(known, mask, VE(), noise_source(10, (1, 16, 16), seed(3)))
filled = walk(on_schedule(net, chain, VE()), VE(), noise, 40, 1e-5, *how, 3, after=after)
rows = {"data": known, "upper half": torch.where(mask, known, 0.0), "lower drawn": filled}
hue = 0.5 + 0.45 * torch.cos(2 * torch.pi * (torch.arange(10)[:, None] / 10 + torch.arange(3) / 3))  # of one grey
tint = lambda x, k: (x + 1) * hue[k][:, :, None, None] - 1
tinted, grey = FiniteData(tint(images.train, images.train_labels)), tint(known, labels).mean(1, keepdim=True)
after = sde.colourise(grey, VP(), noise_source(10, (3, 16, 16), seed(3)))
coloured = walk(tinted.eps_fn(VP()), VP(), start_noise(10, (3, 16, 16), seed(4)), 40, 1e-3, *how, 8, after=after)
rows |= {"grey": grey, "colour drawn": coloured, "class's colour": tint(known, labels)}
sheet = torch.cat([x.expand(-1, 3, -1, -1) for x in rows.values()])
plots.show(plots.grid(sheet, rows=tuple(rows)), "Ten digits: upper halves completed below; grey ones, then in colours.")

# %% [markdown]
# **You should see** strokes that go on, and seldom the class's colour: it is chosen while what is known hides in
# noise.
#
# ## Bits per dimension
#
# `digits-vp` learned in continuous time, from dequantised digits (256 levels, smallest time $10^{-5}$). The ODE has a
# likelihood; the reverse SDE a variational bound with a Gaussian decoder. **They belong
# to two models:** unless the score is exact, the ODE's density is not the SDE's, and the first does not tighten the
# second.

# %%
net, schedule = zoo.load("digits-vp")
x = datasets.dequantise(images.test[:16], seed(0))
eps_fn, probe = partial(net, label=images.test_labels[:16]), start_noise(16, (1, 16, 16), seed(1)).sign()
found = sde.likelihood(eps_fn, schedule, x, sde.normal_prior(schedule), sde.hutchinson(probe), rtol=1e-4, atol=1e-4)
bound = sde.variational_bound(eps_fn, schedule, x, noise_source(16, (1, 16, 16), seed(2)))
bits = [bits_per_dim(nats, 256) + torch.tensor(127.5).log2() for nats in (-found.log_prob, bound)]
print("ODE and bound, in bits/dim:", *(f"{b.mean():.3f} +- {b.std() / 4:.3f}" for b in bits))
claims.measure("sde-likelihood", (bits[1] - bits[0]).mean(), (bits[1] - bits[0]).std() / 4, f"{found.calls} calls")

# %% [markdown]
# **You should see** the ODE's number below the bound.
#
# ## Exercises
#
# Write (1) $f$ and $g^2$ of sub-VP; (2) a corrector's step on VE, with each sample's own norms, `(B, C, H, W)`.
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
# The paper's sections 3 to 5. Then [`11_ddim`](11_ddim.ipynb): this ODE in its best clock.
