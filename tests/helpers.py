"""What several test files share: seeded float64 numbers, exact worlds and the schedules they are tried on."""

import torch
from torch import Tensor

from ddpm_path.exact import GaussianMixture
from ddpm_path.schedule import VE, VP, Discrete, SubVP, cosine_betas, linear_betas

LINEAR = Discrete.from_betas(linear_betas())
COSINE = Discrete.from_betas(cosine_betas())
SCHEDULES = {"linear": LINEAR, "cosine": COSINE, "vp": VP(), "subvp": SubVP(), "ve": VE()}

# A level of each kind: early, middle, late; beyond VP also those whose scale^2 + std^2 is not 1.
LEVELS = [LINEAR(1), LINEAR(300), LINEAR(1000), SubVP()(0.3), SubVP()(1.0), VE()(0.2), VE()(0.7)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def close(got, true, atol: float = 0.0, rtol: float = 1e-12) -> None:
    """Equal in shape, and in value to rtol (by default float64 round-off after a handful of operations) and atol."""
    got, true = torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(true, dtype=torch.float64)
    torch.testing.assert_close(got, true, atol=atol, rtol=rtol)


def skewed_mixture() -> GaussianMixture:
    """Three components in the plane: uneven weights, off-centre means, full covariances that all differ."""
    covariances = [[[0.30, 0.18], [0.18, 0.20]], [[0.10, -0.05], [-0.05, 0.40]], [[0.05, 0.01], [0.01, 0.02]]]
    means = [[1.0, 2.0], [-2.0, 0.5], [0.5, -1.5]]
    return GaussianMixture(*(torch.tensor(a, dtype=torch.float64) for a in ([0.5, 0.3, 0.2], means, covariances)))


def gaussian_eps(mu: float, var: float, schedule):
    """The optimal eps for data N(mu, var) in every dimension, written from the textbook: std (x - scale mu) / v."""

    def eps_fn(x: Tensor, t: Tensor) -> Tensor:
        scale, std = (c.view(-1, *[1] * (x.ndim - 1)) for c in schedule(t))
        return (std * (x.double() - scale * mu) / (scale**2 * var + std**2)).to(x)

    return eps_fn
