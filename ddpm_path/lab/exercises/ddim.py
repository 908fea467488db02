"""Exercises of notebook 11, DDIM."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, samplers
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import Discrete, cosine_betas

Level = tuple[Tensor, Tensor]

# The step of any eta, from the levels alone [Song 2020, eq. 12, 16].


def _steps(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    schedule = Discrete.from_betas(cosine_betas())
    cases: dict[str, tuple[Any, ...]] = {}
    for t, s, eta in ((1000, 900, 0.5), (500, 450, 0.0), (500, 450, 1.0), (50, 0, 1.0)):
        x, eps, noise = 0.5 + torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
        cases[f"t = {t}, s = {s}, eta = {eta:g}"] = (x, eps, schedule(t), schedule(s), eta, noise)
    return cases


def _step(x: Tensor, eps: Tensor, now: Level, then: Level, eta: float, noise: Tensor) -> Tensor:
    return gaussian.ddim_step(gaussian.x0_from_eps(x, eps, now), eps, now, then, eta, noise)


def _step_solution(x: Tensor, eps: Tensor, now: Level, then: Level, eta: float, noise: Tensor) -> Tensor:
    """eta scales DDPM's deviation std_s / std_t * sqrt(beta); eps keeps what is left of std_s."""
    (scale_t, std_t), (scale_s, std_s) = now, then
    beta = 1 - (scale_t / scale_s) ** 2
    sigma = eta * std_s / std_t * beta**0.5
    x0 = (x - std_t * eps) / scale_t
    return scale_s * x0 + (std_s**2 - sigma**2) ** 0.5 * eps + sigma * noise


def _with_sigma(x: Tensor, eps: Tensor, now: Level, then: Level, sigma: Tensor, noise: Tensor) -> Tensor:
    kept = (then[1] ** 2 - sigma**2).clamp(min=0).sqrt()
    return then[0] * gaussian.x0_from_eps(x, eps, now) + kept * eps + sigma * noise


def _on_top(x: Tensor, eps: Tensor, now: Level, then: Level, eta: float, noise: Tensor) -> Tensor:
    straight = gaussian.ddim_step(gaussian.x0_from_eps(x, eps, now), eps, now, then)
    return straight + eta * gaussian.expand(gaussian.fixed_small(now, then), x).sqrt() * noise


def _same_scale(x: Tensor, eps: Tensor, now: Level, then: Level, eta: float, noise: Tensor) -> Tensor:
    x0 = gaussian.x0_from_eps(x, eps, now)
    return _step(x, eps, now, then, eta, noise) + (now[0] - then[0]) * x0


def _rootless(x: Tensor, eps: Tensor, now: Level, then: Level, eta: float, noise: Tensor) -> Tensor:
    return _with_sigma(x, eps, now, then, eta * gaussian.expand(gaussian.fixed_small(now, then), x), noise)


def _large(x: Tensor, eps: Tensor, now: Level, then: Level, eta: float, noise: Tensor) -> Tensor:
    return _with_sigma(x, eps, now, then, eta * gaussian.expand(gaussian.fixed_large(now, then), x).sqrt(), noise)


STEP_OF_ETA = Exercise(
    "step_of_eta",
    _step,
    _steps,
    ("x_s",),
    (
        (
            _on_top,
            "the noise comes on top: eps must give up what it takes, so its factor is sqrt(std_s^2 - sigma^2)",
        ),
        (
            _same_scale,
            "the estimate of x_0 is put back at the level of x_t: x_s has the earlier scale, then[0]",
        ),
        (
            _rootless,
            "sigma is a standard deviation: take the root of the posterior's variance, then multiply by eta",
        ),
        (
            _large,
            "sigma is the forward step's, sqrt(beta): eq. 16 multiplies it by std_s / std_t, DDPM's small variance",
        ),
    ),
    _step_solution,
)


# Between two latents, along the great circle [Song 2020, app. D.5].


def _latents(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    pairs = torch.randn(3, 2, 4, 1, 3, 3, generator=generator, dtype=torch.float64)  # (cases, 2, B, C, H, W)
    return {f"share {share}": (a, b, share) for (a, b), share in zip(pairs, (0.25, 0.5, 0.9), strict=True)}


def _slerp_solution(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Weights sin((1 - share) angle) and sin(share angle), over sin(angle), with an angle for each latent."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)  # (B, D)
    dot, aa, bb = ((u * v).sum(1, keepdim=True) for u, v in ((flat_a, flat_b), (flat_a, flat_a), (flat_b, flat_b)))
    angle = (dot / (aa * bb).sqrt()).arccos()  # (B, 1)
    mixed = (((1 - share) * angle).sin() * flat_a + (share * angle).sin() * flat_b) / angle.sin()
    return mixed.view_as(a)


def _whole_batch(a: Tensor, b: Tensor, share: float) -> Tensor:
    return samplers.slerp(a[None], b[None], share)[0]


SLERP = Exercise(
    "slerp",
    samplers.slerp,
    _latents,
    ("latent",),
    (
        (
            torch.lerp,
            "this is the straight line, which cuts through the shell that latents lie on: weigh a and b by sines",
        ),
        (
            _whole_batch,
            "one angle was taken for the whole batch: each latent has an angle of its own, so sum over all other axes",
        ),
        (
            lambda a, b, share: samplers.slerp(b, a, share),
            "the two ends are swapped: share 0 is a, share 1 is b",
        ),
        (
            lambda a, b, share: (1 - share) ** 0.5 * a + share**0.5 * b,
            "these weights keep the norm only where a and b stand at a right angle: use the angle between them",
        ),
    ),
    _slerp_solution,
)
