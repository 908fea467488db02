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
# # 13 · Classifier guidance
#
# GANs could trade diversity for fidelity. [Dhariwal and Nichol](https://arxiv.org/abs/2105.05233) (2021) gave diffusion
# such a knob: while sampling, a classifier that can read *noisy* images pushes each one towards its label. With a
# better U-Net, measured in 10, this beat the GANs.
#
# Reading: the paper, sections 4 and appendix H. You need 04 and 11.

# %%
from functools import partial

import torch

from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import fixed_small, posterior, q_sample, x0_from_eps
from ddpm_path.guidance import class_score, classifier_guided, classifier_shift
from ddpm_path.lab import claims, datasets, metrics, plots, probing, train, zoo
from ddpm_path.lab.exercises import CLASS_GRADIENT, GUIDED_EPS, check
from ddpm_path.samplers import ancestral, ddim, last, start_noise
from ddpm_path.schedule import Discrete, linear_betas, uniform_times

seed = lambda k: torch.Generator().manual_seed(k)
schedule = Discrete.from_betas(linear_betas())
world, normal = isotropic_mixture([0.5, 0.5], [[-1.0], [1.0]], std=0.5), partial(torch.randn, dtype=torch.float64)
bars, worlds_eps = schedule.alpha_bar, world.eps_fn(schedule)

# %% [markdown]
# ## Bayes' rule, as a gradient
#
# $p_t(x \mid y) \propto p_t(x)\,p_t(y \mid x)$, and in gradients of logarithms the constant is gone:
#
# $$\nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)$$
#
# An unconditional model has the first term: $-\epsilon/\sqrt{1-\bar\alpha_t}$. The second, $g$, is a classifier's
# gradient in the *pixels*. So for any sampler eps becomes $\hat\epsilon = \epsilon - s\sqrt{1-\bar\alpha_t}\,g$
# [alg. 2]; or DDPM's step, a narrow Gaussian over which $\log p_t(y \mid x)$ is nearly straight, is moved to
# $\mathcal N(\mu + s\,\Sigma g,\ \Sigma)$ [alg. 1]. At $s = 1$ that is Bayes' rule.


# %%
def eps_route(eps, g, t, s):
    return eps - s * (1 - bars[t]).sqrt() * g


def mean_route(x, eps, g, t, s):
    alpha = bars[t] / bars[t - 1]
    variance = (1 - bars[t - 1]) / (1 - bars[t]) * (1 - alpha)
    return (x - (1 - alpha) / (1 - bars[t]).sqrt() * eps) / alpha.sqrt() + s * variance * g


plus = class_score(lambda x, t: world.log_class(x, schedule(t)), torch.ones(20_000).long())  # exact g, of class +1
for t in (1, 500, 1000):
    now, then, times = schedule(t), schedule(t - 1), torch.full((20_000,), float(t))
    x = q_sample(world.sample(20_000, seed(t))[0], normal(20_000, 1, generator=seed(0)), now)
    eps, g = worlds_eps(x, times), plus(x, times)
    torch.testing.assert_close(eps_route(eps, g, t, 3), classifier_guided(worlds_eps, plus, schedule, 3)(x, times))
    step = posterior(x0_from_eps(x, eps, now), x, now, then)[0], fixed_small(now, then)
    torch.testing.assert_close(mean_route(x, eps, g, t, 3), classifier_shift(plus, 3)(x, times, *step))
    torch.testing.assert_close(eps_route(eps, g, t, 1), world.component(1).eps_fn(schedule)(x, times))
    print(f"t = {t}: both routes as in the package, Bayes' rule at s = 1")

# %% [markdown]
# The routes agree as steps get small; only at $t = 1$, where $\Sigma = 0$, the second moves nothing.
#
# ## A larger scale
#
# Quality came with $s > 1$. Since $s\nabla\log p(y \mid x) = \nabla\log p(y \mid x)^s$, one reads that guidance draws
# from $p(x)\,p(y \mid x)^s$, normalised. Two modes at -1 and 1, and an exact classifier, put that to the test.
#
# *Predict before you run:* the modes hardly overlap. Where does $s = 4$ put the samples of class +1?

# %%
starts = start_noise(20_000, (1,), seed(1)).double()
grid, cells, named = uniform_times(1000, 250), torch.linspace(-2, 4, 601)[:, None].double(), {}
for s in (1, 4):
    sharp = (world.log_prob(cells, (1, 0)) + s * world.log_class(cells, (1, 0))[:, 1]).softmax(0)
    end = last(ddim(classifier_guided(worlds_eps, plus, schedule, s), schedule, starts, grid))
    named[f"p(x) p(y|x)^{s}"], named[f"guided, s = {s}"] = 100 * sharp[::5], torch.histc(end, 121, -2.025, 4.025) / 1000
plots.show(plots.curves(cells[::5, 0], named, "x", "density"), "Sharpened, the bell hardly moves; guided, it does.")
w = lambda x: 0.01 * ((x <= cells.T).double().mean(0) - sharp.cumsum(0)).abs().sum()
error, means = torch.stack([w(x) for x in end.split(2000)]).std() / 10**0.5, (cells[:, 0] @ sharp, end.mean())
claims.measure("adm-sharpens", 0.05 - w(end), error, "means {:.2f} sharpened, {:.2f} guided".format(*means))

# %% [markdown]
# **You should see** the mean near 1.67, where sharpening alone gives 1.06. The sum of gradients is the right score at
# each noise level *by itself*; but noising $p(x)\,p(y \mid x)^s$ does not give $p_t(x)\,p_t(y \mid x)^s$. In noise the
# classifier is unsure, so it pushes hard and early. Guidance samples no such density.
#
# ## The noisy classifier
#
# Ours is ADM's: the U-Net's way down, told $t$, then *attention pooling*: the mean of all positions attends to each of
# them (`ddpm_path/classifier.py`). It is trained on $x_t$ at all $t$. How right can it be? On a mixture the exact
# posterior is the limit. For digits we have one that knows the training images by heart.
#
# *Predict:* at which $t$ does a digit become illegible?

# %%
three = isotropic_mixture([0.4, 0.3, 0.3], [[-0.6, -0.4], [0.6, -0.2], [0.1, 0.7]], std=0.25)
torch.manual_seed(0)
layers = torch.nn.Sequential(*(m for n in (3, 64, 64) for m in (torch.nn.Linear(n, 64), torch.nn.SiLU())))
small = lambda x, t: layers(torch.cat([x, t[:, None] / 1000], 1)).log_softmax(1)
draw, levels = seed(2), [1, *range(100, 1001, 100)]


def log_likelihood():
    x0, k = three.sample(256, draw)
    t = torch.randint(1, 1001, (256,), generator=draw).float()
    log_probs = small(q_sample(x0, normal(256, 2, generator=draw), cosine(t)).float(), t)
    return log_probs.gather(1, k[:, None]).mean()


(net, cosine), data = zoo.load("digits"), datasets.digits()
noisy, clean = (zoo.load_classifier(name)[0] for name in ("digits-classifier", "digits-clean-classifier"))
train.maximise(log_likelihood, layers.parameters(), 500, 1e-2, "three classes")
points, of = three.sample(4000, seed(3))
heart = probing.by_heart_classifier(data, cosine)
rows = {"mixture: exact": lambda x, t: three.log_class(x, cosine(t)), "mixture: network": small}
table = {k: probing.accuracy_by_level(c, cosine, points.float(), of, levels) for k, c in rows.items()}
rows = {"digits: by heart": heart, "digits: ours": noisy, "digits: trained on clean": clean}
table |= {k: probing.accuracy_by_level(c, cosine, data.test, data.test_labels, levels) for k, c in rows.items()}
plots.show(plots.curves(levels, table, "t", "accuracy"), "Networks near their posteriors, the clean one far below.")

# %% [markdown]
# **You should see** each network near its posterior, and the clean one fall early.
#
# ## What it whispers
#
# A 3, more and more noisy, and what would make it more of an 8: our gradient, and that of the posterior by heart.

# %%
times = torch.tensor([20.0, 200, 400, 500, 600, 700, 800, 900])
three_digit = data.test[data.test_labels == 3][:1].expand(8, -1, -1, -1)
x = q_sample(three_digit, torch.randn(1, 1, 16, 16, generator=seed(5)).expand(8, -1, -1, -1), cosine(times))
scores = [class_score(c, torch.full((8,), 8))(x, times) for c in (noisy, heart)]
alike = torch.cosine_similarity(*(g.flatten(1) for g in scores))
print("cosine of the two gradients:", ", ".join(f"{c:.2f}" for c in alike))
pictures = torch.cat([v / v.abs().amax((1, 2, 3), keepdim=True) for v in (x, *scores)])
figure = plots.grid(pictures, 8, [f"t = {t:.0f}" for t in times], ("x", "ours", "by heart"), zoom=1.4)
plots.show(figure, "A 3 drowning in noise, and gradients towards 8: grain at small t, strokes that close it later.")

# %% [markdown]
# **You should see** that in noise, where a digit's class is still open, both pull in the same strokes. Near data they
# disagree: there our classifier has reasons of its own.
#
# ## Steering digits
#
# Told no label (14), the digits' model draws; the classifier steers. Who judges? Not the guide, whom samples were
# made to please. We ask the *recogniser*, trained apart. In its features the *kernel distance* of two sets of draws
# of the same thing is about 0.
#
# *Predict:* which scale has the best accuracy? Which the best coverage of the test digits?

# %%
labels, judge, of_noisy = torch.arange(355) % 10, zoo.load_recogniser("digits-recogniser"), partial(class_score, noisy)


def steered(scale, score_of=of_noisy, n=355, model=lambda x, t, label: net(x, t), size=16, steps=10):
    def guided(x, t, label):
        return classifier_guided(partial(model, label=label), score_of(label), cosine, scale)(x, t)

    return metrics.sample(guided, cosine, n, (1, size, size), uniform_times(1000, steps), 0, labels[:n], ddim)


def show(rows, alt):
    plots.show(plots.grid(torch.cat([x[:10] for x in rows.values()]), 10, rows=tuple(rows)), alt)


drawn = {scale: steered(scale) for scale in (0, 1, 3, 10)}
show({f"s = {s}": x for s, x in drawn.items()}, "Four rows from the same noise: any digits at s = 0, below 0 to 9.")

# %%
right = lambda x: (judge.log_probs(x).argmax(1) == labels[: len(x)]).float()
own = lambda x: (noisy(x, torch.ones(355)).argmax(1) == labels).float()
reach, real = lambda x: metrics.covered(data.test, x).float(), judge.features(data.test)
feature = {s: judge.features(x) for s, x in drawn.items()}
far = {s: metrics.kernel_distance(f, real) for s, f in feature.items()}
hit, reached, pleased = ({s: f(x) for s, x in drawn.items()} for f in (right, reach, own))
for s in drawn:
    shares = f"right {hit[s].mean():.3f} (says its guide: {pleased[s].mean():.3f}), coverage {reached[s].mean():.3f}"
    print(f"s = {s}: {shares}, kernel distance {far[s]:.3f}")
paired = lambda gain: (gain.mean(), gain.std() / len(gain) ** 0.5)
least = min((hit[1] - hit[0], hit[3] - hit[1]), key=lambda rise: rise.mean())
claims.measure("adm-fidelity", *paired(least))
claims.measure("adm-diversity", *paired(reached[1] - reached[10]))
spread = lambda x: torch.stack([torch.pdist(x[labels == k].flatten(1)).mean() for k in range(10)])
claims.measure("adm-narrows", *paired((spread(drawn[1]) / spread(drawn[10])).log()))
chosen = min((1, 3, 10), key=far.get)
claims.measure("adm-distance", *metrics.kernel_difference(feature[0], feature[chosen], real), f"best at s = {chosen}")

# %% [markdown]
# **You should see** accuracy rise, and classes grow alike. Of guided scales 3 covers best: 1 still botches digits,
# 10 repeats itself. The guide praises itself a little too much. **If instead** it alone is pleased, its gradient
# is noise.
#
# ## Three famous mistakes, on purpose
#
# At $s = 3$: a classifier trained on *clean* images (told $t = 1$, all it knows); the *index* of the
# step, 10 to 1, in place of $t$; the gradient of the *probability*, not its logarithm.
#
# *Predict:* which comes close to the right one?

# %%
p = lambda x, t, label: noisy(x, t).gather(1, label[:, None]).exp()[:, :, None, None]
mistakes = {
    "clean": lambda label: class_score(lambda x, t: clean(x, torch.ones_like(t)), label),
    "index": lambda label: lambda x, t: of_noisy(label)(x, t / 100),
    "probability": lambda label: lambda x, t: p(x, t, label) * of_noisy(label)(x, t),
}
wrong = {name: steered(3, score_of, 200 if name == "clean" else 50) for name, score_of in mistakes.items()}
print(f"right {hit[3].mean():.2f};", ", ".join(f"{name} {right(x).mean():.2f}" for name, x in wrong.items()))
show({"right": drawn[3]} | wrong, "Digits 0 to 9 in the first row; many others in the rows of the three mistakes.")
claims.measure("adm-noisy", *paired(hit[3][:200] - right(wrong["clean"])))

# %% [markdown]
# The probability comes closest. A fourth lives in the other route: $\mu + s g$, *without the variance*. On two modes
# (class +1 has mean 1, deviation 0.5):

# %%
shifts = {"right": classifier_shift(plus, 1.0), "forgotten": lambda x, t, mean, var: mean + plus(x, t)}
for name, shift in shifts.items():
    x = last(ancestral(worlds_eps, schedule, starts, uniform_times(1000, 50), shift=shift, generator=seed(4)))
    print(f"variance {name}: mean {x.mean():.2f}, std {x.std():.2f}")

# %% [markdown]
# **You should see** a mistake that passes for a larger scale.
#
# ## A model that knows the label already
#
# Guiding it adds to what it knows: with perfect networks $s$ on a conditional model is $1 + s$ on an unconditional one.

# %%
told = {s: steered(s, n=50, model=net) for s in (0, 2)}
for s, x in told.items():
    same, other = (torch.dist(x, drawn[s + 1][at : at + 50]) / 12800**0.5 for at in (0, 50))
    print(f"told, s = {s}: right {right(x).mean():.2f}; from untold at {s + 1} {same:.2f}, from others {other:.2f}")

# %% [markdown]
# **You should see** images that resemble each other: trained apart, the networks obey Bayes' rule only roughly.
#
# ## MNIST
#
# The paper, too, needed $s = 10$ for an unconditional model.

# %%
mnist, of_mnist = zoo.load("mnist")[0], partial(class_score, zoo.load_classifier("mnist-classifier")[0])
rows = {f"s = {s}": steered(s, of_mnist, 10, lambda x, t, label: mnist(x, t), 28, 20) for s in (0, 1, 10)}
show(rows, "MNIST digits in three rows from the same noise: any digits at s = 0, then 0 to 9, clearest at s = 10.")

# %% [markdown]
# ## Exercises
#
# From memory: (1) the gradient that guides, given a classifier, images `(B, ...)`, times and a label for all; (2) the
# guided eps. Solutions: `ddpm_path/lab/exercises/classifier_guidance.py`.


# %%
def class_gradient(classifier, x, t, label):
    raise NotImplementedError  # your lines instead: return the gradient, shaped like x


def guided_eps(eps, gradient, alpha_bar, scale):
    raise NotImplementedError  # your lines instead: return eps


_ = check(CLASS_GRADIENT, class_gradient), check(GUIDED_EPS, guided_eps)

# %% [markdown]
# ## What to read next
#
# `ddpm_path/guidance.py` and `ddpm_path/classifier.py`; then
# [`14_classifier_free_guidance`](14_classifier_free_guidance.ipynb), which needs no classifier.
