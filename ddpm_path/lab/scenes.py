"""Scenes to segment: several real digits on one canvas that all but touch, with the class and the digit of each pixel."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_path.lab.datasets import Images

BACKGROUND = 10
"""The class of pixels without ink; digits are their own class."""
INK = -0.2
"""A pixel brighter than this belongs to the digit."""


class Scenes(NamedTuple):
    """Images (N, 1, S, S) in [-1, 1] and, pixel by pixel (N, S, S), what they show.

    classes: 0 to 9, or `BACKGROUND`. instances: 0 for background, 1, 2, ... for the digits. borders: background within
    two pixels of two digits, the ridge that keeps them apart.
    """

    images: Tensor
    classes: Tensor
    instances: Tensor
    borders: Tensor


def touching_digits(
    images: Tensor, labels: Tensor, n: int, generator: torch.Generator, digits: int = 5, size: int = 96
) -> Scenes:
    """n scenes (size x size) of `digits` digits each, drawn from 16x16 images (N, 1, 16, 16), enlarged to 32x32.

    Each digit but the first is put where, of all places, its ink comes next to that of another, one pixel of
    background between them. ValueError if there is no such place.
    """
    drawn = torch.randint(len(images), (digits, n), generator=generator)
    canvas, inked = torch.full((n, 1, size, size), -1.0), torch.zeros(n, 1, size, size)
    classes, instances = torch.full((n, size, size), BACKGROUND), torch.zeros(n, size, size, dtype=torch.long)
    for k, which in enumerate(drawn, 1):
        # Enlarged two-fold with cubic weights, which are dyadic: the same on every machine.
        large = F.interpolate(images[which].double(), scale_factor=2, mode="bicubic").clamp(-1, 1).float()
        ink = (large > INK).float()
        places = size - large.shape[-1] + 1
        free = torch.ones(n, places, places, dtype=torch.bool)
        if k > 1:
            free = (_met(_grown(inked, 1), ink) == 0) & (_met(_grown(inked, 2), ink) > 0)
        if not bool(free.flatten(1).any(1).all()):
            raise ValueError(f"{digits} digits find no room on {size} x {size}: draw fewer, or on a larger canvas")
        at = torch.multinomial(free.flatten(1).double(), 1, generator=generator)[:, 0]
        for i, (y, x) in enumerate(zip((at // places).tolist(), (at % places).tolist(), strict=True)):
            here = (slice(y, y + large.shape[-1]), slice(x, x + large.shape[-1]))
            canvas[i, 0][here] = torch.maximum(canvas[i, 0][here], large[i, 0])
            inked[i, 0][here] += ink[i, 0]
            classes[i][here][ink[i, 0] > 0] = labels[which[i]]
            instances[i][here][ink[i, 0] > 0] = k
    near = torch.stack([_grown((instances == k)[:, None].float(), 2)[:, 0] for k in range(1, digits + 1)])
    return Scenes(canvas, classes, instances, (near.sum(0) >= 2) & (instances == 0))


def scenes(data: Images, seed: int, n: int, test: bool = False) -> Scenes:
    """n scenes of the training digits, or of the test digits."""
    images, labels = (data.test, data.test_labels) if test else (data.train, data.train_labels)
    return touching_digits(images, labels, n, torch.Generator().manual_seed(seed))


def _grown(mask: Tensor, by: int) -> Tensor:
    """A mask (N, 1, H, W) and everything within `by` pixels of it, diagonals included."""
    return F.max_pool2d(mask, 2 * by + 1, stride=1, padding=by)


def _met(mask: Tensor, ink: Tensor) -> Tensor:
    """How much of `ink` (N, 1, h, w) would fall on `mask` (N, 1, H, W) at each place, (N, H - h + 1, W - w + 1)."""
    shape, h, w = mask.shape[2:], *ink.shape[2:]
    spectrum = torch.fft.rfft2(mask.double()) * torch.fft.rfft2(ink.double(), s=shape).conj()
    counts = torch.fft.irfft2(spectrum, s=shape)[:, 0].round()
    return counts[:, : shape[0] - h + 1, : shape[1] - w + 1]
