"""Exercises of notebooks 03 and 04, DDPM's two directions."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, losses
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import Discrete, linear_betas

# Notebook 03: the marginal of a chain [Ho 2020, eq. 4].


def _chains(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    betas = 0.02 + 0.3 * torch.rand(40, generator=generator, dtype=torch.float64)
    return {f"t = {t}": (betas, t) for t in (1, 20, 40)}


def _marginal(betas: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return Discrete.from_betas(betas)(t)


def _marginal_solution(betas: Tensor, t: int) -> tuple[float, float]:
    """Walk the chain: each step shrinks what there is by sqrt(1 - beta), then adds variance beta."""
    scale, variance = 1.0, 0.0
    for beta in betas[:t].tolist():
        scale, variance = scale * math.sqrt(1 - beta), variance * (1 - beta) + beta
    return scale, math.sqrt(variance)


def _levels(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


MARGINAL_FROM_CHAIN = Exercise(
    "marginal_from_chain",
    _marginal,
    _chains,
    ("scale", "std"),
    (
        (
            lambda betas, t: ((1 - betas[:t]).prod(), 1 - (1 - betas[:t]).prod()),
            "these are alpha_bar and 1 - alpha_bar, the factor and the noise of variances: take both square roots",
        ),
        (
            lambda betas, t: _levels((1 - betas[: t - 1]).prod()),
            "this is x_{t-1}: after t steps t betas have acted, and betas[0] belongs to t = 1, so take betas[:t]",
        ),
        (
            lambda betas, t: _levels(1 - betas[t - 1]),
            "this is one step, x_t given x_{t-1}: from x_0 the factors of all steps 1..t multiply",
        ),
        (
            lambda betas, t: _levels(betas[:t].prod()),
            "a product of betas: what survives a step is alpha = 1 - beta, so multiply the alphas",
        ),
    ),
    _marginal_solution,
)


# Notebook 03: the posterior of a step [Ho 2020, eq. 7].


def _steps(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    schedule = Discrete.from_betas(linear_betas())
    cases: dict[str, tuple[Any, ...]] = {}
    for t in (1, 500, 1000):
        x0 = 0.5 + torch.randn(4, 3, generator=generator, dtype=torch.float64)
        x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        cases[f"t = {t}"] = (x0, x, schedule(t), schedule(t - 1))
    return cases


def _posterior_mean(x0: Tensor, x: Tensor, now: gaussian.AnyLevel, then: gaussian.AnyLevel) -> Tensor:
    return gaussian.posterior(x0, x, now, then)[0]


def _weights(now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """alpha_bar_t, alpha_bar_{t-1} and beta_t of two levels."""
    bar, before = now[0] ** 2, then[0] ** 2
    return bar, before, 1 - bar / before


def _swapped(x0: Tensor, x: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    bar, before, beta = _weights(now, then)
    return (before.sqrt() * beta * x + (1 - beta).sqrt() * (1 - before) * x0) / (1 - bar)


def _beta_tilde(x0: Tensor, x: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    bar, before, beta = _weights(now, then)
    tilde = (1 - before) / (1 - bar) * beta
    return (before.sqrt() * tilde * x0 + (1 - beta).sqrt() * (1 - before) * x) / (1 - bar)


def _rootless(x0: Tensor, x: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    bar, before, beta = _weights(now, then)
    return (before * beta * x0 + (1 - beta) * (1 - before) * x) / (1 - bar)


def _posterior_solution(x0: Tensor, x: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    """Bayes in one dimension: regress x_s on x_t, both given x_0. Cov(x_s, x_t) = factor * std_s^2."""
    factor = now[0] / then[0]
    gain = factor * then[1] ** 2 / now[1] ** 2
    return then[0] * x0 + gain * (x - now[0] * x0)


POSTERIOR_MEAN = Exercise(
    "posterior_mean",
    _posterior_mean,
    _steps,
    ("mean",),
    (
        (
            _swapped,
            "the two weights are swapped: near t = 1 the mean must go to x_0, so beta_t stands with x_0",
        ),
        (
            _beta_tilde,
            "the weight of x_0 uses the posterior's variance beta-tilde: in eq. 7's mean it is beta_t itself",
        ),
        (
            _rootless,
            "square roots are missing: the weights hold sqrt(alpha_bar_{t-1}) and sqrt(alpha_t)",
        ),
    ),
    _posterior_solution,
)


# Notebook 04: the mean of the reverse step from the noise [Ho 2020, eq. 11].


def _reverse_steps(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    betas = linear_betas()
    bars = (1 - betas).cumprod(0)
    cases: dict[str, tuple[Any, ...]] = {}
    for t in (1, 500, 1000):
        x = 0.5 + torch.randn(4, 3, generator=generator, dtype=torch.float64)
        eps = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        cases[f"t = {t}"] = (x, eps, betas[t - 1], bars[t - 1])
    return cases


def _mean_from_eps(x: Tensor, eps: Tensor, beta: Tensor, alpha_bar: Tensor) -> Tensor:
    now = _levels(alpha_bar)
    before = (alpha_bar / (1 - beta)).clamp(max=1)  # at t = 1 this is 1, up to rounding
    return gaussian.posterior(gaussian.x0_from_eps(x, eps, now), x, now, _levels(before))[0]


def _mean_solution(x: Tensor, eps: Tensor, beta: Tensor, alpha_bar: Tensor) -> Tensor:
    """[Ho 2020, eq. 11]: take away the noise that step t added, on average, and undo its shrinking."""
    return (x - beta / (1 - alpha_bar) ** 0.5 * eps) / (1 - beta) ** 0.5


MEAN_FROM_EPS = Exercise(
    "mean_from_eps",
    _mean_from_eps,
    _reverse_steps,
    ("mean",),
    (
        (
            lambda x, eps, beta, bar: (x - beta / (1 - bar) * eps) / (1 - beta).sqrt(),
            "eps is divided by 1 - alpha_bar_t, a variance: eq. 11 has its square root",
        ),
        (
            lambda x, eps, beta, bar: x - beta / (1 - bar).sqrt() * eps,
            "the factor 1 / sqrt(alpha_t) in front is missing: the forward step shrank x, the reverse step undoes it",
        ),
        (
            lambda x, eps, beta, bar: (1 - beta).sqrt() * (x - beta / (1 - bar).sqrt() * eps),
            "it multiplies by sqrt(alpha_t): that is the forward step's factor, the reverse step divides by it",
        ),
        (
            lambda x, eps, beta, bar: (x - (1 - bar).sqrt() * eps) / bar.sqrt(),
            "this is the estimate of x_0, a jump over all steps: eq. 11 goes from t to t - 1 only",
        ),
    ),
    _mean_solution,
)


# Notebook 04: what one example of Algorithm 1 shows the network, and what it asks for.


def _batches(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    bars = (1 - linear_betas()).cumprod(0)
    cases: dict[str, tuple[Any, ...]] = {}
    for case, times in {"t = 1, 250, 500, 1000": [1, 250, 500, 1000], "t = 700, 3, 90, 400": [700, 3, 90, 400]}.items():
        # As many images as columns: here a forgotten reshape of alpha_bar runs, on the wrong axis.
        x0 = 0.5 + torch.randn(4, 1, 4, 4, generator=generator, dtype=torch.float64)
        eps = torch.randn(4, 1, 4, 4, generator=generator, dtype=torch.float64)
        cases[case] = (x0, eps, bars[torch.tensor(times) - 1])
    return cases


def _training_pair(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    now = _levels(alpha_bar)
    return gaussian.q_sample(x0, eps, now), losses.EPS.target(x0, eps, now)


def _training_solution(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """[Ho 2020, alg. 1, line 5]: one level an image, the noise itself as the target."""
    bar = alpha_bar[:, None, None, None]  # (B, 1, 1, 1)
    return bar**0.5 * x0 + (1 - bar) ** 0.5 * eps, eps


def _per_image(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return _levels(alpha_bar.view(-1, 1, 1, 1))


TRAINING_PAIR = Exercise(
    "training_pair",
    _training_pair,
    _batches,
    ("x_t", "target"),
    (
        (
            lambda x0, eps, bar: (bar.view(-1, 1, 1, 1) * x0 + (1 - bar).view(-1, 1, 1, 1) * eps, eps),
            "x_t is mixed with alpha_bar and 1 - alpha_bar: both are square-rooted, so that variances add up to 1",
        ),
        (
            lambda x0, eps, bar: (_per_image(bar)[0] * x0 + _per_image(bar)[1] * eps, x0),
            "x_t is right, but the target is x_0: Algorithm 1 asks the network for the noise, eps",
        ),
        (
            lambda x0, eps, bar: (bar.sqrt() * x0 + (1 - bar).sqrt() * eps, eps),
            "alpha_bar (B,) was spread over the columns of the images, not over the batch: reshape it to (B, 1, 1, 1)",
        ),
        (
            lambda x0, eps, bar: (_per_image(bar)[1] * x0 + _per_image(bar)[0] * eps, eps),
            "signal and noise are swapped: sqrt(alpha_bar) goes with x_0, and is near 1 at t = 1",
        ),
    ),
    _training_solution,
)
