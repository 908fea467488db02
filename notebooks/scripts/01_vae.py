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
# # 01 · Variational auto-encoders
#
# Suppose each image $x$ comes from a few hidden numbers $z$: draw $z \sim \mathcal N(0, I)$, then $x \sim p(x \mid z)$,
# a network called the *decoder*. To train it we need $p(x)$, an integral over all $z$ that nobody can do.
# [Kingma and Welling](https://arxiv.org/abs/1312.6114) (2013) train a second network beside it. The *encoder* answers
# which $z$ could have made this $x$: a normal distribution $q(z \mid x)$, by mean $\mu$ and log-variance. Both learn
# by ordinary gradients.
#
# The article calls this stop optional: take it if variational inference is new to you. A diffusion model is such a
# model too, as we shall see.

# %%
import copy

import torch

from ddpm_path import vae
from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import bits_per_dim, fixed_large, kl, posterior, q_sample
from ddpm_path.lab import claims, datasets, plots, vaes
from ddpm_path.lab.exercises import IMPORTANCE_BOUND, KL_OF_NORMALS, check
from ddpm_path.schedule import Discrete, cosine_betas

_ = torch.manual_seed(0)

# %% [markdown]
# ## The bound
#
# For any $q$, the *evidence lower bound* (ELBO) lies below $\log p(x)$, by exactly the Kullback-Leibler divergence
# (KL) from $q$ to the true $p(z \mid x)$ [eq. 1-3]:
#
# $$\log p(x) \;\ge\; \underbrace{\mathbb E_q \log p(x \mid z)}_{\text{reconstruction}}
# - \underbrace{\mathrm{KL}\big(q(z \mid x) \,\|\, \mathcal N(0, I)\big)}_{\text{what } z \text{ costs}}$$
#
# The trick: a sample is *computed*, $z = \mu + \sigma\epsilon$ with $\epsilon \sim \mathcal N(0, I)$, so gradients
# reach the encoder. Both terms are **sums** over dimensions.


# %%
def elbo(x, mean, logvar, eps, decoder):
    z = mean + (logvar / 2).exp() * eps
    logits = decoder(z)
    fit = (x * logits - torch.log1p(logits.exp())).sum(1)  # binary pixels
    cost = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)
    return fit - cost


x, decoder = (torch.rand(4, 6) < 0.5).double(), torch.nn.Linear(2, 6).double()
mean, logvar, eps = 0.5 + torch.randn(3, 4, 2, dtype=torch.float64)
log_px = lambda x, z: vae.log_bernoulli(x, decoder(z)).sum(1)  # noqa: E731
by_package = vae.sgvb_b(log_px, x, (mean, logvar), eps[None])  # (L, B, J) with L = 1 sample
torch.testing.assert_close(elbo(x, mean, logvar, eps, decoder), by_package)
print("as the package says, in nats for each of 4 images:", by_package.detach().numpy().round(2))

# %% [markdown]
# ## A world where all is known
#
# With a linear decoder, $x = Wz + b +$ noise, the integral is easy: $p(x)$ and $p(z \mid x)$ are normal. The true
# posterior is tilted; our $q$ has no tilt to give.
#
# The *importance-weighted* bound ([Burda](https://arxiv.org/abs/1509.00519), 2015) averages the weights
# $w_i = p(x, z_i) / q(z_i \mid x)$ of $k$ samples before the logarithm: $\log \frac1k \sum_i w_i$.
#
# *Predict before you run:* does a large $k$ make up for the wrong shape?

# %%
weight = torch.tensor([[1.5, 0.9], [-0.4, 0.4], [0.9, 1.1]]).double()
world = vae.LinearGaussian(weight, torch.tensor([0.5, -1.0, 2.0]).double(), std=0.6)
x = torch.randn(2000, 2).double() @ weight.T + world.bias + 0.6 * torch.randn(2000, 3).double()
q, truth, ks = world.best_diagonal(x), world.log_evidence(x).mean(), (1, 2, 5, 10, 20, 50, 100)
bounds = [vae.iwae(world.log_likelihood, x, q, torch.randn(k, 2000, 2).double()).mean() for k in ks]
print(f"log p(x) {truth:.3f}, ELBO of the best upright q {world.elbo(x, q).mean():.3f} nats")
right = q[0][0] + torch.randn(2000, 2).double() @ torch.linalg.cholesky(world.precision.inverse()).T
ours = vae.reparameterise((q[0][:1], q[1][:1]), torch.randn(2000, 1, 2).double())[:, 0]
clouds = {"p(z)": torch.randn(2000, 2), "p(z | x) of one x": right, "best upright q(z | x)": ours}
plots.show(plots.scatter(clouds, 3.2, columns=3), "A round cloud; a small tilted one; a smaller upright one inside it.")
figure = plots.curves(ks, {"bound of k samples": bounds, "log p(x)": [truth] * 7}, "k", "nats")
figure.axes[0].set(xscale="log")
plots.show(figure, "The importance-weighted bound rises with k, steeply at first, and meets the line of log p(x).")

# %% [markdown]
# **You should see** a $q$ that is too small rather than too large (it must not go where $p$ is not), and a bound that
# climbs to the truth. **If instead** it climbs *above* by more than noise, a density misses a term.
#
# ## Digits
#
# Pixels become black or white, so that probabilities are honest. Two models, with 2 and 10 latents, train for some
# seconds each. For scale: independent pixels, each with its own average, give -98.5.
#
# *Predict:* which term grows with more latents?

# %%
data = datasets.digits()
train, test = ((images > 0).float() for images in (data.train, data.test))
two, ten = vae.BernoulliVAE(256, latents=2), vae.BernoulliVAE(256, latents=10)
ill, rival = copy.deepcopy(ten), copy.deepcopy(ten)  # for later: the same first weights
for net in (two, ten):
    vaes.train(net, vae.sgvb_b, train, test, steps=1500)
    fit, cost = vaes.terms(net, test)
    bits = f"{bits_per_dim(torch.tensor(cost - fit), 256):.3f} bits/dim"
    print(f"test digits: reconstruction {fit:.1f} - KL {cost:.1f} = bound {fit - cost:.1f} nats, or {bits}")


# %%
def images(binary):
    return 2 * binary.detach().view(-1, 1, 16, 16) - 1


some, names = test[[3, 40, 80, 118, 150, 190, 220, 260, 300, 340]], ("test digits", "2 latents", "10 latents", "drawn")
rows = [some.flatten(1), *(net.decode(net.posterior(some)[0]) for net in (two, ten)), ten.decode(torch.randn(10, 10))]
plots.show(
    plots.grid(images(torch.cat(rows)), 10, rows=names),
    "Ten binary test digits; soft reconstructions from 2 latents, some wrong, and from 10, right; ten new shapes.",
)

# %% [markdown]
# **You should see** reconstructions improve with 10 latents, for a higher KL. The drawn digits are soft, not all of
# them digits: $q$'s clouds do not fill the prior evenly. Diffusion will do better.
#
# ## What the latents mean
#
# We walk along each of the four busiest latents, then map all test digits with the 2-latent model.

# %%
q = ten.posterior(test)
busiest = vae.kl_to_prior(q).mean(0).argsort(descending=True)[:4].tolist()
walk = torch.linspace(-2.5, 2.5, 11)
z = q[0][118].detach().repeat(4, 11, 1)
for row, latent in zip(z, busiest, strict=True):
    row[:, latent] = walk
plots.show(
    plots.grid(images(ten.decode(z.flatten(0, 1))), 11, [f"{v:.1f}" for v in walk], [f"z{k}" for k in busiest]),
    "Four rows, one latent each, from -2.5 to 2.5: the same digit is bent step by step into others.",
)

# %%
q = two.posterior(test)
panels = {"means of q": q[0], "samples of q": vae.reparameterise(q, torch.randn(1, *q[0].shape))[0]}
panels = {name: z.detach() for name, z in (panels | {"the prior": torch.randn_like(q[0])}).items()}
figure = plots.scatter(panels, 3.5, 3, data.test_labels)
for k in range(10):
    figure.axes[0].text(*q[0][data.test_labels == k].mean(0).tolist(), str(k), weight="bold")
plots.show(figure, "Test digits in the plane of two latents, in patches by class; samples of q fill it like the prior.")
line = torch.special.ndtri(torch.linspace(0.03, 0.97, 13))
plane = torch.cartesian_prod(line.flip(0), line).flip(1)
plots.show(plots.grid(images(two.decode(plane)), 13, zoom=0.7), "The plane decoded on a grid: digits melt into others.")

# %% [markdown]
# **You should see** classes in patches that the encoder was never told, and every point of the plane decode to
# something: the KL keeps the clouds together.
#
# ## The famous mistake: posterior collapse
#
# Many a program *averages* the reconstruction over pixels, as losses often are, but sums the KL. That makes $z$ 256
# times dearer.
#
# *Predict:* what does the encoder answer? And does the damage last?


# %%
def averaged(log_px, x, q, eps):
    return vae.reconstruction(log_px, x, q, eps) / 256 - vae.kl_to_prior(q).sum(1)


log = vaes.train(ill, averaged, train, test, steps=500)
collapsed = ill.decode(ill.posterior(some)[0])
log += vaes.train(ill, vae.sgvb_b, train, test, steps=1000)  # the same network, now with sums
rows = [some.flatten(1), collapsed, ill.decode(ill.posterior(some)[0])]
terms = {"reconstruction error": [-entry.reconstruction for entry in log], "KL": [entry.kl for entry in log]}
plots.show(
    plots.curves(range(50, 1501, 50), terms, "step", "nats"),
    "For 500 steps the error stays near 99 and the KL at 0; then the error falls below 40 while the KL rises to 14.",
)
plots.show(
    plots.grid(images(torch.cat(rows)), 10, rows=("test digits", "collapsed", "cured")),
    "Ten test digits; collapsed, the same grey blot ten times; cured, each digit again.",
)

# %% [markdown]
# **You should see** KL 0 and one blot for all: the decoder ignores $z$, and is worth what independent pixels are. The
# right sum cures it. **If yours** collapses, look at the two terms apart.
#
# ## The bridge to diffusion
#
# Let the latents be noisy copies $x_1, \dots, x_T$ of the data, made by a *fixed* encoder: scale, add noise. Only the
# decoder, step by step from $x_t$ to $x_{t-1}$, is left to learn. That is DDPM, and its bound [Ho 2020, eq. 5] is this
# ELBO: a KL to the prior, a KL for each step, a reconstruction. Our decoder is perfect but for its shape, a normal
# distribution; the data are two narrow peaks.
#
# *Predict:* one step or many?

# %%
peaks = isotropic_mixture([0.3, 0.7], [[-1.0], [1.5]], std=0.15)
x0 = peaks.sample(20_000)[0]


def decoder(x, now, then):
    return posterior(peaks.x0(x, now), x, now, then)[0], fixed_large(now, then)


def ddpm_bound(T):
    schedule = Discrete.from_betas(cosine_betas(T))
    x = q_sample(x0, torch.randn_like(x0), schedule(T))
    bound = -kl(schedule(T)[0] * x0, schedule(T)[1] ** 2, torch.zeros_like(x0), 1.0)
    for t in range(T, 1, -1):
        mean, variance = posterior(x0, x, schedule(t), schedule(t - 1))
        bound = bound - kl(mean, variance, *decoder(x, schedule(t), schedule(t - 1)))
        x = mean + variance.sqrt() * torch.randn_like(x)
    mean, variance = decoder(x, schedule(1), schedule(0))
    return bound + vae.log_normal(x0, mean, variance.log())


Ts, truth = (1, 2, 4, 8, 16, 32, 64, 128, 256), peaks.log_prob(x0, (1.0, 0.0)).mean()
figure = plots.curves(Ts, {"ELBO": [ddpm_bound(T).mean() for T in Ts], "log p(x)": [truth] * 9}, "T", "nats")
figure.axes[0].set(xscale="log")
plots.show(figure, "The ELBO rises with the number of steps, from -1.6 nats at one step, and meets log p(x) at -0.1.")

# %% [markdown]
# **You should see** the gap close: many easy steps beat one clever one, without training any encoder.
#
# ## The claims, measured
#
# A is the mean of $\log w$ [eq. 6]; B uses the KL in closed form [eq. 7]. The paper expects less variance of B. Burda
# says that more samples are tighter, and better to train on.


# %%
def report(key, margins):
    claims.measure(key, margins.mean(), margins.std() / len(margins) ** 0.5)


a, b = (vaes.variances(ten, estimator, test, draws=200, seed=1) for estimator in (vae.sgvb_a, vae.sgvb_b))
for key, of_a, of_b in zip(("vae-b-value", "vae-b-gradient"), a, b, strict=True):
    report(key, (of_a / of_b).log())
bounds = [vaes.evaluate(ten, vae.iwae, test, k, seed=k) for k in (1, 5, 50)]
report("vae-iwae-tighter", min(bounds[1] - bounds[0], bounds[2] - bounds[1], key=torch.mean))
vaes.train(rival, vae.iwae, train, test, steps=1500, samples=5)
log_p = [vaes.evaluate(net, vae.iwae, test, 500, seed=3) for net in (ten, rival)]
report("vae-iwae-trains", log_p[1] - log_p[0])

# %% [markdown]
# ## Exercises
#
# 1. The bound of $k$ samples from their $\log w$, `(k, B)`. Beware of $e^{-2000}$.
# 2. The KL of two normal distributions, for each dimension.
#
# Solutions: `ddpm_path/lab/exercises/vae.py`.


# %%
def importance_bound(log_w):
    raise NotImplementedError  # your lines instead: return the bounds, (B,)


def kl_of_normals(mean1, var1, mean2, var2):
    raise NotImplementedError  # your lines instead: return the KL, shaped like mean1


_ = check(IMPORTANCE_BOUND, importance_bound)
_ = check(KL_OF_NORMALS, kl_of_normals)

# %% [markdown]
# ## What to read next
#
# The paper's sections 2 and 3, `ddpm_path/vae.py`; then `02_early_diffusion`, where the fixed encoder began.
