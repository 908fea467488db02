"""Langevin dynamics and its annealing against closed forms: linear worlds, whose walks are known to the last digit."""

import math

import pytest
import torch
from helpers import COSINE, LINEAR, close, gaussian_eps, randn, seeded

from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import langevin_step, score_from_eps
from ddpm_path.samplers import annealed_langevin, langevin, last, noise_source
from ddpm_path.schedule import VE, VP, SubVP, on_schedule

SIGMAS = VE(0.1, 10.0)
LEVELS = [1.0, 0.7, 0.4, 0.1]


def at(t, n):
    return torch.full((n,), t, dtype=torch.float64)


def point(mu, schedule):
    return gaussian_eps(mu, 0.0, schedule)


@pytest.mark.parametrize("schedule", [VE(), VP(), SubVP(), LINEAR])
def test_song2019_eq4_is_the_step_of_the_published_code(schedule):
    """alpha * score + sqrt(2 alpha) z, alpha = step * std^2, by hand on data of non-zero mean."""
    t, step = 0.6 * schedule.T, 0.2
    std, world, x = schedule(t)[1], gaussian_eps(0.7, 0.25, schedule), randn(3, 2)
    draw, mine = noise_source(3, (2,), seeded(1), torch.float64), x
    for _ in range(5):
        score = score_from_eps(world(mine, at(t, 3)), schedule(t))
        alpha = step * std**2
        mine = mine + alpha * score + (2 * alpha).sqrt() * draw()
    states = list(langevin(world, schedule, x, t, step, 5, generator=seeded(1)))
    close(states[-1].x, mine)
    assert [state.t for state in states] == [t] * 5


def test_song2019_eq4_the_papers_own_step_is_half():
    """alpha / 2 * score + sqrt(alpha) z is step = alpha / (2 std^2)."""
    t, alpha = 0.3, 0.02
    std, world, x = SIGMAS(t)[1], gaussian_eps(0.7, 0.25, SIGMAS), randn(3, 2)
    draw, mine = noise_source(3, (2,), seeded(1), torch.float64), x
    for _ in range(5):
        score = score_from_eps(world(mine, at(t, 3)), SIGMAS(t))
        mine = mine + alpha / 2 * score + math.sqrt(alpha) * draw()
    close(last(langevin(world, SIGMAS, x, t, alpha / float(2 * std**2), 5, generator=seeded(1))), mine)


def test_stationary_variance_of_long_steps():
    """At a point mass v <- v (1 - step)^2 + 2 step sigma^2, to sigma^2 / (1 - step / 2): NCSN's own 0.2 gives 1.111."""
    x, n = torch.zeros(1, 40_000, dtype=torch.float64), 40
    std, v = float(SIGMAS(0.5)[1]), 0.0
    for state in langevin(point(0.0, SIGMAS), SIGMAS, x, 0.5, 0.2, n, generator=seeded(2)):
        v = v * (1 - 0.2) ** 2 + 2 * 0.2 * std**2
        # A variance over 40,000 numbers errs by sqrt(2 / 40,000), 0.7 percent, of itself.
        close(float(state.x.var()) / v, 1.0, atol=0.03)
    close(v / std**2, 1 / 0.9, atol=1e-6)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), LINEAR, COSINE])
def test_annealing_is_one_walk_on_all_schedules(schedule):
    """In x / scale it is the walk on VE, through the exact denoisers of both and through `on_schedule`."""
    world, sigmas = isotropic_mixture([0.3, 0.7], [[-1.0, 0.4], [1.0, 0.2]], 0.3), VE(0.1, 5.0)
    levels = torch.tensor([4.0, 1.0, 0.3, 0.12], dtype=torch.float64)
    there, here = ([*each.time_at(levels).tolist(), 0.0] for each in (schedule, sigmas))
    x = 4 * randn(3, 2)
    walks = [
        list(annealed_langevin(eps_fn, each, start, times, 0.1, 3, generator=seeded(1)))
        for eps_fn, each, start, times in (
            (world.eps_fn(sigmas), sigmas, x, here),
            (on_schedule(world.eps_fn(schedule), schedule, sigmas), sigmas, x, here),
            (world.eps_fn(schedule), schedule, x * schedule(there[0])[0], there),
        )
    ]
    for on_ve, carried, native in zip(*walks, strict=True):
        close(carried.x, on_ve.x, atol=1e-9)
        close(native.x / schedule(native.t)[0], on_ve.x, atol=1e-9)
        close(native.x0, on_ve.x0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_call_an_update_at_its_level_and_one_for_the_denoising(steps):
    calls = []

    def eps_fn(x, t):
        calls.append(float(t[0]))
        return point(0.5, SIGMAS)(x, t)

    states = list(annealed_langevin(eps_fn, SIGMAS, randn(2, 3), [*LEVELS, 0], 0.1, steps))
    visited = [t for t in LEVELS for _ in range(steps)]
    assert calls == [*visited, LEVELS[-1]]
    assert [state.t for state in states] == [*visited, 0]
    assert len(list(annealed_langevin(eps_fn, SIGMAS, randn(2, 3), LEVELS, 0.1, steps))) == len(visited)


def test_song2020_alg3_denoising_is_noise_free_and_exact_for_a_point():
    """x + std_L^2 score: onto the point itself, while without it the last level's noise stays."""
    *_, noisy, end = annealed_langevin(point(0.5, SIGMAS), SIGMAS, randn(4, 3), [*LEVELS, 0], 0.1, 5)
    close(end.x, torch.full((4, 3), 0.5), atol=1e-12)
    assert (noisy.x - 0.5).abs().mean() > 0.05
    std = SIGMAS(LEVELS[-1])[1]
    score = score_from_eps(point(0.5, SIGMAS)(noisy.x, at(LEVELS[-1], 4)), SIGMAS(LEVELS[-1]))
    close(end.x, noisy.x + std**2 * score)
    assert end.x is end.x0


def test_song2019_alg1_a_level_continues_where_the_last_one_ended():
    """Two levels in one walk are two walks of `langevin`, and a level that forgot its start would not see it."""
    world, x = gaussian_eps(0.7, 0.25, SIGMAS), 3 * randn(4, 3)
    draw = noise_source(4, (3,), seeded(5), torch.float64)
    mine = x
    for t in LEVELS:
        std = SIGMAS(t)[1]
        for _ in range(2):
            mine = mine - 0.1 * std * world(mine, at(t, 4)) + math.sqrt(0.2) * std * draw()
    close(last(annealed_langevin(world, SIGMAS, x, LEVELS, 0.1, 2, generator=seeded(5))), mine)


def test_sample_k_depends_on_seed_and_k_only():
    world, x = gaussian_eps(0.7, 0.25, SIGMAS), randn(5, 3)
    whole = last(annealed_langevin(world, SIGMAS, x, [*LEVELS, 0], 0.1, 3, generator=seeded(3)))
    close(last(annealed_langevin(world, SIGMAS, x[:2], [*LEVELS, 0], 0.1, 3, generator=seeded(3))), whole[:2])
    close(last(langevin(world, SIGMAS, x[:2], 0.4, 0.1, 3, generator=seeded(3))),
          last(langevin(world, SIGMAS, x, 0.4, 0.1, 3, generator=seeded(3)))[:2])  # fmt: skip


def test_after_sees_every_update_and_the_data():
    """Known numbers overwritten at each level's noise, and exactly at the end: inpainting needs nothing else."""
    seen = []

    def after(x, s):
        seen.append(s)
        return torch.cat([torch.full((4, 1), 0.3 + 10 * s, dtype=x.dtype), x[:, 1:]], 1)

    states = list(annealed_langevin(point(0.5, SIGMAS), SIGMAS, randn(4, 2), [1.0, 0.1, 0], 0.1, 2, after))
    assert seen == [1.0, 1.0, 0.1, 0.1, 0]
    assert all(bool((state.x[:, 0] == 0.3 + 10 * state.t).all()) for state in states)


def test_song2019_sec32_annealing_finds_the_weights_that_langevin_does_not():
    """The toy of section 3.2.2: modes 14 apart, weights 1/5 and 4/5, unit variance, an even start on [-8, 8]^2."""
    world, sigmas = isotropic_mixture([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], 1.0), VE(1.0, 20.0)
    x = 16 * torch.rand(600, 2, generator=seeded(0), dtype=torch.float64) - 8
    times = torch.linspace(1, 0, 10).clamp(min=1e-9).tolist()
    annealed = last(annealed_langevin(world.eps_fn(sigmas), sigmas, x, times, 0.05, 50, generator=seeded(1)))
    plain = last(langevin(world.eps_fn(sigmas), sigmas, x, times[-1], 0.05, 500, generator=seeded(1)))
    # Binomial standard errors: 0.016 and 0.020.
    close((annealed.sum(1) < 0).double().mean(), 0.2, atol=0.065)
    close((plain.sum(1) < 0).double().mean(), 0.5, atol=0.08)


@pytest.mark.parametrize(("step", "steps"), [(0.0, 5), (-0.1, 5), (math.inf, 5), (math.nan, 5), (0.1, 0)])
def test_bad_steps_are_refused_at_the_call(step, steps):
    with pytest.raises(ValueError, match="a step above 0"):
        langevin(point(0, SIGMAS), SIGMAS, randn(2, 3), 0.5, step, steps)
    with pytest.raises(ValueError, match="a step above 0"):
        annealed_langevin(point(0, SIGMAS), SIGMAS, randn(2, 3), LEVELS, step, steps)


@pytest.mark.parametrize("times", [LEVELS[::-1], [1.0, 0.5, 0.5, 0], [0.5]])
def test_levels_that_do_not_fall_are_refused_at_the_call(times):
    with pytest.raises(ValueError, match="fall strictly"):
        annealed_langevin(point(0, SIGMAS), SIGMAS, randn(2, 3), times, 0.1, 5)


def test_data_have_no_level_to_walk_at():
    with pytest.raises(ValueError, match="data have no noise there"):
        langevin(point(0, SIGMAS), SIGMAS, randn(2, 3), 0, 0.1, 5)
    with pytest.raises(ValueError, match="times lie in"):
        langevin(point(0, SIGMAS), SIGMAS, randn(2, 3), 1.5, 0.1, 5)


def test_a_walk_that_diverges_says_so():
    """A step of 3 multiplies a point mass's distance by -2 at each update."""
    x = randn(2, 3).float()
    with pytest.raises(FloatingPointError, match="lower step = 3"):
        last(langevin(point(0.0, SIGMAS), SIGMAS, x, 0.5, 3.0, 200))
    with pytest.raises(FloatingPointError, match=r"NaN or infinity after an update at t = 0\.5"):
        answers_nan = lambda x, t: x * (math.nan if float(t[0]) == 0.5 else 0.0)  # noqa: E731
        last(annealed_langevin(answers_nan, SIGMAS, x, [1.0, 0.5, 0], 0.1, 5))


def test_the_walk_leaves_no_gradient_and_its_start_alone():
    x = randn(2, 3).requires_grad_()
    state = next(langevin(point(0.0, SIGMAS), SIGMAS, x, 0.5, 0.1, 2))
    assert not state.x.requires_grad


def test_langevin_step_is_the_score_s():
    x, eps, z, std = randn(4, 3), randn(4, 3, seed=1), randn(4, 3, seed=2), torch.tensor([0.1, 1.0, 5.0, 20.0])
    alpha = (0.2 * std.double() ** 2)[:, None]
    close(langevin_step(x, eps, std.double(), 0.2, z), x - alpha * eps / std[:, None] + (2 * alpha).sqrt() * z)
