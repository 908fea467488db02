"""Exercises of notebook 10, the diffusion U-Net."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_path.lab.exercises.checking import Exercise

# DDPM's embedding of time. The package computes it in float32, as published; here it is float64 [Ho 2020, code].


def _times(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    t = torch.tensor([1.0, 500.0, 1000.0], dtype=torch.float64)
    return {"t = 1, 500, 1000, 8 wide": (t, 8), "fractions of a step, 6 wide": (t / 7, 6)}


def _sinusoids(t: Tensor, dim: int, last: int) -> tuple[Tensor, Tensor]:
    angle = t[:, None] * 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / last)
    return angle.sin(), angle.cos()


def _embedding(t: Tensor, dim: int) -> Tensor:
    return torch.cat(_sinusoids(t, dim, dim // 2 - 1), 1)


def _embedding_solution(t: Tensor, dim: int) -> Tensor:
    """The frequencies fall from 1 to 1 / 10,000 in equal ratios; sines first."""
    frequency = torch.logspace(0, -4, dim // 2, dtype=torch.float64)
    angle = torch.outer(t, frequency)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


def _interleaved(t: Tensor, dim: int) -> Tensor:
    return torch.stack(_sinusoids(t, dim, dim // 2 - 1), 2).flatten(1)


EMBEDDING_OF_TIME = Exercise(
    "embedding_of_time",
    _embedding,
    _times,
    ("embedding",),
    (
        (
            lambda t, dim: torch.cat(_sinusoids(t, dim, dim // 2), 1),
            "the last frequency falls short of 1 / 10,000: DDPM divides by dim / 2 - 1, improved DDPM by dim / 2",
        ),
        (
            lambda t, dim: torch.cat(_sinusoids(t, dim, dim // 2 - 1)[::-1], 1),
            "the cosines stand first: that is improved DDPM's order, and weights of one know nothing of the other",
        ),
        (_interleaved, "sines and cosines alternate: that is the Transformer's order; here all sines come first"),
        (
            lambda t, dim: _embedding(t / 1000, dim),
            "t was divided by 1,000: the embedding is made for steps of a chain, 1 to 1,000",
        ),
    ),
    _embedding_solution,
)

# Attention of several heads over the positions of a feature map.


def _projections(generator: torch.Generator) -> dict[str, tuple[Any, ...]]:
    cases = {"2 heads of 3": (2, 6, 5, 2), "1 head of 4": (1, 4, 3, 1)}
    return {
        name: (torch.randn(n, 3 * C, L, generator=generator, dtype=torch.float64), heads)
        for name, (n, C, L, heads) in cases.items()
    }


def _attend(qkv: Tensor, heads: int) -> Tensor:
    B, C, L = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2]
    q, k, v = qkv.view(B, 3, heads, C // heads, L).transpose(3, 4).unbind(1)  # (B, heads, L, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, C, L)


def _attend_solution(qkv: Tensor, heads: int) -> Tensor:
    """One head at a time: weights over keys for each query, then the mean of the values."""
    C = qkv.shape[1] // 3
    width, out = C // heads, []
    for h in range(heads):
        q, k, v = (qkv[:, part * C + h * width : part * C + (h + 1) * width] for part in range(3))  # (B, width, L)
        weights = torch.einsum("bcq,bck->bqk", q, k).div(math.sqrt(width)).softmax(dim=-1)
        out.append(torch.einsum("bqk,bck->bcq", weights, v))
    return torch.cat(out, dim=1)


def _loop(qkv: Tensor, heads: int, scale: float, keys: int) -> Tensor:
    B, C, L = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2]
    q, k, v = qkv.view(B, 3, heads, C // heads, L).unbind(1)  # (B, heads, d, L)
    weights = (q.mT @ k * scale).softmax(keys)  # (B, heads, queries, keys)
    return (v @ weights.mT).reshape(B, C, L)


def _legacy(qkv: Tensor, heads: int) -> Tensor:
    B, C, L = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2]
    return _attend(qkv.view(B, heads, 3, C // heads, L).transpose(1, 2).reshape(B, 3 * C, L), heads)


MANY_HEADS = Exercise(
    "many_heads",
    _attend,
    _projections,
    ("answer",),
    (
        (
            lambda qkv, heads: _loop(qkv, heads, (qkv.shape[1] // 3) ** -0.5, -1),
            "products are divided by the root of all channels: a head divides by the root of its own width",
        ),
        (
            lambda qkv, heads: _loop(qkv, heads, 1.0, -1),
            "products are not divided by the root of the head's width: softmax then picks one position",
        ),
        (
            lambda qkv, heads: _loop(qkv, heads, (qkv.shape[1] // 3 / heads) ** -0.5, -2),
            "the softmax runs over queries: each query shares its weight, 1, among the keys",
        ),
        (
            _legacy,
            "q, k and v were taken head by head, OpenAI's legacy order: here all q come first, then all k, then all v",
        ),
    ),
    _attend_solution,
)
