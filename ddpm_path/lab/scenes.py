"""Scenes to segment: real digits that all but touch on one canvas, with the class and the digit of each pixel."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
    images: Tensor, labels: Tensor, n: int, generator: torch.Generator, digits: int = 5, size: int = 48
) -> Scenes:
    """n scenes (size x size) of `digits` digits each, drawn from images (N, 1, 16, 16).

    Each digit but the first is put where, of all places, its ink comes next to that of another, one pixel of
    background between them. ValueError if there is no such place.
    """
    drawn = torch.randint(len(images), (digits, n), generator=generator)
    canvas, inked = torch.full((n, 1, size, size), -1.0), torch.zeros(n, 1, size, size)
    classes, instances = torch.full((n, size, size), BACKGROUND), torch.zeros(n, size, size, dtype=torch.long)
    for k, which in enumerate(drawn, 1):
        patch = images[which]  # (n, 1, 16, 16)
        ink = (patch > INK).float()
        side = patch.shape[-1]
        places = size - side + 1
        free = torch.ones(n, places, places, dtype=torch.bool)
        if k > 1:
            rim = _grown(inked, 1)
            covered, near = _met(torch.cat([rim, _grown(rim, 1)], 1), ink)
            free = (covered == 0) & (near > 0)
        if not bool(free.flatten(1).any(1).all()):
            raise ValueError(f"{digits} digits find no room on {size} x {size}: draw fewer, or on a larger canvas")
        at = torch.multinomial(free.flatten(1).double(), 1, generator=generator)[:, 0]
        for i, (y, x) in enumerate(zip((at // places).tolist(), (at % places).tolist(), strict=True)):
            here = (slice(y, y + side), slice(x, x + side))
            canvas[i, 0][here] = torch.maximum(canvas[i, 0][here], patch[i, 0])
            inked[i, 0][here] += ink[i, 0]
            classes[i][here][ink[i, 0] > 0] = labels[which[i]]
            instances[i][here][ink[i, 0] > 0] = k
    number = instances[:, None].float()
    highest, lowest = _grown(number, 2), -_grown(torch.where(number > 0, -number, -math.inf), 2)  # digits near a pixel
    return Scenes(canvas, classes, instances, (lowest < highest)[:, 0] & (instances == 0))


def _grown(mask: Tensor, by: int) -> Tensor:
    """A mask (N, 1, H, W) and everything within `by` pixels of it, diagonals included."""
    return F.max_pool2d(mask, 2 * by + 1, stride=1, padding=by)


def _met(masks: Tensor, ink: Tensor) -> Tensor:
    """How much of `ink` (N, 1, h, w) falls on each mask (N, M, H, W) at each place, (M, N, H - h + 1, W - w + 1)."""
    shape, h, w = masks.shape[2:], *ink.shape[2:]
    spectrum = torch.fft.rfft2(masks) * torch.fft.rfft2(ink, s=shape).conj()
    counts: Tensor = torch.fft.irfft2(spectrum, s=shape).round()  # at most h w, so float32 finds them exactly
    return counts[..., : shape[0] - h + 1, : shape[1] - w + 1].transpose(0, 1)
