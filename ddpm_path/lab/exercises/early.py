"""Exercises of notebook 02: a step back of bits, and a product of normal distributions."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import early
from ddpm_path.lab.exercises.checking import Exercise

# The posterior of a bit [Sohl-Dickstein 2015, table of app. A].


def _bits(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    chain = early.Binomial(early.fractional_betas(40), rate=0.2)
    cases: dict[str, tuple[Any, ...]] = {}
    for t in (2, 20, 40):
        x0, x = (torch.rand(2, 4, 6, generator=generator, dtype=torch.float64) < 0.5).double()
        cases[f"t = {t}"] = (chain.marginal_rate(x0, t - 1), x, float(chain.betas[t]), chain.rate)
    return cases


def _bit_posterior(before: Tensor, x: Tensor, beta: float, rate: float) -> Tensor:
    """The package's, on a chain of two steps whose second is this one; x_0 is 1 and decayed to `before`."""
    posteriors = []
    for b, bit in zip(before.flatten(), x.flatten(), strict=True):
        bit, one = bit.view(1), torch.ones(1, dtype=torch.float64)
        sure = float(b) > rate  # decayed from 1, else from 0
        first = (1 - float(b)) / (1 - rate) if sure else float(b) / rate
        chain = early.Binomial(torch.tensor([first, beta], dtype=torch.float64), rate)
        posteriors.append(chain.posterior_rate(one if sure else 1 - one, bit, 2))
    return torch.cat(posteriors).view_as(x)


def _step(beta: float, rate: float) -> tuple[float, float]:
    """P(x_t = 1) from a 1 and from a 0."""
    return 1 - beta + rate * beta, rate * beta


def _bit_solution(before: Tensor, x: Tensor, beta: float, rate: float) -> Tensor:
    """Bayes: what x_t was likely to come from, weighed by what x_{t-1} was likely to be."""
    one, zero = beta * rate + torch.tensor([1 - beta, 0.0], dtype=torch.float64)
    from_one, from_zero = (torch.where(x == 1, p, 1 - p) for p in (one, zero))
    return before * from_one / (before * from_one + (1 - before) * from_zero)


def _joint(before: Tensor, x: Tensor, beta: float, rate: float) -> Tensor:
    one, _ = _step(beta, rate)
    return before * torch.where(x == 1, one, 1 - one)


def _half(before: Tensor, x: Tensor, beta: float, rate: float) -> Tensor:
    return _bit_solution(before, x, beta, 0.5)


def _always_one(before: Tensor, x: Tensor, beta: float, rate: float) -> Tensor:
    return _bit_solution(before, torch.ones_like(x), beta, rate)


def _no_prior(before: Tensor, x: Tensor, beta: float, rate: float) -> Tensor:
    return _bit_solution(torch.full_like(before, 0.5), x, beta, rate)


BIT_POSTERIOR = Exercise(
    "bit_posterior",
    _bit_posterior,
    _bits,
    ("rate",),
    (
        (_joint, "this is P(x_{t-1} = 1 and x_t): divide by P(x_t), the sum over both values of x_{t-1}"),
        (_half, "this is right for a prior rate of 1/2 only: a bit drawn anew is 1 with probability `rate`"),
        (_always_one, "this is right where x_t = 1 only: where x_t = 0, the step's probability is one minus that"),
        (_no_prior, "the rate before the step is missing: Bayes' rule weighs the two cases by it"),
    ),
    _bit_solution,
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
