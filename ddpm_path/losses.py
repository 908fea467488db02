"""What a diffusion network is trained to answer, and the loss that asks it."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_path.gaussian import AnyLevel, check_answer, eps_from_v, eps_from_x0, q_sample, v_from_x0_eps
from ddpm_path.schedule import EpsFn, Schedule


class Network(Protocol):
    """A network with classes: x (B, ...), t (B,) and labels (B,), None for the null label, to an answer like x."""

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's raw answer."""


class Prediction(NamedTuple):
    """What a network's output means: its target, and how eps is read off it."""

    target: Callable[[Tensor, Tensor, AnyLevel], Tensor]  # (x0, eps, level)
    eps: Callable[[Tensor, Tensor, AnyLevel], Tensor]  # (x_t, output, level)


EPS = Prediction(lambda x0, eps, now: eps, lambda x, output, now: output)  # [Ho 2020, sec. 3.2]
X0 = Prediction(lambda x0, eps, now: x0, eps_from_x0)
V = Prediction(v_from_x0_eps, eps_from_v)  # [Salimans & Ho 2022, sec. 4]


def simple(net: EpsFn, prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_simple of each example, (B,): the squared error, averaged over dimensions [Ho 2020, eq. 14, alg. 1].

    net(x, t) answers what `prediction` says; bind a label with `functools.partial`. x0 and eps (B, ...), t (B,) in
    the schedule's time. With `EPS` it is the paper's; `V` and `X0` weigh the noise levels differently. The weight of
    eq. 12 is dropped, as in the paper. ValueError for an answer of another shape or dtype than x0's.
    """
    now = schedule(t)
    output = check_answer(net(q_sample(x0, eps, now), t.to(x0.device)), x0)
    return (output - prediction.target(x0, eps, now)).square().flatten(1).mean(1)


def importance(losses: Tensor, floor: float = 0.001) -> Tensor:
    """The probability of each time, (T,): as sqrt(E L_t^2), but for a `floor` of uniform ones [Nichol 2021, eq. 18].

    losses (T, n): the latest n of each time. ValueError if there are none, or one is missing (NaN).
    """
    if losses.ndim != 2 or losses.numel() == 0 or not bool(losses.isfinite().all()):
        missing = int((~losses.isfinite()).sum()) if losses.ndim == 2 else 0
        raise ValueError(
            f"a loss history is (T, n), n losses of every time, all finite; got {tuple(losses.shape)} with {missing} "
            "missing: draw times uniformly until each has its n"
        )
    p = losses.double().square().mean(1).sqrt()
    p = p / p.sum() if bool(p.sum() > 0) else torch.full_like(p, 1 / len(p))
    return (1 - floor) * p + floor / len(p)


class LossHistory:
    """The importance sampler's memory: the latest `each` losses of every time 1..T [Nichol 2021, sec. 3.3].

    `losses` (T, each), NaN where none is yet, and `count` (T,), how many a time ever had, are all its state: a
    checkpoint keeps the two.
    """

    def __init__(self, T: int, each: int = 10) -> None:
        if T < 1 or each < 1:
            raise ValueError(f"a history of {each} losses for each of {T} times: both must be at least 1")
        self.losses = torch.full((T, each), math.nan, dtype=torch.float64)
        self.count = torch.zeros(T, dtype=torch.long)

    def add(self, t: Tensor, loss: Tensor) -> None:
        """Remember the unweighted losses (B,) of whole times (B,); the oldest of a time are forgotten.

        ValueError for a loss that is not finite: it would stay for many draws.
        """
        if t.shape != loss.shape or not bool(loss.isfinite().all()):
            raise ValueError(f"one finite loss for each time, please; got {tuple(loss.shape)} for {tuple(t.shape)}")
        for i, value in zip((t.long() - 1).tolist(), loss.tolist(), strict=True):
            self.losses[i, self.count[i] % self.losses.shape[1]] = value
            self.count[i] += 1

    def probabilities(self) -> Tensor:
        """Eq. 18 once every time has its losses; until then uniform, (T,)."""
        T, each = self.losses.shape
        if bool((self.count < each).any()):
            return torch.full((T,), 1 / T, dtype=torch.float64)
        return importance(self.losses)


def weighted_times(p: Tensor, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Whole times 1..T drawn with probabilities p (T,), one from each of `batch` equal slices of them, and 1 / (T p_t).

    Both (batch,), times as floats. The mean of weight times loss is the uniform mean's, whatever p is: slices change
    the noise only, as in training's `stratified_times`.
    """
    u = (torch.arange(batch, dtype=torch.float64) + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
    i = torch.searchsorted(p.cumsum(0), u * p.sum(), right=True).clamp(max=len(p) - 1)
    return (i + 1).to(torch.float64), 1 / (len(p) * p[i])


def as_eps(net: Network, prediction: Prediction, schedule: Schedule) -> Network:
    """The noise predictor in a network of any prediction; bind a label with `functools.partial`."""

    def eps_net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return prediction.eps(x, check_answer(net(x, t, label), x), schedule(t))

    return eps_net
