"""Exercises accept the right answer, know the famous wrong ones, and never stop a notebook."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_path.lab import exercises
from ddpm_path.lab.exercises import (
    EXERCISES,
    MARGINAL_FROM_CHAIN,
    MEAN_FROM_EPS,
    POSTERIOR_MEAN,
    TRAINING_PAIR,
    Exercise,
    check,
)
from ddpm_path.lab.exercises.checking import _as_tuple

Capture = pytest.CaptureFixture[str]
by_name = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
MISTAKES = [
    pytest.param(exercise, wrong, hint, id=f"{exercise.name}-{i}")
    for exercise in EXERCISES
    for i, (wrong, hint) in enumerate(exercise.mistakes)
]


@by_name
def test_solution_is_accepted(exercise: Exercise, capsys: Capture) -> None:
    assert check(exercise, exercise.solution)
    assert capsys.readouterr().out == f"{exercise.name}: right\n"


@by_name
def test_solution_agrees_to_rounding(exercise: Exercise) -> None:
    for arguments in exercise.cases(torch.Generator().manual_seed(7)).values():
        right = _as_tuple(exercise.reference(*arguments))
        found = _as_tuple(exercise.solution(*arguments))
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@by_name
def test_exercise_is_well_made(exercise: Exercise) -> None:
    assert len(exercise.mistakes) >= 2
    assert len({hint for _, hint in exercise.mistakes}) == len(exercise.mistakes)
    assert getattr(exercises, exercise.name.upper()) is exercise
    cases = exercise.cases(torch.Generator().manual_seed(0))
    assert len(cases) >= 2
    floats = [a for case in cases.values() for a in case if isinstance(a, Tensor)]
    assert all(a.dtype == torch.float64 for a in floats)


@pytest.mark.parametrize(("exercise", "wrong", "hint"), MISTAKES)
def test_planted_mistake_gets_its_own_hint(
    exercise: Exercise, wrong: Callable[..., Any], hint: str, capsys: Capture
) -> None:
    assert not check(exercise, wrong)
    assert capsys.readouterr().out == f"{exercise.name}: {hint}\n"


def test_both_ends_of_the_chain_are_tried() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {"t = 1", "t = 40"} <= MARGINAL_FROM_CHAIN.cases(generator).keys()
    for exercise in (POSTERIOR_MEAN, MEAN_FROM_EPS):
        assert {"t = 1", "t = 500", "t = 1000"} == exercise.cases(generator).keys()


def stub(*arguments: Any) -> None:
    pass


def unwritten(*arguments: Any) -> None:
    raise NotImplementedError


@by_name
@pytest.mark.parametrize("answer", [None, stub, unwritten, lambda *arguments: ...])
def test_stub_is_not_answered_yet(exercise: Exercise, answer: Callable[..., Any] | None, capsys: Capture) -> None:
    assert not check(exercise, answer)
    assert "not answered yet" in capsys.readouterr().out


def raising(betas: Tensor, t: int) -> float:
    raise IndexError("index 40 is out of bounds")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raising, "it raised IndexError (index 40 is out of bounds) at t = 1"),
        (lambda betas: 1.0, "it raised TypeError"),
        (lambda betas, t: (1 - betas[:t]).prod().sqrt(), "expected 2 answers (scale, std); it returns 1"),
        (lambda betas, t: ("a", "b"), "it returns tuple; expected scale and std, as tensors"),
        (lambda betas, t: (object(), 1.0), "expected scale and std, as tensors"),
        (lambda betas, t: ((1 - betas[:t]).cumprod(0).sqrt(), 0.5), "scale has shape (1,); expected (), at t = 1"),
        (lambda betas, t: (torch.tensor(0.5), 0.5), "scale is torch.float32; expected torch.float64"),
        (lambda betas, t: (math.nan, 0.5), "scale holds NaN or infinity"),
        (0.5, "hand over the function itself"),
    ],
)
def test_what_is_wrong_is_said(answer: Any, message: str, capsys: Capture) -> None:
    assert not check(MARGINAL_FROM_CHAIN, answer)
    assert message in capsys.readouterr().out


def test_unknown_mistake_is_sized_and_placed(capsys: Capture) -> None:
    def off(x: Tensor, eps: Tensor, beta: Tensor, alpha_bar: Tensor) -> Tensor:
        mean: Tensor = MEAN_FROM_EPS.solution(x, eps, beta, alpha_bar)
        if beta > 0.0199:  # the last step only
            mean[2, 1] += 0.125
        return mean

    assert not check(MEAN_FROM_EPS, off)
    message = capsys.readouterr().out
    assert "mean is off by up to 0.125" in message
    assert "at index [2, 1], at t = 1000 (right at t = 1, t = 500)" in message


def test_second_answer_is_named_when_it_alone_is_wrong(capsys: Capture) -> None:
    assert not check(MARGINAL_FROM_CHAIN, lambda betas, t: (MARGINAL_FROM_CHAIN.solution(betas, t)[0], 0.5))
    assert "std is off by" in capsys.readouterr().out


def test_small_errors_are_errors() -> None:
    """float32 precision is not enough: a term of the size of beta_1 would hide in it."""
    assert not check(POSTERIOR_MEAN, lambda *arguments: POSTERIOR_MEAN.solution(*arguments) * (1 + 1e-7))
    assert not check(POSTERIOR_MEAN, lambda *arguments: POSTERIOR_MEAN.solution(*arguments).float())


def test_answer_may_write_into_its_inputs() -> None:
    def in_place(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        bar = alpha_bar.view(-1, 1, 1, 1)
        x0 *= bar.sqrt()
        return x0.add_((1 - bar).sqrt() * eps), eps

    assert check(TRAINING_PAIR, in_place)


def test_answer_may_come_in_numpy_or_with_gradients() -> None:
    def in_numpy(betas: Tensor, t: int) -> tuple[Any, Any]:
        bar = np.prod(1 - betas.numpy()[:t])
        return np.sqrt(bar), np.sqrt(1 - bar)

    assert check(MARGINAL_FROM_CHAIN, in_numpy)
    assert check(MEAN_FROM_EPS, lambda x, *rest: MEAN_FROM_EPS.solution(x.requires_grad_(), *rest))
