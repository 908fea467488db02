"""Exercises of notebook 13, classifier guidance."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path.guidance import Classifier, class_score, classifier_guided
from ddpm_path.lab.exercises.checking import Exercise
from ddpm_path.schedule import Discrete, cosine_betas

_SCHEDULE = Discrete.from_betas(cosine_betas())

# What guides: the gradient of each sample's own log-probability [Dhariwal 2021, sec. 4.1].


def _classifications(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for label, t in ((0, 1.0), (2, 500.0), (1, 1000.0)):
        weight, x = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)

        def classifier(x: Tensor, t: Tensor, weight: Tensor = weight) -> Tensor:
            return ((x.square() + x) @ weight.T * (1 - t[:, None] / 2000)).log_softmax(1)

        cases[f"label {label}, t = {t:g}"] = (classifier, x, torch.full((3,), t, dtype=torch.float64), label)
    return cases


def _gradient(classifier: Classifier, x: Tensor, t: Tensor, label: int) -> Tensor:
    return class_score(classifier, torch.full((len(x),), label))(x, t)


def _gradient_solution(classifier: Classifier, x: Tensor, t: Tensor, label: int) -> Tensor:
    """Differentiate the sum over the batch: no sample's log-probability depends on another sample."""
    x = x.clone().requires_grad_()
    classifier(x, t)[:, label].sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad


def _of_probability(classifier: Classifier, x: Tensor, t: Tensor, label: int) -> Tensor:
    return classifier(x, t)[:, label, None].exp() * _gradient(classifier, x, t, label)


CLASS_GRADIENT = Exercise(
    "class_gradient",
    _gradient,
    _classifications,
    ("gradient",),
    (
        (
            lambda classifier, x, t, label: _gradient(classifier, x, t, label) / len(x),
            "this is the gradient of the batch's mean: every sample is steered len(x) times too little; sum instead",
        ),
        (
            _of_probability,
            "this is the gradient of the probability: it vanishes just where the sample is far from its class; "
            "Bayes' rule wants the logarithm's",
        ),
        (
            lambda classifier, x, t, label: -_gradient(classifier, x, t, label),
            "this is the gradient of the loss, which leads away from the class: turn the sign",
        ),
        (
            lambda classifier, x, t, label: sum(_gradient(classifier, x, t, k) for k in range(3)),
            "all classes are summed: take the column of the label alone",
        ),
    ),
    _gradient_solution,
)


# The route through eps, from alpha_bar alone [Dhariwal 2021, alg. 2].


def _predictions(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for t, scale in ((1, 1.0), (500, 3.0), (1000, 10.0)):
        eps, gradient = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        cases[f"t = {t}, scale {scale:g}"] = (eps, gradient, _SCHEDULE.alpha_bar[t], scale)
    return cases


def _guided(eps: Tensor, gradient: Tensor, alpha_bar: Tensor, scale: float) -> Tensor:
    t = (_SCHEDULE.alpha_bar - alpha_bar).abs().argmin().expand(len(eps))
    return classifier_guided(lambda x, t: eps, lambda x, t: gradient, _SCHEDULE, scale)(eps, t)


GUIDED_EPS = Exercise(
    "guided_eps",
    _guided,
    _predictions,
    ("eps",),
    (
        (
            lambda eps, gradient, alpha_bar, scale: eps + scale * (1 - alpha_bar).sqrt() * gradient,
            "eps points away from the data, the gradient towards the class: subtract it",
        ),
        (
            lambda eps, gradient, alpha_bar, scale: eps - scale * gradient,
            "the gradient is a score, and eps is -sqrt(1 - alpha_bar) times the score: multiply by that root",
        ),
        (
            lambda eps, gradient, alpha_bar, scale: eps - scale * (1 - alpha_bar) * gradient,
            "1 - alpha_bar is the variance: a score becomes eps by the standard deviation, its root",
        ),
    ),
    lambda eps, gradient, alpha_bar, scale: eps - scale * (1 - alpha_bar) ** 0.5 * gradient,
)
