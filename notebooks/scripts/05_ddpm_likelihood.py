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
# Notebook 04 trained on a squared error and judged by eye. But DDPM is a probability model: it can compress an image,
# and we can count bits. [Ho, Jain and Abbeel](https://arxiv.org/abs/2006.11239) derive their loss from that
# count, then drop its weights. What does this buy? Where do errors come from?
#
# Reading: sections 3.3 to 4.4. You need 03 and 04.

# %%
from functools import partial

import torch
from torch.distributions import Normal
from tqdm import tqdm

from ddpm_path import losses
from ddpm_path.exact import FiniteData, gaussian_reverse, isotropic_mixture
from ddpm_path.gaussian import discretised_log_prob, fixed_large, fixed_small, posterior, q_sample
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import claims, datasets, metrics, plots, probing, zoo
from ddpm_path.lab.exercises import BIN_LOG_PROB, BOUND_WEIGHT, check
from ddpm_path.losses import bound_term, bound_terms, fixed_variance
from ddpm_path.samplers import ancestral, decode, last, start_noise
from ddpm_path.schedule import Discrete, linear_betas, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
betas, ln2, data = linear_betas(), torch.tensor(2.0).log(), datasets.digits()  # betas[0] is step 1
schedule, every = Discrete.from_betas(betas), uniform_times(1000, 1000)

# %% [markdown]
# ## The bound, term by term
#
# Send $x_T$, then each $x_{t-1}$ given $x_t$, at last the image. On average that costs [eq. 5]
#
# $$\underbrace{KL(q(x_T|x_0)\,\|\,p(x_T))}_{\text{prior}} + \sum_{t>1} \underbrace{KL(q(x_{t-1}|x_t,x_0)\,\|\,
# p_\theta(x_{t-1}|x_t))}_{L_{t-1}} \underbrace{- \log p_\theta(x_0|x_1)}_{L_0}$$
#
# Pixels have 256 levels, so $p_\theta(x_0|x_1)$ is a normal distribution's mass in the pixel's *bin* [eq. 13]; the
# outermost bins are open. Its variance, as in the paper's code, is step 2's $\tilde\beta$. We count in bits: a mean
# over pixels, a *sum* over $t$.


# %%
def term(x0, eps, guess, t):  # with the large variance, beta_t
    before, now = schedule(t - 1), schedule(t)
    x, beta = q_sample(x0, eps, now), betas[t - 1]
    mean = (x - beta / now[1] * guess) / (1 - beta).sqrt()
    if t > 1:
        true_mean, ratio = posterior(x0, x, now, before)[0], (before[1] / now[1]) ** 2  # of the variances
        return 0.5 * (ratio - 1 - ratio.log() + (true_mean - mean) ** 2 / beta) / ln2
    normal = Normal(mean, fixed_small(schedule(2), schedule(1)).sqrt())
    low, high = torch.where(x0 > -0.999, x0 - 1 / 255, -9), torch.where(x0 < 0.999, x0 + 1 / 255, 9)
    return -(normal.cdf(high) - normal.cdf(low)).log2()


x0, eps = data.test[:4].double(), torch.randn(4, 1, 16, 16, generator=seed(0), dtype=torch.float64)
reverse = fixed_variance(lambda x, t: 0.9 * eps, schedule, fixed_large)
for t in (1, 500, 1000):
    by_package = bound_term(reverse, schedule, x0, torch.full((4,), t), torch.full((4,), t - 1), eps)
    torch.testing.assert_close(term(x0, eps, 0.9 * eps, t).flatten(1).mean(1), by_package)
    print(f"t = {t:4}: {by_package.mean():.2e} bits/dim, by hand as in the package")
mass = discretised_log_prob(torch.arange(256).double() / 127.5 - 1, torch.full((256,), -1.0), 0.001**2).exp()
height = Normal(-1.0, 0.001).log_prob(torch.tensor(-1.0)).exp()
print(f"black expected: the bins sum to {mass.sum():.6f}; black has mass {mass[0]:.2f}, its density is {height:.0f}")

# %% [markdown]
# **You should see** agreement, and a famous mistake: the *density* of black exceeds 1, as if a black pixel cost
# negative bits. Others: closed outer bins, which lose much of black; a mean over $t$, 1,000 times too small.
#
# ## Truth: which variance?
#
# For data $\mathcal N(0.3, 0.4^2)$ the best mean and variance are known. No code beats the entropy.
#
# *Predict before you run:* how far above is the bound, with the best variance in 10 steps? With a fixed one in 1,000?

# %%
world, best = isotropic_mixture([1.0], [[0.3]], std=0.4).eps_fn(schedule), gaussian_reverse(0.3, 0.16, schedule)
# Terms are quadratic in x0 and eps: four points of the right mean and variance give the expectation.
x0, eps = torch.tensor([[0.7, 0.7, -0.1, -0.1], [1, -1, 1, -1]]).double()[..., None]
floor = Normal(0.3, 0.4).entropy() / ln2 - losses.prior_term(schedule, x0).mean()  # what the terms cannot undercut
density = lambda x0, mean, variance: Normal(mean, variance.sqrt()).log_prob(x0)
for times in (uniform_times(1000, steps) for steps in (10, 100, 1000)):
    fixed = (fixed_variance(world, schedule, variance, times) for variance in (fixed_small, fixed_large))
    for name, way in zip(("best", "small", "large"), (best, *fixed), strict=True):
        pairs = torch.tensor(times).unfold(0, 2, 1)[..., None].expand(-1, 2, 4)  # of t and s
        terms = [bound_term(way, schedule, x0, t, s, eps, density).mean() for t, s in pairs]
        print(f"{len(times) - 1:4} steps, {name:5} variance: {sum(terms) - floor:.6f} bits over the entropy")

# %% [markdown]
# **You should see** a tight bound with the best variance, in any number of steps; 0.000003 is the prior. Fixed, it
# costs bits throughout; 12 learns it.
#
# ## L against L_simple, eps against x_0 and mean
#
# An unweighted error pretends that all $t$ weigh the same. A network may predict $\epsilon$, $x_0$ or the mean
# $\tilde\mu$: one knowledge, three weights [eq. 12].
#
# *Predict:* whose weight is the flattest?

# %%
now, then = schedule(torch.arange(2, 1001)), schedule(torch.arange(1, 1000))
of_mean = 1 / (2 * betas[1:] * ln2)  # bits that a unit squared error of the mean costs: KL with variance beta_t
of_x0 = of_mean * (then[0] * betas[1:] / now[1] ** 2) ** 2
weights = {"mean": of_mean, "x0": of_x0, "eps": of_x0 * (now[1] / now[0]) ** 2}
relative = {name: weight / weight.mean() for name, weight in weights.items()}
plots.show(plots.log_curves(range(2, 1001), relative, "t", "weight / its mean"), "x0's weight falls far, two less.")

# %% [markdown]
# **You should see** eps flattest: dropping its weight changes least.
#
# Table 2 in small: ten U-Nets of the zoo, two minutes' training each, differ in what they predict and in their loss,
# the bound $L$ or $L_{\text{simple}}$.
#
# *Predict:* who needs fewer bits? What costs more, *rate* ($t > 1$) or *distortion* $L_0$?

# %%
kinds = [f"{loss}-{kind}" for loss in ("bound", "simple") for kind in ("0", "1", "2", "x0", "mean")]
nets = {kind: zoo.load(f"compare-linear-{kind}")[0] for kind in kinds}  # 0, 1, 2: seeds of eps


def code(name, net, images=data.test[:96], variance=fixed_large):
    reverse = probing.clipped_reverse(net, schedule, None, variance)
    print(f"{name:20}", bits := probing.bits(reverse, schedule, images, every))
    return bits


coded = {name: code(name, net) for name, net in nets.items()}
code("bound-0, fixed-small", nets["bound-0"], variance=fixed_small)
gain = torch.stack([(coded[f"simple-{k}"].total - coded[f"bound-{k}"].total).mean() for k in range(3)])
claims.measure("ddpm-bound-codes", gain.mean(), gain.std() / 3**0.5)
share = sum(coded[f"simple-{k}"].distortion / coded[f"simple-{k}"].total for k in range(3)) / 3
claims.measure("ddpm-fine-detail", share.mean() - 0.5, share.std() / len(share) ** 0.5)

# %% [markdown]
# **You should see** $L$ save 0.16 bits. $x_0$ and the mean cost far more: near data they must copy $x_t$ through all
# layers. **If instead** the rate is 0.002, you took a mean over $t$. Distortion is half of all bits. *Small* wins here.
#
# *Predict:* who draws better? (Kernel distance, like FID, compares drawn and real features: best is about 0.)

# %%
recogniser, times = zoo.load_recogniser("digits-recogniser"), uniform_times(1000, 50)
drawn = {name: metrics.sample(net, schedule, 200, (1, 16, 16), times, 0) for name, net in nets.items()}
seen, real = {name: recogniser.features(x) for name, x in drawn.items()}, recogniser.features(data.test)
for name in nets:
    print(f"{name:12} kernel distance {metrics.kernel_distance(seen[name], real):.0f}")
worse = torch.tensor([metrics.kernel_difference(seen[f"bound-{k}"], seen[f"simple-{k}"], real)[0] for k in range(3)])
claims.measure("ddpm-simple-draws", worse.mean(), worse.std() / 3**0.5)
sheet = torch.cat([x[:16] for name, x in drawn.items() if name[-1] not in "12"])
plots.show(
    plots.grid(sheet, 16, rows=[name for name in drawn if name[-1] not in "12"]),
    "Digits, but noise of the mean; best: simple.",
)

# %% [markdown]
# **You should see** $L_{\text{simple}}$ draw better: it cares for large $t$, where shapes are decided. Bits and looks
# disagree: $x_0$ on it, costliest code, draws well. The mean learned too little.
#
# ## Progressive coding
#
# Stop after $x_t$: the receiver has paid the rate so far, and guesses $\hat x_0$. Its error is on the scale 0 to 255.
#
# *Predict:* what do the last bits buy?

# %%
rate, at = {}, [*every[:-20:20], 10, 5, 3, 2, 1]
for loss in ("bound", "simple"):
    eps_fn = clip_x0(nets[f"{loss}-0"], schedule)
    terms = bound_terms(fixed_variance(eps_fn, schedule, fixed_large), schedule, data.test[:12], every, seed(0))
    rate[loss] = torch.stack(list(tqdm(terms, total=1000, desc=loss))).mean(1)
plots.show(plots.log_curves(every[:-1], rate, "t", "bits/dim of the term"), "Two like falls, from 2 to a millionth.")
sent = (rate["simple"].cumsum(0) - rate["simple"])[[1000 - t for t in at]]
of_eps = probing.loss_by_level(lambda x, t, _: eps_fn(x, t), schedule, data.test[:64], None, at)
scale, std = schedule(torch.tensor(at))
error = 127.5 * of_eps.sqrt() * std / scale  # of x_0: that of eps, times std / scale
plots.show(plots.curves(sent, {"simple-0": error}, "rate so far, bits/dim", "RMSE of 255"), "A steep fall, long tail.")
for i in (0, 10, 20, 30, 40, 45, *range(48, 55)):
    print(f"at t = {at[i]}: rate {sent[i]:.3f}, error {error[i]:.1f}")

# %% [markdown]
# **You should see** most bits near data: nine of ten lower the error from 13 to 1.
#
# ## Progressive generation, and mixing in $x_t$
#
# With the shipped `digits`: what do samples that share $x_t$ have in common? What lies between two images? Mixing
# $x_{500}$ mixes two noises: their variance falls to $(1-\lambda)^2 + \lambda^2$.

# %%
net, cosine = zoo.load("digits")
times, walk = uniform_times(1000, 50), partial(ancestral, clip_x0(net, cosine), cosine)
states = list(walk(start_noise(10, (1, 16, 16), seed(5)), times, generator=seed(6)))
shared = [last(walk(states[i].x[:1].expand(10, -1, -1, -1), times[i + 1 :], generator=seed(7))) for i in (14, 24, 34)]
rows = ["guess at 920", "at 720", "at 520", "at 320", "sample", "share x_700", "share x_500", "share x_300"]
sheet = torch.cat([states[i].x0 for i in (4, 14, 24, 34, 49)] + shared)
plots.show(plots.grid(sheet, rows=rows), "Blurred guesses sharpen; samples that share x_700 differ, x_300 hardly.")
a, b, now, noise = *datasets.digits().test[[3, 8]], cosine(500), torch.randn(2, 1, 16, 16, generator=seed(8))
shares = torch.linspace(0, 1, 10).view(-1, 1, 1, 1)
pixels, mixed = torch.lerp(a, b, shares), torch.lerp(q_sample(a, noise[0], now), q_sample(b, noise[1], now), shares)
ends = last(walk(mixed, uniform_times(500, 25), generator=seed(9)))
plots.show(plots.grid(torch.cat([pixels, ends]), 10, rows=["pixels", "x_500"]), "A fade above, whole digits below.")
print("noise's variance:", *(f"{v:.2f}" for v in (mixed - now[0] * pixels).flatten(1).var(1) / now[1] ** 2))

# %% [markdown]
# **You should see** the class fixed before the strokes, and whole digits where pixels fade.
#
# ## The error budget: by heart, or understood?
#
# The best code for the training set knows it by heart.
#
# *Predict:* what does it pay for test digits?

# %%
budget, at = {}, [1, 3, 10, 30, 100, 200, 400, 600, 800, 1000]
for who, net in {"network": nets["simple-0"], "by heart": probing.by_heart(data, schedule)}.items():
    for split, images in {"train": data.train, "test": data.test}.items():
        budget[f"{who}, {split}"] = probing.loss_by_level(net, schedule, images[:355], None, at)
        code(f"{who}, {split}", net, images[:355])
plots.show(plots.loss_by_level(at, budget), "Train and test alike; by heart, train below, test above it at small t.")

# %% [markdown]
# **You should see** the network pay alike for both: it generalises, but has much to learn for $t > 400$. By heart,
# train costs 1.5 bits, test a thousand.
#
# ## A sample's error: the model's, or the steps'?
#
# On a line both are known. We draw by DDIM (11). With the exact denoiser only the steps err; with one that knows 100
# draws by heart, in 1,000 steps, nearly only the model.

# %%
line = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15)
known = FiniteData(line.sample(100, seed(0))[0])
start = torch.special.ndtri((torch.arange(2000)[:, None].double() + 0.5) / 2000)
for grid in (uniform_times(1000, steps) for steps in (5, 10, 20, 50, 200, 1000)):
    off = [metrics.wasserstein(decode(w.eps_fn(schedule), schedule, start, grid), line) for w in (line, known)]
    print(f"{len(grid) - 1:4} steps: the steps' error {off[0]:.4f}, all error {off[1]:.4f}")

# %% [markdown]
# **You should see** the steps' error halve with twice the steps; all error stops near 0.03, the model's.
#
# ## Exercises
#
# Write (1) the log-probability of a pixel's bin (B,); (2) eq. 12's weight of the squared error of eps, in nats.
# Solutions: `ddpm_path/lab/exercises/likelihood.py`.


# %%
def bin_log_prob(x0, mean, std):
    raise NotImplementedError  # your lines instead: return log p


def bound_weight(beta, alpha_bar, variance):
    raise NotImplementedError  # your lines instead: return the weight


_ = check(BIN_LOG_PROB, bin_log_prob)
_ = check(BOUND_WEIGHT, bound_weight)

# %% [markdown]
# ## What to read next
#
# Sections 3.4 and 4.3, `ddpm_path/losses.py`, and [`12_improved_ddpm`](12_improved_ddpm.ipynb).
