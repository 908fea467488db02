"""Exercises: re-derive a function that the package has, and learn what is wrong, not only that something is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, losses
from ddpm_path.schedule import Discrete, linear_betas

Function = Callable[..., Any]
"""Takes tensors and numbers, answers a tensor or a tuple of them."""
TOLERANCE = 1e-9  # of float64 answers, relative to the largest number in them


@dataclass(frozen=True)
class Exercise:
    """A function to re-derive.

    reference: the package's own. cases: a description and the arguments of each trial, drawn with a generator.
    returns: the names of what it answers. mistakes: famous wrong versions, each with the hint it deserves.
    solution: one right answer, written independently of the package.
    """

    name: str
    reference: Function
    cases: Callable[[torch.Generator], dict[str, tuple[Any, ...]]]
    returns: tuple[str, ...]
    mistakes: tuple[tuple[Function, str], ...]
    solution: Function


def check(exercise: Exercise, answer: Function | None) -> bool:
    """Try an answer on random float64 inputs, print 'right' or what is wrong, and say whether it was right.

    Nothing that an answer does raises, so a notebook runs on; a stub (it returns None or raises
    NotImplementedError) counts as not answered yet.
    """
    right, message = _judge(exercise, answer)
    print(f"{exercise.name}: {message}")
    return right


def _judge(exercise: Exercise, answer: Function | None) -> tuple[bool, str]:
    cases = exercise.cases(torch.Generator().manual_seed(0))
    if answer is None:
        return False, "not answered yet"
    if not callable(answer):
        return False, f"hand over the function itself, not what it returns: check({exercise.name.upper()}, answer)"
    problems: dict[str, str] = {}
    answers: dict[str, tuple[Tensor, ...]] = {}
    for case, arguments in cases.items():
        try:
            output = answer(*_copy(arguments))
        except NotImplementedError:
            return False, "not answered yet"
        except Exception as error:  # her code may raise anything
            return False, f"it raised {type(error).__name__} ({error}) at {case}"
        if output is None or output is ...:
            return False, "not answered yet (it returns None: is there a `return`?)"
        right = _as_tuple(exercise.reference(*_copy(arguments)))
        try:
            found = _as_tuple(output)
        except Exception:  # anything can be returned, too
            return False, f"it returns {type(output).__name__}; expected {' and '.join(exercise.returns)}, as tensors"
        misfit = _misfit(exercise, found, right)
        if misfit:
            return False, f"{misfit}, at {case}"
        answers[case] = found
        if not _equal(found, right):
            problems[case] = _difference(exercise, found, right)
    if not problems:
        return True, "right"
    for mistake, hint in exercise.mistakes:
        if all(_equal(answers[case], _as_tuple(mistake(*_copy(cases[case])))) for case in cases):
            return False, hint
    case, problem = next(iter(problems.items()))
    fine = [name for name in cases if name not in problems]
    return False, f"not yet: {problem}, at {case}" + (f" (right at {', '.join(fine)})" if fine else "")


def _copy(arguments: Any) -> Any:
    """The same arguments in tensors of their own, so that an answer may write into them."""
    if isinstance(arguments, tuple):
        return tuple(_copy(argument) for argument in arguments)
    return arguments.clone() if isinstance(arguments, Tensor) else arguments


def _as_tuple(output: Any) -> tuple[Tensor, ...]:
    """An answer as a tuple of tensors; Python and numpy numbers count as float64."""
    values = tuple(output) if isinstance(output, tuple | list) else (output,)
    return tuple(
        value.detach() if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64) for value in values
    )


def _misfit(exercise: Exercise, found: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> str:
    """What is wrong with the number, shapes or types of the answers; empty if nothing is."""
    if len(found) != len(right):
        return f"expected {len(right)} answers ({', '.join(exercise.returns)}); it returns {len(found)}"
    for name, value, wanted in zip(exercise.returns, found, right, strict=True):
        if value.shape != wanted.shape:
            return f"{name} has shape {tuple(value.shape)}; expected {tuple(wanted.shape)}"
        if value.dtype != wanted.dtype:
            return f"{name} is {value.dtype}; expected {wanted.dtype}, like the inputs"
        if not bool(value.isfinite().all()):
            return f"{name} holds NaN or infinity (a root of something negative, a division by 0?)"
    return ""


def _equal(found: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * (1 + b.abs().max()))
        for a, b in zip(found, right, strict=True)
    )


def _difference(exercise: Exercise, found: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> str:
    """Which answer is off, by how much, and where most."""
    for name, value, wanted in zip(exercise.returns, found, right, strict=True):
        if not _equal((value,), (wanted,)):
            error = (value - wanted).abs()
            at = int(error.argmax())
            index = [int(i) for i in torch.unravel_index(torch.tensor(at), error.shape)] if error.ndim else []
            place = f" at index {index}" if index else ""
            return (
                f"{name} is off by up to {float(error.max()):.3g}: "
                f"{float(value.flatten()[at]):.6g} for {float(wanted.flatten()[at]):.6g}{place}"
            )
    return "equal"


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

EXERCISES: tuple[Exercise, ...] = (MARGINAL_FROM_CHAIN, POSTERIOR_MEAN, MEAN_FROM_EPS, TRAINING_PAIR)
