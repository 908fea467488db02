"""A class for every pixel: fully convolutional networks [Long 2014] and the first U-Net [Ronneberger 2015].

Both answer scores (B, classes, H, W), before the softmax. Their defaults are the papers' sizes; narrower ones are
the same networks with other widths.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_path.convolution import (
    PIXELS,
    Layer,
    bilinear_kernel,
    bilinear_weight,
    crop_offset,
    receptive_field,
    transposed_field,
)
from ddpm_path.gaussian import check_alike, check_input, check_range

Convolution = TypeVar("Convolution", nn.Conv2d, nn.ConvTranspose2d)


def convolution_of(linear: nn.Linear, window: int) -> nn.Conv2d:
    """The convolution that slides a fully connected layer over a map: its weights, reshaped [Long 2014, sec. 3.1].

    The layer reads a flattened (C, window, window). ValueError if its inputs are no such map.
    """
    check_range(1, window=window)
    channels = linear.in_features // window**2
    if channels * window**2 != linear.in_features:
        raise ValueError(
            f"{linear.in_features} inputs are no map of {window} x {window}: give the window they came from"
        )
    convolution = nn.Conv2d(channels, linear.out_features, window, bias=linear.bias is not None)
    convolution.weight.data = linear.weight.data.view(-1, channels, window, window)
    if linear.bias is not None:
        convolution.bias = linear.bias
    return convolution


class FCN(nn.Module):
    """A classifier of windows made to score every pixel: FCN-32s, FCN-16s or FCN-8s [Long 2014, sec. 4].

    A trunk of stages, each `convs` 3x3 convolutions and a pooling; a head, once fully connected, that looks at
    `window` x `window` of the last map; scores. With stride 32 = 2^stages these are up-sampled at once. With 16 they
    are first doubled and added to scores of the last pooling but one, with 8 once more. Doubling starts bilinear and
    is learned; the last up-sampling stays bilinear. Offsets for cropping are computed, not read off.

    The defaults are VGG-16's; pooling rounds sizes up, as Caffe does. Convolutions start as [He 2015], not as a
    trained classifier; score layers start at 0, so a fresh network answers 0.
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 21,
        stride: int = 8,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        convs: Sequence[int] = (2, 2, 3, 3, 3),
        head: int = 4096,
        window: int = 7,
        padding: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        legal = [2**n for n in range(len(widths), 0, -1)]
        if stride not in legal or len(convs) != len(widths):
            raise ValueError(
                f"stride {stride} and {len(convs)} stages of convolutions for {len(widths)} widths: give a number of "
                f"convolutions for each width, and a stride among {', '.join(map(str, legal))}"
            )
        check_range(
            1, channels=channels, classes=classes, widths=min(widths), convs=min(convs), head=head, window=window
        )
        check_range(0, 1, dropout=dropout)
        self.channels, self.window, self.padding = channels, window, padding
        self.stages, c = nn.ModuleList(), channels
        for width, count in zip(widths, convs, strict=True):
            stage = nn.Sequential()
            for _ in range(count):
                outermost = len(self.stages) == 0 and len(stage) == 0
                conv = nn.Conv2d(c, width, 3, padding=padding if outermost else 1)
                stage.extend([he(conv, 9 * c), nn.ReLU()])
                c = width
            self.stages.append(stage.append(nn.MaxPool2d(2, ceil_mode=True)))
        self.head = nn.Sequential(
            he(nn.Conv2d(c, head, window), window**2 * c), nn.ReLU(), nn.Dropout2d(dropout),
            he(nn.Conv2d(head, head, 1), head), nn.ReLU(), nn.Dropout2d(dropout),
            nn.Conv2d(head, classes, 1),
        )  # fmt: skip

        # Where each map's units stand: the trunk's maps, then the scores on their way back up.
        pool, inner = Layer(2, 2), Layer(3, 1, 1)
        fields = [receptive_field([Layer(3, 1, padding), *[inner] * (convs[0] - 1), pool])]
        for count in convs[1:]:
            fields.append(receptive_field([*[inner] * count, pool], fields[-1]))
        self.field = receptive_field([Layer(window)], fields.pop())
        self.doublings, self.lateral, self.offsets = nn.ModuleList(), nn.ModuleList(), []
        at, factor = self.field, 2 ** len(widths)
        while factor > stride:
            factor //= 2
            double = nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=False)
            double.weight.data = bilinear_weight(classes, 4).float()
            self.doublings.append(double)
            at, below = transposed_field(Layer(4, 2), at), fields.pop()
            self.lateral.append(nn.Conv2d(widths[len(fields)], classes, 1))
            self.offsets.append(crop_offset(below, at))
            at = at if self.offsets[-1] >= 0 else below
        self.factor = factor
        self.offsets.append(crop_offset(transposed_field(Layer(2 * factor, factor), at), PIXELS))
        if self.offsets[-1] < 0:
            raise ValueError(f"padding {padding} leaves the border without scores: give {padding - self.offsets[-1]}")
        for score in (self.head[-1], *self.lateral):
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
        kernel = bilinear_kernel(2 * factor).float().expand(classes, 1, -1, -1)
        self.kernel: Tensor  # fixed, so no part of what is saved
        self.register_buffer("kernel", kernel.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, H, W) to scores (B, classes, H, W); ValueError for sizes that do not come out."""
        self._check(x)
        pools = self._maps(x)
        score = self.head(pools[-1])
        fused = zip(self.doublings, self.lateral, self.offsets, reversed(pools[:-1]), strict=False)
        for double, lateral, offset, below in fused:
            score = double(score)
            if offset >= 0:
                score = score + crop(lateral(below), offset, score.shape[2:])
            else:  # the doubled map reaches beyond the finer one, as it may with little padding
                score = crop(score, -offset, below.shape[2:]) + lateral(below)
        score = F.conv_transpose2d(score, self.kernel, stride=self.factor, groups=score.shape[1])
        return crop(score, self.offsets[-1], x.shape[2:])

    def classify(self, x: Tensor) -> Tensor:
        """Scores (B, classes, H', W') of the windows, before any up-sampling: of one window, what a classifier says.

        ValueError for images smaller than a window.
        """
        check_input(x, next(self.parameters()), self.channels, "H", "W")
        if self._sizes(min(x.shape[2:]))[-1] < self.window:
            raise ValueError(f"{tuple(x.shape[2:])} pixels are less than a window: give larger images, or more padding")
        scores: Tensor = self.head(self._maps(x)[-1])
        return scores

    def _maps(self, x: Tensor) -> list[Tensor]:
        return list(itertools.accumulate(self.stages, lambda h, stage: stage(h), initial=x))[1:]

    def _sizes(self, size: int) -> list[int]:
        """How wide its maps are for an image of this size."""
        n = size + 2 * self.padding - 2
        return [n := -(-n // 2) for _ in self.stages]

    def _check(self, x: Tensor) -> None:
        check_input(x, next(self.parameters()), self.channels, "H", "W")
        for size in x.shape[2:]:
            if not self._fits(size):
                below = [n for n in range(size - 1, 0, -1) if self._fits(n)][:1]
                legal = [*below, next(n for n in itertools.count(size + 1) if self._fits(n))]
                raise ValueError(
                    f"{size} is no size for this network, its maps would not cover each other: nearest legal sizes "
                    f"{', '.join(map(str, legal))}"
                )

    def _fits(self, size: int) -> bool:
        """Whether images of this size lead to at least one score, and every crop finds what it cuts out."""
        maps = self._sizes(size)
        n = maps[-1] - (self.window - 1)
        for offset, below in zip(self.offsets[:-1], reversed(maps[:-1]), strict=False):  # not all are fused
            n = 2 * n + 2
            too_small = offset + n > below if offset >= 0 else n < below - offset
            if n < 4 or too_small:
                return False
            n = n if offset >= 0 else below
        return n >= 1


class UNet2015(nn.Module):
    """The first U-Net: unpadded convolutions, crop and concatenate [Ronneberger 2015, fig. 1].

    (B, channels, n, n) to scores (B, classes, m, m) of the middle, m = `valid_output(n, depth)`. Two 3x3 convolutions
    at each level; `width` channels at the first, doubled at each pooling; up again by 2x2 transposed convolutions that
    halve them. Convolutions start as [He 2015]; dropout stands at the bottom. The defaults are the paper's 23
    convolutions, 64 channels to 1,024.
    """

    def __init__(
        self, channels: int = 1, classes: int = 2, width: int = 64, depth: int = 4, dropout: float = 0.5
    ) -> None:
        super().__init__()
        check_range(1, channels=channels, classes=classes, width=width)
        check_range(0, depth=depth)
        check_range(0, 1, dropout=dropout)

        def pair(c_in: int, c_out: int) -> nn.Sequential:
            first, second = nn.Conv2d(c_in, c_out, 3), nn.Conv2d(c_out, c_out, 3)
            return nn.Sequential(he(first, 9 * c_in), nn.ReLU(), he(second, 9 * c_out), nn.ReLU())

        self.channels, self.depth = channels, depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(pair(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.dropout = nn.Dropout(dropout)
        back = list(itertools.pairwise(reversed(widths)))
        # One output of a 2x2 transposed convolution at stride 2 reads one position: all its channels, once.
        self.grow = nn.ModuleList(he(nn.ConvTranspose2d(a, b, 2, stride=2), a) for a, b in back)
        self.up = nn.ModuleList(pair(a, b) for a, b in back)
        self.score = he(nn.Conv2d(width, classes, 1), width)

    def forward(self, x: Tensor, cut: Collection[int] = ()) -> Tensor:
        """x (B, channels, H, W) to scores of the middle; `cut` names levels, 0 the finest, whose skip is zeros.

        ValueError for sizes whose poolings would not come out even.
        """
        check_input(x, self.score.weight, self.channels, "H", "W")
        for size in x.shape[2:]:
            valid_output(size, self.depth)
        skips = []
        h = x
        for level, pair in enumerate(self.down):
            h = pair(h if level == 0 else F.max_pool2d(h, 2))
            skips.append(h)
        h = self.dropout(skips.pop())
        for grow, pair in zip(self.grow, self.up, strict=True):
            h = grow(h)
            skip = centre(skips.pop(), h.shape[2:])
            h = pair(torch.cat([skip * (len(skips) not in cut), h], dim=1))
        out: Tensor = self.score(h)
        return out


def valid_output(size: int, depth: int = 4) -> int:
    """How many pixels of one axis the first U-Net scores: size - 184 at depth 4, size - (12 * 2^depth - 8) in general.

    ValueError unless every pooling halves an even size and something is left: at depth 4 sizes are 188, 204, 220, ...
    """
    check_range(0, depth=depth)
    step = 1 << depth
    border = 12 * step - 8
    if size > border and (size - border - 4) % step == 0:
        return size - border
    least = border + 3 % step + 1  # what is left is 4 modulo the step
    below = max(least, size - (size - least) % step)
    legal = [below] if size < below else [below, below + step]
    raise ValueError(
        f"an unpadded U-Net of depth {depth} has no even poolings at {size}: nearest legal sizes "
        f"{', '.join(map(str, legal))}"
    )


def whole(net: UNet2015, x: Tensor, cut: Collection[int] = ()) -> Tensor:
    """Scores of all of x (B, C, H, W): what the network needs beyond the border is mirrored [Ronneberger 2015, fig. 2].

    ValueError for images smaller than that margin.
    """
    step = 1 << net.depth
    border = 12 * step - 8
    frame = []
    for size in reversed(x.shape[2:]):  # F.pad wants the last axis first
        near, far = border // 2, border // 2 + (4 - size) % step  # up to the next legal size
        if far >= size:
            raise ValueError(f"{size} pixels are too few to mirror {far} of them: give a larger image")
        frame += [near, far]
    return crop(net(F.pad(x, frame, mode="reflect"), cut), 0, x.shape[2:])


def border_weights(instances: Tensor, balance: Tensor | float = 1.0, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """The weight of each pixel in the loss, high where two cells nearly touch [Ronneberger 2015, eq. 2].

    w = balance + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 the distances to the nearest and second nearest cell in
    pixels, 0 inside. instances (H, W) are whole numbers, 0 the background, one number a cell; `balance`, the paper's
    w_c, evens out how frequent classes are. With fewer than two cells the second term is 0. float64 (H, W).
    """
    from scipy.ndimage import distance_transform_edt  # slow to import, and needed for training only

    check_range(0, w0=w0)
    check_range(1e-300, sigma=sigma)
    if instances.ndim != 2 or instances.is_floating_point():
        raise ValueError(
            f"instances are whole numbers (H, W), of one image; got {tuple(instances.shape)} {instances.dtype}: "
            "torch.stack the weights of each of a batch"
        )
    cells = sorted(set(instances.flatten().tolist()) - {0})
    weights = torch.zeros(instances.shape, dtype=torch.float64)
    if not bool(torch.as_tensor(balance).isfinite().all()):
        raise ValueError("balance holds NaN or infinity: every class that it counts needs a pixel")
    if isinstance(balance, Tensor) and balance.ndim:
        check_alike(weights, balance=balance)
    weights = weights + balance
    if len(cells) >= 2:
        away = torch.stack([torch.from_numpy(distance_transform_edt((instances != k).numpy())) for k in cells])
        weights = weights + w0 * torch.exp(-away.topk(2, dim=0, largest=False).values.sum(0).square() / (2 * sigma**2))
    return weights


def pixel_loss(scores: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of each pixel's class times its weight, mean over pixels, in nats [Ronneberger 2015, eq. 1].

    scores (B, classes, H, W), target (B, H, W) whole numbers, weights (B, H, W). The papers sum; the mean keeps the
    learning rate's meaning over image sizes.
    """
    if target.is_floating_point():
        raise ValueError(f"the target holds {target.dtype}: convert it to whole numbers, the pixels' classes")
    check_alike(scores[:, 0], weights=weights, target=target.to(weights))
    check_range(0, scores.shape[1] - 1, smallest=float(target.min()), largest=float(target.max()))
    return (F.cross_entropy(scores, target.long(), reduction="none") * weights).mean()


def crop(x: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    """`size` (H, W) of x (B, C, ., .) from `offset` on, both ways; ValueError if that much is not there."""
    out = x[..., offset : offset + size[0], offset : offset + size[1]]
    if out.shape[2:] != tuple(size):
        raise ValueError(f"no {tuple(size)} in {tuple(x.shape[2:])} from {offset} on")
    return out


def centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle `size` (H, W) of x (B, C, ., .), equally far from both sides; ValueError if x is smaller."""
    check_input(x, x, "C", "H", "W")
    top, left = ((n - m) // 2 for n, m in zip(x.shape[2:], size, strict=True))
    if top < 0 or left < 0:
        raise ValueError(f"no {tuple(size)} in the middle of {tuple(x.shape[2:])}")
    return x[..., top : top + size[0], left : left + size[1]]


def he(module: Convolution, inputs: int) -> Convolution:
    """The same layer, drawn from N(0, 2 / inputs), bias 0; `inputs` is what one output adds up [He 2015, eq. 10]."""
    check_range(1, inputs=inputs)
    nn.init.normal_(module.weight, std=math.sqrt(2 / inputs))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
