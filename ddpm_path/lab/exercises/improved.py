"""Exercises of notebook 12, Improved DDPM."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, losses
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import Discrete, cosine_betas

Level = tuple[Tensor, Tensor]

# The variance of a step between any two levels, as a network answers it [Nichol 2021, eq. 15, 19].


def _answers(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    schedule = Discrete.from_betas(cosine_betas())
    cases: dict[str, tuple[Any, ...]] = {}
    for t, s in ((1000, 999), (500, 499), (500, 450), (2, 1)):
        o = 2 * torch.rand(3, 4, generator=generator, dtype=torch.float64) - 1
        cases[f"t = {t}, s = {s}"] = (o, schedule(t), schedule(s))
    return cases


def _between(o: Tensor, now: Level, then: Level) -> Tensor:
    return gaussian.learned_variance(o, gaussian.fixed_small(now, then), gaussian.fixed_large(now, then))


def _between_solution(o: Tensor, now: Level, then: Level) -> Tensor:
    """beta of the step from the scales; beta~ is (std_s / std_t)^2 of it, so that power of it stands before beta."""
    (scale_t, std_t), (scale_s, std_s) = now, then
    beta = 1 - (scale_t / scale_s) ** 2
    v = (o + 1) / 2
    return beta * (std_s / std_t) ** (2 * (1 - v))


def _linear(o: Tensor, now: Level, then: Level) -> Tensor:
    return torch.lerp(_as(gaussian.fixed_small(now, then), o), _as(gaussian.fixed_large(now, then), o), (o + 1) / 2)


def _as(variance: Tensor | float, o: Tensor) -> Tensor:
    return gaussian.expand(variance, o).expand_as(o)


LEARNED_VARIANCE = Exercise(
    "learned_variance",
    _between,
    _answers,
    ("variance",),
    (
        (
            _linear,
            "this mixes the variances themselves: mix their logarithms, then take exp",
        ),
        (
            lambda o, now, then: _between(2 * o - 1, now, then),
            "o is taken for v: it comes in [-1, 1], and v = (o + 1) / 2",
        ),
        (
            lambda o, now, then: _between(-o, now, then),
            "the ends are swapped: v = 1 is beta, the large one",
        ),
        (
            lambda o, now, then: _between(o, now, then).sqrt(),
            "this is the standard deviation: leave the root out",
        ),
    ),
    _between_solution,
)


# Which times to draw, and what a draw weighs [Nichol 2021, eq. 18].


def _histories(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    sizes = ((5, 10), (50, 10), (3, 2))
    return {f"T = {T}, {n} losses each": (_losses(T, n, generator),) for T, n in sizes}


def _losses(T: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(T, n, generator=generator, dtype=torch.float64) ** 4


def _draws(history: Tensor) -> tuple[Tensor, Tensor]:
    p = losses.importance(history, floor=0.0)
    return p, 1 / (len(p) * p)


def _draws_solution(history: Tensor) -> tuple[Tensor, Tensor]:
    """The root mean square of each time, normalised; weight times probability is 1 / T."""
    rms = (history**2).mean(1) ** 0.5
    p = rms / rms.sum()
    return p, p.reciprocal() / history.shape[0]


def _weighted(p: Tensor) -> tuple[Tensor, Tensor]:
    p = p / p.sum()
    return p, 1 / (len(p) * p)


IMPORTANCE_WEIGHTS = Exercise(
    "importance_weights",
    _draws,
    _histories,
    ("p", "weight"),
    (
        (
            lambda history: _weighted(history.mean(1)),
            "p follows the mean loss: a time with rare large losses then comes too seldom; take the root mean square",
        ),
        (
            lambda history: _weighted(history.square().mean(1)),
            "the root is missing: p is as sqrt(E L^2)",
        ),
        (
            lambda history: (_draws(history)[0], 1 / _draws(history)[0]),
            "these weights estimate the sum over t: for the mean divide by T, too",
        ),
        (
            lambda history: (_draws(history)[0], torch.ones(len(history), dtype=history.dtype)),
            "without weights another loss is trained: what is drawn more often must count less, by 1 / (T p)",
        ),
    ),
    _draws_solution,
)
