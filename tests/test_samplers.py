import itertools
import math
import re

import diffusers.schedulers.scheduling_ddpm as theirs
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from helpers import COSINE, LINEAR, close, gaussian_eps, randn, seeded, skewed_mixture

from ddpm_path import samplers
from ddpm_path.exact import FiniteData, GaussianMixture
from ddpm_path.gaussian import ddim_step, fixed_large, fixed_small, posterior, q_sample, x0_from_eps
from ddpm_path.guidance import clip_x0
from ddpm_path.samplers import ancestral, ddim, ddim_invert, last, noise_source, predictor_corrector, start_noise
from ddpm_path.schedule import VE, VP, Discrete, SubVP, linear_betas, uniform_times
from ddpm_path.sde import ancestral_step, level_step

COUNTS = [1, 2, 3, 9, 27, 50, 1000]
VARIANCES = pytest.mark.parametrize("variance", [fixed_small, fixed_large])
EPS = gaussian_eps(0.7, 0.25, LINEAR)


def start(*shape, seed=0):
    return randn(*shape, seed=seed)


# --- where it goes


@pytest.mark.parametrize("steps", COUNTS)
def test_ho2020_alg2_one_network_call_a_step_at_each_time_but_0(steps):
    times, calls = uniform_times(1000, steps), []

    def eps_fn(x, t):
        assert t.shape == (2,) and t[0] == t[1]
        calls.append(float(t[0]))
        return EPS(x, t)

    states = list(ancestral(eps_fn, LINEAR, start(2, 3), times, generator=seeded(0)))
    assert calls == times[:-1] and calls[0] == 1000 and min(calls) >= 1
    assert [state.t for state in states] == times[1:] and states[-1].t == 0
    assert all(state.x.shape == state.x0.shape == (2, 3) and state.x.dtype == torch.float64 for state in states)


@pytest.mark.parametrize("T", [1, 2, 30])
def test_ho2020_alg2_whole_chains_of_other_lengths(T):
    schedule = Discrete.from_betas(torch.linspace(0.95, 0.99, T) if T < 30 else linear_betas(T, 0.1 / T, 20 / T))
    states = list(ancestral(gaussian_eps(0, 1, schedule), schedule, start(2, 3), uniform_times(T, T)))
    assert [s.t for s in states] == list(range(T - 1, -1, -1))


def test_a_late_start_and_an_early_end_visit_what_they_are_told():
    states = list(ancestral(EPS, LINEAR, start(2, 3), [400, 399, 120, 7]))
    assert [s.t for s in states] == [399, 120, 7]


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE()])
def test_continuous_times_are_legal(schedule):
    world, times = gaussian_eps(0.7, 0.25, schedule), [1.0, 0.5, 1e-3, 0.0]
    assert [s.t for s in ancestral(world, schedule, start(2, 3), times)] == times[1:]


def test_each_state_carries_the_x0_estimate_that_led_to_it():
    x = start(4, 3)
    for t, state in zip([900, 500, 20], ancestral(EPS, LINEAR, x, [900, 500, 20, 0]), strict=True):
        close(state.x0, x0_from_eps(x, EPS(x, torch.full((4,), float(t))), LINEAR(t)))
        x = state.x


# --- what it does


@VARIANCES
def test_ho2020_alg2_no_noise_at_the_last_step(variance):
    *_, before, end = ancestral(EPS, LINEAR, start(4, 3), [1000, 600, 1, 0], variance, generator=seeded(1))
    mean, _ = posterior(end.x0, before.x, LINEAR(1), LINEAR(0))
    close(end.x, mean)
    close(end.x, end.x0)


@VARIANCES
def test_one_step_lands_on_the_estimate_of_x0(variance):
    x = start(4, 3)
    (only,) = ancestral(EPS, LINEAR, x, [1000, 0], variance)
    scale, std = LINEAR(1000)
    close(only.x, (x - std * EPS(x, torch.full((4,), 1000.0))) / scale, rtol=1e-10)


@VARIANCES
@pytest.mark.parametrize(("t", "s"), [(1000, 999), (2, 1), (500, 100)])
def test_ho2020_alg2_a_step_is_mean_plus_root_variance_times_noise(variance, t, s):
    """Mean and variance spelled out in betas; the noise is what the sampler's own source draws."""
    betas = [0.0, *linear_betas().tolist()]
    bar_t, bar_s = (math.prod(1 - b for b in betas[1 : n + 1]) for n in (t, s))
    alpha = bar_t / bar_s
    x = start(4, 3)
    eps = EPS(x, torch.full((4,), float(t)))
    mean = (x - (1 - alpha) / math.sqrt(1 - bar_t) * eps) / math.sqrt(alpha)  # eq. 11
    var = (1 - alpha) * ((1 - bar_s) / (1 - bar_t) if variance is fixed_small else 1)
    z = noise_source(4, (3,), seeded(9), torch.float64)()
    (state,) = ancestral(EPS, LINEAR, x, [t, s], variance, generator=seeded(9))
    close(state.x, mean + math.sqrt(var) * z, rtol=1e-9, atol=1e-10)


def chain_moments(times, variance, mu, data_var, x_mean, x_var):
    """Mean and variance of x_0 when every step is affine in x: the closed form of the whole chain, in plain floats."""
    bars = [float(LINEAR.alpha_bar[t]) for t in times]
    for bar_t, bar_s in itertools.pairwise(bars):
        v, alpha = bar_t * data_var + 1 - bar_t, bar_t / bar_s
        # E[x_0 | x_t] = mu + sqrt(bar) s^2 / v (x - sqrt(bar) mu), put into eq. 7.
        gain = math.sqrt(bar_t) * data_var / v
        on_x0 = math.sqrt(bar_s) * (1 - alpha) / (1 - bar_t)
        on_x = math.sqrt(alpha) * (1 - bar_s) / (1 - bar_t)
        a, b = on_x0 * gain + on_x, on_x0 * (1 - gain * math.sqrt(bar_t)) * mu
        noise = 0 if bar_s == 1 else (1 - alpha) * ((1 - bar_s) / (1 - bar_t) if variance is fixed_small else 1)
        x_mean, x_var = a * x_mean + b, a**2 * x_var + noise
    return x_mean, x_var


@VARIANCES
@pytest.mark.parametrize("steps", COUNTS)
def test_ho2020_alg2_moments_of_the_chain_on_gaussian_data_exactly(variance, steps, monkeypatch):
    """No Monte Carlo: the chain is affine in its start and in every noise, so feed it one impulse at a time.

    Sample 0 gets none (its end is the mean), sample 1 starts at 1, sample 2 + i gets noise 1 at step i.
    """
    times, mu, var = uniform_times(1000, steps), 0.7, 0.25
    drawn = itertools.count(2)

    def impulses(n, shape, *args):
        return lambda: torch.eye(n, dtype=torch.float64)[next(drawn)].view(n, 1)

    monkeypatch.setattr(samplers, "noise_source", impulses)
    x = torch.zeros(steps + 2, 1, dtype=torch.float64)
    x[1] = 1
    end = last(ancestral(gaussian_eps(mu, var, LINEAR), LINEAR, x, times, variance))[:, 0]
    mean, variance_found = end[0], (end[1:] - end[0]).square().sum()
    true_mean, true_variance = chain_moments(times, variance, mu, var, 0.0, 1.0)
    close(mean, true_mean, rtol=1e-9)
    close(variance_found, true_variance, rtol=1e-9)
    assert next(drawn) == 2 + steps - 1  # one draw a step, none for the last


def test_ho2020_sec32_fixed_large_walks_back_exactly_through_standard_normal_data():
    """For N(mu, 1) data the marginals are N(sqrt(bar) mu, 1); from the exact x_T the chain keeps them to the end.

    The noise-free last step leaves Var(E[x_0 | x_1]) = alpha_bar_1. These are truths about the data, not the chain.
    """
    bar = LINEAR.alpha_bar
    mean, var = chain_moments(uniform_times(1000, 1000), fixed_large, 1.3, 1.0, math.sqrt(float(bar[-1])) * 1.3, 1.0)
    close(torch.tensor(mean, dtype=torch.float64), 1.3, rtol=1e-9)
    close(torch.tensor(var, dtype=torch.float64), float(bar[1]), rtol=1e-9)


def test_ho2020_alg2_recovers_a_mixture():
    """1,000 steps with the exact eps, 4,000 points."""
    world, exact = skewed_mixture(), skewed_mixture().eps_fn(LINEAR)
    states = ancestral(
        lambda x, t: exact(x, t[:1]), LINEAR, start(4000, 2), uniform_times(1000, 1000), generator=seeded(3)
    )  # one level serves the batch
    x = last(states)
    n, seen = len(x), world.log_class(x, (1.0, 0.0)).argmax(1)
    for k in range(3):
        ours, w, C = x[seen == k], float(world.weights[k]), world.covariances[k]
        # 3.5 standard errors, and what else is known to differ: points near a border are given to the wrong component
        # (under 1 %), and fixed_small at 1,000 steps leaves a variance of 0.02 too small by about 2 %.
        assert abs(len(ours) / n - w) < 3.5 * math.sqrt(w * (1 - w) / n) + 0.005
        assert bool(((ours.mean(0) - world.means[k]).abs() < 3.5 * (C.diagonal() / len(ours)).sqrt() + 0.01).all())
        error = ((C.diagonal()[:, None] * C.diagonal() + C**2) / len(ours)).sqrt()
        assert bool(((ours.T.cov() - C).abs() < 3.5 * error + 0.03 * C.diagonal().max()).all())


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [50, 1000])
@VARIANCES
def test_ho2020_alg2_equals_diffusers(variance, steps, clip, monkeypatch):
    """Data of deviation 1 make clipping bite. Their tables are float32: 6e-5 of relative error over a full chain.

    Their strided fixed_large adds noise on arriving at the data, which we never do: it is fed zeros there.
    """
    x, eps_fn = start(8, 1, 4, 4), gaussian_eps(0.3, 1.0, LINEAR)
    name = "fixed_small" if variance is fixed_small else "fixed_large"
    scheduler = theirs.DDPMScheduler(1000, variance_type=name, clip_sample=clip, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    draw = noise_source(8, (1, 4, 4), seeded(5), torch.float64)
    image = x
    for index in scheduler.timesteps:  # index 0 is t = 1
        z = draw() if index > scheduler.timesteps[-1] else torch.zeros_like(x)
        monkeypatch.setattr(theirs, "randn_tensor", lambda *args, z=z, **kwargs: z)
        image = scheduler.step(eps_fn(image, torch.full((8,), float(index) + 1)), int(index), image).prev_sample
    ours = clip_x0(eps_fn, LINEAR) if clip else eps_fn
    end = last(ancestral(ours, LINEAR, x, uniform_times(1000, steps), variance, generator=seeded(5)))
    assert float((end - image).abs().max() / image.abs().max()) < 6e-5
    assert (float(end.abs().max()) <= 1) == clip


# --- hooks


def test_shift_is_given_the_steps_mean_and_variance_and_has_the_last_word():
    x, seen = start(4, 3), []

    def shift(x, t, mean, var):
        seen.append((x, t, mean, var))
        return mean + 10

    (state,) = ancestral(EPS, LINEAR, x, [500, 300], fixed_large, shift=shift, generator=seeded(2))
    (plain,) = ancestral(EPS, LINEAR, x, [500, 300], fixed_large, generator=seeded(2))
    ((x_seen, t, mean, var),) = seen
    close(x_seen, x)
    assert t.tolist() == [500.0] * 4
    close(mean, posterior(plain.x0, x, LINEAR(500), LINEAR(300))[0])
    close(var, fixed_large(LINEAR(500), LINEAR(300)))
    close(state.x, plain.x + 10)
    close(state.x0, plain.x0)


def test_shift_acts_at_the_last_step_too():
    (state,) = ancestral(EPS, LINEAR, start(4, 3), [500, 0], shift=lambda x, t, mean, var: mean + 10 + var)
    close(state.x, state.x0 + 10)  # var is 0 there


def test_dhariwal2021_alg1_shift_by_the_class_gradient_finds_the_class():
    """mean + var * grad log p_t(k | x), with the exact classifier: samples of class k alone, from the world of all."""
    means, wide = torch.tensor([[2.0, 0.0], [-2.0, 1.0]]).double(), 0.2 * torch.eye(2, dtype=torch.float64)
    world = GaussianMixture(torch.tensor([0.5, 0.5]), means, wide.expand(2, 2, 2))

    def shift(x, t, mean, var):
        return mean + var * (world.component(1).score(x, LINEAR(t)) - world.score(x, LINEAR(t)))

    x = last(ancestral(world.eps_fn(LINEAR), LINEAR, start(200, 2), uniform_times(1000, 250), shift=shift))
    # Standard error sqrt(0.2 / 200) = 0.032; the first-order shift at 250 steps and N(0, I) for x_T cost some more.
    assert bool(((x.mean(0) - means[1]).abs() < 0.2).all())


def test_after_is_given_s_once_the_noise_is_in_and_its_answer_goes_on():
    seen, fed = [], []

    def after(x, s):
        seen.append((x.clone(), s))
        return x + 5

    def eps_fn(x, t):
        fed.append(x)
        return EPS(x, t)

    states = list(ancestral(eps_fn, LINEAR, start(4, 3), [500, 300, 0], after=after, generator=seeded(2)))
    first = next(ancestral(EPS, LINEAR, start(4, 3), [500, 300], generator=seeded(2)))
    assert [s for _, s in seen] == [300, 0]
    close(seen[0][0], first.x)
    close(fed[1], first.x + 5)
    for state, (x, _) in zip(states, seen, strict=True):
        close(state.x, x + 5)


# --- randomness


def test_sample_k_does_not_depend_on_the_batch():
    """Bit for bit, with an eps_fn of sums and products alone (a vectorised sigmoid may differ from a lone one)."""

    def eps_fn(x, t):
        return 0.3 * x + t[:, None, None] / 4000

    x, times = start(7, 3, 4), uniform_times(1000, 60)  # more steps than noise is drawn ahead
    whole = last(ancestral(eps_fn, LINEAR, x, times, generator=seeded(4)))
    for n in (1, 3):
        assert torch.equal(last(ancestral(eps_fn, LINEAR, x[:n], times, generator=seeded(4))), whole[:n])


@pytest.mark.parametrize("shape", [(5,), (2, 15, 15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_of_sample_k_does_not_depend_on_the_batch_and_has_its_dtype(shape, dtype):
    few, many = noise_source(2, shape, seeded(1), dtype), noise_source(40, shape, seeded(1), dtype)
    draws = []
    for _ in range(60):  # more than are drawn ahead
        a, b = few(), many()
        assert a.dtype == dtype and a.shape == (2, *shape) and torch.equal(a, b[:2])
        draws.append(b.flatten())
    assert len(torch.cat(draws).unique()) > 0.99 * torch.cat(draws).numel()  # nothing comes twice, float32 ties apart


def test_start_noise_of_sample_k_does_not_depend_on_the_batch():
    assert torch.equal(start_noise(2, (1, 4, 4), seeded(1)), start_noise(9, (1, 4, 4), seeded(1))[:2])
    assert start_noise(2, (1, 4, 4)).shape == (2, 1, 4, 4)


def test_noise_is_standard_normal_across_samples_draws_and_numbers():
    draw = noise_source(4000, (4,), seeded(1), torch.float64)
    z = torch.cat([draw(), draw()], 1)  # (4000, 8): any two columns independent, any two samples too
    n = len(z)
    assert bool((z.mean(0).abs() < 4.5 / math.sqrt(n)).all())
    assert bool(((z.T.cov() - torch.eye(8, dtype=torch.float64)).abs() < 4.5 * math.sqrt(2 / n)).all())
    assert abs(float((z[1:] * z[:-1]).mean())) < 4.5 / math.sqrt(8 * n)  # neighbouring seeds are unrelated
    assert abs(float((z**4).mean()) - 3) < 4.5 * math.sqrt(96 / (8 * n))
    assert len(z[:, 0].unique()) == n


def test_a_generator_advances_from_call_to_call_and_repeats_from_its_seed():
    def run(generator):
        return last(ancestral(EPS, LINEAR, start(2, 3), [1000, 500, 0], generator=generator))

    one = seeded(0)
    first, second = run(one), run(one)
    assert not torch.equal(first, second)
    assert torch.equal(first, run(seeded(0))) and not torch.equal(first, run(seeded(1)))
    one = seeded(0)
    assert not torch.equal(start_noise(2, (3,), one), start_noise(2, (3,), one))


def test_no_two_seeds_draw_alike():
    """The streams' roots are of 62 bits: of 500 seeds none meets another."""
    drawn = torch.cat([start_noise(1, (1,), seeded(k)) for k in range(500)])
    assert len(drawn.unique()) == 500


def test_without_a_generator_torchs_own_seed_decides():
    with torch.random.fork_rng():
        runs = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            runs.append(last(ancestral(EPS, LINEAR, start(2, 3), [1000, 500, 0])))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# --- manners


def corrected(eps_fn, schedule, x, times):
    return predictor_corrector(eps_fn, schedule, x, times, ancestral_step(fixed_small), level_step(0.1))


@pytest.mark.parametrize("sampler", [ancestral, ddim, corrected, ddim_invert])
def test_gradients_are_off_inside_and_left_alone_outside(sampler):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def eps_fn(x, t):
        assert not torch.is_grad_enabled()
        return weight * x

    times = [0, 500, 1000] if sampler is ddim_invert else [1000, 500, 0]
    for state in sampler(eps_fn, LINEAR, start(2, 3), times):
        assert torch.is_grad_enabled() and not state.x.requires_grad
    assert torch.is_grad_enabled()


def test_the_start_is_not_written_to():
    x = start(2, 3)
    last(ancestral(EPS, LINEAR, x, [1000, 500, 0]))
    assert torch.equal(x, start(2, 3))


@pytest.mark.parametrize(
    "times",
    [
        *([0, 500, 1000], [1000, 500, 500, 0], [1000, 400, 500, 0], [1000], []),
        *(1000, None, [1000.5, 0], [1000, -1], [1000, 0.5, 0], [math.nan, 0], [1000, math.nan, 0]),
    ],
)
def test_bad_times_are_refused_at_the_call(times):
    with pytest.raises(ValueError, match=r"times|0 < t < 1"):
        ancestral(EPS, LINEAR, start(2, 3), times)  # not iterated


def test_a_long_list_of_bad_times_is_told_by_its_ends():
    for times, shown in (
        ([3, 4, 5, 6, 7, 8], "[3, 4, 5, 6, 7, 8]"),
        ([2, 3, 4, 5, 6, 7, 8], "[2, 3, 4, ..., 7, 8]"),
        (1000, "1000"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"say; got {shown}") + "$"):
            ancestral(EPS, LINEAR, start(2, 3), times)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.long), "floats"),
        (torch.zeros(2), "batch"),
        (torch.tensor([[0.0, math.nan]]), "NaN"),
        (torch.tensor([[0.0, math.inf]]), "infinity"),
    ],
)
def test_a_bad_start_is_refused_at_the_call(x, words):
    with pytest.raises(ValueError, match=words):
        ancestral(EPS, LINEAR, x, [1000, 0])


@pytest.mark.parametrize("answer", [torch.zeros(2, 6).double(), torch.zeros(2, 3), torch.zeros(3).double()])
def test_an_eps_of_another_shape_or_dtype_is_refused(answer):
    with pytest.raises(ValueError, match="a network answered"):
        next(ancestral(lambda x, t: answer, LINEAR, start(2, 3), [1000, 0]))


def test_last_answers_the_last_x_and_refuses_a_spent_sampler():
    states = ancestral(EPS, LINEAR, start(2, 3), [1000, 500, 0], generator=seeded(0))
    *_, true = ancestral(EPS, LINEAR, start(2, 3), [1000, 500, 0], generator=seeded(0))
    assert torch.equal(last(states), true.x)
    with pytest.raises(ValueError, match="already run"):
        last(states)


def test_cosine_schedule_survives_its_nearly_blind_end():
    """alpha_bar_T = 2.4e-9: x_0 is a small difference divided by 5e-5, and float64 keeps it."""
    x = q_sample(torch.full((4, 3), 0.7, dtype=torch.float64), start(4, 3), COSINE(1000))
    states = list(ancestral(gaussian_eps(0.7, 1e-6, COSINE), COSINE, x, uniform_times(1000, 50)))
    close(states[0].x0, torch.full((4, 3), 0.7), atol=1e-4, rtol=0)
    close(states[-1].x, torch.full((4, 3), 0.7), atol=0.005, rtol=0)


def test_times_may_be_a_tensor_or_an_array_and_come_back_as_numbers():
    for times in (torch.tensor([1000, 500, 0]), np.array([1000, 500, 0]), (1000, 500, 0)):
        seen = [state.t for state in ancestral(EPS, LINEAR, start(2, 3), times, generator=seeded(0))]
        assert seen == [500, 0] and all(type(t) is int for t in seen)
    for times in (torch.tensor([[1000, 0]]), [[1000], [0]]):
        with pytest.raises(ValueError, match="times must fall strictly"):
            ancestral(EPS, LINEAR, start(2, 3), times)


def test_no_samples_are_refused_and_bare_numbers_are_not():
    for n, shape in ((0, (2,)), (3, (0, 2))):
        with pytest.raises(ValueError, match="both must be at least 1"):
            start_noise(n, shape)
    with pytest.raises(ValueError, match="ask for floats"):
        noise_source(3, (2,), dtype=torch.int64)
    assert start_noise(3, ()).shape == (3,)


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 27, 50, 1000])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_song2020_eq12_eq16_eta_1_is_ddpm_on_any_subset_of_the_chain(schedule, steps):
    eps_fn, times, x = skewed_mixture().eps_fn(schedule), uniform_times(1000, steps), start(5, 2)
    calls = []
    counted = lambda x, t: calls.append(t[0].item()) or eps_fn(x, t)  # noqa: E731
    ours = list(ddim(counted, schedule, x, times, eta=1.0, generator=seeded(3)))
    theirs = list(ancestral(eps_fn, schedule, x, times, generator=seeded(3)))
    assert calls == times[:-1] and [state.t for state in ours] == times[1:]
    for a, b in zip(ours, theirs, strict=True):
        close(a.x, b.x, rtol=1e-7, atol=1e-8)  # sqrt(std_s^2 - sigma^2) cancels at the cosine's blind end
        close(a.x0, b.x0, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("level", [(LINEAR(700), LINEAR(200)), (VE()(0.9), VE()(0.3)), (SubVP()(0.8), SubVP()(0.2))])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.5, 100.0])
def test_song2020_eq7_keeps_the_marginal_for_every_eta(level, eta):
    """With the true x_0 and eps, x_s has mean scale_s x_0 and variance std_s^2: linear in (eps, noise)."""
    now, then = level
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    close(ddim_step(one, zero, now, then, eta, zero), then[0].view(1, 1))
    from_eps, from_noise = ddim_step(zero, one, now, then, eta, zero), ddim_step(zero, zero, now, then, eta, one)
    close(from_eps**2 + from_noise**2, (then[1] ** 2).view(1, 1), rtol=1e-12)
    asked = eta * fixed_small(now, then).sqrt().view(1, 1)
    close(from_noise, torch.minimum(asked, then[1].view(1, 1)), rtol=1e-12)


def test_song2020_gaussian_data_shrink_by_the_factor_of_each_step():
    """Data N(mu, s^2): a step multiplies the deviation from the mean by a known factor, and always under-disperses."""
    mu, var = 0.7, 0.25
    times, x = uniform_times(1000, 20), start(4, 1)
    bars = LINEAR.alpha_bar
    expected = x - bars[1000].sqrt() * mu
    for t, s, state in zip(times, times[1:], ddim(gaussian_eps(mu, var, LINEAR), LINEAR, x, times), strict=False):
        v, v_next = bars[t] * var + 1 - bars[t], bars[s] * var + 1 - bars[s]
        factor = ((bars[t] * bars[s]).sqrt() * var + ((1 - bars[t]) * (1 - bars[s])).sqrt()) / v
        assert factor <= (v_next / v).sqrt() + 1e-12
        expected = expected * factor
        close(state.x - bars[s].sqrt() * mu, expected, rtol=1e-9, atol=1e-12)


def test_the_fresher_the_noise_the_narrower_are_gaussian_data():
    """All is linear: what a step makes of a deviation and of fresh noise gives the variance of all samples."""
    ends = []
    for eta in (0.0, 0.5, 1.0, 1.5, 2.0):
        eps_fn, times, var = gaussian_eps(0.0, 0.25, LINEAR), uniform_times(1000, 50), 1.0
        for t, s in itertools.pairwise(times):
            x, noise = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
            eps = eps_fn(x, torch.full((2,), float(t)))
            kept, fresh = ddim_step(x0_from_eps(x, eps, LINEAR(t)), eps, LINEAR(t), LINEAR(s), eta, noise)
            var = float(kept**2 * var + fresh**2)
        ends.append(var)
    assert ends[0] < 0.25 and all(more < less - 0.005 for less, more in itertools.pairwise(ends))


def test_song2020_the_finite_set_is_walked_to_its_own_points():
    data = randn(20, 3, seed=5)
    ends = last(ddim(FiniteData(data).eps_fn(LINEAR), LINEAR, start(64, 3), uniform_times(1000, 1000)))
    close(torch.cdist(ends, data).amin(1), torch.zeros(64), atol=1e-6)


@pytest.mark.parametrize("steps", [1000, 50, 30])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_equals_diffusers(steps, eta):
    """Leading spacing from 1000 - 1000 / steps down, alpha_bar = 1 at the end; ours is handed their float32 table.

    With noise theirs also rounds 1 - alpha_bar_t / alpha_bar_s, 1e-3 at 1,000 steps, to float32: 2e-6 in the end.
    """
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading", steps_offset=0)
    scheduler.set_timesteps(steps)
    schedule = Discrete(torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double())
    eps_fn, stride = skewed_mixture().eps_fn(schedule), 1000 // steps
    times = [i * stride + 1 for i in reversed(range(steps))]  # their 0-based indices, plus one
    assert (scheduler.timesteps + 1).tolist() == times
    x = theirs_x = start(4, 2)
    draw = noise_source(4, (2,), seeded(8), torch.float64)
    for t in times:
        noise = draw() if t != 1 and eta > 0 else torch.zeros(4, 2, dtype=torch.float64)
        eps = eps_fn(theirs_x, torch.full((4,), float(t)))
        theirs_x = scheduler.step(eps, t - 1, theirs_x, eta=eta, variance_noise=noise).prev_sample
    ours = last(ddim(eps_fn, schedule, x, [*times, 0], eta, generator=seeded(8)))
    assert float((ours - theirs_x).abs().max() / theirs_x.abs().max()) < (4e-6 if eta else 8e-7)


def test_a_negative_eta_is_refused_at_the_call():
    for eta in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"eta = .*: give a finite number from 0"):
            ddim(EPS, LINEAR, start(2, 3), [1000, 0], eta)


def test_ddim_calls_after_and_draws_nothing_when_deterministic():
    seen = []
    states = ddim(EPS, LINEAR, start(2, 3), [1000, 400, 0], after=lambda x, s: seen.append(s) or x + 1)
    plain = list(ddim(EPS, LINEAR, start(2, 3), [1000, 400]))
    first = next(states)
    close(first.x, plain[0].x + 1)
    list(states)
    assert seen == [400, 0]
    for generator in (seeded(3), torch.default_generator):
        before = generator.get_state()
        list(ddim(EPS, LINEAR, start(2, 3), [1000, 400], generator=generator))
        assert torch.equal(generator.get_state(), before)
