import dataclasses
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from helpers import COSINE, LINEAR, SCHEDULES, close, rand, randn, seeded, skewed_mixture

from ddpm_path.exact import FiniteData
from ddpm_path.schedule import (
    VE,
    VP,
    Discrete,
    SubVP,
    cosine_betas,
    even_times,
    from_zero_based,
    leading_times,
    linear_betas,
    on_schedule,
    quadratic_times,
    ratio_times,
    scaled_linear_betas,
    uniform_times,
)

SCALED = Discrete.from_betas(scaled_linear_betas())


def log_ratio(level):
    return (level[1] / level[0]).log()


def random_times(schedule, n=40, seed=0):
    """n times spread over the schedule: log-uniform towards 0 where it is continuous, fractional where discrete."""
    u = rand(n, seed=seed)
    return 1 + (schedule.T - 1) * u if isinstance(schedule, Discrete) else 10 ** (-5 * u)


# --- betas and tables


def test_ho2020_sec4_linear_betas_run_evenly_from_1e4_to_002():
    betas = linear_betas()
    close(betas, [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)])


def test_ho2020_sec4_alpha_bar_T_of_the_linear_schedule():
    assert LINEAR.T == 1000
    assert abs(float(LINEAR.alpha_bar[-1]) - 4.0358e-5) < 5e-10


def test_ho2020_eq4_alpha_bar_is_the_product_of_the_first_t_alphas():
    betas = linear_betas().tolist()
    assert LINEAR.alpha_bar[0] == 1
    for t in (1, 2, 500, 1000):
        close(LINEAR.alpha_bar[t], math.prod(1 - b for b in betas[:t]))


def test_ho2020_eq4_scale_and_std_are_square_roots():
    t = torch.arange(1001)
    scale, std = LINEAR(t)
    close(scale**2, LINEAR.alpha_bar)
    close(std**2, 1 - LINEAR.alpha_bar, atol=1e-15)


def test_nichol2021_eq17_alpha_bar_is_the_squared_cosine_until_the_clip():
    t = torch.arange(1000, dtype=torch.float64)
    f = ((t / 1000 + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    close(COSINE.alpha_bar[:-1], f / f[0], rtol=1e-10)  # a cumulated product of 1,000 rounded ratios


def test_nichol2021_eq17_betas_equal_diffusers():
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2").betas
    close(cosine_betas(), theirs, atol=2e-8, rtol=2e-7)  # theirs are float32


def test_nichol2021_exactly_one_beta_is_clipped():
    assert int((cosine_betas() == 0.999).sum()) == 1 and cosine_betas()[-1] == 0.999
    assert abs(float(COSINE.alpha_bar[-1]) - 2.43e-9) < 5e-12
    assert abs(float(Discrete.from_betas(cosine_betas(4000)).alpha_bar[-1]) - 1.52e-10) < 5e-13


def test_nichol2021_sec32_offset_keeps_the_first_noise_below_a_pixel():
    assert abs(float(cosine_betas()[0].sqrt()) - 0.00643) < 5e-6  # < 1 / 127.5, the bin of a pixel


def test_rombach2021_roots_of_scaled_linear_betas_are_even_to_float64():
    close(scaled_linear_betas().sqrt(), np.linspace(0.00085**0.5, 0.012**0.5, 1000))


def test_rombach2021_scaled_linear_equals_diffusers():
    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    close(scaled_linear_betas(), theirs.betas, rtol=1e-6)  # theirs are float32
    assert abs(float(SCALED.alpha_bar[-1]) - 0.00466) < 5e-6


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.2, math.nan])
def test_illegal_betas_are_refused(bad):
    betas = linear_betas()
    betas[500] = bad
    with pytest.raises(ValueError, match="beta lies in"):
        Discrete.from_betas(betas)


def test_a_table_without_its_leading_one_is_refused():
    with pytest.raises(ValueError, match="prepend"):
        Discrete(LINEAR.alpha_bar[1:])
    with pytest.raises(ValueError, match="shape"):
        Discrete(LINEAR.alpha_bar[:, None])


def test_a_table_that_keeps_signal_warns_and_the_advice_cures_it():
    with pytest.warns(UserWarning, match=r"linear_betas\(T, 0.1 / T, 20 / T\)"):
        Discrete.from_betas(linear_betas(100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Discrete.from_betas(linear_betas(100, 0.1 / 100, 20 / 100))
        Discrete.from_betas(scaled_linear_betas())


# --- levels


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_0_is_data_exactly(name):
    for zero in (0, 0.0, torch.tensor(0.0), torch.zeros(3), torch.zeros(3, dtype=torch.long)):
        scale, std = SCHEDULES[name](zero)
        assert bool((scale == 1).all()) and bool((std == 0).all())


def test_time_T_is_the_last_entry():
    close(LINEAR(1000)[0], LINEAR.alpha_bar[-1].sqrt())
    close(LINEAR(1000)[1], (1 - LINEAR.alpha_bar[-1]).sqrt())
    close(VE()(1.0)[1], 50.0)
    close(VP()(1.0)[0], math.exp(-(0.1 + 20) / 4))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_a_level_is_float64_and_shaped_like_its_times(name, shape):
    schedule = SCHEDULES[name]
    for dtype in (torch.float32, torch.float64):
        scale, std = schedule(torch.full(shape, 1.0, dtype=dtype))
        assert scale.shape == std.shape == shape and scale.dtype == std.dtype == torch.float64
    assert bool((std == schedule(1.0)[1]).all())


def test_fractional_times_interpolate_log_std_over_scale():
    bar = LINEAR.alpha_bar
    for t in (1, 7, 998, 999):
        low, high = (0.5 * math.log((1 - float(bar[i])) / float(bar[i])) for i in (t, t + 1))
        # 1 - alpha_bar cancels at small t: 1e-16 / 1e-4.
        close(log_ratio(LINEAR(t + 0.25)), 0.75 * low + 0.25 * high, rtol=1e-11)
        scale, std = LINEAR(t + 0.25)
        close(scale**2 + std**2, 1.0)


def test_a_chain_of_one_step_and_of_two():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, two = Discrete(torch.tensor([1, 0.01])), Discrete(torch.tensor([1, 0.5, 0.01], dtype=torch.float64))
    close(one(1)[0], math.sqrt(0.01), rtol=1e-7)  # the table was given in float32
    assert one.time_at(one(1)[1] / one(1)[0]) == 1
    close(log_ratio(two(1.5)), (log_ratio(two(1)) + log_ratio(two(2))) / 2, atol=1e-15)


@pytest.mark.parametrize("t", [1e-3, 0.5, 0.999])
def test_times_between_data_and_the_first_level_are_refused(t):
    with pytest.raises(ValueError, match="0 < t < 1"):
        LINEAR(torch.tensor([0.0, 5.0, t]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_times_outside_the_schedule_are_refused(name):
    schedule = SCHEDULES[name]
    for bad in (-1e-3, schedule.T * 1.001, math.nan, math.inf):
        with pytest.raises(ValueError, match="times lie in"):
            schedule(torch.tensor([0.0, bad]))


@pytest.mark.parametrize("schedule", [VP(), VP(0.2, 10.0), SubVP(), SubVP(0.2, 10.0)])
def test_song2021_eq33_marginals_solve_the_moment_equations(schedule):
    """dm/dt = -beta m / 2 and dv/dt = -beta v + g^2, with g^2 = beta (VP) or beta (1 - e^(-2B)) (sub-VP)."""
    low, high = schedule.beta_min, schedule.beta_max
    t = torch.linspace(1e-3, 1, 50, dtype=torch.float64, requires_grad=True)
    scale, std = schedule(t)
    (d_scale,) = torch.autograd.grad(scale.sum(), t, retain_graph=True)
    (d_var,) = torch.autograd.grad((std**2).sum(), t)
    with torch.no_grad():
        beta, B = low + (high - low) * t, low * t + (high - low) * t**2 / 2
        g2 = beta if isinstance(schedule, VP) else beta * (1 - torch.exp(-2 * B))
        close(d_scale, -beta / 2 * scale, rtol=1e-11)
        close(d_var, -beta * std**2 + g2, rtol=1e-9, atol=1e-12)  # near t = 1 the two terms cancel


def test_song2021_eq9_ve_grows_geometrically_and_jumps_at_0():
    t = torch.linspace(1e-6, 1, 20, dtype=torch.float64)
    scale, std = VE(0.02, 30.0)(t)
    assert bool((scale == 1).all())
    close(std.log(), math.log(0.02) + t * (math.log(30) - math.log(0.02)))
    assert VE()(0.0)[1] == 0 and VE()(1e-12)[1] > 0.0099


def test_song2021_vp_keeps_its_precision_near_0():
    # B(1e-5) = 1e-6 + 9.95e-10; 1 - exp(-B) = B - B^2 / 2 + ...: in float32 without expm1 it is 1.0066e-3.
    B = 0.1e-5 + 0.5 * 19.9e-10
    close(VP()(1e-5)[1], math.sqrt(B - B**2 / 2 + B**3 / 6), rtol=1e-14)
    assert abs(float(VP()(torch.tensor(1e-5))[1]) - 1.0005e-3) < 5e-8  # a float32 time too
    close(SubVP()(1e-5)[1], B - B**2 / 2 + B**3 / 6, rtol=1e-14)


def test_song2021_appB_ddpm_is_the_discretised_vp():
    N = 1000
    betas = linear_betas(N, 0.1 / N, 20 / N)
    close(betas, linear_betas())
    i = torch.arange(N + 1, dtype=torch.float64)
    # First order in 1 / N: 8.1e-4 here; an index off by one doubles it.
    assert float((LINEAR.alpha_bar - VP()(i / N)[0] ** 2).abs().max()) < 8.2e-4


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_at_is_the_inverse_of_the_schedule(name):
    schedule = SCHEDULES[name]
    t = random_times(schedule)
    scale, std = schedule(t)
    found = schedule.time_at(std / scale)
    # A time is only as sharp as log(std / scale), which is known to ~1e-13 and moves by ~1e-3 a step at least.
    close(found, t, rtol=1e-9)
    assert schedule.time_at(float(std[0] / scale[0])).shape == ()


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_at_reaches_both_ends(name):
    schedule = SCHEDULES[name]
    first = 1.0 if isinstance(schedule, Discrete) else 1e-7
    for t in (first, float(schedule.T)):
        scale, std = schedule(t)
        close(schedule.time_at(std / scale), t, rtol=1e-8)


@pytest.mark.parametrize("T", [2, 1000])
def test_time_at_of_a_chain_lets_round_off_pass_at_both_ends(T):
    schedule = LINEAR if T == 1000 else Discrete.from_betas(torch.tensor([0.5, 0.9]))
    ratio = schedule.std[1:] / schedule.scale[1:]
    close(schedule.time_at(ratio[0] * (1 - 5e-10)), 1.0)
    close(schedule.time_at(ratio[-1] * (1 + 5e-10)), float(T))


def test_time_at_of_sigma_min_is_a_noisy_level_not_data():
    # VE jumps from 0 to sigma_min at 0: the level sigma_min belongs to the noise's side of the jump.
    close(VE()(VE().time_at(0.01))[1], 0.01, rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_at_refuses_levels_outside_the_schedule(name):
    schedule = SCHEDULES[name]
    highest = float(schedule(schedule.T)[1] / schedule(schedule.T)[0])
    outside = [1.01 * highest] + ([0.0099] if name in ("linear", "ve") else [])
    for ratio in outside:
        with pytest.raises(ValueError, match=r"asked for|times lie in"):
            schedule.time_at(torch.tensor([1.0, ratio]))


# --- grids


@pytest.mark.parametrize("T", [50, 1000])
@pytest.mark.parametrize("steps", [1, 2, 3, 9, 27, 50, "T"])
def test_uniform_times_are_the_nearest_whole_numbers_to_an_even_grid(T, steps):
    steps = T if steps == "T" else steps
    times = uniform_times(T, steps)
    assert len(times) == steps + 1 and times[0] == T and times[-1] == 0
    assert all(isinstance(t, int) for t in times)
    assert all(t > s for t, s in itertools.pairwise(times))
    assert all(abs(t - T * (steps - i) / steps) <= 0.5 for i, t in enumerate(times))


def test_uniform_times_of_the_readme():
    assert uniform_times(1000, 20) == list(range(1000, -1, -50))


COUNTS = [1, 2, 3, 9, 27, 50, 300, 1000]


@pytest.mark.parametrize("steps", COUNTS)
def test_song2020_leading_times_are_diffusers(steps):
    scheduler = DDIMScheduler(timestep_spacing="leading", steps_offset=0)
    scheduler.set_timesteps(steps)
    assert leading_times(1000, steps) == [*(scheduler.timesteps + 1).tolist(), 0]


def test_song2020_appD2_quadratic_times():
    assert quadratic_times(1000, 10) == [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]
    assert quadratic_times(10, 10) == list(range(10, -1, -1))
    assert quadratic_times(20, 10) == [20, 16, 13, 10, 7, 5, 4, 3, 2, 1, 0]  # 20 (i / 10)^2 = 16.2, ..., 1.8, 0.8, 0.2


@pytest.mark.parametrize("grid", [uniform_times, leading_times, quadratic_times])
@pytest.mark.parametrize("steps", COUNTS)
def test_whole_grids_fall_strictly_to_data_in_as_many_steps_as_asked(grid, steps):
    times = grid(1000, steps)
    assert len(times) == steps + 1 and times[-1] == 0
    assert all(isinstance(t, int) and t > s for t, s in itertools.pairwise(times))
    assert times[0] == 1000 or (grid is leading_times and times[0] == 1 + (steps - 1) * (1000 // steps))


@pytest.mark.parametrize("grid", [uniform_times, leading_times, quadratic_times])
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_whole_grids_refuse_impossible_counts(grid, steps):
    with pytest.raises(ValueError, match="choose between 1 and 1000"):
        grid(1000, steps)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("steps", [1, 2, 9, 50])
def test_ratio_times_are_even_in_std_over_scale(schedule, steps):
    for start in (None, float(schedule.time_at(5.0))):
        times = ratio_times(schedule, steps, start)
        scale, std = schedule(torch.tensor(times, dtype=torch.float64))
        top = 5.0 if start else float(std[0] / scale[0])
        close(std / scale, top * torch.arange(steps, -1, -1).double() / steps, rtol=1e-7, atol=1e-9)
        assert times[-1] == 0 and abs(times[0] - (start or schedule.T)) < 1e-6


def test_ratio_times_refuse_steps_below_the_first_noisy_time_and_none():
    with pytest.raises(ValueError, match="std / scale runs from"):
        ratio_times(LINEAR, 500, float(LINEAR.time_at(4.0)))
    for schedule, steps, start in ((LINEAR, 0, None), (VP(), 4, 0.0)):
        with pytest.raises(ValueError, match="at least 1"):
            ratio_times(schedule, steps, start)
    for T in (1.0, 984.3):
        with pytest.raises(ValueError, match="For continuous time"):
            uniform_times(T, 10)


def test_from_zero_based_asks_a_network_that_counts_from_0():
    x, t = randn(3, 2), torch.tensor([1.0, 500.5, 1000.0])
    seen = []
    answer = from_zero_based(lambda x, index: seen.append(index) or 2 * x)(x, t)
    close(seen[0], t - 1)
    close(answer, 2 * x)
    assert t.tolist() == [1.0, 500.5, 1000.0]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_first_noisy_time_is_legal_and_nearly_data(schedule):
    scale, std = schedule(schedule.first)
    assert 0 < float(std / scale) < 0.011


# --- one schedule's network on another


@pytest.mark.parametrize("pair", list(itertools.permutations(SCHEDULES, 2)), ids="->".join)
def test_a_network_of_one_schedule_is_exact_under_any_other(pair):
    trained, wanted = (SCHEDULES[name] for name in pair)
    world = skewed_mixture()
    ratio = torch.exp(math.log(0.02) + math.log(45 / 0.02) * rand(32, seed=1))  # all five schedules reach these
    t = wanted.time_at(ratio)
    x = wanted(t)[1][:, None] * randn(32, 2, seed=2) + wanted(t)[0][:, None] * world.sample(32, seeded(3))[0]
    got = on_schedule(world.eps_fn(trained), trained, wanted)(x, t)
    # eps is the difference of x and scale x0 over std: cancellation costs 1 / std, times found cost 1e-12.
    close(got, world.eps_fn(wanted)(x, t), rtol=1e-8, atol=1e-9)


def test_on_schedule_rescales_each_image_of_a_batch_by_its_own_factor():
    data = randn(7, 4, 4, 4, seed=3)
    world, t = FiniteData(data), torch.tensor([0.02, 0.1, 0.3, 0.6], dtype=torch.float64)
    x = randn(4, 4, 4, 4, seed=4)
    close(on_schedule(world.eps_fn(LINEAR), LINEAR, VE())(x, t), world.eps_fn(VE())(x, t), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("trained", "wanted", "t"),
    [
        (VE(), LINEAR, 1000.0),
        (VP(), LINEAR, 1000.0),
        (LINEAR, VP(), 1e-6),
        (VE(), VP(), 1e-6),
        (SCALED, LINEAR, 1000.0),
    ],
)
def test_on_schedule_refuses_levels_the_network_never_saw(trained, wanted, t):
    world = skewed_mixture()
    with pytest.raises(ValueError, match=r"asked for|times lie in"):
        on_schedule(world.eps_fn(trained), trained, wanted)(randn(2, 2), torch.full((2,), t))


@pytest.mark.parametrize("kind", [VP, SubVP, VE])
def test_continuous_schedules_are_values(kind):
    """Equal if their numbers are, and never changed under whoever holds them."""
    assert kind() == kind() and kind() != kind(0.2, 21.0) and hash(kind()) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, 0.5)


def test_continuous_schedules_refuse_what_is_none():
    for make in (lambda: VP(20, 0.1), lambda: SubVP(0, 1), lambda: VE(1, 1), lambda: VP(0.1, math.nan)):
        with pytest.raises(ValueError, match=r"0 < (beta|sigma)_min < "):
            make()
    for schedule in (VP(), SubVP(), VE(), LINEAR):
        for ratio in (-1.0, 1e9, math.nan):
            with pytest.raises(ValueError, match=r"std / scale runs from .* asked for"):
                schedule.time_at(ratio)


def test_song2021_app_d1_even_times_run_from_the_start_to_the_last_noise_and_then_to_data():
    times = even_times(VP(), 1000, 1e-3)
    assert len(times) == 1001 and times[0] == 1 and times[-1] == 0
    close(times[:-1], torch.linspace(1, 1e-3, 1000, dtype=torch.float64))
    assert even_times(VP(), 2, 1e-3, 0.5) == [0.5, 1e-3, 0.0]
    for steps, end, start in ((1, 1e-3, 1), (5, 0.0, 1), (5, 0.5, 0.5), (5, 0.1, 1.5)):
        with pytest.raises(ValueError, match="choose at least 2, and 0 < end < start <= T"):
            even_times(VP(), steps, end, start)


@pytest.mark.parametrize("betas", [linear_betas, scaled_linear_betas, cosine_betas])
def test_betas_are_made_of_a_number_of_steps_and_of_shares(betas):
    assert len(betas(1)) == 1
    for arguments, message in (
        ((0,), "T = 0"),
        ((9, -0.1), "= -0.1"),
        ((9, 0.1, 1.1), "= 1.1"),
        ((9, 0.1, math.nan), "= nan"),
    ):
        with pytest.raises(ValueError, match=f"{message}: give a finite number"):
            betas(*arguments)
    for end in (0.0, 1.0):
        assert bool(betas(9, end, end).isfinite().all())
    with pytest.raises(ValueError, match=r"betas are \(T,\), one for each step; got \(3, 1\)"):
        Discrete.from_betas(betas(3)[:, None])


@pytest.mark.parametrize("times", [uniform_times, leading_times, quadratic_times])
def test_whole_grids_are_of_a_chain_of_finite_length(times):
    with pytest.raises(ValueError, match="5 steps on a chain of inf"):
        times(math.inf, 5)
