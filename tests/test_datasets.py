import hashlib
import math

import numpy as np
import pytest
import torch
from helpers import close, seeded

from ddpm_path.lab import datasets
from ddpm_path.lab.datasets import check_images, checkerboard, digits, swiss_roll, to_display, to_model_range

# --- ranges


def test_all_256_levels_survive_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_display(to_model_range(levels)), levels)
    assert torch.equal(to_display(to_model_range(levels).half().float()), levels)  # and storage in half precision


def test_ho2020_sec33_model_range_is_from_minus_1_to_1():
    close(to_model_range(torch.tensor([0, 51, 255], dtype=torch.uint8)), [-1.0, 51 / 127.5 - 1, 1.0], rtol=1e-6)
    assert to_model_range(torch.zeros(1, dtype=torch.uint8)).dtype == torch.float32


def test_to_display_rounds_to_the_nearest_level_and_clips():
    half = 1 / 127.5 / 2
    at = to_model_range(torch.tensor([7], dtype=torch.uint8))
    assert to_display(torch.cat([at - 0.9 * half, at + 0.9 * half, at + 1.1 * half])).tolist() == [7, 7, 8]
    assert to_display(torch.tensor([-3.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]
    assert to_display(torch.zeros(1)).dtype == torch.uint8


def test_ranges_refuse_what_they_would_distort():
    with pytest.raises(ValueError, match="uint8"):
        to_model_range(torch.zeros(3))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN"):
            to_display(torch.tensor([0.0, bad]))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.linspace(0, 255, 16).view(1, 1, 4, 4), r"span \[0, 255\].*to_model_range"),
        (torch.linspace(0, 1, 16).view(1, 1, 4, 4), r"span \[0, 1\].*to_model_range"),
        (torch.linspace(-1, 2, 16).view(1, 1, 4, 4), r"span \[-1, 2\]"),
        (torch.linspace(-2, 1, 16).view(1, 1, 4, 4), r"span \[-2, 1\]"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "floats"),
        (torch.zeros(4, 4), r"\(N, C, H, W\)"),
    ],
)
def test_images_in_another_range_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        check_images(images)


def test_images_with_nan_are_counted_and_the_first_is_named():
    images = -torch.ones(5, 1, 2, 2)
    check_images(images)
    images[2, 0, 1, 1], images[4] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"2 images.*number 2"):
        check_images(images)


# --- digits


@pytest.mark.parametrize("size", [8, 16])
def test_digits_split_is_disjoint_complete_and_balanced(size):
    data = digits(size)
    assert len(data.train) == len(data.train_labels) and len(data.test) == len(data.test_labels)
    assert len(data.train) + len(data.test) == 1797 and data.train.shape[1:] == (1, size, size)
    assert data.train_labels.dtype == torch.int64
    both = torch.cat([data.train_labels, data.test_labels]).bincount(minlength=10)
    assert torch.equal(data.test_labels.bincount(minlength=10), both // 5)  # every fifth of each class
    assert int(both.min()) >= 174 and int(both.max()) <= 183
    train = {image.numpy().tobytes() for image in data.train}
    assert not any(image.numpy().tobytes() in train for image in data.test)
    for images in (data.train, data.test):
        check_images(images)


@pytest.mark.parametrize("size", [8, 16])
def test_digits_lie_exactly_on_the_256_levels(size):
    images = digits(size).train
    assert torch.equal(to_model_range(to_display(images)), images)
    assert float(images.min()) == -1 and float(images.max()) == 1


def test_digits_splits_take_every_fifth_image_of_a_class_in_published_order():
    with np.load(datasets.DATA / "digits.npz") as file:
        raw, labels = file["images"], file["labels"]
    data = digits(8)
    grey = np.round(raw / 16 * 255) / 127.5 - 1
    for k in range(10):
        mine = grey[labels == k]
        close(data.test[data.test_labels == k][:, 0], mine[4::5], atol=1e-6, rtol=0)
        close(data.train[data.train_labels == k][:, 0], np.delete(mine, np.s_[4::5], axis=0), atol=1e-6, rtol=0)


def test_digits_16_are_the_cubic_resampling_of_the_published_8x8():
    """Keys' kernel with a = -0.75 at a quarter and three quarters of a pixel, edges repeated; in numpy alone."""

    def keys(d, a=-0.75):
        d = abs(d)
        return ((a + 2) * d - (a + 3)) * d * d + 1 if d <= 1 else a * (((d - 5) * d + 8) * d - 4) if d < 2 else 0.0

    matrix = np.zeros((16, 8))
    for out in range(16):
        centre = (out + 0.5) / 2 - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[out, min(max(tap, 0), 7)] += keys(centre - tap)
    np.testing.assert_allclose(matrix.sum(1), 1)
    with np.load(datasets.DATA / "digits.npz") as file:
        raw, labels = file["images"], file["labels"]
    levels = np.round(np.clip(matrix @ (raw / 16) @ matrix.T, 0, 1) * 255)
    data = digits(16)
    for k in range(10):
        assert np.array_equal(to_display(data.test[data.test_labels == k])[:, 0].numpy(), levels[labels == k][4::5])


def test_digits_of_another_size_are_refused():
    with pytest.raises(ValueError, match="sizes 8 and 16, not 28"):
        digits(28)


def test_the_digest_covers_training_images_and_labels():
    data = digits(8)
    pixels = ((data.train.double() + 1) * 127.5).round().byte().numpy()
    true = hashlib.sha256(pixels.tobytes() + data.train_labels.numpy().astype("<i8").tobytes()).hexdigest()
    assert data.digest == true[:16]
    other, labels = data.train.clone(), data.train_labels.clone()
    other[0, 0, 0, 0] += 2 / 255
    labels[0] += 1
    assert len({data.digest, data._replace(train=other).digest, data._replace(train_labels=labels).digest}) == 3


# --- flat sets


def test_sohl_dickstein2015_swiss_roll_is_a_spiral():
    x = swiss_roll(4000, seeded(1), noise=0.0)
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    # radius = turn / 4.5 pi, so the angle is 4.5 pi radius up to whole turns
    assert float((torch.remainder(4.5 * math.pi * radius - angle + 1, 2 * math.pi) - 1).abs().max()) < 1e-4
    assert 1 / 3 < float(radius.min()) < 0.36 and 0.99 < float(radius.max()) <= 1 + 1e-6
    assert torch.equal(swiss_roll(5, seeded(1)), swiss_roll(5, seeded(1)))


def test_swiss_roll_noise_has_the_deviation_it_is_given():
    noise = swiss_roll(20_000, seeded(1), noise=0.1) - swiss_roll(20_000, seeded(1), noise=0.0)
    close(noise.std(0), [0.1, 0.1], rtol=4 / math.sqrt(2 * 20_000))
    assert abs(float(noise.mean())) < 4 * 0.1 / math.sqrt(40_000)


def test_checkerboard_is_even_on_eight_fields_that_touch_at_corners_only():
    x = checkerboard(16_000, seeded(1))
    assert float(x.min()) >= -1 and float(x.max()) <= 1
    column, row = ((x + 1) * 2).long().clamp(max=3).unbind(1)
    assert len((column + row).remainder(2).unique()) == 1  # one colour
    counts = (4 * row + column).bincount(minlength=16)
    assert int((counts > 0).sum()) == 8
    assert bool(((counts[counts > 0] - 2000).abs() < 4.5 * math.sqrt(2000 * 7 / 8)).all())
    inside = ((x + 1) * 2).frac()
    close(inside.mean(0), [0.5, 0.5], atol=4.5 / math.sqrt(12 * 16_000), rtol=0)
    close(inside.var(0), [1 / 12, 1 / 12], rtol=0.03)


@pytest.mark.parametrize("name", ["digits", "mnist2000"])
def test_the_shipped_images_are_the_ones_that_the_readme_names(name):
    with np.load(datasets.DATA / f"{name}.npz") as file:
        digest = hashlib.sha256(file["images"].tobytes() + file["labels"].tobytes()).hexdigest()
    assert digest in (datasets.DATA / "README.md").read_text(encoding="utf-8")


def test_swiss_roll_log_prob_is_the_density_of_its_samples():
    """It integrates to 1, and its mean square radius is that of the samples."""
    side = torch.linspace(-1.7, 1.7, 171, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    density = datasets.swiss_roll_log_prob(grid, noise=0.1, cells=500).exp() * 0.02**2
    close(density.sum(), 1.0, rtol=1e-6)
    square = swiss_roll(20_000, seeded(0), noise=0.1).double().square().sum(1)
    true = float((density * grid.square().sum(1)).sum())
    assert abs(float(square.mean()) - true) < 4 * float(square.std()) / math.sqrt(len(square))


def test_heartbeats_are_the_five_phases():
    heart = datasets.heartbeats()
    assert heart.shape == (5, 20) and heart.sum(0).tolist() == [1] * 20 and heart.sum(1).tolist() == [4] * 5
    assert torch.equal(heart, heart.roll(5, 1)) and torch.equal(heart.roll(1, 1), heart.roll(-1, 0))


def test_the_sample_of_mnist_holds_its_pixels_in_the_models_range():
    images, labels = datasets.mnist_sample()
    with np.load(datasets.DATA / "mnist2000.npz") as file:
        assert np.array_equal(to_display(images)[:, 0].numpy(), file["images"])
    assert images.shape == (2000, 1, 28, 28) and float(images.min()) == -1 and float(images.max()) == 1
    # MNIST's first test digits, as every tutorial prints them.
    assert labels.dtype == torch.int64 and labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
