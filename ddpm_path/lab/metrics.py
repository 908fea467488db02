"""How good samples are: recognised, covering, not copied; Frechet and kernel distance.

Every result carries the settings that it was measured under, and results whose settings differ refuse
to be compared. None of these is called FID: the features are a small classifier's, not Inception's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_path.exact import GaussianMixture
from ddpm_path.guidance import clip_x0, on_eps
from ddpm_path.lab.datasets import Images, check_images
from ddpm_path.losses import Network
from ddpm_path.samplers import Sampler, ancestral, ancestral_learned, last, start_noise
from ddpm_path.schedule import EpsFn, Schedule

CONFIDENT = 0.9
Settings = dict[str, str | int | float]


@dataclass(frozen=True)
class Result:
    """A measured value, its standard error, and everything it depends on."""

    metric: str
    value: float
    error: float
    settings: Settings = field(default_factory=dict)

    def minus(self, other: "Result") -> tuple[float, float]:
        """The difference and its standard error; ValueError unless metric and settings agree."""
        differing = {k for k in self.settings | other.settings if self.settings.get(k) != other.settings.get(k)}
        if self.metric != other.metric or differing:
            what = ", ".join(sorted(differing)) or "the metric"
            raise ValueError(f"not comparable: {what} differ; measure both under the same settings")
        return self.value - other.value, math.hypot(self.error, other.error)


class Recogniser(nn.Module):
    """A small convolutional classifier, (B, C, H, W) to log-probabilities (B, classes)."""

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 24) -> None:
        super().__init__()

        def conv(c_in: int, c_out: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU())

        w = width
        self.trunk = nn.Sequential(
            conv(channels, w), conv(w, w), nn.MaxPool2d(2), conv(w, 2 * w), conv(2 * w, 2 * w), nn.MaxPool2d(2),
            conv(2 * w, 4 * w), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(16 * w, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] to log-probabilities."""
        return F.log_softmax(self.head(self.trunk(x)), dim=1)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The 64 activations before the last layer, (B, 64): the space that distances are taken in."""
        return torch.cat([self.trunk(part) for part in torch.split(x, 500)])

    @torch.no_grad()
    def log_probs(self, x: Tensor) -> Tensor:
        """The forward pass in batches that fit in memory."""
        return torch.cat([self(part) for part in torch.split(x, 500)])


def train_recogniser(
    data: Images, epochs: int, seed: int = 0, make: Callable[[], Recogniser] = Recogniser
) -> Recogniser:
    """A recogniser trained on the real training split, with shifts by up to a pixel either way."""
    check_images(data.train)
    batch, lr, n = 64, 2e-3, len(data.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make()
        optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * (n // batch))
        for at in (at for _ in range(epochs) for at in torch.split(torch.randperm(n), batch)[: n // batch]):
            loss = F.nll_loss(net(jitter(data.train[at])), data.train_labels[at])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
    return net.eval()


def jitter(x: Tensor) -> Tensor:
    """Each image shifted by -1, 0 or 1 pixel in both directions; what comes in is background."""
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0)
    H, W = x.shape[2:]
    dy, dx = torch.randint(0, 3, (2, len(x)))
    rows, columns = dy[:, None] + torch.arange(H), dx[:, None] + torch.arange(W)  # (B, H), (B, W)
    return padded[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def accuracy(net: Recogniser, images: Tensor, labels: Tensor) -> float:
    """The share of images whose most likely class is their label."""
    return float((net.log_probs(images).argmax(1) == labels).double().mean())


def seen_as(net: Recogniser, images: Tensor, labels: Tensor | None) -> Tensor:
    """Which images are seen as their label (as any class, if None) with confidence above 0.9, (B,)."""
    confidence, seen = net.log_probs(images).exp().max(1)
    return (confidence > CONFIDENT) & (True if labels is None else seen == labels)


def recognised(net: Recogniser, images: Tensor, labels: Tensor | None) -> tuple[float, float]:
    """The share that `seen_as` finds, and its standard error."""
    share = float(seen_as(net, images, labels).double().mean())
    return share, math.sqrt(share * (1 - share) / len(images))


@torch.no_grad()
def segment(score: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The most likely class at each pixel, (B, H, W), in batches that fit in memory."""
    return torch.cat([score(part).argmax(1) for part in torch.split(images, 20)])


def confusion(seen: Tensor, true: Tensor, classes: int) -> Tensor:
    """How many pixels of class i are seen as j in each image, (B, classes, classes); both (B, H, W) whole numbers."""
    pairs = (classes * true + seen).flatten(1)
    return torch.stack([pair.bincount(minlength=classes**2) for pair in pairs]).view(-1, classes, classes)


def mean_iou(counts: Tensor, classes: int) -> float:
    """The mean over the first `classes` classes of intersection over union, of an image set's `confusion` (B, C, C).

    Pixels of all images are summed first [Long 2014, sec. 5]. Classes that come last (the background) are left out of
    the mean, though their pixels count where they are taken for another; so are classes neither there nor seen.
    """
    total = counts.sum(0).double()
    union = total.sum(0) + total.sum(1) - total.diagonal()
    return float((total.diagonal() / union)[:classes].nanmean())


def bootstrap_difference(
    statistic: Callable[[Tensor], float], a: Tensor, b: Tensor, draws: int = 200
) -> tuple[float, float]:
    """statistic(a) - statistic(b), and its standard error over bootstrap draws of the rows, the same for both.

    a and b (n, ...) belong together row by row: two networks on one image, say. ValueError if they do not.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} rows and {len(b)} do not belong together: measure both on the same images")
    rows = torch.randint(len(a), (draws, len(a)), generator=torch.Generator().manual_seed(0))
    differences = torch.tensor([statistic(a[row]) - statistic(b[row]) for row in rows], dtype=torch.float64)
    return statistic(a) - statistic(b), float(differences.std())


def coverage(real: Tensor, samples: Tensor, neighbours: int = 5) -> float:
    """The share of real items with a sample nearer than their k-th real neighbour [Naeem 2020, eq. 4].

    Both (N, ...), flattened; compare it with the coverage that a real hold-out of equal size reaches.
    """
    return float(covered(real, samples, neighbours).double().mean())


def covered(real: Tensor, samples: Tensor, neighbours: int = 5) -> Tensor:
    """Which real items have a sample nearer than their k-th real neighbour, (N,): `coverage`, item by item."""
    return _reached(real, samples, neighbours).any(1)


def _reached(real: Tensor, samples: Tensor, neighbours: int = 5) -> Tensor:
    """Which samples lie in the neighbourhood of which real item, (real, samples)."""
    real, samples = real.flatten(1).double(), samples.flatten(1).double()  # float32 sees 0.01 between equal images
    radius = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values  # the nearest is the item itself
    return torch.cdist(real, samples) < radius[:, None]


def trade_off(
    net: Recogniser, real: Tensor, samples: Tensor, labels: Tensor, draws: int = 200, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The share recognised as their label and the coverage of `real`, float64 (1 + draws,): what guidance trades.

    The first entry is of all samples, the others of bootstrap draws of their rows, alike for one n and seed: where
    rows belong together, two samplers' ends of one latent say, the spread of differences is that of the difference.
    """
    good = seen_as(net, samples, labels).double()
    taken = _draws(len(samples), draws, seed)  # (1 + draws, n)
    reached = _reached(real, samples).double() @ (taken > 0).double().T  # (real, 1 + draws)
    return taken @ good / len(samples), (reached > 0).double().mean(0)


def at_coverage(curve: Sequence[tuple[Tensor, Tensor]], level: Tensor) -> Tensor:
    """The share recognised where a curve of `trade_off`s has the coverage `level` (1 + draws,), draw by draw, linearly.

    Beyond the curve's ends it is that of the end.
    """
    good, cover = (torch.stack(column, 1).numpy() for column in zip(*curve, strict=True))  # (1 + draws, points)
    orders = cover.argsort(1)
    draws = zip(level.tolist(), cover, good, orders, strict=True)
    return torch.tensor([float(np.interp(x, c[order], g[order])) for x, c, g, order in draws]).double()


def nearest(images: Tensor, training: Tensor, chunk: int = 5000) -> Tensor:
    """The distance of each image to its nearest training image, (N,), in [-1, 1] units."""
    flat = images.flatten(1).double()
    parts = [torch.cdist(flat, part.flatten(1).double()).amin(1) for part in torch.split(training, chunk)]
    return torch.stack(parts).amin(0)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance of Gaussians fitted to two sets of features, (n, d) each [Heusel 2017, eq. 6].

    ValueError unless both sets have one size n >= 2,000 and d <= n / 10: below that its bias is all one sees.
    """
    n, d = a.shape
    if b.shape != a.shape or n < 2000 or d > n // 10:
        raise ValueError(
            f"Frechet distance wants two sets of one size n >= 2000 and features <= n / 10; got {tuple(a.shape)} and "
            f"{tuple(b.shape)}. For fewer images use kernel_distance"
        )
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    # tr sqrt(A B) from the eigenvalues of A B, which are real and not negative.
    cross = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of two sets, (n, d) and (m, d), cubic kernel [Binkowski 2018]."""

    def within(x: Tensor) -> Tensor:
        k = _cubic(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * _cubic(a, b).mean())


def kernel_difference(a: Tensor, b: Tensor, real: Tensor, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """By how much a lies farther from `real` than b, in `kernel_distance`, and the standard error of that.

    a and b (n, d) belong together row by row: two samplers' ends of one latent, say. The error is the spread over
    bootstrap draws of the rows, the same for both, so what a latent does to both alike cancels; `real` (m, d) is not
    drawn again. ValueError unless a and b have one shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} belong together row by row: one shape, please")
    # What `real` has within cancels.
    k = _cubic(a, a) - _cubic(b, b)  # (n, n)
    across = (_cubic(a, real) - _cubic(b, real)).mean(1)  # (n,)
    differences = _redrawn(k, across, draws, seed)
    return float(differences[0]), float(differences[1:].std())


def kernel_error(a: Tensor, real: Tensor, draws: int = 200, seed: int = 0) -> float:
    """The standard error of a's `kernel_distance` from `real`, over bootstrap draws of a's rows alone."""
    return float(_redrawn(_cubic(a, a), _cubic(a, real).mean(1), draws, seed)[1:].std())


def _redrawn(k: Tensor, across: Tensor, draws: int, seed: int) -> Tensor:
    """What of the distance depends on n rows, of them all and of each bootstrap draw, (1 + draws,).

    k (n, n) is the kernel between them, across (n,) the mean of each with what is not drawn again.
    """
    n = len(k)
    taken = _draws(n, draws, seed)
    within = ((taken @ k * taken).sum(1) - taken @ k.diagonal()) / (n * (n - 1))
    redrawn: Tensor = within - 2 * taken @ across / n
    return redrawn


def _draws(n: int, draws: int, seed: int) -> Tensor:
    """All n rows, then bootstrap draws of them: how many times each is taken, float64 (1 + draws, n)."""
    rows = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    taken = torch.zeros(draws, n).scatter_add_(1, rows, torch.ones(draws, n))
    return torch.cat([torch.ones(1, n), taken]).double()


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def wasserstein(samples: Tensor, world: GaussianMixture) -> float:
    """The Wasserstein-1 distance of samples (N, 1) from a one-dimensional world: how far a sample lies off, on average.

    Sorted samples are held against as many quantiles of the world, so it costs no draws of the data.
    """
    n = len(samples)
    if samples.shape != (n, 1):
        raise ValueError(f"samples on a line are (N, 1), not {tuple(samples.shape)}")
    share = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    return float((samples.double().sort(0).values - world.quantile(share, (1.0, 0.0))).abs().mean())


def balanced_labels(n: int, classes: int) -> Tensor | None:
    """Labels 0, 1, ..., classes - 1, 0, ..., (n,); None for a model without classes."""
    return torch.arange(n) % classes if classes else None


def in_parts(net: Network, labels: Tensor | None) -> EpsFn:
    """A network with each item's label bound in, asked in parts that fit a CPU's cache: faster than a large batch."""
    size = 200

    def ask(x: Tensor, t: Tensor) -> Tensor:
        parts = (slice(i, i + size) for i in range(0, len(x), size))
        return torch.cat([net(x[part], t[part], None if labels is None else labels[part]) for part in parts])

    return ask


def sample(
    eps_net: Network,
    schedule: Schedule,
    n: int,
    shape: Sequence[int],
    times: Sequence[float],
    seed: int,
    labels: Tensor | None = None,
    sampler: Sampler = ancestral,
) -> Tensor:
    """n images (n, *shape) with a progress bar, x_0 clipped; `sampler` is one of `samplers`."""
    return _walk(sampler, clip_x0(in_parts(eps_net, labels), schedule), schedule, n, shape, times, seed)


def sample_learned(
    net: Network, schedule: Schedule, n: int, shape: Sequence[int], times: Sequence[float], seed: int
) -> Tensor:
    """As `sample`, for a network that learned its variance."""
    clipped = on_eps(in_parts(net, None), lambda eps_fn: clip_x0(eps_fn, schedule))
    return _walk(ancestral_learned, clipped, schedule, n, shape, times, seed)


def _walk(
    sampler: Sampler, net: EpsFn, schedule: Schedule, n: int, shape: Sequence[int], times: Sequence[float], seed: int
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = start_noise(n, shape, generator) * float(schedule(schedule.T)[1])  # far from 1 on VE
    states = sampler(net, schedule, x, times, generator=generator)
    return last(tqdm(states, f"{n} samples", len(times) - 1, leave=None))  # inside another bar it goes when it is full


def quality(net: Recogniser, data: Images, samples: Tensor, labels: Tensor | None, settings: Settings) -> list[Result]:
    """Recognised, coverage and novelty of samples, each relative to what real images reach (1 is as good as real).

    `recognised`: the samples' rate over the test images' rate; the others as in `guards`.
    """
    rate, error = recognised(net, samples, labels)
    real_rate, real_error = recognised(net, data.test, data.test_labels)
    ratio = rate / real_rate
    ratio_error = ratio * math.hypot(error / max(rate, 1e-9), real_error / real_rate)
    result = Result("recognised", ratio, ratio_error, _complete(settings, data, samples))
    return [result, *guards(data, samples, settings)]


def guards(data: Images, samples: Tensor, settings: Settings) -> list[Result]:
    """Coverage and novelty of samples, each relative to what real images reach; they need no classifier.

    `coverage`: of test images' neighbourhoods (pixels) by samples, over that by as many real training images; averaged
    over two or more batches of samples, no larger than the test set nor 1,000. `novelty`: median distance to the
    nearest training image, over the test images' own; copies have 0. What too few images, or test images that are
    training images, leave undefined is left out: coverage below 6 of them, novelty below 2.
    """
    n = min(len(samples) // 2, len(data.test), 1000)  # two batches at least, so that their spread is known
    test = data.test[_some(len(data.test), n)]
    settings = _complete(settings, data, samples)
    novel = []
    near, near_real = nearest(samples, data.train), nearest(test, data.train)
    if n > 1 and near_real.median() > 0:
        novelty = float(near.median() / near_real.median())
        # A median's standard error is 1.25 times the mean's, if the distances are about normal.
        error = 1.25 * novelty * _relative_error(near, near_real)
        novel = [Result("novelty", novelty, error, settings)]
    if n < 6:  # fewer than coverage's neighbours
        return novel
    hold_out = [data.train[_some(len(data.train), n, seed)] for seed in range(1, 6)]
    batches = [samples[i : i + n] for i in range(0, len(samples) - n + 1, n)]
    cover, real_cover = (torch.tensor([coverage(test, part) for part in parts]) for parts in (batches, hold_out))
    value = float(cover.mean() / real_cover.mean())
    return [Result("coverage", value, value * _relative_error(cover, real_cover), settings), *novel]


def _complete(settings: Settings, data: Images, samples: Tensor) -> Settings:
    return settings | {"data": data.name, "n": len(samples), "split": "test"}


def _relative_error(*measured: Tensor) -> float:
    """The standard error of a ratio of means, relative to the ratio."""
    return math.hypot(*(float(m.std() / m.mean().clamp(min=1e-9)) / math.sqrt(len(m)) for m in measured))


def _some(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]
