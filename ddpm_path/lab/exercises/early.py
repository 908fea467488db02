"""Exercises of notebook 02: the marginal of a bit, and a product of normal distributions."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import early
from ddpm_path.lab.exercises.checking import Exercise

# How likely a bit is 1 after t steps [Sohl-Dickstein 2015, table App. 1].


def _bits(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for t, rate in ((1, 0.2), (20, 0.7), (40, 0.2)):
        x0 = (torch.rand(4, 6, generator=generator, dtype=torch.float64) < 0.5).double()
        betas = 0.01 + 0.1 * torch.rand(40, generator=generator, dtype=torch.float64)
        cases[f"t = {t}, rate {rate}"] = (x0, betas, t, rate)
    return cases


def _marginal(x0: Tensor, betas: Tensor, t: int, rate: float) -> Tensor:
    return early.Binomial(betas, rate).marginal_rate(x0, t)


def _marginal_solution(x0: Tensor, betas: Tensor, t: int, rate: float) -> Tensor:
    """Walk the chain: each step keeps the bit with probability 1 - beta, else draws a new one."""
    one = x0
    for beta in betas[:t].tolist():
        one = one * (1 - beta) + rate * beta
    return one


def _blend(x0: Tensor, keep: Tensor, rate: float) -> Tensor:
    return x0 * keep + rate * (1 - keep)


BIT_MARGINAL = Exercise(
    "bit_marginal",
    _marginal,
    _bits,
    ("rate of ones",),
    (
        (
            lambda x0, betas, t, rate: x0 * (1 - betas[:t]).prod(),
            "bits drawn anew are missing: they are 1 with probability `rate`",
        ),
        (
            lambda x0, betas, t, rate: _blend(x0, (1 - betas[:t]).prod(), 0.5),
            "this is right for a prior rate of 1/2 only: a bit drawn anew is 1 with probability `rate`",
        ),
        (
            lambda x0, betas, t, rate: _blend(x0, (1 - betas[: t - 1]).prod(), rate),
            "this is x_{t-1}: after t steps t betas have acted, and betas[0] belongs to t = 1, so take betas[:t]",
        ),
        (
            lambda x0, betas, t, rate: _blend(x0, 1 - betas[:t].sum(), rate),
            "the betas are added: the chances to be kept multiply, step by step",
        ),
    ),
    _marginal_solution,
)


# The product of two normal distributions [Sohl-Dickstein 2015, sec. 2.5].


def _products(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for case, wide in {"a narrow r": 0.1, "a wide r": 3.0}.items():
        mean, centre = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        var, tau2 = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64) + 0.1
        cases[case] = (mean, var, centre, wide * tau2)
    return cases


def _product(mean: Tensor, var: Tensor, centre: Tensor, tau2: Tensor) -> tuple[Tensor, Tensor]:
    return early.multiply_gaussian(centre, tau2)(mean, var, (1.0, 0.0))


def _product_solution(mean: Tensor, var: Tensor, centre: Tensor, tau2: Tensor) -> tuple[Tensor, Tensor]:
    """Precisions add, and weigh the means."""
    precision = 1 / var + 1 / tau2
    return (mean / var + centre / tau2) / precision, 1 / precision


def _first_order(mean: Tensor, var: Tensor, centre: Tensor, tau2: Tensor) -> tuple[Tensor, Tensor]:
    return mean + var / tau2 * (centre - mean), var


def _swapped(mean: Tensor, var: Tensor, centre: Tensor, tau2: Tensor) -> tuple[Tensor, Tensor]:
    return (var * mean + tau2 * centre) / (var + tau2), var * tau2 / (var + tau2)


def _sum(mean: Tensor, var: Tensor, centre: Tensor, tau2: Tensor) -> tuple[Tensor, Tensor]:
    return mean + centre, var + tau2


GAUSSIAN_PRODUCT = Exercise(
    "gaussian_product",
    _product,
    _products,
    ("mean", "variance"),
    (
        (_first_order, "this is the gradient form, right for tau2 much larger than var: the exact product is narrower"),
        (_swapped, "the weights are swapped: the narrower of the two pulls the mean harder"),
        (_sum, "this is the distribution of a sum of two numbers: multiply the two densities"),
    ),
    _product_solution,
)
