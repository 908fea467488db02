"""What a diffusion network is trained to answer, and the loss that asks it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

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


def as_eps(net: Network, prediction: Prediction, schedule: Schedule) -> Network:
    """The noise predictor in a network of any prediction; bind a label with `functools.partial`."""

    def eps_net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return prediction.eps(x, check_answer(net(x, t, label), x), schedule(t))

    return eps_net


def on_clock(net: Network, rate: float) -> Network:
    """A network that is handed rate * t: one that counts a chain's steps, on a schedule whose times are not that."""
    return lambda x, t, label=None: net(x, rate * t, label)
