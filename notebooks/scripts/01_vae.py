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
# a network called the *decoder*. To train it we need $p(x)$, an integral over all $z$ that nobody can do. [Kingma and
# Welling](https://arxiv.org/abs/1312.6114) (2013) train a second network beside it. The *encoder* answers which $z$
# could have made this $x$: a normal distribution $q(z \mid x)$, given by mean $\mu$ and log-variance of each $z_j$.
# Both learn by ordinary gradients.
#
# Optional, says the article: take it if variational inference is new. A diffusion model is a VAE too.

# %%
import copy

import torch
from matplotlib import cm

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
    return fit - 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)


x, decoder = (torch.rand(4, 6) < 0.5).double(), torch.nn.Linear(2, 6).double()
mean, logvar, eps = 0.5 + torch.randn(3, 4, 2, dtype=torch.float64)
log_px = lambda x, z: vae.log_bernoulli(x, decoder(z)).sum(1)
torch.testing.assert_close(elbo(x, mean, logvar, eps, decoder), vae.sgvb_b(log_px, x, (mean, logvar), eps[None]))
print("as the package says, whose eps (L, B, J) holds L samples for each image")

# %% [markdown]
# ## A world where all is known
#
# With a linear decoder, $x = Wz + b +$ noise, the integral is easy: $p(x)$ and $p(z \mid x)$ are normal. The true
# posterior is tilted; our $q$ is *diagonal*, without tilt.
#
# The *importance-weighted* bound ([Burda](https://arxiv.org/abs/1509.00519), 2015) averages the weights $w_i = p(x,
# z_i) / q(z_i \mid x)$ of $k$ samples before the logarithm: $\log \frac1k \sum_i w_i$ (natural, so in *nats*).
#
# *Predict before you run:* does a large $k$ make up for the wrong shape?

# %%
weight = torch.tensor([[1.5, 0.9], [-0.4, 0.4], [0.9, 1.1]]).double()
world = vae.LinearGaussian(weight, torch.tensor([0.5, -1.0, 2.0]).double(), std=0.6)
x = torch.randn(2000, 2).double() @ weight.T + world.bias + 0.6 * torch.randn(2000, 3).double()
q, truth, ks = world.best_diagonal(x), world.log_evidence(x).mean(), (1, 3, 10, 30, 100, 300, 1000)
bounds = [vae.iwae(world.log_likelihood, x, q, torch.randn(k, 2000, 2).double()).mean() for k in ks]
print(f"log p(x) {truth:.3f}, ELBO of the best diagonal q {world.elbo(x, q).mean():.3f} nats")
right = torch.randn(2000, 2).double() @ torch.linalg.cholesky(world.precision.inverse()).T
ours = vae.reparameterise(world.best_diagonal(world.bias[None]), torch.randn(2000, 1, 2).double())[:, 0]
clouds = {"p(z)": torch.randn(2000, 2), "p(z | x) of x = b": right, "best diagonal q(z | x)": ours}
plots.show(plots.scatter(clouds, 3.2, columns=3), "A round cloud; a small tilted one; a smaller diagonal one in it.")
figure = plots.curves(ks, {"bound of k samples": bounds, "log p(x)": [truth] * 7}, "k", "nats")
figure.axes[0].set(xscale="log")
plots.show(figure, "The importance-weighted bound rises with k, steeply at first, and nears the line of log p(x).")

# %% [markdown]
# **You should see** a $q$ that is too small rather than too large (it must not go where $p$ is not), and a bound that
# climbs to the truth, ever more slowly. **If instead** it climbs clearly *above*, a density misses a term.
#
# ## Digits
#
# Pixels become black or white, so that probabilities are honest. Models with 2 and 10 latents train for seconds.
#
# *Predict:* which term grows with more latents?

# %%
data = datasets.digits()
train, test = ((images > 0).float() for images in (data.train, data.test))
_ = torch.manual_seed(0)  # whatever was drawn before
two, ten = vae.BernoulliVAE(256, latents=2), vae.BernoulliVAE(256, latents=10)
ill, rival = copy.deepcopy(ten), copy.deepcopy(ten)  # for later: the same first weights
for net in (two, ten):
    vaes.train(net, vae.sgvb_b, train, test, steps=1500)
    fit, cost = vaes.terms(net, test)
    bits = bits_per_dim(cost - fit, 256)
    print(f"test digits: reconstruction {fit:.1f} - KL {cost:.1f} = {fit - cost:.1f} nats, or {bits:.3f} bits/dim")


# %%
def images(binary):
    return 2 * binary.detach().view(-1, 1, 16, 16) - 1


some, names = test[[124, 263, 192, 56, 225, 51, 266, 287, 128, 52]], ("test digits", "2 latents", "10 latents", "drawn")
rows = [some.flatten(1), *(net.decode(net.posterior(some)[0]) for net in (two, ten)), ten.decode(torch.randn(10, 10))]
figure = plots.grid(images(torch.cat(rows)), 10, rows=names)
plots.show(figure, "Ten digits; soft copies from 2 latents, some hardly legible; clear ones from 10; ten new shapes.")

# %% [markdown]
# **You should see** better reconstructions with 10 latents, for a higher KL. Some drawn shapes are no digits.
#
# ## What the latents mean
#
# We walk along each of the four busiest latents, then map all test digits with the 2-latent model.

# %%
q = ten.posterior(test)
busiest = vae.kl_to_prior(q).mean(0).argsort(descending=True)[:4]
walk, names = torch.linspace(-2.5, 2.5, 11), [f"z{k}" for k in busiest.tolist()]
z = q[0][56].detach().repeat(4, 11, 1)
z[torch.arange(4), :, busiest] = walk
figure = plots.grid(images(ten.decode(z.flatten(0, 1))), 11, [f"{v:.1f}" for v in walk], names)
plots.show(figure, "A 3, changed along one latent a row, from -2.5 to 2.5: strokes bend, other digits appear.")

# %%
q = [each.detach() for each in two.posterior(test)]
z = vae.reparameterise(q, torch.randn(1, *q[0].shape))[0]
print("standard deviations of all samples:", *(f"{std:.2f}" for std in z.std(0)), "(the prior's: 1)")
figure = plots.scatter({"means of q": q[0], "samples of q": z}, 4, 2, torch.tensor(cm.tab10(data.test_labels)))
for k in range(10):
    figure.axes[0].text(*q[0][data.test_labels == k].mean(0).tolist(), str(k), weight="bold")
plots.show(figure, "Test digits in the plane of two latents, in patches by class: q's means and, alike, its samples.")
line = torch.special.ndtri(torch.linspace(0.03, 0.97, 13))
plane = torch.cartesian_prod(line.flip(0), line).flip(1)
plots.show(plots.grid(images(two.decode(plane)), 13, zoom=0.7), "The plane decoded on a grid: digits melt into others.")

# %% [markdown]
# **You should see** classes in patches, though nobody told the encoder, and a plane that decodes smoothly: the KL keeps
# neighbours together. But samples of $q$ lie wider than the prior, with gaps: hence the odd draws.
#
# ## The famous mistake: posterior collapse
#
# Many programs *average* the reconstruction over pixels but sum the KL. That makes $z$ 256 times dearer.
#
# *Predict:* what does the encoder answer? Does the damage last?


# %%
def averaged(log_px, x, q, eps):
    return vae.reconstruction(log_px, x, q, eps) / 256 - vae.kl_to_prior(q).sum(1)


log = vaes.train(ill, averaged, train, test, steps=500)
collapsed = ill.decode(ill.posterior(some)[0])
log += vaes.train(ill, vae.sgvb_b, train, test, steps=1000)  # the same network, now with sums
rows = [some.flatten(1), collapsed, ill.decode(ill.posterior(some)[0])]
terms = {"reconstruction error": [-entry.reconstruction for entry in log], "KL": [entry.kl for entry in log]}
figure = plots.curves(range(50, 1501, 50), terms, "step", "nats")
plots.show(figure, "Until step 500 error 99 and KL 0; then the error falls to 35 and the KL rises to 15.")
figure = plots.grid(images(torch.cat(rows)), 10, rows=("test digits", "collapsed", "cured"))
plots.show(figure, "Ten test digits; collapsed, the same grey blot ten times; cured, each digit again.")
rates = train.flatten(1).mean(0).expand(len(test), -1)
print(f"independent pixels: {vae.log_bernoulli(test.flatten(1), rates.logit(eps=1e-3)).sum(1).mean():.1f} nats")
print(f"collapsed VAE, the reconstruction alone: {log[9].reconstruction:.1f} nats")

# %% [markdown]
# **You should see** KL 0 and one blot for all: the decoder ignores $z$, and does no better than independent pixels. The
# right sum cures it. **If yours** collapses, look at the two terms apart.
#
# ## The bridge to diffusion
#
# Let the latents be noisy copies $x_1, \dots, x_T$ of the data, made by a *fixed* encoder: scale, add noise. Only the
# decoder, step by step from $x_t$ to $x_{t-1}$, is left to learn. That is DDPM, and its bound [Ho 2020, eq. 5] is this
# ELBO: a KL to the prior, a KL for each step, a reconstruction. Our data are two narrow peaks; the decoder knows the
# best guess of $x_0$, but each of its steps is a normal distribution.
#
# *Predict:* one step or many?

# %%
peaks = isotropic_mixture([0.3, 0.7], [[-1.0], [1.5]], std=0.15)
x0 = peaks.sample(20_000)[0]


def decode(x, now, then):
    return posterior(peaks.x0(x, now), x, now, then)[0], fixed_large(now, then).log()


def ddpm_bound(T):
    schedule = Discrete.from_betas(cosine_betas(T))
    x = q_sample(x0, torch.randn_like(x0), schedule(T))
    bound = -kl(schedule(T)[0] * x0, schedule(T)[1] ** 2, torch.zeros_like(x0), 1.0)
    for t in range(T, 1, -1):
        now, then = schedule(t), schedule(t - 1)
        mean, variance = posterior(x0, x, now, then)
        guess, logvar = decode(x, now, then)
        bound = bound - kl(mean, variance, guess, logvar.exp())
        x = mean + variance.sqrt() * torch.randn_like(x)
    return bound + vae.log_normal(x0, *decode(x, schedule(1), schedule(0)))


scale, std = Discrete.from_betas(cosine_betas(1))(1)
log_px = lambda x, z: vae.log_normal(x, *decode(z, (scale, std), (1.0, 0.0))).sum(1)
one = vae.sgvb_b(log_px, x0, (scale * x0, 2 * std.log().expand_as(x0)), torch.randn(1, *x0.shape).double())
print(f"one step: {ddpm_bound(1).mean():.3f} nats by DDPM's bound, {one.mean():.3f} by the VAE's, up to noise")
Ts, truth = (1, 2, 4, 8, 16, 32, 64, 128, 256), peaks.log_prob(x0, (1.0, 0.0)).mean()
figure = plots.curves(Ts, {"ELBO": [ddpm_bound(T).mean() for T in Ts], "log p(x)": [truth] * 9}, "T", "nats")
figure.axes[0].set(xscale="log")
plots.show(figure, "The ELBO rises with the number of steps, from -1.6 nats at one step, and meets log p(x) at -0.1.")

# %% [markdown]
# **You should see** the gap close, up to noise: many easy steps beat one clever one, and no encoder was trained.
#
# ## The claims, measured
#
# Estimator A averages $\log w$ [eq. 6]; B has the KL in closed form [eq. 7]. The paper expects less variance of B.
# Burda says that more samples are tighter, and better to train on.
#
# *Predict:* if $q$ is the *true* posterior, how much does $\log w$ vary?


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
# **You should see** the first claim fail: at the true posterior $\log w$ is constant, and our $q$ is near enough to
# give A less variance than B. But training uses gradients: there B is better, by a tenth.
#
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
# The paper's sections 2 and 3, `ddpm_path/vae.py`; then [`02_early_diffusion`](02_early_diffusion.ipynb), where the
# fixed encoder began.
