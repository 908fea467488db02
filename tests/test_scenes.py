"""Scenes of touching digits, by brute force: what touches, what is named, where borders are; how masks are judged."""

import itertools
from dataclasses import replace

import pytest
import torch
from helpers import close, seeded

from ddpm_path.lab import making, metrics, recipes, train, zoo
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.scenes import BACKGROUND, INK, touching_digits


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def some(data):
    return touching_digits(data.train, data.train_labels, 2, seeded(3), digits=4)


def pixels(scene_instances, k):
    return {(y, x) for y, x in (scene_instances == k).nonzero().tolist()}


def apart(a, b):
    """The largest of row and column distance between the two nearest pixels, Chebyshev."""
    return min(max(abs(y - v), abs(x - u)) for (y, x), (v, u) in itertools.product(a, b))


def test_each_digit_comes_next_to_another_with_one_pixel_between(some):
    for instances in some.instances:
        inked = [pixels(instances, k) for k in range(1, 5)]
        assert all(inked)
        for k in range(1, 4):  # in the order in which they were put down
            assert min(apart(inked[k], other) for other in inked[:k]) == 2


def test_classes_and_instances_name_the_ink(data, some):
    digit_images = data.train[:, 0]
    for image, classes, instances in zip(some.images[:, 0], some.classes, some.instances, strict=True):
        assert torch.equal(classes == BACKGROUND, instances == 0)
        assert torch.equal(classes == BACKGROUND, image <= INK)  # what lies over a digit does not blot it out
        assert image.min() >= -1 and image.max() <= 1
        for k in range(1, 5):
            inked = instances == k
            (label,) = classes[inked].unique().tolist()
            rows, columns = inked.any(1).nonzero().flatten(), inked.any(0).nonzero().flatten()
            shape = inked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            found = [
                digit
                for digit in digit_images[data.train_labels == label] > INK
                if digit.sum() == shape.sum() and torch.equal(trimmed(digit), shape)
            ]
            assert found, "no training digit of this class has this ink"


def trimmed(mask):
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_borders_are_background_within_two_pixels_of_two_digits(some):
    instances, borders = some.instances[0], some.borders[0]
    assert borders.any()
    for y, x in itertools.product(range(48), range(48)):
        near = instances[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].unique()
        assert borders[y, x] == (instances[y, x] == 0 and len(near[near > 0]) >= 2)


def test_scenes_follow_from_their_seed(data, some):
    again = touching_digits(data.train, data.train_labels, 2, seeded(3), digits=4)
    assert all(torch.equal(a, b) for a, b in zip(some, again, strict=True))
    other = touching_digits(data.train, data.train_labels, 2, seeded(4), digits=4)
    assert not torch.equal(some.images, other.images)
    with pytest.raises(ValueError, match="9 digits find no room on 24 x 24"):
        touching_digits(data.train, data.train_labels, 1, seeded(0), digits=9, size=24)


# How masks are judged.


def test_confusion_counts_pixel_by_pixel():
    true = torch.randint(4, (3, 5, 6), generator=seeded(0))
    seen = torch.randint(4, (3, 5, 6), generator=seeded(1))
    counts = metrics.confusion(seen, true, 4)
    for b, i, j in itertools.product(range(3), range(4), range(4)):
        assert counts[b, i, j] == ((true[b] == i) & (seen[b] == j)).sum()


def test_mean_iou_is_the_definition_without_the_background():
    true = torch.tensor([[[0, 0, 1, 3], [0, 1, 1, 3]], [[1, 3, 3, 3], [3, 3, 3, 0]]])
    seen = torch.tensor([[[0, 1, 1, 3], [0, 1, 0, 3]], [[3, 3, 3, 3], [3, 0, 3, 0]]])
    # Class 0: 3 right, 4 true, 5 seen. Class 1: 2 right, 4 true, 3 seen. Class 2 is nowhere, 3 is the background.
    assert metrics.mean_iou(metrics.confusion(seen, true, 4), 3) == pytest.approx((3 / 6 + 2 / 5) / 2)


def test_bootstrap_knows_the_error_of_a_mean_difference():
    a = torch.randn(400, generator=seeded(0)).double()
    b = 0.9 * a + 0.3 * torch.randn(400, generator=seeded(1)) + 0.5
    difference, error = metrics.bootstrap_difference(lambda x: float(x.mean()), a, b, draws=500)
    close(difference, float((a - b).mean()), rtol=1e-9)
    assert error == pytest.approx(float((a - b).std()) / 20, rel=0.15)  # paired: not the root of two variances
    assert metrics.bootstrap_difference(lambda x: float(x.mean()), a, a) == (0.0, 0.0)
    with pytest.raises(ValueError, match="do not belong together"):
        metrics.bootstrap_difference(len, a, b[:-1])


# The trained ones.

TINY = {"fcn": recipes.SEGMENTERS["scenes-fcn-2s"], "unet": recipes.SEGMENTERS["scenes-unet-borders"]}


@pytest.mark.parametrize("kind", ["fcn", "unet"])
def test_one_function_trains_both_and_the_zoo_loads_them(kind, data, tmp_path, monkeypatch):
    tiny = replace(TINY[kind], scenes=1, digits=2, size=48, steps=3, classify=min(2, TINY[kind].classify))
    monkeypatch.setitem(recipes.SEGMENTERS, "tiny", tiny)
    monkeypatch.setattr(making, "HELD_OUT", 2)
    making.make("tiny", tmp_path)
    score = zoo.load_segmenter("tiny", tmp_path)
    assert score(torch.zeros(1, 1, 48, 48)).shape == (1, 11, 48, 48)
    assert 0 <= zoo.card("tiny", tmp_path)["mean_iou"] <= 1
    again = train.train_segmenter(tiny, data)
    for key, value in zoo.unpack((tmp_path / "tiny.safetensors").read_bytes()).items():
        assert torch.equal(again.state_dict()[key].half(), value), "a seed gives one network"
    with pytest.raises(ValueError, match=r"is a segmenter, not a diffusion model: use load_segmenter"):
        zoo.load("tiny", tmp_path)


def test_border_weights_reach_the_loss(data):
    tiny = replace(TINY["unet"], scenes=1, digits=2, size=48, steps=1)
    with_weights, without = (train.train_segmenter(replace(tiny, border=w0), data) for w0 in (10.0, 0.0))
    moved = [(a - b).abs().max() for a, b in zip(with_weights.parameters(), without.parameters(), strict=True)]
    assert max(moved) > 0


@pytest.mark.parametrize("name", sorted(recipes.SEGMENTERS))
def test_shipped_segmenters_are_their_recipe_and_as_good_as_their_card_says(name, data):
    card = zoo.card(name)
    assert recipes.SegmenterRecipe(**card["recipe"]) == recipes.SEGMENTERS[name]
    others = touching_digits(data.test, data.test_labels, 20, seeded(2))
    seen = metrics.segment(zoo.load_segmenter(name), others.images)
    found = metrics.mean_iou(metrics.confusion(seen, others.classes, 11), 10)
    assert found == pytest.approx(card["mean_iou"], abs=0.08)


def test_segmenters_take_two_megabytes_together():
    files = [zoo.ZOO / f"{name}.safetensors" for name in recipes.SEGMENTERS]
    assert sum(path.stat().st_size for path in files) <= 2e6


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="'digits' is a diffusion model, not a segmenter"):
        zoo.load_segmenter("digits")
