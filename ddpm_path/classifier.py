"""A classifier of noisy images, to guide with: the way down of ADM's U-Net, then attention pooling [Dhariwal 2021]."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ddpm_path.gaussian import batch_time, check_input, check_range
from ddpm_path.unet import Attention, AttentiveBlock, Embed, ResBlock, halve, time_embedding


class AttentionPool(nn.Module):
    """A feature map to one vector: what its mean finds when it attends to all positions [Dhariwal 2021, code].

    The mean is put before the positions as a token, all get learned embeddings, and of one attention only the mean's
    answer is read. So the map's size is fixed.
    """

    def __init__(self, channels: int, positions: int, head_width: int, out: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.positions = nn.Parameter(torch.randn(1 + positions, channels) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) to (B, out)."""
        tokens = rearrange(x, "b c h w -> b (h w) c")
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self.positions  # (B, 1 + H W, C)
        q, k, v = rearrange(self.qkv(tokens), "b l (qkv n d) -> qkv b n l d", qkv=3, n=self.heads)
        mean = F.scaled_dot_product_attention(q[:, :, :1], k, v)  # (B, heads, 1, width)
        out: Tensor = self.out(mean.flatten(1))
        return out


class NoisyClassifier(nn.Module):
    """A noise-level-conditioned classifier, x_t (B, channels, size, size) and t (B,) to log-probabilities (B, classes).

    The way down and the middle of ADM's U-Net [Dhariwal 2021, sec. 4; `UNet` explains the arguments], halved in size
    by residual blocks, then `AttentionPool`, which fixes `size`. Group normalisation, no batch normalisation: a
    sample's gradient must not depend on the others'. It fits `guidance.class_score`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        widths: Sequence[int],
        attention: Sequence[int] = (),
        blocks: int = 1,
        head_width: int = 32,
        patch: int = 1,
        groups: int = 8,
        dropout: float = 0.0,
        embed: Embed = time_embedding,
        embedding: int | None = None,
    ) -> None:
        super().__init__()
        check_range(1, channels=channels, classes=classes, size=size, blocks=blocks, widths=min(widths, default=0))
        check_range(1, head_width=head_width, patch=patch, groups=groups)
        check_range(0, 1, dropout=dropout)
        for level in attention:
            check_range(0, len(widths) - 1, attention=level)
        multiple = patch * 2 ** (len(widths) - 1)
        if size % multiple or any(w % groups for w in widths) or any(widths[i] % head_width for i in (*attention, -1)):
            raise ValueError(
                f"size {size} must be divisible by {multiple}, widths {list(widths)} by groups {groups} and, where "
                f"there is attention (at the lowest resolution always), by head_width {head_width}"
            )
        self.shape, self.patch = (channels, size, size), patch
        self.embed, self.embedding = embed, embedding or widths[0]
        check_range(4, embedding=self.embedding)
        cond = 4 * self.embedding
        self.time = nn.Sequential(nn.Linear(self.embedding, cond), nn.SiLU(), nn.Linear(cond, cond))

        def block(c_in: int, c_out: int, attentive: bool) -> AttentiveBlock:
            residual = ResBlock(c_in, c_out, cond, groups, dropout)
            return AttentiveBlock(residual, Attention(c_out, head_width, groups) if attentive else None)

        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, c = nn.ModuleList(), widths[0]
        for i, width in enumerate(widths):
            if i > 0:
                self.down.append(ResBlock(c, c, cond, groups, dropout, resize=halve))
            for _ in range(blocks):
                self.down.append(block(c, width, i in attention))
                c = width
        self.middle = nn.ModuleList([block(c, c, True), block(c, c, False)])
        self.norm = nn.GroupNorm(groups, c)
        self.pool = AttentionPool(c, (size // multiple) ** 2, head_width, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities (B, classes) for x (B, channels, size, size) at t (B,), in steps of the chain.

        ValueError for images of another shape, or times of another number.
        """
        check_input(x, self.stem.weight, *self.shape)
        if t.shape != x.shape[:1]:
            raise ValueError(f"times are (B,), one for each of {len(x)} images; got {tuple(t.shape)}")
        cond = F.silu(self.time(self.embed(batch_time(t, x), self.embedding).to(x.dtype)))
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        for block in (*self.down, *self.middle):
            h = block(h, cond)
        log_probs: Tensor = self.pool(F.silu(self.norm(h))).log_softmax(1)
        return log_probs
