"""Weights that others published, from a file on this machine into the networks of this package.

Read are diffusers' `UNet2DModel` (google/ddpm-cifar10-32 and its kin) and OpenAI's U-Nets of improved-diffusion and
guided-diffusion with the latter's classifiers. Sizes come from the tensors; what no tensor tells (heads, say) from
config.json or from the table `KNOWN`. Every tensor finds its place, or the error names it.
"""

import json
import math
import pickle
import re
from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm_path.classifier import NoisyClassifier
from ddpm_path.losses import Network
from ddpm_path.schedule import EpsFn, from_zero_based
from ddpm_path.unet import Attention, Embed, UNet, improved_time_embedding, time_embedding

Weights = dict[str, Tensor]
Names = dict[str, tuple[str, ...]]
"""For each of our modules with weights, where its weights lie: in one module there, or in several, to be stacked."""


class Published(NamedTuple):
    """A published network: where it comes from, and how to ask it.

    answer and eps take x (B, C, H, W), t (B,) in 1..T and labels. Where `learned_variance` is true answer has twice
    the colours, eps first, then what `gaussian.learned_variance` reads; eps is the first half only. net is the bare
    network, whose times start at 0.
    """

    layout: str
    net: UNet
    answer: Network
    eps: Network
    learned_variance: bool


class Unsaid(NamedTuple):
    """What the tensors of an OpenAI U-Net do not tell.

    heads: in each attention; 0: as many as have head_width channels. interleaved: the legacy order of q, k and v, by
    head. time: what the network's time is multiplied by (1,000 / T if it was trained with rescaled times).
    """

    heads: int = 0
    head_width: int = 64
    interleaved: bool = True
    time: float = 1.0


KNOWN: dict[tuple[tuple[int, ...], tuple[int, ...], bool], Unsaid] = {
    # widths, levels with attention, residual resampling: the flags of the two repositories' README files
    ((192, 384, 576, 768), (1, 2, 3), True): Unsaid(interleaved=False),  # ADM 64
    ((256, 256, 512, 768, 1024), (2, 3, 4), True): Unsaid(heads=4),  # ADM 128
    ((256, 256, 512, 512, 1024, 1024), (3, 4, 5), True): Unsaid(),  # ADM 256, LSUN
    ((128, 256, 256, 512, 512, 1024, 1024), (4, 5, 6), True): Unsaid(),  # ADM 512
    ((192, 192, 384, 384, 768, 768), (3, 4, 5), True): Unsaid(heads=4),  # ADM 64 to 256
    ((192, 192, 384, 384, 768, 768), (4, 5), True): Unsaid(),  # ADM 128 to 512
    ((128, 256, 256, 256), (1, 2), False): Unsaid(heads=4, time=0.25),  # improved CIFAR-10, T = 4,000
    ((128, 256, 384, 512), (2, 3), False): Unsaid(heads=4, time=0.25),  # improved ImageNet-64, T = 4,000
    ((192, 384, 576, 768), (2, 3), False): Unsaid(heads=4),  # the same with classes
    ((192, 192, 384, 384, 768, 768), (4, 5), False): Unsaid(heads=4),  # improved 64 to 256
    ((128, 128, 256, 256, 512, 512), (4,), False): Unsaid(heads=1),  # improved LSUN
}


def from_published(path: Path | str, unsaid: Unsaid | None = None) -> Published:
    """A published U-Net from a file: .safetensors, or .pt, .pth, .bin if it holds nothing but tensors.

    diffusers' layout wants its config.json beside the file. An OpenAI network that is not in `KNOWN` wants `unsaid`.
    The schedule is not in the file: ask the paper. ValueError for a layout that is not known, a pickle that wants to
    run code, and tensors that are missing, left over or of another shape, with their names: never random weights.
    """
    path = Path(path)
    weights = read(path)
    if "conv_in.weight" in weights:
        net, names = _from_diffusers(weights := _modern(weights), _config(path))
        layout, colours, unsaid = "diffusers UNet2DModel", net.channels, Unsaid(interleaved=False)
    elif "out.2.weight" in weights and "input_blocks.0.0.weight" in weights:
        net, names, unsaid = _from_openai(weights, unsaid)
        layout, colours = "OpenAI U-Net", 3  # further input channels are an image that it is conditioned on
    elif "input_blocks.0.0.weight" in weights:
        raise ValueError(f"{path} is a classifier of noisy images: use classifier_from_published")
    else:
        raise _unknown(path, weights)
    _fill(net, names, weights, unsaid.interleaved, f"{path} ({layout})")
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return from_zero_based(lambda x, t: net(x, unsaid.time * t, label))(x, t)

    def eps(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return answer(x, t, label)[:, :colours]

    parameters = sum(p.numel() for p in net.parameters())
    learned = net.head.out_channels == 2 * colours
    return Published(f"{layout}, {parameters:,} parameters", net, answer, eps, learned)


def classifier_from_published(path: Path | str, head_width: int = 64) -> EpsFn:
    """A classifier of guided-diffusion from a file: x and t (B,) in 1..T to log-probabilities, for `class_score`.

    As `from_published`. In all published ones heads have 64 channels, and the lowest level has attention: it must.
    """
    path = Path(path)
    weights = read(path)
    if "out.2.qkv_proj.weight" not in weights:
        raise _unknown(path, weights)
    net, names = _from_openai_classifier(weights, head_width)
    _fill(net, names, weights, True, f"{path} (OpenAI classifier)")
    return from_zero_based(net)


# --- files


def read(path: Path) -> Weights:
    """The tensors of a file by name, in float32. ValueError for other content, above all for a pickle with code."""
    if not path.is_file():
        raise ValueError(f"no file {path}: download the weights first; nothing is fetched here")
    if path.suffix == ".safetensors":
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    elif path.suffix in (".pt", ".pth", ".bin"):
        try:
            weights = torch.load(path, weights_only=True, map_location="cpu")
        except pickle.UnpicklingError as error:
            wanted = re.search(r"GLOBAL (\S+)", str(error))
            what = f"wants to call {wanted[1]}" if wanted else "is damaged, or holds more than tensors"
            raise ValueError(f"{path} is refused: its pickle {what}; weights are tensors and nothing else") from error
        except (RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    else:
        raise ValueError(f"{path.name}: weights lie in files .safetensors, .pt, .pth or .bin")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} must hold tensors by name and nothing else, not a checkpoint of a whole training")
    return {name: value.float() for name, value in weights.items()}


def _config(path: Path) -> dict[str, Any]:
    """config.json beside the file: padding, eps, heads and the order of sinusoids are in no tensor."""
    beside = path.with_name("config.json")
    if not beside.is_file():
        raise ValueError(
            f"{path} has diffusers' layout: put its config.json beside it (eps and heads are in no tensor)"
        )
    config: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    return config


def _unknown(path: Path, weights: Weights) -> ValueError:
    return ValueError(
        f"{path} has no layout that is known here: it begins with {', '.join(sorted(weights)[:3]) or 'nothing'}; known "
        "are diffusers' UNet2DModel, OpenAI's U-Net (improved-diffusion, guided-diffusion) and its classifier"
    )


def _fill(net: nn.Module, names: Names, weights: Weights, interleaved: bool, where: str) -> None:
    """Put each tensor in its place, for inference; ValueError that names those without one."""
    found: Weights = {}
    left, wrong = set(weights), []
    for key, ours in net.state_dict().items():
        module, kind = key.rsplit(".", 1)
        sources = [f"{name}.{kind}" for name in names[module]]
        left -= set(sources)
        if missing := [name for name in sources if name not in weights]:
            wrong.append(f"{missing[0]}: expected {tuple(ours.shape)}, found no such tensor")
            continue
        value = torch.cat([weights[name] for name in sources])
        if _core(value) != _core(ours):
            wrong.append(f"{sources[0]}: expected {tuple(ours.shape)}, found {tuple(value.shape)}")
            continue
        if interleaved and module.endswith(".attention.qkv"):
            attention = cast(Attention, net.get_submodule(module.removesuffix(".qkv")))
            value = value.view(attention.heads, 3, -1, *value.shape[1:]).transpose(0, 1)
        found[key] = value.reshape(ours.shape)
    wrong += [f"{name}: expected no such tensor, found {tuple(weights[name].shape)}" for name in sorted(left)]
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"{where} does not fit: {'; '.join(wrong[:4])}{more}")
    net.load_state_dict(found, assign=True)
    net.eval().requires_grad_(False)


def _core(tensor: Tensor) -> tuple[int, ...]:
    """The shape without trailing ones: 1 x 1 convolutions lie in some files as matrices, or in 1-D."""
    shape = list(tensor.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _shape(weights: Weights, name: str) -> torch.Size:
    """The shape of a tensor that tells a size."""
    if name not in weights:
        raise ValueError(
            f"tensor {name!r}, which tells a size, is missing: is the file whole, and of a layout known here?"
        )
    return weights[name].shape


# --- OpenAI's names

RESIDUAL: Names = {
    "norm1": ("in_layers.0",),
    "conv1": ("in_layers.2",),
    "condition": ("emb_layers.1",),
    "norm2": ("out_layers.0",),
    "conv2": ("out_layers.3",),
    "skip": ("skip_connection",),
}
ATTENTION: Names = {"norm": ("norm",), "qkv": ("qkv",), "out": ("proj_out",)}


def _parts(ours: str, theirs: str, parts: Names) -> Names:
    return {f"{ours}.{part}": tuple(f"{theirs}.{name}" for name in names) for part, names in parts.items()}


def _step(ours: str, theirs: str) -> Names:
    """Of a residual block and its attention, whether it has one or not."""
    return _parts(f"{ours}.block", f"{theirs}.0", RESIDUAL) | _parts(f"{ours}.attention", f"{theirs}.1", ATTENTION)


def _resizing(ours: str, theirs: str, conv: str, parts: Names) -> Names:
    """Of a step between levels, as a convolution and as a residual block."""
    return {ours: (f"{theirs}.{conv}",)} | _parts(ours, theirs, parts)


def _ends() -> Names:
    """Of the embeddings, the stem, the middle and the last normalisation."""
    names: Names = {ours: (theirs,) for ours, theirs in (("time.0", "time_embed.0"), ("time.2", "time_embed.2"))}
    names |= {"label": ("label_emb",), "stem": ("input_blocks.0.0",), "norm": ("out.0",)}
    names |= _parts("middle.0.block", "middle_block.0", RESIDUAL)
    names |= _parts("middle.0.attention", "middle_block.1", ATTENTION)
    return names | _parts("middle.1.block", "middle_block.2", RESIDUAL)


def _way_down(weights: Weights, blocks: int) -> tuple[list[int], list[int]]:
    """Widths, and the levels with attention, of so many blocks a level and a resizing step between two."""
    starts = [f"input_blocks.{n}" for n in range(1, _count(weights, "input_blocks"), blocks + 1)]
    widths = [_shape(weights, f"{start}.0.in_layers.2.weight")[0] for start in starts]
    return widths, [i for i, start in enumerate(starts) if f"{start}.1.qkv.weight" in weights]


def _from_openai(weights: Weights, unsaid: Unsaid | None) -> tuple[UNet, Names, Unsaid]:
    """The network that such tensors belong to, without weights, and where they go."""
    grown = re.compile(r"output_blocks\.(\d+)\.(?:1\.in_layers|1\.conv|2\.)")  # what makes the map larger ends a level
    ends = [int(found[1]) for name in weights if (found := grown.match(name))]
    blocks = min(ends, default=_count(weights, "output_blocks") - 1)
    widths, attention = _way_down(weights, blocks)
    residual = not any(name.endswith(".op.weight") for name in weights)
    unsaid = unsaid or KNOWN.get((tuple(widths), tuple(attention), residual))
    if unsaid is None:
        raise ValueError(
            f"no published network has widths {widths} and attention at levels {attention}: no tensor tells its heads, "
            "so hand over `unsaid`"
        )
    with torch.device("meta"):
        net = UNet(
            _shape(weights, "input_blocks.0.0.weight")[1],
            widths,
            attention,
            blocks,
            heads=unsaid.heads,
            head_width=unsaid.head_width,
            classes=len(weights.get("label_emb.weight", ())),
            null_label=False,
            groups=32,
            out_channels=_shape(weights, "out.2.weight")[0],
            embed=improved_time_embedding,
            embedding=_shape(weights, "time_embed.0.weight")[1],
            scale_shift=_shape(weights, "input_blocks.1.0.emb_layers.1.weight")[0] == 2 * widths[0],
            residual_resampling=residual,
        )
    names, n, ups = _ends() | {"head": ("out.2",)}, count(1), count()
    for i in range(len(widths)):
        if i > 0:
            names |= _resizing(f"shrink.{i - 1}", f"input_blocks.{next(n)}.0", "op", RESIDUAL)
        for j in range(blocks):
            names |= _step(f"down.{i}.{j}", f"input_blocks.{next(n)}")
    for i in range(len(widths)):  # 0 is the lowest
        for j in range(blocks + 1):
            theirs = f"output_blocks.{next(ups)}"
            names |= _step(f"up.{i}.{j}", theirs)
        place = 1 + (len(widths) - 1 - i in attention)
        names |= _resizing(f"grow.{i}", f"{theirs}.{place}", "conv", RESIDUAL)
    return net, names, unsaid


def _from_openai_classifier(weights: Weights, head_width: int) -> tuple[NoisyClassifier, Names]:
    """The same for a classifier. By name a step between levels is a block; but only blocks have attention."""
    total = _count(weights, "input_blocks")
    attentive = [f"input_blocks.{n}.1.qkv.weight" in weights for n in range(1, total)]
    blocks = len(list(takewhile(bool, reversed(attentive))))
    if blocks == 0 or total % (blocks + 1):
        raise ValueError("a classifier's lowest level must have attention in all blocks: nothing else tells its levels")
    widths, attention = _way_down(weights, blocks)
    side = math.isqrt(_shape(weights, "out.2.positional_embedding")[1] - 1)
    with torch.device("meta"):
        net = NoisyClassifier(
            _shape(weights, "input_blocks.0.0.weight")[1],
            _shape(weights, "out.2.c_proj.weight")[0],
            side * 2 ** (len(widths) - 1),
            widths,
            attention,
            blocks,
            head_width,
            groups=32,
            embed=improved_time_embedding,
            embedding=_shape(weights, "time_embed.0.weight")[1],
        )
    weights["out.2.positions"] = weights.pop("out.2.positional_embedding").T.contiguous()  # ours: (positions, channels)
    names = _ends() | {"pool": ("out.2",), "pool.qkv": ("out.2.qkv_proj",), "pool.out": ("out.2.c_proj",)}
    for n in range(1, total):
        ours, theirs = f"down.{n - 1}", f"input_blocks.{n}"
        names |= _step(ours, theirs) | _parts(ours, f"{theirs}.0", RESIDUAL)
    return net, names


def _count(weights: Weights, blocks: str) -> int:
    """How many of them there are, counted from 0; ValueError for none."""
    numbers = [int(name.split(".")[1]) for name in weights if name.startswith(f"{blocks}.")]
    if not numbers:
        raise ValueError(f"no tensor is named {blocks}.0 and so on: the file is incomplete, or of another network")
    return 1 + max(numbers)


# --- diffusers' names

RESNET: Names = {
    "norm1": ("norm1",),
    "conv1": ("conv1",),
    "condition": ("time_emb_proj",),
    "norm2": ("norm2",),
    "conv2": ("conv2",),
    "skip": ("conv_shortcut",),
}
TO_QKV: Names = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",)}
OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
SETTINGS: dict[str, Any] = {  # of UNet2DModel where config.json is silent, and what they must be here
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "act_fn": "silu",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "class_embed_type": None,
    "add_attention": True,
}
SINUSOIDS: dict[tuple[bool, float], Embed] = {(False, 1): time_embedding, (True, 0): improved_time_embedding}


def _modern(weights: Weights) -> Weights:
    """The tensors of old files by the names of today."""
    for old, new in OLD.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    return weights


def _from_diffusers(weights: Weights, config: Mapping[str, Any]) -> tuple[UNet, Names]:
    """The network that such tensors and config.json belong to, without weights, and where the tensors go."""
    groups = config.get("norm_num_groups", 32)
    in_the_middle = {"attn_norm_num_groups": groups} if config.get("attn_norm_num_groups") else {}
    for name, needed in (SETTINGS | in_the_middle).items():
        if config.get(name, needed) != needed:
            raise ValueError(f"config.json has {name} = {config[name]!r}: only {needed!r} is known here")
    sinusoids = (config.get("flip_sin_to_cos", True), config.get("freq_shift", 0))
    if sinusoids not in SINUSOIDS:
        raise ValueError(f"config.json has flip_sin_to_cos, freq_shift = {sinusoids}: known are {list(SINUSOIDS)}")
    levels = _count(weights, "down_blocks")
    firsts = [f"down_blocks.{i}.resnets.0" for i in range(levels)]
    blocks = len([name for name in weights if re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1\.weight", name)])
    widths = [_shape(weights, f"{first}.conv1.weight")[0] for first in firsts]
    attention = [i for i in range(levels) if f"down_blocks.{i}.attentions.0.to_q.weight" in weights]
    residual = "down_blocks.0.downsamplers.0.conv1.weight" in weights
    head_width = config.get("attention_head_dim", 8)
    with torch.device("meta"):
        net = UNet(
            _shape(weights, "conv_in.weight")[1],
            widths,
            attention,
            blocks,
            heads=0 if head_width else 1,
            head_width=head_width or 1,
            classes=len(weights.get("class_embedding.weight", ())),
            null_label=False,
            groups=groups,
            out_channels=_shape(weights, "conv_out.weight")[0],
            embed=SINUSOIDS[sinusoids],
            embedding=_shape(weights, "time_embedding.linear_1.weight")[1],
            scale_shift=_shape(weights, f"{firsts[0]}.time_emb_proj.weight")[0] == 2 * widths[0],
            residual_resampling=residual,
            asymmetric=not residual and config.get("downsample_padding", 1) == 0,
            eps=config.get("norm_eps", 1e-5),
        )
    names: Names = {"time.0": ("time_embedding.linear_1",), "time.2": ("time_embedding.linear_2",)}
    names |= {"label": ("class_embedding",), "stem": ("conv_in",), "norm": ("conv_norm_out",), "head": ("conv_out",)}
    places = [(f"middle.{j}", "mid_block", j) for j in (0, 1)]
    places += [(f"down.{i}.{j}", f"down_blocks.{i}", j) for i in range(levels) for j in range(blocks)]
    places += [(f"up.{i}.{j}", f"up_blocks.{i}", j) for i in range(levels) for j in range(blocks + 1)]
    for ours, theirs, j in places:
        names |= _parts(f"{ours}.block", f"{theirs}.resnets.{j}", RESNET)
        names |= _parts(f"{ours}.attention", f"{theirs}.attentions.{j}", TO_QKV)
    for i in range(levels):
        names |= _resizing(f"shrink.{i}", f"down_blocks.{i}.downsamplers.0", "conv", RESNET)
        names |= _resizing(f"grow.{i}", f"up_blocks.{i}.upsamplers.0", "conv", RESNET)
    return net, names
