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
# # 03 · DDPM: the forward process
#
# Turning noise into an image at one go is hard to learn. Taking off a *little* noise is easier. So spoil images in
# many small steps, and learn to undo one. Sohl-Dickstein et al. had this idea in 2015.
# [Ho, Jain and Abbeel](https://arxiv.org/abs/2006.11239) (2020) simplified it until it drew well: the spoiling is
# fixed, the network only guesses the noise, the loss is a squared error. That is DDPM.
#
# This notebook is about the spoiling, the *forward process*. It is exact: no network. You need the normal distribution
# and Bayes' rule.
#
# The article also recommends:
# - [What are diffusion models?](https://lilianweng.github.io/posts/2021-07-11-diffusion-models/) (Lilian Weng, blog)
# - [Introduction to diffusion models for machine learning][introduction] (blog)
# - [Diffusion models, paper explanation, math explained](https://www.youtube.com/watch?v=HoKDTa5jHvg)
#   (video, highly recommended)
# - [Diffusion models, PyTorch implementation](https://www.youtube.com/watch?v=TBCRlnwJtZU)
#   (video; [code](https://github.com/dome272/Diffusion-Models-pytorch))
# - [Diffusion models from scratch in PyTorch](https://www.youtube.com/watch?v=a4Yfz2FxXiY) (video)
#
# [introduction]: https://www.assemblyai.com/blog/diffusion-models-for-machine-learning-introduction/

# %%
import math
import warnings

import torch

from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.gaussian import bits_per_dim, kl, posterior, q_sample
from ddpm_path.lab import claims, datasets, plots
from ddpm_path.lab.exercises import MARGINAL_FROM_CHAIN, POSTERIOR_MEAN, check
from ddpm_path.schedule import Discrete, cosine_betas, linear_betas

torch.manual_seed(0)
betas = linear_betas()  # 1,000 values, from 0.0001 to 0.02
schedule = Discrete.from_betas(betas)

# %% [markdown]
# ## One small step, many times
#
# Call the image $x_0$: time 0 is data. Step $t = 1, \dots, T$ shrinks it a little and adds noise of small variance
# $\beta_t$:
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\big(\sqrt{1-\beta_t}\,x_{t-1},\; \beta_t I\big)$$
#
# Why shrink? Since $(1-\beta_t) + \beta_t = 1$, data of variance 1 keep it. Write $\alpha_t = 1-\beta_t$ and
# $\bar\alpha_t = \alpha_1 \alpha_2 \cdots \alpha_t$. Sums of independent normal numbers are normal, so $t$ steps
# equal one jump [eq. 4]:
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon, \qquad \epsilon \sim \mathcal N(0, I)$$
#
# So training reaches any $t$ at once. The factors are `scale` and `std` here. We walk the chain to check them.


# %%
def walk(betas, t):
    scale, variance = 1.0, 0.0
    for beta in betas[:t]:  # betas[0] is step 1
        scale, variance = (1 - beta).sqrt() * scale, (1 - beta) * variance + beta
    return scale, variance.sqrt()


for t in (1, 500, 1000):
    x0, eps = 0.5 + torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    scale, std = walk(betas, t)
    torch.testing.assert_close(scale * x0 + std * eps, q_sample(x0, eps, schedule(t)))
    print(f"t = {t:4}: scale {scale:.4f}, std {std:.4f}, as the package says")

# %% [markdown]
# ## One step back, if you know the image
#
# Which $x_{t-1}$ led to $x_t$? That depends on all the data. But with $x_0$ known, Bayes' rule answers
# $\mathcal N(\tilde\mu_t, \tilde\beta_t I)$ [eq. 6-7]:
#
# $$\tilde\mu_t
# = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t\,x_0 + \sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})\,x_t}{1-\bar\alpha_t},
# \qquad \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t$$
#
# Sampling (notebook 04) is this step with a *guess* of $x_0$.


# %%
def step_back(x0, x, t):
    beta = betas[t - 1]
    bar, before = (1 - betas[:t]).prod(), (1 - betas[: t - 1]).prod()  # an empty product is 1: data
    mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x) / (1 - bar)
    return mean, (1 - before) / (1 - bar) * beta


for t in (1, 500, 1000):
    x0, x = 0.5 + torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(step_back(x0, x, t), posterior(x0, x, schedule(t), schedule(t - 1)))
    print(f"t = {t:4}: variance {step_back(x0, x, t)[1]:.6f}, beta {betas[t - 1]:.6f}")

# %% [markdown]
# At $t = 1$ the variance is 0: data get no noise.
#
# ## On a line
#
# The data are numbers, 30% near -1 and 70% near 1.5. Their exact density at every $t$ is grey; the lines
# walk the chain.
#
# *Predict before you run:* at $t = 1000$, can you tell where a walk began?


# %%
def chain(x):
    for beta in betas:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
        yield x


world = isotropic_mixture([0.3, 0.7], [[-1.0], [1.5]], std=0.15)
times = range(0, 1001, 10)
cells = torch.linspace(-3.3, 3.3, 300)[:, None]
density = torch.stack([world.log_prob(cells, schedule(t)).exp() for t in times], 1)
start = world.sample(6)[0]
walks = torch.stack([start, *chain(start)])[::10, :, 0]
plots.show(
    plots.trajectories(times, walks, density, (-3.3, 3.3)),
    "Six random walks on the exact density over time: two narrow bands, near -1 and 1.5, merge into one wide bell.",
)

# %% [markdown]
# **You should see** two bands melt into one bell, and walks wander across it. **If instead** they leave the grey, the
# noise misses its root; if they never mix, betas are too small.
#
# ## In the plane
#
# The *best guess* $E[x_0 \mid x_t]$ (third row) averages all data, weighted by how well they explain $x_t$. Nothing
# has a smaller mean squared error: a perfect network would answer this.
#
# *Predict:* what is it when $x_t$ says nothing?

# %%
roll = 2 * datasets.swiss_roll(1500)
walked = dict(enumerate(chain(roll), start=1))
levels = (10, 50, 150, 350, 1000)
jumped = {t: q_sample(roll, torch.randn_like(roll), schedule(t)) for t in levels}
panels = {f"{t} small steps": walked[t] for t in levels}
panels |= {f"one jump to t = {t}": jumped[t] for t in levels}
panels |= {f"best guess at t = {t}": FiniteData(roll).x0(jumped[t], schedule(t)) for t in levels}
plots.show(
    plots.scatter(panels, limit=3.2, columns=5, colour=roll.norm(dim=1)),
    "A spiral dissolves into a round cloud, alike by steps and by jump; the best guess contracts to a single point.",
)

# %% [markdown]
# **You should see** two rows alike, and a guess that retreats to the data's mean: an average, not a sample.
# Hence many steps. **If instead** the rows differ, an index is off by one.
#
# ## Digits
#
# DDPM's betas grow *linearly*. [Nichol and Dhariwal](https://arxiv.org/abs/2102.09672) (2021) choose betas that make
# $\sqrt{\bar\alpha_t}$ a *cosine*.
#
# *Predict:* which keeps the digit longer?

# %%
data = datasets.digits()
cosine = Discrete.from_betas(cosine_betas())
digit = data.test[[22]]
noise = torch.randn_like(digit)
times = (0, 50, 100, 200, 300, 400, 500, 600, 800, 1000)
titles = [f"t = {t}" for t in times]
rows = [q_sample(digit, noise, each(t)) for each in (schedule, cosine) for t in times]
plots.show(
    plots.schedules({"linear": schedule, "cosine": cosine}),
    "Scale falls to 0 and std rises to 1, later with cosine; they cross at a quarter (linear) and at half (cosine).",
)
plots.show(
    plots.grid(torch.cat(rows), len(times), titles, ("linear", "cosine"), zoom=1.2),
    "A digit under growing noise: with linear betas it is lost at about t = 500, with cosine betas at about t = 800.",
)

# %% [markdown]
# **You should see** the linear row drown at half time; later steps turn noise into noise. **If instead** the digit is
# pale at $t = 0$, its pixels are not in $[-1, 1]$.
#
# ## Two famous mistakes, on purpose
#
# *Predict:* which one fools the eye?

# %%
bars = schedule.alpha_bar
alphas = torch.cat([bars[:1], 1 - betas])
versions = {
    "right": [(bars[t].sqrt(), (1 - bars[t]).sqrt()) for t in times],
    "no roots": [(bars[t], 1 - bars[t]) for t in times],
    "alpha for alpha_bar": [(alphas[t].sqrt(), (1 - alphas[t]).sqrt()) for t in times],
}
rows = [q_sample(digit, noise, level) for levels in versions.values() for level in levels]
plots.show(
    plots.grid(torch.cat(rows), len(times), titles, tuple(versions), zoom=1.2),
    "The digit over time: right; without the roots, hardly different; with alpha for alpha_bar, readable to the end.",
)
for name, levels in versions.items():
    print(f"{name:20} variance of x_t, if the data's is 1:", *(f"{a**2 + b**2:.2f}" for a, b in levels))

# %% [markdown]
# **You should see** that forgotten roots fool the eye, but the variance dips. With alpha the variance is right, but the
# digit stays.
#
# ## A third: fewer steps, same betas
#
# To save time, people cut $T$ to 100. The package warns; we look.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cut = Discrete.from_betas(linear_betas(100))
print("The package warns:", caught[0].message)
larger = Discrete.from_betas(linear_betas(100, first=0.001, last=0.2))
ends = {"T = 1000": schedule, "T = 100, same betas": cut, "T = 100, betas x 10": larger}
some = data.test[20:29]
rows = [some, *(q_sample(some, torch.randn_like(some), each(each.T)) for each in ends.values())]
plots.show(
    plots.grid(torch.cat(rows), len(some), rows=("data", *ends), zoom=1.2),
    "Nine digits and their x_T: noise for T = 1000, digits that show through for T = 100, noise with larger betas.",
)

# %% [markdown]
# **You should see** digits shine through the third row (squint). Sampling starts from pure noise, which a network
# trained on this row never saw. **If instead** it is noise too, print $\bar\alpha_T$.
#
# ## The best guess for a digit
#
# It averages the 1,442 training digits. Ours is not among them.

# %%
known = FiniteData(data.train)
noisy = [q_sample(digit, noise, schedule(t)) for t in times[2:]]
guesses = [known.x0(x, schedule(t)) for x, t in zip(noisy, times[2:], strict=True)]
plots.show(
    plots.grid(torch.cat(noisy + guesses), len(noisy), titles[2:], ("x_t", "best guess"), zoom=1.2),
    "Above, a digit under growing noise; below, its best guess: a sharp digit, then a blend, then a blurred mean.",
)

# %% [markdown]
# **You should see** a training digit, then a blend (wrong classes too), then the mean of all.
#
# ## The paper's claim, measured
#
# Sampling starts from $\mathcal N(0, I)$ as if it were $x_T$. The paper gives the price in
# bits, the Kullback-Leibler divergence: about $10^{-5}$ per dimension.


# %%
def prior_bits(schedule):
    scale, std = schedule(schedule.T)
    x0 = data.train.double().flatten(1)
    return bits_per_dim(kl(scale * x0, std**2, torch.zeros_like(x0), 1.0).sum(1), x0.shape[1])  # (N,)


for name, each in ends.items():
    print(f"{name:20} {prior_bits(each).mean():.2e} bits/dim")
bits = prior_bits(schedule)
error = bits.std() / len(bits) ** 0.5 / (math.log(10) * bits.mean())
claims.measure("ddpm-prior", math.log10(3e-5) - bits.mean().log10(), error, f"{bits.mean():.2e} bits/dim")

# %% [markdown]
# ## Exercises
#
# 1. Find scale and std without `walk`'s loop.
# 2. Write $\tilde\mu_t$ from levels `(scale, std)` alone: `now` at $t$, `then` at $t-1$. Get $\beta_t$ from them.
#
# Solutions: `ddpm_path/lab/exercises/ddpm.py`.


# %%
def marginal_from_chain(betas, t):
    raise NotImplementedError  # your lines instead: return scale, std


_ = check(MARGINAL_FROM_CHAIN, marginal_from_chain)


# %%
def posterior_mean(x0, x, now, then):
    raise NotImplementedError  # your lines instead: return the mean


_ = check(POSTERIOR_MEAN, posterior_mean)

# %% [markdown]
# ## What to read next
#
# The paper's section 2. Then [`04_ddpm_reverse`](04_ddpm_reverse.ipynb): a network learns the way back.
