"""Exercises of notebook 07, the score SDE."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import sde
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import SubVP

# Drift and diffusion of the sub-VP SDE [Song 2021, eq. 12].


def _moments(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    t = torch.rand(4, generator=generator, dtype=torch.float64).clamp(min=0.01)
    cases: dict[str, tuple[Any, ...]] = {"beta from 0.1 to 20": (t, 0.1, 20.0), "beta from 0.5 to 3": (t, 0.5, 3.0)}
    return cases | {"t = 0.02": (torch.full((1,), 0.02, dtype=torch.float64), 0.1, 20.0)}


def _coefficients(t: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return sde.coefficients(SubVP(low, high), t)


def _coefficients_solution(t: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The drift is VP's, and g^2 is beta (1 - exp(-2 B)): std^2 = (1 - exp(-B))^2 grows by it, less 2 f std^2."""
    beta, integral = low + (high - low) * t, low * t + (high - low) * t**2 / 2
    return -beta / 2, beta * (1 - torch.exp(-2 * integral))


def _beta(t: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * t


def _of_vp(t: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return _coefficients(t, low, high)[0], _beta(t, low, high)


def _whole_beta(t: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return -_beta(t, low, high), _coefficients(t, low, high)[1]


def _only_growth(t: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    f, g2 = _coefficients(t, low, high)
    return f, g2 + 2 * f * SubVP(low, high)(t)[1] ** 2


SUB_VP_COEFFICIENTS = Exercise(
    "sub_vp_coefficients",
    _coefficients,
    _moments,
    ("f", "g2"),
    (
        (_of_vp, "g^2 = beta is VP's: sub-VP adds less noise, beta (1 - exp(-2 B)), so that std = 1 - exp(-B)"),
        (_whole_beta, "f is the slope of log scale = -B / 2: half of beta, not all of it"),
        (_only_growth, "g^2 is more than the slope of std^2: the drift shrinks old noise, so add back -2 f std^2"),
    ),
    _coefficients_solution,
)


# A corrector's step, the norms of each sample its own [Song 2021, alg. 4].


def _noisy(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for std, snr in ((50.0, 0.16), (0.3, 0.075)):
        x, eps, z = torch.randn(3, 4, 1, 3, 3, generator=generator, dtype=torch.float64)
        cases[f"std = {std:g}, snr = {snr:g}"] = (std * x, eps, z, std, snr)
    return cases


def _move(x: Tensor, eps: Tensor, z: Tensor, std: float, step: Tensor) -> Tensor:
    step = step.view(-1, 1, 1, 1)
    return x - step * eps / std + (2 * step).sqrt() * z


def _correct(x: Tensor, eps: Tensor, z: Tensor, std: float, snr: float) -> Tensor:
    return _move(x, eps, z, std, std**2 * torch.as_tensor(sde.snr_step(snr)(eps, z, 1.0)))


def _correct_solution(x: Tensor, eps: Tensor, z: Tensor, std: float, snr: float) -> Tensor:
    """Up the score by step = 2 (snr |z| / |score|)^2, and sqrt(2 step) of noise."""
    score = -eps / std
    squares = [v.square().sum((1, 2, 3), keepdim=True) for v in (z, score)]
    step = 2 * snr**2 * squares[0] / squares[1]
    return x + step * score + (2 * step).sqrt() * z


def _whole_batch(x: Tensor, eps: Tensor, z: Tensor, std: float, snr: float) -> Tensor:
    norms = [v.flatten(1).norm(dim=1).mean() for v in (z, eps)]
    return _move(x, eps, z, std, (2 * (snr * std * norms[0] / norms[1]) ** 2).expand(len(x)))


def _downhill(x: Tensor, eps: Tensor, z: Tensor, std: float, snr: float) -> Tensor:
    return _correct(x, -eps, z, std, snr)


def _little_noise(x: Tensor, eps: Tensor, z: Tensor, std: float, snr: float) -> Tensor:
    step = std**2 * torch.as_tensor(sde.snr_step(snr)(eps, z, 1.0)).view(-1, 1, 1, 1)
    return x - step * eps / std + step.sqrt() * z


def _eps_for_score(x: Tensor, eps: Tensor, z: Tensor, std: float, snr: float) -> Tensor:
    return _correct(x, eps, z, 1.0, snr)


CORRECTED = Exercise(
    "corrected",
    _correct,
    _noisy,
    ("x",),
    (
        (_whole_batch, "the norms are means over the batch, as in the published code: here each sample has its own"),
        (_downhill, "x goes down the density: the score is -eps / std, and x moves along it"),
        (_little_noise, "the noise's deviation is sqrt(2 step) where the score's factor is step"),
        (_eps_for_score, "eps took the score's place: divide by std, |score| = |eps| / std"),
    ),
    _correct_solution,
)
