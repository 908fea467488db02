"""Exercises of notebook 06, score matching: a Langevin update, and the loss of all levels on one footing."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, score
from ddpm_path.lab.exercises.checking import Exercise

# One update at a level, from a noise predictor [Song 2019, eq. 4].


def _updates(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for std, step in ((10.0, 0.2), (0.5, 0.062), (0.02, 0.2)):
        x, eps, noise = 0.5 + torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
        cases[f"std = {std:g}, step = {step:g}"] = (x, eps, std, step, noise)
    return cases


def _update_solution(x: Tensor, eps: Tensor, std: float, step: float, noise: Tensor) -> Tensor:
    """alpha * score + sqrt(2 alpha) * noise with alpha = step * std^2 and score = -eps / std."""
    alpha = step * std**2
    return x - alpha * eps / std + math.sqrt(2 * alpha) * noise


def _update(x: Tensor, eps: Tensor, std: float, step: float, noise: Tensor) -> Tensor:
    return gaussian.langevin_step(x, eps, std, step, noise)


LANGEVIN_UPDATE = Exercise(
    "langevin_update",
    _update,
    _updates,
    ("x",),
    (
        (
            lambda x, eps, std, step, noise: _update(x, -eps, std, step, noise),
            "this walks downhill: the score is -eps / std, and the step goes along it",
        ),
        (
            lambda x, eps, std, step, noise: _update(x, eps, std, step, noise / math.sqrt(2)),
            "a whole alpha goes with noise sqrt(2 alpha); sqrt(alpha) goes with alpha / 2, the paper's form",
        ),
        (
            lambda x, eps, std, step, noise: x - step * eps / std + math.sqrt(2 * step) * noise,
            "step is relative to the level: alpha = step * std^2",
        ),
        (
            lambda x, eps, std, step, noise: x - step * std**2 * eps + math.sqrt(2 * step) * std * noise,
            "eps was taken for the score: divide it by std",
        ),
    ),
    _update_solution,
)


# The denoising loss with lambda = sigma^2, from what the network says of the score [Song 2019, eq. 5-6].


def _losses(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for std in (10.0, 0.5, 0.02):
        answer, eps = 0.5 + torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
        cases[f"std = {std:g}"] = (answer / std, eps, std)
    return cases


def _loss_solution(answer: Tensor, eps: Tensor, std: float) -> Tensor:
    """Half the squared distance of std * score and -eps: of one size at all levels."""
    return 0.5 * (std * answer + eps).square().sum(1)


def _loss(answer: Tensor, eps: Tensor, std: float) -> Tensor:
    return std**2 * score.denoising(lambda x: answer, torch.zeros_like(eps), eps, std)


WEIGHTED_LOSS = Exercise(
    "weighted_loss",
    _loss,
    _losses,
    ("loss",),
    (
        (
            lambda answer, eps, std: _loss(answer, eps, std) / std**2,
            "lambda is missing: multiply by std^2, or the least noisy level outweighs all others",
        ),
        (
            lambda answer, eps, std: _loss(answer, -eps, std),
            "the target has the wrong sign: the score of q(x | x_0) is -eps / std, back to the data",
        ),
        (
            lambda answer, eps, std: 0.5 * std**2 * (answer + eps).square().sum(1),
            "the target is off by a factor std: the noise is std * eps, and the score of q(x | x_0) is -eps / std",
        ),
        (
            lambda answer, eps, std: _loss(answer, eps, std) / eps.shape[1],
            "this is the mean over dimensions, DDPM's; NCSN's sums over them",
        ),
    ),
    _loss_solution,
)
