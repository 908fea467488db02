"""Diffusion as it began: learned mean and covariance, binary data, products of distributions [Sohl-Dickstein 2015].

The objective K is a lower bound on log p(x_0), in nats: larger is better. It takes the last step back, from x_1
to x_0, to be the time reversal of the first step forward under the noise distribution, and so has no term at t = 1.

A Gaussian step back here is a `StepBack`, which answers a mean and a variance, on a `Discrete` schedule. The binomial
chain does not fit the four pieces: its states are bits and its noise flips them. It stands apart, with a network, a
bound and a sampler of its own.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_path.gaussian import (
    AnyLevel,
    Coefficient,
    check_alike,
    check_answer,
    check_fits,
    check_input,
    check_range,
    expand,
    kl,
    posterior,
    q_sample,
    transition,
    x0_from_eps,
)
from ddpm_path.samplers import Noise, noise_source
from ddpm_path.schedule import Discrete, EpsFn

Moments = tuple[Tensor, Tensor]
"""A mean and a variance, each (B, ...)."""
StepBack = Callable[[Tensor, Tensor], Moments]
"""A learned step back: x_t (B, ...) and t (B,) to the moments of x_{t-1}."""
Multiply = Callable[[Tensor, Tensor, AnyLevel], Moments]
"""Multiplies N(mean, variance), a distribution of x_s, by a function r of x_s: (mean, variance, level of s)."""
Logits = Callable[[Tensor, Tensor], Tensor]
"""A learned step back of bits: k states at each of S times, x (S, k, D) and t (S,), to logits of P(x_{t-1} = 1)."""


# --- The Gaussian chain.


def relative_to_forward(net: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], schedule: Discrete) -> StepBack:
    """The step back of a network that answers (drift, spread), as corrections to the step forward [2015, code].

    Mean sqrt(1 - beta_t) x + sqrt(beta_t) drift, variance sigmoid(logit(beta_t) + spread / sqrt(T)). A network that
    answers 0 steps back as the chain steps forward, which is right for standard normal data.
    """

    def reverse(x: Tensor, t: Tensor) -> Moments:
        keep, beta = transition(schedule(t), schedule(t - 1))
        drift, spread = net(x, t)
        check_alike(x, drift=drift, spread=spread)
        mean = expand(keep, x) * x + expand(beta, x).sqrt() * drift
        return mean, torch.sigmoid(expand(torch.logit(torch.as_tensor(beta)), x) + spread / math.sqrt(schedule.T))

    return reverse


def gaussian_term(reverse: StepBack, schedule: Discrete, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """What K loses at times t (B,), 2 or later: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), (B,) nats [eq. 14].

    Differentiable in the schedule too, with the noise eps frozen: so the paper learns beta_2 ... beta_T [sec. 2.4.1].
    """
    now, then = schedule(t), schedule(t - 1)
    x = q_sample(x0, eps, now)
    return kl(*posterior(x0, x, now, then), *reverse(x, t)).reshape(len(x), -1).sum(1)


def gaussian_bound(
    reverse: StepBack, schedule: Discrete, x0: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """K of each example (B,), in nats, with fresh noise at every t [Sohl-Dickstein 2015, eq. 14].

    A bound on log p(x_0), on average, if the data's mean square is 1: standardise them first.
    """
    check_alike(x0)
    K = entropies(schedule, x0[0].numel()).to(x0).expand(len(x0))
    for t in range(2, schedule.T + 1):
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        K = K - gaussian_term(reverse, schedule, x0, torch.full((len(x0),), t), eps)
    return K


def entropies(schedule: Discrete, dims: int) -> Tensor:
    """H_q(X_T | X_0) - H_q(X_1 | X_0) - H_p(X_T), nats: what K is before any step is wrong [2015, eq. 14]."""
    last, first = schedule.std[-1], schedule.std[1]
    return dims * (gaussian_entropy(last**2) - gaussian_entropy(first**2) - gaussian_entropy(1.0))


def gaussian_entropy(variance: Coefficient) -> Tensor:
    """The entropy of a normal number, in nats."""
    variance = torch.as_tensor(variance, dtype=torch.float64)
    if not bool(((variance > 0) & (variance < math.inf)).all()):
        raise ValueError("variances must be positive, and finite, for an entropy")
    return 0.5 * (2 * math.pi * math.e * variance).log()


def entropy_of_step_back(step: Coefficient, before: Coefficient, now: Coefficient) -> tuple[Coefficient, Coefficient]:
    """A lower and an upper bound on H_q(X_{t-1} | X_t) [Sohl-Dickstein 2015, sec. 2.6, app. A].

    `step` is the entropy H_q(X_t | X_{t-1}), `before` and `now` are H_q(X_{t-1} | X_0) and H_q(X_t | X_0). The upper
    bound supposes data of mean square 1, or bits whose mean is the chain's rate. For the Gaussian chain the bounds are
    the entropies of DDPM's two variances, fixed-small and fixed-large.
    """
    return step + before - now, step


def walk_back(
    reverse: StepBack,
    schedule: Discrete,
    x: Tensor,
    multiply: Multiply | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Samples of p, or of p times r: every step back is multiplied by r [Sohl-Dickstein 2015, sec. 2.5].

    x (B, ...) is the start, at T; yields (t, x_t) for t = T - 1 down to 0. The last step adds no noise (the paper's
    code stops at t = 1 and leaves that level's in). The product is exact if r_t(x_t) = p(y | x_t). The paper takes one
    r for all levels: every step repeats the evidence, and for small steps at equilibrium it counts twice.
    """
    draw = noise_source(len(x), x.shape[1:], generator, x.dtype, x.device)
    return _walk_back(reverse, schedule, x, multiply, draw)


@torch.no_grad()
def _walk_back(
    reverse: StepBack, schedule: Discrete, x: Tensor, multiply: Multiply | None, draw: Noise
) -> Iterator[tuple[int, Tensor]]:
    for t in range(schedule.T, 0, -1):
        mean, variance = reverse(x, torch.full((len(x),), t))
        if multiply is not None:
            mean, variance = multiply(mean, variance, schedule(t - 1))
        x = mean + variance.sqrt() * draw() if t > 1 else mean
        yield t - 1, x


def eps_reverse(eps_fn: EpsFn, schedule: Discrete, variance: Tensor) -> StepBack:
    """A noise predictor as a step back: the mean is the posterior's, the variance of step t is variance[t] (T + 1,)."""
    check_alike(schedule.std, variance=variance)

    def reverse(x: Tensor, t: Tensor) -> Moments:
        now = schedule(t)
        mean, _ = posterior(x0_from_eps(x, check_answer(eps_fn(x, t), x), now), x, now, schedule(t - 1))
        return mean, expand(variance[t], x).expand_as(x)

    return reverse


@torch.no_grad()
def fit_variance(eps_fn: EpsFn, schedule: Discrete, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The variance of each step, (T + 1,), that makes K of x0 (B, ...) largest for the means of `eps_reverse`.

    Where K has its maximum: the posterior's variance plus the mean squared error of the mean. Entry 0 is 0.
    """
    check_alike(x0)
    fitted = torch.zeros(schedule.T + 1, dtype=torch.float64)
    reverse = eps_reverse(eps_fn, schedule, fitted)
    for t in range(1, schedule.T + 1):
        x = q_sample(x0, torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device), schedule(t))
        true, variance = posterior(x0, x, schedule(t), schedule(t - 1))
        guess, _ = reverse(x, torch.full((len(x0),), t))
        fitted[t] = variance + (true - guess).square().mean()
    return fitted


class StepwiseRBF(nn.Module):
    """Normalised radial basis functions, shared, and a readout for each step [Sohl-Dickstein 2015, app. D.1.1].

    x (B, D) and t (B,) to (drift, spread), (B, D) each, for `relative_to_forward`.
    """

    def __init__(self, T: int, dims: int = 2, units: int = 16) -> None:
        super().__init__()
        check_range(1, T=T, dims=dims, units=units)
        self.centres, self.log_width = nn.Parameter(torch.randn(units, dims)), nn.Parameter(torch.zeros(units))
        self.readout = nn.Parameter(torch.zeros(T, units, 2 * dims))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The corrections to the mean and the variance of the step back."""
        check_input(x, self.centres, self.centres.shape[1])
        _check_steps(t, 1, len(self.readout), len(x))
        distance = (x[:, None] - self.centres).square().sum(-1)  # (B, units)
        active = (-0.5 * distance * (-2 * self.log_width).exp()).softmax(1)
        drift, spread = torch.einsum("bu,buo->bo", active, self.readout[t - 1]).chunk(2, dim=1)
        return drift, spread


# --- Products with r, exact and by its gradient.


def multiply_gaussian(centre: Tensor, variance: Tensor) -> Multiply:
    """The exact product with r = N(x; centre, variance), the same at all levels [Sohl-Dickstein 2015, sec. 2.5].

    Both (B, ...) or broadcastable. Variance 0 pins x to the centre, infinity says nothing: see `inpainting`.
    """

    def multiply(mean: Tensor, var: Tensor, then: AnyLevel) -> Moments:
        check_alike(mean, var=var)
        check_fits(mean, centre=centre, variance=variance)
        gain = torch.where(variance == 0, 1.0, var / (var + variance))
        return mean + gain * (centre - mean), var * (1 - gain)

    return multiply


def inpainting(image: Tensor, known: Tensor) -> Multiply:
    """The product with a delta at the known pixels: they are set, clean, at every level [2015, code].

    image (B, ...), known: bools of its shape; ValueError if they are not.
    """
    if known.shape != image.shape or known.dtype != torch.bool:
        raise ValueError(
            f"the mask is {known.dtype} {tuple(known.shape)}, the image {tuple(image.shape)}: give one bool for each "
            "number of the image, True where it is known (expand_as(image) repeats a mask for all)"
        )
    return multiply_gaussian(image, torch.where(known, 0.0, math.inf).to(image))


def shift_by_gradient(score: Callable[[Tensor], Tensor]) -> Multiply:
    """The product with any smooth r, to first order: the mean moves by variance * grad log r(mean), which is `score`.

    [Sohl-Dickstein 2015, sec. 2.5]; the variance stays. Right where r is much wider than the step, and only there.
    """

    def multiply(mean: Tensor, var: Tensor, then: AnyLevel) -> Moments:
        check_alike(mean, var=var)
        return mean + var * check_answer(score(mean), mean), var

    return multiply


# --- The binomial chain.


class Binomial:
    """Bits that are kept with probability 1 - beta_t and else drawn anew, 1 with probability `rate` [2015, appendix].

    betas (T,) in (0, 1), of which the last may be 1. The paper's table has rate 1/2, its heartbeat needs 0.2: so it
    is a parameter. x (B, ...) holds 0 and 1 as floats, t (B,) or one number for all.
    """

    def __init__(self, betas: Tensor, rate: float = 0.5) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        legal = (betas > 0) & (betas < 1)
        if betas.ndim != 1 or len(betas) < 2 or not (bool(legal[:-1].all()) and 0 < betas[-1] <= 1):
            raise ValueError("betas are (T,), T > 1, each in (0, 1); the last may be 1: fractional_betas(T) are such")
        if not 0 < rate < 1:
            raise ValueError(f"the rate of ones in pure noise lies in (0, 1), not at {rate}")
        self.betas, self.rate = torch.cat([torch.zeros(1), betas]), rate  # betas[t] is step t
        self.keep = (1 - self.betas).cumprod(0)  # (T + 1,)

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.betas) - 1

    def forward_rate(self, x: Tensor, t: Tensor | int) -> Tensor:
        """P(x_t = 1 | x_{t-1} = x), shaped like x; ValueError for times that are no step of the chain."""
        _check_steps(t, 1, self.T)
        return self.rate + (x - self.rate) * expand(1 - self.betas[t], x)

    def marginal_rate(self, x0: Tensor, t: Tensor | int) -> Tensor:
        """P(x_t = 1 | x_0), shaped like x0; ValueError for times outside [0, T]."""
        _check_steps(t, 0, self.T)
        return self.rate + (x0 - self.rate) * expand(self.keep[t], x0)

    def posterior_rate(self, x0: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """P(x_{t-1} = 1 | x_t = x, x_0) by Bayes' rule, shaped like x: the odds before, times the step's.

        ValueError for times below 1, which have nothing before them, and unless both hold zeros and ones only.
        """
        _check_steps(t, 1, self.T)
        check_alike(x, x0=x0)
        _check_bits(x0)
        _check_bits(x)
        one, zero = 1 - (1 - self.rate) * self.betas[t], self.rate * self.betas[t]  # P(x_t = 1) from either bit
        on, off = (one / zero).log(), ((1 - one) / (1 - zero)).log()
        odds = torch.logit(self.marginal_rate(x0, t - 1)) + torch.where(x == 1, expand(on, x), expand(off, x))
        return odds.sigmoid()

    def sample(self, x0: Tensor, t: Tensor | int, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x_t given x_0, shaped like x0; ValueError unless x0 holds zeros and ones only."""
        _check_bits(x0)
        return _flip(self.marginal_rate(x0, t), generator)


def fractional_betas(T: int) -> Tensor:
    """beta_t = 1 / (T - t + 1), (T,): every step erases the same share 1 / T of the data [2015, sec. 2.4.1]."""
    check_range(1, T=T)
    return 1 / torch.arange(T, 0, -1, dtype=torch.float64)


def relative_bits(net: Logits, chain: Binomial) -> Logits:
    """A network's answer as the log odds by which the step back differs from the step forward.

    One that answers 0 steps back as the chain steps forward: right for pure noise. The paper's network answers the
    rate itself, which it must learn to keep near the bit.
    """

    def logits(x: Tensor, t: Tensor) -> Tensor:
        _check_bits(x)
        return torch.logit(chain.forward_rate(x, t)) + check_answer(net(x, t), x)

    return logits


def binomial_term(
    logits: Logits, chain: Binomial, x0: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """What K loses at times t (S,), 2 or later, for each of x0 (k, D): (S, k) nats [Sohl-Dickstein 2015, eq. 14].

    ValueError unless x0 holds zeros and ones only.
    """
    check_input(x0, x0, "D")
    _check_steps(t, 2, chain.T, t.numel())
    data = x0.expand(len(t), *x0.shape)  # (S, k, D)
    x = chain.sample(data, t, generator)
    true, z = chain.posterior_rate(data, x, t), check_answer(logits(x, t), x)
    cross = true * F.logsigmoid(z) + (1 - true) * F.logsigmoid(-z)
    loss: Tensor = -(binary_entropy(true) + cross).sum(-1)
    return loss


@torch.no_grad()
def binomial_bound(
    logits: Logits, chain: Binomial, x0: Tensor, generator: torch.Generator | None = None, chunk: int = 50
) -> Tensor:
    """K of each sequence of x0 (k, D), in nats, with fresh noise at every t [Sohl-Dickstein 2015, eq. 14].

    A bound on log p(x_0), on average, if the data's mean is the chain's rate, or that rate is 1/2.
    """
    check_input(x0, x0, "D")
    _check_bits(x0)
    check_range(1, chunk=chunk)
    last, first = (binary_entropy(chain.marginal_rate(x0, t)).sum(-1) for t in (chain.T, 1))
    _, D = x0.shape
    K = last - first - D * binary_entropy(torch.tensor(chain.rate).to(x0))
    for t in torch.split(torch.arange(2, chain.T + 1), chunk):
        K = K - binomial_term(logits, chain, x0, t, generator).sum(0)
    return K


def binary_entropy(rate: Tensor) -> Tensor:
    """The entropy of bits that are 1 at this rate, in nats."""
    if not bool(((rate >= 0) & (rate <= 1)).all()):
        raise ValueError("the rate of ones among bits lies in [0, 1]")
    entropy: Tensor = torch.special.entr(rate) + torch.special.entr(1 - rate)
    return entropy


def best_logits(chain: Binomial, data: Tensor) -> Logits:
    """The step back that no network can beat, for data (N, D) drawn evenly: its K is the chain's optimum.

    P(x_{t-1} = 1 | x_t), exactly, by weighing all data. As for any network the bits of one step are independent given
    x_t: with few steps even this optimum falls short of log p(x_0).
    """
    check_input(data, data, "D")
    _check_bits(data)
    items = data.double()

    def logits(x: Tensor, t: Tensor) -> Tensor:
        check_input(x, x, "k", items.shape[1])
        _check_bits(x)
        _check_steps(t, 1, chain.T, len(x))
        bits, x = x, x.double()
        rate = chain.marginal_rate(items.expand(len(t), *items.shape), t)  # (S, N, D)
        fit = x @ torch.logit(rate).mT + (1 - rate).log().sum(-1)[:, None]  # (S, k, N), log q(x_t | x_0)
        guess = fit.softmax(-1) @ items  # (S, k, D), E[x_0 | x_t]
        if_one, if_zero = (chain.posterior_rate(torch.full_like(x, bit), x, t) for bit in (1.0, 0.0))
        return torch.logit(guess * if_one + (1 - guess) * if_zero).to(bits)

    return logits


class StepwiseMLP(nn.Module):
    """Sigmoid layers that all steps share and a linear readout for each of T steps [Sohl-Dickstein 2015, app. D.1.2].

    x (S, k, D) at times t (S,) to (S, k, D). T readouts would each see one example in T: so they start as mixtures of
    a few learned ones, `knots`, dense at small t where the odds change fast; `untie` then makes all T free.
    """

    position: Tensor

    def __init__(self, T: int, dims: int, knots: int = 21, hidden: int = 50, layers: int = 3) -> None:
        super().__init__()
        check_range(1, T=T, dims=dims, hidden=hidden, layers=layers)
        check_range(2, knots=knots)
        widths = [dims] + layers * [hidden]
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        for linear in linears:
            nn.init.xavier_normal_(linear.weight, gain=4)  # sigmoid's slope is at most 1/4
        self.trunk = nn.Sequential(*(module for linear in linears for module in (linear, nn.Sigmoid())))
        self.readouts = nn.Parameter(torch.zeros(knots, hidden + 1, dims))  # the last row is the bias
        self.register_buffer("position", torch.linspace(0, 1, T).sqrt() * (knots - 1))

    def readout(self, t: Tensor) -> Tensor:
        """The weights and the bias of times t (S,), (S, hidden + 1, D)."""
        _check_steps(t, 1, len(self.position), t.numel())
        at = self.position[t - 1]
        below = at.long().clamp(max=len(self.readouts) - 2)
        return torch.lerp(self.readouts[below], self.readouts[below + 1], (at - below)[:, None, None])

    def untie(self) -> None:
        """Give every step a readout of its own, starting from the mixture that it had."""
        T = len(self.position)
        with torch.no_grad():
            self.readouts = nn.Parameter(self.readout(torch.arange(1, T + 1)))
        self.position = torch.arange(T).to(self.position)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (S, k, D) and t (S,) to the correction of each bit's log odds."""
        check_input(x, self.readouts, "k", self.readouts.shape[2])
        _check_steps(t, 1, len(self.position), len(x))
        readout = self.readout(t)
        return torch.baddbmm(readout[:, -1:], self.trunk(x), readout[:, :-1])


def walk_back_bits(
    logits: Logits, chain: Binomial, x: Tensor, generator: torch.Generator | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Samples of p: from x (k, D), noise at T, yields (t, x_t) for t = T - 1 down to 0 [Sohl-Dickstein 2015, sec. 2.2].

    The last step is the bound's: the first step forward reversed, which under pure noise is that step itself.
    ValueError unless x holds zeros and ones only.
    """
    check_input(x, x, "D")
    _check_bits(x)
    return _walk_back_bits(logits, chain, x, generator)


@torch.no_grad()
def _walk_back_bits(
    logits: Logits, chain: Binomial, x: Tensor, generator: torch.Generator | None
) -> Iterator[tuple[int, Tensor]]:
    for t in range(chain.T, 1, -1):
        x = _flip(check_answer(logits(x[None], torch.tensor([t])), x[None])[0].sigmoid(), generator)
        yield t - 1, x
    yield 0, _flip(chain.forward_rate(x, 1), generator)


def _check_steps(t: Tensor | int, first: int, T: int, count: int | None = None) -> None:
    """ValueError unless t is whole, from `first` to T, and `count` of them, if that is not None."""
    times = torch.as_tensor(t)
    if times.is_floating_point() or not bool(((times >= first) & (times <= T)).all()):
        raise ValueError(f"steps lead back from t to t - 1: t is whole, from {first} to {T}")
    if count is not None and times.shape != (count,):
        raise ValueError(f"times are one for each item, ({count},); got {tuple(times.shape)}")


def _check_bits(x: Tensor) -> None:
    if not bool(((x == 0) | (x == 1)).all()):
        raise ValueError("the binomial chain is made of bits, 0.0 and 1.0: threshold the data first")


def _flip(rate: Tensor, generator: torch.Generator | None) -> Tensor:
    """Bits that are 1 at the given rates."""
    return (torch.rand(rate.shape, generator=generator).to(rate.device) < rate).to(rate)
