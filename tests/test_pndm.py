"""The multistep samplers: pseudo Runge-Kutta, F-PNDM, S-PNDM and PLMS."""

import math
import weakref
from functools import partial

import pytest
import torch
from diffusers import PNDMScheduler
from helpers import COSINE, LINEAR, SCHEDULES, close, gaussian_eps, randn, seeded, skewed_mixture

from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.gaussian import q_sample, x0_from_eps
from ddpm_path.samplers import (
    ADAMS_BASHFORTH,
    ancestral,
    ddim,
    ddim_first,
    f_pndm,
    halfway_in_ratio,
    halfway_in_time,
    last,
    plms,
    pseudo_runge_kutta,
    s_pndm,
)
from ddpm_path.schedule import VE, VP, Discrete, leading_times, linear_betas, ratio_times, uniform_times

SAMPLERS = {"f_pndm": f_pndm, "s_pndm": s_pndm, "plms": plms, "pseudo_runge_kutta": pseudo_runge_kutta}
EACH = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
EPS = gaussian_eps(0.7, 0.25, LINEAR)


def recording(eps_fn, calls):
    def recorded(x, t):
        assert bool((t == t[0]).all())
        calls.append(float(t[0]))
        return eps_fn(x, t)

    return recorded


def phi(x, e, bar, bar_next):
    """The paper's transfer [Liu 2022, eq. 11], in its own variables."""
    root = bar.sqrt() * (((1 - bar_next) * bar).sqrt() + ((1 - bar) * bar_next).sqrt())
    return (bar_next / bar).sqrt() * x - (bar_next - bar) / root * e


@pytest.mark.parametrize(("t", "s"), [(1000, 950), (600, 100), (2, 1), (1, 0), (300, 299)])
def test_liu2022_eq11_the_transfer_is_the_step_of_ddim(t, s):
    x, e, now, then = randn(4, 3, seed=1), randn(4, 3, seed=2), LINEAR(t), LINEAR(s)
    by_paper = phi(x, e, LINEAR.alpha_bar[t], LINEAR.alpha_bar[s])
    close(by_paper, q_sample(x0_from_eps(x, e, now), e, then), rtol=1e-11, atol=1e-12)
    close(by_paper, last(ddim(lambda x, t: e, LINEAR, x, [t, s])), rtol=1e-11, atol=1e-12)


# --- convergence [Liu 2022, theorem 3.2]: Gaussian data, whose ODE is solved in closed form


def ode(x, data_var, start, end):
    """Where the probability-flow ODE takes x for data N(0, data_var): each quantile stays where it is."""
    root = [(scale**2 * data_var + std**2).sqrt() for scale, std in (start, end)]
    return x * root[1] / root[0]


def measured_order(sampler, grid):
    """The order from 320 to 640 steps, where the table of the facts was read off."""
    schedule, x = VP(), torch.tensor([[1.3]], dtype=torch.float64)
    truth = ode(x, 0.25, schedule(0.6), schedule(0.1))
    errors = [
        float((last(sampler(gaussian_eps(0.0, 0.25, schedule), schedule, x, grid(n))) - truth).abs())
        for n in (320, 640)
    ]
    return math.log2(errors[0] / errors[1])


def even_times(n):
    return torch.linspace(0.6, 0.1, n + 1, dtype=torch.float64)


def even_ratios(n):
    first, final = (float(std / scale) for scale, std in map(VP(), (0.6, 0.1)))
    return VP().time_at(torch.linspace(first, final, n + 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("sampler", "order"), [(ddim, 1.00), (s_pndm, 1.99), (f_pndm, 2.00), (plms, 2.00), (pseudo_runge_kutta, 2.00)]
)
def test_liu2022_orders_on_a_grid_even_in_time(sampler, order):
    assert abs(measured_order(sampler, even_times) - order) < 0.05


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        *((ddim, 1.00), (s_pndm, 1.98), (f_pndm, 4.14), (plms, 4.14)),
        (partial(pseudo_runge_kutta, halfway=halfway_in_ratio), 3.99),
    ],
)
def test_liu2022_orders_on_a_grid_even_in_ratio(sampler, order):
    assert abs(measured_order(sampler, even_ratios) - order) < 0.05


def test_adams_bashforth_weights_extrapolate_polynomials_exactly():
    """Order n integrates every polynomial of degree below n over the next step of length 1, from its last n values."""
    for n, weights in ADAMS_BASHFORTH.items():
        assert len(weights) == n
        for degree in range(n):
            estimate = sum(w * (-k) ** degree for k, w in enumerate(weights))
            assert abs(estimate - 1 / (degree + 1)) < 1e-13


@EACH
def test_a_constant_eps_makes_every_method_ddim(sampler):
    e, x, times = randn(4, 3, seed=2), randn(4, 3, seed=1), uniform_times(1000, 12)
    ours, plain = sampler(lambda x, t: e, LINEAR, x, times), ddim(lambda x, t: e, LINEAR, x, times)
    for a, b in zip(ours, plain, strict=True):
        assert a.t == b.t
        close(a.x, b.x, rtol=1e-9, atol=1e-11)
        close(a.x0, b.x0, rtol=1e-9, atol=1e-11)


# --- against an independent implementation


@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize(("sampler", "skip", "more"), [(f_pndm, False, 9), (plms, True, 1)])
def test_liu2022_alg2_pndm_equals_diffusers(sampler, skip, more, steps, to_data):
    """Both modes, to alpha_bar = 1 and to their index 0; ours is handed their float32 table."""
    scheduler = PNDMScheduler(skip_prk_steps=skip, set_alpha_to_one=to_data, steps_offset=0)
    schedule = Discrete(torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double())
    eps_fn, x = skewed_mixture().eps_fn(schedule), randn(8, 2, seed=3)
    scheduler.set_timesteps(steps)
    image = x
    for index in scheduler.timesteps:
        eps = eps_fn(image, torch.full((8,), float(index) + 1))
        image = scheduler.step(eps, int(index), image).prev_sample

    calls = []
    times = leading_times(1000, steps) if to_data else leading_times(1000, steps)[:-1]  # theirs then stays where it is
    ours = last(sampler(recording(eps_fn, calls), schedule, x, times))
    assert float((ours - image).abs().max() / image.abs().max()) < 4e-7
    assert len(calls) == steps + more - (not to_data)
    if to_data:
        assert [t - 1 for t in calls] == scheduler.timesteps.tolist()


# --- by hand


def test_liu2022_eq13_one_pseudo_runge_kutta_step():
    x, bars = randn(4, 3, seed=1), LINEAR.alpha_bar
    ask = lambda x, t: EPS(x, torch.full((4,), float(t)))  # noqa: E731
    e1 = ask(x, 600)
    e2 = ask(phi(x, e1, bars[600], bars[400]), 400)
    e3 = ask(phi(x, e2, bars[600], bars[400]), 400)
    e4 = ask(phi(x, e3, bars[600], bars[200]), 200)
    mean = (e1 + 2 * e2 + 2 * e3 + e4) / 6
    for sampler in (f_pndm, pseudo_runge_kutta):
        (state,) = sampler(EPS, LINEAR, x, [600, 200])
        close(state.x, phi(x, mean, bars[600], bars[200]), rtol=1e-10)
        close(state.x0, x0_from_eps(x, mean, LINEAR(600)), rtol=1e-12)


def test_liu2022_s_pndm_one_improved_euler_step_then_two_point_steps():
    x, bars = randn(4, 3, seed=1), LINEAR.alpha_bar
    ask = lambda x, t: EPS(x, torch.full((4,), float(t)))  # noqa: E731
    e1 = ask(x, 600)
    first = phi(x, (e1 + ask(phi(x, e1, bars[600], bars[400]), 400)) / 2, bars[600], bars[400])
    e2 = ask(first, 400)
    second = phi(first, (3 * e2 - e1) / 2, bars[400], bars[200])
    third = phi(second, (3 * ask(second, 200) - e2) / 2, bars[200], bars[100])
    states = list(s_pndm(EPS, LINEAR, x, [600, 400, 200, 100]))
    for state, by_hand in zip(states, (first, second, third), strict=True):
        close(state.x, by_hand, rtol=1e-10)


# --- where they go


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 27, 50, 1000])
@pytest.mark.parametrize(("sampler", "more"), [(f_pndm, 9), (s_pndm, 1), (plms, 1)])
def test_network_calls_at_every_step_count(sampler, more, steps):
    """N + 9 and N + 1; below three steps F-PNDM has no fewer start-up calls than four a step. Data are never shown."""
    calls, times = [], uniform_times(1000, steps)
    states = list(sampler(recording(EPS, calls), LINEAR, randn(2, 3), times))
    assert [state.t for state in states] == times[1:]
    assert len(calls) == min(steps + more, 4 * steps)
    assert min(calls) >= 1 and set(times[:-1]) <= set(calls)
    assert bool(states[-1].x.isfinite().all())


def test_short_chains_never_ask_between_data_and_the_first_level():
    schedule = Discrete.from_betas(torch.tensor([0.5, 0.7, 0.9]).double())
    for sampler in SAMPLERS.values():
        calls = []
        list(sampler(recording(gaussian_eps(0.7, 0.25, schedule), calls), schedule, randn(2, 3), [3, 2, 1, 0]))
        assert min(calls) >= 1


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_every_schedule_is_walked_to_the_data(schedule):
    """From std / scale = 10 on, 400 steps: data N(0.7, 0.25), whose ODE keeps the distance from the mean in its std."""
    start = float(schedule.time_at(10.0))
    scale, std = schedule(start)
    x = randn(5, 1, seed=4)
    at_start = scale * 0.7 + (scale**2 * 0.25 + std**2).sqrt() * x
    times = ratio_times(schedule, 400, start)
    for sampler in (f_pndm, plms):
        end = last(sampler(gaussian_eps(0.7, 0.25, schedule), schedule, at_start, times))
        close(end, 0.7 + 0.5 * x, rtol=0, atol=1e-4)


def test_the_finite_set_is_walked_to_its_own_points():
    data = randn(20, 3, seed=5)
    for sampler in (f_pndm, s_pndm, plms):
        ends = last(sampler(FiniteData(data).eps_fn(LINEAR), LINEAR, randn(64, 3), uniform_times(1000, 1000)))
        close(torch.cdist(ends, data).amin(1), torch.zeros(64), atol=1e-6)


@EACH
def test_ddim_first_takes_one_step_of_ddim_and_goes_on_afresh(sampler):
    x, times = randn(4, 3), [1000, 700, 500, 200, 0]
    first = next(ddim(EPS, LINEAR, x, [1000, 700]))
    expected = [first, *sampler(EPS, LINEAR, first.x, times[1:])]
    for ours, true in zip(ddim_first(sampler)(EPS, LINEAR, x, times), expected, strict=True):
        assert ours.t == true.t and torch.equal(ours.x, true.x) and torch.equal(ours.x0, true.x0)
    for wrong in ([1000, 0], [0, 500, 1000]):
        with pytest.raises(ValueError, match="times"):
            ddim_first(sampler)(EPS, LINEAR, x, wrong)  # not iterated


def test_ddim_first_hands_the_generator_on():
    x, times = randn(2, 3), [1000, 500, 250, 0]
    ends = [last(ddim_first(ancestral)(EPS, LINEAR, x, times, generator=seeded(seed))) for seed in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    bound = partial(ancestral, generator=seeded(1))
    assert torch.equal(last(ddim_first(bound)(EPS, LINEAR, x, times)), ends[0])


def test_ddim_first_cures_the_top_of_the_cosine_schedule():
    """20 steps on a mixture: alone multistep methods go wrong by 0.2 and more; after DDIM's step they beat DDIM."""
    world, start = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], 0.15), int(COSINE.time_at(40.0))
    x = isotropic_mixture([1.0], [[0.0]], 1.0).quantile((torch.arange(200)[:, None] + 0.5) / 200, (1.0, 0.0))
    end = world.quantile(world.cdf(x, COSINE(1000)), (1.0, 0.0))
    rms = lambda found: float((found - end).square().mean().sqrt())  # noqa: E731
    cured = [1000, *uniform_times(start, 19)]
    plain = rms(last(ddim(world.eps_fn(COSINE), COSINE, x, uniform_times(1000, 20))))
    for sampler in (s_pndm, plms, f_pndm):
        assert rms(last(sampler(world.eps_fn(COSINE), COSINE, x, uniform_times(1000, 20)))) > 0.2
        assert rms(last(ddim_first(sampler)(world.eps_fn(COSINE), COSINE, x, cured))) < 0.6 * plain


def test_halfway_is_the_mean_of_the_times_or_of_the_ratios():
    assert halfway_in_time(LINEAR, 600, 401) == 500.5
    assert halfway_in_time(LINEAR, 1, 0) == 1
    for t, s in ((float("nan"), 0), (1001, 500), (5, -1)):
        with pytest.raises(ValueError, match="give a finite number from 0 to 1000"):
            halfway_in_time(LINEAR, t, s)
    for schedule, t, s in ((LINEAR, 600, 200), (COSINE, 1000, 20), (VP(), 0.6, 0.1), (VE(), 0.9, 0.1)):
        ratio = [float(std / scale) for scale, std in map(schedule, (t, halfway_in_ratio(schedule, t, s), s))]
        assert abs(ratio[1] - (ratio[0] + ratio[2]) / 2) < 1e-9 * ratio[0]
    assert halfway_in_ratio(LINEAR, 1, 0) == 1


# --- manners


@EACH
def test_each_trajectory_has_a_past_of_its_own(sampler):
    x, times = randn(4, 3), uniform_times(1000, 9)
    alone = [state.x for state in sampler(EPS, LINEAR, x, times)]
    pair = zip(sampler(EPS, LINEAR, x, times), sampler(EPS, LINEAR, -x, times), strict=True)
    for true, (ours, _) in zip(alone, pair, strict=True):
        assert torch.equal(ours.x, true)
    assert torch.equal(last(sampler(EPS, LINEAR, x[:2], times)), alone[-1][:2])


@pytest.mark.parametrize("sampler", [ddim, *SAMPLERS.values()])
def test_memory_does_not_grow_with_the_steps(sampler):
    """No more answers of the network are alive at once than the four that order four needs, and the newest."""
    answers, most = [], 0

    def eps_fn(x, t):
        eps = 0.1 * x
        answers.append(weakref.ref(eps))
        return eps

    for _ in sampler(eps_fn, LINEAR, randn(2, 3), uniform_times(1000, 60)):
        most = max(most, sum(ref() is not None for ref in answers))
    assert most <= 5


@pytest.mark.parametrize("sampler", [ddim, *SAMPLERS.values()])
@pytest.mark.parametrize("shape", [(5,), (1, 4, 4), (2, 2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_shape_and_dtype(sampler, shape, dtype):
    x, seen = randn(3, *shape).to(dtype), set()

    def eps_fn(x, t):
        seen.add(t.dtype)
        return (0.5 * x).to(x.dtype)

    end = last(sampler(eps_fn, LINEAR, x, uniform_times(1000, 6)))
    assert end.shape == x.shape and end.dtype == dtype and bool(end.isfinite().all())
    assert seen == {torch.float64 if dtype == torch.float64 else torch.float32}


@EACH
@pytest.mark.parametrize("times", [[0, 500, 1000], [1000, 500, 500, 0], [1000], [1000.5, 0], [1000, 0.5, 0]])
def test_bad_times_are_refused_at_the_call(sampler, times):
    with pytest.raises(ValueError, match=r"times|0 < t < 1"):
        sampler(EPS, LINEAR, randn(2, 3), times)  # not iterated


@EACH
@pytest.mark.parametrize("bad_call", [1, 2])
def test_an_eps_of_another_shape_is_refused_in_the_start_up_too(sampler, bad_call):
    calls = []

    def eps_fn(x, t):
        calls.append(t)
        return EPS(x, t)[:, :1] if len(calls) == bad_call else EPS(x, t)

    with pytest.raises(ValueError, match="a network answered"):
        next(sampler(eps_fn, LINEAR, randn(2, 3), [1000, 500, 0]))


def test_gradients_are_off_in_the_start_up_too():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    for sampler in SAMPLERS.values():
        for state in sampler(lambda x, t: weight * x, LINEAR, randn(2, 3), [1000, 500, 0]):
            assert torch.is_grad_enabled() and not state.x.requires_grad


def test_linear_chains_of_other_lengths():
    schedule = Discrete.from_betas(linear_betas(100, 0.001, 0.2))
    truth = 0.7 + 0.5 * randn(5, 1, seed=4)
    scale, std = schedule(100)
    start = scale * 0.7 + (scale**2 * 0.25 + std**2).sqrt() * randn(5, 1, seed=4)
    close(last(f_pndm(gaussian_eps(0.7, 0.25, schedule), schedule, start, uniform_times(100, 50))), truth, atol=2e-3)
