"""Samplers: generators that walk from noise to data along a list of times and yield every state.

A sampler goes from each time t to an explicit next s < t, calls ``eps_fn(x, t)`` once, and knows nothing
of networks, labels or guidance. Sample k depends on the generator's seed and on k only: not on how many
samples are drawn together, nor on the device.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_path.gaussian import (
    AnyLevel,
    Coefficient,
    check_answer,
    ddim_step,
    expand,
    fixed_small,
    posterior,
    x0_from_eps,
)
from ddpm_path.schedule import EpsFn, Schedule

Noise = Callable[[], Tensor]
Variance = Callable[[AnyLevel, AnyLevel], Coefficient]
Shift = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
After = Callable[[Tensor, float], Tensor]


class State(NamedTuple):
    """Where a sampler has arrived: the time, x there (B, ...), and the estimate of x_0 that led there."""

    t: float
    x: Tensor
    x0: Tensor


Sampler = Callable[..., Iterator[State]]
"""What all samplers share: (eps_fn, schedule, x, times, generator=...) to the states on the way."""


def noise_source(
    n: int,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Noise:
    """A function that answers fresh standard normal noise (n, *shape) at each call.

    Every sample has a random stream of its own, drawn on the CPU, so sample k is the same in a batch of 1
    or 1,000 and on every device. One number is taken from `generator` to seed them all. ValueError for no sample.
    """
    if n < 1 or min(shape, default=1) < 1:
        raise ValueError(f"noise for {n} samples of shape {tuple(shape)}: both must be at least 1")
    root = int(torch.randint(2**62, (), generator=generator))
    # torch's CPU generator keeps 32 bits of a seed; an odd stride keeps all n of them different.
    streams = [torch.Generator().manual_seed((root + k * 0x9E3779B1) % 2**32) for k in range(n)]
    # A call costs more than a few numbers do: for small samples each call draws the noise of several steps.
    ahead = max(1, 256 // math.prod(shape))
    drawn: list[Tensor] = []

    def draw() -> Tensor:
        if not drawn:
            block = torch.stack([torch.randn(ahead, *shape, generator=g, dtype=dtype) for g in streams])
            drawn.extend(block.to(device).unbind(1))  # each (n, *shape)
        return drawn.pop(0)

    return draw


def start_noise(n: int, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """The pure noise (n, *shape) that sampling starts from, sample by sample as `noise_source` draws it."""
    return noise_source(n, shape, generator)()


def ancestral(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    variance: Variance = fixed_small,
    shift: Shift | None = None,
    after: After | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """DDPM's sampler, on any subset of the chain [Ho 2020, alg. 2].

    x (B, ...) is the start, at times[0]; times fall strictly, [T, ..., 0] for a whole trajectory. One network
    call and one state for each later time. `variance` is `fixed_small` or `fixed_large` of `gaussian`, or any
    function of the two levels; no noise is added on arriving at 0. `shift(x, t, mean, var)`, var a scalar tensor,
    may move the mean (guidance lives there); `after(x, s)` may overwrite the result (inpainting lives there). x_0 is
    not clipped: wrap eps_fn in `guidance.clip_x0` for that. ValueError for bad times or a bad start at the call, for
    a bad answer of eps_fn when it comes.
    """
    times, levels = _check(schedule, x, times)
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _ancestral(eps_fn, x, times, levels, variance, shift, after, draw)


@torch.no_grad()
def _ancestral(
    eps_fn: EpsFn,
    x: Tensor,
    times: Sequence[float],
    levels: list[tuple[float, float]],
    variance: Variance,
    shift: Shift | None,
    after: After | None,
    draw: Noise,
) -> Iterator[State]:
    for t, s, now, then in zip(times, times[1:], levels, levels[1:], strict=False):
        batch = _batch(t, x)
        x0 = x0_from_eps(x, check_answer(eps_fn(x, batch), x), now)
        mean, _ = posterior(x0, x, now, then)
        noisy = then[1] > 0  # the data themselves get no noise, whatever the variance
        var = expand(variance(now, then) if noisy else 0.0, x)
        if shift is not None:
            mean = shift(x, batch, mean, var)
        x = mean + var.sqrt() * draw() if noisy else mean
        if after is not None:
            x = after(x, s)
        yield State(s, x, x0)


def ddim(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    eta: float = 0.0,
    after: After | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """DDIM's sampler: the same network, the same marginals, and as little fresh noise as one likes [Song 2020, eq. 12].

    As `ancestral`, but for eta: 0 is deterministic, 1 is `ancestral` with `fixed_small`. The paper's sigma-hat is
    `ancestral` with `fixed_large`. ValueError also for eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta} is outside [0, 1]: above 1 the fresh noise alone would exceed the level of x_s")
    times, levels = _check(schedule, x, times)
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _ddim(eps_fn, x, times, levels, eta, after, draw)


@torch.no_grad()
def _ddim(
    eps_fn: EpsFn,
    x: Tensor,
    times: Sequence[float],
    levels: list[tuple[float, float]],
    eta: float,
    after: After | None,
    draw: Noise,
) -> Iterator[State]:
    for t, s, now, then in zip(times, times[1:], levels, levels[1:], strict=False):
        eps = check_answer(eps_fn(x, _batch(t, x)), x)
        x0 = x0_from_eps(x, eps, now)
        x = ddim_step(x0, eps, now, then, eta, draw() if eta > 0 else None)
        if after is not None:
            x = after(x, s)
        yield State(s, x, x0)


def last(states: Iterable[State]) -> Tensor:
    """Run a sampler to its end and answer the last x."""
    x = None
    for state in states:
        x = state.x
    if x is None:
        raise ValueError("this sampler was already run to its end: call it again for a new trajectory")
    return x


def _batch(t: float, x: Tensor) -> Tensor:
    # At least float32: half precision cannot tell t = 999 from 1000.
    return torch.full((len(x),), float(t), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def _check(schedule: Schedule, x: Tensor, times: Sequence[float]) -> tuple[list[float], list[tuple[float, float]]]:
    """Times and their levels as plain numbers, after all checks that can be made before the first step."""
    grid: list[float] = np.asarray(times).tolist()  # of tensors and arrays, too
    if np.ndim(grid) != 1 or len(grid) < 2 or any(s >= t for t, s in itertools.pairwise(grid)):
        raise ValueError(f"times must fall strictly from a start to an end, [T, ..., 0] say; got {_show(grid)}")
    if x.ndim < 2 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(f"the start x is a batch of floats, (B, ...), B > 0; got {tuple(x.shape)} {x.dtype}")
    if not bool(x.isfinite().all()):
        raise ValueError("the start x holds NaN or infinity: look for a division by zero or half precision before it")
    scale, std = schedule(torch.tensor(grid, dtype=torch.float64))
    return grid, list(zip(scale.tolist(), std.tolist(), strict=True))


def _show(times: Sequence[float]) -> str:
    shown = [str(t) for t in times]
    return "[" + ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]]) + "]"
