"""A user's own images: cropped, resampled, flattened and split as the docstring says; bad ones named."""

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import close

from ddpm_path.lab.folder import folder


def paint(path, colour=(200, 40, 90), size=(20, 20), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size, colour).save(path, **options)


def test_every_format_and_colour_mode_becomes_the_same_rgb(tmp_path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.jpg", quality=100, subsampling=0)
    paint(tmp_path / "c.webp", lossless=True)
    paint(tmp_path / "d.PNG", (200, 40, 90, 255), mode="RGBA")
    PIL.Image.new("RGB", (20, 20), (200, 40, 90)).convert("P").save(tmp_path / "e.png")
    paint(tmp_path / "f.jpeg", (200, 40, 90), quality=100, subsampling=0)
    data = folder(tmp_path, 8)
    assert data.train.shape == (5, 3, 8, 8) and data.test.shape == (1, 3, 8, 8)
    for image in [*data.train, *data.test]:
        close(image.mean((1, 2)), np.array([200, 40, 90]) / 127.5 - 1, atol=3 / 127.5, rtol=0)
    assert data.classes == () and data.train_labels.tolist() == [0] * 5 and data.name == tmp_path.name


def test_grey_stays_grey_and_mixes_as_rgb(tmp_path):
    for i, (colour, mode) in enumerate([(70, "L"), ((70, 255), "LA"), (1, "1"), (70 * 257, "I;16")]):
        paint(tmp_path / f"{i}.png", colour, mode=mode)
    data = folder(tmp_path, 4)
    assert data.train.shape == (3, 1, 4, 4)
    values = sorted(float(image.mean()) for image in [*data.train, *data.test])
    close(values, [70 / 127.5 - 1] * 3 + [1.0], atol=1e-6, rtol=0)
    paint(tmp_path / "colour.png")
    assert folder(tmp_path, 4).train.shape == (4, 3, 4, 4)


def test_what_is_transparent_is_white_and_half_is_half(tmp_path):
    paint(tmp_path / "a.png", (0, 0, 0, 0), mode="RGBA")
    paint(tmp_path / "b.png", (0, 0, 0, 128), mode="RGBA")
    data = folder(tmp_path, 4)
    close(data.train[0], torch.ones(3, 4, 4))
    close(data.test[0], torch.full((3, 4, 4), 127 / 127.5 - 1), atol=1.01 / 127.5, rtol=0)


@pytest.mark.parametrize("wide", [True, False])
def test_the_crop_is_the_central_square(tmp_path, wide):
    strip = np.zeros((8, 24), np.uint8)
    strip[:, 8:16] = 255
    strip = strip if wide else strip.T
    for name in "ab":
        PIL.Image.fromarray(np.ascontiguousarray(strip)).save(tmp_path / f"{name}.png")
    close(folder(tmp_path, 8).train, torch.ones(1, 1, 8, 8))


def test_downsampling_averages_over_what_it_merges(tmp_path):
    """A fine checkerboard becomes its mean; picking every fourth pixel would keep black or white."""
    board = ((np.indices((32, 32)).sum(0) % 2) * 255).astype(np.uint8)
    for name in "ab":
        PIL.Image.fromarray(board).save(tmp_path / f"{name}.png")
    close(folder(tmp_path, 8).train, torch.zeros(1, 1, 8, 8), atol=0.06, rtol=0)


def test_a_cameras_orientation_is_heeded(tmp_path):
    image = PIL.Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))  # bright above
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # taken upside down
    image.save(tmp_path / "a.png", exif=exif)
    image.save(tmp_path / "b.png")
    data = folder(tmp_path, 8)
    assert float(data.train[0, 0, 0].mean()) < 0 < float(data.test[0, 0, 0].mean())


def test_subfolders_are_classes_with_every_tenth_image_of_each_for_testing(tmp_path):
    for k, name in enumerate(["cat", "dog"]):
        for i in range(20 + 5 * k):
            paint(tmp_path / name / f"{i:02}.png", 8 * i + k, mode="L")
    data = folder(tmp_path, 4)
    assert data.classes == ("cat", "dog")
    test = (data.test[:, 0, 0, 0] + 1) * 127.5
    close(test, [72.0, 152.0, 73.0, 153.0], atol=1e-3, rtol=0)
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    train = ((data.train[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert (train % 8).tolist() == data.train_labels.tolist()  # shuffled, each with its label
    assert data.train_labels.tolist() != sorted(data.train_labels.tolist())
    again = folder(tmp_path, 4)
    assert torch.equal(again.train, data.train) and again.digest == data.digest


def test_the_only_test_image_is_of_the_largest_class(tmp_path):
    for place, n in (("a", 1), ("b", 5), ("c", 1)):
        for i in range(n):
            paint(tmp_path / place / f"{i}.png")
    data = folder(tmp_path, 4)
    assert data.test_labels.tolist() == [1] and sorted(data.train_labels.tolist()) == [0, 1, 1, 1, 1, 2]


def test_one_subfolder_is_no_class(tmp_path):
    for i in range(3):
        paint(tmp_path / "all" / f"{i}.png")
    assert folder(tmp_path, 4).classes == ()


def test_an_image_beside_class_folders_is_named(tmp_path):
    paint(tmp_path / "cat" / "a.png")
    paint(tmp_path / "dog" / "b.png")
    paint(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"2 subfolders.*loose\.png"):
        folder(tmp_path, 4)


def test_unreadable_and_truncated_images_are_named(tmp_path):
    for i in range(12):
        paint(tmp_path / f"{i:02}.png", (20 * i, 0, 0))
    (tmp_path / "03.png").write_bytes(b"not an image")
    whole = (tmp_path / "07.png").read_bytes()
    (tmp_path / "07.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2 of 12 images cannot be read.*03\.png.*07\.png"):
        folder(tmp_path, 4)


def test_images_below_the_size_are_counted_and_the_first_named(tmp_path):
    for i, side in enumerate([20, 6, 20, 7]):
        paint(tmp_path / f"{i}.png", size=(20, side))
    with pytest.raises(ValueError, match=r"2 of 4 images are smaller than 8.*1\.png.*smaller size"):
        folder(tmp_path, 8)
    assert folder(tmp_path, 6).train.shape == (3, 3, 6, 6)


def test_empty_absent_and_foreign_folders_say_what_they_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"0 images.*Found: nothing"):
        folder(tmp_path, 4)
    for name in ("a.gif", "b.gif", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    paint(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"1 images.*2 x \.gif"):
        folder(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        folder(tmp_path / "a.png", 4)
    with pytest.raises(ValueError, match="size 0"):
        folder(tmp_path, 0)
