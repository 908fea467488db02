"""Convolution arithmetic, transposed convolution and checkerboards [Dumoulin & Visin 2016; Odena 2016].

Sizes are those of one axis: input i, kernel k, stride s, padding p (of zeros, at both ends), dilation d. Relation
numbers are the guide's. Feature maps are (B, C, H, W).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_path.gaussian import check_input, check_range


class Layer(NamedTuple):
    """What a convolution, a pooling or a transposed convolution is to the arithmetic."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


def effective_kernel(kernel: int, dilation: int = 1) -> int:
    """How many inputs a dilated kernel spans, k + (k - 1)(d - 1) [sec. 5.1]."""
    check_range(1, kernel=kernel, dilation=dilation)
    return dilation * (kernel - 1) + 1


def half_padding(kernel: int, dilation: int = 1) -> int:
    """The padding that keeps the size at stride 1, "same" [rel. 3]; ValueError for an even span, which has none."""
    span = effective_kernel(kernel, dilation)
    if span % 2 == 0:
        raise ValueError(f"a kernel that spans {span} has no middle: only odd spans have a padding that keeps the size")
    return span // 2


def full_padding(kernel: int, dilation: int = 1) -> int:
    """The padding at which every partial overlap of kernel and input counts, "full" [rel. 4]."""
    return effective_kernel(kernel, dilation) - 1


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """The size after a convolution or a pooling, floor((i + 2p - k_eff) / s) + 1 [rel. 6, 15].

    Relations 1 to 5 and the one of pooling, 7, are its special cases. ValueError if the kernel does not fit.
    """
    check_range(1, stride=stride)
    check_range(0, padding=padding)
    slack = size + 2 * padding - effective_kernel(kernel, dilation)
    if slack < 0:
        raise ValueError(
            f"a kernel that spans {effective_kernel(kernel, dilation)} does not fit into {size} + 2 * {padding}: "
            "enlarge the input or the padding"
        )
    return slack // stride + 1


def output_padding(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """The inputs at the end that the convolution never reaches, a = (i + 2p - k_eff) mod s [rel. 14].

    `stride` input sizes share one output size. a tells them apart: it is torch's `output_padding` of the transposed
    convolution that leads back to this one.
    """
    check_range(1, stride=stride)
    return (size + 2 * padding - effective_kernel(kernel, dilation)) % stride


def transposed_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """The size after a transposed convolution, s(i' - 1) + a + k_eff - 2p [rel. 14].

    The other arguments are those of the convolution that it transposes; relations 8 to 13 are its special cases.
    ValueError if nothing is left, and for an output padding beyond stride and dilation.
    """
    check_range(1, size=size, stride=stride)
    check_range(0, max(stride, dilation) - 1, output_padding=output_padding)  # as torch has it
    out = stride * (size - 1) + output_padding + effective_kernel(kernel, dilation) - 2 * padding
    if out < 1:
        raise ValueError(f"a transposed convolution to size {out}: padding {padding} crops all of it, choose less")
    return out


class Field(NamedTuple):
    """Where the units of a feature map stand in the image, along one axis and in pixels.

    A unit sees `size` pixels; neighbours are `jump` apart; unit 0 is centred on pixel `start` (in the padding if
    negative, between two pixels if not whole).
    """

    size: float
    jump: float
    start: float


PIXELS = Field(1, 1, 0)
"""The image itself."""


def receptive_field(layers: Iterable[Layer], field: Field = PIXELS) -> Field:
    """What the units after a stack of convolutions and poolings see, which starts from units that see `field`."""
    for kernel, stride, padding, dilation in layers:
        reach = field.jump * (effective_kernel(kernel, dilation) - 1)
        field = Field(field.size + reach, field.jump * stride, field.start + reach / 2 - field.jump * padding)
    return field


def transposed_field(layer: Layer, field: Field = PIXELS) -> Field:
    """Where the units after a transposed convolution stand, and the span beyond which none of them sees.

    Nearest-neighbour up-sampling by s is a layer with k = s. A unit reads every s-th weight only, so it may see less.
    """
    kernel, stride, padding, dilation = layer
    check_range(1, stride=stride)
    jump = field.jump / stride
    reach = jump * (effective_kernel(kernel, dilation) - 1)
    return Field(field.size + reach, jump, field.start - reach / 2 + jump * padding)


def crop_offset(big: Field, small: Field) -> int:
    """Where in the map `big` the first unit of `small` stands, so that both show one place when cropped there.

    ValueError unless neighbours are equally far apart in both, and the offset is whole.
    """
    check_range(1e-300, jump=big.jump)
    offset = (small.start - big.start) / big.jump
    if big.jump != small.jump or offset != int(offset):
        raise ValueError(f"units of {big} and {small} do not fall on each other: choose other kernels or paddings")
    return int(offset)


def taps(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Which input each output reads through which weight: 1 at (o, j, s o + d j - p), else 0, (outputs, k, size).

    Convolution, transposed convolution and overlap are sums over this one table. float64.
    """
    check_range(1, size=size)
    out = output_size(size, kernel, stride, padding, dilation)
    read = stride * torch.arange(out)[:, None] + dilation * torch.arange(kernel) - padding  # (outputs, k)
    return (read[..., None] == torch.arange(size)).double()


def matrix(weight: Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """A convolution as a matrix (C' H' W', C H W) from a flattened image to a flattened map [sec. 4.1].

    The image is (C, H, W), weight (C', C, k, k), size (H, W). Its transpose is the transposed convolution.
    """
    rows, columns = (taps(n, k, stride, padding, dilation) for n, k in _axes(weight, size))
    W = torch.einsum("abjl,yjp,xlq->ayxbpq", weight, rows.to(weight), columns.to(weight))
    return W.flatten(3).flatten(0, 2)


def transposed(
    u: Tensor, weight: Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """The adjoint of a convolution of images of `size`, here A: <conv(x), u> = <x, A(u)> for all x and u [sec. 4].

    So it is also the gradient that the convolution sends back to its input. u (B, C', H', W') has the shape of the
    convolution's output and weight (C', C, k, k) is the convolution's. ValueError for another shape.
    """
    _check_map(u, weight, size, stride, padding, dilation)
    left = [output_padding(n, k, stride, padding, dilation) for n, k in _axes(weight, size)]
    return F.conv_transpose2d(u, weight, None, stride, padding, left, dilation=dilation)


def by_convolution(
    u: Tensor, weight: Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """`transposed` as an ordinary convolution: s - 1 zeros between inputs, the kernel flipped [rel. 8-14].

    Around them stand k_eff - p - 1 zeros, and a more at the end. Costlier: most products are with zeros.
    """
    _check_map(u, weight, size, stride, padding, dilation)
    B, C, H, W = u.shape
    between = u.new_zeros(B, C, (H - 1) * stride + 1, (W - 1) * stride + 1)
    between[..., ::stride, ::stride] = u
    frame = []
    for n, k in reversed(_axes(weight, size)):  # F.pad wants the last axis first
        border = effective_kernel(k, dilation) - padding - 1
        frame += [border, border + output_padding(n, k, stride, padding, dilation)]
    return F.conv2d(F.pad(between, frame), weight.flip(2, 3).transpose(0, 1), dilation=dilation)


def _axes(weight: Tensor, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Input size and kernel along both axes; ValueError unless weight is (C', C, k, k), C' > 0."""
    check_input(weight, weight, "C", "k", "k")
    return list(zip(size, weight.shape[2:], strict=True))


def _check_map(u: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int, dilation: int) -> None:
    """ValueError unless u is what the convolution makes of images of this size, in the dtype of the weight."""
    check_input(u, weight, len(weight), *(output_size(n, k, stride, padding, dilation) for n, k in _axes(weight, size)))


def bilinear_layer(factor: int) -> Layer:
    """The transposed convolution that up-samples `factor` times: k = 2s - s mod 2, p = ceil((s - 1) / 2) [Long 2014].

    With `bilinear_kernel` it is bilinear interpolation, but that it reads zeros beyond the border.
    """
    check_range(1, factor=factor)
    return Layer(2 * factor - factor % 2, factor, factor // 2)


def bilinear_kernel(size: int) -> Tensor:
    """The weights of bilinear interpolation, a tent over (size, size) [Long 2014, code]. float64."""
    check_range(1, size=size)
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    tent = 1 - (torch.arange(size, dtype=torch.float64) - centre).abs() / factor
    return tent[:, None] * tent


def bilinear_weight(channels: int, size: int) -> Tensor:
    """A transposed convolution's weight that interpolates each channel for itself, (C, C, size, size). float64."""
    check_range(1, channels=channels)
    return torch.eye(channels, dtype=torch.float64)[:, :, None, None] * bilinear_kernel(size)


def overlap(kernel: int, stride: int, padding: int = 0) -> Tensor:
    """How many inputs a transposed convolution adds up at each output, away from the border: one period, (stride,).

    The checkerboard foretold [Odena 2016]: even only if the stride divides the kernel. In two dimensions patterns
    multiply: `overlap(k, s)[:, None] * overlap(k, s)`. float64.
    """
    check_range(1, kernel=kernel, stride=stride)
    check_range(0, padding=padding)
    weights = [range((phase + padding) % stride, kernel, stride) for phase in range(stride)]
    return torch.tensor([len(read) for read in weights], dtype=torch.float64)


def checkerboard_energy(images: Tensor, period: int) -> Tensor:
    """The share of each image's variance that repeats every `period` pixels, (B,), between 0 and 1.

    In the spectrum it stands at the frequencies (m / period, n / period) but (0, 0), on which up-sampling by `period`
    puts whatever it makes of a constant map. Equal, by Parseval: the variance, over the period^2 phases of the grid,
    of the mean over all pixels of a phase. White noise has (period^2 - 1) / (H W - 1), a constant image 0.
    images (B, C, H, W); variances are summed over channels. ValueError for sizes that `period` does not divide.
    """
    check_input(images, images, "C", "H", "W")
    check_range(1, period=period)
    for n in images.shape[2:]:
        if n % period:
            below = n // period * period
            crops = f"crop to {below} or " if below else ""
            raise ValueError(f"{n} is not divisible by {period}: {crops}pad to {below + period}")
    x = images.double()
    power = torch.fft.fft2(x - x.mean((2, 3), keepdim=True)).abs().square().sum(1)  # (B, H, W)
    H, W = power.shape[1:]
    total, rounding = power.sum((1, 2)), 1e-28 * H * W * x.square().sum((1, 2, 3))  # what is left of a constant
    share: Tensor = power[:, :: H // period, :: W // period].sum((1, 2)) / total
    return share.masked_fill(total <= rounding, 0.0)


def resize_convolution(channels: int, out_channels: int, kernel: int, factor: int) -> nn.Sequential:
    """Nearest-neighbour up-sampling, then a convolution that keeps the size: no overlap to be uneven [Odena 2016]."""
    check_range(1, channels=channels, out_channels=out_channels, factor=factor)
    convolution = nn.Conv2d(channels, out_channels, kernel, padding=half_padding(kernel))
    return nn.Sequential(nn.Upsample(scale_factor=factor, mode="nearest"), convolution)
