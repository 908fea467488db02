"""What an exercise is, and `check`, which says what is wrong with an answer, not only that something is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
            return f"{name} holds NaN or infinity (a root of something negative, a division by 0, an overflow?)"
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
