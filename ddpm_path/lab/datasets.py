"""Data: the shipped digits, published sets (verified downloads), flat sets. Images are float32 in [-1, 1]."""

import gzip
import hashlib
import io
import itertools
import math
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_path.lab.download import download

PACKAGE = Path(__file__).parent.parent
DATA = PACKAGE / "data" if (PACKAGE / "data").is_dir() else PACKAGE.parent / "data"
"""The shipped data: inside an installed package, beside it in a clone."""


class Source(NamedTuple):
    """A published data set: its folder's name, the mirrors it comes from, and a digest of each file's content.

    The digests are of what the archives hold (MD5 for IDX files, SHA-256 for CIFAR's), which all mirrors share.
    """

    name: str
    mirrors: tuple[str, ...]
    digests: dict[str, str]


MNIST = Source(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION_MNIST = Source(
    "fashion_mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)
CIFAR10 = Source(
    "cifar10",
    (
        "https://www.cs.toronto.edu/~kriz/",
        "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
    ),
    {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
)
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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
    """MNIST, 28x28, from the folder `mnist` under $DDPM_PATH_DATA (IDX files, gzipped or not), else downloaded there.

    FileNotFoundError if no mirror has it either, ValueError if a file's content is not MNIST's.
    """
    return _idx_images(MNIST, tuple("0123456789"))


def fashion_mnist() -> Images:
    """Fashion-MNIST, 28x28: as `mnist`, in the folder `fashion_mnist`."""
    return _idx_images(FASHION_MNIST, FASHION)


def cifar10() -> Images:
    """CIFAR-10, 32x32 in colour, from the folder `cifar10` under $DDPM_PATH_DATA, else downloaded there.

    The folder holds cifar-10-binary.tar.gz, or cifar10-jpeg.npz: the images as JPEG files, lossy, which the name
    "cifar10-jpeg" of the result tells. Training images are shuffled once, the same way always. Errors as for `mnist`.
    """
    folder = data_folder() / CIFAR10.name
    packed = folder / "cifar10-jpeg.npz"
    if packed.exists():
        name, content = "cifar10-jpeg", _read_jpegs(packed)
    else:
        archive = folder / "cifar-10-binary.tar.gz"
        if not archive.exists():
            download(archive, [mirror + archive.name for mirror in CIFAR10.mirrors], _read_cifar)
        name, content = "cifar10", _read_cifar(archive)
    train, train_labels, test, test_labels = content
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    train, train_labels = to_model_range(train[order]), train_labels[order].long()
    return Images(name, train, train_labels, to_model_range(test), test_labels.long(), OBJECTS)


def mnist_sample() -> tuple[Tensor, Tensor]:
    """MNIST's first 2,000 test images (2000, 1, 28, 28), which are shipped, and their labels (2000,)."""
    with np.load(DATA / "mnist2000.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    return to_model_range(images[:, None]), labels


def data_folder() -> Path:
    """Where data sets lie and downloads go: $DDPM_PATH_DATA, or a cache in the user's home."""
    return Path(os.environ.get("DDPM_PATH_DATA", "~/.cache/ddpm_path")).expanduser()


def _idx_images(source: Source, classes: tuple[str, ...]) -> Images:
    train, train_labels, test, test_labels = (_idx(source, name) for name in source.digests)
    return Images(
        source.name,
        to_model_range(train[:, None]),
        train_labels.long(),
        to_model_range(test[:, None]),
        test_labels.long(),
        classes,
    )


def _idx(source: Source, name: str) -> Tensor:
    """One file of Yann LeCun's IDX format from the source's folder, gzipped or not, downloaded if it is not there."""
    folder = data_folder() / source.name
    path = folder / name
    if not path.exists():
        path = folder / f"{name}.gz"
    if not path.exists():
        addresses = [f"{mirror}{name}.gz" for mirror in source.mirrors]
        download(path, addresses, lambda part: _read_idx(part, source, name))
    return _read_idx(path, source, name)


def _read_idx(path: Path, source: Source, name: str) -> Tensor:
    """The array of an IDX file: magic number, sizes, bytes; ValueError unless its content has the source's digest."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): delete it, and it is fetched again") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != source.digests[name]:
        raise ValueError(
            f"{path.name}: {name} is not {source.name}'s (its MD5 differs): delete {path}, and it is fetched again"
        )
    ndim = content[3]
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    return torch.frombuffer(bytearray(content[4 + 4 * ndim :]), dtype=torch.uint8).view(*shape)


def _read_cifar(archive: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels, of CIFAR-10's binary version; ValueError if damaged.

    A record is a label's byte and 3 x 32 x 32 bytes, the red plane first.
    """
    records = []
    try:
        with tarfile.open(archive, "r:gz") as file:
            for name, digest in CIFAR10.digests.items():
                member = file.extractfile(f"cifar-10-batches-bin/{name}")
                content = member.read() if member else b""
                if hashlib.sha256(content).hexdigest() != digest:
                    raise ValueError(f"{archive}: its {name} is not CIFAR-10's: delete it, and it is fetched again")
                records.append(torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 1 + 3 * 32 * 32))
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{archive} is cut short or damaged ({error}): delete it, and it is fetched again") from error
    train, test = torch.cat(records[:-1]), records[-1]
    return train[:, 1:].view(-1, 3, 32, 32), train[:, 0], test[:, 1:].view(-1, 3, 32, 32), test[:, 0]


def _read_jpegs(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same from an .npz that joins JPEG files: `train_jpeg`, `train_offsets`, `train_labels`, and so for `test`."""
    parts: list[Tensor] = []
    try:
        with np.load(path) as file:
            for split in ("train", "test"):
                joined, at = file[f"{split}_jpeg"].tobytes(), file[f"{split}_offsets"].tolist()
                pixels = np.stack(
                    [np.asarray(PIL.Image.open(io.BytesIO(joined[a:b]))) for a, b in itertools.pairwise(at)]
                )  # (N, H, W, 3)
                parts += [torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(file[f"{split}_labels"])]
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): fetch it again") from error
    return parts[0], parts[1], parts[2], parts[3]


DATASETS: dict[str, Callable[[], Images]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}


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
