"""Samplers: generators that walk from noise to data along a list of times and yield every state.

A sampler goes from each time t to an explicit next s < t, calls ``eps_fn(x, t)`` there, and knows nothing
of networks, labels or guidance. Sample k depends on the generator's seed and on k only: not on how many
samples are drawn together, nor on the device.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_path.gaussian import (
    AnyLevel,
    Coefficient,
    batch_time,
    check_alike,
    check_answer,
    check_range,
    ddim_step,
    expand,
    fixed_large,
    fixed_small,
    langevin_step,
    learned_variance,
    posterior,
    q_sample,
    two_answers,
    x0_from_eps,
)
from ddpm_path.schedule import EpsFn, Schedule

Noise = Callable[[], Tensor]
Variance = Callable[[AnyLevel, AnyLevel], Coefficient]
Shift = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
After = Callable[[Tensor, float], Tensor]
Predictor = Callable[[Schedule, Tensor, Tensor, float, float], tuple[Tensor, Coefficient]]
"""Schedule, x_t, its eps, t and s to mean and variance of x_s; `sde` has them."""
Corrector = Callable[[Tensor, Tensor, float], Coefficient]
"""eps, the noise to add, and alpha = (scale_t / scale_s)^2 to a Langevin step's size, as a share of std^2; in `sde`."""
Halfway = Callable[[Schedule, float, float], float]
Probe = Callable[[Tensor, float], Tensor]
Start = Callable[[Probe, Tensor, float, float], Tensor]
Levels = list[tuple[float, float]]

ADAMS_BASHFORTH = {  # weights of the latest slope, the one before, ...
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


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
    or 1,000 and on every device. One number is taken from `generator` to seed them all. ValueError for
    no sample, and for numbers that are not floats.
    """
    if n < 1 or min(shape, default=1) < 1:
        raise ValueError(f"noise for {n} samples of shape {tuple(shape)}: both must be at least 1")
    if not dtype.is_floating_point:
        raise ValueError(f"noise of {dtype}: ask for floats")
    root = int(torch.randint(2**62, (), generator=generator))
    # torch's CPU generator keeps 32 bits of a seed; an odd stride keeps all n of them different.
    streams = [torch.Generator().manual_seed(root + k * 0x9E3779B1) for k in range(n)]
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
    """The pure noise (n, *shape) that sampling starts from, sample by sample as `noise_source` draws it.

    Hand the same generator on to the sampler, or one of another seed: the same seed anew would draw this noise again.
    """
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
    return _ancestral(lambda x, t: (_ask(eps_fn, x, t), variance), x, times, levels, shift, after, draw)


def ancestral_learned(
    net: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    shift: Shift | None = None,
    after: After | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """DDPM's sampler with a variance that the network learned, for each dimension [Nichol 2021, sec. 3.1].

    net(x, t) answers twice the channels, (B, 2 C, ...): eps, then what `learned_variance` reads. Respacing is `times`:
    the two levels of a step carry beta of eq. 19. `shift` sees the variance in x's shape; all else as in `ancestral`,
    guidance through `guidance.on_eps`. ValueError also for a network that answers one variance for all or none.
    """
    times, levels = _check(schedule, x, times)
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)

    def ask(x: Tensor, t: float) -> tuple[Tensor, Variance]:
        eps, o = two_answers(net(x, batch_time(t, x)), x)
        return eps, lambda now, then: learned_variance(o, fixed_small(now, then), fixed_large(now, then))

    return _ancestral(ask, x, times, levels, shift, after, draw)


@torch.no_grad()
def _ancestral(
    ask: Callable[[Tensor, float], tuple[Tensor, Variance]],
    x: Tensor,
    times: Sequence[float],
    levels: Levels,
    shift: Shift | None,
    after: After | None,
    draw: Noise,
) -> Iterator[State]:
    for t, s, now, then in zip(times, times[1:], levels, levels[1:], strict=False):
        eps, variance = ask(x, t)
        x0 = x0_from_eps(x, eps, now)
        mean, _ = posterior(x0, x, now, then)
        noisy = then[1] > 0  # the data themselves get no noise, whatever the variance
        var = expand(variance(now, then) if noisy else 0.0, x)
        if shift is not None:
            mean = shift(x, batch_time(t, x), mean, var)
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

    As `ancestral`, but for eta: 0 is deterministic, 1 is `ancestral` with `fixed_small`. Above 1, where the paper does
    not go though its proof does, yet more of a step's noise is fresh, at most all of it: that forgets the errors of a
    network which has learned little, and narrows what a good one draws. The paper's sigma-hat is `ancestral` with
    `fixed_large`. ValueError also for a negative eta.
    """
    check_range(0, eta=eta)
    times, levels = _check(schedule, x, times)
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device) if eta > 0 else None
    return _ddim(eps_fn, x, times, levels, eta, after, draw)


@torch.no_grad()
def _ddim(
    eps_fn: EpsFn,
    x: Tensor,
    times: Sequence[float],
    levels: Levels,
    eta: float,
    after: After | None,
    draw: Noise | None,
) -> Iterator[State]:
    for t, s, now, then in zip(times, times[1:], levels, levels[1:], strict=False):
        eps = _ask(eps_fn, x, t)
        x0 = x0_from_eps(x, eps, now)
        x = ddim_step(x0, eps, now, then, eta, draw() if draw else None)
        if after is not None:
            x = after(x, s)
        yield State(s, x, x0)


def langevin(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    t: float,
    step: float,
    steps: int,
    after: After | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Langevin dynamics at one noise level: small steps uphill on log p_t, and fresh noise at each [Song 2019, eq. 4].

    Each of `steps` updates adds step * std^2 * score + sqrt(2 * step) * std * noise, and is one network call and one
    state at the same t. So `step` = alpha / std^2 in the convention of the published image code, alpha and
    sqrt(2 alpha); the paper's own, alpha / 2 and sqrt(alpha), is step = alpha / (2 std^2). `after` as in `ancestral`.
    ValueError for a bad t, step or start at the call; FloatingPointError once x is no longer finite.
    """
    _check_langevin(step, steps)
    if t <= 0:
        raise ValueError(f"Langevin dynamics at t = {t}: data have no noise there, choose a time with some")
    times, levels = _check(schedule, x, [t, 0])
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _langevin(eps_fn, x, times[:1], levels[:1], step, steps, after, draw)


def annealed_langevin(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    step: float,
    steps: int,
    after: After | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Langevin dynamics at one noise level after the other, each from where the last one ended [Song 2019, alg. 1].

    x (B, ...) is the start; times, which fall strictly, are the levels, `steps` updates of `langevin` each. One `step`
    serves all, for alg. 1 has alpha_i = epsilon std_i^2 / std_L^2: here step = epsilon / std_L^2 with the published
    code's epsilon, half of that with the paper's. If the last time is 0 one more call leads there, without noise: the
    denoising x + std_L^2 score [Song & Ermon 2020, alg. 3]. From level to level x / scale is kept, so on any schedule
    it is the walk on `VE` (where the papers are), rescaled. Errors as in `langevin` and `ancestral`.
    """
    _check_langevin(step, steps)
    times, levels = _check(schedule, x, times)
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _langevin(eps_fn, x, times, levels, step, steps, after, draw)


@torch.no_grad()
def _langevin(
    eps_fn: EpsFn,
    x: Tensor,
    times: Sequence[float],
    levels: Levels,
    step: float,
    steps: int,
    after: After | None,
    draw: Noise,
) -> Iterator[State]:
    previous, before = times[0], levels[0]
    for t, now in zip(times, levels, strict=True):
        scale, std = now
        if std == 0:  # data: the network is asked at the last level with noise
            x = x0 = x0_from_eps(x, _ask(eps_fn, x, previous), before)
            yield State(t, x if after is None else after(x, t), x0)
            return
        x = x * expand(scale / before[0], x)
        for _ in range(steps):
            eps = _ask(eps_fn, x, t)
            x0 = x0_from_eps(x, eps, now)
            x = langevin_step(x, eps, std, step, draw())
            if after is not None:
                x = after(x, t)
            if not bool(x.isfinite().all()):
                raise FloatingPointError(
                    f"x holds NaN or infinity after an update at t = {t:g}: lower step = {step:g} (where p_t is as "
                    "narrow as the noise, 2 and more diverge), or look at what eps_fn answers"
                )
            yield State(t, x, x0)
        previous, before = t, now


def _check_langevin(step: float, steps: int) -> None:
    if not 0 < step < math.inf or steps < 1:
        raise ValueError(f"step = {step} and {steps} steps: a step above 0, alpha / std^2, and one update or more")


def halfway_in_time(schedule: Schedule, t: float, s: float) -> float:
    """The middle of a step on the clock, as the paper has it, but never nearer to data than the first noisy time."""
    check_range(0, schedule.T, t=t, s=s)
    return max((t + s) / 2, schedule.first)


def halfway_in_ratio(schedule: Schedule, t: float, s: float) -> float:
    """The middle of a step in std / scale, the variable that DDIM's step is straight in."""
    ratios = [float(std / scale) for scale, std in map(schedule, (t, s, schedule.first))]
    return float(schedule.time_at(max((ratios[0] + ratios[1]) / 2, ratios[2])))


def f_pndm(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """F-PNDM: three pseudo Runge-Kutta steps, then a step of order four at each network call [Liu 2022, alg. 2].

    As `ancestral`, but without noise (`generator` is not used). N >= 3 steps take N + 9 calls. Of order 4 on
    `ratio_times`, else of order 2: the weights suppose equal steps in std / scale. Too long a first step makes it
    diverge: on a schedule that ends nearly blind, as the cosine does, start later.
    """
    start = partial(_runge_kutta, partial(halfway_in_time, schedule))
    return _multistep(eps_fn, schedule, x, *_check(schedule, x, times), start, starts=3, order=4)


def s_pndm(
    eps_fn: EpsFn, schedule: Schedule, x: Tensor, times: Sequence[float], generator: torch.Generator | None = None
) -> Iterator[State]:
    """S-PNDM: one pseudo improved Euler step, then steps of order two: N + 1 calls, else as `f_pndm` [Liu 2022]."""
    return _multistep(eps_fn, schedule, x, *_check(schedule, x, times), _improved_euler, starts=1, order=2)


def plms(
    eps_fn: EpsFn, schedule: Schedule, x: Tensor, times: Sequence[float], generator: torch.Generator | None = None
) -> Iterator[State]:
    """PLMS: S-PNDM's start, then orders two, three and four as the past allows [Rombach 2021, code].

    N + 1 network calls, else as `f_pndm`.
    """
    return _multistep(eps_fn, schedule, x, *_check(schedule, x, times), _improved_euler, starts=1, order=4)


def pseudo_runge_kutta(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    halfway: Halfway = halfway_in_time,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """F-PNDM's start at every step: four network calls each, and no past [Liu 2022, eq. 13]; else as `f_pndm`.

    `halfway` chooses the middle of a step: of order 4 on `ratio_times` with `halfway_in_ratio`, else of order 2.
    """
    start = partial(_runge_kutta, partial(halfway, schedule))
    return _multistep(eps_fn, schedule, x, *_check(schedule, x, times), start, starts=len(times), order=1)


def ddim_first(sampler: Sampler) -> Sampler:
    """A multistep sampler whose first step is DDIM's, and whose start-up comes after it.

    Where a schedule ends nearly blind the first step is a long one, over which eps hardly changes but no mixture of
    slopes may be carried: times are [T, s, ...], with std / scale = 40 at s, say. Starting at s itself with x_T costs
    more: x_s has a mean.
    """

    def walk(
        eps_fn: EpsFn,
        schedule: Schedule,
        x: Tensor,
        times: Sequence[float],
        generator: torch.Generator | None = None,
    ) -> Iterator[State]:
        times, _ = _check(schedule, x, times)
        if len(times) < 3:
            raise ValueError(f"times are [T, s, ...] with two steps or more; got {_show(times)}")
        return _ddim_first(sampler, eps_fn, schedule, x, times, generator)

    return walk


def _ddim_first(
    sampler: Sampler,
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    generator: torch.Generator | None,
) -> Iterator[State]:
    state = next(ddim(eps_fn, schedule, x, times[:2]))
    yield state
    given = {} if generator is None else {"generator": generator}  # one may be bound to the sampler
    yield from sampler(eps_fn, schedule, state.x, times[1:], **given)


@torch.no_grad()
def _multistep(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    levels: Levels,
    start: Start,
    starts: int,
    order: int,
) -> Iterator[State]:
    """DDIM's steps along a better slope than the eps at t: `start`'s at first, then a mean of the last `order` eps."""
    past: list[Tensor] = []  # the latest first
    # Cast once, not at every step.
    cast = [(scale, std) for scale, std in torch.tensor(levels, dtype=x.dtype, device=x.device)]
    known = dict(zip(times, cast, strict=True))
    weights = {n: [expand(weight, x) for weight in row] for n, row in ADAMS_BASHFORTH.items()}
    for i, (t, s, now, then) in enumerate(zip(times, times[1:], cast, cast[1:], strict=False)):
        eps = _ask(eps_fn, x, t)
        past = [eps, *past[: order - 1]]
        if i < starts:
            eps = start(partial(_probe, eps_fn, schedule, known, x, now), eps, t, s)
        else:
            eps = _weighted(weights[len(past)], past)
        x0 = x0_from_eps(x, eps, now)
        x = q_sample(x0, eps, then)
        yield State(s, x, x0)


def _probe(
    eps_fn: EpsFn,
    schedule: Schedule,
    known: Mapping[float, AnyLevel],
    x: Tensor,
    now: AnyLevel,
    eps: Tensor,
    s: float,
) -> Tensor:
    """The network's eps where DDIM's step along `eps` leads; arriving at data it is asked at the first noisy time."""
    then = known[s] if s in known else schedule(s)
    ahead = q_sample(x0_from_eps(x, eps, now), eps, then)
    return _ask(eps_fn, ahead, max(s, schedule.first))


def _improved_euler(probe: Probe, e1: Tensor, t: float, s: float) -> Tensor:
    return (e1 + probe(e1, s)) / 2


def _runge_kutta(halfway: Callable[[float, float], float], probe: Probe, e1: Tensor, t: float, s: float) -> Tensor:
    middle = halfway(t, s)
    e2 = probe(e1, middle)
    e3 = probe(e2, middle)
    e4 = probe(e3, s)
    return (e1 + 2 * e2 + 2 * e3 + e4) / 6


def _weighted(weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total.addcmul_(weight, tensor)
    return total


def predictor_corrector(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    predictor: Predictor,
    corrector: Corrector | None = None,
    corrections: int = 1,
    after: After | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """A step of the reverse SDE or ODE, then Langevin steps at the level it leads to [Song 2021, alg. 1].

    As `ancestral`, with the predictors and correctors of `sde`; on VE the start has deviation std_T. At s = 0 the
    estimate of x_0 is the answer, of every predictor: let times end (..., eps, 0), as `even_times` do, and that step
    is the denoising. `after` is called after both updates, and denoising comes before it, so it acts on what is
    unknown, too. One network call a step and `corrections` more at each level with noise. The published code corrects
    before it predicts. ValueError also for no corrections.
    """
    if corrections < 1:
        raise ValueError(f"{corrections} corrections: ask for 1 or more, or leave the corrector out")
    times, levels = _check(schedule, x, times)
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _predictor_corrector(eps_fn, schedule, x, times, levels, predictor, corrector, corrections, after, draw)


@torch.no_grad()
def _predictor_corrector(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    levels: Levels,
    predictor: Predictor,
    corrector: Corrector | None,
    corrections: int,
    after: After | None,
    draw: Noise,
) -> Iterator[State]:
    for t, s, now, then in zip(times, times[1:], levels, levels[1:], strict=False):
        eps = _ask(eps_fn, x, t)
        x0 = x0_from_eps(x, eps, now)
        if then[1] > 0:
            mean, variance = predictor(schedule, x, eps, t, s)
            x = mean + expand(variance, x).sqrt() * draw()
        else:
            x = x0
        if after is not None:
            x = after(x, s)
        if corrector is not None and then[1] > 0:
            for _ in range(corrections):
                eps, z = _ask(eps_fn, x, s), draw()
                step = expand(corrector(eps, z, (now[0] / then[0]) ** 2), x)
                x = x + then[1] * ((2 * step).sqrt() * z - step * eps)
                if after is not None:
                    x = after(x, s)
        yield State(s, x, x0)


def ddim_invert(eps_fn: EpsFn, schedule: Schedule, x: Tensor, times: Sequence[float]) -> Iterator[State]:
    """DDIM backwards, from data to the noise that leads to them [Song 2020, sec. 4.3]; times rise, [0, ..., T].

    Each step up evaluates eps where it stands, (x_t, t), as Dhariwal 2021's code does. x need not be data: any t is
    a legal beginning. Data themselves are shown to the network as of the first noisy time. Errors as in `ancestral`.
    """
    times, levels = _check(schedule, x, times, rising=True)
    return _ddim_invert(eps_fn, x, times, levels, [max(t, schedule.first) for t in times])


def ddim_invert_ahead(eps_fn: EpsFn, schedule: Schedule, x: Tensor, times: Sequence[float]) -> Iterator[State]:
    """As `ddim_invert`, but each step up evaluates eps as of the time it goes to, (x_t, s), as diffusers does.

    The network then sees less noise than it is told of; on Gaussian data that errs less than `ddim_invert` does.
    """
    times, levels = _check(schedule, x, times, rising=True)
    return _ddim_invert(eps_fn, x, times, levels, times[1:])


@torch.no_grad()
def _ddim_invert(
    eps_fn: EpsFn, x: Tensor, times: Sequence[float], levels: Levels, asked: Sequence[float]
) -> Iterator[State]:
    for s, time, now, then in zip(times[1:], asked, levels, levels[1:], strict=False):
        eps = _ask(eps_fn, x, time)
        x0 = x0_from_eps(x, eps, now)
        x = q_sample(x0, eps, then)
        yield State(s, x, x0)


def encode(eps_fn: EpsFn, schedule: Schedule, x0: Tensor, times: Sequence[float]) -> Tensor:
    """The latent at times[0] of data (B, ...) by DDIM's inversion; times fall, as for `decode`."""
    times, _ = _check(schedule, x0, times)
    return last(ddim_invert(eps_fn, schedule, x0, times[::-1]))


def decode(eps_fn: EpsFn, schedule: Schedule, latent: Tensor, times: Sequence[float]) -> Tensor:
    """The data (B, ...) that a latent at times[0] leads to by deterministic DDIM."""
    return last(ddim(eps_fn, schedule, latent, times))


def reconstruct(eps_fn: EpsFn, schedule: Schedule, x0: Tensor, times: Sequence[float]) -> Tensor:
    """Data encoded and decoded along the same times; what is lost shrinks with the steps [Song 2020, table 2]."""
    return decode(eps_fn, schedule, encode(eps_fn, schedule, x0, times), times)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between latents (B, ...), along the great circle: a at share 0, b at share 1 [Song 2020, app. D.5].

    Each sample has an angle of its own. Straight where a and b are parallel; ValueError where they are opposite, and
    every great circle leads from one to the other, and for a share outside [0, 1].
    """
    check_alike(a, b=b)
    check_range(0, 1, share=share)
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.cosine_similarity(flat_a.double(), flat_b.double(), dim=1).clamp(-1, 1)  # (B,)
    angle = cosine.arccos()
    if bool((cosine < 1e-12 - 1).any()):
        raise ValueError("two latents are opposite: no great circle between them is the shortest")
    parallel = angle < 1e-6
    sine = torch.where(parallel, 1.0, angle.sin())
    on_a = torch.where(parallel, 1 - share, ((1 - share) * angle).sin() / sine)
    on_b = torch.where(parallel, share, (share * angle).sin() / sine)
    return expand(on_a, a) * a + expand(on_b, b) * b


def last(states: Iterable[State]) -> Tensor:
    """Run a sampler to its end and answer the last x."""
    x = None
    for state in states:
        x = state.x
    if x is None:
        raise ValueError("this sampler was already run to its end: call it again for a new trajectory")
    return x


def _ask(eps_fn: EpsFn, x: Tensor, t: float) -> Tensor:
    return check_answer(eps_fn(x, batch_time(t, x)), x)


def _check(schedule: Schedule, x: Tensor, times: Sequence[float], rising: bool = False) -> tuple[list[float], Levels]:
    """Times and their levels as plain numbers, after all checks that can be made before the first step."""
    grid: list[float] = np.asarray(times).tolist()  # of tensors and arrays, too
    steps = itertools.pairwise(grid if np.ndim(grid) == 1 else [])
    if np.ndim(grid) != 1 or len(grid) < 2 or any(not (t < s if rising else t > s) for t, s in steps):
        way = (
            "rise strictly from a start to an end, [0, ..., T]"
            if rising
            else "fall strictly from a start to an end, [T, ..., 0]"
        )
        raise ValueError(f"times must {way} say; got {_show(grid)}")
    if x.ndim < 2 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(f"the start x is a batch of floats, (B, ...), B > 0; got {tuple(x.shape)} {x.dtype}")
    if not bool(x.isfinite().all()):
        raise ValueError("the start x holds NaN or infinity: look for a division by zero or half precision before it")
    levels = torch.stack(schedule(torch.tensor(grid, dtype=torch.float64)), 1)
    return grid, [(scale, std) for scale, std in levels.tolist()]


def _show(times: Sequence[float]) -> str:
    if not isinstance(times, list):
        return repr(times)
    shown = [str(t) for t in times]
    return "[" + ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]]) + "]"
