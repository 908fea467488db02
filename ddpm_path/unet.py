"""The diffusion U-Net, from DDPM's to ADM's [Ho 2020, app. B; Nichol 2021; Dhariwal 2021, sec. 3].

One network with numbers to choose; the published ones are presets at the end of this file.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm_path.gaussian import batch_time, check_input, check_range, each_item

Edit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A hook on attention: (queries, keys, values), each (B, heads, L, width), to the mixed values."""

Embed = Callable[[Tensor, int], Tensor]
"""An embedding of times: t (B,) and a width to (B, width)."""

halve = partial(F.avg_pool2d, kernel_size=2)
double = partial(F.interpolate, scale_factor=2.0)  # each pixel four times


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of t at dim / 2 frequencies from 1 to 1 / 10,000, (B, dim) [Ho 2020, code].

    t (B,) is any real number, in steps of a chain of 1,000: never a row of a table.
    """
    angle = _angles(t, dim, dim / 2 - 1)  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def improved_time_embedding(t: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of t at frequencies from 1 to just above 1 / 10,000, (B, dim) [Nichol 2021, code; ADM]."""
    angle = _angles(t, dim, dim / 2)  # (B, dim / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _angles(t: Tensor, dim: int, last: float) -> Tensor:
    """t times 10,000^(-i / last) for i = 0, ..., dim / 2 - 1."""
    if dim % 2 or last < 1 or t.ndim != 1:
        raise ValueError(f"times are (B,) and a width is even, 4 or more; got {tuple(t.shape)} and {dim}")
    frequency = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=t.device) / last)
    return t.float()[:, None] * frequency


class ResBlock(nn.Module):
    """Two convolutions around a skip, conditioned before the second, (B, channels, H, W) to (B, out_channels, H', W').

    scale_shift: the condition scales and shifts the second normalisation (AdaGN) [Dhariwal 2021, sec. 3]; else it is
    added before it [Ho 2020]. resize: `halve` or `double` changes the size between activation and first convolution
    and on the skip [Brock 2019]. rescale: a factor on the sum. The last convolution starts at zero, so a fresh block
    is its skip.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        cond: int,
        groups: int,
        dropout: float,
        scale_shift: bool = True,
        resize: Callable[[Tensor], Tensor] | None = None,
        eps: float = 1e-5,
        rescale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resize, self.rescale = scale_shift, resize, rescale
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.condition = nn.Linear(cond, (1 + scale_shift) * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, channels, H, W) and the activated condition (B, cond) to (B, out_channels, H', W')."""
        h = F.silu(self.norm1(x))
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        h = self.conv1(h)
        condition = self.condition(cond)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + condition)
        h = self.conv2(self.dropout(F.silu(h)))
        return _rescaled(self.skip(x) + h, self.rescale)


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, added to it; starts as the identity.

    `edit`, if set, stands in for softmax(q k^T / sqrt(head_width)) v, to read the maps or to change them. head_width
    equal to channels is a single head [Ho 2020]. rescale: a factor on the sum. ValueError for a head_width that does
    not divide channels.
    """

    def __init__(
        self,
        channels: int,
        head_width: int,
        groups: int,
        edit: Edit | None = None,
        eps: float = 1e-5,
        rescale: float = 1.0,
    ) -> None:
        super().__init__()
        check_range(1, head_width=head_width)
        if channels % head_width:
            raise ValueError(f"{channels} channels make no whole number of heads of width {head_width}")
        self.heads, self.edit, self.rescale = channels // head_width, edit, rescale
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) to the same shape."""
        # Views, not copies, where the memory format is channels_last.
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv n d) h w -> qkv b n (h w) d", qkv=3, n=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v) if self.edit is None else self.edit(q, k, v)
        mixed = rearrange(mixed, "b n (h w) d -> b (n d) h w", h=x.shape[2])
        return _rescaled(x + self.out(mixed), self.rescale)


class Halve(nn.Conv2d):
    """A convolution of stride 2; `asymmetric` pads below and on the right only, as DDPM's code does."""

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)
        self.asymmetric = asymmetric

    def forward(self, input: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2), whatever the condition."""
        return super().forward(F.pad(input, (0, 1, 0, 1)) if self.asymmetric else input)


class Double(nn.Conv2d):
    """Each pixel four times, then a convolution: no checkerboards [Odena 2016]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, input: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W), whatever the condition."""
        return super().forward(double(input))


class AttentiveBlock(nn.Module):
    """One step of a U-Net's path: a residual block and, at chosen levels, attention."""

    def __init__(self, block: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, C, H, W), cond (B, cond) to (B, C', H, W)."""
        h: Tensor = self.block(x, cond)
        if self.attention is not None:
            h = self.attention(h)
        return h


class UNet(nn.Module):
    """A noise-level- and class-conditioned U-Net, (B, channels, H, W) to (B, out_channels, H, W).

    widths: channels at each resolution, halved in size from one to the next. attention: the resolutions whose
    blocks get it, 0 the finest; the middle always does, in heads of head_width channels or, if that is not 0, in
    `heads` heads everywhere. blocks: residual blocks a resolution (one more on the way up, which reads every skip).
    classes: labels 0..classes-1, and `classes` itself is the null label, unless null_label is False. patch: a
    space-to-depth stem over patch x patch pixels, which makes the whole network work on a smaller grid: the cheapest
    speed-up on a CPU. embed: the sinusoids of t, `embedding` of them (widths[0] if None). scale_shift, eps and
    rescale: as in `ResBlock`. residual_resampling: residual blocks change the size, else convolutions, `asymmetric` as
    in `Halve`. checkpointing: in training keep only each block's input and compute the block twice: less memory, more
    time. For a schedule in continuous time hand over 1,000 t: the embedding is made for a chain that long. A condition
    image is concatenated to x by the caller: count it in `channels`. On a CPU `.to(memory_format=torch.channels_last)`
    makes a wide network faster.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        attention: Sequence[int] = (),
        blocks: int = 1,
        head_width: int = 32,
        classes: int = 0,
        patch: int = 1,
        groups: int = 8,
        dropout: float = 0.0,
        out_channels: int | None = None,
        *,
        heads: int = 0,
        null_label: bool = True,
        embed: Embed = time_embedding,
        embedding: int | None = None,
        scale_shift: bool = True,
        residual_resampling: bool = False,
        asymmetric: bool = False,
        eps: float = 1e-5,
        rescale: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_range(1, channels=channels, blocks=blocks, head_width=head_width, patch=patch, groups=groups)
        check_range(0, classes=classes, heads=heads)
        check_range(1, out_channels=out_channels or channels)
        check_range(0, 1, dropout=dropout)
        if not widths or min(widths) < 1 or not set(attention) <= set(range(len(widths))):
            raise ValueError(
                f"widths {list(widths)} and attention {list(attention)}: give one width or more, none below 1, "
                "and attention as indices of widths"
            )
        self.embedding, self.embed = embedding or widths[0], embed
        if self.embedding % 2 or self.embedding < 4:
            raise ValueError(
                f"the first of widths {list(widths)}, or `embedding`, must be even and at least 4: half of the times' "
                "embedding are sines, half cosines"
            )
        for i, width in enumerate(widths):
            attentive = i in attention or i == len(widths) - 1
            if width % groups or (attentive and width % (heads or head_width)):
                raise ValueError(
                    f"width {width} must be divisible by groups {groups} and, where there is attention (at the lowest "
                    f"resolution always), by {f'heads {heads}' if heads else f'head_width {head_width}'}"
                )
        if asymmetric and residual_resampling:
            raise ValueError("residual blocks halve by averaging, without padding: leave `asymmetric` out")
        self.channels, self.classes, self.patch, self.checkpointing = channels, classes, patch, checkpointing
        self.multiple = patch * 2 ** (len(widths) - 1)
        cond = 4 * self.embedding
        self.time = nn.Sequential(nn.Linear(self.embedding, cond), nn.SiLU(), nn.Linear(cond, cond))
        self.label = nn.Embedding(classes + null_label, cond) if classes else None

        residual = partial(
            ResBlock, cond=cond, groups=groups, dropout=dropout, scale_shift=scale_shift, eps=eps, rescale=rescale
        )

        def block(c_in: int, c_out: int, attentive: bool) -> AttentiveBlock:
            first = residual(c_in, c_out)
            width = c_out // heads if heads else head_width
            return AttentiveBlock(first, Attention(c_out, width, groups, None, eps, rescale) if attentive else None)

        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for i, width in enumerate(widths):
            if i > 0:
                self.shrink.append(residual(c, c, resize=halve) if residual_resampling else Halve(c, asymmetric))
                skips.append(c)
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(block(c, width, i in attention))
                c = width
                skips.append(c)
            self.down.append(stage)

        self.middle = nn.ModuleList([block(c, c, True), block(c, c, False)])

        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            stage = nn.ModuleList()
            for _ in range(blocks + 1):
                stage.append(block(c + skips.pop(), width, i in attention))
                c = width
            self.up.append(stage)
            if i > 0:
                self.grow.append(residual(c, c, resize=double) if residual_resampling else Double(c))
        self.norm = nn.GroupNorm(groups, c, eps)
        self.head = zero(nn.Conv2d(c, (out_channels or channels) * patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor | float, label: Tensor | int | None = None) -> Tensor:
        """x (B, C, H, W); t in steps of the chain and label (None: the null label) are (B,), or one for all.

        ValueError for sizes that do not divide, labels out of range or of another number.
        """
        self._check(x)
        cond = F.silu(self._condition(x, t, label))
        h = self.stem(F.pixel_unshuffle(x, self.patch))  # (B, widths[0], H / patch, W / patch)
        skips = [h]
        for i, stage in enumerate(self.down):
            if i > 0:
                h = self._run(self.shrink[i - 1], h, cond)
                skips.append(h)
            for block in stage:  # type: ignore[attr-defined]
                h = self._run(block, h, cond)
                skips.append(h)
        for block in self.middle:
            h = self._run(block, h, cond)
        for i, stage in enumerate(self.up):
            for block in stage:  # type: ignore[attr-defined]
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), cond)
            if i < len(self.grow):
                h = self._run(self.grow[i], h, cond)
        out: Tensor = F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)
        return out

    def _condition(self, x: Tensor, t: Tensor | float, label: Tensor | int | None) -> Tensor:
        """The embeddings of time and label, added up, (B, cond)."""
        cond: Tensor = self.time(self.embed(batch_time(t, x), self.embedding).to(x.dtype))
        if self.label is None:
            if label is not None:
                raise ValueError("this network was trained without labels: leave `label` out")
            return cond
        null = self.label.num_embeddings > self.classes
        if label is None and not null:
            raise ValueError(f"this network has no null label: hand over labels from 0 to {self.classes - 1}")
        label = each_item(self.classes if label is None else label, x, "label")
        if label.is_floating_point() or not bool(((label >= 0) & (label < self.label.num_embeddings)).all()):
            raise ValueError(
                f"labels are whole numbers from 0 to {self.classes - 1}"
                + (f", and {self.classes} is the null label" if null else "")
            )
        cond = cond + self.label(label)
        return cond

    def _run(self, block: nn.Module, h: Tensor, cond: Tensor) -> Tensor:
        out: Tensor
        if self.checkpointing and torch.is_grad_enabled():
            out = checkpoint(block, h, cond, use_reentrant=False)
        else:
            out = block(h, cond)
        return out

    def _check(self, x: Tensor) -> None:
        check_input(x, self.stem.weight, self.channels, "H", "W")
        for size in x.shape[2:]:
            if size % self.multiple:
                below = size // self.multiple * self.multiple
                legal = [n for n in (below, below + self.multiple) if n > 0]
                raise ValueError(
                    f"{size} is not divisible by {self.multiple}: nearest legal sizes {', '.join(map(str, legal))}"
                )


def zero(module: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, its weights and bias at 0: a branch that starts by adding nothing."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def _rescaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


# --- the published networks. What they were trained with (schedule, loss, sampler) is not theirs to know.


def ddpm_cifar10() -> UNet:
    """DDPM's network for CIFAR-10, 35.7 M parameters [Ho 2020, app. B]."""
    return UNet(
        3,
        (128, 256, 256, 256),
        attention=(1,),
        blocks=2,
        heads=1,
        groups=32,
        dropout=0.1,
        scale_shift=False,
        asymmetric=True,
        eps=1e-6,
    )


def improved_cifar10() -> UNet:
    """Improved DDPM's for CIFAR-10, 52.5 M parameters; eps and the variance's v in 6 channels [Nichol 2021, code]."""
    widths = (128, 256, 256, 256)
    return UNet(
        3, widths, (1, 2), blocks=3, heads=4, groups=32, dropout=0.3, out_channels=6, embed=improved_time_embedding
    )


def improved_imagenet64(width: int = 128, classes: int = 0) -> UNet:
    """Improved DDPM's for ImageNet at 64 x 64; (192, 1000) is the class-conditional one [Nichol 2021, code]."""
    return UNet(
        3,
        [width * k for k in (1, 2, 3, 4)],
        attention=(2, 3),
        blocks=3,
        heads=4,
        classes=classes,
        null_label=False,
        groups=32,
        out_channels=6,
        embed=improved_time_embedding,
    )


ADM: dict[int, tuple[int, Sequence[float], int, int, float]] = {
    # image size: width, its multiples, blocks, heads (0: heads of 64 channels), dropout
    64: (192, (1, 2, 3, 4), 3, 0, 0.1),
    128: (256, (1, 1, 2, 3, 4), 2, 4, 0.0),
    256: (256, (1, 1, 2, 2, 4, 4), 2, 0, 0.0),
    512: (256, (0.5, 1, 1, 2, 2, 4, 4), 2, 0, 0.0),
}


def adm(size: int, classes: int = 1000, checkpointing: bool = False) -> UNet:
    """ADM's network for ImageNet at 64, 128, 256 or 512 pixels; classes = 0 is the unconditional one [Dhariwal 2021].

    Attention at 32, 16 and 8 pixels. ValueError for another size.
    """
    if size not in ADM:
        raise ValueError(f"ADM has no network for {size} pixels: choose one of {', '.join(map(str, ADM))}")
    width, multiples, blocks, heads, dropout = ADM[size]
    return UNet(
        3,
        [int(width * k) for k in multiples],
        attention=[i for i in range(len(multiples)) if size >> i in (32, 16, 8)],
        blocks=blocks,
        head_width=64,
        heads=heads,
        classes=classes,
        null_label=False,
        groups=32,
        dropout=dropout,
        out_channels=6,
        embed=improved_time_embedding,
        embedding=width,
        residual_resampling=True,
        checkpointing=checkpointing,
    )
