"""The algebra of Gaussian diffusion: no network, no loop, no schedule.

A noise level is the pair (scale, std) that a schedule gives, ``x_t = scale * x_0 + std * eps``; its two
entries are scalars or have shape (B,). `now` is the level of x_t, `then` that of an earlier, less noisy x_s.
"""

import math

import torch
from torch import Tensor

Coefficient = Tensor | float
AnyLevel = tuple[Coefficient, Coefficient]


def expand(c: Coefficient, x: Tensor) -> Tensor:
    """A coefficient, scalar, (B,) or of x's dimensions, with x's dtype and device, shaped to multiply x (B, ...).

    ValueError for x of whole numbers, to which it would be rounded, for a number of coefficients that is not B, and
    for one number that is not finite.
    """
    if not (isinstance(c, Tensor) and c.dtype == x.dtype and c.device == x.device):  # cheaper to ask than to convert
        if not x.is_floating_point():
            raise ValueError(f"x holds {x.dtype}: convert it to floats, or coefficients are rounded to whole numbers")
        if type(c) is float and not math.isfinite(c):  # to look into tensors would cost more than the step
            raise ValueError(f"a coefficient is {c}: look for what made it, a schedule's levels never are")
        c = torch.as_tensor(c, dtype=x.dtype, device=x.device)
    if c.ndim == 0 or (c.ndim == x.ndim and all(n in (1, m) for n, m in zip(c.shape, x.shape, strict=True))):
        return c
    if c.ndim != 1 or x.ndim == 0 or len(c) not in (1, len(x)):
        raise ValueError(f"coefficients {tuple(c.shape)} for x {tuple(x.shape)}: give one number, or one for each item")
    return c.view(-1, *[1] * (x.ndim - 1))


def batch_time(t: Tensor | float, x: Tensor) -> Tensor:
    """The time of each item of x, (B,), on its device, in its precision but at least float32.

    Half precision cannot tell t = 999 from 1000, and not every device has float64. ValueError as in `each_item`.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if isinstance(t, Tensor):
        return each_item(t, x, "t", dtype)
    return x.new_full(x.shape[:1], t, dtype=dtype)  # a sampler's step waits for it


def each_item(value: Tensor | float, x: Tensor, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A value for each item of x, (B,), on its device; ValueError unless there is one, or one for each."""
    values = torch.as_tensor(value, dtype=dtype, device=x.device)
    if values.ndim > 1 or values.numel() not in (1, len(x)):
        raise ValueError(f"{name} is one number, or one for each of the {len(x)} items; got {tuple(values.shape)}")
    return values.expand(len(x))


def check_alike(x: Tensor, /, **others: Tensor) -> None:
    """ValueError unless x is a batch of floats, (B, ...), B > 0, and the others have its shape: no broadcasting."""
    if not x.is_floating_point():
        raise ValueError(f"x holds {x.dtype}: convert it to floats, or it is rounded to whole numbers")
    shape = x.shape
    if not shape or shape[0] == 0:
        raise ValueError(f"x is a batch, (B, ...), B > 0; got {tuple(shape)}")
    for name, other in others.items():
        if other.shape != shape or not other.is_floating_point():
            what = f"{tuple(other.shape)} {other.dtype} beside {tuple(shape)} {x.dtype}"
            raise ValueError(f"{name} is {what}: give both the same shape, and floats")


def check_fits(x: Tensor, /, **parts: Tensor) -> None:
    """ValueError unless each part repeats to x's shape: 1 or x's size along every dimension that it has."""
    for name, part in parts.items():
        sizes = zip(reversed(part.shape), reversed(x.shape), strict=False)
        if part.ndim > x.ndim or any(n not in (1, m) for n, m in sizes):
            raise ValueError(f"{name} is {tuple(part.shape)}, which does not repeat to {tuple(x.shape)}")


def check_range(low: float, high: float = math.inf, /, **numbers: float) -> None:
    """ValueError unless the numbers are finite and lie in [low, high]."""
    for name, number in numbers.items():
        if not (low <= number <= high and math.isfinite(number)):
            raise ValueError(f"{name} = {number}: give a finite number from {low:g} to {high:g}")


def check_input(x: Tensor, weight: Tensor, /, *shape: int | str) -> None:
    """ValueError unless x is a batch (B, ...), B > 0, of this shape, names for any sizes, and of weight's dtype."""
    fits = x.ndim == 1 + len(shape) and all(
        n == m or isinstance(n, str) for n, m in zip(shape, x.shape[1:], strict=True)
    )
    if not fits or len(x) == 0:
        raise ValueError(f"x is to be (B, {', '.join(map(str, shape))}), B > 0; got {tuple(x.shape)}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"x is {x.dtype}, the network {weight.dtype}: convert one of them")


def check_noisy(std: Coefficient) -> None:
    """ValueError for std = 0, at which eps and the score do not exist."""
    if bool((torch.as_tensor(std) == 0).any()):
        raise ValueError("eps and score are not defined at std = 0 (t = 0 is data): ask at t = 1 or later")


def check_answer(answer: Tensor, x: Tensor) -> Tensor:
    """A network's answer to x as it came; ValueError unless it is a tensor of x's shape and dtype."""
    if not isinstance(answer, Tensor):
        raise ValueError(f"a network answers a tensor, not a {type(answer).__name__}: take the tensor out of it")
    if answer.shape != x.shape:
        raise ValueError(
            f"a network answered {tuple(answer.shape)} to x {tuple(x.shape)}: the shapes must be equal. One with a "
            "learned variance answers twice the channels: pass on the first half"
        )
    if answer.dtype != x.dtype:
        raise ValueError(f"a network answered {answer.dtype} to x {x.dtype}: convert one of them")
    return answer


def two_answers(answer: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A network's answer to x (B, C, ...) of twice the channels: eps, and what `learned_variance` reads off.

    ValueError unless it is a tensor (B, 2 C, ...) of x's dtype.
    """
    if not isinstance(answer, Tensor) or answer.ndim != x.ndim or x.ndim < 2 or answer.shape[1] != 2 * x.shape[1]:
        what = tuple(answer.shape) if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise ValueError(
            f"a network with a learned variance answers twice the channels of x {tuple(x.shape)}: first eps, then the "
            f"variance; got {what}. One without is for `ancestral`"
        )
    eps, o = answer.chunk(2, dim=1)
    return check_answer(eps, x), o


def q_sample(x0: Tensor, eps: Tensor, now: AnyLevel) -> Tensor:
    """x_t from the data and the noise [Ho 2020, eq. 4]."""
    check_alike(x0, eps=eps)
    scale, std = now
    return (expand(scale, x0) * x0).addcmul_(expand(std, x0), eps)  # one pass over memory less than a * x0 + b * eps


def x0_from_eps(x: Tensor, eps: Tensor, now: AnyLevel) -> Tensor:
    """The data that x_t and its noise imply [Ho 2020, eq. 15]."""
    check_alike(x, eps=eps)
    scale, std = now
    return torch.addcmul(x, expand(std, x), eps, value=-1) / expand(scale, x)


def eps_from_x0(x: Tensor, x0: Tensor, now: AnyLevel) -> Tensor:
    """The noise that x_t and the data imply; ValueError at std = 0, where there is none to speak of."""
    check_alike(x, x0=x0)
    scale, std = now
    check_noisy(std)
    return (x - expand(scale, x) * x0) / expand(std, x)


def v_from_x0_eps(x0: Tensor, eps: Tensor, now: AnyLevel) -> Tensor:
    """The velocity v = scale * eps - std * x0 [Salimans & Ho 2022, sec. 4]."""
    check_alike(x0, eps=eps)
    scale, std = now
    return expand(scale, x0) * eps - expand(std, x0) * x0


def x0_from_v(x: Tensor, v: Tensor, now: AnyLevel) -> Tensor:
    """The data from x_t and v, also where scale^2 + std^2 is not 1."""
    check_alike(x, v=v)
    scale, std = expand(now[0], x), expand(now[1], x)
    return (scale * x - std * v) / (scale**2 + std**2)


def eps_from_v(x: Tensor, v: Tensor, now: AnyLevel) -> Tensor:
    """The noise from x_t and v, also where scale^2 + std^2 is not 1."""
    check_alike(x, v=v)
    scale, std = expand(now[0], x), expand(now[1], x)
    return (std * x + scale * v) / (scale**2 + std**2)


def score_from_eps(eps: Tensor, now: AnyLevel) -> Tensor:
    """The score, grad log p_t(x_t), of a noise estimate: -eps / std (Tweedie); ValueError at std = 0, without one."""
    check_noisy(now[1])
    return -eps / expand(now[1], eps)


def transition(now: AnyLevel, then: AnyLevel) -> AnyLevel:
    """Factor and variance of q(x_t | x_s) = N(factor * x_s, variance): sqrt(1 - beta_t) and beta_t if s = t - 1.

    ValueError at t = 0, where x_s has more noise than x_t, and for levels of two shapes.
    """
    (scale_t, std_t), (scale_s, std_s) = now, then
    if isinstance(std_t, Tensor) and isinstance(std_s, Tensor) and std_t.ndim and std_s.ndim:
        check_alike(std_t, then=std_s)
    factor = scale_t / scale_s
    falls = (std_t > 0) & (std_t >= factor * std_s)
    if not (falls if isinstance(falls, bool) else bool(falls.all())):
        raise ValueError("a step leads from x_t, with noise, to an earlier x_s: `now` is the noisier level, not data")
    return factor, std_t**2 - (factor * std_s) ** 2


def fixed_small(now: AnyLevel, then: AnyLevel) -> Coefficient:
    """The variance of q(x_s | x_t, x_0), right for data at one point [Ho 2020, eq. 7]; 0 if s = 0."""
    _, variance = transition(now, then)
    return variance * (then[1] / now[1]) ** 2


def fixed_large(now: AnyLevel, then: AnyLevel) -> Coefficient:
    """The variance of q(x_t | x_s), right for standard normal data [Ho 2020, sec. 3.2]."""
    return transition(now, then)[1]


def learned_variance(o: Tensor, small: Coefficient, large: Coefficient) -> Tensor:
    """exp(v log large + (1 - v) log small), v = (o + 1) / 2, for a network's answer o (B, ...) [Nichol 2021, eq. 15].

    `fixed_small` and `fixed_large` of a step are reached at o = -1 and 1; o may go beyond. ValueError where small is
    0, as `fixed_small` is on arriving at data: the sampler adds no noise there, and for the bound `losses.with_decoder`
    puts the step before in its place, as the paper's code does.
    """
    large, ratio = expand(large, o), torch.as_tensor(small, dtype=torch.float64) / large
    if not bool(((ratio > 0) & (ratio < math.inf)).all()):
        raise ValueError("the small variance is 0 on arriving at data, and has no logarithm: see `losses.with_decoder`")
    return large * torch.exp((1 - o) / 2 * expand(ratio.log(), o))


def posterior(x0: Tensor, x: Tensor, now: AnyLevel, then: AnyLevel) -> tuple[Tensor, Coefficient]:
    """Mean (B, ...) and variance of q(x_s | x_t, x_0) for any earlier s [Ho 2020, eq. 6-7]."""
    check_alike(x0, x=x)
    factor, variance = transition(now, then)
    on_x0 = then[0] * variance / now[1] ** 2
    on_x = factor * (then[1] / now[1]) ** 2
    return expand(on_x0, x) * x0 + expand(on_x, x) * x, fixed_small(now, then)


def ddim_step(
    x0: Tensor, eps: Tensor, now: AnyLevel, then: AnyLevel, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """x_s from the estimates of x_0 and eps at x_t [Song 2020, eq. 12, 16].

    eta scales the standard deviation of fresh `noise`: 0 is deterministic, 1 is DDPM's step with `fixed_small`, above 1
    more of the noise in x_s is fresh than there, at most all of it. Whatever it is, x_s has the level `then`: what the
    noise takes, eps gives up. With eta = 0 the estimates are mixed anew, at a level that may also be a noisier one.
    ValueError for a negative eta.
    """
    check_range(0, eta=eta)
    if eta == 0:
        return q_sample(x0, eps, then)
    check_alike(x0, eps=eps, noise=eps if noise is None else noise)
    level = torch.as_tensor(then[1], dtype=torch.float64) ** 2
    variance = torch.as_tensor(eta**2 * fixed_small(now, then), dtype=torch.float64).clamp(max=level)
    kept = (level - variance).sqrt()
    x = expand(then[0], x0) * x0 + expand(kept, x0) * eps
    return x if noise is None else x + expand(variance, x0).sqrt() * noise


def langevin_step(x: Tensor, eps: Tensor, std: Coefficient, step: float, noise: Tensor) -> Tensor:
    """x + step * std^2 * score + sqrt(2 * step) * std * noise at the level of std, from score = -eps / std.

    [Song 2019, eq. 4] with step = alpha / std^2 in the published image code's convention, alpha and sqrt(2 alpha).
    ValueError for a negative one.
    """
    check_alike(x, eps=eps, noise=noise)
    check_range(0, step=step)
    return x + expand(std, x) * (math.sqrt(2 * step) * noise - step * eps)


def kl(mean1: Tensor, var1: Coefficient, mean2: Tensor, var2: Coefficient) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) for each dimension, in nats; a learned variance has x's shape.

    ValueError for a variance that is not positive.
    """
    check_alike(mean1, mean2=mean2)
    var1, var2 = expand(var1, mean1), expand(var2, mean1)
    if not bool((var1 > 0).all() and (var2 > 0).all()):
        raise ValueError("variances must be positive; fixed_small's is 0 on arriving at data: use `with_decoder`")
    return 0.5 * (var1 / var2 + (mean1 - mean2) ** 2 / var2 - 1 + var2.log() - var1.log())


def discretised_log_prob(x0: Tensor, mean: Tensor, variance: Coefficient) -> Tensor:
    """log of N(mean, variance)'s mass in the bin of each number, in nats, shaped like x0 [Ho 2020, eq. 13].

    x0 lies on the grid of 256 levels over [-1, 1]; a bin reaches half a level, 1/255, to both sides, and the two
    outermost to infinity. The exact normal distribution in float64 (the paper's code has a tanh): a bin above the
    mean is mirrored below it, and the difference of two logarithms is taken there, so no tail underflows and no floor
    is needed. ValueError for data between the levels and for a variance that is not positive.
    """
    check_alike(x0, mean=mean)
    exact = (x0.double() + 1) * 127.5
    level = exact.round()
    if not bool(((exact - level).abs() < 1e-3).all() and (level >= 0).all() and (level <= 255).all()):
        raise ValueError(
            "the decoder gives probabilities to the 256 levels -1, -1 + 2/255, ..., 1, and these data lie between or "
            "beyond them: round images with (x + 1).mul(127.5).round().div(127.5) - 1"
        )
    variance = expand(variance, mean)
    if not bool((variance > 0).all()):
        raise ValueError(
            "the decoder's variance must be positive, and fixed_small's is 0 on arriving at data: use `with_decoder`"
        )
    offset, std = x0.double() - mean.double(), variance.double().sqrt()
    low, high = (offset - 1 / 255) / std, (offset + 1 / 255) / std
    above = offset > 0
    near, far = torch.where(above, -low, high), torch.where(above, -high, low)  # near > far, and far < 0
    log_near = torch.special.log_ndtr(near)
    inside = log_near + (-torch.expm1(torch.special.log_ndtr(far) - log_near)).log()
    first, last = level == 0, level == 255
    ends = torch.special.log_ndtr(torch.where(first, high, -low))
    return torch.where(first | last, ends, inside).to(x0.dtype)


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """Nats for a whole image to bits for each of its `dims` numbers; ValueError for none."""
    check_range(1, dims=dims)
    return nats / (dims * math.log(2))
