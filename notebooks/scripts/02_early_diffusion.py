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
# A model that is easy to sample is usually poor; a rich one is usually hard to sample, or to score.
# [Sohl-Dickstein et al.](https://arxiv.org/abs/1503.03585) (2015) borrowed a way out from physics: destroy the data in
# many small steps until only noise is left, and learn each step *back*. Small steps have simple reverses: a normal
# distribution for numbers, coin flips for bits. So the model is rich, and still exact to sample and to score.
#
# All later papers of this path build on this one. It has more than DDPM kept: learned variances, a learned noise
# schedule, binary data, and products of distributions.

# %%
import math

import torch
from tqdm import tqdm

from ddpm_path import early
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import BIT_POSTERIOR, GAUSSIAN_PRODUCT, check
from ddpm_path.samplers import start_noise
from ddpm_path.schedule import Discrete, on_schedule, uniform_times

torch.manual_seed(0)
seed, bit = torch.Generator().manual_seed, math.log(2)  # nats in a bit

# %% [markdown]
# ## The objective K
#
# The forward kernel $q(x_t \mid x_{t-1})$ is fixed, the steps back $p(x_{t-1} \mid x_t)$ are learned. As in a
# variational auto-encoder, $\log p(x_0)$ has a lower bound, and the paper raises it [eq. 14]:
#
# $$K = -\sum_{t=2}^{T} \mathbb E_q\, \mathrm{KL}\big(q(x_{t-1} \mid x_t, x_0) \,\|\, p(x_{t-1} \mid x_t)\big)
# + H_q(X_T \mid X_0) - H_q(X_1 \mid X_0) - H_p(X_T)$$
#
# Each step is compared with the step back *for known* $x_0$; $H$ are entropies. Larger is better. DDPM's $L$ is $-K$,
# up to how the last step, $x_1$ to $x_0$, is done.
#
# Bits first. Step $t$ keeps a bit with probability $1 - \beta_t$, else draws a new one, 1 with probability $\rho$. With
# $\beta_t = 1/(T - t + 1)$ each step erases an equal share: $P(x_t = 1 \mid x_0) = \rho + (x_0 - \rho)(T - t)/T$. The
# step back for known $x_0$ is Bayes' rule over two cases.


# %%
def bit_posterior(x0, x, t, T, rate):
    beta, keep = 1 / (T - t + 1), (T - t + 1) / T  # keep: the share of the data left at t - 1
    before = {1: rate + (x0 - rate) * keep, 0: 1 - rate - (x0 - rate) * keep}
    step = {b: (b * (1 - beta) + rate * beta) for b in before}  # P(x_t = 1 | x_{t-1} = b)
    joint = {b: before[b] * (x * step[b] + (1 - x) * (1 - step[b])) for b in before}
    return joint[1] / (joint[0] + joint[1])


heart = datasets.heartbeats()  # (5, 20)
chain = early.Binomial(early.fractional_betas(2000), rate=0.2)
x0 = heart.double()
for t in (1, 1000, 2000):
    x = chain.sample(x0, t)
    torch.testing.assert_close(bit_posterior(x0, x, t, 2000, 0.2), chain.posterior_rate(x0, x, t))
    print(f"t = {t:4}: Bayes' rule as in the package; share of ones in x_t {x.mean():.2f}")

# %% [markdown]
# ## Truth first: the heartbeat
#
# The data are five sequences of 20 bits, a 1 in every fifth place: $\log_2 p(x_0) = -\log_2 5 = -2.322$ bits. With so
# few, the best step back is an enumeration: weigh the five by how well they explain $x_t$. Its K is the most that
# *any* network can reach. It is below the truth, as a step draws its bits independently.
#
# *Predict before you run:* how do many small steps help? And what does prior rate 0.5 cost?

# %%
many = heart.repeat(200, 1)  # 1,000 sequences
null = -20 * float(early.binary_entropy(torch.tensor(0.2))) / bit
for T, rate in ((50, 0.2), (50, 0.5), (2000, 0.5)):
    other = early.Binomial(early.fractional_betas(T), rate)
    K = early.binomial_bound(early.best_logits(other, heart), other, many[:200], seed(1)) / bit
    print(f"best K at T = {T:4}, prior rate {rate}: {K.mean():.3f} +- {K.std() / 200**0.5:.3f} bits")
best_K = early.binomial_bound(early.best_logits(chain, heart), chain, many, seed(1)) / bit
print(f"best K at T = 2000, prior rate 0.2: {best_K.mean():.3f}; truth {-math.log2(5):.3f}; null model {null:.3f}")

# %% [markdown]
# **You should see** about -2.4 at 2,000 steps, a bit or more below at 50: two flips that belong together must
# not fall into the same step. **If instead** K exceeds -2.322, the bound is wrong: nothing beats the truth.
#
# ## Learn it
#
# The paper's network: three layers of 50 sigmoid units, shared, and a linear readout for every step. It answers by how
# much the odds of each bit differ from those of the step *forward*, so it starts as pure noise. Two thousand
# readouts would each see one example in 2,000; so they begin as mixtures of 21, and get free at the end.
#
# *Predict:* answering 0 is the null model, -14.44 bits. Where will 20 seconds of training end?


# %%
def ascend(objective, parameters, steps, rate, label):
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99))
    progress = tqdm(range(steps), desc=label)
    for step in progress:
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20) * math.cos(math.pi / 2 * step / steps) ** 2
        K = objective()
        optimiser.zero_grad()
        (-K).backward()
        optimiser.step()
        if step % 100 == 99:
            progress.set_postfix_str(f"K {K.item() / bit:.1f} bits")


def heart_objective(count):
    times = 2 + ((torch.arange(count) + torch.rand(count)) / count * 1999).long()  # evenly over the chain
    return -1999 * early.binomial_term(logits, chain, heart, times).mean() - first_entropy


net = early.StepwiseMLP(2000, 20)
logits = early.relative_bits(net, chain)
first_entropy = early.binary_entropy(chain.marginal_rate(heart, 1)).sum(1).mean()
ascend(lambda: heart_objective(100), net.parameters(), 5000, 0.02, "mixed readouts")
net.untie()
ascend(lambda: heart_objective(1999), net.parameters(), 60, 0.001, "free readouts")

# %%
with torch.no_grad():
    K = early.binomial_bound(logits, chain, many, seed(1)) / bit
gap, error = (best_K - K).mean(), (best_K - K).std() / len(K) ** 0.5
print(f"K = {K.mean():.3f} bits, {gap:.3f} +- {error:.3f} below the best; the paper's -2.414")
claims.measure("early-heartbeat", 0.15 - gap, error)
claims.measure("early-heartbeat-null", 0.15 - (K.mean() - null - 12.024).abs(), K.std() / len(K) ** 0.5)
noise = (torch.rand(30, 20, generator=seed(2)) < 0.2).float()
states = dict(early.walk_back_bits(logits, chain, noise, seed(3)))
shown = torch.stack([noise, *(states[t] for t in (1500, 1000, 500, 100, 0))])[:, None]  # (6, 1, 30, 20)
titles = ["noise", *(f"t = {t}" for t in (1500, 1000, 500, 100, 0))]
beats = (states[0][:, None] == heart).all(2).any(1)
print(f"{int(beats.sum())} of 30 samples are perfect heartbeats")
plots.show(
    plots.grid(2 * shown - 1, 6, titles, zoom=1.6),
    "Thirty rows of random bits become, over 2,000 steps back, rows with a 1 in every fifth place.",
)

# %% [markdown]
# **You should see** a K within 0.15 bits of the best, and stripes that form in the last half. **If instead** K is above
# the best, the network has seen $x_0$; if it stays near -14, the readouts do not learn.
#
# ## Numbers: learned mean, covariance and schedule
#
# For the Swiss roll the network is 16 normalised radial basis functions, again with a readout for each of 40 steps. It
# answers a mean *and* a variance. Two bounds say where that variance can lie, the entropies of
# $q(x_{t-1} \mid x_t, x_0)$ and of $q(x_t \mid x_{t-1})$: DDPM's "small" and "large".
#
# The $\beta_t$ are learned too, by raising K with the noise $\epsilon$ of each example frozen, so that $x_t$ is a
# function of $\beta$. Only $\beta_1$ is fixed: it could win bits by shrinking to 0.
#
# *Predict:* does a learned schedule help?

# %%
roll = datasets.swiss_roll(20_000, seed(0))
mean, spread = roll.mean(0), roll.std(0, correction=0)
roll = (roll - mean) / spread  # mean square 1, as K's first step supposes
start = torch.logit(1 / torch.linspace(40, 2, 40, dtype=torch.float64))[1:]


def schedule_of(free):
    return Discrete.from_betas(torch.cat([torch.tensor([0.001]), free.sigmoid()]))


def roll_objective():
    schedule, t = schedule_of(free), 2 + torch.arange(500) % 39
    x0, eps = roll[torch.randint(len(roll), (500,))], torch.randn(500, 2)
    term = early.gaussian_term(early.relative_to_forward(rbf, schedule), schedule, x0, t, eps)
    return early.entropies(schedule, 2) - 39 * term.mean()


fresh = datasets.swiss_roll(5000, seed(1))
turn = 1.5 * math.pi * (1 + 2 * ((torch.arange(2000) + 0.5) / 2000).sqrt())
curve = torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / (4.5 * math.pi)  # 2,000 points along the roll
near = -(torch.cdist(fresh, curve).double() ** 2) / (2 * 0.02**2) - math.log(2000 * 2 * math.pi * 0.02**2)
truth = (near.logsumexp(1) + spread.log().sum()) / bit
null = -math.log2(2 * math.pi * math.e)
for name, learned in (("fixed", False), ("learned", True)):
    free = start.clone().requires_grad_(learned)
    rbf = early.StepwiseRBF(40)
    ascend(roll_objective, [*rbf.parameters(), free][: 4 if learned else 3], 2500, 0.03, f"{name} schedule")
    with torch.no_grad():
        schedule = schedule_of(free)
        reverse = early.relative_to_forward(rbf, schedule)
        K = early.gaussian_bound(reverse, schedule, (fresh - mean) / spread, seed(1)) / bit
    print(f"{name} schedule: K = {K.mean():.2f} bits; truth {truth.mean():.2f}, null model {null:.2f}")
share = (K.mean() - null) / (truth.mean() - null)
error = (K - null - share * (truth - null)).std() / len(K) ** 0.5 / (truth.mean() - null)
claims.measure("early-roll", share - 0.5, error, f"{share:.2f} of the possible gain of {truth.mean() - null:.2f} bits")
states = dict(early.walk_back(reverse, schedule, start_noise(1500, (2,), seed(2)), generator=seed(3)))
panels = {"data": roll[:1500]} | {f"t = {t}": states[t] for t in (39, 20, 10, 5, 0)}
plots.show(plots.scatter(panels), "The standardised spiral; beside it noise that walks back: cloud, ring, spiral.")

# %% [markdown]
# **You should see** that the learned schedule wins, and a spiral that is roughly right: 16 functions and 40 steps are
# few.
#
# ## Multiply by what you know
#
# To denoise or to fill in, multiply the model by a function $r(x)$: near the noisy image, or equal to the known pixels.
# Each step back is multiplied by $r$. If $r$ is a normal distribution $\mathcal N(y, \tau^2)$, the product of two normal
# distributions is exact: precisions add. For any smooth $r$, move the mean by $\sigma^2 \nabla \log r$, where
# $\sigma^2$ is the step's variance: to first order the same.
#
# Truth on a line: data $\mathcal N(0, 1)$, whose exact step back is the step forward, and $r = \mathcal N(2, 0.1^2)$. By
# Bayes the product has mean 1.980 and standard deviation 0.0995.
#
# *Predict:* which forms get there, in 40 steps, in 1,000?

# %%
y, tau2 = torch.tensor(2.0), torch.tensor(0.01)
forms = {
    "exact product": early.multiply_gaussian(y, tau2),
    "gradient": early.shift_by_gradient(lambda mean: (y - mean) / tau2),
    "r follows the noise": lambda mean, var, now: early.multiply_gaussian(
        y / now[0], (tau2 + now[1] ** 2) / now[0] ** 2
    )(mean, var, now),
}
for T in (40, 1000):
    line = Discrete.from_betas(1 / torch.linspace(T, 2, T))
    forward = early.relative_to_forward(lambda x, t: (0 * x, 0 * x), line)
    for name, form in forms.items():
        *_, (_, x) = early.walk_back(forward, line, start_noise(2000, (10,), seed(0)), form, seed(1))
        print(f"T = {T:4}, {name:19}: mean {x.mean():10.3f}, standard deviation {x.std():.4f}")

# %% [markdown]
# **You should see** the gradient form explode at 40 steps, where a step's variance exceeds $2\tau^2$: a
# famous mistake of guidance. Exact products never do. But with the *same* $r$ at every level they end too narrow, also
# at 1,000 steps: each small step repeats the evidence, and in the limit it counts twice ($0.0705$). Exact is
# $r_t(x_t) = p(y \mid x_t)$, which follows the noise.
#
# ## Digits: denoise and fill in
#
# One chain serves both. Its means come from the small U-Net of notebook 04, unlabelled, on 25 steps; each step's
# variance is the one with the largest K on training digits. $r$ is the paper's, the same at all levels.
#
# *Predict:* half a digit is known. Will the other half be right, or only possible?

# %%
data = datasets.digits()
unet, whole = zoo.load("digits")
steps = Discrete(whole.alpha_bar[uniform_times(1000, 25)[::-1]])
eps_fn = clip_x0(on_schedule(unet, whole, steps), steps)
reverse = early.eps_reverse(eps_fn, steps, early.fit_variance(eps_fn, steps, data.train[:64], seed(0)))


def restore(multiply, count):
    *_, (_, x) = early.walk_back(reverse, steps, start_noise(count, (1, 16, 16), seed(1)), multiply, seed(2))
    return x


digits, tau = data.test[:12], 0.7
noisy = digits + tau * torch.randn(digits.shape, generator=seed(3))
rows = {
    "true": digits,
    "noisy": noisy,
    "exact product": restore(early.multiply_gaussian(noisy, torch.tensor(tau**2)), 12),
    "gradient": restore(early.shift_by_gradient(lambda mean: (noisy - mean) / tau**2), 12),
}
for name, images in rows.items():
    print(f"{name:14} root mean squared error {(images - digits).square().mean().sqrt():.3f}")
plots.show(
    plots.grid(torch.cat(list(rows.values())), 12, rows=tuple(rows), zoom=1.2),
    "Twelve digits, the same under heavy noise, and two rows of clean digits restored from it, nearly the true ones.",
)

# %%
known = torch.zeros_like(data.test, dtype=torch.bool)
known[..., 8:] = True  # the right half
filled = restore(early.inpainting(data.test, known), len(data.test))
rows = {"true": data.test, "mean-filled": torch.where(known, data.test, data.train.mean(0)), "inpainted": filled}
recogniser, seen = zoo.load_recogniser("digits-recogniser"), {}
for name, images in rows.items():
    sure, label = recogniser.log_probs(images).exp().max(1)
    seen[name] = ((label == data.test_labels) & (sure > metrics.CONFIDENT)).double()
    print(f"{name:12} seen as its own class: {seen[name].mean():.3f}")
gain = seen["inpainted"] - seen["mean-filled"]
claims.measure("early-inpaint", gain.mean(), gain.std() / len(gain) ** 0.5)
plots.show(
    plots.grid(torch.cat([images[:12] for images in rows.values()]), 12, rows=tuple(rows), zoom=1.2),
    "Twelve digits; their left halves grey and blurred; their left halves drawn anew, plausible, not always the same.",
)

# %% [markdown]
# **You should see** clean digits, and halves that fit, though some make another digit: half of a 3 may be half of an 8.
# **If instead** the known half is not exactly there, the last step was not multiplied.
#
# ## Exercises
#
# 1. The posterior of a bit from two rates alone: `before` $= P(x_{t-1} = 1 \mid x_0)$, and $\beta_t$, $\rho$.
# 2. The mean and variance of a product of two normal distributions.
#
# Solutions: `ddpm_path/lab/exercises/early.py`.


# %%
def bit_posterior(before, x, beta, rate):
    raise NotImplementedError  # your lines instead: return P(x_{t-1} = 1 | x_t = x)


def gaussian_product(mean, var, centre, tau2):
    raise NotImplementedError  # your lines instead: return mean, variance


_ = check(BIT_POSTERIOR, bit_posterior)
_ = check(GAUSSIAN_PRODUCT, gaussian_product)

# %% [markdown]
# ## What to read next
#
# Sections 2 and 3 of the paper, and `ddpm_path/early.py`. Then `03_ddpm_forward`: five years later, with most of this
# left out.
