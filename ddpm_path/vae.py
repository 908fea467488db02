"""Variational auto-encoders [Kingma 2013]: the evidence lower bound, its estimators, and a world that is known exactly.

An encoder answers a `Posterior`, the mean and the log-variance of q(z | x), both (B, J); the prior of z is N(0, I). A
decoder enters as its log-likelihood, a function of x (N, ...) and z (N, J) to log p(x | z), (N,). Everything is in
nats for a whole item: sums over dimensions, never averages, which would weigh the two terms of the bound anew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_path.exact import GaussianMixture
from ddpm_path.gaussian import check_alike, check_fits, check_input, check_range, expand

Posterior = tuple[Tensor, Tensor]
"""Mean and log-variance of the diagonal Gaussian q(z | x), both (B, J)."""
LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""log p(x | z) of x (N, ...) and z (N, J), summed over the dimensions of x, (N,)."""
Bound = Callable[[LogLikelihood, Tensor, Posterior, Tensor], Tensor]
"""What `sgvb_a`, `sgvb_b` and `iwae` are: log p(x | z), x (B, ...), q(z | x) and eps (L, B, J) to the bound, (B,)."""


def log_normal(x: Tensor, mean: Tensor | float, logvar: Tensor | float) -> Tensor:
    """log N(x; mean, exp(logvar)) of each number in x, in nats.

    ValueError if mean or logvar would make them more, or is one number that is not finite, and for whole numbers x.
    """
    expand(0.0, x)  # refuses whole numbers
    mean, logvar = (c.to(x) if isinstance(c, Tensor) else expand(c, x) for c in (mean, logvar))
    check_fits(x, mean=mean, logvar=logvar)
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean) ** 2 * torch.exp(-logvar))


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log-probability of each binary x, given the logit of x = 1, in nats: binary cross-entropy, negative.

    For x between 0 and 1 it is the mean over images binarised with these probabilities: good for the two bounds
    below that are linear in it, not for `iwae`. ValueError for x outside [0, 1].
    """
    check_alike(x, logits=logits)
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"binary cross-entropy wants targets in [0, 1], best 0 or 1; got [{low:g}, {high:g}]: binarise images of "
            "[-1, 1] with (x > 0).float(), or use log_normal"
        )
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")


def reparameterise(posterior: Posterior, eps: Tensor) -> Tensor:
    """Samples z (L, B, J) of q(z | x) from standard normal eps (L, B, J) [Kingma 2013, sec. 2.4].

    z is a differentiable function of the encoder's answer: the gradient of a sample mean estimates the gradient of the
    expectation. ValueError for shapes that do not fit.
    """
    mean, logvar = posterior
    if mean.ndim != 2 or logvar.shape != mean.shape or eps.shape[1:] != mean.shape or len(eps) == 0:
        raise ValueError(
            f"mean and log-variance are (B, J), and eps (L, B, J) for L samples; got {tuple(mean.shape)}, "
            f"{tuple(logvar.shape)} and {tuple(eps.shape)}"
        )
    return mean + (0.5 * logvar).exp() * eps


def kl_to_prior(posterior: Posterior) -> Tensor:
    """KL(q(z | x) || N(0, I)) of each latent dimension, (B, J), in nats [Kingma 2013, app. B]."""
    mean, logvar = posterior
    check_alike(mean, logvar=logvar)
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar)  # `gaussian.kl` would take the log of an exp that underflows


def reconstruction(log_likelihood: LogLikelihood, x: Tensor, posterior: Posterior, eps: Tensor) -> Tensor:
    """The estimate of E_q[log p(x | z)] from eps (L, B, J), (B,), in nats."""
    return _each_log_likelihood(log_likelihood, x, reparameterise(posterior, eps)).mean(0)


def log_weights(log_likelihood: LogLikelihood, x: Tensor, posterior: Posterior, eps: Tensor) -> Tensor:
    """log p(x, z) - log q(z | x) of each sample, (L, B), in nats: importance weights, whose mean estimates p(x)."""
    z = reparameterise(posterior, eps)
    log_prior, log_q = log_normal(z, 0.0, 0.0).sum(2), log_normal(z, *posterior).sum(2)  # (L, B)
    return _each_log_likelihood(log_likelihood, x, z) + log_prior - log_q


def sgvb_a(log_likelihood: LogLikelihood, x: Tensor, posterior: Posterior, eps: Tensor) -> Tensor:
    """The evidence lower bound, estimated without any integral [Kingma 2013, eq. 6], (B,), in nats."""
    return log_weights(log_likelihood, x, posterior, eps).mean(0)


def sgvb_b(log_likelihood: LogLikelihood, x: Tensor, posterior: Posterior, eps: Tensor) -> Tensor:
    """The evidence lower bound with the KL in closed form [Kingma 2013, eq. 7, 10], (B,), in nats."""
    return reconstruction(log_likelihood, x, posterior, eps) - kl_to_prior(posterior).sum(1)


def iwae(log_likelihood: LogLikelihood, x: Tensor, posterior: Posterior, eps: Tensor) -> Tensor:
    """The importance-weighted bound of L samples [Burda 2015, eq. 8], (B,), in nats; L = 1 is `sgvb_a`.

    It rises with L to log p(x), on average over eps: draw fresh ones for each L that is compared.
    """
    log_w = log_weights(log_likelihood, x, posterior, eps)
    return log_w.logsumexp(0) - math.log(len(log_w))


class BernoulliVAE(nn.Module):
    """The paper's networks for binary data, one hidden layer of tanh units each [Kingma 2013, app. C]."""

    def __init__(self, dims: int, latents: int, hidden: int = 256) -> None:
        super().__init__()
        check_range(1, dims=dims, latents=latents, hidden=hidden)
        self.dims, self.latents = dims, latents
        self.encoder = nn.Sequential(nn.Linear(dims, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.Tanh(), nn.Linear(hidden, dims))

    def posterior(self, x: Tensor) -> Posterior:
        """q(z | x) of x (B, ...)."""
        flat = x[:, None].flatten(1)
        check_input(flat, next(self.parameters()), self.dims)
        mean, logvar = self.encoder(flat).chunk(2, dim=1)
        return mean, logvar

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (N,), in nats."""
        return log_bernoulli(x[:, None].flatten(1), self._logits(z)).sum(1)

    def decode(self, z: Tensor) -> Tensor:
        """The probability that each number is 1, (N, dims)."""
        return torch.sigmoid(self._logits(z))

    def _logits(self, z: Tensor) -> Tensor:
        check_input(z, next(self.parameters()), self.latents)
        logits: Tensor = self.decoder(z)
        return logits

    def inputs(
        self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> tuple[LogLikelihood, Tensor, Posterior, Tensor]:
        """What a `Bound` takes, with fresh noise on the CPU: sgvb_b(*vae.inputs(x))."""
        check_range(1, samples=samples)
        posterior = self.posterior(x)
        eps = torch.randn(samples, *posterior[0].shape, generator=generator).to(x)
        return self.log_likelihood, x, posterior, eps


@dataclass(frozen=True)
class LinearGaussian:
    """A decoder whose evidence, posterior and bound are closed forms: z ~ N(0, I), x ~ N(weight z + bias, std^2 I).

    This is probabilistic PCA [Tipping & Bishop 1999]. weight (D, J), bias (D,), float64; x is (B, D).
    """

    weight: Tensor
    bias: Tensor
    std: float

    @property
    def precision(self) -> Tensor:
        """The inverse covariance of p(z | x), (J, J): the same for all x."""
        gram = self.weight.T @ self.weight
        return torch.eye(len(gram)).to(gram) + gram / self.std**2

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (N,), in nats."""
        check_input(z, self.weight, self.weight.shape[1])
        return log_normal(x, z @ self.weight.T + self.bias, 2 * math.log(self.std)).sum(1)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), (B,), in nats."""
        covariance = self.weight @ self.weight.T + self.std**2 * torch.eye(len(self.bias)).to(self.weight)
        data = GaussianMixture(torch.ones(1), self.bias[None], covariance[None])
        return data.log_prob(x, (1.0, 0.0))

    def posterior_mean(self, x: Tensor) -> Tensor:
        """E[z | x], (B, J)."""
        check_input(x, self.weight, len(self.weight))
        mean: Tensor = torch.linalg.solve(self.precision, (x - self.bias) @ self.weight / self.std**2, left=False)
        return mean

    def best_diagonal(self, x: Tensor) -> Posterior:
        """The diagonal q that is best: the true mean, and variances 1 / precision_jj, not the true ones.

        It loses (sum_j log precision_jj - log det precision) / 2 nats to log p(x).
        """
        mean = self.posterior_mean(x)
        return mean, -self.precision.diagonal().log().expand_as(mean)

    def elbo(self, x: Tensor, posterior: Posterior) -> Tensor:
        """The evidence lower bound of any diagonal q, without sampling, (B,), in nats."""
        mean, logvar = posterior
        kl = kl_to_prior(posterior).sum(1)
        blur = (self.weight**2).sum(0) / (2 * self.std**2)  # (J,)
        return self.log_likelihood(x, mean) - (logvar.exp() * blur).sum(1) - kl


def _each_log_likelihood(log_likelihood: LogLikelihood, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z) of z (L, B, J), (L, B), from one call; ValueError unless it is one number for each item."""
    L, B = z.shape[:2]
    if len(x) != B:
        raise ValueError(f"the encoder answered for {B} items, x has {len(x)}")
    answer = log_likelihood(x.expand(L, *x.shape).flatten(0, 1), z.flatten(0, 1))
    if answer.shape != (L * B,):
        raise ValueError(
            f"a log-likelihood answers one number for each item, {(L * B,)}; got {tuple(answer.shape)}: sum it over "
            "the dimensions of x, and average nothing"
        )
    return answer.view(L, B)
