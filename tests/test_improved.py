"""Improved DDPM [Nichol 2021]: the learned variance, its sampler and its guidance, the importance sampler."""

import itertools
import math
from dataclasses import asdict

import diffusers.schedulers.scheduling_ddpm as theirs
import pytest
import torch
from helpers import COSINE, LINEAR, close, gaussian_eps, rand, randn, seeded

from ddpm_path.gaussian import fixed_large, fixed_small, learned_variance, posterior, q_sample, two_answers
from ddpm_path.guidance import classifier_free, classifier_shift, clip_x0, eps_part, on_eps, within
from ddpm_path.lab import train, zoo
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.evaluation import step_back
from ddpm_path.lab.probing import gradient_noise
from ddpm_path.lab.recipes import Recipe
from ddpm_path.losses import (
    EPS,
    X0,
    LossHistory,
    V,
    bound_term,
    fixed_variance,
    hybrid,
    importance,
    learned_bound,
    learned_reverse,
    simple,
    weighted_times,
)
from ddpm_path.samplers import ancestral, ancestral_learned, ddim, last, noise_source
from ddpm_path.schedule import Discrete, cosine_betas, uniform_times


def between(o, now, then):
    return learned_variance(o, fixed_small(now, then), fixed_large(now, then))


STEPS = [(1000, 999), (500, 499), (2, 1), (1000, 500), (40, 3)]


def with_variance(eps_fn, o):
    """A network whose answer is eps_fn's and o, a number or a function of x and t, for the variance."""

    def net(x, t):
        return torch.cat([eps_fn(x, t), o(x, t) if callable(o) else torch.full_like(x, o)], dim=1)

    return net


def wavy(x, t):
    """An answer for the variance that differs from pixel to pixel and leaves [-1, 1] here and there."""
    return 1.2 * torch.sin(3 * x + 0.01 * t.view(-1, *[1] * (x.ndim - 1)))


def best_o(var, now, then):
    """The answer at which `learned_variance` is the best variance for Gaussian data, beta~ + c^2 Var(x_0 | x_t)."""
    on_x0 = posterior(torch.ones(1, 1).double(), torch.zeros(1, 1).double(), now, then)[0]
    best = fixed_small(now, then) + float(on_x0) ** 2 * var * now[1] ** 2 / (now[0] ** 2 * var + now[1] ** 2)
    low, high = fixed_small(now, then).log(), fixed_large(now, then).log()
    return float(2 * (best.log() - low) / (high - low) - 1)


# --- the variance


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_nichol2021_eq15_spelled_out(schedule, t, s):
    """In the logarithm, between beta and beta~ of eq. 19: 1 - alpha_bar_t / alpha_bar_s and its posterior's."""
    o = torch.tensor([[-1.0, -0.3, 0.0, 0.7, 1.0, 1.4]], dtype=torch.float64)
    bar = schedule.alpha_bar
    beta = 1 - bar[t] / bar[s]
    tilde = (1 - bar[s]) / (1 - bar[t]) * beta
    v = (o + 1) / 2
    wanted = torch.exp(v * beta.log() + (1 - v) * tilde.log())
    close(between(o, schedule(t), schedule(s)), wanted, rtol=1e-10)  # beta = 1e-4 from a difference
    for number, fixed in ((-1.0, fixed_small), (1.0, fixed_large)):
        ends = between(torch.full((1, 2), number, dtype=torch.float64), schedule(t), schedule(s))
        close(ends, torch.full((1, 2), float(fixed(schedule(t), schedule(s))), dtype=torch.float64), rtol=1e-10)


def test_nichol2021_eq15_at_data_the_small_variance_is_0_and_refused():
    with pytest.raises(ValueError, match="with_decoder"):
        between(randn(2, 3), LINEAR(1), LINEAR(0))


def test_nichol2021_eq15_for_each_sample_its_own_levels_in_float32_too():
    o, t = 2 * rand(3, 1, 4, 4) - 1, torch.tensor([2.0, 400.0, 1000.0])
    now, then = LINEAR(t), LINEAR(t - 1)
    got = between(o, now, then)
    for i in range(3):
        one = between(o[i : i + 1], LINEAR(t[i]), LINEAR(t[i] - 1))
        close(got[i : i + 1], one)
    half = between(o.float(), now, then)
    assert half.dtype == torch.float32
    close(half, got, rtol=2e-6)


@pytest.mark.parametrize("wrong", [lambda x: x, lambda x: torch.cat([x, x, x], 1), lambda x: (x, x)])
def test_a_network_without_a_second_answer_is_refused(wrong):
    x = randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="twice the channels"):
        two_answers(wrong(x), x)
    with pytest.raises(ValueError, match="twice the channels"):
        next(ancestral_learned(lambda x, t: wrong(x), LINEAR, x, [1000, 500]))


def test_two_answers_of_another_dtype_or_size_are_refused():
    x = randn(2, 3, 4, 4)
    for wrong in (torch.cat([x, x], 1).float(), torch.cat([x, x], 1)[..., :2], torch.cat([x, x], 1)[:1]):
        with pytest.raises(ValueError, match="a network answered"):
            two_answers(wrong, x)


# --- the sampler


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [3, 50, 1000])
def test_nichol2021_sampling_equals_diffusers_learned_range(steps, clip, monkeypatch):
    """Respaced, too. Their tables are float32, which costs 3e-4 over the full chain: they are given float64 ones.

    On arriving at the data from index > 0 they add noise, which we never do: they are fed zeros there.
    """
    x = randn(4, 1, 4, 4, seed=7)
    net = with_variance(gaussian_eps(0.3, 1.0, COSINE), wavy)
    scheduler = theirs.DDPMScheduler(
        1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        clip_sample=clip,
        timestep_spacing="trailing",
    )
    scheduler.betas = cosine_betas()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.set_timesteps(steps)
    draw = noise_source(4, (1, 4, 4), seeded(5), torch.float64)
    image, times = x, [int(index) + 1 for index in scheduler.timesteps]
    for index in scheduler.timesteps:
        z = draw() if index > scheduler.timesteps[-1] else torch.zeros_like(x)
        monkeypatch.setattr(theirs, "randn_tensor", lambda *args, z=z, **kwargs: z)
        image = scheduler.step(net(image, torch.full((4,), float(index) + 1).double()), int(index), image).prev_sample
    ours = on_eps(net, lambda eps_fn: clip_x0(eps_fn, COSINE)) if clip else net
    end = last(ancestral_learned(ours, COSINE, x, [*times, 0], generator=seeded(5)))
    assert float((end - image).abs().max() / image.abs().max()) < 1e-9


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (500, 499), (3, 2), (2, 1), (1000, 980), (60, 40)])
def test_nichol2021_eq15_equals_diffusers_learned_range(t, s):
    scheduler = theirs.DDPMScheduler(1000, variance_type="learned_range", timestep_spacing="trailing")
    scheduler.set_timesteps(1000 // (t - s))
    o = 2 * rand(2, 1, 3, 3) - 1
    log_variance = scheduler._get_variance(t - 1, predicted_variance=o)
    # Their beta = 1 - alpha_bar_t / alpha_bar_s is a float32 difference near 1: 6e-8 of 1e-4 at the second level.
    beta = float(fixed_large(LINEAR(t), LINEAR(s)))
    close(log_variance, between(o, LINEAR(t), LINEAR(s)).log(), atol=1e-6 + 4 * 6e-8 / beta, rtol=0)


@pytest.mark.parametrize(("o", "fixed"), [(-1.0, fixed_small), (1.0, fixed_large)])
@pytest.mark.parametrize("steps", [1, 2, 3, 27, 1000])
def test_nichol2021_at_the_ends_of_the_range_it_is_ddpm(o, fixed, steps):
    x, eps_fn, times = randn(3, 2, 4, seed=1), gaussian_eps(0.3, 0.5, LINEAR), uniform_times(1000, steps)
    ours = ancestral_learned(with_variance(eps_fn, o), LINEAR, x, times, generator=seeded(2))
    for got, true in zip(ours, ancestral(eps_fn, LINEAR, x, times, fixed, generator=seeded(2)), strict=True):
        assert got.t == true.t
        close(got.x, true.x, rtol=1e-8, atol=1e-10)
        close(got.x0, true.x0, rtol=1e-8, atol=1e-8)


def test_nichol2021_the_optimal_variance_keeps_gaussian_data_exactly_in_few_steps():
    """Data N(mu, 0.25): x_s given x_t is Gaussian, with variance beta~ + c^2 Var(x_0 | x_t); v says where it lies.

    With it each step carries p_t to p_s exactly, at any number of steps; with the fixed ones it does not.
    """
    n, var, times = 200_000, 0.25, [1000, 600, 250, 60]  # 200 dimensions of 1,000 samples
    eps_fn = gaussian_eps(0.7, var, LINEAR)

    def net(x, t):
        then = times[times.index(int(t[0])) + 1]
        return torch.cat([eps_fn(x, t), torch.full_like(x, best_o(var, LINEAR(t[0]), LINEAR(then)))], 1)

    scale, std = LINEAR(1000)
    x = scale * (0.7 + var**0.5 * randn(1000, 200, seed=3)) + std * randn(1000, 200, seed=4)
    end = last(ancestral_learned(net, LINEAR, x, times, generator=seeded(5)))
    scale, std = LINEAR(60)
    right = float(scale**2 * var + std**2)
    assert abs(float(end.mean()) - 0.7 * float(scale)) < 4 * math.sqrt(right / n)
    assert abs(float(end.var()) / right - 1) < 4 * math.sqrt(2 / n)
    small = last(ancestral(eps_fn, LINEAR, x, times, fixed_small, generator=seeded(5)))
    assert float(small.var()) / right < 0.9


def test_nichol2021_arriving_at_data_adds_no_noise_whatever_is_learned():
    x, net = randn(4, 3), with_variance(gaussian_eps(0.3, 0.5, LINEAR), 1.5)
    (state,) = ancestral_learned(net, LINEAR, x, [20, 0])
    close(state.x, state.x0, atol=1e-12)


def test_nichol2021_sample_k_depends_on_the_seed_and_k_only():
    x, net = randn(5, 3), with_variance(gaussian_eps(0.3, 0.5, LINEAR), wavy)
    many = last(ancestral_learned(net, LINEAR, x, uniform_times(1000, 9), generator=seeded(1)))
    few = last(ancestral_learned(net, LINEAR, x[:2], uniform_times(1000, 9), generator=seeded(1)))
    close(few, many[:2], rtol=1e-9)


def test_nichol2021_shift_and_after_see_the_learned_variance_and_have_the_last_word():
    x, net, seen = randn(4, 3), with_variance(gaussian_eps(0.3, 0.5, LINEAR), wavy), []

    def shift(x, t, mean, var):
        seen.append((t, mean, var))
        return mean + 10

    (state,) = ancestral_learned(net, LINEAR, x, [500, 300], shift=shift, generator=seeded(2))
    (plain,) = ancestral_learned(net, LINEAR, x, [500, 300], generator=seeded(2))
    ((t, mean, var),) = seen
    assert t.tolist() == [500.0] * 4
    close(var, between(wavy(x, t), LINEAR(500), LINEAR(300)))
    close(mean, posterior(plain.x0, x, LINEAR(500), LINEAR(300))[0])
    close(state.x, plain.x + 10)
    (held,) = ancestral_learned(net, LINEAR, x, [500, 300], after=lambda x, s: 0 * x + s, generator=seeded(2))
    close(held.x, torch.full((4, 3), 300.0))


# --- respacing


@pytest.mark.parametrize("steps", [1, 3, 27, 100, 250, 999, 1000])
def test_nichol2021_eq19_the_respaced_chain_keeps_its_levels(steps):
    """The chain of the respaced betas is a subset of the whole one's levels."""
    times = uniform_times(1000, steps)
    betas = [float(fixed_large(LINEAR(t), LINEAR(s))) for t, s in itertools.pairwise(times)]
    if steps == 1:
        close(1 - betas[0], LINEAR.alpha_bar[1000], rtol=1e-9)
        return
    respaced = Discrete.from_betas(torch.tensor(betas[::-1], dtype=torch.float64))
    close(respaced.alpha_bar, LINEAR.alpha_bar[times[::-1]], rtol=1e-10)
    for i in (1, 2, steps):
        tilde = (1 - respaced.alpha_bar[i - 1]) / (1 - respaced.alpha_bar[i]) * betas[::-1][i - 1]
        close(fixed_small(LINEAR(times[steps - i]), LINEAR(times[steps - i + 1])), tilde, rtol=1e-9)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_nichol2021_respacing_to_none_or_to_more_steps_than_there_are_is_refused(steps):
    with pytest.raises(ValueError, match="choose between 1 and 1000"):
        uniform_times(1000, steps)


# --- guidance


def test_on_eps_guides_eps_and_keeps_the_conditional_variance():
    x, t = randn(4, 3), torch.full((4,), 700.0)
    cond, uncond = (with_variance(gaussian_eps(mu, 0.5, LINEAR), o) for mu, o in ((0.3, 0.2), (-0.5, -0.9)))
    guided = on_eps(cond, lambda eps_fn: clip_x0(classifier_free(eps_fn, eps_part(uncond), 3.0), LINEAR))
    plain = clip_x0(classifier_free(gaussian_eps(0.3, 0.5, LINEAR), gaussian_eps(-0.5, 0.5, LINEAR), 3.0), LINEAR)
    eps, o = two_answers(guided(x, t), x)
    close(eps, plain(x, t))
    close(o, torch.full_like(x, 0.2))


def test_on_eps_calls_the_network_once_where_it_is_asked_and_again_elsewhere():
    calls = []

    def net(x, t):
        calls.append((x, t))
        return torch.cat([x, 2 * x], 1)

    x, t = randn(4, 3), torch.full((4,), 700.0)
    close(on_eps(net, lambda e: within(clip_x0(e, LINEAR), e, LINEAR, 0.0, 1.0))(x, t), net(x, t))
    assert len(calls) == 2  # one each
    elsewhere = on_eps(net, lambda e: lambda x, t: e(x, t) + e(x + 1, t) + e(x, t - 1))
    close(elsewhere(x, t)[:, :3], 3 * x + 1)
    assert len(calls) == 5 and bool((calls[-1][1] == 699).all())


def test_on_eps_lets_a_gradient_through_to_x():
    """Guidance by a gradient of the estimate of x_0 asks at its own copy of x."""
    net = with_variance(gaussian_eps(0.3, 0.5, LINEAR), 0.0)

    def along_gradient(eps_fn):
        def guided(x, t):
            with torch.enable_grad():
                y = x.detach().requires_grad_()
                return torch.autograd.grad(eps_fn(y, t).square().sum(), y)[0]

        return guided

    x, t = randn(4, 3), torch.full((4,), 700.0)
    slope = gaussian_eps(0.3, 0.5, LINEAR)(x + 1, t) - gaussian_eps(0.3, 0.5, LINEAR)(x, t)  # eps is affine in x
    close(on_eps(net, along_gradient)(x, t)[:, :3], 2 * slope * gaussian_eps(0.3, 0.5, LINEAR)(x, t), rtol=1e-9)


def test_dhariwal2021_alg1_shift_scales_with_the_learned_variance_of_each_pixel():
    x, t, mean, var = randn(4, 3), torch.full((4,), 700.0), randn(4, 3, seed=1), rand(4, 3, seed=2)
    close(classifier_shift(lambda x, t: torch.cos(x), 2.0)(x, t, mean, var), mean + 2 * var * torch.cos(x))


def test_eps_part_is_an_ordinary_noise_predictor():
    x, eps_fn = randn(4, 3), gaussian_eps(0.3, 0.5, LINEAR)
    got = last(ddim(eps_part(with_variance(eps_fn, wavy)), LINEAR, x, uniform_times(1000, 9)))
    close(got, last(ddim(eps_fn, LINEAR, x, uniform_times(1000, 9))))


# --- the losses


def answering(output):
    """A network that answers this, whatever it is asked."""
    return lambda x, t, label=None: output


def pairs(mu, var):
    """Four pairs (x0, eps) with the moments of data N(mu, var) and their noise: a quadratic's mean is exact."""
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    return mu + math.sqrt(var) * signs[:, :1], signs[:, 1:]


def images(n=4):
    """Random images (n, 2, 3, 3) on the 256 levels, with the noise and the raw answers that go with them."""
    x0 = (rand(n, 2, 3, 3, seed=1) * 255).round() / 127.5 - 1
    return x0, randn(n, 2, 3, 3, seed=2), randn(n, 2, 3, 3, seed=3), 2 * rand(n, 2, 3, 3, seed=4) - 1


@pytest.mark.parametrize(("o", "variance"), [(-1.0, fixed_small), (1.0, fixed_large)])
def test_nichol2021_at_the_ends_of_the_range_the_bound_is_ddpms(o, variance):
    x0, eps, _, _ = images()
    t, eps_fn = torch.tensor([2.0, 3.0, 500.0, 1000.0]), gaussian_eps(0.3, 0.5, LINEAR)
    got = bound_term(learned_reverse(with_variance(eps_fn, o), LINEAR), LINEAR, x0, t, t - 1, eps)
    close(got, bound_term(fixed_variance(eps_fn, LINEAR, variance), LINEAR, x0, t, t - 1, eps), rtol=1e-9)


@pytest.mark.parametrize(("times", "second"), [((2, 1, 0), (2, 1)), ((60, 40, 20, 0), (40, 20))])
def test_nichol2021_code_the_decoders_small_variance_is_the_step_before(times, second):
    """posterior_log_variance_clipped: beta~ of the second step stands in for the first's 0; beta itself stays."""
    x, t = randn(3, 1, 2, 2), torch.full((3,), float(times[-2]))
    for o in (-1.0, 0.4, 1.0):
        net = with_variance(gaussian_eps(0.3, 0.5, LINEAR), o)
        _, got = learned_reverse(net, LINEAR, times)(x, t, 0 * t)
        bar, (upper, lower) = LINEAR.alpha_bar, second
        low = (1 - bar[lower]) / (1 - bar[upper]) * (1 - bar[upper] / bar[lower])
        high = 1 - bar[times[-2]]
        wanted = torch.exp((1 + o) / 2 * high.log() + (1 - o) / 2 * low.log())
        close(got, torch.full_like(x, float(wanted)), rtol=1e-9)
    with pytest.raises(ValueError, match="a chain of 1 steps"):
        learned_reverse(net, LINEAR, (1000, 0))


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (300, 299), (2, 1), (1000, 600), (60, 20)])
def test_nichol2021_eq15_the_best_v_is_where_the_bound_no_longer_falls(t, s):
    """For Gaussian data and the best mean; and it lies in [-1, 1] where the data's variance is below 1."""
    (x0, eps), var = pairs(0.7, 0.25), 0.25
    best = best_o(var, LINEAR(t), LINEAR(s))
    assert -1 < best < 1
    o = torch.full((4, 1), best, dtype=torch.float64).requires_grad_()
    each = [torch.full((4,), float(time), dtype=torch.float64) for time in (t, s)]
    net = with_variance(gaussian_eps(0.7, var, LINEAR), lambda x, t: o)
    term = bound_term(learned_reverse(net, LINEAR), LINEAR, x0, *each, eps).mean()
    (slope,) = torch.autograd.grad(term, o)
    close(slope.sum(), 0.0, atol=1e-8)  # its parts are as large as log(large / small), 1, say
    for off in (-0.1, 0.1):
        other = with_variance(gaussian_eps(0.7, var, LINEAR), best + off)
        assert bound_term(learned_reverse(other, LINEAR), LINEAR, x0, *each, eps).mean() > term


def test_nichol2021_vlb_spelled_out():
    """T times KL(q(x_{t-1} | x_t, x_0) || N(mu, Sigma)) in bits/dim, written from the papers' formulas."""
    x0, eps, output, o = images()
    t, bar = torch.tensor([2, 40, 500, 1000]), COSINE.alpha_bar
    got = learned_bound(answering(torch.cat([output, o], 1)), EPS, COSINE, x0, t.double(), eps)
    for i, k in enumerate(t.tolist()):
        beta, before = 1 - bar[k] / bar[k - 1], bar[k - 1]
        tilde = (1 - before) / (1 - bar[k]) * beta
        x = bar[k].sqrt() * x0[i] + (1 - bar[k]).sqrt() * eps[i]
        mean = (before.sqrt() * beta * x0[i] + (1 - beta).sqrt() * (1 - before) * x) / (1 - bar[k])
        model = (x - beta / (1 - bar[k]).sqrt() * output[i]) / (1 - beta).sqrt()  # [Ho 2020, eq. 11]
        v = (o[i] + 1) / 2
        log_var = v * beta.log() + (1 - v) * tilde.log()
        nats = 0.5 * (log_var - tilde.log() + (tilde + (mean - model) ** 2) / log_var.exp() - 1)
        close(got[i], 1000 * nats.mean() / math.log(2), rtol=1e-8)


@pytest.mark.parametrize("prediction", [EPS, X0, V], ids=["eps", "x0", "v"])
def test_nichol2021_eq16_is_simple_and_a_thousandth_of_the_bound(prediction):
    x0, eps, output, o = images()
    t = torch.tensor([1.0, 2.0, 500.0, 999.0], dtype=torch.float64)
    net = answering(torch.cat([output, o], 1))
    parts = simple(answering(output), prediction, COSINE, x0, t, eps) + 0.001 * learned_bound(
        net, prediction, COSINE, x0, t, eps
    )
    close(hybrid(net, prediction, COSINE, x0, t, eps), parts, rtol=1e-10)


@pytest.mark.parametrize("t", [1.0, 2.0, 500.0, 1000.0])
@pytest.mark.parametrize("prediction", [EPS, X0, V], ids=["eps", "x0", "v"])
def test_nichol2021_eq16_the_bound_moves_the_variance_and_never_the_mean(prediction, t):
    """By autograd: the bound's share of the gradient is exactly 0 in the output, and all of it in o."""
    x0, eps, output, o = images()
    output.requires_grad_(), o.requires_grad_()
    times = torch.full((4,), t, dtype=torch.float64)
    net = answering(torch.cat([output, o], 1))
    mean_of_hybrid, variance_of_hybrid = torch.autograd.grad(
        hybrid(net, prediction, COSINE, x0, times, eps).sum(), (output, o)
    )
    (of_simple,) = torch.autograd.grad(simple(answering(output), prediction, COSINE, x0, times, eps).sum(), output)
    of_bound = torch.autograd.grad(learned_bound(net, prediction, COSINE, x0, times, eps).sum(), (output, o))
    assert torch.equal(mean_of_hybrid, of_simple)
    assert bool((of_bound[0] != 0).all())  # without the stop it would move
    # At T both fixed variances are 0.999: the slope is 1e-14 there, and the cancelled parts 1e-16 of 1e-4.
    close(variance_of_hybrid, 0.001 * of_bound[1], rtol=1e-9, atol=1e-20)
    assert bool((variance_of_hybrid != 0).all())


def test_nichol2021_eq16_asks_the_network_once():
    x0, eps, output, o = images()
    seen = []

    def net(x, t):
        seen.append((x, t))
        return torch.cat([output, o], 1)

    t = torch.tensor([1.0, 2.0, 500.0, 999.0], dtype=torch.float64)
    hybrid(net, EPS, COSINE, x0, t, eps)
    ((x, time),) = seen
    close(x, q_sample(x0, eps, COSINE(t)))
    assert torch.equal(time, t)


def test_nichol2021_the_terms_of_a_respaced_chain_with_the_best_variance_are_the_entropy():
    """Sum and prior = entropy + KL(q_T || N(0, I)), in 4 steps, for Gaussian data and a Gaussian's own decoder.

    Learned variances reach it but for the decoder's, which is left out here with what it should cost.
    """
    (x0, eps), var, times = pairs(0.7, 0.25), 0.25, [1000, 500, 200, 60]
    total = torch.tensor(0.0, dtype=torch.float64)
    for t, s in itertools.pairwise(times):
        net = with_variance(gaussian_eps(0.7, var, LINEAR), best_o(var, LINEAR(t), LINEAR(s)))
        each = [torch.full((4,), float(time), dtype=torch.float64) for time in (t, s)]
        total = total + bound_term(learned_reverse(net, LINEAR), LINEAR, x0, *each, eps).mean() * math.log(2)
    # What is left: KL(q(x_60 | x_0) || p_60) over the data, and what p_T differs from N(0, 1), in closed form.
    (scale, std), (far, wide) = LINEAR(60), LINEAR(1000)
    at_60, at_T = scale**2 * var + std**2, far**2 * var + wide**2
    mutual = 0.5 * (at_60 / std**2).log() - 0.5 * (at_T / wide**2).log()
    close(total, mutual, rtol=1e-9)


# --- training and the zoo


IMPORTANT = Recipe(
    "digits",
    {"channels": 1, "patch": 2, "widths": [8, 8], "head_width": 8, "groups": 4, "out_channels": 2},
    steps=24,
    T=8,
    prediction="eps",
    loss="learned-bound",
    importance=True,
    batch=16,
    warmup=5,
)


def test_nichol2021_eq18_training_weighs_what_it_draws_and_remembers_it_unweighted(monkeypatch):
    probabilities, add, seen = LossHistory.probabilities, LossHistory.add, []

    def loss(net, prediction, schedule, x0, t, eps):
        seen.append((t, net(x0, t).square().flatten(1).mean(1) + t))
        return seen[-1][1]

    drawn, remembered = [], []
    monkeypatch.setitem(train.recipes.LOSSES, "learned-bound", loss)
    monkeypatch.setattr(LossHistory, "probabilities", lambda h: drawn.append(probabilities(h)) or drawn[-1])
    monkeypatch.setattr(LossHistory, "add", lambda h, t, loss: remembered.append((t, loss)) or add(h, t, loss))
    trained = train.train(IMPORTANT, digits(8))
    assert float(drawn[-1].max()) > 1.5 / 8  # far from uniform, by loss ~ t
    for p, (t, losses), (at, kept), entry in zip(drawn, seen, remembered, trained.log, strict=True):
        assert torch.equal(t, at) and torch.equal(losses.detach(), kept)
        close(entry.loss, (losses.detach() / (8 * p[t.long() - 1])).mean(), rtol=1e-5)  # float32 weights


def test_nichol2021_sec33_the_loss_history_survives_a_checkpoint(tmp_path, monkeypatch):
    """A stopped and resumed run with importance sampling is the run that never stopped, past the uniform beginning."""
    data = digits(8)
    monkeypatch.setattr(train, "_picture", lambda *arguments: None)
    drawn, probabilities = [], LossHistory.probabilities

    def spy(history):
        drawn.append(probabilities(history))
        return drawn[-1]

    monkeypatch.setattr(LossHistory, "probabilities", spy)
    straight = train.train(IMPORTANT, data)
    assert len({float(p.max()) for p in drawn[:5]}) == 1 and float(drawn[-1].max()) > 1.05 / 8  # uniform, then not
    save = train.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(IMPORTANT, data, tmp_path, save_every=12)
    resumed = train.train(IMPORTANT, data, tmp_path, save_every=12)
    assert [entry.loss for entry in straight.log] == [entry.loss for entry in resumed.log]


def test_a_learned_variance_is_loaded_with_its_eps_or_left_out(tmp_path):
    recipe = Recipe("digits", {"channels": 1, "widths": [8, 8], "head_width": 8, "out_channels": 2}, 1, prediction="v")
    net = recipe.network()
    torch.nn.init.normal_(net.head.weight)
    zoo.save("fresh", net, {"kind": "diffusion", "recipe": asdict(recipe)}, tmp_path)
    bare, _ = zoo.load_network("fresh", tmp_path)
    x, t = randn(3, 1, 16, 16).float(), torch.tensor([1.0, 500.0, 1000.0])
    v, o = bare(x, t).chunk(2, dim=1)
    (eps_net, schedule), (full, _) = zoo.load("fresh", tmp_path), zoo.load_learned("fresh", tmp_path)
    eps = schedule(t)[1].view(-1, 1, 1, 1) * x + schedule(t)[0].view(-1, 1, 1, 1) * v  # [Salimans & Ho 2022]
    close(eps_net(x, t), eps, rtol=1e-5, atol=1e-5)  # float32
    close(full(x, t)[:, :1], eps, rtol=1e-5, atol=1e-5)
    assert torch.equal(full(x, t)[:, 1:], o)


def test_a_model_is_evaluated_with_the_variance_that_it_learned(tmp_path):
    recipe = Recipe("digits", {"channels": 1, "classes": 0, "widths": [8, 8], "head_width": 8, "out_channels": 2}, 1)
    net = recipe.network()
    torch.nn.init.normal_(net.head.weight)
    zoo.save("fresh", net, {"kind": "diffusion", "recipe": asdict(recipe)}, tmp_path)
    full, schedule = zoo.load_learned("fresh", tmp_path)
    x, t, times = randn(3, 1, 16, 16).float(), torch.tensor([40.0, 500.0, 1000.0]), uniform_times(1000, 25)
    mean, var = step_back("fresh", times, folder=tmp_path)(x, t, t - 40)
    eps, o = two_answers(full(x, t), x)
    small = torch.where(t > 40, fixed_small(schedule(t), schedule(t - 40)), fixed_small(schedule(80), schedule(40)))
    wanted = learned_variance(o, small, fixed_large(schedule(t), schedule(t - 40)))
    close(var, wanted, rtol=1e-5)
    clipped = clip_x0(lambda x, t: eps, schedule)
    fixed, _ = fixed_variance(clipped, schedule, fixed_large, times)(x, t, t - 40)
    close(mean, fixed, rtol=1e-5, atol=1e-5)
    close(
        step_back("fresh", times, "large", folder=tmp_path)(x, t, t - 40)[1],
        fixed_large(schedule(t), schedule(t - 40)).where(t > 40, fixed_small(schedule(80), schedule(40))),
    )


def test_a_model_without_a_learned_variance_says_so():
    with pytest.raises(ValueError, match="'digits' learned no variance: use load"):
        zoo.load_learned("digits")


# --- the importance sampler


def test_nichol2021_eq18_spelled_out():
    losses = torch.tensor([[1.0, 7.0], [0.0, 0.0], [3.0, 4.0]])
    rms = torch.tensor([5.0, 0.0, math.sqrt(12.5)], dtype=torch.float64)
    close(importance(losses, floor=0.001), 0.999 * rms / rms.sum() + 0.001 / 3, rtol=1e-7)
    close(importance(torch.zeros(4, 2)), torch.full((4,), 0.25))


@pytest.mark.parametrize("empty", [torch.zeros(5, 0), torch.zeros(0, 10), torch.full((5, 10), math.nan)])
def test_an_empty_loss_history_is_refused(empty):
    with pytest.raises(ValueError, match="missing: draw times uniformly"):
        importance(empty)


def test_nichol2021_sec33_history_is_uniform_until_every_time_has_ten_then_keeps_the_latest():
    history = LossHistory(3)
    for k in range(10):
        close(history.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))
        history.add(torch.tensor([1.0, 3.0]), torch.tensor([float(k), 2.0]))
    for k in range(9):
        history.add(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 100.0 + k]))
    close(history.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))  # time 2 has nine
    history.add(torch.tensor([2.0]), torch.tensor([1.0]))
    kept = torch.tensor([9.0, *range(100, 109)]).double()  # of time 1: nine of the ten first are gone
    rms = torch.stack([kept.square().mean().sqrt(), torch.tensor(1.0).double(), torch.tensor(2.0).double()])
    close(history.probabilities(), 0.999 * rms / rms.sum() + 0.001 / 3)


def test_a_time_that_comes_twice_in_a_batch_is_remembered_twice():
    history = LossHistory(1, each=2)
    history.add(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 4.0]))
    assert sorted(history.losses[0].tolist()) == [3.0, 4.0] and int(history.count[0]) == 2


@pytest.mark.parametrize(("t", "loss"), [([1.0, 2.0], [1.0]), ([1.0], [math.nan]), ([1.0], [math.inf])])
def test_a_history_takes_one_finite_loss_for_each_time(t, loss):
    with pytest.raises(ValueError, match="one finite loss"):
        LossHistory(3).add(torch.tensor(t), torch.tensor(loss))


def test_nichol2021_eq18_weights_make_the_sum_the_uniform_mean():
    """sum_t p_t w_t L_t = mean of L, for any p: exactly in expectation, and in the draws."""
    p, losses = importance(rand(50, 10, seed=1) ** 4), rand(50, seed=2) + 0.1
    close((p * (1 / (50 * p)) * losses).sum(), losses.mean())
    t, weight = weighted_times(p, 200_000, seeded(3))
    close(weight, 1 / (50 * p[t.long() - 1]))
    counted = torch.bincount(t.long() - 1, minlength=50) / 200_000
    close(counted, p, atol=2 / 200_000, rtol=0)  # slices: off by less than two draws
    close((weight * losses[t.long() - 1]).mean(), losses.mean(), rtol=1e-3)
    for mine, alike in zip(weighted_times(7 * p, 100, seeded(3)), weighted_times(p, 100, seeded(3)), strict=True):
        close(mine, alike)  # a sum other than 1 is divided out


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_nichol2021_eq18_every_place_of_a_batch_together_draws_p(batch):
    """Over many batches each time comes up in proportion to p, the first and the last included."""
    p, draw, total = importance(rand(20, 10, seed=4) ** 3), seeded(5), torch.zeros(20)
    batches = 6_000 // batch
    for _ in range(batches):
        t, _ = weighted_times(p, batch, draw)
        assert bool((t.diff() >= 0).all()) and t.min() >= 1 and t.max() <= 20
        total += torch.bincount(t.long() - 1, minlength=20)
    n = batches * batch
    assert bool(((total / n - p).abs() < 4.5 * (p / n).sqrt()).all())


@pytest.mark.parametrize("batch", [1, 4])
def test_nichol2021_fig6_gradient_noise_against_its_closed_form(batch):
    """Losses w . c_t have gradient c_t: its noise is the weighted variance over t, divided by the batch."""
    c, p = randn(6, 40, seed=1) + 1, importance(rand(6, 10, seed=2))
    w = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    weighted = c / (6 * p[:, None])
    variance = (p[:, None] * (weighted - c.mean(0)).square()).sum()  # E |weighted c_t - mean c|^2

    def noise(draws, seed):
        return gradient_noise(lambda t: c[t.long() - 1] @ w, [w], p, batch, draws, seeded(seed))

    exact = []  # the median over all equally many batches, by brute force
    for t in itertools.product(range(6), repeat=batch):
        exact.append(((weighted[list(t)].mean(0) - c.mean(0)).square().sum(), p[list(t)].prod()))
    values, shares = (torch.stack(column) for column in zip(*exact, strict=True))
    close((values * shares).sum(), variance / batch, rtol=1e-9)
    order = values.argsort()
    median = values[order][torch.searchsorted(shares[order].cumsum(0), 0.5)]
    # The mean over the draws stands in for the true one, and the median of 4,000 draws lies near the true median.
    close(noise(4000, 3), median, rtol=0.05)


def test_nichol2021_eq18_of_small_losses_and_of_one_that_is_missing():
    close(importance(torch.tensor([[1e-3], [3e-3]]), floor=0), torch.tensor([0.25, 0.75]).double(), rtol=1e-6)
    losses = torch.ones(3, 2)
    losses[1, 0] = math.nan
    with pytest.raises(ValueError, match=r"got \(3, 2\) with 1 missing"):
        importance(losses)
    assert LossHistory(3, 1).losses.shape == (3, 1)
