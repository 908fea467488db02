"""Noise schedules: how much signal and how much noise each time holds.

A schedule is a callable, ``scale, std = schedule(t)``, with ``x_t = scale * x_0 + std * eps``.
Time 0 is data (scale 1, std 0) and time ``schedule.T`` is the noisiest. Everything is computed in
float64 on the CPU; whoever uses a coefficient casts it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ddpm_path.gaussian import check_range, expand

Level = tuple[Tensor, Tensor]
"""A noise level (scale, std), shaped like the times it was asked for."""
EpsFn = Callable[[Tensor, Tensor], Tensor]
"""A noise predictor: x (B, ...) and t (B,) in, the estimate of eps (B, ...) out."""


class Schedule(Protocol):
    """What every schedule offers."""

    @property
    def T(self) -> float:
        """The last, noisiest time."""

    @property
    def first(self) -> float:
        """The first time with noise: where a network is asked about data, t = 0, of which it learned nothing."""

    def __call__(self, t: Tensor | float) -> Level:
        """The level (scale, std) at t, float64 on the CPU, shaped like t."""

    def time_at(self, ratio: Tensor | float) -> Tensor:
        """The time whose std / scale is `ratio`: the inverse of the schedule."""


def linear_betas(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Evenly spaced noise variances, (T,) [Ho 2020, sec. 4].

    For T below 1000 multiply both ends by 1000 / T, as Nichol 2021 does; else x_T keeps signal. Below T = 21 that
    reaches 1: use `cosine_betas`.
    """
    check_range(1, T=T)
    check_range(0, 1, first=first, last=last)
    return torch.linspace(first, last, T, dtype=torch.float64)


def scaled_linear_betas(T: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Variances whose square roots are evenly spaced, (T,): the latent-diffusion code's [Rombach 2021]."""
    check_range(1, T=T)
    check_range(0, 1, first=first, last=last)
    return torch.linspace(math.sqrt(first), math.sqrt(last), T, dtype=torch.float64) ** 2


def cosine_betas(T: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Variances under which alpha_bar falls as a squared cosine, (T,) [Nichol 2021, eq. 17]."""
    check_range(1, T=T)
    check_range(0, 1, offset=offset, largest=largest)
    t = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=largest)


class Discrete:
    """A table of noise levels t = 0..T, with fractional times between 1 and T.

    alpha_bar: (T + 1,), alpha_bar[0] = 1 (data), strictly decreasing, above 0. `scale` is its square
    root. Between whole times log(std / scale) is interpolated linearly; 0 < t < 1 is an error, since
    the ratio falls to zero there and no network was trained on it.
    """

    first: ClassVar[float] = 1

    def __init__(self, alpha_bar: Tensor) -> None:
        table = torch.as_tensor(alpha_bar, dtype=torch.float64, device="cpu")
        if table.ndim != 1 or len(table) < 2 or table[0] != 1:
            raise ValueError("alpha_bar has shape (T + 1,) and starts with alpha_bar[0] = 1: prepend the 1")
        if not (bool((table[1:] < table[:-1]).all()) and table[-1] > 0):
            raise ValueError("alpha_bar must fall strictly and stay above 0: every beta lies in (0, 1)")
        if table[-1] > 0.1:
            warnings.warn(
                f"alpha_bar[T] = {float(table[-1]):.2g}: x_T still shows the data, while sampling starts from "
                "pure noise. With fewer steps use larger betas: cosine_betas(T), or for T > 20 "
                "linear_betas(T, 0.1 / T, 20 / T)",
                stacklevel=3,
            )
        self.alpha_bar = table
        self.scale, self.std = table.sqrt(), (1 - table).sqrt()
        self.log_ratio = 0.5 * (torch.log1p(-table[1:]) - table[1:].log())  # (T,), entry i is time i + 1

    @classmethod
    def from_betas(cls, betas: Tensor) -> "Discrete":
        """The schedule of a chain q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t), betas (T,)."""
        alphas = 1 - torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        if alphas.ndim != 1:
            raise ValueError(f"betas are (T,), one for each step; got {tuple(alphas.shape)}")
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), alphas.cumprod(0)]))

    @property
    def T(self) -> int:
        """The number of noise levels, and the last time."""
        return len(self.alpha_bar) - 1

    def __call__(self, t: Tensor | float) -> Level:
        """The level (scale, std) at t; ValueError unless t = 0 or 1 <= t <= T."""
        time = _in_range(t, self.T)
        whole = time.long()
        if bool((whole == time).all()):
            return self.scale[whole], self.std[whole]
        if bool(((time > 0) & (time < 1)).any()):
            raise ValueError("0 < t < 1 lies between the data and the first noise level: use t = 0 or t >= 1")
        below = (whole - 1).clamp(0, self.T - 2)  # (*t,) the level under t
        log_ratio = torch.lerp(self.log_ratio[below], self.log_ratio[below + 1], (time - below - 1).clamp(min=0))
        # With r = std / scale and scale^2 + std^2 = 1: std^2 = sigmoid(2 log r), without cancellation.
        scale, std = torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt()
        return torch.where(time > 0, scale, 1.0), torch.where(time > 0, std, 0.0)

    def time_at(self, ratio: Tensor | float) -> Tensor:
        """The fractional time with this std / scale; ValueError outside that of times 1..T."""
        log_ratio = _ratio_in_range(ratio, self, 1).log()
        if self.T == 1:
            return torch.ones_like(log_ratio)
        above = torch.searchsorted(self.log_ratio, log_ratio.contiguous()).clamp(1, self.T - 1)
        left, right = self.log_ratio[above - 1], self.log_ratio[above]
        return above + ((log_ratio - left) / (right - left)).clamp(0, 1)


@dataclass(frozen=True)
class VP:
    """The variance-preserving SDE's marginal, t in [0, 1] [Song 2021, eq. 11]."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: ClassVar[float] = 1.0
    first: ClassVar[float] = 1e-5  # the smallest time that is trained on

    def __post_init__(self) -> None:
        """ValueError unless 0 < beta_min < beta_max."""
        _ascending("beta", self.beta_min, self.beta_max)

    def __call__(self, t: Tensor | float) -> Level:
        """The level (scale, std) at t."""
        integral = _beta_integral(self.beta_min, self.beta_max, _in_range(t, self.T))
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def time_at(self, ratio: Tensor | float) -> Tensor:
        """The time with this std / scale; ValueError beyond that of t = 1."""
        integral = torch.log1p(_ratio_in_range(ratio, self, 0) ** 2)
        return _beta_integral_inverse(self.beta_min, self.beta_max, integral).clamp(max=self.T)


@dataclass(frozen=True)
class SubVP:
    """The sub-variance-preserving SDE's marginal, t in [0, 1] [Song 2021, eq. 12]."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: ClassVar[float] = 1.0
    first: ClassVar[float] = 1e-5  # the smallest time that is trained on

    def __post_init__(self) -> None:
        """ValueError unless 0 < beta_min < beta_max."""
        _ascending("beta", self.beta_min, self.beta_max)

    def __call__(self, t: Tensor | float) -> Level:
        """The level (scale, std) at t."""
        integral = _beta_integral(self.beta_min, self.beta_max, _in_range(t, self.T))
        return torch.exp(-integral / 2), -torch.expm1(-integral)

    def time_at(self, ratio: Tensor | float) -> Tensor:
        """The time with this std / scale; ValueError beyond that of t = 1."""
        integral = 2 * torch.asinh(_ratio_in_range(ratio, self, 0) / 2)
        return _beta_integral_inverse(self.beta_min, self.beta_max, integral).clamp(max=self.T)


@dataclass(frozen=True)
class VE:
    """The variance-exploding SDE's marginal, t in [0, 1] [Song 2021, eq. 9].

    As in the paper std jumps: sigma_min just after 0, and 0 at t = 0, which is data.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    T: ClassVar[float] = 1.0
    first: ClassVar[float] = 1e-5  # the smallest time that is trained on

    def __post_init__(self) -> None:
        """ValueError unless 0 < sigma_min < sigma_max."""
        _ascending("sigma", self.sigma_min, self.sigma_max)

    def __call__(self, t: Tensor | float) -> Level:
        """The level (1, std) at t."""
        time = _in_range(t, self.T)
        std = self.sigma_min * (self.sigma_max / self.sigma_min) ** time
        return torch.ones_like(time), torch.where(time > 0, std, 0.0)

    def time_at(self, ratio: Tensor | float) -> Tensor:
        """The time with this std; ValueError outside [sigma_min, sigma_max]."""
        ratio = _ratio_in_range(ratio, self, 1e-12)  # sigma_min itself lies just after the jump
        time = (ratio / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)
        return time.clamp(1e-12, self.T)


def uniform_times(T: int, steps: int) -> list[int]:
    """steps + 1 whole times from T down to 0, as evenly as whole numbers allow: 1000, 950, ..., 50, 0.

    Elsewhere this grid is called trailing. To begin below the last time, hand over that time as T.
    """
    _steps_in_range(T, steps)
    return [(2 * T * left + steps) // (2 * steps) for left in range(steps, -1, -1)]


def leading_times(T: int, steps: int) -> list[int]:
    """DDIM's linear selection, spacing T // steps from time 1 on: 951, 901, ..., 1, 0 [Song 2020, code].

    It leaves out the noisiest times, though sampling starts from pure noise. The code gives 334 steps where 300 are
    asked for; here it is always `steps`.
    """
    _steps_in_range(T, steps)
    return [1 + i * (T // steps) for i in range(steps - 1, -1, -1)] + [0]


def quadratic_times(T: int, steps: int) -> list[int]:
    """steps + 1 whole times T (i / steps)^2: dense near data, DDIM's choice for CIFAR-10 [Song 2020, app. D.2].

    Ends at T, as the paper says; its code ends at 0.8 T. Times that rounding would repeat are moved up by one.
    """
    _steps_in_range(T, steps)
    times = [0]
    for i in range(1, steps + 1):
        times.append(max(times[-1] + 1, round(T * (i / steps) ** 2)))
    return times[::-1]


def ratio_times(schedule: Schedule, steps: int, start: float | None = None) -> list[float]:
    """steps + 1 times from `start` (T if None) down to 0 with std / scale falling in equal steps.

    DDIM's step is exact if eps is constant, and straight in std / scale: on this grid multistep methods have their
    full order. ValueError where `steps` are so many that the last lies below the first noisy time.
    """
    start = schedule.T if start is None else start
    scale, std = schedule(start)
    if steps < 1 or std == 0:
        raise ValueError(f"{steps} steps from t = {start}: choose at least 1, from a time with noise")
    ratios = std / scale * torch.arange(steps, 0, -1) / steps  # (steps,)
    return [*schedule.time_at(ratios).tolist(), 0.0]


def even_times(schedule: Schedule, steps: int, end: float, start: float | None = None) -> list[float]:
    """steps + 1 times: even ones from `start` (T if None) down to `end`, the last with noise, and then 0, the data.

    The grid of the SDEs, which stop short of 0: at `end`, 1e-3 on VP and sub-VP, 1e-5 on VE [Song 2021, app. D.1]. The
    last step leads to the data and is the denoising. ValueError unless 0 < end < start, for 2 steps and more.
    """
    start = schedule.T if start is None else start
    if steps < 2 or not 0 < end < start <= schedule.T:
        raise ValueError(f"{steps} steps from {start} to {end} and 0: choose at least 2, and 0 < end < start <= T")
    return [*torch.linspace(start, end, steps, dtype=torch.float64).tolist(), 0.0]


def from_zero_based(net: EpsFn) -> EpsFn:
    """A noise predictor that counts levels from 0, as published code and diffusers do, in this package's times."""
    return lambda x, t: net(x, t - 1)


def on_schedule(eps_fn: EpsFn, trained: Schedule, wanted: Schedule) -> EpsFn:
    """Run a network that was trained on one schedule under any other.

    Two noisy images with equal std / scale differ by a factor only, so the input is rescaled and the
    time replaced; eps stays what it is. ValueError where `wanted` asks for more or less noise, relative
    to the signal, than the network was trained on.
    """

    def eps_wanted(x: Tensor, t: Tensor) -> Tensor:
        scale, std = wanted(t)
        time = trained.time_at(std / scale)
        factor = trained(time)[0] / scale
        time = time.to(x.device, torch.promote_types(x.dtype, torch.float32))
        return eps_fn(x * expand(factor, x), time)

    return eps_wanted


def _steps_in_range(T: int, steps: int) -> None:
    if not 1 <= steps <= T < math.inf or int(T) != T:
        raise ValueError(
            f"{steps} steps on a chain of {T}: choose between 1 and {T}. For continuous time "
            "there are `even_times` and `ratio_times`"
        )


def _in_range(t: Tensor | float, T: float) -> Tensor:
    time = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    if not bool(((time >= -1e-9) & (time <= T + 1e-9)).all()):
        raise ValueError(f"times lie in [0, {T}] (0 is data, {T} the most noise); got {time.min():g} to {time.max():g}")
    return time.clamp(0, T)


def _ratio_in_range(ratio: Tensor | float, schedule: Schedule, first: float) -> Tensor:
    """std / scale as float64, checked against its values from time `first` to T."""
    ratio = torch.as_tensor(ratio, dtype=torch.float64, device="cpu")
    (low, high) = (float(std / scale) for scale, std in (schedule(first), schedule(schedule.T)))
    if not bool(((ratio >= low * (1 - 1e-9)) & (ratio <= high * (1 + 1e-9))).all()):
        raise ValueError(
            f"std / scale runs from {low:.4g} to {high:.4g} on this schedule; "
            f"asked for {float(ratio.min()):.4g} to {float(ratio.max()):.4g}"
        )
    return ratio


def _ascending(name: str, low: float, high: float) -> None:
    if not 0 < low < high < math.inf:
        raise ValueError(f"0 < {name}_min < {name}_max, please; got {low} and {high}")


def _beta_integral(low: float, high: float, t: Tensor) -> Tensor:
    return low * t + 0.5 * (high - low) * t**2


def _beta_integral_inverse(low: float, high: float, integral: Tensor) -> Tensor:
    return 2 * integral / (low + torch.sqrt(low**2 + 2 * (high - low) * integral))
