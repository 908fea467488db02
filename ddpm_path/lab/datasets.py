"""Data: the shipped digits, MNIST from a folder, and two flat sets. Images are float32 in [-1, 1]."""

import gzip
import hashlib
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PACKAGE = Path(__file__).parent.parent
DATA = PACKAGE / "data" if (PACKAGE / "data").is_dir() else PACKAGE.parent / "data"
"""The shipped data: inside an installed package, beside it in a clone."""

MNIST_MD5 = {  # of the decompressed files, which all mirrors share
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Images(NamedTuple):
    """A labelled image set with a fixed split: images (N, C, H, W) in [-1, 1], labels (N,) int64."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the training images and labels, for model cards: first 16 hex digits of SHA-256."""
        content = to_display(self.train).numpy().tobytes() + self.train_labels.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()[:16]


def to_model_range(pixels: Tensor) -> Tensor:
    """uint8 pixels 0..255 to float32 in [-1, 1]."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"to_model_range takes uint8 pixels, 0 to 255; got {pixels.dtype}")
    return pixels.float() / 127.5 - 1


def to_display(images: Tensor) -> Tensor:
    """Images in [-1, 1], clipped, to uint8 pixels; ValueError on NaN, which a cast would turn black."""
    if not bool(images.isfinite().all()):
        raise ValueError("images hold NaN or infinity: show them before the step that made them so")
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def dequantise(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images of 256 levels in [-1, 1], each number moved to a uniform place in its bin, 1/255 to either side.

    A density of these bounds the mass of the levels from below [Theis 2016]: bits by `bits_per_dim`, plus log2(127.5).
    """
    return images + (torch.rand(images.shape, generator=generator).to(images) - 0.5) / 127.5


def check_images(images: Tensor) -> None:
    """ValueError unless images are finite floats (N, C, H, W) that span no more than [-1, 1], nor [0, 1] only."""
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise ValueError(f"images are floats (N, C, H, W), at least one; got {tuple(images.shape)} {images.dtype}")
    bad = (~images.flatten(1).isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"{len(bad)} images hold NaN or infinity, the first is number {int(bad[0])}: leave them out")
    low, high = float(images.min()), float(images.max())
    if low < -1.01 or high > 1.01 or low >= 0:
        raise ValueError(f"images span [{low:g}, {high:g}]; expected [-1, 1]: pass them through to_model_range")


def digits(size: int = 16) -> Images:
    """The 1,797 handwritten digits of the UCI set, 16x16 (resampled) or 8x8, on 256 grey levels.

    The split is fixed: within each class, every fifth image in the published order is for testing.
    """
    if size not in (8, 16):
        raise ValueError(f"digits come in sizes 8 and 16, not {size}")
    with np.load(DATA / "digits.npz") as file:
        raw, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    grey = raw[:, None].double() / 16  # (N, 1, 8, 8)
    if size == 16:
        # Cubic weights at a quarter pixel are dyadic, so this float64 result is the same on every machine.
        grey = F.interpolate(grey, scale_factor=2, mode="bicubic", align_corners=False)
    images = to_model_range((grey.clamp(0, 1) * 255).round().to(torch.uint8))
    rank = torch.stack([(labels == k).cumsum(0) for k in range(10)], 1).gather(1, labels[:, None])[:, 0]
    test = rank % 5 == 0
    name = "digits" if size == 16 else "digits8"
    return Images(name, images[~test], labels[~test], images[test], labels[test], tuple("0123456789"))


def mnist() -> Images:
    """MNIST, 28x28, from the folder `mnist` under $DDPM_PATH_DATA (IDX files, gzipped or not), verified.

    FileNotFoundError if they are not there, ValueError if a file's content is not MNIST's.
    """
    root = Path(os.environ.get("DDPM_PATH_DATA", "~/.cache/ddpm_path")).expanduser() / "mnist"
    train, train_labels, test, test_labels = (_idx(root, name) for name in MNIST_MD5)
    return Images(
        "mnist",
        to_model_range(train[:, None]),
        train_labels.long(),
        to_model_range(test[:, None]),
        test_labels.long(),
        tuple("0123456789"),
    )


def mnist_sample() -> tuple[Tensor, Tensor]:
    """MNIST's first 2,000 test images (2000, 1, 28, 28), which are shipped, and their labels (2000,)."""
    with np.load(DATA / "mnist2000.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    return to_model_range(images[:, None]), labels


def _idx(root: Path, name: str) -> Tensor:
    """One verified file of Yann LeCun's IDX format: magic number, sizes, bytes."""
    if (root / f"{name}.gz").exists():
        with gzip.open(root / f"{name}.gz") as file:
            content = file.read()
    elif (root / name).exists():
        content = (root / name).read_bytes()
    else:
        raise FileNotFoundError(
            f"no {name}.gz in {root}: put MNIST's four IDX files there, or set DDPM_PATH_DATA to the folder "
            "that holds mnist/. The digits need no file: datasets.digits()"
        )
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MNIST_MD5[name]:
        raise ValueError(f"{root / name} is not MNIST's (its MD5 differs): delete it and fetch it again")
    ndim = content[3]
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    return torch.frombuffer(bytearray(content[4 + 4 * ndim :]), dtype=torch.uint8).view(*shape)


DATASETS: dict[str, Callable[[], Images]] = {"digits": digits, "mnist": mnist}


def swiss_roll(n: int, generator: torch.Generator | None = None, noise: float = 0.02) -> Tensor:
    """n points (n, 2) on a spiral inside [-1, 1]^2, as in [Sohl-Dickstein 2015, fig. 1]."""
    turn = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator).sqrt())
    curve = torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / (4.5 * math.pi)
    return curve + noise * torch.randn(n, 2, generator=generator)


def swiss_roll_log_prob(x: Tensor, noise: float = 0.02, cells: int = 2000) -> Tensor:
    """log p(x) of `swiss_roll`'s points (n, 2), in nats, (n,) float64: the noise's density, summed along the spiral."""
    turn = 1.5 * math.pi * (1 + 2 * ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells).sqrt())
    curve = torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / (4.5 * math.pi)
    near = -torch.cdist(x.double(), curve).square() / (2 * noise**2)
    return near.logsumexp(1) - math.log(cells * 2 * math.pi * noise**2)


def checkerboard(n: int, generator: torch.Generator | None = None) -> Tensor:
    """n points (n, 2), uniform on the eight dark fields of a 4x4 board over [-1, 1]^2."""
    field = torch.randint(0, 8, (n,), generator=generator)
    row = field // 2
    corner = torch.stack([2 * (field % 2) + row % 2, row], 1)
    return (corner + torch.rand(n, 2, generator=generator)) / 2 - 1


def heartbeats() -> Tensor:
    """The five binary heartbeats (5, 20): a 1 in every fifth place [Sohl-Dickstein 2015, sec. 3.1.2]."""
    return (torch.arange(20) % 5 == torch.arange(5)[:, None]).float()
