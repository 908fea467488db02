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
# # 14 · Classifier-free guidance
#
# Classifier guidance wants a second network, trained on noise. [Ho and Salimans](https://arxiv.org/abs/2207.12598)
# (2022) want none: *one* model learns eps with the label and, now and then, without it. The difference of its two
# answers is what the label adds, and can be added again.
#
# Reading: the paper. You need 11 and 13.

# %%
from functools import partial

import torch

from ddpm_path import guidance
from ddpm_path.exact import isotropic_mixture
from ddpm_path.guidance import classifier_free, clip_x0, guided_network
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import DROPPED_CONDITION, DYNAMIC_THRESHOLD, check
from ddpm_path.losses import EPS, simple
from ddpm_path.samplers import ddim, decode, start_noise
from ddpm_path.schedule import Discrete, linear_betas, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
linear = Discrete.from_betas(linear_betas())
three = isotropic_mixture([1 / 3] * 3, [[0.0, 1.2], [-1.0, -0.6], [1.0, -0.6]], std=0.35)
two = isotropic_mixture([0.5, 0.5], [[-1.0], [1.0]], std=0.5)

# %% [markdown]
# ## Two answers of one model
#
# A score is $-\epsilon/\mathrm{std}$, and by Bayes' rule
# $\nabla \log p_t(y|x) = \nabla \log p_t(x|y) - \nabla \log p_t(x)$. So the model's two answers, $c = \epsilon(x_t, y)$
# and $u = \epsilon(x_t)$, hold a classifier's gradient, $(u - c)/\mathrm{std}$. Guiding by it gives [eq. 6]
#
# $$\tilde\epsilon = (1 + w)\, c - w\, u = u + s\,(c - u), \qquad s = 1 + w$$
#
# The paper counts in $w$, whose 0 is the conditional model. Most code counts in the scale $s$, as we do: 1 is the
# conditional model, 0 the unconditional one.


# %%
def by_hand(cond, uncond, w, x, t):
    return (1 + w) * cond(x, t) - w * uncond(x, t)


top, anything = three.component(0).eps_fn(linear), three.eps_fn(linear)
score = guidance.class_score(lambda x, t: three.log_class(x, linear(t)), torch.zeros(8).long())
x = 0.5 + torch.randn(8, 2, generator=seed(0), dtype=torch.float64)
for t in (1, 500, 1000):
    at = x, torch.full((8,), float(t))
    for w in (-1, 0, 2, 7):
        guided = classifier_free(top, anything, guidance.from_paper_w(w))(*at)
        torch.testing.assert_close(by_hand(top, anything, w, *at), guided)
        torch.testing.assert_close(guidance.classifier_guided(top, score, linear, w)(*at), guided)

# %% [markdown]
# ## What it samples
#
# Two classes of numbers, near $-1$ and $1$, each with std 0.5. We ask for $+1$ from exact eps. Does that sample
# $p(x)\,p(y|x)^s$, as is often said? The last columns are famous mistakes.
#
# *Predict before you run:* where is the mean at $s = 2$? Which mistake could pass a review?

# %%
plus, both, level = two.component(1).eps_fn(linear), two.eps_fn(linear), (1.0, 0.0)
start = torch.special.ndtri((torch.arange(1000)[:, None].double() + 0.5) / 1000)
cells = torch.linspace(-4, 6, 4001).double()[:, None]
print("   s   mean   std | p(x)p(y|x)^s | c + s(c - u)  s u + (1 - s)c: means")
for s in (0, 1, 2, 4, 8):
    pairs = (plus, both, s), (plus, both, 1 + s), (both, plus, s)
    ends = [decode(classifier_free(*pair), linear, start, uniform_times(1000, 100)) for pair in pairs]
    mass = (two.log_prob(cells, level) + s * two.log_class(cells, level)[:, 1]).softmax(0)
    mean = mass @ cells[:, 0]
    std = (mass @ (cells[:, 0] - mean) ** 2).sqrt()
    wrong = "".join(f"{end.mean():14.3f}" for end in ends[1:])
    print(f"{s:4} {ends[0].mean():6.3f} {ends[0].std():5.3f} | {mean:6.3f} {std:5.3f} |{wrong}")

# %% [markdown]
# **You should see** the mean pass 1, where the class is densest, and the spread halve from 1 to 8.
# $p(x)\,p(y|x)^s$ hardly moves: noised, it is not the product of noised factors. **If instead** scale 1 does not give 1
# and 0.5, you made a mistake: the first is off by one, and could pass; the second flees its class.
#
# The paper's figure 2 has three classes in the plane.

# %%
start, times, panels = start_noise(900, (2,), seed(1)).double(), uniform_times(1000, 50), {}
for s in (1, 2, 4, 8):
    guide = [classifier_free(three.component(k).eps_fn(linear), anything, s) for k in range(3)]
    ends = [decode(eps_fn, linear, x, times) for eps_fn, x in zip(guide, start.split(300), strict=True)]
    panels[f"scale {s}"] = torch.cat(ends)
figure = plots.scatter(panels, 3.5, 4, torch.arange(900) // 300)
plots.show(figure, "Three touching clouds of points; as the scale grows they part, move outwards and shrink.")

# %% [markdown]
# ## Learning both answers
#
# In training each *example* loses its label with probability 0.1, and gets a null label instead [alg. 1]. A well-known
# tutorial tosses one coin for the whole *batch*. The expected loss is the same.
#
# *Predict:* so is it a mistake? Five trainings of a small network each way.


# %%
def train(k, coins):
    torch.manual_seed(k)
    table = torch.nn.Embedding(4, 16)  # three classes and the null label
    body = torch.nn.Sequential(torch.nn.Linear(19, 96), torch.nn.SiLU(), torch.nn.Linear(96, 2))
    net = lambda x, t, label: body(torch.cat([x, t[:, None] / 1000, table(label)], 1))
    optimiser = torch.optim.Adam([*body.parameters(), *table.parameters()], lr=3e-3)
    for _ in range(250):
        x0, labels = three.sample(64)
        label = torch.where(torch.rand(coins) < 0.1, 3, labels)
        t, eps = torch.randint(1, 1001, (64,)), torch.randn(64, 2)
        optimiser.zero_grad()
        simple(partial(net, label=label), EPS, linear, x0.float(), t, eps).mean().backward()
        optimiser.step()
    return net


x, t = torch.randn(2000, 2, generator=seed(9)), torch.linspace(1, 1000, 2000)
for coins, what in ((64, "a coin for each example"), (1, "one coin for the batch")):
    nulls = [train(k, coins)(x, t, torch.full((2000,), 3)).detach() for k in range(5)]
    errors = torch.stack([(eps - anything(x, t)).square().mean() for eps in nulls])
    print(f"{what}: error without a label {errors.mean():.3f}, from {errors.min():.3f} to {errors.max():.3f}")

# %% [markdown]
# **You should see** a slightly larger error with one coin, ranges that overlap, and more of a lottery: what the null
# label learns hangs on when its few batches come. Long training forgives it.
#
# ## Digits over the scale
#
# *Predict:* what changes from row to row? First `digits`, then `mnist`; 10 steps of DDIM, clipped.

# %%
SCALES = 1, 1.5, 2, 3, 4, 8
net, cosine = zoo.load("digits")
labels, latents, times = torch.arange(80) % 10, start_noise(80, (1, 16, 16), seed(0)), uniform_times(1000, 10)
network = lambda net, s: net if s == 1 else guided_network(net, 10, s)
draw = lambda eps_fn, limit=clip_x0: decode(limit(eps_fn, cosine), cosine, latents, times)
show = lambda rows, alt: plots.show(plots.grid(torch.cat([*rows.values()]), rows=[*rows]), alt)
free = {s: draw(partial(network(net, s), label=labels)) for s in SCALES}
show({f"scale {s:g}": free[s][:10] for s in (1, 3, 8)}, "Ten digits in three rows: ever bolder as the scale grows.")
large, ten = zoo.load("mnist")[0], start_noise(10, (1, 28, 28), seed(0))
bound = {s: partial(network(large, s), label=labels[:10]) for s in SCALES}
wide = {f"scale {s:g}": decode(clip_x0(bound[s], cosine), cosine, ten, times) for s in SCALES}
show(wide, "Ten MNIST digits in six rows: a broken 0 closes as the scale grows, and strokes turn bold.")

# %% [markdown]
# **You should see** one handwriting from top to bottom, since the latents are the same. The broken 0 is mended at 2 or
# 3; at 8 all strokes are bold.
#
# ## The trade, and both kinds of guidance
#
# Fidelity: how little the recogniser doubts that a sample is what was asked for. Diversity: coverage, the share of test
# digits with a sample in their neighbourhood. Notebook 13's classifier guides the same conditional model at $s - 1$:
# with exact models both curves would be one.
#
# *Predict:* which way do they run? Which kind is ahead?

# %%
test, recogniser = datasets.digits(), zoo.load_recogniser("digits-recogniser")
score = guidance.class_score(zoo.load_classifier("digits-classifier")[0], labels)
known = {s: draw(guidance.classifier_guided(partial(net, label=labels), score, cosine, s - 1)) for s in (1.5, 3, 8)}
curves, lines = {}, {}
for name, drawn in {"classifier-free": free, "classifier": {1: free[1]} | known}.items():
    curves[name] = [metrics.trade_off(recogniser, test.test, images, labels) for images in drawn.values()]
    doubts = [1 - recogniser.log_probs(x).exp()[range(80), labels].mean().item() for x in drawn.values()]
    lines[name] = {f"{s:g}": (float(cover[0]), y) for s, (_, cover), y in zip(drawn, curves[name], doubts, strict=True)}
    for s, (good, cover), y in zip(drawn, curves[name], doubts, strict=True):
        print(f"{name:15} scale {s:3}: recognised {good[0]:.2f}, doubt {y:.0e}, coverage {cover[0]:.2f}")
figure = plots.labelled(lines, "coverage", "doubt")
figure.axes[0].set(yscale="log")
plots.show(figure, "Doubt over coverage from scale 1 on: one line falls, then turns left, one goes left at once.")
(good1, cover1), (good3, _), (_, cover8) = (curves["classifier-free"][i] for i in (0, 3, 5))
level = (cover1 + torch.maximum(cover8, curves["classifier"][3][1])) / 2
better = metrics.at_coverage(curves["classifier-free"], level) - metrics.at_coverage(curves["classifier"], level)
claims.measure("free-recognised", (good3 - good1)[0], (good3 - good1)[1:].std())
claims.measure("free-coverage", (cover1 - cover8)[0], (cover1 - cover8)[1:].std())
claims.measure("free-against-classifier", better[0] + 2 * better[1:].std(), 0.0, f"difference {better[0]:+.3f}")

# %% [markdown]
# **You should see** that a little guidance is free: at 1.5 doubt falls far and coverage rises, as slips are
# mended. Beyond, coverage is the price. The classifier pays at once, for less. More samples:
# `benchmarks/guidance.md`.
#
# ## Out of range
#
# A large scale throws the estimate of $x_0$ out of $[-1, 1]$. Clipping ends that. *Dynamic thresholding* [Saharia 2022]
# clips each image to a high percentile $s \ge 1$ of its $|x_0|$, then divides by $s$. Guidance comes first: two clipped
# answers, guided, are out of range again.
#
# *Predict:* when is it worst? Which rows at scale 8 suffer?

# %%
walks = {"scale 1": bound[1], "scale 3": bound[3], "scale 8": bound[8], "8, clipped": clip_x0(bound[8], cosine)}
walks["8, dynamic"] = guidance.threshold_x0(bound[8], cosine)
walks["8, clipped first"] = classifier_free(clip_x0(bound[1], cosine), clip_x0(large, cosine), 8)
states = {name: [*ddim(eps_fn, cosine, ten, times)] for name, eps_fn in walks.items()}
share = lambda state: (state.x0.abs() > 1.1).double().mean().item()
shares = {name: [share(state) for state in states[name]] for name in walks if name not in ("8, clipped", "8, dynamic")}
figure = plots.curves(times[:-1], shares, "t", "pixels with |x0| > 1.1")
plots.show(figure, "Share of pixels out of range over time: half of them at t = 1000 for scale 8, none for scale 1.")
show({name: walk[-1].x for name, walk in states.items()}, "Ten digits in six rows: grey and specked if thresholded.")
nearer = lambda *images: metrics.kernel_difference(*map(recogniser.features, (*images, test.test)))
dynamic = draw(partial(network(net, 8), label=labels), guidance.threshold_x0)
claims.measure("free-dynamic", *nearer(free[8], dynamic))

# %% [markdown]
# **You should see** half of the pixels out of range at first. Clipping first does little harm in the end: near data
# both answers agree. Dynamic thresholding, made for photographs, spoils these images: their background is $-1$ to the
# last pixel, and what divides the strokes greys that.
#
# ## When to guide, and what it costs
#
# A guided step asks the network twice, or once at twice the batch. In much noise guidance narrows the choice, near data
# all is decided: guide in between [Kynkäänniemi 2024].
#
# *Predict:* how many calls of twenty are saved?

# %%
sizes = []
counted = lambda x, t, label=None: sizes.append(len(x)) or net(x, t, label)
once, twice = partial(counted, label=labels), partial(network(counted, 4), label=labels)
between = draw(guidance.within(twice, once, cosine, 0.28, 2.9))
print(f"evaluations an image: unguided 10, guided 20, in the interval {sum(sizes) / 80:.0f}")
claims.measure("free-interval", *nearer(free[4], between))

# %% [markdown]
# ## Exercises
#
# Write (1) conditions `(B, D)` dropped for `null` `(D,)` with probability `p`, by the uniform numbers `u` `(B,)`; (2)
# dynamic thresholding of `x0` `(B, C, H, W)`; `torch.quantile` helps. Solutions:
# `ddpm_path/lab/exercises/free.py`.


# %%
def dropped_condition(condition, null, u, p):
    raise NotImplementedError  # your lines instead: return the conditions


def dynamic_threshold(x0, percentile):
    raise NotImplementedError  # your lines instead: return x0 within [-1, 1]


_ = check(DROPPED_CONDITION, dropped_condition)
_ = check(DYNAMIC_THRESHOLD, dynamic_threshold)

# %% [markdown]
# ## What to read next
#
# The paper's sections 3 and 4. Then [`15_pndm`](15_pndm.ipynb).
