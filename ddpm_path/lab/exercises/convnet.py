"""Exercises of notebooks 08, FCN and U-Net, and 09, up-sampling."""

from typing import Any

import torch
from torch import Tensor

from ddpm_path import convolution, segmentation
from ddpm_path.lab.exercises.checking import Exercise

# One period of a transposed convolution's overlap [Odena 2016].


def _kernels(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases = ((3, 2, 0), (3, 2, 1), (5, 3, 2), (4, 2, 1), (7, 3, 0), (2, 3, 0))
    return {f"k = {k}, s = {s}, p = {p}": (k, s, p) for k, s, p in cases}


def _overlap_solution(kernel: int, stride: int, padding: int) -> Tensor:
    """Every weight j adds to phase (j - padding) mod stride."""
    counts = torch.zeros(stride, dtype=torch.float64)
    for j in range(kernel):
        counts[(j - padding) % stride] += 1
    return counts


OVERLAP = Exercise(
    "overlap",
    convolution.overlap,
    _kernels,
    ("counts",),
    (
        (
            lambda kernel, stride, padding: convolution.overlap(kernel, stride, 0),
            "padding cuts the first outputs off: output r of what is left was output r + padding",
        ),
        (
            lambda kernel, stride, padding: torch.full((stride,), kernel / stride, dtype=torch.float64),
            "that is the mean count: if s does not divide k, some phases get one more than others",
        ),
        (
            lambda kernel, stride, padding: convolution.overlap(kernel, stride, -padding % stride),
            "padding shifts the other way: what is left begins later in the full result",
        ),
    ),
    _overlap_solution,
)


# A transposed convolution in one dimension [Dumoulin & Visin 2016, rel. 14].


def _signals(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, tuple[Any, ...]] = {}
    for size, kernel, stride, padding in ((5, 3, 1, 0), (6, 3, 2, 1), (9, 4, 3, 2), (8, 4, 2, 1)):
        u = torch.randn(convolution.output_size(size, kernel, stride, padding), generator=generator).double()
        w = torch.randn(kernel, generator=generator).double()
        cases[f"k = {kernel}, s = {stride}, p = {padding}, size {size}"] = (u, w, size, stride, padding)
    return cases


def _transposed(u: Tensor, w: Tensor, size: int, stride: int, padding: int) -> Tensor:
    return torch.einsum("okn,o,k->n", convolution.taps(size, len(w), stride, padding), u, w)


def _transposed_solution(u: Tensor, w: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """Each number of u lays the kernel down, scaled, `stride` farther on; the padding is cut off in front."""
    full = u.new_zeros(size + 2 * padding)
    for o in range(len(u)):
        full[stride * o : stride * o + len(w)] += u[o] * w
    return full[padding : padding + size]


def _at_the_wrong_end(u: Tensor, w: Tensor, size: int, stride: int, padding: int) -> Tensor:
    return _transposed(u, w, size, stride, padding).roll(convolution.output_padding(size, len(w), stride, padding))


def _normalised(u: Tensor, w: Tensor, size: int, stride: int, padding: int) -> Tensor:
    return _transposed(u, w, size, stride, padding) / _transposed(u * 0 + 1, w * 0 + 1, size, stride, padding).clamp(1)


TRANSPOSED = Exercise(
    "transposed",
    _transposed,
    _signals,
    ("what goes back",),
    (
        (
            lambda u, w, size, stride, padding: _transposed(u, w.flip(0), size, stride, padding),
            "the kernel is flipped: an input reads u through the weight through which it was read, w[j] stays w[j]",
        ),
        (
            _at_the_wrong_end,
            "the inputs that the convolution never reached lie at the end: fill up there, with zeros",
        ),
        (
            _normalised,
            "do not divide by the overlap: the adjoint adds up, and that is where checkerboards come from",
        ),
    ),
    _transposed_solution,
)


# The output of an unpadded U-Net [Ronneberger 2015, fig. 1].


def _inputs(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    return {f"n = {n}, depth {depth}": (n, depth) for n, depth in ((572, 4), (188, 4), (188, 3), (44, 2), (20, 1))}


def _size(size: int, depth: int) -> Tensor:
    return torch.tensor(float(segmentation.valid_output(size, depth)), dtype=torch.float64)


def _size_solution(size: int, depth: int) -> Tensor:
    """Each pair of convolutions takes 4; pooling halves, an up-convolution doubles."""
    n = float(size)
    for _ in range(depth):
        n = (n - 4) / 2
    n -= 4
    for _ in range(depth):
        n = 2 * n - 4
    return torch.tensor(n, dtype=torch.float64)


UNET_SIZE = Exercise(
    "unet_size",
    _size,
    _inputs,
    ("pixels",),
    (
        (
            lambda size, depth: torch.tensor(float(size), dtype=torch.float64),
            "that would be a U-Net with padding: here each 3x3 convolution takes a pixel away at both sides",
        ),
        (
            lambda size, depth: torch.tensor(size - 4.0 * (2 * depth + 1), dtype=torch.float64),
            "a pixel lost below is more than one above: halve on the way down, double on the way up",
        ),
        (
            lambda size, depth: _size(size, depth) + 4 * 2**depth,
            "the bottom has its pair of convolutions, too: 4 pixels there are 4 * 2^depth of the image",
        ),
    ),
    _size_solution,
)


# The weight at the borders of cells [Ronneberger 2015, eq. 2].


def _distances(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases = ((4, 10.0, 5.0), (3, 10.0, 5.0), (2, 6.0, 2.0))
    return {
        f"{n} cells, w0 = {w0:g}, sigma = {sigma:g}": (
            10 * torch.rand(n, 4, 5, generator=generator, dtype=torch.float64), w0, sigma
        )
        for n, w0, sigma in cases
    }  # fmt: skip


def _weights(distances: Tensor, w0: float, sigma: float) -> Tensor:
    two = distances.topk(2, dim=0, largest=False).values
    return 1 + w0 * torch.exp(-two.sum(0).square() / (2 * sigma**2))


def _weights_solution(distances: Tensor, w0: float, sigma: float) -> Tensor:
    """Sort the cells of each pixel by distance, add the first two."""
    d = distances.sort(0).values
    return 1 + w0 * (-((d[0] + d[1]) ** 2) / (2 * sigma**2)).exp()


BORDER_WEIGHTS = Exercise(
    "border_weights",
    _weights,
    _distances,
    ("weights",),
    (
        (
            lambda d, w0, sigma: 1 + w0 * torch.exp(-d.amin(0).square() / (2 * sigma**2)),
            "with the nearest cell alone every rim is heavy: add the distance to the second nearest",
        ),
        (
            lambda d, w0, sigma: 1 + w0 * torch.exp(-d[:2].sum(0).square() / (2 * sigma**2)),
            "these are the first two cells of the list: at each pixel take the two that are nearest to it",
        ),
        (
            lambda d, w0, sigma: 1 + w0 * torch.exp(
                -d.topk(2, dim=0, largest=False).values.square().sum(0) / (2 * sigma**2)
            ),
            "the sum of the two distances is squared, not each distance",
        ),
    ),
    _weights_solution,
)  # fmt: skip
