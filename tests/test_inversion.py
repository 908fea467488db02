"""DDIM run backwards, and moving between latents."""

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler
from helpers import LINEAR, SCHEDULES, close, gaussian_eps, randn, seeded, skewed_mixture

from ddpm_path.gaussian import q_sample
from ddpm_path.samplers import (
    ddim,
    ddim_invert,
    ddim_invert_ahead,
    decode,
    encode,
    last,
    reconstruct,
    slerp,
    start_noise,
)
from ddpm_path.schedule import VE, VP, leading_times, ratio_times, uniform_times

BOTH = pytest.mark.parametrize("invert", [ddim_invert, ddim_invert_ahead])
UNIT = gaussian_eps(0.0, 0.25, LINEAR)


@pytest.mark.parametrize(
    ("invert", "steps", "latent", "back"),
    [
        *((ddim_invert, 20, 1.735, 0.753), (ddim_invert_ahead, 20, 1.994, 0.865)),
        *((ddim_invert, 1000, None, 0.994), (ddim_invert_ahead, 1000, None, 0.997)),
    ],
)
def test_song2020_latent_and_round_trip_of_gaussian_data(invert, steps, latent, back):
    """Data N(0, 0.25) at 1: the exact latent is 2, to 2e-5. The figures are independent measurements, three digits."""
    x0, times = torch.ones(1, 1, dtype=torch.float64), leading_times(1000, steps)
    z = last(invert(UNIT, LINEAR, x0, times[::-1]))
    if latent:
        assert abs(float(z) - latent) < 6e-4
    else:
        assert abs(float(z) - 2) < 0.006
    assert abs(float(decode(UNIT, LINEAR, z, times)) - back) < 6e-4


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_inversion_ahead_equals_diffusers(steps):
    """Their tables are float32."""
    eps_fn, x = skewed_mixture().eps_fn(LINEAR), skewed_mixture().sample(6, seeded(1))[0]
    scheduler = DDIMInverseScheduler(clip_sample=False, set_alpha_to_one=True, steps_offset=0)
    scheduler.set_timesteps(steps)
    image = x
    for index in scheduler.timesteps:
        eps = eps_fn(image, torch.full((6,), float(index) + 1))
        image = scheduler.step(eps, int(index), image).prev_sample
    ours = last(ddim_invert_ahead(eps_fn, LINEAR, x, [0, *(scheduler.timesteps + 1).tolist()]))
    assert float((ours - image).abs().max() / image.abs().max()) < 6e-5


def test_each_pairing_asks_where_it_says_and_never_about_data():
    times = [0, 1, 300, 1000]
    for invert, expected in ((ddim_invert, [1, 1, 300]), (ddim_invert_ahead, [1, 300, 1000])):
        calls = []

        def eps_fn(x, t, calls=calls):
            calls.append(float(t[0]))
            return UNIT(x, t)

        states = list(invert(eps_fn, LINEAR, randn(2, 3), times))
        assert calls == expected and [state.t for state in states] == times[1:]


@BOTH
def test_a_step_up_keeps_the_estimates_and_raises_the_level(invert):
    x = randn(4, 3)
    (state,) = invert(UNIT, LINEAR, x, [300, 700])
    eps = UNIT(x, torch.full((4,), 300.0 if invert is ddim_invert else 700.0))
    scale, std = LINEAR(300)
    close(state.x0, (x - std * eps) / scale, rtol=1e-11)
    close(state.x, q_sample(state.x0, eps, LINEAR(700)), rtol=1e-11)


@BOTH
def test_data_at_time_0_are_their_own_estimate(invert):
    x = randn(4, 3)
    assert torch.equal(next(invert(UNIT, LINEAR, x, [0, 50])).x0, x)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@BOTH
def test_a_constant_eps_comes_back_exactly_on_every_schedule(schedule, invert):
    """The ODE is then straight, so up and down are each other's inverse."""
    e, x0 = randn(4, 3, seed=2), randn(4, 3, seed=1)
    times = ratio_times(schedule, 9, float(schedule.time_at(20.0)))
    latent = last(invert(lambda x, t: e, schedule, x0, times[::-1]))
    close(latent, q_sample(x0, e, schedule(times[0])), rtol=1e-9, atol=1e-10)
    close(decode(lambda x, t: e, schedule, latent, times), x0, rtol=1e-9, atol=1e-10)


def test_song2020_sec54_what_a_round_trip_loses_halves_with_twice_the_steps():
    world = skewed_mixture()
    x0 = world.sample(50, seeded(2))[0]
    lost = [
        float((reconstruct(world.eps_fn(LINEAR), LINEAR, x0, uniform_times(1000, n)) - x0).square().mean().sqrt())
        for n in (250, 500, 1000)
    ]
    assert all(1.7 < a / b < 2.3 for a, b in itertools.pairwise(lost))


def test_encode_and_decode_are_the_two_directions_along_one_list_of_times():
    world, times = skewed_mixture().eps_fn(LINEAR), uniform_times(1000, 12)
    x0, latent = randn(4, 2, seed=1), randn(4, 2, seed=2)
    assert torch.equal(encode(world, LINEAR, x0, times), last(ddim_invert(world, LINEAR, x0, times[::-1])))
    assert torch.equal(decode(world, LINEAR, latent, times), last(ddim(world, LINEAR, latent, times)))
    both = decode(world, LINEAR, encode(world, LINEAR, x0, times), times)
    assert torch.equal(reconstruct(world, LINEAR, x0, times), both)


def test_times_may_be_tensors():
    times = torch.tensor([1000, 400, 0])
    close(
        reconstruct(UNIT, LINEAR, randn(2, 3), times),
        reconstruct(UNIT, LINEAR, randn(2, 3), times.tolist()),
        rtol=1e-12,
    )


def test_an_encoded_gaussian_fills_the_prior():
    """Data N(0, 0.25), 1,000 steps: latents have deviation 1 to first order in the step."""
    x0 = 0.5 * randn(4000, 1, seed=3)
    latent = encode(UNIT, LINEAR, x0, uniform_times(1000, 1000))
    close(latent / (2 * x0), torch.ones(4000, 1), rtol=0.01)


@BOTH
@pytest.mark.parametrize("times", [[1000, 500, 0], [0, 500, 500, 1000], [0], [0, 1000.5], [0, 0.5, 1000], [-1, 1000]])
def test_bad_times_are_refused_at_the_call(invert, times):
    with pytest.raises(ValueError, match=r"times|0 < t < 1"):
        invert(UNIT, LINEAR, randn(2, 3), times)  # not iterated


def test_falling_times_are_told_to_rise_and_rising_ones_to_fall():
    with pytest.raises(ValueError, match="must rise strictly"):
        ddim_invert(UNIT, LINEAR, randn(2, 3), [1000, 0])
    with pytest.raises(ValueError, match=r"must fall strictly.*got \[0, 1000\]"):
        encode(UNIT, LINEAR, randn(2, 3), [0, 1000])


@BOTH
def test_an_eps_of_another_dtype_is_refused(invert):
    with pytest.raises(ValueError, match="a network answered"):
        next(invert(lambda x, t: x.float(), LINEAR, randn(2, 3), [0, 1000]))


@pytest.mark.parametrize("schedule", [VP(), VE()])
def test_continuous_schedules_are_asked_at_their_first_noisy_time(schedule):
    calls, exact = [], gaussian_eps(0.0, 0.25, schedule)

    def eps_fn(x, t):
        calls.append(float(t[0]))
        return exact(x, t)

    last(ddim_invert(eps_fn, schedule, randn(2, 1), [0.0, 0.3, 1.0]))
    assert calls == [1e-5, 0.3]


# --- slerp


def test_song2020_appD5_slerp_by_the_formula():
    a, b = randn(3, 2, 4, seed=1), randn(3, 2, 4, seed=2)
    for share in (0.0, 0.3, 0.5, 1.0):
        for k in range(3):
            u, v = a[k].flatten(), b[k].flatten()
            angle = torch.arccos(u @ v / (u.norm() * v.norm()))
            by_hand = (
                torch.sin((1 - share) * angle) / torch.sin(angle) * u + torch.sin(share * angle) / torch.sin(angle) * v
            )
            close(slerp(a, b, share)[k].flatten(), by_hand, rtol=1e-10, atol=1e-12)


def test_slerp_keeps_the_norm_of_equals_and_starts_and_ends_where_it_should():
    a, b = (torch.nn.functional.normalize(randn(5, 7, seed=k), dim=1) for k in (1, 2))
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        close(slerp(a, b, share).norm(dim=1), torch.ones(5))
    close(slerp(a, b, 0.0), a, atol=1e-15)
    close(slerp(a, b, 1.0), b, atol=1e-15)


def test_slerp_of_parallel_latents_is_straight_and_opposite_ones_are_refused():
    a = randn(2, 5)
    close(slerp(a, 3 * a, 0.25), 1.5 * a)
    assert bool(slerp(a, a, 0.5).isfinite().all())
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, -a, 0.5)


def test_slerp_keeps_dtype():
    a, b = start_noise(2, (1, 4, 4), seeded(1)), start_noise(2, (1, 4, 4), seeded(2))
    assert slerp(a, b, 0.5).dtype == torch.float32


def test_one_opposite_pair_in_a_batch_is_refused():
    a = randn(3, 4, seed=0)
    b = torch.cat([randn(2, 4, seed=1), -2 * a[2:]])
    with pytest.raises(ValueError, match="two latents are opposite"):
        slerp(a, b, 0.3)


def test_slerp_lies_between_two_batches_of_one_shape():
    a, b = randn(3, 2), randn(3, 2, seed=1)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"share = {share}"):
            slerp(a, b, share)
    with pytest.raises(ValueError, match=r"b is \(1, 2\) .* beside \(3, 2\)"):
        slerp(a, b[:1], 0.5)
