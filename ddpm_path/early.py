"""Diffusion as it began: learned mean and covariance, binary data, products of distributions [Sohl-Dickstein 2015].

The objective K is a lower bound on log p(x_0), in nats: larger is better. It takes the last step back, from x_1
to x_0, to be the time reversal of the first step forward under the noise distribution, and so has no term at t = 1.

A Gaussian step back here is a `Reverse`, which answers a mean and a variance, on a `Discrete` schedule. The binomial
chain does not fit the four pieces: its states are bits and its noise flips them. It stands apart, with a network, a
bound and a sampler of its own.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_path.gaussian import AnyLevel, Coefficient, expand, kl, posterior, q_sample, transition, x0_from_eps
from ddpm_path.samplers import Noise, noise_source
from ddpm_path.schedule import Discrete, EpsFn

Moments = tuple[Tensor, Tensor]
"""A mean and a variance, each (B, ...)."""
Reverse = Callable[[Tensor, Tensor], Moments]
"""A learned step back: x_t (B, ...) and t (B,) to the moments of x_{t-1}."""
Multiply = Callable[[Tensor, Tensor, AnyLevel], Moments]
"""Multiplies N(mean, variance), a distribution of x_s, by a function r of x_s: (mean, variance, level of s)."""
Logits = Callable[[Tensor, Tensor], Tensor]
"""A learned step back of bits: k states at each of S times, x (S, k, D) and t (S,), to logits of P(x_{t-1} = 1)."""


# --- The Gaussian chain.


def relative_to_forward(net: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], schedule: Discrete) -> Reverse:
    """The step back of a network that answers (drift, spread), as corrections to the step forward [code].

    Mean sqrt(1 - beta_t) x + sqrt(beta_t) drift, variance sigmoid(logit(beta_t) + spread / sqrt(T)). A network that
    answers 0 steps back as the chain steps forward, which is right for standard normal data.
    """

    def reverse(x: Tensor, t: Tensor) -> Moments:
        keep, beta = transition(schedule(t), schedule(t - 1))
        drift, spread = net(x, t)
        mean = expand(keep, x) * x + expand(beta, x).sqrt() * drift
        return mean, torch.sigmoid(expand(torch.logit(torch.as_tensor(beta)), x) + spread / math.sqrt(schedule.T))

    return reverse


def gaussian_term(reverse: Reverse, schedule: Discrete, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """What K loses at times t (B,), 2 or later: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), (B,) nats [eq. 14].

    Differentiable in the schedule too, with the noise eps frozen: so the paper learns beta_2 ... beta_T [sec. 2.4.1].
    """
    now, then = schedule(t), schedule(t - 1)
    x = q_sample(x0, eps, now)
    return kl(*posterior(x0, x, now, then), *reverse(x, t)).flatten(1).sum(1)


def gaussian_bound(
    reverse: Reverse, schedule: Discrete, x0: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """K of each example (B,), in nats, with fresh noise at every t [Sohl-Dickstein 2015, eq. 14].

    A bound on log p(x_0), on average, if the data's mean square is 1: standardise them first.
    """
    D, first, last = x0[0].numel(), schedule(1)[1], schedule(schedule.T)[1]
    K = (D * (gaussian_entropy(last**2) - gaussian_entropy(first**2) - gaussian_entropy(1.0))).to(x0).expand(len(x0))
    for t in range(2, schedule.T + 1):
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        K = K - gaussian_term(reverse, schedule, x0, torch.full((len(x0),), t), eps)
    return K


def gaussian_entropy(variance: Coefficient) -> Tensor:
    """The entropy of a normal number, in nats."""
    return 0.5 * (2 * math.pi * math.e * torch.as_tensor(variance, dtype=torch.float64)).log()


def entropy_of_step_back(step: Coefficient, before: Coefficient, now: Coefficient) -> tuple[Coefficient, Coefficient]:
    """A lower and an upper bound on H_q(X_{t-1} | X_t) [Sohl-Dickstein 2015, sec. 2.6].

    From the entropies of the step forward, H_q(X_t | X_{t-1}), and of both marginals, H_q(X_{t-1} | X_0) and
    H_q(X_t | X_0). For the Gaussian chain these are the entropies of DDPM's two variances, fixed-small and -large.
    """
    return step + before - now, step


def walk_back(
    reverse: Reverse,
    schedule: Discrete,
    x: Tensor,
    multiply: Multiply | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Samples of p, or of p times r: every step back is multiplied by r [Sohl-Dickstein 2015, sec. 2.5].

    x (B, ...) is the start, at T; yields (t, x_t) for t = T - 1 down to 0. The last step adds no noise (the paper's
    code stops at t = 1 and leaves that level's in).
    """
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _walk_back(reverse, schedule, x, multiply, draw)


@torch.no_grad()
def _walk_back(
    reverse: Reverse, schedule: Discrete, x: Tensor, multiply: Multiply | None, draw: Noise
) -> Iterator[tuple[int, Tensor]]:
    for t in range(schedule.T, 0, -1):
        mean, variance = reverse(x, torch.full((len(x),), t))
        if multiply is not None:
            mean, variance = multiply(mean, variance, schedule(t - 1))
        x = mean + variance.sqrt() * draw() if t > 1 else mean
        yield t - 1, x


def eps_reverse(eps_fn: EpsFn, schedule: Discrete, variance: Tensor) -> Reverse:
    """A noise predictor as a step back: the mean is the posterior's, the variance of step t is variance[t], (T + 1,)."""

    def reverse(x: Tensor, t: Tensor) -> Moments:
        now = schedule(t)
        mean, _ = posterior(x0_from_eps(x, eps_fn(x, t), now), x, now, schedule(t - 1))
        return mean, expand(variance[t], x).expand_as(x)

    return reverse


# --- Products with r, exact and by its gradient.


def multiply_gaussian(centre: Tensor, variance: Tensor) -> Multiply:
    """The exact product with r = N(x; centre, variance), the same at all levels [Sohl-Dickstein 2015, sec. 2.5].

    Both (B, ...) or broadcastable. Variance 0 pins x to the centre, infinity says nothing: see `inpainting`.
    """

    def multiply(mean: Tensor, var: Tensor, then: AnyLevel) -> Moments:
        gain = var / (var + variance)
        return mean + gain * (centre - mean), var * (1 - gain)

    return multiply


def shift_by_gradient(score: Callable[[Tensor], Tensor]) -> Multiply:
    """The product with any smooth r, to first order: the mean moves by variance * grad log r(mean), which is `score`.

    [Sohl-Dickstein 2015, sec. 2.5]; the variance stays. Right where r is much wider than the step, and only there.
    """
    return lambda mean, var, then: (mean + var * score(mean), var)


# --- The binomial chain.


class Binomial:
    """Bits that are kept with probability 1 - beta_t and else drawn anew, 1 with probability `rate` [table 1].

    betas (T,) in (0, 1), of which the last may be 1. The paper's table has rate 1/2, its heartbeat needs 0.2: so it
    is a parameter. x (B, ...) holds 0 and 1 as floats, t (B,) or one number for all.
    """

    def __init__(self, betas: Tensor, rate: float = 0.5) -> None:
        self.betas, self.rate = torch.cat([torch.zeros(1), torch.as_tensor(betas)]).double(), rate
        inner = self.betas[1:]
        if inner.ndim != 1 or len(inner) < 2 or not bool(((inner > 0) & (inner <= 1)).all() & (inner[:-1] < 1).all()):
            raise ValueError("betas are (T,), T > 1, each in (0, 1); the last may be 1: fractional_betas(T) are such")
        if not 0 < rate < 1:
            raise ValueError(f"the rate of ones in pure noise lies in (0, 1), not at {rate}")
        self.keep = (1 - self.betas).cumprod(0)  # (T + 1,)

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.betas) - 1

    def forward_rate(self, x: Tensor, t: Tensor | int) -> Tensor:
        """P(x_t = 1 | x_{t-1} = x), shaped like x [Sohl-Dickstein 2015, table app. 1]."""
        return self.rate + (x - self.rate) * expand(1 - self.betas[t], x)

    def marginal_rate(self, x0: Tensor, t: Tensor | int) -> Tensor:
        """P(x_t = 1 | x_0), shaped like x0."""
        return self.rate + (x0 - self.rate) * expand(self.keep[t], x0)

    def posterior_rate(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """P(x_{t-1} = 1 | x_t = x, x_0) by Bayes' rule, shaped like x."""
        one, zero = self.marginal_rate(x0, t - 1), 1 - self.marginal_rate(x0, t - 1)
        from_one, from_zero = (self.forward_rate(torch.full_like(x, bit), t) for bit in (1.0, 0.0))
        one = one * torch.where(x == 1, from_one, 1 - from_one)
        zero = zero * torch.where(x == 1, from_zero, 1 - from_zero)
        return one / (one + zero)

    def sample(self, x0: Tensor, t: Tensor | int, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x_t given x_0, shaped like x0; ValueError unless x0 holds zeros and ones only."""
        if not bool(((x0 == 0) | (x0 == 1)).all()):
            raise ValueError("the binomial chain is made of bits, 0.0 and 1.0: threshold the data first")
        return _flip(self.marginal_rate(x0, t), generator)


def fractional_betas(T: int) -> Tensor:
    """beta_t = 1 / (T - t + 1), (T,): every step erases the same share 1 / T of the data [sec. 2.4.1]."""
    return 1 / torch.arange(T, 0, -1, dtype=torch.float64)


def relative_bits(net: Logits, chain: Binomial) -> Logits:
    """A network's answer as the log odds by which the step back differs from the step forward.

    One that answers 0 steps back as the chain steps forward: right for pure noise. The paper's network answers the
    rate itself, which it must learn to keep near the bit.
    """
    return lambda x, t: torch.logit(chain.forward_rate(x, t)) + net(x, t)


def binomial_term(
    logits: Logits, chain: Binomial, x0: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """What K loses at times t (S,), 2 or later, for each of x0 (k, D): (S, k), in nats [Sohl-Dickstein 2015, eq. 14]."""
    data = x0.expand(len(t), *x0.shape)  # (S, k, D)
    x = chain.sample(data, t, generator)
    true, z = chain.posterior_rate(data, x, t), logits(x, t)
    entropy = torch.special.entr(true) + torch.special.entr(1 - true)
    return -(entropy + true * F.logsigmoid(z) + (1 - true) * F.logsigmoid(-z)).sum(-1)


@torch.no_grad()
def binomial_bound(
    logits: Logits, chain: Binomial, x0: Tensor, generator: torch.Generator | None = None, chunk: int = 50
) -> Tensor:
    """K of each sequence of x0 (k, D), in nats, with fresh noise at every t [Sohl-Dickstein 2015, eq. 14].

    A bound on log p(x_0), on average, if the data's mean is the chain's rate, or that rate is 1/2.
    """
    entropies = [binary_entropy(chain.marginal_rate(x0, t)).sum(-1) for t in (chain.T, 1)]
    K = entropies[0] - entropies[1] - x0.shape[-1] * binary_entropy(torch.tensor(chain.rate).to(x0))
    for t in torch.arange(2, chain.T + 1).split(chunk):
        K = K - binomial_term(logits, chain, x0, t, generator).sum(0)
    return K


def binary_entropy(rate: Tensor) -> Tensor:
    """The entropy of bits that are 1 at this rate, in nats."""
    return torch.special.entr(rate) + torch.special.entr(1 - rate)


def best_logits(chain: Binomial, data: Tensor) -> Logits:
    """The step back that no network can beat, for data (N, D) drawn evenly: its K is the chain's optimum.

    The posterior rate, averaged over the data by how well they explain x_t. The bits of a step are independent given
    x_t, in this optimum as in any network's answer.
    """

    def logits(x: Tensor, t: Tensor) -> Tensor:
        x, items = x.double(), data.double()[:, None, None]  # (N, 1, 1, D)
        one, all_x = chain.marginal_rate(items.expand(-1, len(t), -1, -1).transpose(0, 1), t).transpose(0, 1), x[None]
        weight = torch.where(all_x == 1, one, 1 - one).log().sum(-1, keepdim=True).softmax(0)  # (N, S, k, 1)
        rates = torch.stack([chain.posterior_rate(item.expand_as(x), x, t) for item in data.double()])
        return torch.logit((weight * rates).sum(0))

    return logits


class StepwiseMLP(nn.Module):
    """Sigmoid layers for all steps, a linear readout for each, (S, k, D) at times (S,) to (S, k, D) [app. D.1.2]."""

    def __init__(self, T: int, dims: int, hidden: int = 50, layers: int = 3) -> None:
        super().__init__()
        widths = [dims] + layers * [hidden]
        self.trunk = nn.Sequential(
            *(m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.Sigmoid()))
        )
        self.weight, self.bias = nn.Parameter(torch.zeros(T, hidden, dims)), nn.Parameter(torch.zeros(T, 1, dims))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (S, k, D) and t (S,) to the correction of each bit's log odds."""
        return torch.baddbmm(self.bias[t - 1], self.trunk(x), self.weight[t - 1])


def _flip(rate: Tensor, generator: torch.Generator | None) -> Tensor:
    """Bits that are 1 at the given rates."""
    return (torch.rand(rate.shape, generator=generator) < rate).to(rate)
