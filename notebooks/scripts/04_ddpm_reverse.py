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
# # 04 · DDPM: the reverse process
#
# Notebook 03 spoiled images in small steps. Now we walk back, from noise to digits.
#
# Gaussian steps back, with learned mean and variance, date from 2015.
# [Ho, Jain and Abbeel](https://arxiv.org/abs/2006.11239) made it simple: the variance is fixed, the network only
# answers *which noise is in this image?*, and the loss is a squared error.
#
# Reading: [Lilian Weng's blog](https://lilianweng.github.io/posts/2021-07-11-diffusion-models/),
# an [introduction](https://www.assemblyai.com/blog/diffusion-models-for-machine-learning-introduction/), the videos
# [math explained](https://www.youtube.com/watch?v=HoKDTa5jHvg) (highly recommended),
# [PyTorch implementation](https://www.youtube.com/watch?v=TBCRlnwJtZU)
# ([code](https://github.com/dome272/Diffusion-Models-pytorch)) and
# [from scratch](https://www.youtube.com/watch?v=a4Yfz2FxXiY).

# %%
from functools import partial

import torch

from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.gaussian import fixed_large, fixed_small, posterior, x0_from_eps
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import claims, datasets, metrics, plots, probing, recipes, train, zoo
from ddpm_path.lab.exercises import MEAN_FROM_EPS, TRAINING_PAIR, check
from ddpm_path.losses import EPS, as_eps, simple
from ddpm_path.samplers import ancestral, last, noise_source, start_noise
from ddpm_path.schedule import Discrete, linear_betas, uniform_times

torch.manual_seed(0)
seed = lambda k: torch.Generator().manual_seed(k)
betas = linear_betas()  # betas[0] is step 1
schedule = Discrete.from_betas(betas)
bars = schedule.alpha_bar  # bars[0] = 1 is data

# %% [markdown]
# ## A step back, and the loss
#
# As in 03, step $t$ adds noise of variance $\beta_t$, $\alpha_t = 1 - \beta_t$, $\bar\alpha_t$ is the product of the
# first $t$ alphas, and an image $x_0$ with noise $\epsilon \sim \mathcal N(0, I)$ becomes
# $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$. The network's guess of the noise,
# $\epsilon_\theta(x_t, t)$, implies one of $x_0$. Put into 03's step back, it gives the mean [eq. 11]
#
# $$\mu_\theta = \frac{1}{\sqrt{\alpha_t}}
# \Big(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(x_t, t)\Big)$$
#
# Its variance is $\tilde\beta_t = \beta_t (1-\bar\alpha_{t-1})/(1-\bar\alpha_t)$ (small) or $\beta_t$ (large).
# Training [alg. 1] draws an image, a time and noise, and lowers
#
# $$L_{\text{simple}} = \lVert \epsilon - \epsilon_\theta(x_t, t) \rVert^2 \quad\text{(here the mean over pixels)}$$


# %%
def mean_back(x, eps, t):
    return (x - betas[t - 1] / (1 - bars[t]).sqrt() * eps) / (1 - betas[t - 1]).sqrt()


for t in (1, 500, 1000):
    x0, eps = 0.5 + torch.randn(2, 4, 8, dtype=torch.float64)
    x = bars[t].sqrt() * x0 + (1 - bars[t]).sqrt() * eps
    small = betas[t - 1] * (1 - bars[t - 1]) / (1 - bars[t])
    by_package = posterior(x0_from_eps(x, x.tanh(), schedule(t)), x, schedule(t), schedule(t - 1))
    torch.testing.assert_close((mean_back(x, x.tanh(), t), small), by_package)
    by_package = simple(lambda x, t: x.tanh(), EPS, schedule, x0, torch.full((4,), t), eps)
    torch.testing.assert_close((eps - x.tanh()).square().mean(1), by_package)
    print(f"t = {t:4}: variance small {small:.2e}, large {betas[t - 1]:.2e}; mean and loss as in the package")

# %% [markdown]
# ## Back with a perfect denoiser
#
# A world whose best denoiser is known: numbers, 30% near -0.6 and 70% near 0.5. Sampling [alg. 2] starts from pure
# noise and repeats the step back.
#
# *Predict before you run:* ten walks start in one cloud. When do they choose a side?


# %%
def by_hand(eps_fn, x, draw):
    for t in range(1000, 0, -1):
        x = mean_back(x, eps_fn(x, torch.tensor([t])), t)
        if t > 1:  # no noise on the data themselves
            x = x + betas[t - 1].sqrt() * draw()
    return x


world = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15)
few, every = start_noise(1000, (1,), seed(1)).double(), uniform_times(1000, 1000)
states = list(ancestral(world.eps_fn(schedule), schedule, few, every, fixed_large, generator=seed(2)))
mine = by_hand(world.eps_fn(schedule), few, noise_source(1000, (1,), seed(2), torch.float64))
torch.testing.assert_close(mine, states[-1].x)
print(f"the package's sampler agrees; {(mine < 0).double().mean():.2f} of 1,000 walks end on the left")
cells = torch.linspace(-3, 3, 300)[:, None]
density = torch.stack([world.log_prob(cells, schedule(t)).exp() for t in every[::5]], 1)
paths = torch.stack([few, *(state.x for state in states)])[::5, :10, 0]
plots.show(
    plots.trajectories(every[::5], paths, density, (-3, 3)),
    "Ten walks from noise to data over the exact density: one wide bell splits into two narrow bands.",
)

# %% [markdown]
# **You should see** a choice in the last third, and 0.27 to 0.33 on the left. **If instead** walks miss the bands,
# the guess has the wrong sign.
#
# ## Small or large variance?
#
# Small is right for a single point, large for standard normal data. $W$ is the mean distance of sorted samples from
# sorted data.
#
# *Predict:* does the choice matter at 10 steps? At 1,000?

# %%
truth = world.sample(20_000, seed(0))[0]
start = start_noise(20_000, (1,), seed(1)).double()


def wasserstein(x, batches=1):
    return (x.view(batches, -1).sort().values - truth.view(batches, -1).sort().values).abs().mean(1)


walk = partial(ancestral, world.eps_fn(schedule), schedule, start)
for steps in (10, 100, 1000):
    times = uniform_times(1000, steps)
    small, large = (last(walk(times, variance, generator=seed(2))) for variance in (fixed_small, fixed_large))
    print(f"{steps:4} steps: W small {wasserstein(small).item():.4f}, large {wasserstein(large).item():.4f}")
error = (wasserstein(small, 10) - wasserstein(large, 10)).std() / 10**0.5
claims.measure("ddpm-variances", 0.02 - (wasserstein(small) - wasserstein(large)).abs(), error)

# %% [markdown]
# **You should see** a difference at 10 steps that is gone at 1,000.
#
# ## Two famous mistakes, on purpose
#
# The last step adds no noise, and ends at $t = 0$, not at the first noise level. To see both go wrong, use the
# denoiser that knows all training digits by heart: it should end *exactly* on them.

# %%
data = datasets.digits()
known, noise = FiniteData(data.train).eps_fn(schedule), start_noise(6, (1, 16, 16), seed(3))
for steps in (1000, 25):
    *_, before, end = ancestral(known, schedule, noise, uniform_times(1000, steps), generator=seed(4))
    noisy = end.x + schedule(before.t)[1].float() * torch.randn_like(end.x)
    rows = {"right": end.x, "noise at the end": noisy, "one step short": before.x}
    left = {name: (metrics.nearest(x, data.train).square().mean() / 256).sqrt() for name, x in rows.items()}
    print(f"{steps:4} steps, noise left:", ", ".join(f"{name} {std:.3f}" for name, std in left.items()))
figure = plots.grid(torch.cat(list(rows.values())), 6, rows=tuple(rows), zoom=1.4)
plots.show(figure, "Six digits after 25 steps: smooth when right, grainy with noise at the end or one step short.")

# %% [markdown]
# **You should see** grain in two rows. At 1,000 steps the mistakes leave 0.01: invisible, but measured.
#
# ## Why the guess is clipped
#
# The guess of $x_0$ divides by $\sqrt{\bar\alpha_t}$, tiny at the start: small errors become huge. Pixels lie in
# $[-1, 1]$, so samplers clip it. We spoil the perfect denoiser by 0.03 and toggle `clip_x0`.

# %%
recipe = recipes.RECIPES["digits-live"]
cosine, times = recipe.schedule(), uniform_times(1000, 25)
print(f"1 / scale at T: linear {1 / schedule(1000)[0]:.0f}, cosine {1 / cosine(1000)[0]:,.0f}")
perfect = world.eps_fn(cosine)
spoiled = lambda x, t: perfect(x, t) + 0.03
for name, eps_fn in {"perfect": perfect, "spoiled": spoiled, "clipped": clip_x0(spoiled, cosine)}.items():
    first, *_, end = ancestral(eps_fn, cosine, start, times, generator=seed(2))
    print(f"{name:7}: first guess {first.x0.mean():7.2f} on average, W at the end {wasserstein(end.x).item():.3f}")

# %% [markdown]
# **You should see** a first guess near -600, rescued by clipping. Our network avoids the division: it answers
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$, which gives noise and image by multiplying.
#
# ## Train it
#
# A U-Net sees a noisy digit, $t$ and the label. On two free cores this takes 2 to 2.5 minutes.
#
# *Predict:* answering 0 costs 0.8. How far will the loss fall?

# %%
trained = train.train(recipe, data)
losses = torch.tensor([entry.loss for entry in trained.log])
print(f"loss: first 10 steps {losses[:10].mean():.2f}, last 100 steps {losses[-100:].mean():.3f}")

# %% [markdown]
# **You should see** a fall from 0.8 to about 0.11, mostly early. **If instead** it stays high, train on one batch: a
# network that cannot learn that has a bug (`python -m ddpm_path diagnose` names some). Loss is not quality: it hardly
# moves while blots become digits.

# %%
net, raw = (as_eps(each, recipes.PREDICTIONS[recipe.prediction], cosine) for each in (trained.ema, trained.net))
eps_fn = clip_x0(partial(net, label=torch.arange(10)), cosine)
states = list(ancestral(eps_fn, cosine, start_noise(10, (1, 16, 16), seed(5)), times, generator=seed(6)))[::3]
strip = [image[k] for k in (3, 8) for image in [s.x for s in states] + [s.x0 for s in states]]
plots.show(
    plots.grid(torch.stack(strip), len(states), [f"t = {s.t}" for s in states], ("x", "guess of x_0") * 2),
    "Noise turns into a 3 and into an 8. The guess of x_0 begins as a blurred digit and sharpens long before x does.",
)
both = [metrics.sample(each, cosine, 10, (1, 16, 16), times, 7, torch.arange(10)) for each in (raw, net)]
plots.show(
    plots.grid(torch.cat(both), 10, list("0123456789"), ("last weights", "averaged (EMA)")),
    "Digits 0 to 9 from the same noise, above with the last weights, below with their moving average: nearly alike.",
)

# %% [markdown]
# **You should see** shapes first, strokes last. The lowest row uses a moving average of the weights (EMA), steadier
# in mid-training. Too slow, it draws noise: $0.9999^{10000}$ leaves 37% first weights. Here rows agree.
#
# ## By heart, or understood?
#
# *Predict:* who finds noise in training images better, the network or the denoiser
# that knows them by heart?

# %%
levels = [1, 10, 50, *range(100, 1001, 100)]
plots.show(
    plots.loss_by_level(levels, probing.eps_by_level(net, cosine, data, levels)),
    "Error of eps over t: training and test images on one falling curve, by heart far below it, except at large t.",
)

# %% [markdown]
# **You should see** training and test together, far above *by heart* (cut at 0.0001) until $t = 500$. Down there
# a network could draw only training images. **If instead** test rises above training, it memorises.
#
# ## How good?
#
# *Recognised*: a classifier sees the requested label, 90% sure. *Coverage*: test digits with samples nearby. *Novelty*:
# distance to the nearest training digit. Real digits score 1.

# %%
labels = metrics.balanced_labels(2000, 10)
samples = metrics.sample(net, cosine, 2000, (1, 16, 16), times, 0, labels)
results = metrics.quality(zoo.load_recogniser("digits-recogniser"), data, samples, labels, {"steps": 25})
print(*(f"{result.metric} {result.value:.3f} +- {result.error:.3f}" for result in results), sep=", ")
plots.show(plots.grid(samples[:100]), "A hundred drawn digits, ten rows of 0 to 9, nearly all easy to read.")
nearest = data.train[torch.cdist(samples[:10].flatten(1), data.train.flatten(1)).argmin(1)]
plots.show(
    plots.grid(torch.cat([samples[:10], nearest]), 10, rows=("drawn", "nearest in training")),
    "Ten drawn digits above their nearest training digits: mostly the same classes, in slightly different handwriting.",
)
for key, result, least in zip(("digits", "covers", "novel"), results, (0.85, 0.9, 0.9), strict=True):
    claims.measure(f"ddpm-{key}", result.value - least, result.error)

# %% [markdown]
# **You should see** similar, not equal, neighbours. **If instead** novelty is far below 1, it copies.
#
# ## MNIST
#
# The same network, trained longer on 60,000 digits of 28x28.

# %%
mnist, its_schedule = zoo.load("mnist")
samples = metrics.sample(mnist, its_schedule, 500, (1, 28, 28), times, 0, labels[:500])
plots.show(plots.grid(samples[:50]), "Fifty drawn MNIST digits, five rows of 0 to 9.")
rate, error = metrics.recognised(zoo.load_recogniser("mnist-recogniser"), samples, labels[:500])
real, real_error = zoo.card("mnist-recogniser")["real_recognised"]  # of the 10,000 test images
error = rate / real * ((error / rate) ** 2 + (real_error / real) ** 2) ** 0.5
claims.measure("ddpm-mnist", rate / real - 0.95, error, f"recognised {rate:.3f}, real test digits {real:.3f}")

# %% [markdown]
# ## Exercises
#
# From memory, write (1) the mean of eq. 11; (2) what Algorithm 1 shows the network and asks for; images are
# `(B, C, H, W)`, `alpha_bar` is `(B,)`. Solutions: `ddpm_path/lab/exercises/ddpm.py`.


# %%
def mean_from_eps(x, eps, beta, alpha_bar):
    raise NotImplementedError  # your lines instead: return the mean


def training_pair(x0, eps, alpha_bar):
    raise NotImplementedError  # your lines instead: return x_t, target


_ = check(MEAN_FROM_EPS, mean_from_eps)
_ = check(TRAINING_PAIR, training_pair)

# %% [markdown]
# ## What to read next
#
# Sections 3 and 4 of the paper, `ddpm_path/samplers.py` and `ddpm_path/lab/train.py`; then
# [`05_ddpm_likelihood`](05_ddpm_likelihood.ipynb).
