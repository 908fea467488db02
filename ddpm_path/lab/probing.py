"""What a network knows at each noise level: its errors, the bound's bits, the noise of its gradient.

Beside it stands what one would answer who knew the training set by heart, and nothing else.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_path.exact import FiniteData
from ddpm_path.gaussian import q_sample
from ddpm_path.guidance import Classifier, clip_x0
from ddpm_path.lab.datasets import Images
from ddpm_path.lab.metrics import in_parts
from ddpm_path.losses import LossHistory, Network, Reverse, bound_term, fixed_variance, prior_term
from ddpm_path.samplers import Variance
from ddpm_path.schedule import Schedule


@torch.no_grad()
def loss_by_level(
    eps_net: Network, schedule: Schedule, images: Tensor, labels: Tensor | None, times: Sequence[float], seed: int = 0
) -> Tensor:
    """The eps error E|eps - eps_net(x_t, t, label)|^2 per dimension at each time, (len(times),).

    Answering 0 costs 1 at every time: the baseline that doing nothing sets. The same noise is used at all times.
    """
    levels = _noised(schedule, images, times, seed)
    return torch.stack([(eps_net(x, t, labels) - eps).square().mean() for x, t, eps in levels])


def _noised(
    schedule: Schedule, images: Tensor, times: Sequence[float], seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """x_t, t (B,) and eps at each time; eps is always the same."""
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    for t in times:
        batch = torch.full((len(images),), float(t))
        yield q_sample(images, eps, schedule(batch)), batch, eps


def eps_by_level(
    eps_net: Network, schedule: Schedule, data: Images, times: Sequence[float], labelled: bool = True
) -> dict[str, Tensor]:
    """The eps error of a network on training and test images, beside the training set's own optimum."""
    n = min(256, len(data.test))

    def error(net: Network, images: Tensor, labels: Tensor) -> Tensor:
        return loss_by_level(net, schedule, images[:n], labels[:n] if labelled else None, times)

    return {
        "train": error(eps_net, data.train, data.train_labels),
        "test": error(eps_net, data.test, data.test_labels),
        "by heart": error(by_heart(data, schedule), data.train, data.train_labels),
    }


@torch.no_grad()
def accuracy_by_level(
    classifier: Classifier, schedule: Schedule, images: Tensor, labels: Tensor, times: Sequence[float], seed: int = 0
) -> Tensor:
    """The share of noised images whose most likely class is their label, at each time, (len(times),)."""
    shares = []
    for x, t, _ in _noised(schedule, images, times, seed):
        seen = torch.cat(
            [classifier(*part).argmax(1) for part in zip(torch.split(x, 500), torch.split(t, 500), strict=True)]
        )
        shares.append((seen == labels).float().mean())
    return torch.stack(shares)


def by_heart(data: Images, schedule: Schedule) -> Network:
    """The finite-set optimum: what a network that knew all training images by heart would answer to x, t and label."""
    everything = FiniteData(data.train).eps_fn(schedule)
    worlds = [FiniteData(data.train[data.train_labels == k]).eps_fn(schedule) for k in range(len(data.classes))]

    def eps_net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return everything(x, t)
        eps = torch.empty_like(x)
        for k in torch.unique(label).tolist():
            of_k = label == k
            eps[of_k] = worlds[k](x[of_k], t[of_k])
        return eps

    return eps_net


def by_heart_classifier(data: Images, schedule: Schedule) -> Classifier:
    """The class posterior of the training set, known by heart: log p_t(class | x), (B, classes), float64."""
    worlds = [FiniteData(data.train[data.train_labels == k]) for k in range(len(data.classes))]
    sizes = torch.tensor([float(len(world.data)) for world in worlds], dtype=torch.float64)

    def classifier(x: Tensor, t: Tensor) -> Tensor:
        return (torch.stack([world.log_prob(x, schedule(t)) for world in worlds], 1) + sizes.log()).log_softmax(1)

    return classifier


class Bits(NamedTuple):
    """The bound on -log2 p of each image in its three parts, each (B,), in bits/dim: their sum is its code length."""

    prior: Tensor
    rate: Tensor
    distortion: Tensor

    @property
    def total(self) -> Tensor:
        """The whole bound of each image."""
        return self.prior + self.rate + self.distortion

    def __str__(self) -> str:
        """The means over images."""
        parts = ", ".join(f"{part} {value.mean():.5f}" for part, value in self._asdict().items())
        return f"{self.total.mean():.3f} bits/dim: {parts}"


def clipped_reverse(
    net: Network, schedule: Schedule, labels: Tensor | None, variance: Variance, times: Sequence[float] = (2, 1, 0)
) -> Reverse:
    """The step back of a noise predictor with x_0 clipped and a fixed variance, as the paper's code codes images."""
    return fixed_variance(clip_x0(in_parts(net, labels), schedule), schedule, variance, times)


@torch.no_grad()
def bits(
    reverse: Reverse,
    schedule: Schedule,
    images: Tensor,
    times: Sequence[float],
    strata: int = 40,
    seed: int = 0,
    progress: str | None = None,
) -> Bits:
    """The variational bound of images (B, ...) along `times`, [T, ..., 0], from about `strata` of its terms an image.

    The rate is the sum of the terms before the last, which is the distortion. Its steps are cut into strata that widen
    with t, as most bits lie near the data; each image draws a step of its own in each, whose term counts for the whole
    stratum: unbiased, and exact for strata of one step. The same seed gives all models the same steps and noise.
    `progress` is the title of a progress bar, if there is to be one.
    """
    draw = torch.Generator().manual_seed(seed)
    rising = torch.tensor(times, dtype=torch.float64).flip(0)  # 0, t_1, ..., T: step k leads from k to k - 1
    n, steps = len(images), len(times) - 1
    edges = sorted({round(2 * ((steps + 1) / 2) ** (k / strata)) for k in range(strata + 1)})
    terms = []
    for low, high in tqdm([(1, 2), *itertools.pairwise(edges)], progress, disable=progress is None):
        k = low + (torch.rand(n, generator=draw).double() * (high - low)).long()
        eps = torch.randn(images.shape, generator=draw)
        terms.append((high - low) * bound_term(reverse, schedule, images, rising[k], rising[k - 1], eps))
    return Bits(prior_term(schedule, images, times[0]), torch.stack(terms[1:]).sum(0), terms[0])


def gradient_noise(
    losses: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    p: Tensor,
    batch: int = 16,
    draws: int = 20,
    generator: torch.Generator | None = None,
) -> float:
    """How noisy the gradient of a mean over t is with times drawn from p (T,): the median of |g - their mean|^2.

    losses: whole times (batch,), drawn independently, to their losses (batch,), a function of `weights`; each counts
    1 / (T p_t). One gradient g for each of `draws` batches.
    """
    gradients = []
    for _ in range(draws):
        t = torch.multinomial(p, batch, replacement=True, generator=generator) + 1
        loss = (losses(t.double()) / (len(p) * p[t - 1])).mean()
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(weights))]))
    stacked = torch.stack(gradients)  # (draws, number of weights)
    return float((stacked - stacked.mean(0)).square().sum(1).median())


def importance_gain(
    losses: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    T: int,
    each: int = 2,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, float]:
    """What drawing times by importance is worth: eq. 18's p (T,), and log2 of the `gradient_noise` that it saves.

    losses as in `gradient_noise`; p follows from `each` of them at every time, drawn here. Positive where the gradient
    is less noisy than with uniform times [Nichol 2021, sec. 3.3].
    """
    history = LossHistory(T, each)
    with torch.no_grad():
        for t in torch.split(torch.arange(1.0, T + 1).repeat(each), 200):
            history.add(t, losses(t))
    p = history.probabilities()
    uniform, drawn = (gradient_noise(losses, weights, q, generator=generator) for q in (torch.full_like(p, 1 / T), p))
    return p, math.log2(uniform / drawn)
