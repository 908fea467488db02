import torch
from helpers import COSINE, LINEAR, close, gaussian_eps, randn, seeded, skewed_mixture

from ddpm_path.gaussian import q_sample, x0_from_eps
from ddpm_path.guidance import clip_x0
from ddpm_path.samplers import ancestral
from ddpm_path.schedule import VE, uniform_times

EPS = gaussian_eps(0.3, 4.0, LINEAR)  # data of deviation 2: its x0 leaves [-1, 1] often
T = torch.tensor([1.0, 300.0, 700.0, 1000.0])


def implied_x0(eps_fn, x, t, schedule=LINEAR):
    return x0_from_eps(x, eps_fn(x, t), schedule(t))


def noisy(schedule=LINEAR, t=T):
    return q_sample(2 * randn(4, 3, 5, seed=1), randn(4, 3, 5, seed=2), schedule(t))


def test_ho2020_appB_clipping_moves_x0_to_the_border_and_leaves_the_rest():
    x = noisy()
    before, after = implied_x0(EPS, x, T), implied_x0(clip_x0(EPS, LINEAR), x, T)
    outside = before.abs() > 1
    assert 5 < int(outside.sum()) < 55  # both kinds occur
    close(after, torch.where(outside, before.sign(), before), atol=1e-11, rtol=0)  # 1 / scale = 157 at t = T


def test_ho2020_appB_clipping_leaves_eps_where_x0_is_inside():
    x = noisy()
    inside = implied_x0(EPS, x, T).abs() <= 1
    eps, clipped = EPS(x, T), clip_x0(EPS, LINEAR)(x, T)
    close(clipped[inside], eps[inside], rtol=1e-10, atol=1e-11)
    assert bool((clipped[~inside] != eps[~inside]).all())


def test_clipping_takes_the_range_of_the_data():
    x = noisy()
    before, after = implied_x0(EPS, x, T), implied_x0(clip_x0(EPS, LINEAR, -0.25, 1.5), x, T)
    close(after, before.clamp(-0.25, 1.5), atol=1e-11, rtol=0)
    assert float(before.min()) < -0.25 and float(before.max()) > 1.5


def test_clipping_where_scale2_plus_std2_is_not_1():
    t = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    x, eps_fn = noisy(VE(), t), gaussian_eps(0.3, 4.0, VE())
    close(implied_x0(clip_x0(eps_fn, VE()), x, t, VE()), implied_x0(eps_fn, x, t, VE()).clamp(-1, 1), atol=1e-11)


def test_clipping_twice_is_clipping_once():
    once = clip_x0(EPS, LINEAR)
    close(clip_x0(once, LINEAR)(noisy(), T), once(noisy(), T), rtol=1e-10, atol=1e-11)


def test_clipping_keeps_shape_and_dtype():
    eps = clip_x0(EPS, LINEAR)(noisy().float(), T)
    assert eps.shape == (4, 3, 5) and eps.dtype == torch.float32


def test_clipping_of_exact_estimates_inside_the_range_changes_no_sample():
    world = skewed_mixture().eps_fn(LINEAR)
    x, times = randn(3, 2, seed=5), uniform_times(1000, 9)
    plain = ancestral(world, LINEAR, x, times, generator=seeded(1))
    wide = ancestral(clip_x0(world, LINEAR, -10, 10), LINEAR, x, times, generator=seeded(1))
    for a, b in zip(plain, wide, strict=True):
        close(b.x, a.x, rtol=1e-9, atol=1e-10)


def test_ho2020_appB_a_slightly_wrong_eps_at_pure_noise_is_held_in_range():
    """On the cosine schedule an error of 0.001 in eps throws x0 off by 20; clipped, every estimate is in range."""
    exact = gaussian_eps(0.0, 0.01, COSINE)

    def wrong(x, t):
        return exact(x, t) + 0.001

    x, times = randn(3, 4, seed=5), [1000, 999, 500, 0]
    assert float(next(ancestral(wrong, COSINE, x, times)).x0.abs().min()) > 15
    for state in ancestral(clip_x0(wrong, COSINE), COSINE, x, times):
        assert float(state.x0.abs().max()) <= 1 + 1e-9
