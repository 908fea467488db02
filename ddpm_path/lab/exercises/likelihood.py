"""Exercises of notebook 05, the variational bound."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import linear_betas

# The mass of a pixel's bin [Ho 2020, eq. 13].


def _pixels(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    levels = {
        "the inner levels": torch.randint(100, 156, (6,), generator=generator),
        "-1 and 1": torch.tensor([0, 255]),
    }
    for case, level in levels.items():
        x0 = level.double() / 127.5 - 1
        mean = x0 + 0.02 * torch.randn(len(x0), generator=generator, dtype=torch.float64)
        cases[case] = (x0, mean, 0.1 + 0.2 * torch.rand(len(x0), generator=generator, dtype=torch.float64))
    return cases


def _bin_log_prob(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return gaussian.discretised_log_prob(x0, mean, std**2)


def _mass(low: Tensor, high: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    mass: Tensor = torch.special.ndtr((high - mean) / std) - torch.special.ndtr((low - mean) / std)
    return mass.log()


def _open(x0: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """A bin's edges, those beyond the range at infinity."""
    return torch.where(x0 < -0.999, -math.inf, x0 - half), torch.where(x0 > 0.999, math.inf, x0 + half)


def _bin_solution(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The error function from edge to edge; beyond the range it is -1 and 1."""

    def erf(edge: Tensor) -> Tensor:
        return torch.erf((edge - mean) / (std * 2**0.5))

    upper, lower = erf(x0 + 1 / 255), erf(x0 - 1 / 255)
    upper, lower = torch.where(x0 > 0.999, 1.0, upper), torch.where(x0 < -0.999, -1.0, lower)
    return ((upper - lower) / 2).log()


BIN_LOG_PROB = Exercise(
    "bin_log_prob",
    _bin_log_prob,
    _pixels,
    ("log p",),
    (
        (
            lambda x0, mean, std: _mass(x0 - 1 / 255, x0 + 1 / 255, mean, std),
            "right inside, but the bins at -1 and 1 are open: they reach to minus and plus infinity",
        ),
        (
            lambda x0, mean, std: -0.5 * ((x0 - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi),
            "this is a density, which may exceed 1: a pixel's probability is the mass between its bin's edges",
        ),
        (
            lambda x0, mean, std: _mass(*_open(x0, 2 / 255), mean, std),
            "the bins overlap: levels are 2/255 apart, so a bin reaches 1/255 to both sides",
        ),
        (
            lambda x0, mean, std: _mass(*_open(x0, 1 / 255), mean, std**2),
            "edges are divided by the variance: the normal distribution function takes deviations, so divide by std",
        ),
    ),
    _bin_solution,
)


# The weight of the squared error of eps in a term of the bound [Ho 2020, eq. 12].


def _steps(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    betas = linear_betas()
    bars = (1 - betas).cumprod(0)
    cases: dict[str, tuple[Any, ...]] = {}
    for t in (2, 500, 1000):
        beta, bar, before = betas[t - 1], bars[t - 1], bars[t - 2]
        for name, variance in (("small", beta * (1 - before) / (1 - bar)), ("large", beta)):
            cases[f"t = {t}, {name} variance"] = (beta, bar, variance)
    return cases


def _bound_weight(beta: Tensor, alpha_bar: Tensor, variance: Tensor) -> Tensor:
    """The KL of two steps back whose eps differ by 1."""
    before = alpha_bar / (1 - beta)
    now, then = (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()), (before.sqrt(), (1 - before).sqrt())
    x, eps = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    means = [gaussian.posterior(gaussian.x0_from_eps(x, k * eps, now), x, now, then)[0] for k in (0, 1)]
    return gaussian.kl(means[0], variance, means[1], variance)[0]


BOUND_WEIGHT = Exercise(
    "bound_weight",
    _bound_weight,
    _steps,
    ("weight",),
    (
        (
            lambda beta, bar, variance: beta / (2 * variance * (1 - beta) * (1 - bar)),
            "the means differ by beta times something, and the KL squares it: eq. 12 has beta^2",
        ),
        (
            lambda beta, bar, variance: beta**2 / (variance * (1 - beta) * (1 - bar)),
            "twice too large: the KL of two normal distributions has 1/2 before the squared distance of the means",
        ),
        (
            lambda beta, bar, variance: beta**2 / (2 * variance * (1 - bar)),
            "alpha_t = 1 - beta_t is missing: the mean of eq. 11 is divided by its root",
        ),
        (
            lambda beta, bar, variance: torch.ones_like(beta),
            "that is L_simple's weight: the bound's own varies with t",
        ),
    ),
    lambda beta, bar, variance: (beta / ((1 - beta) * (1 - bar)) ** 0.5) ** 2 / variance / 2,
)
