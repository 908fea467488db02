"""Worlds whose best denoiser is known in closed form: a Gaussian mixture, and a finite set of data.

Both answer E[x_0 | x_t], and so eps and the score, exactly and at any noise level. Every sampler is
tried on them first: what remains of an error is the sampler's own.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpm_path.gaussian import (
    AnyLevel,
    Coefficient,
    check_alike,
    check_noisy,
    check_range,
    eps_from_x0,
    expand,
    fixed_large,
    posterior,
)
from ddpm_path.losses import Reverse
from ddpm_path.schedule import EpsFn, Schedule


class GaussianMixture:
    """Data drawn from sum_k weights[k] N(means[k], covariances[k]), diffused exactly; ValueError if they are not that.

    weights (K,), means (K, D), covariances (K, D, D). All methods compute in float64 and take x of
    shape (B, D); `now` is the noise level (scale, std) of x, (1, 0) for the data themselves.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = weights.double(), means.double(), covariances.double()
        if self.means.ndim != 2 or not bool(self.means.isfinite().all()):
            raise ValueError(f"means are (K, D), a finite point for each component; got {tuple(self.means.shape)}")
        K, D = self.means.shape
        if self.weights.shape != (K,) or self.covariances.shape != (K, D, D):
            raise ValueError(f"means {(K, D)} want weights {(K,)} and covariances {(K, D, D)}")
        if not (bool((self.weights > 0).all()) and abs(float(self.weights.sum()) - 1) < 1e-6):
            raise ValueError("weights must be positive and sum to 1")
        if not torch.allclose(self.covariances, self.covariances.mT):
            raise ValueError("covariances must be symmetric and positive definite")
        self.weights = self.weights / self.weights.sum()  # to the last digit, also if they came in float32
        # Noise adds std^2 to every eigenvalue and leaves the eigenvectors, so one decomposition serves all levels.
        self.eigenvalues, self.axes = torch.linalg.eigh(self.covariances)  # (K, D), (K, D, D)
        if bool((self.eigenvalues <= 0).any()):
            raise ValueError("covariances must be symmetric and positive definite")

    def component(self, k: int) -> "GaussianMixture":
        """The world of class k alone."""
        return GaussianMixture(torch.ones(1), self.means[k : k + 1], self.covariances[k : k + 1])

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n draws of the data (n, D), float64, and the component each came from (n,)."""
        check_range(1, n=n)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        along = self.eigenvalues[k].sqrt() * z
        return self.means[k] + torch.einsum("nij,nj->ni", self.axes[k], along), k

    def log_joint(self, x: Tensor, now: AnyLevel) -> Tensor:
        """log p_t(x, k) for every component, (B, K), in nats."""
        return self._log_joint(*self._rotated(x, now))

    def log_prob(self, x: Tensor, now: AnyLevel) -> Tensor:
        """log p_t(x), (B,), in nats."""
        return self.log_joint(x, now).logsumexp(-1)

    def log_class(self, x: Tensor, now: AnyLevel) -> Tensor:
        """log p_t(k | x), (B, K): the exact noisy classifier."""
        return self.log_joint(x, now).log_softmax(-1)

    def score(self, x: Tensor, now: AnyLevel) -> Tensor:
        """grad log p_t(x), (B, D)."""
        along, variance = self._rotated(x, now)
        classes = self._log_joint(along, variance).softmax(-1)
        return torch.einsum("bk,kij,bkj->bi", classes, self.axes, -along / variance)

    def x0(self, x: Tensor, now: AnyLevel) -> Tensor:
        """E[x_0 | x_t = x], (B, D); Tweedie's formula without dividing by a small scale."""
        along, variance = self._rotated(x, now)
        shrink = expand(now[0], along) * self.eigenvalues / variance
        given_k = self.means + torch.einsum("kij,bkj->bki", self.axes, shrink * along)
        return torch.einsum("bk,bki->bi", self._log_joint(along, variance).softmax(-1), given_k)

    def eps_fn(self, schedule: Schedule) -> EpsFn:
        """The optimal noise predictor on `schedule`, answering in x's dtype."""
        return lambda x, t: eps_from_x0(x.double(), self.x0(x, schedule(t)), schedule(t)).to(x)

    def cdf(self, x: Tensor, now: AnyLevel) -> Tensor:
        """The share of the world below x, (B, 1), in one dimension."""
        along, variance = self._on_a_line(x, now)
        below: Tensor = torch.special.ndtr(along / variance.sqrt())  # (B, K)
        return below @ self.weights[:, None]

    def quantile(self, share: Tensor, now: AnyLevel) -> Tensor:
        """The x below which a share (B, 1) of the world lies, in one dimension: the inverse of `cdf`, by bisection.

        The probability-flow ODE keeps every walker's share, so it takes x at `now` to quantile(cdf(x, now), then).
        ValueError for shares of 0 and 1.
        """
        check_alike(share)
        if not bool(((share > 0) & (share < 1)).all()):
            raise ValueError("a share lies between 0 and 1; those two have no quantile")
        offset, variance = self._on_a_line(torch.zeros_like(share), now)
        each: Tensor = torch.special.ndtri(share.double()) * variance.sqrt() - offset  # (B, K), the components' own
        low, high = each.amin(1, keepdim=True), each.amax(1, keepdim=True)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle, now) < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _on_a_line(self, x: Tensor, now: AnyLevel) -> tuple[Tensor, Tensor]:
        """x - scale * mean and the variances, both (B, K), in a world of one dimension."""
        if self.means.shape[1] != 1 or x.ndim != 2 or x.shape[1] != 1:
            raise ValueError(
                f"shares and quantiles are of one dimension, (B, 1); this world has {self.means.shape[1]}, "
                f"and they came as {tuple(x.shape)}"
            )
        scale, std = (expand(c, x.double()) for c in now)  # scalars or (B, 1)
        return x.double() - scale * self.means.T, (scale**2 * self.covariances[:, 0].T + std**2).expand(len(x), -1)

    def _log_joint(self, along: Tensor, variance: Tensor) -> Tensor:
        return self.weights.log() - 0.5 * (along**2 / variance + (2 * math.pi * variance).log()).sum(-1)

    def _rotated(self, x: Tensor, now: AnyLevel) -> tuple[Tensor, Tensor]:
        """x - scale * mean along each component's axes, and the variances there, both (B, K, D)."""
        D = self.means.shape[1]
        if x.ndim != 2 or x.shape[1] != D:
            raise ValueError(f"this world has {D} dimensions: x is (B, {D}), not {tuple(x.shape)}")
        offset = x.double()[:, None]  # (B, 1, D)
        scale, std = expand(now[0], offset), expand(now[1], offset)
        along = torch.einsum("kij,bki->bkj", self.axes, offset - scale * self.means)
        return along, (scale**2 * self.eigenvalues + std**2).expand_as(along)


def isotropic_mixture(weights: Sequence[float], means: Sequence[Sequence[float]], std: float) -> GaussianMixture:
    """A mixture of round components of one standard deviation, from plain lists."""
    centres = torch.tensor(means, dtype=torch.float64)
    if centres.ndim != 2:
        raise ValueError(f"means are a list of points, [[-1.0], [1.0]] on a line; got {means}")
    K, D = centres.shape
    covariance = std**2 * torch.eye(D, dtype=torch.float64)
    return GaussianMixture(torch.tensor(weights, dtype=torch.float64), centres, covariance.expand(K, D, D))


def gaussian_reverse(mean: float, variance: float, schedule: Schedule) -> Reverse:
    """The best step back for data N(mean, variance) in every dimension: the bound is then tight, but for its prior.

    To the posterior's variance it adds what x_t leaves open of x_0, times the square of x_0's weight in the mean.
    """
    check_range(-math.inf, mean=mean)
    check_range(0, variance=variance)

    def reverse(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Coefficient]:
        now, then = schedule(t), schedule(s)
        spread = now[0] ** 2 * variance + now[1] ** 2
        x0 = mean + expand(now[0] * variance / spread, x) * (x - expand(now[0], x) * mean)
        around, small = posterior(x0, x, now, then)
        on_x0 = then[0] * fixed_large(now, then) / now[1] ** 2
        return around, small + on_x0**2 * variance * now[1] ** 2 / spread

    return reverse


class FiniteData:
    """A data set as its own denoiser: the best that a network could do on its training set, learned by heart.

    data (N, ...). E[x_0 | x_t] is a softmax average of the data, computed in float64 over chunks of the
    data with a running maximum, so memory does not grow with N: 60,000 images fit.
    """

    def __init__(self, data: Tensor, chunk: int = 4096) -> None:
        check_range(1, chunk=chunk)
        if data.ndim < 2 or len(data) == 0 or not bool(data.isfinite().all()):
            raise ValueError("a finite data set is (N, ...), at least one item, without NaN or infinity")
        self.data, self.chunk = data, chunk

    def x0(self, x: Tensor, now: AnyLevel) -> Tensor:
        """E[x_0 | x_t = x], shaped and typed like x (B, ...); ValueError at std = 0, and for x unlike the data."""
        flat = self._flat(x, now)
        top = flat.new_full((len(flat), 1), -math.inf)
        mass, total = flat.new_zeros(len(flat), 1), flat.new_zeros(flat.shape)
        for items, logits in self._parts(flat, now):
            higher = torch.maximum(top, logits.amax(1, keepdim=True))
            shrink, weights = (top - higher).exp(), (logits - higher).exp()
            mass = mass * shrink + weights.sum(1, keepdim=True)
            total = total * shrink + weights @ items
            top = higher
        return (total / mass).view_as(x).to(x)

    def log_prob(self, x: Tensor, now: AnyLevel) -> Tensor:
        """log p_t(x), (B,), float64, in nats; differentiable in x; errors as in `x0`."""
        flat = self._flat(x, now)
        variance = expand(now[1], flat) ** 2  # (B, 1)
        total = torch.stack([logits.logsumexp(1) for _, logits in self._parts(flat, now)]).logsumexp(0)
        own = flat.square() / (2 * variance) + 0.5 * (2 * math.pi * variance).log()  # (B, D)
        return total - math.log(len(self.data)) - own.sum(1)

    def _flat(self, x: Tensor, now: AnyLevel) -> Tensor:
        check_noisy(now[1])
        if x.ndim != self.data.ndim or x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x is (B, ...) like the data, (N, ...) {tuple(self.data.shape)}; got {tuple(x.shape)}")
        return x.flatten(1).double()

    def _parts(self, flat: Tensor, now: AnyLevel) -> Iterator[tuple[Tensor, Tensor]]:
        """Items (n, D), and -|x - scale x_i|^2 / (2 std^2) less what all items share, the part in |x|^2, (B, n)."""
        scale, std = expand(now[0], flat), expand(now[1], flat)
        for i in range(0, len(self.data), self.chunk):
            items = self.data[i : i + self.chunk].flatten(1).to(flat)
            distance = scale**2 * items.square().sum(1) - 2 * scale * (flat @ items.T)
            yield items, -distance / (2 * std**2)

    def eps_fn(self, schedule: Schedule) -> EpsFn:
        """The optimal noise predictor for these data on `schedule`, answering in x's dtype."""
        return lambda x, t: eps_from_x0(x.double(), self.x0(x.double(), schedule(t)), schedule(t)).to(x)
