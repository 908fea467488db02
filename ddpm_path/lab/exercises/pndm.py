"""Exercises of notebook 15, PNDM: the transfer and the multistep weights."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, samplers
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import Discrete, cosine_betas

# The transfer from one level to another along a slope [Liu 2022, eq. 11].


def _transfers(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    schedule = Discrete.from_betas(cosine_betas())
    cases: dict[str, tuple[Any, ...]] = {}
    for t, s in ((1000, 980), (500, 480), (1, 0)):
        x = 0.5 + torch.randn(4, 3, generator=generator, dtype=torch.float64)
        slope = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        cases[f"t = {t}, s = {s}"] = (x, slope, schedule(t), schedule(s))
    return cases


def _transfer(x: Tensor, slope: Tensor, now: gaussian.AnyLevel, then: gaussian.AnyLevel) -> Tensor:
    return gaussian.q_sample(gaussian.x0_from_eps(x, slope, now), slope, then)


def _transfer_solution(x: Tensor, slope: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    """Straight in std / scale: x / scale moves by the slope times the difference of the ratios."""
    return then[0] * (x / now[0] + (then[1] / then[0] - now[1] / now[0]) * slope)


def _bars(now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return now[0] ** 2, then[0] ** 2


TRANSFER = Exercise(
    "transfer",
    _transfer,
    _transfers,
    ("x_s",),
    (
        (
            lambda x, slope, now, then: then[0] * (x / now[0] + (now[1] / now[0] - then[1] / then[0]) * slope),
            "the slope has the wrong sign: towards data std / scale falls, so new minus old is negative",
        ),
        (
            lambda x, slope, now, then: x / now[0] + (then[1] / then[0] - now[1] / now[0]) * slope,
            "this is x_s / scale_s: multiply by the new scale at the end",
        ),
        (
            lambda x, slope, now, then: then[0] / now[0] * x + (then[1] - now[1]) * slope,
            "std is not the variable that the step is straight in: move x / scale by the change of std / scale",
        ),
        (
            lambda x, slope, now, then: gaussian.posterior(gaussian.x0_from_eps(x, slope, now), x, now, then)[0],
            "this is the mean of DDPM's step, which leaves room for fresh noise; a transfer adds none and has to keep "
            "all of std_s for the slope",
        ),
    ),
    _transfer_solution,
)


# The weights of a linear multistep method [Liu 2022, eq. 12].


def _orders(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    return {f"order = {n}": (n,) for n in samplers.ADAMS_BASHFORTH}


def _adams_bashforth(order: int) -> Tensor:
    return torch.tensor(samplers.ADAMS_BASHFORTH[order], dtype=torch.float64)


def _exact_for_powers(order: int, results: Tensor) -> Tensor:
    """The weights at 0, -1, -2, ... that give results[k] for the slope u^k, k below the order."""
    nodes = -torch.arange(order, dtype=torch.float64)
    powers = nodes ** torch.arange(order)[:, None]  # (power, node)
    weights: Tensor = torch.linalg.solve(powers, results)
    return weights


def _weights_solution(order: int) -> Tensor:
    """The mean of u^k over the next step, 0 to 1, is 1 / (k + 1)."""
    return _exact_for_powers(order, 1 / torch.arange(1, order + 1).double())


def _over_last_step(order: int) -> Tensor:
    k = torch.arange(order)
    return _exact_for_powers(order, (-1.0) ** k / (k + 1.0).double())


MULTISTEP_WEIGHTS = Exercise(
    "multistep_weights",
    _adams_bashforth,
    _orders,
    ("weights",),
    (
        (
            lambda order: _weights_solution(order).flip(0),
            "these begin with the oldest slope: put the latest first",
        ),
        (
            _over_last_step,
            "this is the mean over the step just taken, from -1 to 0: the next one lies ahead, from 0 to 1",
        ),
        (
            lambda order: _exact_for_powers(order, torch.ones(order).double()),
            "this is the slope at the end of the next step, at 1: take its mean from 0 to 1",
        ),
        (
            lambda order: _exact_for_powers(order, 0.5 ** torch.arange(order).double()),
            "this is the slope in the middle of the next step: from order 3 on the mean over it is another number",
        ),
    ),
    _weights_solution,
)
