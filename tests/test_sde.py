"""The score SDE: against closed forms, autograd, the Fokker-Planck equation, and diffusers."""

import itertools
import math

import pytest
import torch
from diffusers import DDPMScheduler, ScoreSdeVeScheduler
from helpers import LINEAR, close, gaussian_eps, rand, randn, seeded, skewed_mixture

from ddpm_path import sde
from ddpm_path.exact import GaussianMixture, isotropic_mixture
from ddpm_path.gaussian import ddim_step, fixed_large, fixed_small, q_sample, score_from_eps, x0_from_eps
from ddpm_path.guidance import class_score, classifier_guided
from ddpm_path.samplers import ancestral, decode, last, noise_source, predictor_corrector, start_noise
from ddpm_path.schedule import VE, VP, SubVP, even_times, linear_betas

SDES = {"vp": VP(), "sub-vp": SubVP(), "ve": VE()}
END = {"vp": 1e-3, "sub-vp": 1e-3, "ve": 1e-5}  # the papers' last times
every_sde = pytest.mark.parametrize("name", SDES)
PREDICTORS = {
    "euler-maruyama": sde.euler_maruyama,
    "reverse diffusion": sde.reverse_diffusion,
    "ancestral, small": sde.ancestral_step(fixed_small),
    "ancestral, large": sde.ancestral_step(fixed_large),
}


# --- drift and diffusion


def test_song2021_eq9_11_12_drift_and_diffusion_of_the_three_sdes():
    t = torch.linspace(1e-5, 1, 40, dtype=torch.float64)
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
    sigma = 0.01 * 5000**t
    table = {
        "vp": (-beta / 2, beta),
        "sub-vp": (-beta / 2, beta * (1 - torch.exp(-2 * integral))),
        "ve": (0 * t, 2 * sigma**2 * math.log(5000)),
    }
    for name, (f, g2) in table.items():
        # 1 - exp(-2 B) at t = 1e-5 is 2e-6, itself known to 1e-10 only.
        close(torch.stack(sde.coefficients(SDES[name], t)), torch.stack([f, g2]), rtol=1e-9)


@every_sde
def test_song2021_eq13_the_flow_carries_the_density_by_the_continuity_equation(name):
    """d log p / dt + div v + v . grad log p = 0 for a mixture, every derivative by autograd."""
    schedule, world = SDES[name], skewed_mixture()
    for t in (0.01, 0.3, 0.9):
        scale, std = schedule(t)
        x = (scale * 2 * randn(7, 2) + std * randn(7, 2, seed=1)).requires_grad_()
        time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        (score,) = torch.autograd.grad(world.log_prob(x, schedule(t)).sum(), x)

        def velocity(x, t=t):
            return sde.flow_velocity(schedule, x, world.eps_fn(schedule)(x, x.new_full((len(x),), t)), t)

        v, divergence = sde.exact_divergence(velocity, x)
        for k in range(len(x)):
            (change,) = torch.autograd.grad(world.log_prob(x[k : k + 1].detach(), schedule(time)).sum(), time)
            close(change, -(divergence[k] + v[k] @ score[k]).item(), rtol=1e-8, atol=1e-8)


def test_song2021_eq13_the_flow_keeps_the_full_score_only_by_half():
    """The reverse SDE's drift and the flow's differ by g^2 score / 2: the famous missing half."""
    schedule, x, eps, t, s = VP(), randn(5, 3), randn(5, 3, seed=1), 0.4, 0.399
    score = score_from_eps(eps, schedule(t))
    g2 = 0.1 + 19.9 * t
    noisy, still = (step(schedule, x, eps, t, s)[0] for step in (sde.euler_maruyama, sde.flow_euler))
    close((noisy - still) / (t - s), g2 * score / 2, rtol=1e-9)


def test_the_slope_is_asked_for_where_there_is_one():
    for t in (0.0, 9e-6, 1.001, torch.tensor([0.5, 1.001])):
        with pytest.raises(ValueError, match=r"SDE and ODE live in \[1e-05, 1\]"):
            sde.coefficients(VP(), t)
    with pytest.raises(ValueError, match="without a slope in t: use `reverse_diffusion`"):
        sde.coefficients(LINEAR, 500.0)
    for t, end in ((1e-5 - 1e-14, 1e-5), (1 + 1e-14, 1.0)):  # a solver's round-off
        close(torch.stack(sde.coefficients(VP(), t)), torch.stack(sde.coefficients(VP(), end)))
    f, g2 = sde.coefficients(LINEAR, 500.5)  # between its times a chain is continuous, and preserves variance
    close(g2, -2 * f, rtol=1e-9)
    close(g2, linear_betas()[500], rtol=0.02)


# --- DDPM and DDIM in this language


def test_song2021_app_b_ddpm_is_the_discretised_vp():
    i = torch.arange(1, 1001, dtype=torch.float64)
    close(linear_betas(), (0.1 + 19.9 * (i - 1) / 999) / 1000)  # beta(t) / N, with beta_1 = beta_min / N
    scale, _ = VP()(i / 1000)
    assert float((LINEAR.alpha_bar[1:] - scale**2).abs().max()) < 8.12e-4
    early, _ = VP()((i - 1) / 999)  # index 0 put at t = 0 instead
    assert 1.5e-3 < float((LINEAR.alpha_bar[1:] - early**2).abs().max()) < 2e-3
    assert abs(float((LINEAR.alpha_bar[-1] / scale[-1] ** 2).log()) + 0.0677) < 1e-4


@every_sde
def test_song2020_eq13_ddim_s_step_is_the_flow_s_euler_step_in_std_over_scale(name):
    schedule, x, eps = SDES[name], randn(4, 3), randn(4, 3, seed=1)
    for t, s in ((0.9, 0.7), (0.3, 0.2)):
        now, then = schedule(t), schedule(s)
        stepped = ddim_step(x0_from_eps(x, eps, now), eps, now, then)
        close(stepped / then[0], x / now[0] + (then[1] / then[0] - now[1] / now[0]) * eps)
    gaps = []
    for h in (1e-3, 1e-4):  # and for small steps that of any other clock
        now, then = schedule(0.5), schedule(0.5 - h)
        stepped = ddim_step(x0_from_eps(x, eps, now), eps, now, then)
        gaps.append(float(((stepped - x) / -h - sde.flow_velocity(schedule, x, eps, 0.5)).abs().max()))
    assert gaps[1] < 0.11 * gaps[0] and gaps[1] < 0.05


@pytest.mark.parametrize("variance", [fixed_small, fixed_large])
def test_song2021_app_f_the_ancestral_predictor_is_ddpm(variance):
    """Without a corrector the two samplers are one, to the last digit, on any part of the chain."""
    eps_fn, x = gaussian_eps(0.4, 0.3, LINEAR), randn(3, 2)
    for times in ([1000, 700, 30, 1, 0], list(range(1000, -1, -1))):
        ours = predictor_corrector(eps_fn, LINEAR, x, times, sde.ancestral_step(variance), generator=seeded(1))
        for a, b in zip(ours, ancestral(eps_fn, LINEAR, x, times, variance, generator=seeded(1)), strict=True):
            assert a.t == b.t
            close(a.x, b.x, rtol=1e-9, atol=1e-12)


def test_song2021_app_f_ancestral_vp_against_diffusers_fixed_large():
    scheduler = DDPMScheduler(variance_type="fixed_large", clip_sample=False)
    x, eps = randn(2, 5).float(), randn(2, 5, seed=1).float()
    for t in (2, 500, 1000):
        noise = torch.randn(x.shape, generator=seeded(3))
        theirs = scheduler.step(eps, t - 1, x, generator=seeded(3)).prev_sample
        mean, variance = sde.ancestral_step(fixed_large)(LINEAR, x, eps, t, t - 1)
        close(mean + variance.sqrt().float() * noise, theirs.double(), rtol=1e-4, atol=2e-6)  # its tables are float32


def test_song2021_app_f_ancestral_less_reverse_diffusion_is_of_second_order_in_beta():
    """Of beta = 0.02: 1.0e-4 in the coefficient of x, 2.0e-4 in that of the score."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    std = LINEAR(1000)[1]
    steps = (sde.ancestral_step(fixed_large), sde.reverse_diffusion)
    on_x = [step(LINEAR, one, zero, 1000, 999)[0] for step in steps]
    on_score = [step(LINEAR, zero, -std * one, 1000, 999)[0] for step in steps]
    close(on_x[0] - on_x[1], [[1 / math.sqrt(0.98) - 2 + math.sqrt(0.98)]], rtol=1e-8)
    close(on_score[0] - on_score[1], [[0.02 / math.sqrt(0.98) - 0.02]], rtol=1e-8)
    assert abs(float(on_x[0] - on_x[1]) - 1.0e-4) < 3e-6 and abs(float(on_score[0] - on_score[1]) - 2.0e-4) < 4e-6


def test_song2021_alg2_reverse_diffusion_and_langevin_on_ve_against_diffusers():
    """Of one sample, whose norms are its own and the batch's mean at once."""
    N, schedule, snr = 10, VE(0.01, 50.0), 0.17
    scheduler = ScoreSdeVeScheduler(num_train_timesteps=N, sigma_min=0.01, sigma_max=50.0, snr=snr)
    scheduler.set_timesteps(N)
    scheduler.set_sigmas(N)
    x, eps = randn(1, 3, 4, 4).float(), randn(1, 3, 4, 4, seed=1).float()
    times = [1e-12, *((i - 1) / (N - 1) for i in range(2, N + 1))]  # their sigmas run from sigma_min itself
    for i in (1, 5, N - 1):
        t, s = times[i], times[i - 1]
        score = score_from_eps(eps, schedule(t))
        step = scheduler.step_pred(score, scheduler.timesteps[N - 1 - i], x, generator=seeded(3))
        mean, variance = sde.reverse_diffusion(schedule, x, eps, t, s)
        close(mean, step.prev_sample_mean.double(), rtol=1e-5, atol=1e-5)
        z = torch.randn(x.shape, generator=seeded(3))
        close(mean + variance.sqrt().float() * z, step.prev_sample.double(), rtol=1e-5, atol=1e-5)
        theirs = scheduler.step_correct(score, x, generator=seeded(3)).prev_sample
        share = float(sde.snr_step(snr)(eps, z, 1.0))
        std = float(schedule(t)[1])
        close(x - share * std * eps + math.sqrt(2 * share) * std * z, theirs.double(), rtol=1e-5, atol=1e-4)


# --- the reverse SDE


def moments(predictor, schedule, eps_fn, times):
    """Mean and variance that a predictor leads to, exactly: on a Gaussian world every step is affine."""
    ends, time = torch.tensor([[0.0], [1.0]], dtype=torch.float64), schedule(times[0])
    mean, variance = 0.3 * float(time[0]), float(time[0] ** 2 * 0.2 + time[1] ** 2)
    for t, s in itertools.pairwise(times):
        eps = eps_fn(ends, torch.full((2,), t, dtype=torch.float64))
        (at_0, at_1), added = predictor(schedule, ends, eps, t, s)
        slope = float(at_1 - at_0)
        mean, variance = float(at_0) + slope * mean, slope**2 * variance + float(added)
    return torch.tensor([mean, variance])


@pytest.mark.parametrize("predictor", [*PREDICTORS, "flow"])
@every_sde
def test_song2021_eq6_every_predictor_has_the_marginals_of_the_sde_with_error_of_order_one(name, predictor):
    """Data N(0.3, 0.2): from the exact p_T the errors at t = 0.2 halve with the step."""
    schedule, step = SDES[name], PREDICTORS.get(predictor, sde.flow_euler)
    scale, std = schedule(0.2)
    true = torch.tensor([0.3 * float(scale), float(scale**2 * 0.2 + std**2)])
    errors = []
    for n in (150, 300, 600):
        times = torch.linspace(1, 0.2, n + 1, dtype=torch.float64).tolist()
        errors.append((moments(step, schedule, gaussian_eps(0.3, 0.2, schedule), times) - true).abs())
    assert bool((errors[0] < 0.1).all()), errors
    for coarse, fine in itertools.pairwise(errors):
        assert bool((fine < 0.6 * coarse + 1e-6).all()), errors


@every_sde
def test_song2021_alg1_predictor_corrector_draws_the_mixture(name):
    """sub-VP with Langevin and Euler-Maruyama, which the published code cannot, too: class shares and spread."""
    schedule, world = SDES[name], isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], 0.15)
    n, times = 2000, even_times(schedule, 200, END[name])
    x = schedule(1)[1] * start_noise(n, (1,), seeded(0)).double()
    for predictor in (sde.euler_maruyama, sde.reverse_diffusion):
        states = predictor_corrector(
            world.eps_fn(schedule), schedule, x, times, predictor, sde.level_step(0.16), generator=seeded(1)
        )
        end = last(states)
        left = end < 0
        assert abs(float(left.double().mean()) - 0.3) < 4 * math.sqrt(0.21 / n)
        for side, mean in ((end[left], -0.6), (end[~left], 0.5)):
            assert abs(float(side.mean()) - mean) < 0.02 and abs(float(side.std()) - 0.15) < 0.02


def test_song2021_alg4_langevin_steps_keep_their_level():
    """Many corrections at one level: variance v / (1 - step std^2 / (2 v)) for a Gaussian, from any start."""
    schedule, t = VE(), 0.6
    std = float(schedule(t)[1])
    v = 0.2 + std**2
    step = 2 * 0.3**2
    x = 0.0 * start_noise(20_000, (1,), seeded(0)).double()
    states = predictor_corrector(
        gaussian_eps(0.0, 0.2, schedule), schedule, x, [t + 1e-9, t], sde.reverse_diffusion, sde.level_step(0.3), 60,
        generator=seeded(1),
    )  # fmt: skip
    true = v / (1 - step * std**2 / (2 * v))
    assert abs(float(last(states).var()) / true - 1) < 4 * math.sqrt(2 / 20_000)


def test_song2021_alg4_5_the_step_in_the_papers_own_letters():
    """epsilon = 2 alpha (r |z| / |score|)^2, each sample's own: alpha 1 on VE; std^2 times the share is epsilon."""
    r, alpha = 0.16, 0.98
    eps, z, std = randn(5, 3, 2), randn(5, 3, 2, seed=1), rand(5, seed=2)
    score = -eps / std[:, None, None]
    epsilon = torch.stack([2 * alpha * (r * z[k].norm() / score[k].norm()) ** 2 for k in range(5)])
    close(sde.snr_step(r)(eps, z, alpha) * std**2, epsilon)
    close(sde.level_step(r)(eps, z, alpha), 2 * alpha * r**2)


def test_sample_k_depends_on_seed_and_k_only_with_correctors_too():
    schedule, eps_fn = VE(), gaussian_eps(0.4, 0.3, VE())
    x = 50 * start_noise(5, (4, 2), seeded(0)).double()
    draw = lambda x: last(  # noqa: E731
        predictor_corrector(
            eps_fn, schedule, x, even_times(schedule, 9, 1e-5), sde.reverse_diffusion, sde.snr_step(0.16), 2,
            generator=seeded(1),
        )
    )  # fmt: skip
    close(draw(x)[:2], draw(x[:2]), rtol=1e-10)


@every_sde
@pytest.mark.parametrize("corrections", [0, 1, 3])
def test_network_calls_hooks_and_the_denoising_at_the_end(name, corrections):
    schedule, calls, hooked = SDES[name], [], []
    world = gaussian_eps(0.4, 0.3, schedule)

    def eps_fn(x, t):
        calls.append(float(t[0]))
        return world(x, t)

    def after(x, s):
        hooked.append(s)
        return x + 0.01

    times = even_times(schedule, 4, END[name])
    corrector = sde.level_step(0.1) if corrections else None
    *_, before, end = predictor_corrector(
        eps_fn, schedule, randn(3, 2), times, sde.euler_maruyama, corrector, max(1, corrections), after, seeded(0)
    )
    a, b, c, e, zero = times
    repeat = lambda t: [t] * corrections  # noqa: E731
    assert calls == [a, *repeat(b), b, *repeat(c), c, *repeat(e), e]
    assert hooked == [b, *repeat(b), c, *repeat(c), e, *repeat(e), zero]
    eps = world(before.x, torch.full((3,), e, dtype=torch.float64))
    close(end.x0, x0_from_eps(before.x, eps, schedule(e)))
    close(end.x, end.x0 + 0.01)


def test_bad_corrections_are_refused_and_a_vanishing_score_is_named():
    with pytest.raises(ValueError, match="0 corrections: ask for 1 or more"):
        predictor_corrector(lambda x, t: x, VP(), randn(1, 2), [1, 0.5], sde.flow_euler, sde.level_step(0.1), 0)
    with pytest.raises(FloatingPointError, match="use level_step"):
        sde.snr_step(0.1)(torch.eye(3)[:2] * torch.tensor([1, 0, 1]), torch.ones(2, 3), 1.0)


def test_song2021_app_c_float32_loses_the_first_std():
    """1 - exp in float32 gives 1.0066e-3 for 1.0005e-3 at t = 1e-5: the schedule computes expm1 in float64."""
    integral = torch.tensor(0.1 * 1e-5 + 9.95 * 1e-10, dtype=torch.float32)
    assert abs(float((1 - torch.exp(-integral)).sqrt()) - 1.0066e-3) < 1e-6
    assert abs(float(VP()(1e-5)[1]) - 1.0005e-3) < 1e-7
    assert abs(float(VP()(torch.tensor(1e-5))[1]) - 1.0005e-3) < 1e-7


# --- the flow


@every_sde
def test_song2021_sec43_the_flow_of_a_gaussian_stretches_it(name):
    """(x - m_t) / sqrt(v_t) is kept; and back."""
    schedule, x, start = SDES[name], randn(6, 2, 3), 1e-3
    level = lambda t: (0.4 * float(schedule(t)[0]), math.sqrt(schedule(t)[0] ** 2 * 0.3 + schedule(t)[1] ** 2))  # noqa: E731
    (m, s), (m1, s1) = level(start), level(1)
    eps_fn = gaussian_eps(0.4, 0.3, schedule)
    up = sde.flow(eps_fn, schedule, x, start, 1.0, 1e-8, 1e-8)
    close(up.x, m1 + (x - m) / s * s1, rtol=1e-5, atol=1e-5)
    down = sde.flow(eps_fn, schedule, up.x, 1.0, start, 1e-8, 1e-8)
    close(down.x, x, rtol=1e-5, atol=1e-5)


def test_song2021_sec43_standard_normal_data_stand_still_on_vp():
    x = randn(5, 2)
    found = sde.flow(gaussian_eps(0.0, 1.0, VP()), VP(), x, 1.0, 1e-5)
    assert found.calls < 40  # the solver's steps grow tenfold at most
    close(found.x, x, rtol=1e-9)


@every_sde
def test_song2021_sec43_on_a_line_the_flow_keeps_every_share(name):
    schedule, world = SDES[name], isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], 0.15)
    shares = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)[:, None]
    x = world.quantile(shares, schedule(1))
    found = sde.flow(world.eps_fn(schedule), schedule, x, 1.0, 1e-3, 1e-7, 1e-7)
    close(world.cdf(found.x, schedule(1e-3)), shares, atol=1e-5)
    data = decode(world.eps_fn(schedule), schedule, found.x, [1e-3, 0.0])  # the noise that is left, off
    assert float((data - world.quantile(shares, (1.0, 0.0))).abs().max()) < 0.02


def test_the_solver_s_calls_are_counted_and_grow_as_either_tolerance_falls(monkeypatch):
    x, asked = randn(3, 2), []
    best = gaussian_eps(0.4, 0.3, VP())

    def eps_fn(x, t):
        asked.append(t)
        return best(x, t)

    counts = []
    for rtol, atol in ((1e-6, 1e-6), (1e-6, 1e-2), (1e-2, 1e-6), (1e-1, 1e-1)):
        asked.clear()
        counts.append(sde.flow(eps_fn, VP(), x, 1.0, 1e-3, rtol, atol).calls)
        assert counts[-1] == len(asked)
    tight, by_rtol, by_atol, loose = counts
    assert tight > by_rtol > loose and tight > by_atol > loose
    monkeypatch.setattr(sde, "MOST_CALLS", loose)  # just enough
    assert sde.flow(best, VP(), x, 1.0, 1e-3, 1e-1, 1e-1).calls == loose


def test_the_solver_s_own_tolerances_are_good_for_four_digits():
    schedule, x = VP(), randn(6, 3)
    eps_fn, start = gaussian_eps(0.4, 0.3, schedule), float(schedule.first)
    scale, std = schedule(start)
    mean, deviation = 0.4 * scale, (scale**2 * 0.3 + std**2).sqrt()
    mean_T, deviation_T = 0.4 * schedule(1)[0], (schedule(1)[0] ** 2 * 0.3 + schedule(1)[1] ** 2).sqrt()
    down = sde.flow(eps_fn, schedule, x, 1.0, start).x
    close(down, mean + deviation / deviation_T * (x - mean_T), rtol=1e-4, atol=1e-4)
    prior = lambda x: torch.distributions.Normal(mean_T, deviation_T).log_prob(x).sum(1)  # noqa: E731
    found = sde.likelihood(eps_fn, schedule, down, prior, sde.exact_divergence).log_prob
    close(found, torch.distributions.Normal(mean, deviation).log_prob(down).sum(1), rtol=1e-4, atol=1e-4)


def test_in_half_precision_the_network_is_told_the_time_in_full():
    seen = []

    def eps_fn(x, t):
        seen.append(t)
        return 0 * x

    sde.flow(eps_fn, VP(), randn(2, 3).half(), 1.0, 0.5, 0.1, 0.1)
    assert {t.dtype for t in seen} == {torch.float32} and len({float(t[0]) for t in seen}) > 4


def test_a_flow_that_fails_says_so(monkeypatch):
    x, ones = randn(2, 3), lambda x, t: torch.ones_like(x)
    for start, end in ((1.0, 0.0), (1e-6, 1.0), (2.0, 1e-3)):
        with pytest.raises(ValueError, match=r"live in \[1e-05, 1\].*Data, t = 0, have no score"):
            sde.flow(ones, VP(), x, start, end)
    with pytest.raises(FloatingPointError, match="NaN or infinity at t = 1"):
        sde.flow(lambda x, t: x / torch.tensor([1, 0, 1]), VP(), x, 1.0, 1e-3)
    with pytest.raises(RuntimeError, match="did not converge"):
        sde.flow(lambda x, t: 1e3 * x**3, VP(), 10 * x, 1e-3, 1.0)
    monkeypatch.setattr(sde, "MOST_CALLS", 10)
    with pytest.raises(RuntimeError, match="did not converge in 10 network calls: raise rtol"):
        sde.flow(ones, VP(), x, 1.0, 1e-3, 1e-9, 1e-9)
    with pytest.raises(ValueError, match="a network answered"):
        sde.flow(lambda x, t: x[:1], VP(), x, 1.0, 1e-3)


# --- likelihood


def worlds():
    covariance = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.2]], dtype=torch.float64)
    mean = torch.tensor([[0.5, -0.3, 0.2]], dtype=torch.float64)
    return {"gaussian": GaussianMixture(torch.ones(1), mean, covariance[None]), "mixture": skewed_mixture()}


@pytest.mark.parametrize("world", ["gaussian", "mixture"])
@every_sde
def test_song2021_app_d2_the_flow_s_likelihood_is_log_p_at_its_first_time(name, world):
    """Within 1e-3 nats of log p_t at t = 1e-5, with the exact p_T as prior; the solver is held to 1e-6.

    The prior that one samples from is another density: its error comes on top, and is told by the latents alone.
    """
    schedule, world = SDES[name], worlds()[world]
    now, last_level = schedule(1e-5), schedule(1)
    x = q_sample(world.sample(50, seeded(0))[0], randn(50, world.means.shape[1]), now)
    priors = [lambda x: world.log_prob(x, last_level), sde.normal_prior(schedule)]
    exact, usual = (
        sde.likelihood(world.eps_fn(schedule), schedule, x, prior, sde.exact_divergence, rtol=1e-6, atol=1e-6)
        for prior in priors
    )
    assert float((exact.log_prob - world.log_prob(x, now)).abs().max()) < 1e-3
    assert exact.calls < 500
    off = priors[1](exact.latent) - priors[0](exact.latent)
    close(usual.log_prob - exact.log_prob, off, atol=1e-9)


def test_song2021_app_d2_the_prior_of_ve_is_the_larger_error():
    """|N(0, 50^2) - p_T| for data near 2 grows with the latent: up to a tenth of a nat here, 100 times RK45's error."""
    world, schedule = skewed_mixture(), VE()
    latent = 50 * randn(2000, 2)
    off = sde.normal_prior(schedule)(latent) - world.log_prob(latent, schedule(1))
    assert 0.01 < float(off.abs().mean()) < 0.1


@every_sde
@pytest.mark.parametrize("divergence", [sde.exact_divergence, sde.hutchinson(randn(20, 2, seed=9))])
def test_song2021_app_d2_likelihood_goes_through_a_classifier_s_gradient(name, divergence):
    """Guided at scale 1 the world is its class, eps for eps: the divergence must see the score's own gradient."""
    schedule, world = SDES[name], skewed_mixture()
    score = class_score(lambda x, t: world.log_class(x, schedule(t)), torch.ones(20, dtype=torch.long))
    guided = classifier_guided(world.eps_fn(schedule), score, schedule, 1.0)
    alone = GaussianMixture(torch.ones(1), world.means[1:2], world.covariances[1:2])
    x = alone.sample(20, seeded(0))[0]
    mine, true = (
        sde.likelihood(eps_fn, schedule, x, sde.normal_prior(schedule), divergence)
        for eps_fn in (guided, alone.eps_fn(schedule))
    )
    close(mine.log_prob, true.log_prob, atol=1e-3)


def test_song2021_app_d2_likelihood_from_a_later_time_is_log_p_there():
    schedule, world = VP(), skewed_mixture()
    now = schedule(0.3)
    x = q_sample(world.sample(50, seeded(0))[0], randn(50, 2), now)
    prior = lambda x: world.log_prob(x, schedule(1))  # noqa: E731
    found = sde.likelihood(world.eps_fn(schedule), schedule, x, prior, sde.exact_divergence, 0.3, 1e-6, 1e-6)
    close(found.log_prob, world.log_prob(x, now), atol=1e-4)


def test_a_likelihood_takes_a_divergence_without_autograd():
    def by_differences(field, x):
        steps = 1e-5 * torch.eye(2, dtype=x.dtype)
        parts = [(field(x + h) - field(x - h))[:, i] / 2e-5 for i, h in enumerate(steps)]
        return field(x), sum(parts)

    schedule, world = VP(), skewed_mixture()
    x = world.sample(5, seeded(0))[0]
    found, true = (
        sde.likelihood(world.eps_fn(schedule), schedule, x, sde.normal_prior(schedule), divergence).log_prob
        for divergence in (by_differences, sde.exact_divergence)
    )
    close(found, true, atol=1e-4)


def test_a_likelihood_of_eps_without_gradients_is_refused():
    layer = torch.nn.Linear(2, 2).double()  # its parameters have gradients, x has none
    for eps_fn in (torch.no_grad()(lambda x, t: 0.5 * x), lambda x, t: layer(x.detach())):
        for divergence in (sde.exact_divergence, sde.hutchinson(randn(3, 2))):
            with pytest.raises(ValueError, match="no gradient in x"):
                sde.likelihood(eps_fn, VP(), randn(3, 2), sde.normal_prior(VP()), divergence)


def test_the_normal_prior_is_torch_s():
    x = randn(4, 2, 3)
    true = torch.distributions.Normal(0.0, torch.tensor(50.0, dtype=torch.float64)).log_prob(x).sum((1, 2))
    close(sde.normal_prior(VE())(x), true)


def test_hutchinson1989_variance_of_the_two_probes():
    """2 |S|_F^2 for Gaussian probes, less 2 sum S_ii^2 for Rademacher's, S the symmetric part of the Jacobian."""
    n, D = 40_000, 4
    matrix = randn(D, D)
    symmetric = (matrix + matrix.T) / 2
    x = randn(1, D, seed=1).expand(n, D)
    normal = start_noise(n, (D,), seeded(2)).double()
    both = {"gaussian": normal, "rademacher": normal.sign()}
    frobenius = 2 * float(symmetric.square().sum())
    variances = {"gaussian": frobenius, "rademacher": frobenius - 2 * float(symmetric.diagonal().square().sum())}
    for name, probe in both.items():
        _, found = sde.hutchinson(probe)(lambda x: x @ matrix.T, x)
        assert abs(float(found.mean()) - float(matrix.trace())) < 4 * math.sqrt(variances[name] / n)
        assert abs(float(found.var()) / variances[name] - 1) < 0.05
    there, exact = sde.exact_divergence(lambda x: x @ matrix.T, x[:3])
    close(exact, matrix.trace().expand(3))
    close(there, x[:3] @ matrix.T)


@every_sde
def test_song2021_app_d2_hutchinson_s_likelihood_lies_within_its_own_error(name):
    schedule, world = SDES[name], worlds()["gaussian"]
    point = q_sample(world.sample(1, seeded(0))[0], randn(1, 3), schedule(1e-5))
    x = point.expand(200, 3)
    prior = lambda x: world.log_prob(x, schedule(1))  # noqa: E731
    truth = float(world.log_prob(point, schedule(1e-5)))
    normal = start_noise(200, (3,), seeded(3)).double()
    for probe in (normal, normal.sign()):
        found = sde.likelihood(world.eps_fn(schedule), schedule, x, prior, sde.hutchinson(probe)).log_prob
        error = float(found.std()) / math.sqrt(200)
        assert 0 < error < 1 and abs(float(found.mean()) - truth) < 3 * error + 1e-3  # VE with normal probes: 0.86
    # Rademacher's is exact where the Jacobian is a multiple of the identity.
    round_eps, one = gaussian_eps(0.4, 0.3, schedule), randn(1, 3)
    estimate = sde.likelihood(round_eps, schedule, one, sde.normal_prior(schedule), sde.hutchinson(normal.sign()[:1]))
    exact = sde.likelihood(round_eps, schedule, one, sde.normal_prior(schedule), sde.exact_divergence)
    close(estimate.log_prob, exact.log_prob, rtol=1e-9)


@every_sde
def test_kingma2021_sec4_the_bound_of_a_gaussian_in_closed_form(name):
    """Mean over data N(0.3, 0.2): half log((1 + s^2 SNR_0) / (1 + s^2 SNR_1)), the prior's KL and the decoder."""
    schedule, start, n = SDES[name], 0.01, 10_000
    (scale, std), (scale_T, std_T) = schedule(start), schedule(1)
    snr, snr_T = (scale / std) ** 2, (scale_T / std_T) ** 2
    true = 0.5 * torch.log((1 + 0.2 * snr) / (1 + 0.2 * snr_T)) + 0.5 * snr_T * (0.2 + 0.3**2)
    true += 0.5 * torch.log(2 * math.pi / snr) + 0.5 * 0.2 * scale**2 / (0.2 * scale**2 + std**2)
    x = 0.3 + math.sqrt(0.2) * randn(n, 2)
    noise = noise_source(n, (2,), seeded(1), torch.float64)
    found = sde.variational_bound(gaussian_eps(0.3, 0.2, schedule), schedule, x, noise, 8, start)
    error = float(found.std()) / math.sqrt(n)
    assert error < 0.06 and abs(float(found.mean()) - 2 * float(true)) < 4 * error
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.2)
    assert entropy <= float(true) < entropy + 0.05


@every_sde
@pytest.mark.parametrize(("n", "dtype"), [(1, torch.float64), (3, torch.float64), (2, torch.float32)])
def test_kingma2021_sec4_the_bound_of_known_errors(name, n, dtype):
    """No noise, so each draw is its slice's middle, and |eps - eps_fn|^2 linear in log(std / scale), 0 at the start:
    the midpoint rule is exact. What is left is the prior's KL and the decoder's constant, of one number an item.
    """
    schedule, start = SDES[name], 0.05
    (scale, std), (scale_T, std_T) = schedule(start), schedule(1.0)
    low, high = torch.log(std / scale), torch.log(std_T / scale_T)

    def eps_fn(x, t):
        scale, std = schedule(t)
        return ((std / scale).log() - low).clamp(min=0).sqrt()[:, None].to(x)

    x = randn(n, 1).to(dtype)
    found = sde.variational_bound(eps_fn, schedule, x, lambda: torch.zeros(n, 1, dtype=dtype), 5, start)
    true = (high - low) ** 2 / 2 + low + 0.5 * math.log(2 * math.pi) + 0.5 * (scale_T * x[:, 0].double() / std_T) ** 2
    assert found.dtype == torch.float64
    close(found, true, rtol=1e-9 if dtype == torch.float64 else 1e-5)


# --- controllable generation


def test_song2021_eq14_a_noisy_classifier_s_gradient_leads_to_its_class():
    schedule, world = VP(), skewed_mixture()
    labels = torch.full((2000,), 1)
    score = class_score(lambda x, t: world.log_class(x, schedule(t)), labels)
    guided = classifier_guided(world.eps_fn(schedule), score, schedule, 1.0)
    x = start_noise(2000, (2,), seeded(0)).double()
    end = last(
        predictor_corrector(
            guided, schedule, x, even_times(schedule, 100, 1e-3), sde.reverse_diffusion, generator=seeded(1)
        )
    )
    assert bool((end.mean(0) - world.means[1]).abs().max() < 0.06)
    assert bool((end.T.cov() - world.covariances[1]).abs().max() < 0.06)


def colours():
    """A Gaussian world of 1 x 2 images in three colours: 6 numbers, all of them correlated."""
    factor = randn(6, 6, seed=5) / 3
    mean = randn(1, 6, seed=6) / 2
    return GaussianMixture(torch.ones(1), mean, (factor @ factor.T + 0.05 * torch.eye(6).double())[None])


def conditional(world, basis, coordinates, values):
    """Mean and covariance of the world's other coordinates in an orthonormal basis (rows), given these."""
    mean, cov = basis @ world.means[0], basis @ world.covariances[0] @ basis.T
    others = [i for i in range(len(mean)) if i not in coordinates]
    gain = cov[others][:, coordinates] @ torch.linalg.inv(cov[coordinates][:, coordinates])
    at = mean[others] + gain @ (values - mean[coordinates])
    return others, at, cov[others][:, others] - gain @ cov[coordinates][:, others]


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("kind", ["inpaint", "colourise"])
def test_song2021_app_i_overwriting_nears_the_conditional_of_a_gaussian_as_corrections_mix(name, kind):
    """What is known is kept to the last digit. The rest's mean lies off by less and less."""
    schedule, world, n = SDES[name], colours(), 400
    picture = randn(1, 3, 1, 2, seed=7) / 2
    known, grey = picture.expand(n, 3, 1, 2), picture.mean(1, keepdim=True)
    mask = torch.tensor([True, False]).view(1, 1, 2)
    if kind == "inpaint":  # rows of a basis, the known coordinates in it, and their values
        rows, known_rows, values = torch.eye(6, dtype=torch.float64), [0, 2, 4], picture[0, :, 0, 0]
    else:
        rows = torch.einsum("cd,pq->dpcq", sde.GREY_FIRST, torch.eye(2, dtype=torch.float64)).reshape(6, 6)
        known_rows, values = [0, 1], math.sqrt(3) * grey[0, 0, 0]
    others, mean, cov = conditional(world, rows, known_rows, values)
    x = schedule(1)[1] * start_noise(n, (3, 1, 2), seeded(0)).double()
    gaps = []
    for corrections in (1, 5, 25):
        noise = noise_source(n, (3, 1, 2), seeded(2), torch.float64)
        after = (
            sde.inpaint(known, mask, schedule, noise)
            if kind == "inpaint"
            else sde.colourise(grey.expand(n, 1, 1, 2), schedule, noise)
        )
        eps_fn = lambda x, t: world.eps_fn(schedule)(x.flatten(1), t).view_as(x)  # noqa: E731
        times, step = even_times(schedule, 50, END[name]), sde.level_step(0.5)
        states = predictor_corrector(
            eps_fn, schedule, x, times, sde.reverse_diffusion, step, corrections, after, seeded(1)
        )
        end = last(states).flatten(1) @ rows.T
        close(end[:, known_rows], values.expand(n, -1), rtol=1e-9, atol=1e-12)
        gaps.append(float((end[:, others].mean(0) - mean).norm()))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.5 * gaps[0], gaps
    assert float((end[:, others].T.cov() - cov).abs().max()) < 0.25  # 0.05 of it are 400 samples' own error


def test_song2021_app_i3_colours_get_their_grey_and_keep_their_differences():
    """As a rotation does it whose first axis is grey: at s = 0 all of the known mean, and nothing else, is changed."""
    x, grey = randn(2, 3, 3, 2), randn(2, 1, 3, 2, seed=1)
    noise = noise_source(2, (3, 3, 2), seeded(0), torch.float64)
    out = sde.colourise(grey, VP(), noise)(x, 0.0)
    close(out.mean(1, keepdim=True), grey, rtol=1e-12, atol=1e-14)
    close(out - grey, x - x.mean(1, keepdim=True), rtol=1e-12, atol=1e-14)
    close(sde.GREY_FIRST.T @ sde.GREY_FIRST, torch.eye(3), atol=1e-15)


def test_song2021_app_i2_what_is_known_is_a_fresh_draw_at_its_level():
    schedule, known = VP(), 2 + 0 * randn(20_000, 2)
    after = sde.inpaint(known, torch.tensor([True, False]), schedule, noise_source(20_000, (2,), seeded(0)))
    x = randn(20_000, 2, seed=1)
    scale, std = schedule(0.2)
    once, again = after(x, 0.2), after(x, 0.2)
    close(once[:, 1], x[:, 1])
    close(after(x, 0.0)[:, 0], known[:, 0])
    assert abs(float(once[:, 0].mean() - 2 * scale)) < 4 * std / math.sqrt(20_000)
    assert abs(float(once[:, 0].std() / std) - 1) < 4 / math.sqrt(40_000)
    assert abs(float(torch.corrcoef(torch.stack([once[:, 0], again[:, 0]]))[0, 1])) < 4 / math.sqrt(20_000)


def test_inpainting_denoises_what_is_unknown_too():
    """The published code recomputed the mean from the noisy x, and left the last noise there."""
    schedule, known = VE(), randn(4, 3)
    eps_fn = lambda x, t: x / schedule(t)[1][:, None]  # noqa: E731  # all data at 0
    after = sde.inpaint(
        known, torch.tensor([True, False, False]), schedule, noise_source(4, (3,), seeded(0), torch.float64)
    )
    end = last(
        predictor_corrector(
            eps_fn, schedule, 50 * randn(4, 3), even_times(schedule, 5, 1e-5), sde.reverse_diffusion, None, 1, after
        )
    )
    close(end[:, 0], known[:, 0])
    close(end[:, 1:], torch.zeros(4, 2), atol=1e-12)


def test_the_flow_and_the_bound_carry_no_gradients():
    weight, x = torch.ones(1, dtype=torch.float64, requires_grad=True), randn(2, 1, 1, 4)
    eps_fn = lambda x, t: weight * x  # noqa: E731
    assert not sde.flow(eps_fn, VP(), x, 1.0, 0.5, rtol=1e-3, atol=1e-3).x.requires_grad
    noise = noise_source(2, (1, 1, 4), seeded(0), x.dtype, x.device)
    assert not sde.variational_bound(eps_fn, VP(), x, noise, draws=2).requires_grad


# --- what is refused: see test_fuzz.py

Q = torch.ones(2, 3)


def noise():
    return Q


@pytest.mark.parametrize(
    ("function", "message"),
    [
        *((lambda f=f: f(VP(), Q, Q[:1], 0.5, 0.1), "eps is") for f in (sde.euler_maruyama, sde.reverse_diffusion)),
        *((lambda f=f: f(VP(), Q, Q, 0.5, 0.6), "s = 0.6") for f in (sde.euler_maruyama, sde.flow_euler)),
        (lambda: sde.flow_velocity(VP(), Q, Q[:1], 0.5), "eps is"),
        (lambda: sde.snr_step(math.nan), "snr = nan"),
        (lambda: sde.level_step(-0.1), "snr = -0.1"),
        (lambda: sde.snr_step(0.1)(Q, Q[:1], 1.0), "z is"),
        (lambda: sde.normal_prior(VP())(Q[:0]), "B > 0"),
        (lambda: sde.exact_divergence(torch.sin, Q.long()), "convert it to floats"),
        (lambda: sde.exact_divergence(lambda x: x[:1], Q), "a network answered"),
        (lambda: sde.hutchinson(Q[:1])(torch.sin, Q), "probe is"),
        (lambda: sde.hutchinson(Q)(lambda x: x[:1], Q), "a network answered"),
        (lambda: sde.variational_bound(lambda x, t: x, VP(), Q.long(), noise), "convert it to floats"),
        (lambda: sde.variational_bound(lambda x, t: x, VP(), Q, noise, 0), "draws = 0"),
        (lambda: sde.inpaint(Q[:1], Q > 0, VP(), noise)(Q, 0.5), "known is"),
        (lambda: sde.inpaint(Q, Q[:, :2] > 0, VP(), noise)(Q, 0.5), "mask is .* does not repeat"),
        (lambda: sde.inpaint(Q, Q[None] > 0, VP(), noise)(Q, 0.5), "mask is .* does not repeat"),
        (lambda: sde.inpaint(Q, Q, VP(), noise), "the mask is torch.float32: give bools"),
        (lambda: sde.in_basis(lambda x, s: x, 2 * torch.eye(3)), "not orthonormal"),
        (lambda: sde.in_basis(lambda x, s: x, torch.eye(3)[:2]), "not orthonormal"),
        (lambda: sde.in_basis(lambda x, s: x, torch.eye(3)[:, :2]), "not orthonormal"),
        (lambda: sde.colourise(Q, VP(), noise), r"grey images are \(B, 1, H, W\)"),
        (lambda: sde.in_basis(lambda x, s: x, torch.eye(2))(Q, 0.5), r"a basis is \(C, C\)"),
        (lambda: sde.flow(lambda x, t: x, VP(), Q, 1.0, 0.1, rtol=-1.0), "rtol = -1.0"),
        (lambda: sde.flow(lambda x, t: x, VP(), Q, 1.0, 0.1, atol=-1.0), "atol = -1.0"),
        (lambda: sde.flow(lambda x, t: x, VP(), Q / 0, 1.0, 0.1), "x holds NaN or infinity"),
    ],
)
def test_the_sdes_say_what_they_cannot_answer(function, message):
    with pytest.raises(ValueError, match=message):
        function()


def test_a_basis_turns_points_as_it_does_images():
    keep = sde.in_basis(lambda x, s: 2 * x, sde.GREY_FIRST)
    close(keep(Q, 0.5), 2 * Q, rtol=1e-6)


def test_the_divergence_of_a_constant_is_0():
    for divergence in (sde.exact_divergence, sde.hutchinson(Q)):
        there, spread = divergence(torch.ones_like, 2 * Q)
        close(there, Q)
        close(spread, torch.zeros(2))
