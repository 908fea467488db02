import math
from fractions import Fraction
from functools import partial

import pytest
import torch
from helpers import COSINE, LINEAR, close, gaussian_eps, rand, randn, seeded, skewed_mixture

from ddpm_path.exact import FiniteData, isotropic_mixture
from ddpm_path.gaussian import eps_from_v, fixed_large, fixed_small, q_sample, v_from_x0_eps, x0_from_eps
from ddpm_path.guidance import (
    class_score,
    classifier_free,
    classifier_free_batched,
    classifier_guided,
    classifier_shift,
    clip_x0,
    dynamic_threshold,
    from_paper_w,
    guided_network,
    threshold_x0,
    within,
)
from ddpm_path.lab import zoo
from ddpm_path.samplers import ancestral, ddim, last
from ddpm_path.schedule import VE, leading_times, uniform_times
from ddpm_path.unet import UNet

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


def test_saharia2022_dynamic_thresholding_by_hand():
    """Sample 0 leaves the range and is squeezed by its own percentile; sample 1 does not and stays as it is."""
    x0 = torch.stack([4 * randn(3, 5, seed=1), rand(3, 5, seed=2) - 0.5])
    t = torch.tensor([300.0, 700.0])
    x = q_sample(x0, randn(2, 3, 5, seed=3), LINEAR(t))
    knows = lambda x, t: (x - LINEAR(t)[0].view(-1, 1, 1) * x0) / LINEAR(t)[1].view(-1, 1, 1)  # noqa: E731
    after = implied_x0(threshold_x0(knows, LINEAR, 0.8), x, t)
    largest = x0[0].abs().flatten().sort().values
    s = float(largest[11] + 0.2 * (largest[12] - largest[11]))  # 0.8 of the way from the 1st of 15 to the last
    close(after[0], x0[0].clamp(-s, s) / s, rtol=1e-9, atol=1e-10)
    close(after[1], x0[1], rtol=1e-9, atol=1e-10)
    assert float(after[0].abs().max()) < 1 + 1e-9
    half = dynamic_threshold(x0.bfloat16(), 0.8)  # torch has no percentile of it
    assert half.dtype == torch.bfloat16
    close(half.double(), torch.stack([x0[0].clamp(-s, s) / s, x0[1]]), atol=0.02)
    whole = implied_x0(threshold_x0(knows, LINEAR, 1.0), x, t)  # nothing is cut, all is divided by the largest
    close(whole[0], x0[0] / x0[0].abs().max(), rtol=1e-9, atol=1e-10)
    for wrong in (0.0, -0.1, 1.01, 99.5, math.nan):
        with pytest.raises(ValueError, match="share of the pixels"):
            threshold_x0(knows, LINEAR, wrong)


# --- classifier guidance

WORLD = skewed_mixture()


def exact_score(k, schedule=LINEAR):
    """grad log p_t(k | x) by Bayes' rule: the class's own score less the world's."""
    return lambda x, t: WORLD.component(k).score(x, schedule(t)) - WORLD.score(x, schedule(t))


@pytest.mark.parametrize("t", [10, 400, 900])
def test_dhariwal2021_class_score_by_autograd_is_the_exact_one(t):
    x, times, labels = randn(6, 2), torch.full((6,), float(t)), torch.tensor([0, 1, 2, 2, 1, 0])
    score = class_score(lambda x, t: WORLD.log_class(x, LINEAR(t)), labels)
    with torch.no_grad():  # as inside a sampler
        found = score(x, times)
    expected = torch.stack([exact_score(int(k))(x[[i]], times[[i]])[0] for i, k in enumerate(labels)])
    close(found, expected, rtol=1e-9, atol=1e-10)
    assert not found.requires_grad and not x.requires_grad


def test_a_samples_class_score_does_not_depend_on_the_others():
    x, t, labels = randn(5, 2), torch.full((5,), 300.0), torch.tensor([0, 1, 2, 0, 1])
    classifier = lambda x, t: WORLD.log_class(x, LINEAR(t))  # noqa: E731
    order = torch.tensor([3, 0, 4, 2, 1])
    close(class_score(classifier, labels[order])(x[order], t), class_score(classifier, labels)(x, t)[order], rtol=1e-12)
    close(class_score(classifier, labels[:1])(x[:1], t[:1]), class_score(classifier, labels)(x, t)[:1], rtol=1e-12)


@pytest.mark.parametrize("t", [10, 400, 900])
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.3, 1.0, 2.5, 8.0])
def test_guidance_identity_on_a_mixture(t, scale):
    """(1 + w) c - w u = u - (1 + w) std g = c - w std g, with the exact g = grad log p_t(k | x)."""
    x, times = randn(6, 2, seed=4), torch.full((6,), float(t))
    cond, uncond = WORLD.component(1).eps_fn(LINEAR), WORLD.eps_fn(LINEAR)
    w, std, g = scale - 1, LINEAR(t)[1], exact_score(1)(x, times)
    expected = (1 + w) * cond(x, times) - w * uncond(x, times)
    close(classifier_free(cond, uncond, scale)(x, times), expected, rtol=1e-9, atol=1e-12)
    close(classifier_free(cond, uncond, from_paper_w(w))(x, times), expected, rtol=1e-9, atol=1e-12)
    close(classifier_guided(uncond, exact_score(1), LINEAR, scale)(x, times), expected, rtol=1e-9, atol=1e-11)
    close(classifier_guided(cond, exact_score(1), LINEAR, w)(x, times), cond(x, times) - w * std * g, rtol=1e-12)
    close(classifier_guided(cond, exact_score(1), LINEAR, w)(x, times), expected, rtol=1e-9, atol=1e-11)


def test_dhariwal2021_scale_1_with_the_exact_classifier_is_the_class_itself():
    guided = classifier_guided(WORLD.eps_fn(LINEAR), exact_score(2), LINEAR, 1.0)
    x, times = randn(6, 2), uniform_times(1000, 27)
    close(
        last(ddim(guided, LINEAR, x, times)), last(ddim(WORLD.component(2).eps_fn(LINEAR), LINEAR, x, times)), rtol=1e-8
    )


TWO = isotropic_mixture([0.5, 0.5], [[-1.0], [1.0]], std=0.5)
TWO_CLASSES = class_score(lambda x, t: TWO.log_class(x, LINEAR(t)), torch.ones(2000).long())
STARTS = isotropic_mixture([1.0], [[0.0]], std=1.0).quantile((torch.arange(2000)[:, None] + 0.5) / 2000, (1, 0))
GUIDED_MOMENTS = [(0, 0, 1.116), (1, 0.988, 0.498), (2, 1.313, 0.354), (4, 1.667, 0.285), (8, 2.110, 0.243)]


@pytest.mark.parametrize(("scale", "mean", "std"), GUIDED_MOMENTS)
def test_dhariwal2021_alg2_guided_moments_of_two_modes(scale, mean, std):
    """Modes at -1 and 1 of variance 0.25; known to 0.02. Guidance overshoots the mode and shrinks."""
    eps_fn = classifier_guided(TWO.eps_fn(LINEAR), TWO_CLASSES, LINEAR, float(scale))
    end = last(ddim(eps_fn, LINEAR, STARTS, leading_times(1000, 200)))
    assert abs(float(end.mean()) - mean) < 0.02 and abs(float(end.std()) - std) < 0.02


def test_dhariwal2021_guided_sampling_is_not_sampling_from_the_sharpened_density():
    """p(x) p(y | x)^4, by quadrature, hardly differs from the class: guidance goes far beyond its mean."""
    grid = torch.linspace(-4, 6, 4001, dtype=torch.float64)[:, None]
    weight = (TWO.log_prob(grid, (1.0, 0.0)) + 4 * TWO.log_class(grid, (1.0, 0.0))[:, 1]).softmax(0)
    mean = float(weight @ grid[:, 0])
    std = float(weight @ (grid[:, 0] - mean) ** 2) ** 0.5
    _, known_mean, known_std = GUIDED_MOMENTS[3]
    assert abs(mean - 1.0616) < 1e-3  # also by scipy's adaptive quadrature
    assert known_mean - mean > 0.6 and std - known_std > 0.1


def test_bayes_guided_posterior_of_gaussian_data_and_a_noisy_measurement():
    """Data N(0, 0.25), measured as 1.5 with variance 0.25: the posterior is N(0.75, 0.125), by both routes.

    The "label" here is a number; what guides is the gradient of log p_t(measurement | x_t), a normal's.
    """

    def score(x, t):
        scale, std = (c.view(-1, 1) for c in LINEAR(t))
        total = scale**2 * 0.25 + std**2
        slope, left = scale * 0.25 / total, 0.25 * std**2 / total  # of E[x_0 | x_t], and Var[x_0 | x_t]
        return slope * (1.5 - slope * x) / (0.25 + left)

    n, eps_fn, times = 5000, gaussian_eps(0.0, 0.25, LINEAR), uniform_times(1000, 1000)
    x = randn(n, 1, seed=1)
    by_eps = classifier_guided(eps_fn, score, LINEAR, 1.0)
    walks = {
        "ddim": ddim(by_eps, LINEAR, x, uniform_times(1000, 250)),
        "ancestral": ancestral(by_eps, LINEAR, x, times, generator=seeded(2)),
        "shift": ancestral(eps_fn, LINEAR, x, times, shift=classifier_shift(score, 1.0), generator=seeded(2)),
    }
    for name, states in walks.items():
        # Four Monte-Carlo errors, and what the steps' length costs: the shift falls short of what eps would do by 1%
        # in the noisiest steps, by half at t = 2, and moves nothing at t = 1, where the variance is 0.
        length, end = 0.02 if name == "shift" else 0.002, last(states)
        assert abs(float(end.mean()) - 0.75) < 4 * (0.125 / n) ** 0.5 + length, name
        assert abs(float(end.var()) - 0.125) < 4 * 0.125 * (2 / n) ** 0.5 + 0.002, name


def test_dhariwal2021_the_classifier_is_handed_the_chains_own_times_however_few_steps_are_taken():
    """Published code forgets this easily: step 7 of 10 is not t = 7 [guided-diffusion, respace.py]."""
    times, asked = uniform_times(1000, 10), []

    def score(x, t):
        asked.append(t.tolist())
        return torch.zeros_like(x)

    x, eps_fn = randn(2, 2), WORLD.eps_fn(LINEAR)
    last(ddim(classifier_guided(eps_fn, score, LINEAR, 2.0), LINEAR, x, times))
    last(ancestral(eps_fn, LINEAR, x, times, shift=classifier_shift(score, 2.0), generator=seeded(1)))
    assert asked == 2 * [[float(t)] * 2 for t in times[:-1]]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_dhariwal2021_a_classifier_of_clean_data_guides_worse(scale):
    """Exactly right on data, told nothing of noise: fewer of its samples than of the noisy one's are of the class."""
    labels = torch.full((500,), 2)
    x, times, shares = randn(500, 2, seed=3), uniform_times(1000, 50), []
    for classifier in (lambda x, t: WORLD.log_class(x, LINEAR(t)), lambda x, t: WORLD.log_class(x, (1.0, 0.0))):
        eps_fn = classifier_guided(WORLD.eps_fn(LINEAR), class_score(classifier, labels), LINEAR, scale)
        end = last(ddim(eps_fn, LINEAR, x, times))
        shares.append(float((WORLD.component(2).log_prob(end, (1.0, 0.0)) > -8).double().mean()))
    assert shares[0] > shares[1] + 0.1, shares


def test_dhariwal2021_bayes_rule_on_a_set_of_images_known_by_heart():
    """The posterior of a finite data set, by autograd, turns its denoiser into the denoiser of one class."""
    images, labels = randn(12, 1, 3, 3, seed=1), torch.arange(12) % 3
    worlds, whole = [FiniteData(images[labels == k], 3) for k in range(3)], FiniteData(images, 5)

    def classifier(x, t):
        return torch.stack([world.log_prob(x, LINEAR(t)) for world in worlds], 1).log_softmax(1)

    x, t, asked = randn(3, 1, 3, 3, seed=2), torch.tensor([200.0, 500.0, 1000.0]), torch.tensor([2, 0, 1])
    guided = classifier_guided(whole.eps_fn(LINEAR), class_score(classifier, asked), LINEAR, 1.0)(x, t)
    for i, k in enumerate(asked.tolist()):
        close(guided[i], worlds[k].eps_fn(LINEAR)(x, t)[i], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("variance", [fixed_small, fixed_large])
def test_dhariwal2021_alg1_the_mean_moves_by_scale_times_variance_times_score(variance):
    """A step's N(mean, var) times exp(scale a x) is a normal with that mean and the same variance: by quadrature."""
    a, scale, now, then = 0.7, 3.0, LINEAR(400), LINEAR(399)
    var, mean = variance(now, then), torch.tensor([[0.4]], dtype=torch.float64)
    grid = 0.4 + torch.linspace(-12, 12, 200_001, dtype=torch.float64) * var.sqrt()
    density = torch.exp(-((grid - mean) ** 2) / (2 * var) + scale * a * (grid - mean))[0]
    moved = (grid * density).sum() / density.sum()
    shift = classifier_shift(lambda x, t: torch.full_like(x, a), scale)
    close(shift(mean, torch.tensor([400.0]), mean, var), moved.view(1, 1), rtol=1e-9)
    close(((grid - moved) ** 2 * density).sum() / density.sum(), var, rtol=1e-8)
    asked = []
    x, t = mean + 1, torch.tensor([400.0])
    classifier_shift(lambda x, t: asked.append((x, t)) or x, scale)(x, t, mean, var)
    assert asked[0][0] is x and asked[0][1] is t, "the published code takes the score at x_t, not at the mean"


def test_dhariwal2021_the_two_routes_move_a_step_by_known_amounts():
    """A unit score moves the mean by beta / sqrt(alpha) through eps, by the variance through `shift`.

    Known at index 400, t = 401.
    """
    eps_fn, unit = gaussian_eps(0.7, 0.25, LINEAR), lambda x, t: torch.ones_like(x)
    x = randn(4, 1)

    def moved(eps_fn, variance, shift=None):
        plain = last(ancestral(gaussian_eps(0.7, 0.25, LINEAR), LINEAR, x, [401, 400], variance, generator=seeded(1)))
        found = last(ancestral(eps_fn, LINEAR, x, [401, 400], variance, shift=shift, generator=seeded(1)))
        return float((found - plain).mean())

    by_eps = moved(classifier_guided(eps_fn, unit, LINEAR, 1.0), fixed_small)
    by_shift = [moved(eps_fn, variance, classifier_shift(unit, 1.0)) for variance in (fixed_small, fixed_large)]
    for found, known in zip([by_eps, *by_shift], (8.1007e-3, 8.0522e-3, 8.0680e-3), strict=True):
        assert abs(found - known) < 6e-8


def test_dhariwal2021_the_two_routes_meet_as_steps_get_small():
    x, gaps = randn(20, 2), []
    score, eps_fn = exact_score(1), WORLD.eps_fn(LINEAR)
    for steps in (125, 250, 500):
        times = uniform_times(1000, steps)
        by_eps = ancestral(classifier_guided(eps_fn, score, LINEAR, 2.0), LINEAR, x, times, generator=seeded(2))
        by_shift = ancestral(eps_fn, LINEAR, x, times, shift=classifier_shift(score, 2.0), generator=seeded(2))
        gaps.append(float((last(by_eps) - last(by_shift)).square().mean().sqrt()))
    assert gaps[0] > 1.5 * gaps[1] > 2.2 * gaps[2]


@pytest.mark.parametrize(
    ("classifier", "labels", "words"),
    [
        (lambda x, t: WORLD.log_class(x, LINEAR(t)).exp(), [0, 1], "log_softmax"),
        (lambda x, t: WORLD.log_joint(x, LINEAR(t)), [0, 1], "log_softmax"),
        (lambda x, t: WORLD.log_class(x, LINEAR(t)), [0, 3], "the classifier knows 0 to 2"),
        (lambda x, t: WORLD.log_class(x, LINEAR(t)), [-1, 0], "labels run from -1"),
        (lambda x, t: WORLD.log_class(x, LINEAR(t)), [0, 1, 2], "labels are"),
        (lambda x, t: WORLD.log_prob(x, LINEAR(t)), [0, 1], "answers .B, classes."),
    ],
)
def test_bad_classifiers_and_labels_are_refused(classifier, labels, words):
    with pytest.raises(ValueError, match=words):
        class_score(classifier, torch.tensor(labels))(randn(2, 2), torch.full((2,), 300.0))


# --- classifier-free guidance


@pytest.mark.parametrize(("scale", "mean", "std"), GUIDED_MOMENTS)
def test_ho2022_guided_moments_of_two_modes(scale, mean, std):
    """Modes at -1 and 1 of variance 0.25; known to 0.02. Guidance overshoots the mode and shrinks."""
    eps_fn = classifier_free(TWO.component(1).eps_fn(LINEAR), TWO.eps_fn(LINEAR), float(scale))
    end = last(ddim(eps_fn, LINEAR, STARTS, leading_times(1000, 200)))
    assert abs(float(end.mean()) - mean) < 0.02 and abs(float(end.std()) - std) < 0.02


def test_ho2022_scales_0_and_1_are_the_two_models_to_the_last_bit():
    u, c = 100 * randn(50, 3, seed=1).float(), 100 * randn(50, 3, seed=2).float()
    for scale, expected in ((0.0, u), (1.0, c)):
        assert torch.equal(classifier_free(lambda x, t: c, lambda x, t: u, scale)(u, u[:, 0]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 40_003])  # alone, and the tail behind whole vectors
def test_ho2022_every_finite_number_is_met_at_scales_0_and_1_and_by_its_like_at_any(dtype, n):
    """All bit patterns, subnormal and huge too; torch.lerp's difference of two huge and opposite ones overflows."""
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    low, high = torch.iinfo(bits).min, torch.iinfo(bits).max
    u, c = (
        torch.randint(low, high, (2, n), dtype=bits, generator=seeded(n)).view(dtype).nan_to_num()
    )  # finite, all of it
    largest = torch.finfo(dtype).max
    u[0], c[0] = largest, -largest
    for scale, expected in ((0.0, u), (1.0, c)):
        assert torch.equal(classifier_free(lambda x, t: c, lambda x, t: u, scale)(u, u), expected)
    usual = u[u.abs() < largest / 16]
    for scale in (-3.0, 0.3, 0.5, 7.5):
        same = classifier_free(lambda x, t: usual, lambda x, t: usual, scale)
        assert torch.equal(same(usual, usual), usual), "the null condition does not depend on the scale"


@pytest.mark.parametrize("scale", [-20.0, -1.0, 0.2, 0.5, 0.8, 1.5, 30.0])
def test_ho2022_eq6_in_exact_arithmetic(scale):
    """u + s (c - u) in rationals; the error is of the last digit of the largest term."""
    u, c = randn(200, seed=1), randn(200, seed=2)
    found = classifier_free(lambda x, t: c, lambda x, t: u, scale)(u, u)
    for a, b, answer in zip(u.tolist(), c.tolist(), found.tolist(), strict=True):
        exact = Fraction(a) + Fraction(scale) * (Fraction(b) - Fraction(a))
        assert abs(Fraction(answer) - exact) < 4e-16 * (abs(a) + abs(b) + abs(scale * (b - a)))


def test_ho2022_one_call_at_twice_the_batch_is_the_same():
    calls = []

    def net(x, t, label):
        calls.append(len(x))
        return x * label[:, None] + t[:, None] / 1000

    x, t, labels, null = randn(4, 3), torch.tensor([1.0, 300.0, 700.0, 1000.0]), torch.arange(4), torch.full((4,), 9)
    guided = classifier_free_batched(net, labels, null, 3.0)(x, t)
    assert calls == [8]
    apart = classifier_free(lambda x, t: net(x, t, labels), lambda x, t: net(x, t, null), 3.0)(x, t)
    close(guided, apart)
    text = randn(4, 2, 5)  # conditions of any shape

    def reads(x, t, text):
        return x + text.sum((1, 2))[:, None]

    close(classifier_free_batched(reads, text, 0 * text, 2.0)(x, t), x + 2 * text.sum((1, 2))[:, None])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -2.0])
def test_ho2022_a_trained_network_answers_the_same_in_one_call(scale):
    """To float32's last digits: the network's answers in another batch differ by some 1e-6, and the scale magnifies."""
    net, _ = zoo.load("digits")
    x, labels = randn(3, 1, 16, 16).float(), torch.tensor([7, 0, 3])
    null = torch.full_like(labels, 10)
    for time in (1.0, 500.0, 1000.0):
        t = torch.full((3,), time)
        apart = classifier_free(partial(net, label=labels), net, scale)(x, t)  # no label is the null label
        for guided in (
            classifier_free_batched(net, labels, null, scale),
            partial(guided_network(net, 10, scale), label=labels),
        ):
            torch.testing.assert_close(guided(x, t), apart, rtol=0, atol=1e-5 * (1 + 2 * abs(scale)))
        nowhere = classifier_free_batched(net, null, null, scale)(x, t)  # whatever the scale
        torch.testing.assert_close(nowhere, net(x, t), rtol=0, atol=1e-5 * (1 + 2 * abs(scale)))


@pytest.mark.parametrize(
    ("condition", "null", "words"),
    [
        (torch.tensor([1, 2]), torch.tensor([10]), "differ: give each sample its own null"),
        (torch.tensor([1]), torch.tensor([10]), "1 conditions for 2 samples"),
        (torch.tensor([1, 11]), torch.tensor([10, 10]), "labels are whole numbers from 0 to 9"),
        (torch.tensor([1, -1]), torch.tensor([10, 10]), "labels are whole numbers from 0 to 9"),
    ],
)
def test_bad_conditions_are_refused(condition, null, words):
    net, _ = zoo.load("digits")
    with pytest.raises(ValueError, match=words):
        classifier_free_batched(net, condition, null, 3.0)(randn(2, 1, 16, 16).float(), torch.full((2,), 500.0))


def test_a_network_without_labels_cannot_be_guided():
    x, t, labels = torch.zeros(2, 1, 8, 8), torch.full((2,), 500.0), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="trained without labels"):
        guided_network(UNet(1, [8, 16], head_width=8), 10, 3.0)(x, t, labels)
    with pytest.raises(ValueError, match="give one for each sample"):
        guided_network(UNet(1, [8, 16], head_width=8, classes=10), 10, 3.0)(x, t)


def test_guidance_within_an_interval_of_noise():
    asked = []
    guided = lambda x, t: asked.append(float(t[0])) or 2 * x  # noqa: E731
    limited = within(guided, lambda x, t: x, LINEAR, 0.5, 5.0)
    x = randn(3, 2)
    for t in (1, 100, 200, 500, 700, 1000):
        scale, std = LINEAR(t)
        inside = 0.5 <= std / scale <= 5
        close(limited(x, torch.full((3,), float(t))), (2 if inside else 1) * x)
    assert asked == [200.0, 500.0]  # std / scale = 0.72 and 3.4; at 100 and 700 it is 0.34 and 11.9
    ends = [float(VE()(t)[1]) for t in (0.2, 0.6)]  # both belong to the interval
    closed = within(guided, lambda x, t: x, VE(), *ends)
    for t, factor in ((0.19, 1), (0.2, 2), (0.6, 2), (0.61, 1)):
        close(closed(x, torch.full((3,), t, dtype=torch.float64)), factor * x)
    close(limited(x, torch.tensor([1.0, 200.0, 200.0])), x)  # one of them is outside
    for low, high in ((5.0, 0.5), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="from low to high"):
            within(guided, guided, LINEAR, low, high)


def test_the_outermost_function_has_the_last_word():
    """Guided, then limited, x_0 is in range; limited, then guided, it is out again."""
    cond, uncond = gaussian_eps(0.9, 0.01, LINEAR), gaussian_eps(-0.2, 0.2, LINEAR)
    x, t = noisy(), T
    for limit in (clip_x0, threshold_x0):
        outside = implied_x0(limit(classifier_free(cond, uncond, 5.0), LINEAR), x, t)
        inside = implied_x0(classifier_free(limit(cond, LINEAR), limit(uncond, LINEAR), 5.0), x, t)
        assert float(outside.abs().max()) < 1 + 1e-9 < 1.5 < float(inside.abs().max())


@pytest.mark.parametrize("scale", [-1.0, 0.4, 3.0])
def test_guidance_commutes_with_conversions_but_not_with_clipping(scale):
    """Guiding eps, x_0 or v is one thing, all being linear in one another; clipped estimates of x_0 are not."""
    x, (u, c), now = noisy(), (randn(4, 3, 5, seed=k) for k in (7, 8)), LINEAR(T)
    guided = classifier_free(lambda x, t: c, lambda x, t: u, scale)(x, T)
    x0_u, x0_c = (x0_from_eps(x, eps, now) for eps in (u, c))
    x0 = x0_u + scale * (x0_c - x0_u)
    close(x0_from_eps(x, guided, now), x0, rtol=1e-9, atol=1e-9)
    v_u, v_c = (v_from_x0_eps(*pair, now) for pair in ((x0_u, u), (x0_c, c)))
    close(eps_from_v(x, v_u + scale * (v_c - v_u), now), guided, rtol=1e-9, atol=1e-9)
    clipped = x0_u.clamp(-1, 1) + scale * (x0_c.clamp(-1, 1) - x0_u.clamp(-1, 1))
    assert float((clipped - x0.clamp(-1, 1)).abs().max()) > 0.1


def test_log_probabilities_that_are_off_by_half_a_nat_are_refused():
    x, t, labels = randn(3, 2), torch.full((3,), 5.0), torch.tensor([0, 1, 1])
    for off in (0.5, -0.5, torch.tensor([[0.0], [0.5], [0.0]])):  # of one sample is enough
        score = class_score(lambda x, t, off=off: torch.stack([x[:, 0], -x[:, 0]], 1).log_softmax(1) + off, labels)
        with pytest.raises(ValueError, match="end it in log_softmax"):
            score(x, t)


# --- what is refused: see test_fuzz.py

ONE, ONES = torch.ones(2, 3), torch.ones(2)


def net(x, t, label=None):
    return 0.5 * x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda bad: classifier_shift(net, bad), "scale"),
        (lambda bad: classifier_guided(net, net, LINEAR, bad), "scale"),
        (lambda bad: classifier_free(net, net, bad), "scale"),
        (lambda bad: classifier_free_batched(net, ONES, ONES, bad), "scale"),
        (lambda bad: from_paper_w(bad), "w"),
        (lambda bad: clip_x0(net, LINEAR, low=bad), "low"),
        (lambda bad: clip_x0(net, LINEAR, high=bad), "high"),
    ],
)
def test_guidance_is_by_a_finite_number(function, message):
    function(1e300 if message == "high" else -1e300)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"^{message} = {bad}: give a finite number"):
            function(bad)


@pytest.mark.parametrize(
    "guided",
    [
        lambda bad: classifier_shift(bad, 1.0)(ONE, ONES, ONE, torch.tensor(0.1)),
        lambda bad: classifier_guided(bad, net, LINEAR, 1.0)(ONE, ONES),
        lambda bad: classifier_guided(net, bad, LINEAR, 1.0)(ONE, ONES),
        lambda bad: classifier_free(bad, net, 1.0)(ONE, ONES),
        lambda bad: classifier_free(net, bad, 1.0)(ONE, ONES),
        lambda bad: classifier_free_batched(lambda x, t, label: bad(x, t), ONES, ONES, 1.0)(ONE, ONES),
        lambda bad: clip_x0(bad, LINEAR)(ONE, ONES),
    ],
)
def test_every_answer_of_a_network_is_looked_at(guided):
    assert guided(net).shape == ONE.shape
    with pytest.raises(ValueError, match="a network answered"):
        guided(lambda x, t: x[:1])


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (0.5, 0.5)])
def test_x0_is_held_from_low_to_high(low, high):
    with pytest.raises(ValueError, match=f"from low to high; got {low} and {high}"):
        clip_x0(net, LINEAR, low, high)


def test_what_is_guided_is_a_batch_of_floats_with_a_label_each():
    for percentile in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"a percentile is a share of the pixels in \(0, 1\]"):
            dynamic_threshold(ONE, percentile)
    with pytest.raises(ValueError, match="convert it to floats"):
        dynamic_threshold(ONE.long(), 0.9)
    close(dynamic_threshold(2 * ONES, 1.0), ONES)
    score = class_score(lambda x, t: x.log_softmax(1), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="convert it to floats"):
        score(ONE.long(), ONES)
    with pytest.raises(ValueError, match=r"labels are \(B,\)"):
        class_score(lambda x, t: x.log_softmax(1), torch.zeros(2, 1, dtype=torch.long))(ONE, ONES)
    with pytest.raises(ValueError, match="mean is"):
        classifier_shift(net, 1.0)(ONE, ONES, ONE[:1], torch.tensor(0.1))
    with pytest.raises(ValueError, match="differ"):
        classifier_free_batched(net, torch.tensor(1), torch.tensor(1), 1.0)
