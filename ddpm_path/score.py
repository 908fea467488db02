"""Score matching [Hyvarinen 2005; Song 2019], and how NCSNv2 chooses its settings [Song & Ermon 2020].

A score function answers grad log p(x), (B, ...), to x (B, ...). On a schedule the score of x_t is -eps / std, so a
noise predictor is a score function for every level: NCSN's network by another name. It is sampled by
`samplers.annealed_langevin`, whose last step is NCSNv2's denoising; the average of weights is in `lab.train`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_path.gaussian import (
    Coefficient,
    batch_time,
    check_alike,
    check_answer,
    check_range,
    expand,
    q_sample,
    score_from_eps,
)
from ddpm_path.schedule import EpsFn, Schedule

ScoreFn = Callable[[Tensor], Tensor]
"""x (B, ...) to grad log p(x), (B, ...)."""
NO_GRADIENT = "this score has no gradient in x: call score_fn without no_grad and detach, or use `denoising`"


def score_fn_at(eps_fn: EpsFn, schedule: Schedule, t: float) -> ScoreFn:
    """The score of x_t in a noise predictor, at one time: -eps / std. ValueError at t = 0, which has none."""
    now = schedule(t)
    if now[1] == 0:
        raise ValueError(f"t = {t} is data, std 0: a noise predictor knows the score from the first noisy time on")
    return lambda x: score_from_eps(check_answer(eps_fn(x, batch_time(t, x)), x), now)


# --- objectives: all of them (B,), summed over dimensions; their means are what training lowers


def explicit(score_fn: ScoreFn, true_score_fn: ScoreFn, x: Tensor) -> Tensor:
    """Half the squared distance to the true score at x (B, ...), (B,): what the others lower without knowing it."""
    check_alike(x)
    return 0.5 * _squared(check_answer(score_fn(x), x) - check_answer(true_score_fn(x), x))


@torch.enable_grad()
def implicit(score_fn: ScoreFn, x: Tensor) -> Tensor:
    """tr(grad s) + |s|^2 / 2 at data x (B, ...), (B,) [Hyvarinen 2005; Song 2019, eq. 1].

    One gradient for each dimension, so for few of them. Its mean is that of `explicit`, less a constant. `score_fn`
    treats each item by itself (no batch norm). ValueError if the score has no gradient in x.
    """
    x, score = _differentiable(score_fn, x)
    flat = score.reshape(len(x), -1)
    parts = [_gradient(part, x).reshape(len(x), -1)[:, i] for i, part in enumerate(flat.unbind(1))]
    return torch.stack(parts).sum(0) + 0.5 * _squared(score)


@torch.enable_grad()
def sliced(score_fn: ScoreFn, x: Tensor, v: Tensor) -> Tensor:
    """v . grad(v . s) + (v . s)^2 / 2 at data x along probes v, both (B, ...), (B,) [Song 2019, eq. 3].

    `implicit` in one random direction, equal to it in the mean if E[v v^T] = I: `rademacher`, or normal; probes of
    length 1 divide it by the dimension. One gradient. Errors as in `implicit`.
    """
    check_alike(x, v=v)
    x, score = _differentiable(score_fn, x)
    along = (score * v).reshape(len(x), -1).sum(1)
    return (_gradient(along, x) * v).reshape(len(x), -1).sum(1) + 0.5 * along**2


@torch.enable_grad()
def sliced_vr(score_fn: ScoreFn, x: Tensor, v: Tensor) -> Tensor:
    """v . grad(v . s) + |s|^2 / 2: as `sliced`, with what is known of its second term put in, so it varies less."""
    check_alike(x, v=v)
    x, score = _differentiable(score_fn, x)
    along = (score * v).reshape(len(x), -1).sum(1)
    return (_gradient(along, x) * v).reshape(len(x), -1).sum(1) + 0.5 * _squared(score)


def denoising(score_fn: ScoreFn, x0: Tensor, eps: Tensor, std: Coefficient) -> Tensor:
    """|s(x0 + std eps) + eps / std|^2 / 2, (B,) [Vincent 2011; Song 2019, eq. 5].

    Its mean is that of `explicit` for the noisy data, plus a constant. x0, eps (B, ...); std > 0, scalar or (B,).
    Multiplied by std^2, as in eq. 6, it is `losses.simple` with `EPS` on `VE`, times half the dimension.
    """
    if not bool((torch.as_tensor(std) > 0).all()):
        raise ValueError("denoising needs noise: std > 0")
    x = q_sample(x0, eps, (1.0, std))
    return 0.5 * _squared(check_answer(score_fn(x), x) + eps / expand(std, x))


def rademacher(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Probes like x (B, ...), each number 1 or -1 by a fair coin, drawn on the CPU."""
    check_alike(x)
    return (2 * torch.randint(0, 2, x.shape, generator=generator) - 1).to(x)


# --- NCSNv2's techniques


def largest_distance(data: Tensor, chunk: int = 1000) -> float:
    """Technique 1: the first level is the largest distance between two items of data (N, ...).

    Time grows with N^2: for a large set a few thousand items will do.
    """
    check_alike(data)
    check_range(1, chunk=chunk)
    flat = data.reshape(len(data), -1).double()
    return max(float(torch.cdist(part, flat).max()) for part in torch.split(flat, chunk))


def level_overlap(ratio: float, dims: int) -> float:
    """Technique 2: the share of a level whose length |x| is one of the next larger level's, within three deviations.

    Phi(sqrt(2 D) (ratio - 1) + 3 ratio) - Phi(sqrt(2 D) (ratio - 1) - 3 ratio), for data at one point, whose |x| is
    about normal, of mean sqrt(D) std and variance std^2 / 2 [Song & Ermon 2020, prop. 2].
    """
    check_range(1, ratio=ratio, dims=dims)
    centre = math.sqrt(2 * dims) * (ratio - 1)
    return 0.5 * (math.erf((centre + 3 * ratio) / math.sqrt(2)) - math.erf((centre - 3 * ratio) / math.sqrt(2)))


def level_ratio(dims: int, overlap: float = 0.5) -> float:
    """Technique 2: the ratio > 1 of neighbouring levels at which `level_overlap` is `overlap`.

    The published settings lie at 0.566 to 0.567, not at the paper's 0.5. ValueError for an overlap outside (0, 0.997)
    and below five dimensions, where levels however far apart overlap.
    """
    if dims < 5 or not 0 < overlap < level_overlap(1.0, dims):
        raise ValueError(
            f"overlap {overlap} in {dims} dimensions: choose one between 0 and 0.997, in at least 5 dimensions; below "
            "that any levels overlap, and 10 will do"
        )
    from scipy.optimize import brentq  # slow to import

    return float(brentq(lambda ratio: level_overlap(ratio, dims) - overlap, 1.0, 1e3))  # where the overlap is 0


def level_count(first: float, last: float, ratio: float) -> int:
    """Technique 2: how many geometric levels from first to last have about this ratio; ValueError unless they fall."""
    if not (0 < last < first < math.inf and 1 < ratio < math.inf):
        raise ValueError(f"from {first} down to {last} by {ratio}: 0 < last < first and a ratio above 1, please")
    return 1 + round(math.log(first / last) / math.log(ratio))


def geometric_levels(first: float, last: float, count: int) -> Tensor:
    """count deviations from first down to last in one ratio, (count,) float64; ValueError unless they fall."""
    if not 0 < last < first < math.inf or count < 2:
        raise ValueError(f"levels fall from the first to the last, 0 < last < first, two or more; got {first}, {last}")
    return torch.logspace(math.log10(first), math.log10(last), count, dtype=torch.float64)


def level_times(schedule: Schedule, levels: Tensor) -> list[float]:
    """The times of falling levels, std / scale (L,), and 0: the grid of `annealed_langevin`, denoising included.

    Drop the 0 for NCSN, which has no denoising. Geometric levels are even times of VE(last, first). ValueError unless
    the levels fall strictly and lie on the schedule.
    """
    if levels.ndim != 1 or len(levels) == 0 or not bool((levels[1:] < levels[:-1]).all()):
        raise ValueError(
            "levels must fall strictly, (L,), from the most noise to the least: score-SDE code counts them upwards, so "
            "flip those"
        )
    return [*schedule.time_at(levels).tolist(), 0.0]


def unconditional(f: ScoreFn) -> EpsFn:
    """Technique 3: the noise predictor of the score f(x) / std, from an f that is not told the level.

    eps = -std * score = -f(x): a noise predictor that ignores t.
    """
    return lambda x, t: -check_answer(f(x), x)


def variance_ratio(step: float, ratio: float, steps: int) -> float:
    """Technique 4: the variance after `steps` updates at a level, over that level's own, for data at one point.

    The walk comes from the level above, of variance ratio^2. `step` is that of `samplers.langevin`: epsilon / std_L^2
    of the paper, whose code and this formula take whole steps. ValueError outside 0 < step < 2, where it diverges.
    """
    if not 0 < step < 2:
        raise ValueError(f"step = {step}: the variance stays finite between 0 and 2 only, and 1 forgets the start")
    check_range(0, ratio=ratio, steps=steps)
    limit = 1 / (1 - step / 2)  # 2 step / (1 - (1 - step)^2)
    return (1 - step) ** (2 * steps) * (ratio**2 - limit) + limit


def best_step(ratio: float, steps: int) -> float:
    """Technique 4: the step in (0, 1) that brings `variance_ratio` nearest to 1, which it exceeds always."""
    from scipy.optimize import minimize_scalar  # slow to import

    bounds, options = (0.0, 1.0), {"xatol": 1e-12}
    return float(minimize_scalar(lambda step: variance_ratio(step, ratio, steps), bounds=bounds, options=options).x)


def _differentiable(score_fn: ScoreFn, x: Tensor) -> tuple[Tensor, Tensor]:
    """x as a leaf of its own, and the score there."""
    check_alike(x)
    x = x.detach().requires_grad_()
    score = check_answer(score_fn(x), x)
    if not score.requires_grad:
        raise ValueError(NO_GRADIENT)
    return x, score


def _gradient(part: Tensor, x: Tensor) -> Tensor:
    """Of each item's number (B,) in x, itself open to gradients, for training."""
    (gradient,) = torch.autograd.grad(part.sum(), x, create_graph=True, allow_unused=True)
    if gradient is None:  # only parameters have one
        raise ValueError(NO_GRADIENT)
    return gradient


def _squared(score: Tensor) -> Tensor:
    return score.square().reshape(len(score), -1).sum(1)
