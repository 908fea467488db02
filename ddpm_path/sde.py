"""Diffusion in continuous time [Song 2021]: drift and diffusion, reverse SDE, probability-flow ODE, likelihoods.

All of it follows from a schedule's marginal, x_t = scale * x_0 + std * eps, and from eps = -std * score: the same call
serves `VP`, `SubVP`, `VE` and what one makes oneself. Times lie in [schedule.first, T]: at t = 0 there is no score.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_path.gaussian import (
    Coefficient,
    batch_time,
    check_alike,
    check_answer,
    check_fits,
    check_range,
    expand,
    kl,
    posterior,
    q_sample,
    transition,
    x0_from_eps,
)
from ddpm_path.samplers import After, Corrector, Noise, Predictor, Variance
from ddpm_path.schedule import EpsFn, Schedule

VectorField = Callable[[Tensor], Tensor]
Divergence = Callable[[VectorField, Tensor], tuple[Tensor, Tensor]]
"""A field and x (B, ...) to the field there and its divergence (B,), or an estimate of it."""
LogProb = Callable[[Tensor], Tensor]

MOST_CALLS = 20_000
GREY_FIRST = torch.tensor([[1, 1, 1], [1, -1, 1], [1, 0, -2]]) / torch.tensor([3, 2, 6], dtype=torch.float64).sqrt()
"""An orthonormal basis of colours, in columns: grey, then two differences."""


def coefficients(schedule: Schedule, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """f and g^2 of the SDE dx = f x dt + g dw that has the schedule's marginals, float64, shaped like t.

    f = d log(scale) / dt and g^2 = d std^2 / dt - 2 f std^2, by autograd [Song 2021, app. B].
    ValueError outside [first, T], and for a chain at its whole times, where it has steps and no slope.
    """
    time = torch.as_tensor(t, dtype=torch.float64).detach().cpu()
    inside = time.clamp(schedule.first, schedule.T)
    if not bool(((time - inside).abs() < 1e-12).all()):  # a solver's round-off
        raise ValueError(
            f"SDE and ODE live in [{schedule.first:g}, {schedule.T:g}]; asked for {time.min():g} to {time.max():g}. "
            "Data, t = 0, have no score: begin and end at the first time"
        )
    with torch.enable_grad():
        time = inside.requires_grad_()
        scale, std = schedule(time)
        if not std.requires_grad:
            raise ValueError(
                "this schedule's level is a table's entry, without a slope in t: use `reverse_diffusion` or "
                "`ancestral_step`, which need none, or a schedule in continuous time"
            )
        log_scale = scale.log() + 0 * time  # VE's scale is a constant, which autograd would refuse
        (f,) = torch.autograd.grad(log_scale.sum(), time, retain_graph=True)
        (growth,) = torch.autograd.grad(std.square().sum(), time)
    return f, growth - 2 * f * std.detach() ** 2


# --- predictors: the mean and the variance of x_s, given x_t, its eps, and s < t


def euler_maruyama(schedule: Schedule, x: Tensor, eps: Tensor, t: float, s: float) -> tuple[Tensor, Coefficient]:
    """A step of the reverse SDE dx = (f x - g^2 score) dt + g dw, all of it taken at t [Song 2021, eq. 6]."""
    check_alike(x, eps=eps)
    check_range(0, t, s=s)
    f, g2 = coefficients(schedule, t)
    return x - (t - s) * (expand(f, x) * x + expand(g2 / schedule(t)[1], x) * eps), (t - s) * g2


def flow_euler(schedule: Schedule, x: Tensor, eps: Tensor, t: float, s: float) -> tuple[Tensor, Coefficient]:
    """A step of the probability-flow ODE by Euler's method: half of g^2 score, and no noise [Song 2021, eq. 13]."""
    check_range(0, t, s=s)
    return x - (t - s) * flow_velocity(schedule, x, eps, t), 0.0


def reverse_diffusion(schedule: Schedule, x: Tensor, eps: Tensor, t: float, s: float) -> tuple[Tensor, Coefficient]:
    """The forward step from s to t run backwards: its drift off, its variance times the score on [Song 2021, app. E].

    The forward step is the exact q(x_t | x_s), for a chain DDPM's own; the published code takes an Euler step for
    sub-VP instead.
    """
    check_alike(x, eps=eps)
    factor, variance = transition(schedule(t), schedule(s))
    return expand(2 - factor, x) * x - expand(variance / schedule(t)[1], x) * eps, variance


def ancestral_step(variance: Variance) -> Predictor:
    """DDPM's step as a predictor: `fixed_large` is the paper's for VP, `fixed_small` for VE [Song 2021, app. F]."""

    def step(schedule: Schedule, x: Tensor, eps: Tensor, t: float, s: float) -> tuple[Tensor, Coefficient]:
        now, then = schedule(t), schedule(s)
        return posterior(x0_from_eps(x, eps, now), x, now, then)[0], variance(now, then)

    return step


# --- the corrector's step, as a share of std^2: z is the noise that it will add


def snr_step(snr: float) -> Corrector:
    """For each sample 2 alpha (snr |z| / |eps|)^2, so that noise and score move it in this ratio [Song 2021, alg. 4-5].

    The norms are each sample's own: the published code takes means over the batch, under which a sample would depend
    on its neighbours. In a few dimensions |eps| comes near 0 and one sample's step is huge: there use `level_step`.
    FloatingPointError where it is 0.
    """
    check_range(0, snr=snr)

    def step(eps: Tensor, z: Tensor, alpha: float) -> Tensor:
        check_alike(eps, z=z)
        ratio: Tensor = z.flatten(1).norm(dim=1) / eps.flatten(1).norm(dim=1)  # (B,)
        if not bool(ratio.isfinite().all()):
            raise FloatingPointError("a sample's score is 0 or not finite, and snr / |score| with it: use level_step")
        return 2 * alpha * (snr * ratio).square()

    return step


def level_step(snr: float) -> Corrector:
    """2 alpha snr^2: as `snr_step`, with both norms at the value that they have in the mean far from data."""
    check_range(0, snr=snr)
    return lambda eps, z, alpha: 2 * alpha * snr**2


# --- the ODE


class Solved(NamedTuple):
    """Where the ODE leads, (B, ...), and the number of network calls."""

    x: Tensor
    calls: int


class Likelihood(NamedTuple):
    """log p(x) in nats, (B,) float64, the latents at T (B, ...), and the number of network calls."""

    log_prob: Tensor
    latent: Tensor
    calls: int


def flow_velocity(schedule: Schedule, x: Tensor, eps: Tensor, t: float) -> Tensor:
    """dx/dt of the ODE with the SDE's marginals: f x - g^2 score / 2 [Song 2021, eq. 13]."""
    check_alike(x, eps=eps)
    f, g2 = coefficients(schedule, t)
    return expand(f, x) * x + expand(g2 / (2 * schedule(t)[1]), x) * eps


def flow(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Solved:
    """Walk x (B, ...) along the probability-flow ODE from time `start` to `end` by RK45 [Song 2021, sec. 4.3].

    Downwards it decodes, upwards it encodes: one map, and its inverse, up to the tolerances. From the first time
    `decode(eps_fn, schedule, x, [first, 0])` takes off the noise that is left. A step serves the whole batch, so a
    sample depends on the others within the tolerances. RuntimeError if the solver does not converge, ValueError for
    times outside [first, T], FloatingPointError for eps that are not finite.
    """

    @torch.no_grad()
    def slope(state: Tensor, t: float) -> Tensor:
        here = state.to(x).view_as(x)
        return flow_velocity(schedule, here, _ask(eps_fn, here, t), t).flatten()

    state, calls = _solve(slope, x.detach().flatten(), schedule, start, end, rtol, atol)
    return Solved(state.view_as(x).to(x), calls)


def likelihood(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Tensor,
    prior: LogProb,
    divergence: Divergence,
    start: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Likelihood:
    """log p_t(x) of the ODE's model, x (B, ...) at t = `start` (the first time if None) [Song 2021, app. D.2].

    The density at T, `prior`, plus the integral of the flow's divergence. It is the model that `flow` samples from: the
    SDE with the same network is another one, unless eps_fn is exact. For data hand over x as they are: the paper,
    too, takes them for x_t. Errors as in `flow`; ValueError also for eps without a gradient in x.
    """
    n, traced = len(x), False

    def field(x: Tensor, t: float) -> Tensor:
        nonlocal traced
        eps = _ask(eps_fn, x, t)
        if x.requires_grad and not traced:  # once: it costs a gradient
            _check_traced(eps, x)
            traced = True
        return flow_velocity(schedule, x, eps, t)

    def slope(state: Tensor, t: float) -> Tensor:
        here = state[n:].to(x).view_as(x)
        velocity, spread = divergence(lambda x: field(x, t), here)
        return torch.cat([spread.double().cpu(), velocity.double().cpu().flatten()])

    begin = torch.cat([torch.zeros(n, dtype=torch.float64), x.detach().double().cpu().flatten()])
    state, calls = _solve(slope, begin, schedule, schedule.first if start is None else start, schedule.T, rtol, atol)
    latent = state[n:].view(x.shape).to(x)
    return Likelihood(prior(latent).double().cpu() + state[:n], latent, calls)


def normal_prior(schedule: Schedule) -> LogProb:
    """log N(x; 0, std_T^2) in nats: the density that sampling starts from, (B, ...) to (B,)."""
    var = float(schedule(schedule.T)[1] ** 2)

    def log_prob(x: Tensor) -> Tensor:
        check_alike(x)
        return -0.5 * (x.double() ** 2 / var + math.log(2 * math.pi * var)).reshape(len(x), -1).sum(1)

    return log_prob


def exact_divergence(field: VectorField, x: Tensor) -> tuple[Tensor, Tensor]:
    """Field and divergence at x (B, ...), one gradient for each dimension: for small ones."""
    check_alike(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        there = check_answer(field(x), x) + 0 * x  # so that a constant has a gradient, too
        parts = enumerate(there.reshape(len(x), -1).unbind(1))
        gradients = ((i, torch.autograd.grad(part.sum(), x, retain_graph=True)[0]) for i, part in parts)
        traces = [gradient.reshape(len(x), -1)[:, i] for i, gradient in gradients]
    return there.detach(), torch.stack(traces).sum(0)


def hutchinson(probe: Tensor) -> Divergence:
    """Estimates v . J v of the divergence, for one gradient, without bias [Hutchinson 1989; Song 2021, app. D.2].

    probe v (B, ...), kept for all of an ODE: `start_noise(...)`, or its sign, Rademacher's, which varies less.
    """

    def estimate(field: VectorField, x: Tensor) -> tuple[Tensor, Tensor]:
        check_alike(x, probe=probe)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            there = check_answer(field(x), x) + 0 * x
            (product,) = torch.autograd.grad((there * probe.to(there)).sum(), x)
        return there.detach(), (product * probe.to(there)).reshape(len(x), -1).sum(1)

    return estimate


@torch.no_grad()
def variational_bound(
    eps_fn: EpsFn, schedule: Schedule, x: Tensor, noise: Noise, draws: int = 64, start: float | None = None
) -> Tensor:
    """An estimate of the bound on -log p(x) of the reverse SDE, in nats, (B,) float64 [Kingma 2021, sec. 4].

    The prior's KL, the integral of |eps - eps_fn|^2 over log(std / scale) from `start` (the first time if None) to T,
    at `draws` stratified places, and the decoder N(x_0 estimate, (std / scale)^2) at `start`. `noise` draws (B, ...),
    as `noise_source` makes it.
    """
    check_alike(x)
    check_range(1, draws=draws)
    begin, end = schedule(schedule.first if start is None else start), schedule(schedule.T)
    low, high = ((std / scale).log() for scale, std in (begin, end))
    D = x[0].numel()

    def squared_error(t: Tensor) -> Tensor:
        eps = noise().to(x)
        answer = check_answer(eps_fn(q_sample(x, eps, schedule(t)), batch_time(t, x)), x)
        return (eps - answer).double().square().flatten(1).sum(1).cpu()

    total = torch.zeros(len(x), dtype=torch.float64)
    for i in range(draws):
        u = torch.special.ndtr(noise().flatten(1)[:, 0].double().cpu())  # (B,) uniform, of each sample's own stream
        t = schedule.time_at(torch.exp(low + (high - low) * (i + u) / draws))
        total += (high - low) * squared_error(t) / draws
    decoder = 0.5 * squared_error(schedule.time_at(low.exp().expand(len(x)))) + D * (low + 0.5 * math.log(2 * math.pi))
    mean_T, var_T = expand(end[0], x.double()) * x.double(), end[1] ** 2
    return total + decoder + kl(mean_T, var_T, torch.zeros_like(mean_T), var_T).flatten(1).sum(1).cpu()


# --- controllable generation: what is known is put back after every update [Song 2021, app. I]


def inpaint(known: Tensor, mask: Tensor, schedule: Schedule, noise: Noise) -> After:
    """For samplers' `after`: where `mask` is true x is a fresh draw of q(x_s | known), and `known` itself at s = 0.

    known (B, ...) like x, mask to be broadcast to it; `noise` draws like x, as `noise_source` makes it. What is drawn
    lies between the world and its conditional, nearer to the world than one would think: the rest sees what is known
    through each level's noise. Corrections bring it near, 8 or 30 at each level rather than 1. ValueError for a mask
    that is not bool.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}: give bools, True where the image is known")

    def after(x: Tensor, s: float) -> Tensor:
        check_alike(x, known=known)
        check_fits(x, mask=mask)
        return torch.where(mask, q_sample(known, noise().to(known), schedule(s)), x)

    return after


def in_basis(after: After, basis: Tensor) -> After:
    """An `after` that sees the channels of x (B, C, ...) in an orthonormal basis, whose columns are its vectors.

    ValueError for another matrix (C, C).
    """
    square = basis.ndim == 2 and basis.shape[0] == basis.shape[1]
    if not square or not torch.allclose(basis.mT @ basis, torch.eye(len(basis)).to(basis), atol=1e-5):
        raise ValueError(f"the basis {tuple(basis.shape)} is not orthonormal: take q of torch.linalg.qr(basis)")

    def turned(x: Tensor, s: float) -> Tensor:
        return _turn(basis, after(_turn(basis.T, x), s))

    return turned


def colourise(grey: Tensor, schedule: Schedule, noise: Noise) -> After:
    """For samplers' `after`: x (B, 3, H, W) keeps the mean of its colours, grey (B, 1, H, W) [Song 2021, app. I.3]."""
    if grey.ndim != 4 or grey.shape[1] != 1:
        raise ValueError(f"grey images are (B, 1, H, W); got {tuple(grey.shape)}")
    mask = torch.tensor([True, False, False], device=grey.device).view(3, 1, 1)
    return in_basis(inpaint(_turn(GREY_FIRST.T, grey.expand(-1, 3, -1, -1)), mask, schedule, noise), GREY_FIRST)


def _turn(matrix: Tensor, x: Tensor) -> Tensor:
    if matrix.ndim != 2 or x.ndim < 2 or matrix.shape[1] != x.shape[1]:
        raise ValueError(f"a basis is (C, C) and x (B, C, ...); got {tuple(matrix.shape)} and {tuple(x.shape)}")
    return torch.einsum("dc,bc...->bd...", matrix.to(x), x)


def _ask(eps_fn: EpsFn, x: Tensor, t: float) -> Tensor:
    eps = check_answer(eps_fn(x, batch_time(t, x)), x)
    if not bool(eps.isfinite().all()):
        raise FloatingPointError(f"eps_fn answered NaN or infinity at t = {t:g}: the ODE ends here")
    return eps


def _check_traced(eps: Tensor, x: Tensor) -> None:
    """ValueError if autograd finds no way from eps to x, whose divergence would come out as 0."""
    if not eps.requires_grad or torch.autograd.grad(eps.sum(), x, retain_graph=True, allow_unused=True)[0] is None:
        raise ValueError("eps_fn has no gradient in x, so the flow no divergence: call it without no_grad and detach")


def _solve(
    slope: Callable[[Tensor, float], Tensor],
    state: Tensor,
    schedule: Schedule,
    start: float,
    end: float,
    rtol: float,
    atol: float,
) -> tuple[Tensor, int]:
    """Integrate a flat state from `start` to `end`; the end, float64 on the CPU, and the number of calls."""
    from scipy.integrate import solve_ivp  # takes a while, so only where it is used

    check_range(0, rtol=rtol, atol=atol)
    if not bool(state.isfinite().all()):
        raise ValueError("x holds NaN or infinity: the ODE has nowhere to begin")
    for t in (start, end):
        coefficients(schedule, t)  # errors come before the first call
    calls = 0

    def right_hand_side(t: float, y: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > MOST_CALLS:
            raise RuntimeError(f"the ODE did not converge in {MOST_CALLS} network calls: raise rtol and atol")
        return slope(torch.from_numpy(y), t).double().cpu().numpy()

    solution = solve_ivp(right_hand_side, (start, end), state.double().cpu().numpy(), rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the ODE did not converge ({solution.message}): raise rtol and atol, or look at eps_fn")
    return torch.from_numpy(solution.y[:, -1]), calls
