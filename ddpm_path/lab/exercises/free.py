"""Exercises of notebook 14, classifier-free guidance: dropping conditions, and dynamic thresholding."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import guidance
from ddpm_path.lab.exercises.checking import Exercise

# Conditions dropped in training [Ho & Salimans 2022, alg. 1].


def _conditions(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for p in (0.2, 0.6):
        rows = torch.randn(7, 3, generator=generator, dtype=torch.float64)  # six conditions, and what stands for none
        u = torch.tensor([0.7, 0.1, 0.4, 0.9, 0.05, 0.3], dtype=torch.float64)  # on either side of p
        cases[f"p = {p}"] = (rows[:6], rows[6], u, p)
    return cases


def _dropped(condition: Tensor, null: Tensor, u: Tensor, p: float) -> Tensor:
    return torch.where((u < p)[:, None], null, condition)


def _dropped_solution(condition: Tensor, null: Tensor, u: Tensor, p: float) -> Tensor:
    """Example by example: its own number decides."""
    rows = [null if number < p else row for number, row in zip(u.tolist(), condition, strict=True)]
    return torch.stack(rows)


DROPPED_CONDITION = Exercise(
    "dropped_condition",
    _dropped,
    _conditions,
    ("conditions",),
    (
        (
            lambda condition, null, u, p: _dropped(condition, null, u[:1].expand_as(u), p),
            "one number decided for the whole batch: each example has its own u",
        ),
        (
            lambda condition, null, u, p: _dropped(condition, null, u, 1 - p),
            "the probability is the other one: a condition is dropped with probability p, and kept with 1 - p",
        ),
        (
            lambda condition, null, u, p: _dropped(condition, null, -u, -p),
            "the kept and the dropped are swapped: a condition is dropped where u < p",
        ),
        (
            lambda condition, null, u, p: _dropped(condition, 0 * null, u, p),
            "dropped conditions became 0: what stands for no condition is learned, it is `null`",
        ),
    ),
    _dropped_solution,
)


# Dynamic thresholding [Saharia 2022, sec. 2.3].


def _estimates(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for percentile in (0.8, 0.995):
        x0 = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64) - 0.4  # more below than above
        x0 *= torch.tensor([0.2, 1.5, 4.0]).view(3, 1, 1, 1)  # one image stays in range
        cases[f"percentile {percentile}"] = (x0, percentile)
    return cases


def _limit(x0: Tensor, percentile: float) -> Tensor:
    return x0.flatten(1).abs().quantile(percentile, dim=1).view(-1, 1, 1, 1)  # (B, 1, 1, 1)


def _threshold_solution(x0: Tensor, percentile: float) -> Tensor:
    """Clip each image to its own percentile s of |x_0|, but never below 1, and divide by s."""
    s = torch.maximum(_limit(x0, percentile), torch.ones(()))
    return torch.minimum(torch.maximum(x0, -s), s) / s


def _signed(x0: Tensor, percentile: float) -> Tensor:
    s = x0.flatten(1).quantile(percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x0.clamp(-s, s) / s


def _whole_batch(x0: Tensor, percentile: float) -> Tensor:
    s = x0.abs().flatten().quantile(percentile).clamp(min=1)
    return x0.clamp(-s, s) / s


def _stretched(x0: Tensor, percentile: float) -> Tensor:
    s = _limit(x0, percentile)
    return x0.clamp(-s, s) / s


def _undivided(x0: Tensor, percentile: float) -> Tensor:
    s = _limit(x0, percentile).clamp(min=1)
    return x0.clamp(-s, s)


DYNAMIC_THRESHOLD = Exercise(
    "dynamic_threshold",
    guidance.dynamic_threshold,
    _estimates,
    ("x_0",),
    (
        (
            _whole_batch,
            "one percentile was taken over the whole batch: each image has its own",
        ),
        (
            _signed,
            "the percentile is of x_0: take it of |x_0|, or dark pixels do not count",
        ),
        (
            _stretched,
            "an image within [-1, 1] was stretched: its percentile is below 1, and s must not be",
        ),
        (
            _undivided,
            "clipped to s, but not divided by it: the range is [-s, s] still",
        ),
    ),
    _threshold_solution,
)
