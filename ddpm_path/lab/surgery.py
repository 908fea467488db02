"""A trained U-Net with a part taken away, in a copy of its own: to see what the part was for."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_path.unet import Attention, Embed, UNet


def without_skips(net: UNet, stage: int) -> UNet:
    """Zeros instead of what a stage of the way up gets from the way down; stage 0 is the coarsest, -1 the finest."""
    cut = copy.deepcopy(net)
    widths = [cut.stem.out_channels]  # of the skips, in the order that they are put aside
    for i, blocks in enumerate(cut.down):
        if i > 0:
            widths.append(widths[-1])
        widths += [block.block.conv1.out_channels for block in blocks]  # type: ignore[attr-defined]
    for i, blocks in enumerate(cut.up):
        for block in blocks:  # type: ignore[attr-defined]
            width = widths.pop()
            if i == stage % len(cut.up):
                block.register_forward_pre_hook(_blank(width))
    return cut


def _blank(width: int) -> Callable[[nn.Module, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """A hook that zeroes the last channels of a block's input, and leaves its condition."""

    def hook(module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, cond = args
        return torch.cat([h[:, :-width], torch.zeros_like(h[:, -width:])], dim=1), cond

    return hook


def without_attention(net: UNet) -> UNet:
    """Attention finds nothing; the rest of its block stays."""
    cut = copy.deepcopy(net)
    for module in cut.modules():
        if isinstance(module, Attention):
            module.edit = lambda q, k, v: torch.zeros_like(v)
    return cut


def with_embedding(net: UNet, embed: Embed) -> UNet:
    """Another embedding of time, to which the network was not trained."""
    cut = copy.deepcopy(net)
    cut.embed = embed
    return cut
