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
# # 02 · Diffusion begins
#
# A model that is easy to sample is usually poor, a rich one hard to sample or to score.
# [Sohl-Dickstein et al.](https://arxiv.org/abs/1503.03585) (2015) took a way out from physics: destroy the data in many
# small steps, and learn each step *back*. Small steps have simple reverses: normal distributions for numbers, coin
# flips for bits.
#
# It has more than DDPM kept: learned variances, a learned schedule, binary data, products of distributions.

# %%
import math

import torch

from ddpm_path import early
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import claims, datasets, metrics, plots, train, zoo
from ddpm_path.lab.exercises import BIT_MARGINAL, GAUSSIAN_PRODUCT, check
from ddpm_path.samplers import start_noise
from ddpm_path.schedule import Discrete, on_schedule, uniform_times

torch.manual_seed(0)
bit = math.log(2)  # in nats
seed = lambda k: torch.Generator().manual_seed(k)

# %% [markdown]
# ## The objective K
#
# The steps forward, $q(x_t \mid x_{t-1})$, are fixed, the steps back, $p(x_{t-1} \mid x_t)$, learned. The paper raises
# a lower bound on $\log p(x_0)$ [eq. 14]:
#
# $$K = -\sum_{t=2}^{T} \mathbb E_q\, \mathrm{KL}\big(q(x_{t-1} \mid x_t, x_0) \,\|\, p(x_{t-1} \mid x_t)\big)
# + H_q(X_T \mid X_0) - H_q(X_1 \mid X_0) - H_p(X_T)$$
#
# $H$ are entropies; each step is compared with the step back for *known* $x_0$. Larger is better.
#
# Bits first. Step $t$ keeps a bit with probability $1 - \beta_t$, else draws a new one, 1 with probability $\rho$. With
# $\beta_t = 1/(T - t + 1)$ each step erases an equal share: $P(x_t = 1 \mid x_0) = \rho + (x_0 - \rho)(T - t)/T$. The
# step back for known $x_0$ is Bayes' rule over two cases.


# %%
def step_back(x0, x, t, T=2000, rate=0.2):
    beta, kept = 1 / (T - t + 1), (T - t + 1) / T  # kept: the data's share at t - 1
    before = rate + (x0 - rate) * kept  # P(x_{t-1} = 1 | x_0)
    one, zero = 1 - beta + rate * beta, rate * beta  # P(x_t = 1) from a 1, from a 0
    one, zero = (torch.where(x == 1, p, 1 - p) for p in (one, zero))
    return before * one / (before * one + (1 - before) * zero)


heart = datasets.heartbeats()  # (5, 20)
chain = early.Binomial(early.fractional_betas(2000), rate=0.2)
for t in (1, 1000, 2000):
    x0, x = heart.double(), chain.sample(heart.double(), t)
    torch.testing.assert_close(step_back(x0, x, t), chain.posterior_rate(x0, x, t))
    print(f"t = {t:4}: Bayes' rule as in the package; share of ones in x_t {x.mean():.2f}")

# %% [markdown]
# ## Truth first: the heartbeat
#
# The data are five sequences of 20 bits, a 1 in every fifth place: $\log_2 p(x_0) = -\log_2 5$. The best step back
# weighs all five by how well they explain $x_t$. No network can reach a larger K.
#
# *Predict before you run:* what do fewer steps cost?

# %%
many = heart.repeat(200, 1)  # 1,000 sequences
null = -20 * float(early.binary_entropy(torch.tensor(0.2))) / bit
for other in (early.Binomial(early.fractional_betas(T), rate) for T, rate in ((50, 0.5), (50, 0.2), (2000, 0.2))):
    best_K = early.binomial_bound(early.best_logits(other, heart), other, many, seed(1)) / bit
    print(f"T = {other.T:4}, rate {other.rate}: K {best_K.mean():.3f}; truth {-math.log2(5):.3f}, null {null:.3f} bits")

# %% [markdown]
# **You should see** about -2.4 at 2,000 steps, a bit or more below at 50: bits of one step are drawn independently, so
# two that belong together should not flip in one step. **If instead** K exceeds -2.322, it is no bound.
#
# ## Learn it
#
# The paper's network: three layers of 50 sigmoid units, and a linear readout for every step. Here it answers how far
# the odds of each bit differ from those of the step *forward*. A readout would see one example in 2,000: so all
# begin as mixtures of 21, and get free at the end.
#
# *Predict:* answering 0 gives independent bits. Where will half a minute lead?


# %%
def heart_objective(count):
    times = 1 + train.stratified_times(count, 1999, torch.default_generator).long()  # evenly over 2..2000
    return -1999 * early.binomial_term(logits, chain, heart, times).mean()


net = early.StepwiseMLP(2000, 20)
logits = early.relative_bits(net, chain)
train.maximise(lambda: heart_objective(100), net.parameters(), 5000, 0.02, "mixed readouts")
net.untie()
train.maximise(lambda: heart_objective(1999), net.parameters(), 60, 0.001, "free readouts")

# %%
K = early.binomial_bound(logits, chain, many, seed(1)) / bit
gap, error = best_K - K, (best_K - K).std() / len(K) ** 0.5
claims.measure("early-heartbeat", 0.15 - gap.mean().abs(), error, f"K {K.mean():.3f}, {gap.mean():.3f} below the best")
claims.measure("early-heartbeat-null", 0.15 - (K.mean() - null - 12.024).abs(), K.std() / len(K) ** 0.5)
noise = (torch.rand(20, 20, generator=seed(2)) < 0.2).float()
states = {2000: noise} | dict(early.walk_back_bits(logits, chain, noise, seed(3)))
shown = {f"t = {t}": states[t][states[0].argmax(1).argsort()] for t in (2000, 1500, 1000, 500, 100, 0)}
print(f"{int((states[0][:, None] == heart).all(2).any(1).sum())} of 20 samples are perfect heartbeats")
plots.show(
    plots.grid(2 * torch.stack(list(shown.values()))[:, None] - 1, 6, list(shown), zoom=2.4),
    "Twenty rows of random bits become, over 2,000 steps back, rows with a 1 in every fifth place, sorted by phase.",
)

# %% [markdown]
# **You should see** K close below the best, and stripes. **If instead** K is above it, the network was shown $x_0$.
#
# ## Numbers: mean, covariance and schedule learned
#
# For the Swiss roll: 16 normalised radial basis functions, a readout for each of 40 steps, which answers a mean *and* a
# variance. The $\beta_t$ are learned too: with each example's noise $\epsilon$ frozen, $x_t$ is a function of $\beta$,
# and K has a gradient. Only $\beta_1$ is fixed.
#
# *Predict:* does a learned schedule help?

# %%
roll, fresh = datasets.swiss_roll(20_000, seed(0)), datasets.swiss_roll(5000, seed(1))
mean, spread = roll.mean(0), roll.std(0, correction=0)
roll, fresh, truth = (roll - mean) / spread, (fresh - mean) / spread, datasets.swiss_roll_log_prob(fresh)
truth, null = (truth + spread.log().sum()) / bit, -math.log2(2 * math.pi * math.e)


def schedule_of(free):
    return Discrete.from_betas(torch.cat([torch.tensor([0.001]), free.sigmoid()]))


def roll_objective():
    schedule, t, eps = schedule_of(free), 2 + torch.arange(507) % 39, torch.randn(507, 2)
    reverse, x0 = early.relative_to_forward(rbf, schedule), roll[torch.randint(len(roll), (507,))]
    return early.entropies(schedule, 2) - 39 * early.gaussian_term(reverse, schedule, x0, t, eps).mean()


panels = {}
for units, name in ((16, "fixed"), (64, "learned"), (16, "learned")):
    rbf, free = early.StepwiseRBF(40, units=units), torch.logit(1 / torch.linspace(39, 2, 39, dtype=torch.float64))
    free.requires_grad_(name == "learned")
    train.maximise(roll_objective, [*rbf.parameters(), free], 1500, 0.03, f"{units}, {name}")
    schedule = schedule_of(free.detach())
    reverse = early.relative_to_forward(rbf, schedule)
    K = early.gaussian_bound(reverse, schedule, fresh, seed(1)).detach() / bit
    print(f"{units}, {name} schedule: K = {K.mean():.2f} bits; truth {truth.mean():.2f}, a unit Gaussian {null:.2f}")
    states = dict(early.walk_back(reverse, schedule, start_noise(1500, (2,), seed(2)), generator=seed(3)))
    panels |= {f"{units}, {name}: t = {t}": states[t] for t in (39, 20, 10, 5, 0)}
share = (K.mean() - null) / (truth.mean() - null)
error = (K - null - share * (truth - null)).std() / len(K) ** 0.5 / (truth.mean() - null)
claims.measure("early-roll", share - 0.5, error, f"{share:.2f} of what is to be gained")
plots.show(plots.scatter(panels, columns=5), "Noise walks back to a ring, a clean spiral, and a blurred spiral.")

# %% [markdown]
# **You should see** the learned schedule win; 16 functions blur the inner arm, 64 draw it.
#
# ## Multiply by what you know
#
# To restore an image, multiply the model by a function $r(x)$, high near what was seen: each step back is multiplied
# by $r$. For $r = \mathcal N(y, \tau^2)$ the product is exact: precisions add. For any smooth $r$, move the
# mean by $\sigma^2 \nabla \log r$, $\sigma^2$ the step's variance.
#
# Truth on a line: data $\mathcal N(0, 1)$, $r = \mathcal N(2, 0.1^2)$. By Bayes the product has mean 1.980 and standard
# deviation 0.0995.
#
# *Predict:* which forms get there, in 40 steps, in 1,000?

# %%
y, tau2 = torch.tensor(2.0), torch.tensor(0.01)


def following(mean, var, now):  # r_t(x_t) = p(y | x_t), for these data
    return early.multiply_gaussian(y / now[0], (tau2 + now[1] ** 2) / now[0] ** 2)(mean, var, now)


gradient = early.shift_by_gradient(lambda mean: (y - mean) / tau2)
forms = {"exact product": early.multiply_gaussian(y, tau2), "gradient": gradient, "r follows t": following}
for T in (40, 1000):
    line = Discrete.from_betas(1 / torch.linspace(T, 2, T))
    forward = early.relative_to_forward(lambda x, t: (0 * x, 0 * x), line)  # exact, for these data
    for name, form in forms.items():
        *_, (_, x) = early.walk_back(forward, line, start_noise(2000, (10,), seed(0)), form, seed(1))
        print(f"T = {T:4}, {name:13}: mean {x.mean():.3g}, standard deviation {x.std():.4g}")

# %% [markdown]
# **You should see** the gradient explode at 40 steps, where $\sigma^2 > 2\tau^2$: a famous mistake. The product is
# stable, yet too narrow even at 1,000: each small step repeats the same evidence. Right, in many steps, is an $r$ that
# follows the noise (the last step adds none).
#
# ## Digits: denoise and fill in
#
# One chain for both. Its means come from notebook 04's small U-Net, on 25 steps; each step's variance is the one with
# the largest K on training digits. $r$ is the paper's, the same at all steps.
#
# *Predict:* half a digit is known. Will the other be right, or only possible?

# %%
data, (unet, whole) = datasets.digits(), zoo.load("digits")
steps = Discrete(whole.alpha_bar[uniform_times(1000, 25)[::-1]])
eps_fn = clip_x0(on_schedule(unet, whole, steps), steps)
reverse = early.eps_reverse(eps_fn, steps, early.fit_variance(eps_fn, steps, data.train[:64], seed(0)))


def restore(multiply, count):
    return list(early.walk_back(reverse, steps, start_noise(count, (1, 16, 16), seed(1)), multiply, seed(2)))[-1][1]


digits, tau = data.test[:12], 0.7
noisy = digits + tau * torch.randn(digits.shape, generator=seed(3))
rows = {"true": digits, "noisy": noisy}
rows["exact product"] = restore(early.multiply_gaussian(noisy, torch.tensor(tau**2)), 12)
rows["gradient"] = restore(early.shift_by_gradient(lambda mean: (noisy - mean) / tau**2), 12)
print({name: f"error {(images - digits).square().mean().sqrt():.3f}" for name, images in rows.items()})
plots.show(
    plots.grid(torch.cat(list(rows.values())), 12, rows=tuple(rows), zoom=1.2),
    "Twelve digits, the same under heavy noise, and two rows of clean digits restored from it, close to the true ones.",
)

# %%
known = (torch.arange(16) >= 8).expand_as(data.test)  # the right halves
filled = restore(early.inpainting(data.test, known), len(data.test))
rows = {"true": data.test, "mean-filled": torch.where(known, data.test, data.train.mean(0)), "inpainted": filled}
recogniser, seen = zoo.load_recogniser("digits-recogniser"), {}
for name, images in rows.items():
    seen[name] = metrics.seen_as(recogniser, images, data.test_labels).double()
print("recognised:", {name: round(float(each.mean()), 3) for name, each in seen.items()})
gain = seen["inpainted"] - seen["mean-filled"]
claims.measure("early-inpaint", gain.mean(), gain.std() / 355**0.5)
plots.show(
    plots.grid(torch.cat([images[:12] for images in rows.values()]), 12, rows=tuple(rows), zoom=1.2),
    "Twelve digits; their left halves blurred and grey; their left halves drawn anew, plausible, not always the same.",
)

# %% [markdown]
# **You should see** halves that fit, some of another digit: half a 3 is half an 8. Here $r$ is a delta: it has no
# gradient form.
#
# ## Exercises
#
# 1. How likely is a bit to be 1 after $t$ steps, with any betas (`betas[0]` is step 1)?
# 2. The mean and variance of a product of two normal distributions.
#
# Solutions: `ddpm_path/lab/exercises/early.py`.


# %%
def bit_marginal(x0, betas, t, rate):
    raise NotImplementedError  # your lines instead: return P(x_t = 1 | x_0), shaped like x0


def gaussian_product(mean, var, centre, tau2):
    raise NotImplementedError  # your lines instead: return mean, variance


_ = check(BIT_MARGINAL, bit_marginal), check(GAUSSIAN_PRODUCT, gaussian_product)

# %% [markdown]
# ## What to read next
#
# The paper's sections 2 and 3. Then [`03_ddpm_forward`](03_ddpm_forward.ipynb).
