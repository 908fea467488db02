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
# # 05 · DDPM: the likelihood
#
# Notebook 04 trained on a squared error and judged by eye. But DDPM is a model of probabilities: with it one can
# compress an image without loss, and count bits. [Ho, Jain and Abbeel](https://arxiv.org/abs/2006.11239) derive their
# loss from that count, then throw its weights away. What does this buy, and what does it cost? And where do a model's
# errors come from?
#
# Reading: sections 3.3 to 4.3 of the paper. You need 03 and 04.

# %%
from functools import partial
from itertools import pairwise

import torch
from tqdm import tqdm

from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import discretised_log_prob, fixed_large, fixed_small, posterior, q_sample, x0_from_eps
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import claims, datasets, metrics, plots, train, zoo
from ddpm_path.lab.exercises import BIN_LOG_PROB, BOUND_WEIGHT, check
from ddpm_path.losses import EPS, X0, bound_loss, bound_term, bound_terms, chain_mean, fixed_variance, prior_term, simple
from ddpm_path.samplers import ancestral, ddim, last, start_noise
from ddpm_path.schedule import Discrete, linear_betas, uniform_times
from ddpm_path.vae import log_normal

seed = lambda k: torch.Generator().manual_seed(k)  # noqa: E731
betas = linear_betas()  # betas[0] is step 1
schedule = Discrete.from_betas(betas)
bars, every, ln2 = schedule.alpha_bar, list(range(1000, -1, -1)), torch.tensor(2.0).log()
data = datasets.digits()

# %% [markdown]
# ## The bound, term by term
#
# Send $x_T$, then each $x_{t-1}$ given $x_t$, at last the image. On average that costs [eq. 5]
#
# $$\underbrace{KL(q(x_T|x_0)\,\|\,p(x_T))}_{\text{prior}} + \sum_{t>1} \underbrace{KL(q(x_{t-1}|x_t,x_0)\,\|\,
# p_\theta(x_{t-1}|x_t))}_{L_{t-1}} \underbrace{- \log p_\theta(x_0|x_1)}_{L_0}$$
#
# With equal variances a KL is a squared distance of means. An image has 256 grey levels, so $p_\theta(x_0|x_1)$ is the
# mass of a normal distribution in a pixel's *bin*; the outermost bins are open. We count bits per dimension (pixel):
# a mean over pixels, a *sum* over $t$.


# %%
def term(x0, eps, guess, t):
    before, now = schedule(t - 1), schedule(t)
    x, beta = q_sample(x0, eps, now), betas[t - 1]
    mean = (x - beta / now[1] * guess) / (1 - beta).sqrt()
    if t > 1:
        true_mean, ratio = posterior(x0, x, now, before)[0], (before[1] / now[1]) ** 2  # of the variances
        return 0.5 * (ratio - 1 - ratio.log() + (true_mean - mean) ** 2 / beta) / ln2
    normal = torch.distributions.Normal(mean, (betas[1] * (1 - bars[1]) / (1 - bars[2])).sqrt())  # step 2's variance
    low, high = torch.where(x0 > -0.999, x0 - 1 / 255, -9), torch.where(x0 < 0.999, x0 + 1 / 255, 9)
    return -(normal.cdf(high) - normal.cdf(low)).log2()


x0, eps = data.test[:4].double(), torch.randn(4, 1, 16, 16, generator=seed(0), dtype=torch.float64)
reverse = fixed_variance(lambda x, t: 0.9 * eps, schedule, fixed_large)
for t in (1, 500, 1000):
    by_package = bound_term(reverse, schedule, x0, torch.full((4,), t), torch.full((4,), t - 1), eps)
    torch.testing.assert_close(term(x0, eps, 0.9 * eps, t).flatten(1).mean(1), by_package)
    print(f"t = {t:4}: {by_package.mean():.2e} bits/dim, by hand as in the package")
levels = torch.arange(256).double() / 127.5 - 1
for std in (0.001, 0.1):
    mass = discretised_log_prob(levels, torch.full((256,), -1.0), std**2).exp()
    density = log_normal(levels, torch.full((256,), -1.0), 2 * torch.tensor(std).log()).exp()
    print(f"black expected, std {std}: all bins sum to {mass.sum():.6f}; black has {mass[0]:.2f}, its density {density[0]:.0f}")

# %% [markdown]
# **You should see** agreement, and why bins matter. The density at a black pixel exceeds 1, as if black cost
# *negative* bits: a famous mistake. Others: closed outer bins, which lose half of black; a mean over $t$, 1,000 times
# too small.
#
# ## Truth: what is the best variance?
#
# For data $\mathcal N(0.3, 0.4^2)$ everything is known. The true code length is the entropy; the bound exceeds it.
#
# *Predict before you run:* which variance wins with few steps, small or large?

# %%
mu, var = 0.3, 0.16
world = isotropic_mixture([1.0], [[mu]], std=0.4).eps_fn(schedule)
signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]]).double()[..., None]  # terms are quadratic in x0 and eps:
x0, eps = mu + var**0.5 * signs[0], signs[1]  # four points of the right mean and variance give the expectation
entropy = 0.5 * torch.log2(2 * torch.pi * torch.e * torch.tensor(var))


def best_variance(now, then):  # of x_s given x_t: the posterior's, and what x_t leaves open of x_0
    on_x0 = then[0] * fixed_large(now, then) / now[1] ** 2
    return fixed_small(now, then) + on_x0**2 * var * now[1] ** 2 / (now[0] ** 2 * var + now[1] ** 2)


def best(x, t, s):
    return fixed_variance(world, schedule, fixed_small)(x, t, s)[0], best_variance(schedule(t), schedule(s))


density = lambda x0, mean, var: log_normal(x0, mean, torch.as_tensor(var).log())  # noqa: E731
for steps in (10, 100, 1000):
    times, excess = uniform_times(1000, steps), {}
    fixed = {name: fixed_variance(world, schedule, v, times) for name, v in (("small", fixed_small), ("large", fixed_large))}
    for name, way in (fixed | {"best": best}).items():
        pairs = torch.tensor([*pairwise(times)])[..., None].expand(-1, 2, 4)
        terms = [bound_term(way, schedule, x0, t, s, eps, density).mean() for t, s in pairs]
        excess[name] = sum(terms) + prior_term(schedule, x0).mean() - entropy
    print(f"{steps:4} steps, bits above the entropy:", ", ".join(f"{name} {value:.6f}" for name, value in excess.items()))

# %% [markdown]
# **You should see** that with the right mean *and* variance the bound is tight in any number of steps: what is left,
# 0.000003, is the prior. Either fixed variance costs, small mostly the more.
#
# ## L against L_simple
#
# Six small networks, three seeds each: one lot trained on the bound $L$ (fixed-large), the other on $L_{\text{simple}}$.
# Same data, noise and steps.
#
# *Predict:* who needs fewer bits? Where do the bits go, into the rate ($t > 1$) or the last step, the distortion?

# %%
nets = {(loss, k): zoo.load(f"compare-linear-{loss}-{k}")[0] for loss in ("simple", "bound") for k in range(3)}


def step_back(net, variance=fixed_large):
    return fixed_variance(clip_x0(metrics.in_parts(net, None), schedule), schedule, variance)


def tell(name, bits):
    prior, rate, distortion = (part.mean() for part in bits)
    print(f"{name:24} {bits.total.mean():.3f} bits/dim = {prior:.5f} prior + {rate:.3f} rate + {distortion:.3f} distortion")


count = partial(metrics.bits, schedule=schedule, images=data.test[:80], times=every)
coded = {key: count(step_back(net)) for key, net in nets.items()}
for (loss, k), bits in coded.items():
    tell(f"L_{loss}, seed {k}", bits)
tell("the same, fixed-small", count(step_back(nets["bound", 2], fixed_small)))
gain = torch.stack([(coded["simple", k].total - coded["bound", k].total).mean() for k in range(3)])
claims.measure("ddpm-bound-codes", gain.mean(), gain.std() / 3**0.5)
total, fine = (torch.stack([part(coded["simple", k]) for k in range(3)]).mean(0) for part in (lambda b: b.total, lambda b: b.distortion))
share = fine.mean() / total.mean()
claims.measure("ddpm-fine-detail", share - 0.5, (fine - share * total).std() / total.mean() / 80**0.5)

# %% [markdown]
# **You should see** ... 
#
# ## And the samples?
#
# *Predict:* who draws better?

# %%
recogniser = zoo.load_recogniser("digits-recogniser")
drawn = {key: metrics.sample(net, schedule, 160, (1, 16, 16), uniform_times(1000, 25), 0) for key, net in nets.items()}
seen = {key: recogniser.features(x) for key, x in drawn.items()}
real = recogniser.features(data.test)
worse = torch.tensor([metrics.kernel_difference(seen["bound", k], seen["simple", k], real)[0] for k in range(3)])
for loss in ("simple", "bound"):
    rates = [metrics.recognised(recogniser, drawn[loss, k], None)[0] for k in range(3)]
    distances = [metrics.kernel_distance(seen[loss, k], real) for k in range(3)]
    print(f"L_{loss}: recognised", *(f"{rate:.2f}" for rate in rates), "kernel distance", *(f"{d:.0f}" for d in distances))
claims.measure("ddpm-simple-draws", worse.mean(), worse.std() / 3**0.5)
rows = torch.cat([drawn[loss, k][:10] for loss in ("simple", "bound") for k in range(3)])
plots.show(plots.grid(rows, 10, rows=[f"L_{loss}, seed {k}" for loss, k in nets]), "Digits drawn by the six networks.")

# %% [markdown]
# **You should see**
#
# ## Progressive coding
#
# Stop sending at $t$: the receiver has $x_t$, for the rate so far, and guesses $\hat x_0$. How far off is it?
#
# *Predict:* where do the first bits help most?

# %%
rate, off = {}, {}
for loss in ("simple", "bound"):
    guesses = []

    def watched(x, t, net=clip_x0(nets[loss, 0], schedule), guesses=guesses):
        guesses.append(x0_from_eps(x, net(x, t), schedule(t)))
        return net(x, t)

    terms = bound_terms(fixed_variance(watched, schedule, fixed_large), schedule, data.test[:8], every, seed(0))
    terms = torch.stack(list(tqdm(terms, total=1000, desc=loss))).mean(1)
    rate[loss] = terms
    off[loss] = torch.stack([(guess - data.test[:8]).square().mean().sqrt() * 127.5 for guess in guesses])
figure = plots.curves(every[:-1], rate, "t", "bits/dim")
figure.axes[0].set(xscale="log", yscale="log")
plots.show(figure, "Bits of each term.")
figure = plots.curves(rate["simple"].cumsum(0), {"simple": off["simple"]}, "rate so far, bits/dim", "error of the guess (0-255)")
figure.axes[0].plot(rate["bound"].cumsum(0), off["bound"])
plots.show(figure, "rate distortion.")
for t in (1000, 750, 500, 250, 100, 10, 2):
    print(f"t = {t:4}:", ", ".join(f"L_{loss} rate {rate[loss][:1000-t].sum():.3f}, error {off[loss][1000-t]:.1f}" for loss in rate))

# %% [markdown]
# **You should see**
#
# ## Progressive generation, and mixing in x_t
#

# %%
net, cosine = zoo.load("digits")
eps_fn, times = clip_x0(net, cosine), uniform_times(1000, 50)
states = list(ancestral(eps_fn, cosine, start_noise(10, (1, 16, 16), seed(5)), times, generator=seed(6)))
shown = (4, 14, 24, 34, 49)
strip = [states[i].x0 for i in shown] 
plots.show(plots.grid(torch.cat(strip), 10, rows=[f"t = {times[i]}" for i in shown]), "guesses")
rows = []
for i in (14, 24, 34):
    begin = states[i]
    rows.append(last(ancestral(eps_fn, cosine, begin.x[:1].expand(10, -1, -1, -1), times[i + 1 :], generator=seed(7))))
plots.show(plots.grid(torch.cat(rows), 10, rows=[f"shared x_{states[i].t:.0f}" for i in (14, 24, 34)]), "shared")

# %%
a, b = data.test[[0, 5]]
now, noise = cosine(500), torch.randn(2, 1, 16, 16, generator=seed(8))
x_a, x_b = q_sample(a[None], noise[:1], now), q_sample(b[None], noise[1:], now)
shares = torch.linspace(0, 1, 9)
mixed = torch.cat([torch.lerp(x_a, x_b, share) for share in shares.tolist()])
ends = last(ancestral(eps_fn, cosine, mixed, uniform_times(500, 25), generator=seed(9)))
straight = torch.cat([torch.lerp(a[None], b[None], share) for share in shares.tolist()])
plots.show(plots.grid(torch.cat([straight, mixed, ends]), 9, rows=["pixels", "x_500", "decoded"]), "mix")
left = (mixed - now[0].float() * straight).flatten(1).var(1) / now[1] ** 2
print("noise left:", *(f"{v:.2f}" for v in left), "rule:", *(f"{(1 - l) ** 2 + l ** 2:.2f}" for l in shares.tolist()))
