import math

import numpy as np
import pytest
import scipy.linalg
import torch
from helpers import LINEAR, close, gaussian_eps, rand, randn, seeded
from torch import Tensor, nn

from ddpm_path.exact import isotropic_mixture
from ddpm_path.lab import zoo
from ddpm_path.lab.datasets import Images, digits
from ddpm_path.lab.metrics import (
    Recogniser,
    Result,
    accuracy,
    at_coverage,
    balanced_labels,
    coverage,
    frechet_distance,
    guards,
    jitter,
    kernel_difference,
    kernel_distance,
    kernel_error,
    nearest,
    quality,
    recognised,
    sample,
    trade_off,
    train_recogniser,
    wasserstein,
)
from ddpm_path.lab.probing import accuracy_by_level, by_heart, by_heart_classifier, loss_by_level
from ddpm_path.samplers import ancestral
from ddpm_path.schedule import VE, VP


class Says(Recogniser):
    """A recogniser that reads its log-probabilities off the image."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, x):
        return x.flatten(1).log()


# --- results


def test_result_minus_is_the_difference_and_the_root_of_summed_squares():
    one = Result("recognised", 0.9, 0.03, {"n": 2000, "weights": "ema"})
    two = Result("recognised", 0.7, 0.04, {"n": 2000, "weights": "ema"})
    difference, error = one.minus(two)
    close([difference, error], [0.2, 0.05], rtol=1e-9)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Result("coverage", 0.7, 0.0, {"n": 2000}), "the metric"),
        (Result("recognised", 0.7, 0.0, {"n": 1000}), "n differ"),
        (Result("recognised", 0.7, 0.0, {}), "n differ"),
        (Result("recognised", 0.7, 0.0, {"n": 2000, "sampler": "ddim"}), "sampler differ"),
    ],
)
def test_results_of_other_settings_are_not_compared(other, words):
    mine = Result("recognised", 0.9, 0.0, {"n": 2000})
    for a, b in ((mine, other), (other, mine)):
        with pytest.raises(ValueError, match=words):
            a.minus(b)


# --- recognition


def test_accuracy_and_recognised_count_by_hand():
    said = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.85, 0.15], [0.2, 0.8], [0.02, 0.98]])
    images, labels = said.view(5, 1, 1, 2), torch.tensor([0, 0, 0, 1, 1])
    assert accuracy(Says(), images, labels) == 4 / 5
    for wanted, share in ((labels, 2 / 5), (None, 3 / 5)):  # confident and right; confident
        close(recognised(Says(), images, wanted), [share, math.sqrt(share * (1 - share) / 5)])


def test_recogniser_answers_probabilities_whatever_the_batch():
    torch.manual_seed(0)
    net, x = Recogniser(width=4).eval(), torch.randn(1003, 1, 8, 8, generator=seeded(0))
    whole = net.log_probs(x)
    close(whole.exp().sum(1), torch.ones(1003), rtol=1e-5)  # float32
    assert net.features(x).shape == (1003, 64)
    for at in (0, 499, 500, 1002):  # parts of 500 are put together in order
        torch.testing.assert_close(whole[at], net(x[at : at + 1])[0].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.head(net.features(x)).log_softmax(1)[at], whole[at], rtol=1e-4, atol=1e-5)


def test_jitter_moves_each_image_by_a_pixel_at_most_and_fills_with_background():
    x = torch.randn(200, 2, 4, 5, generator=seeded(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved = jitter(x)
    padded, seen = nn.functional.pad(x, (1, 1, 1, 1), value=-1.0), set()
    for i in range(200):
        windows = {(r, c): padded[i, :, r : r + 4, c : c + 5] for r in range(3) for c in range(3)}
        (which,) = [at for at, window in windows.items() if torch.equal(window, moved[i])]
        seen.add(which)
    assert len(seen) == 9


def test_training_a_recogniser_learns_repeats_and_leaves_the_global_seed_alone():
    labels = torch.arange(256) % 2
    train = rand(256, 1, 8, 8, seed=1).float() * 0.2 - 1
    train[labels == 1, :, 3:5] += 1.5
    data = Images("stripes", train, labels, train[:0], labels[:0], ("none", "stripe"))
    before = torch.random.get_rng_state()
    one, two = (train_recogniser(data, epochs=12, seed=4) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not one.training and accuracy(one, train, labels) > 0.95
    assert torch.equal(one.log_probs(train), two.log_probs(train))


# --- coverage and copying


def test_naeem2020_eq4_coverage_by_brute_force():
    real, samples, k = randn(60, 3, seed=1), 0.7 * randn(40, 3, seed=2), 5
    hit = 0
    for i in range(60):
        radius = sorted(float((real[i] - real[j]).norm()) for j in range(60) if j != i)[k - 1]
        hit += any(float((real[i] - s).norm()) < radius for s in samples)
    assert 0 < hit < 60
    close(coverage(real, samples, k), hit / 60)


def test_naeem2020_coverage_of_a_set_by_itself_is_1_and_by_nothing_near_is_0():
    images = randn(80, 1, 4, 4, seed=1).float()
    assert coverage(images, images) == 1.0
    assert coverage(images, images + 100) == 0.0


def test_naeem2020_coverage_sees_a_lost_mode():
    real = torch.cat([randn(100, 2, seed=1), randn(100, 2, seed=2) + 50])
    close(coverage(real, randn(500, 2, seed=3)), 0.5, atol=0.02)


def test_naeem2020_trade_off_by_drawing_the_rows_again():
    """All samples first, then every bootstrap draw: recognised and coverage of those rows, duplicates and all."""
    said = rand(9, 3, seed=1).square()
    images, real, labels = (
        (said / said.sum(1, keepdim=True)).view(9, 1, 1, 3),
        rand(20, 1, 1, 3, seed=2),
        balanced_labels(9, 3),
    )
    images[:4] = torch.tensor([[0.92, 0.04, 0.04], [0.02, 0.96, 0.02], [0.95, 0.03, 0.02], [0.93, 0.03, 0.04]])[
        :, None, None
    ]
    good, reached = trade_off(Says(), real, images, labels, draws=50, seed=4)
    for i, at in enumerate([torch.arange(9), *torch.randint(9, (50, 9), generator=seeded(4))]):
        close(good[i], recognised(Says(), images[at], labels[at])[0])
        close(reached[i], coverage(real, images[at]))
    assert 0 < float(good[0]) == 3 / 9 and float(good[1:].std()) > 0 < float(reached[1:].std())


def test_a_curve_is_read_at_a_coverage_draw_by_draw():
    """Points (0.9, 0.5), (0.5, 0.9), (0.7, 0.6) in the first draw; beyond the ends their own share."""
    good = torch.tensor([[0.5, 0.9, 0.6], [0.1, 0.2, 0.3]]).double()
    cover = torch.tensor([[0.9, 0.5, 0.7], [0.4, 0.8, 0.6]]).double()
    curve = list(zip(good.T, cover.T, strict=True))
    for level, expected in (([0.6, 0.5], [0.75, 0.2]), ([0.8, 0.7], [0.55, 0.25]), ([0.1, 0.9], [0.9, 0.2])):
        close(at_coverage(curve, torch.tensor(level)), expected, rtol=1e-6)


def test_nearest_distance_by_brute_force():
    images, training = randn(9, 1, 3, 3, seed=1), randn(23, 1, 3, 3, seed=2)
    training[17] = images[4]
    true = torch.stack([(training - image).flatten(1).norm(dim=1).min() for image in images])
    for chunk in (1, 5, 23, 100):
        close(nearest(images, training, chunk), true, atol=1e-6, rtol=1e-9)  # a root of a difference: 1e-8 at 0
    assert int(nearest(images, training).argmin()) == 4


# --- distances of distributions


def test_heusel2017_eq6_frechet_distance_of_known_gaussians():
    """Whitened sets have exactly the moments they are given: |m|^2 + tr(A + B - 2 sqrt(A^1/2 B A^1/2)) to round-off."""

    def exactly(n, mean, root, seed):
        z = randn(n, 3, seed=seed)
        z = z - z.mean(0)
        white = z @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov())).T
        return white @ root.T + mean

    A, B = torch.eye(3).double(), torch.diag(torch.tensor([2.0, 3.0, 0.5])).double()  # roots of the covariances
    shift = torch.tensor([1.0, -2.0, 0.0]).double()
    got = frechet_distance(exactly(2000, 0, A, 1), exactly(2000, shift, B, 2))
    close(got, 5 + 1 + 4 + 0.25, rtol=1e-9)  # (1 - 2)^2 + (1 - 3)^2 + (1 - 0.5)^2
    close(frechet_distance(exactly(2000, 0, 2 * A, 1), exactly(2000, 0, A, 2)), 3.0, rtol=1e-9)


def test_heusel2017_eq6_frechet_distance_equals_scipys_matrix_root():
    mix = randn(6, 6, seed=3)
    a, b = randn(2500, 6, seed=1) @ mix, randn(2500, 6, seed=2) @ mix.T + 0.3
    A, B = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    close(frechet_distance(a, b), mean + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real), rtol=1e-8)
    close(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-9)
    close(frechet_distance(a, a), 0.0, atol=1e-9)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(frechet_distance(a, b), rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [((1999, 4), (1999, 4)), ((2000, 4), (2500, 4)), ((2000, 201), (2000, 201))])
def test_frechet_distance_refuses_what_its_bias_would_rule(a, b):
    with pytest.raises(ValueError, match="kernel_distance"):
        frechet_distance(torch.zeros(a), torch.zeros(b))


def test_binkowski2018_kernel_distance_by_double_loop():
    a, b = randn(7, 4, seed=1), randn(5, 4, seed=2) + 0.5

    def k(x, y):
        return (float(x @ y) / 4 + 1) ** 3

    aa = [k(a[i], a[j]) for i in range(7) for j in range(7) if i != j]
    bb = [k(b[i], b[j]) for i in range(5) for j in range(5) if i != j]
    ab = [k(x, y) for x in a for y in b]
    close(kernel_distance(a, b), np.mean(aa) + np.mean(bb) - 2 * np.mean(ab), rtol=1e-10)


def test_binkowski2018_kernel_difference_by_drawing_the_rows_again():
    """The estimate and every bootstrap draw are the difference of two kernel distances, duplicates and all."""
    a, real = randn(12, 3, seed=1) + 0.3, randn(40, 3, seed=2)
    b = a + 0.2 * randn(12, 3, seed=3)
    difference, error = kernel_difference(a, b, real, draws=50, seed=4)
    close(difference, kernel_distance(a, real) - kernel_distance(b, real), rtol=1e-11)
    rows = torch.randint(12, (50, 12), generator=seeded(4))
    again = [kernel_distance(a[at], real) - kernel_distance(b[at], real) for at in rows]
    close(error, np.std(again, ddof=1), rtol=1e-10)
    assert kernel_difference(b, a, real, 50, 4) == (-difference, error)
    close(kernel_error(a, real, 50, 4), np.std([kernel_distance(a[at], real) for at in rows], ddof=1), rtol=1e-10)


def test_kernel_difference_lets_what_a_latent_does_to_both_cancel():
    """Twins differ by a little: drawn together their difference is sure, drawn with a stranger it is not."""
    a, real = randn(60, 3, seed=1), randn(200, 3, seed=2)
    _, twins = kernel_difference(a, a + 0.01 * randn(60, 3, seed=3), real)
    _, strangers = kernel_difference(a, randn(60, 3, seed=4), real)
    assert twins < strangers / 10
    with pytest.raises(ValueError, match="one shape"):
        kernel_difference(a, real, real)


def test_binkowski2018_kernel_distance_is_unbiased():
    """Equal distributions: mean 0 within its standard error, and half of the values negative. Shifted: far above."""
    values = torch.tensor([kernel_distance(randn(20, 3, seed=2 * i), randn(30, 3, seed=2 * i + 1)) for i in range(400)])
    error = float(values.std()) / 20
    assert abs(float(values.mean())) < 4 * error and 0.3 < float((values < 0).double().mean()) < 0.8
    assert kernel_distance(randn(200, 3, seed=1), randn(200, 3, seed=2) + 1) > 50 * error


# --- loss by level


def test_ho2020_eq14_loss_by_level_of_the_best_denoiser_and_of_doing_nothing():
    n, times = 400, [1, 300, 1000]
    images = 0.7 + 0.5 * randn(n, 1, 8, 8, seed=1).float()
    labels = torch.zeros(n).long()
    best_eps = gaussian_eps(0.7, 0.25, LINEAR)
    best = loss_by_level(lambda x, t, label: best_eps(x, t), LINEAR, images, labels, times)
    nothing = loss_by_level(lambda x, t, label: torch.zeros_like(x), LINEAR, images, labels, times)
    bar = LINEAR.alpha_bar[times]
    true = bar * 0.25 / (bar * 0.25 + 1 - bar)
    close(best / true, torch.ones(3), rtol=4 * math.sqrt(2 / (64 * n)))
    close(nothing, torch.ones(3), rtol=4 * math.sqrt(2 / (64 * n)))
    assert nothing[0] == nothing[1] == nothing[2]  # the same noise at all times


def test_loss_by_level_hands_on_times_and_labels():
    images, labels, seen = torch.zeros(3, 1, 2, 2), torch.tensor([4, 0, 2]), []

    def eps_fn(x, t, label):
        seen.append((t.tolist(), label))
        return x

    loss_by_level(eps_fn, LINEAR, images, labels, [10, 900])
    assert [t for t, _ in seen] == [[10.0] * 3, [900.0] * 3]
    assert all(label is labels for _, label in seen)


def test_quality_of_real_images_is_one_and_of_noise_and_copies_is_told() -> None:
    data, net = digits(), zoo.load_recogniser("digits-recogniser")
    half = torch.arange(len(data.train)) % 2 == 0  # half of the training images play the samples of a perfect model
    world = data._replace(train=data.train[~half], train_labels=data.train_labels[~half])
    real = {r.metric: r for r in quality(net, world, data.train[half], data.train_labels[half], {"steps": 0})}
    for result in real.values():
        # Within 4 standard errors, and 2% for what the recogniser saw in its training.
        assert abs(result.value - 1) < 4 * result.error + 0.02, result
        assert result.settings == {"steps": 0, "data": "digits", "n": int(half.sum()), "split": "test"}
    noise = torch.randn(400, 1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    bad = {r.metric: r.value for r in quality(net, data, noise, torch.arange(400) % 10, {})}
    assert bad["recognised"] < 0.2 and bad["coverage"] < 0.05
    copies = {r.metric: r.value for r in quality(net, data, data.train[:400], data.train_labels[:400], {})}
    assert copies["novelty"] < 1e-6 and copies["recognised"] > 0.95


def test_guards_leave_out_what_too_few_test_images_leave_undefined() -> None:
    data = digits(8)
    samples = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for test, told in ((data.test[:1], []), (data.train[:2], []), (data.test[:5], ["novelty"])):
        assert [result.metric for result in guards(data._replace(test=test), samples, {})] == told


def test_samples_follow_their_labels_and_do_not_depend_on_their_number() -> None:
    def net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        scale, std = (c.float().view(-1, 1, 1, 1) for c in LINEAR(t))
        means = 0.9 if label is None else label.view(-1, 1, 1, 1) / 5 - 0.5
        return (x - scale * means) / std  # class k is the flat image k / 5 - 0.5

    labels = balanced_labels(450, 5)
    assert labels is not None and labels.bincount().tolist() == [90] * 5 and labels[:6].tolist() == [0, 1, 2, 3, 4, 0]
    images = sample(net, LINEAR, 450, (1, 2, 2), [1000, 500, 0], 3, labels)
    torch.testing.assert_close(images, (labels / 5 - 0.5).view(-1, 1, 1, 1).expand_as(images), atol=1e-5, rtol=0)
    assert balanced_labels(450, 0) is None
    # From t = 1000, where 1 / scale = 157 magnifies float32's round-off of 2e-7.
    assert bool((sample(net, LINEAR, 3, (1, 2, 2), [1000, 0], 3) - 0.9).abs().max() < 5e-5)
    noisy = sample(net, LINEAR, 450, (1, 2, 2), [1000, 500, 1], 3, labels)  # the noise of 500 -> 1 is still there
    torch.testing.assert_close(sample(net, LINEAR, 7, (1, 2, 2), [1000, 500, 1], 3, labels[:7]), noisy[:7])


def test_by_heart_knows_the_images_of_each_label_only() -> None:
    images = randn(6, 1, 2, 2)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    data = Images("six", images, labels, images, labels, ("a", "b"))
    x, t = randn(4, 1, 2, 2, seed=1), torch.tensor([300.0, 300.0, 700.0, 900.0])
    asked = torch.tensor([1, 0, 1, 0])
    got = by_heart(data, LINEAR)(x, t, asked)
    for k in range(4):
        scale, std = LINEAR(t[k])
        mine = images[labels == asked[k]]
        weights = (-(x[k] - scale * mine).square().flatten(1).sum(1) / (2 * std**2)).softmax(0)
        x0 = (weights.view(-1, 1, 1, 1) * mine).sum(0)
        close(got[k], (x[k] - scale * x0) / std, rtol=1e-9)


@pytest.mark.parametrize("t", [1.0, 300.0, 900.0])
def test_by_heart_classifier_is_bayes_rule_over_the_training_set(t):
    """Every image is as likely as the next: a class's share is that of its images, however many it has."""
    images, labels = 0.3 * randn(7, 1, 2, 2), torch.tensor([0, 1, 0, 0, 1, 2, 0])
    data = Images("seven", images, labels, images, labels, ("a", "b", "c"))
    x, (scale, std) = randn(4, 1, 2, 2, seed=1), LINEAR(t)
    distance = torch.cdist(x.flatten(1), scale * images.flatten(1))
    shares = (-(distance**2) / (2 * std**2)).softmax(1) @ torch.nn.functional.one_hot(labels).double()
    close(by_heart_classifier(data, LINEAR)(x, torch.full((4,), t)).exp(), shares, rtol=1e-8, atol=1e-12)


def test_accuracy_by_level_of_the_best_classifier_and_of_a_guess():
    """Images of one value, -1 or 1: noise of std / scale hides it from the best with Phi(-scale sqrt(D) / std)."""
    n, times = 2000, [1, 300, 500, 1000]
    labels = torch.arange(n) % 2
    images = (2 * labels - 1).float().view(n, 1, 1, 1).expand(n, 1, 2, 2)
    asked = []

    def best(x, t):
        asked.append(t)
        return torch.stack([-x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1).log_softmax(1)

    scale, std = LINEAR(torch.tensor(times))
    true = torch.special.ndtr(2 * scale / std)
    found = accuracy_by_level(best, LINEAR, images, labels, times)
    assert bool(((found - true).abs() <= 4 * (true * (1 - true) / n).sqrt() + 1e-6).all()), (found, true)
    assert torch.cat(asked).tolist() == [t for t in times for _ in range(n)]
    close(accuracy_by_level(lambda x, t: torch.zeros(len(x), 2), LINEAR, images, labels, [300]), [0.5])


def test_wasserstein_of_a_shifted_and_of_a_widened_world():
    """Shifted by 0.3: distance 0.3. N(0, 1) against N(0, 4): the mean of |2z - z|, sqrt(2 / pi)."""
    n = 20_000
    share = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    mixture = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], 0.15)
    data = mixture.quantile(share, (1.0, 0.0))
    shuffled = data[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    assert wasserstein(shuffled, mixture) < 1e-12
    assert abs(wasserstein(shuffled + 0.3, mixture) - 0.3) < 1e-12
    with pytest.raises(ValueError, match="on a line"):
        wasserstein(shuffled[:, 0], mixture)
    wide, narrow = isotropic_mixture([1.0], [[0.0]], 2.0), isotropic_mixture([1.0], [[0.0]], 1.0)
    found = wasserstein(narrow.quantile(share, (1.0, 0.0)), wide)
    assert abs(found - math.sqrt(2 / math.pi)) < 2e-4  # midpoints leave out a little of both tails


def test_sampling_starts_at_the_deviation_of_the_schedule():
    """On VE pure noise is N(0, sigma_max^2): a start of deviation 1 would be taken for one of the last levels."""
    starts = {}
    for name, schedule in {"ve": VE(0.02, 18.5), "vp": VP()}.items():

        def remember(eps_fn, schedule, x, times, generator, name=name):
            starts[name] = x
            return ancestral(eps_fn, schedule, x, times, generator=generator)

        sample(lambda x, t, label: 0 * x, schedule, 4, (1, 16, 16), [1.0, 0.5, 0.0], 0, None, remember)
    assert 18 < float(starts["ve"].std()) < 19
    torch.testing.assert_close(starts["ve"] / 18.5, starts["vp"] / float(VP()(1.0)[1]))
