"""The diffusion U-Net: DDPM's layout, with ADM's conditioning [Ho 2020, app. B; Dhariwal 2021, sec. 3]."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Edit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A hook on attention: (queries, keys, values), each (B, heads, L, width), to the mixed values."""


def time_embedding(t: Tensor, dim: int, longest: float = 10000.0) -> Tensor:
    """Sines, then cosines, of t at dim / 2 frequencies from 1 to 1 / longest, (B, dim) [Ho 2020, code].

    t (B,) is any real number, in steps of a chain of 1,000: never a row of a table.
    """
    frequency = torch.exp(-math.log(longest) * torch.arange(dim // 2, device=t.device) / (dim // 2 - 1))
    angle = t.float()[:, None] * frequency  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions around a skip; the condition scales and shifts the second normalisation (AdaGN).

    [Dhariwal 2021, sec. 3]; the last convolution starts at zero, so a fresh block is its skip.
    """

    def __init__(self, channels: int, out_channels: int, cond: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.condition = nn.Linear(cond, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, C, H, W) and the activated condition (B, cond) to (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.condition(cond)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        out: Tensor = self.skip(x) + h
        return out


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, added to it; starts as the identity.

    `edit`, if set, stands in for softmax(q k^T) v, to read the maps or to change them.
    """

    def __init__(self, channels: int, head_width: int, groups: int, edit: Edit | None = None) -> None:
        super().__init__()
        self.heads, self.edit = channels // head_width, edit
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) to the same shape."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv n d) h w -> qkv b n (h w) d", qkv=3, n=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v) if self.edit is None else self.edit(q, k, v)
        mixed = rearrange(mixed, "b n (h w) d -> b (n d) h w", h=x.shape[2])
        out: Tensor = x + self.out(mixed)
        return out


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
    blocks get it, 0 the finest; the middle always does. blocks: residual blocks a resolution (one more on the way
    up, which reads every skip). patch: a space-to-depth stem over patch x patch pixels, which makes the whole network
    work on a smaller grid: the cheapest speed-up on a CPU. classes: labels 0..classes-1, and `classes` itself is the
    null label. For a schedule in continuous time hand over 1,000 t: the embedding is made for a chain that long.
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
    ) -> None:
        super().__init__()
        if not widths or widths[0] % 2 or widths[0] < 4 or not set(attention) <= set(range(len(widths))):
            raise ValueError(
                f"widths {list(widths)} and attention {list(attention)}: give one width or more, the first even and at "
                "least 4, and attention as indices of widths"
            )
        for i, width in enumerate(widths):
            if width % groups or (width % head_width and (i in attention or i == len(widths) - 1)):
                raise ValueError(
                    f"width {width} must be divisible by groups {groups} and, where there is attention (at the lowest "
                    f"resolution always), by head_width {head_width}"
                )
        self.channels, self.classes, self.patch = channels, classes, patch
        self.multiple = patch * 2 ** (len(widths) - 1)
        self.embedding = widths[0]
        cond = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], cond), nn.SiLU(), nn.Linear(cond, cond))
        self.label = nn.Embedding(classes + 1, cond) if classes else None

        def block(c_in: int, c_out: int, attentive: bool) -> AttentiveBlock:
            residual = ResBlock(c_in, c_out, cond, groups, dropout)
            return AttentiveBlock(residual, Attention(c_out, head_width, groups) if attentive else None)

        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for i, width in enumerate(widths):
            if i > 0:
                self.shrink.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
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
                self.grow.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm = nn.GroupNorm(groups, c)
        self.head = zero(nn.Conv2d(c, (out_channels or channels) * patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor | float, label: Tensor | int | None = None) -> Tensor:
        """x (B, C, H, W); t in steps of the chain and label (None: the null label) are (B,), or one for all.

        ValueError for sizes that do not divide, labels out of range or of another number.
        """
        self._check(x)
        cond = self.time(time_embedding(_each(t, x, "t"), self.embedding).to(x.dtype))
        if label is not None and self.label is None:
            raise ValueError("this network was trained without labels: leave `label` out")
        if self.label is not None:
            label = _each(self.classes if label is None else label, x, "label")
            if label.is_floating_point() or not bool(((label >= 0) & (label <= self.classes)).all()):
                raise ValueError(
                    f"labels are whole numbers from 0 to {self.classes - 1}, and {self.classes} is the null label"
                )
            cond = cond + self.label(label)
        cond = F.silu(cond)

        h = self.stem(F.pixel_unshuffle(x, self.patch))  # (B, widths[0], H / patch, W / patch)
        skips = [h]
        for i, stage in enumerate(self.down):
            if i > 0:
                h = self.shrink[i - 1](h)
                skips.append(h)
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, cond)
                skips.append(h)
        for block in self.middle:
            h = block(h, cond)
        for i, stage in enumerate(self.up):
            for block in stage:  # type: ignore[attr-defined]
                h = block(torch.cat([h, skips.pop()], dim=1), cond)
            if i < len(self.grow):
                h = self.grow[i](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels or len(x) == 0:
            raise ValueError(f"images are (B, {self.channels}, H, W) for this network, B > 0; got {tuple(x.shape)}")
        if x.dtype != self.stem.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x is {x.dtype}, the network {self.stem.weight.dtype}: convert one of them")
        for size in x.shape[2:]:
            if size % self.multiple:
                below = size // self.multiple * self.multiple
                legal = [n for n in (below, below + self.multiple) if n > 0]
                raise ValueError(
                    f"{size} is not divisible by {self.multiple}: nearest legal sizes {', '.join(map(str, legal))}"
                )


def _each(value: Tensor | float, x: Tensor, name: str) -> Tensor:
    """One value for each item of x, (B,); ValueError if there are others than B or 1 of them."""
    values = torch.as_tensor(value, device=x.device)
    if values.ndim > 1 or values.numel() not in (1, len(x)):
        raise ValueError(f"{name} is one number, or one for each of the {len(x)} items; got {tuple(values.shape)}")
    return values.expand(len(x))


def zero(module: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, its weights and bias at 0: a branch that starts by adding nothing."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
