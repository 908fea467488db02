"""What a diffusion network is trained to answer, the losses that ask it, and the variational bound term by term."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_path.gaussian import (
    AnyLevel,
    Coefficient,
    batch_time,
    bits_per_dim,
    check_alike,
    check_answer,
    check_range,
    discretised_log_prob,
    eps_from_v,
    eps_from_x0,
    expand,
    fixed_large,
    fixed_small,
    kl,
    learned_variance,
    posterior,
    q_sample,
    two_answers,
    v_from_x0_eps,
    x0_from_eps,
)
from ddpm_path.samplers import Variance, noise_source
from ddpm_path.schedule import EpsFn, Schedule

Reverse = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Coefficient]]
"""A model's step back: x_t (B, ...), t (B,) and the earlier s (B,) to the mean (B, ...) and variance of x_s."""
Decoder = Callable[[Tensor, Tensor, Coefficient], Tensor]
"""The last step's likelihood: x_0, mean and variance to log p of each number, in nats."""
Loss = Callable[["EpsFn", "Prediction", Schedule, Tensor, Tensor, Tensor], Tensor]
"""What training lowers: (net, prediction, schedule, x0, t, eps) to a number for each example, (B,); see `simple`."""


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


def chain_mean(schedule: Schedule) -> Prediction:
    """The mean of q(x_{t-1} | x_t, x_0) as the target, DDPM's baseline [Ho 2020, eq. 8, table 2].

    Unlike the others it means something on this one chain only: it needs the neighbour of each level, whose time is
    looked up by std / scale. Reading eps off it divides by the weight of x_0 in the mean, 1e-4 at T: an error of the
    network is magnified where there is most noise.
    """

    def before(now: AnyLevel) -> AnyLevel:
        return schedule(schedule.time_at(now[1] / now[0]).round() - 1)

    def target(x0: Tensor, eps: Tensor, now: AnyLevel) -> Tensor:
        return posterior(x0, q_sample(x0, eps, now), now, before(now))[0]

    def eps(x: Tensor, mean: Tensor, now: AnyLevel) -> Tensor:
        ones, zeros = torch.ones_like(x), torch.zeros_like(x)
        on_x0, _ = posterior(ones, zeros, now, before(now))
        on_x, _ = posterior(zeros, ones, now, before(now))
        return eps_from_x0(x, (mean - on_x * x) / on_x0, now)

    return Prediction(target, eps)


def simple(net: EpsFn, prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_simple of each example, (B,): the squared error, averaged over dimensions [Ho 2020, eq. 14, alg. 1].

    net(x, t) answers what `prediction` says; bind a label with `functools.partial`. x0 and eps (B, ...), t (B,) in
    the schedule's time. With `EPS` it is the paper's; `V` and `X0` weigh the noise levels differently. The weight of
    eq. 12 is dropped, as in the paper. ValueError for an answer of another shape or dtype than x0's.
    """
    now = schedule(t)
    output = check_answer(net(q_sample(x0, eps, now), batch_time(t, x0)), x0)
    return (output - prediction.target(x0, eps, now)).square().reshape(len(x0), -1).mean(1)


def as_eps(net: Network, prediction: Prediction, schedule: Schedule) -> Network:
    """The noise predictor in a network of any prediction; bind a label with `functools.partial`."""

    def eps_net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return prediction.eps(x, check_answer(net(x, t, label), x), schedule(t))

    return eps_net


def on_clock(net: Network, rate: float) -> Network:
    """A network that is handed rate * t: one that counts a chain's steps, on a schedule whose times are not that."""
    check_range(0, rate=rate)
    return lambda x, t, label=None: net(x, rate * t, label)


def with_decoder(variance: Variance, schedule: Schedule, times: Sequence[float] = (2, 1, 0)) -> Variance:
    """`variance`, but on arriving at data that of `fixed_small` one step before [Ho 2020, code].

    The last step's `fixed_small` is 0, and no density has its mean there. As in the paper's code its place is taken by
    the last step but one of the chain, whose end `times` are; the code does so for `fixed_large` too. ValueError for a
    chain of one step, which has no other.
    """
    if len(times) < 3 or times[-1] != 0:
        raise ValueError(
            f"a chain of {len(times) - 1} steps, {times}, lends its decoder no variance: end at 0, after two steps"
        )
    substitute = fixed_small(schedule(times[-3]), schedule(times[-2]))

    def decoding(now: AnyLevel, then: AnyLevel) -> Coefficient:
        return torch.where(torch.as_tensor(then[1]) == 0, substitute, variance(now, then))

    return decoding


def fixed_variance(
    eps_fn: EpsFn, schedule: Schedule, variance: Variance, times: Sequence[float] = (2, 1, 0)
) -> Reverse:
    """The step back of a noise predictor and a fixed variance, `fixed_small` or `fixed_large` [Ho 2020, eq. 11].

    `times` are the chain's, or its end: `with_decoder` takes the last step's variance from there. x_0 is not clipped:
    wrap eps_fn in `guidance.clip_x0` for that, as the paper's code does for the bound (but not in training).
    """
    decoding = with_decoder(variance, schedule, times)

    def reverse(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Coefficient]:
        now, then = schedule(t), schedule(s)
        x0 = x0_from_eps(x, check_answer(eps_fn(x, batch_time(t, x)), x), now)
        return posterior(x0, x, now, then)[0], decoding(now, then)

    return reverse


def bound_term(
    reverse: Reverse,
    schedule: Schedule,
    x0: Tensor,
    t: Tensor,
    s: Tensor,
    eps: Tensor,
    decoder: Decoder = discretised_log_prob,
) -> Tensor:
    """One term of the bound for each example, (B,), in bits/dim [Ho 2020, eq. 5]; Monte Carlo in x_t by `eps` alone.

    Where s > 0 it is KL(q(x_s | x_t, x_0) || p(x_s | x_t)), L_{t-1} of the paper; where s = 0 it is -log p(x_0 | x_t),
    L_0, of a `decoder`. t and s are (B,), and each example has its own. Each term is a mean over dimensions: the sum of
    the terms along a chain, and `prior_term`, is the bound. A learned variance has x's shape. ValueError unless s < t.
    """
    if t.shape != x0.shape[:1] or s.shape != t.shape or not bool((s < t).all()):
        raise ValueError("a term of the bound leads from t to an earlier s of each example, (B,): s < t, please")
    now, then = schedule(t), schedule(s)
    x = q_sample(x0, eps, now)
    mean, variance = reverse(x, t, s)
    variance = expand(variance, x).expand_as(x)
    true_mean, true_variance = posterior(x0, x, now, then)
    last = s == 0
    # The posterior's variance is 0 where s = 0: any other keeps the KL, which is not used there, finite.
    nats = kl(true_mean, torch.where(last, now[1], torch.as_tensor(true_variance)), mean, variance)
    if bool(last.any()):
        last = last.to(x.device)
        nats[last] = -decoder(x0[last], mean[last], variance[last])
    return bits_per_dim(nats.view(len(x0), -1).sum(1), x0[0].numel())


def prior_term(schedule: Schedule, x0: Tensor, start: float | None = None) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)) of each example, (B,), in bits/dim: L_T of the bound [Ho 2020, eq. 5].

    No network takes part in it. `start` is the chain's first time, T if None. For schedules that end at standard
    normal noise: linear, cosine, VP, sub-VP.
    """
    check_alike(x0)
    scale, std = schedule(schedule.T if start is None else start)
    nats = kl(expand(scale, x0) * x0, std**2, torch.zeros_like(x0), 1.0)
    return bits_per_dim(nats.view(len(x0), -1).sum(1), x0[0].numel())


def bound_terms(
    reverse: Reverse,
    schedule: Schedule,
    x0: Tensor,
    times: Sequence[float],
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """The bound's terms along `times`, [T, ..., 0] or fewer, one (B,) for each step, in bits/dim.

    Their sum and `prior_term(schedule, x0, times[0])` bound -log2 p(x_0) from above. Every step draws its own noise,
    example by example as samplers do. Times are the schedule's: a chain of fewer steps has its own terms, with the
    posterior of its own steps. ValueError at the call unless times fall strictly to 0.
    """
    grid = [float(t) for t in times]
    if len(grid) < 2 or grid[-1] != 0 or any(not t > s for t, s in itertools.pairwise(grid)):
        raise ValueError(f"the bound's times fall strictly from a start to data, [T, ..., 0]; got {times}")
    draw = noise_source(len(x0), x0.shape[1:], generator, x0.dtype, x0.device)
    return _bound_terms(reverse, schedule, x0, grid, draw)


@torch.no_grad()
def _bound_terms(
    reverse: Reverse,
    schedule: Schedule,
    x0: Tensor,
    times: Sequence[float],
    draw: Callable[[], Tensor],
) -> Iterator[Tensor]:
    every = torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, len(x0))  # (steps + 1, B)
    for t, s in itertools.pairwise(every):
        yield bound_term(reverse, schedule, x0, t, s, draw())


def bound_loss(variance: Variance) -> Loss:
    """The loss L itself, with a fixed variance: the t-th term times T, in bits/dim [Ho 2020, eq. 5; table 2].

    Its mean over t uniform in 1..T, and the prior term, which nothing can lower, are the bound on -log2 p(x_0).
    """

    def loss(net: EpsFn, prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        eps_net = as_eps(lambda x, t, label=None: net(x, t), prediction, schedule)
        reverse = fixed_variance(eps_net, schedule, variance)
        return schedule.T * bound_term(reverse, schedule, x0, t, t - 1, eps)

    return loss


def as_learned(net: Network, prediction: Prediction, schedule: Schedule) -> Network:
    """A network of any prediction that learned its variance, its first half turned to eps; see `as_eps`."""

    def learned(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        output, o = two_answers(net(x, t, label), x)
        return torch.cat([prediction.eps(x, output, schedule(t)), o], dim=1)

    return learned


def learned_reverse(net: EpsFn, schedule: Schedule, times: Sequence[float] = (2, 1, 0)) -> Reverse:
    """The step back of a network that learned its variance, (B, 2 C, ...): eps and o [Nichol 2021, sec. 3.1].

    As `fixed_variance`: `times` are the chain's or its end, and x_0 is not clipped (see `guidance.on_eps`). On
    arriving at data only the small variance has its substitute; at o = 1 it is beta_1, as in the paper's code.
    """
    small = with_decoder(fixed_small, schedule, times)

    def reverse(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Coefficient]:
        now, then = schedule(t), schedule(s)
        eps, o = two_answers(net(x, batch_time(t, x)), x)
        variance = learned_variance(o, small(now, then), fixed_large(now, then))
        return posterior(x0_from_eps(x, eps, now), x, now, then)[0], variance

    return reverse


def learned_bound(net: EpsFn, prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_vlb by its t-th term, times T, in bits/dim; mean and variance both learn from it [Nichol 2021, sec. 3.3].

    net(x, t) answers twice the channels: what `prediction` says, then o. Its mean over t uniform in 1..T, and the prior
    term, are the bound; draw t by `weighted_times` for less noise.
    """
    answers = as_learned(lambda x, t, label=None: net(x, t), prediction, schedule)
    reverse = learned_reverse(answers, schedule)
    return schedule.T * bound_term(reverse, schedule, x0, t, t - 1, eps)


def hybrid(net: EpsFn, prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_simple + 0.001 L_vlb of each example, (B,), the mean held still in L_vlb [Nichol 2021, eq. 16].

    As `simple`, with a network as in `learned_bound`. L_vlb in bits/dim, times T, as in the paper's code: without the
    stop-gradient its large weight at small t would rule the mean. Here the variance learns from L_vlb alone, and the
    mean from L_simple alone.
    """
    output, o = two_answers(net(q_sample(x0, eps, schedule(t)), batch_time(t, x0)), x0)
    held = torch.cat([output.detach(), o], dim=1)
    bound = learned_bound(lambda x, t: held, prediction, schedule, x0, t, eps)
    return simple(lambda x, t: output, prediction, schedule, x0, t, eps) + 0.001 * bound


def importance(losses: Tensor, floor: float = 0.001) -> Tensor:
    """The probability of each time, (T,): as sqrt(E L_t^2), but for a `floor` of uniform ones [Nichol 2021, eq. 18].

    losses (T, n): the latest n of each time. ValueError if there are none, or one is missing (NaN).
    """
    check_range(0, 1, floor=floor)
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
        check_range(1, T=T, each=each)
        self.losses = torch.full((T, each), math.nan, dtype=torch.float64)
        self.count = torch.zeros(T, dtype=torch.long)

    def add(self, t: Tensor, loss: Tensor) -> None:
        """Remember the unweighted losses (B,) of whole times (B,); the oldest of a time are forgotten.

        ValueError for a loss that is not finite, which would stay for many draws, and for times off the chain.
        """
        if t.ndim != 1 or not bool(((t >= 1) & (t <= len(self.count)) & (t == t.floor())).all()):
            raise ValueError(f"times are (B,), whole, from 1 to {len(self.count)}; got {t.tolist()}")
        if t.shape != loss.shape or not bool(loss.isfinite().all()):
            raise ValueError(f"one finite loss for each time, please; got {tuple(loss.shape)} for {tuple(t.shape)}")
        for i, value in zip((t.long() - 1).tolist(), loss.tolist(), strict=True):  # numbers: no graph, no device
            self.losses[i, self.count[i] % self.losses.shape[1]] = value
            self.count[i] += 1

    def probabilities(self) -> Tensor:
        """Eq. 18 once every time has its losses; until then uniform, (T,)."""
        T, each = self.losses.shape
        if bool((self.count < each).any()):
            return torch.full((T,), 1 / T, dtype=torch.float64)
        return importance(self.losses)


def weighted_times(p: Tensor, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Whole times 1..T drawn as p (T,) has it, one from each of `batch` equal slices of probability, and 1 / (T p_t).

    Both (batch,), times as floats. The mean of weight times loss is the uniform mean's, whatever p is: slices change
    the noise only, as in training's `stratified_times`. ValueError for a p that holds no probabilities.
    """
    if p.ndim != 1 or not bool((p >= 0).all() and 0 < p.sum() < math.inf):
        raise ValueError(f"p is (T,), none below 0 and one above; got {p.tolist()}")
    p = p / p.sum()
    i = torch.searchsorted(p.cumsum(0), stratified(batch, generator), right=True).clamp(max=len(p) - 1)
    return (i + 1).to(torch.float64), 1 / (len(p) * p[i])


def stratified(batch: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform numbers, (batch,), one from each of `batch` equal slices of [0, 1); ValueError for none."""
    check_range(1, batch=batch)
    return (torch.arange(batch, dtype=dtype) + torch.rand(batch, generator=generator, dtype=dtype)) / batch
