"""Exercises of notebook 01, the variational auto-encoder."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpm_path import gaussian, vae
from ddpm_path.lab.exercises.checking import Exercise

# The importance-weighted bound [Burda 2015, eq. 8].


def _weights(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    # As many samples as images: here a wrong axis does not show in the shape.
    near = -80 + 3 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
    far = -2000 + 3 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return {"log-weights near -80": (near,), "log-weights near -2000": (far,)}


def _importance_bound(log_w: Tensor) -> Tensor:
    """The package's, where q is the prior: then the weights are the likelihoods."""
    k, B = log_w.shape
    prior = (log_w.new_zeros(B, 1), log_w.new_zeros(B, 1))
    return vae.iwae(lambda x, z: log_w.flatten(), log_w.new_zeros(B, 1), prior, log_w.new_zeros(k, B, 1))


def _importance_solution(log_w: Tensor) -> Tensor:
    """Take the largest weight out of the mean, so that no exponential under- or overflows."""
    top = log_w.max(dim=0).values
    return top + torch.exp(log_w - top).mean(0).log()


IMPORTANCE_BOUND = Exercise(
    "importance_bound",
    _importance_bound,
    _weights,
    ("bound",),
    (
        (
            lambda log_w: log_w.mean(0),
            "this averages k bounds, which is the ELBO again: average the weights, then take the logarithm",
        ),
        (
            lambda log_w: log_w.logsumexp(0),
            "this is the log of the sum of the weights: subtract log k, for their mean",
        ),
        (
            lambda log_w: log_w.logsumexp(1) - math.log(log_w.shape[1]),
            "this averages over the images: the k samples of an image stand along the first axis",
        ),
        (
            lambda log_w: log_w.max(0).values,
            "this keeps the best sample only: it is off by the log of what the mean weight is of the largest",
        ),
    ),
    _importance_solution,
)


# The KL of two normal distributions, the term of every step of a diffusion model's bound [Kingma 2013, app. B].


def _normals(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for case, shape in {"a batch of 4 x 3": (4, 3), "a batch of 2 x 5": (2, 5)}.items():
        mean1, mean2 = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        var1, var2 = torch.randn(2, *shape, generator=generator, dtype=torch.float64).exp()
        cases[case] = (mean1, var1, mean2, var2)
    return cases


def _kl_solution(mean1: Tensor, var1: Tensor, mean2: Tensor, var2: Tensor) -> Tensor:
    """The mean of log N(x; 1) - log N(x; 2) under N(x; 1): both are quadratic in x."""
    own = -0.5 * var1.log() - 0.5
    other = -0.5 * var2.log() - (var1 + (mean1 - mean2) ** 2) / (2 * var2)
    return own - other


KL_OF_NORMALS = Exercise(
    "kl_of_normals",
    gaussian.kl,
    _normals,
    ("kl",),
    (
        (
            lambda mean1, var1, mean2, var2: gaussian.kl(mean2, var2, mean1, var1),
            "this is KL(N2 || N1): the average is over the first distribution",
        ),
        (
            lambda mean1, var1, mean2, var2: gaussian.kl(mean1, var1**2, mean2, var2**2),
            "the variances were squared: they are variances already, not standard deviations",
        ),
        (
            lambda mean1, var1, mean2, var2: 2 * gaussian.kl(mean1, var1, mean2, var2),
            "it is twice too large: the factor 1/2 of the exponent is missing",
        ),
        (
            lambda mean1, var1, mean2, var2: gaussian.kl(mean1, var1, mean2, var2) + 0.5,
            "it is 1/2 too large: equal distributions must give 0 (the -1 in the bracket)",
        ),
    ),
    _kl_solution,
)
