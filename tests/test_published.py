"""Published layouts, read: against diffusers, by a second map written here, from a list of public names.

No published file is at hand: weights are random, names and shapes are the published ones.
"""

import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention as TheirAttention
from helpers import seeded
from safetensors.torch import save_file
from torch import nn

from ddpm_path import unet
from ddpm_path.lab import published, zoo
from ddpm_path.lab.published import KNOWN, Unsaid

CIFAR10 = {  # config.json of google/ddpm-cifar10-32, as far as it says something
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}
ADM = {  # ADM's choices, small
    "sample_size": 16,
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 32,
    "attn_norm_num_groups": 32,
    "out_channels": 6,
    "num_class_embeds": 10,
}
IMPROVED = ADM | {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_type": "conv",
    "upsample_type": "conv",
    "num_class_embeds": None,
}
SMALL = Unsaid(head_width=32)


def listed(title):
    """Names and shapes of a network from the committed list."""
    text = (Path(__file__).parent / "openai_layouts.txt").read_text()
    lines = text.split(f"[{title}]\n")[1].split("\n[")[0].splitlines()
    return {name: tuple(map(int, sizes)) for name, *sizes in (line.split() for line in lines)}


def drawn(shapes, seed=0):
    """Random weights of such names: no branch is silent, values stay near 1."""
    generator, weights = seeded(seed), {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
        weights[name] = scale * torch.randn(shape, generator=generator)
        if len(shape) == 1 and name.endswith("weight"):  # of a normalisation
            weights[name] += 1
    return weights


def theirs_of(config, seed=0):
    """A diffusers model with all weights drawn anew."""
    model = UNet2DModel.from_config(config | {"_class_name": "UNet2DModel"}).eval().requires_grad_(False)
    model.load_state_dict(drawn({name: value.shape for name, value in model.state_dict().items()}, seed))
    return model


def inputs(size=16, classes=0, n=2):
    generator = seeded(5)
    x = torch.randn(n, 3, size, size, generator=generator)
    return x, torch.tensor([1.0, 777.0])[:n], torch.tensor([3, 0])[:n] if classes else None


def share_embedding(net, model):
    """Feed one embedding of time to both, so that float64 is not spoilt by sinusoids in float32."""
    fixed = torch.randn(2, model.conv_in.out_channels, generator=seeded(9), dtype=torch.float64)
    net.embed = lambda t, dim: fixed
    model.time_proj = type("Fixed", (nn.Module,), {"forward": lambda self, t: fixed})()


def in_double(net, model, size, labels=None):
    """The largest difference of two networks in float64 with one embedding."""
    share_embedding(net.double(), model.double())
    x, t, _ = inputs(size)
    own = net(x.double(), t) if labels is None else net(x.double(), t, labels)
    return float((own - model(x.double(), t, labels).sample).detach().abs().max())


# --- diffusers


def ours_to_diffusers(state, levels):
    """Names of this package's network in diffusers' words, written without a look at lab/published.py."""
    out = {}
    for key, value in state.items():
        stem = {"stem": "conv_in", "norm": "conv_norm_out", "head": "conv_out", "label": "class_embedding"}
        stem |= {"time.0": "time_embedding.linear_1", "time.2": "time_embedding.linear_2"}
        module, kind = key.rsplit(".", 1)
        if module in stem:
            out[f"{stem[module]}.{kind}"] = value
            continue
        place = module.split(".")
        if place[0] == "middle":
            block, place = f"mid_block.{{}}.{place[1]}", place[2:]
        elif place[0] in ("down", "up"):
            block, place = f"{place[0]}_blocks.{place[1]}.{{}}.{place[2]}", place[3:]
        else:
            way, what = ("down", "downsamplers") if place[0] == "shrink" else ("up", "upsamplers")
            block, place = f"{way}_blocks.{place[1]}.{what}.0", ["block", *place[2:]]
        if place == ["block"]:
            out[f"{block}.conv.{kind}"] = value
        elif place[0] == "block":
            part = {"condition": "time_emb_proj", "skip": "conv_shortcut"}.get(place[1], place[1])
            out[f"{block.format('resnets')}.{part}.{kind}"] = value
        elif place[1] == "qkv":
            C = value.shape[0] // 3
            for i, to in enumerate(("to_q", "to_k", "to_v")):
                rows = value[i * C : (i + 1) * C]
                out[f"{block.format('attentions')}.{to}.{kind}"] = rows[..., 0, 0] if rows.ndim == 4 else rows
        else:
            part = {"norm": "group_norm", "out": "to_out.0"}[place[1]]
            flat = value[..., 0, 0] if value.ndim == 4 else value
            out[f"{block.format('attentions')}.{part}.{kind}"] = flat
    return out


def test_ho2020_cifar10_has_35746307_parameters_as_in_diffusers():
    with torch.device("meta"):
        ours, theirs = unet.ddpm_cifar10(), UNet2DModel.from_config(CIFAR10)
    assert {sum(p.numel() for p in net.parameters()) for net in (ours, theirs)} == {35_746_307}


def test_ho2020_diffusers_network_is_read_from_its_file_and_answers_the_same(tmp_path):
    theirs = theirs_of(CIFAR10)
    theirs.save_pretrained(tmp_path)
    read = zoo.from_published(tmp_path / "diffusion_pytorch_model.safetensors")
    assert read.layout == "diffusers UNet2DModel, 35,746,307 parameters" and not read.learned_variance
    x, t, _ = inputs(16)
    right = theirs(x, t - 1).sample  # it counts levels from 0
    assert float(right.std()) > 0.3
    for ask in (read.eps, read.answer):
        torch.testing.assert_close(ask(x, t), right, atol=1e-4, rtol=0)
    assert in_double(read.net, theirs, 16) < 1e-9


def test_ho2020_our_cifar10_network_written_as_diffusers_answers_the_same():
    ours = unet.ddpm_cifar10().eval().requires_grad_(False)
    ours.load_state_dict(drawn({name: value.shape for name, value in ours.state_dict().items()}, seed=2))
    theirs = UNet2DModel.from_config(CIFAR10).eval().requires_grad_(False)
    theirs.load_state_dict(ours_to_diffusers(ours.state_dict(), 4))
    x, t, _ = inputs(32, n=1)
    torch.testing.assert_close(ours(x, t), theirs(x, t).sample, atol=1e-4, rtol=0)
    assert in_double(ours, theirs, 16) < 1e-9


def test_dhariwal2021_adm_of_diffusers_is_read_from_its_file_and_answers_the_same(tmp_path):
    theirs = theirs_of(ADM)
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    read = zoo.from_published(tmp_path / "diffusion_pytorch_model.bin")
    x, t, labels = inputs(16, 10)
    right = theirs(x, t - 1, labels).sample
    torch.testing.assert_close(read.answer(x, t, labels), right, atol=1e-4, rtol=0)
    torch.testing.assert_close(read.eps(x, t, labels), right[:, :3], atol=1e-4, rtol=0)
    assert read.learned_variance
    assert in_double(read.net, theirs, 16, labels) < 1e-9


def test_dhariwal2021_our_adm_written_as_diffusers_answers_the_same():
    ours = unet.UNet(
        3,
        (32, 64, 96),
        (1, 2),
        2,
        32,
        classes=10,
        groups=32,
        out_channels=6,
        null_label=False,
        embed=unet.improved_time_embedding,
        residual_resampling=True,
    )
    ours.load_state_dict(drawn({name: value.shape for name, value in ours.state_dict().items()}, seed=2))
    theirs = UNet2DModel.from_config(ADM).eval().requires_grad_(False)
    theirs.load_state_dict(ours_to_diffusers(ours.state_dict(), 3))
    x, t, labels = inputs(16, 10)
    torch.testing.assert_close(ours.eval()(x, t, labels), theirs(x, t, labels).sample, atol=1e-4, rtol=0)
    assert in_double(ours, theirs, 16, labels) < 1e-9


def test_the_old_names_of_attention_are_read_too(tmp_path):
    theirs = theirs_of(ADM)
    theirs.save_pretrained(tmp_path)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = theirs.state_dict()
    for word, before in new.items():
        old = {name.replace(f".{word}.", f".{before}."): value.clone() for name, value in old.items()}
    assert any(".proj_attn." in name for name in old)
    save_file(old, tmp_path / "old.safetensors")
    a, b = (zoo.from_published(tmp_path / name) for name in ("old.safetensors", "diffusion_pytorch_model.safetensors"))
    x, t, labels = inputs(16, 10)
    assert torch.equal(a.answer(x, t, labels), b.answer(x, t, labels))


# --- OpenAI


def openai_to_diffusers(weights, levels, blocks, heads, interleaved):
    """OpenAI's names in diffusers' words, without a look at lab/published.py. heads: of an attention of C channels."""
    ends = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    ends |= {"label_emb": "class_embedding", "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out"}
    ends |= {"out.2": "conv_out"}
    resnet = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj"}
    resnet |= {"out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
    resnet |= {"op": "conv", "conv": "conv"}
    out = {}
    for name, value in weights.items():
        module, kind = name.rsplit(".", 1)
        if module in ends:
            out[f"{ends[module]}.{kind}"] = value
            continue
        way, n, part = re.match(r"(input_blocks|output_blocks|middle_block)\.(\d+)\.(.*)", module).groups()
        n = int(n)
        if way == "middle_block":
            to, rest = ("mid_block.attentions.0", part) if n == 1 else (f"mid_block.resnets.{n // 2}", part)
        else:
            k, rest = part.split(".", 1)
            level, at = divmod(n - 1 if way == "input_blocks" else n, blocks + 1)
            to = f"{'down' if way == 'input_blocks' else 'up'}_blocks.{level}"
            if way == "input_blocks" and at == blocks:
                to += ".downsamplers.0"
            elif k == "0":
                to += f".resnets.{at}"
            elif rest in ("norm", "qkv", "proj_out"):
                to += f".attentions.{at}"
            else:
                to += ".upsamplers.0"
        if rest == "qkv":
            C = value.shape[0] // 3
            d = C // heads(C)
            for i, letter in enumerate("qkv"):
                rows = [
                    (3 * head + i) * d + row if interleaved else i * C + head * d + row
                    for head in range(heads(C))
                    for row in range(d)
                ]
                out[f"{to}.to_{letter}.{kind}"] = value[rows].reshape(C, C) if kind == "weight" else value[rows]
        elif rest == "proj_out":
            out[f"{to}.to_out.0.{kind}"] = value.squeeze(-1) if kind == "weight" else value
        else:
            out[f"{to}.{ {'norm': 'group_norm'}.get(rest) or resnet[rest] }.{kind}"] = value
    return out


@pytest.mark.parametrize(
    ("title", "config", "unsaid"),
    [
        ("small U-Net", ADM, Unsaid(head_width=32, interleaved=False)),
        ("small U-Net", ADM, Unsaid(head_width=32, interleaved=True)),
        ("small U-Net", ADM, Unsaid(heads=2, interleaved=True)),
        ("small improved", IMPROVED, Unsaid(heads=4)),
    ],
)
def test_openai_layout_read_by_us_and_by_a_second_map_to_diffusers_answers_the_same(tmp_path, title, config, unsaid):
    weights = drawn(listed(title))
    torch.save(weights, tmp_path / "model.pt")
    read = zoo.from_published(tmp_path / "model.pt", unsaid)
    assert read.learned_variance and read.layout.startswith("OpenAI U-Net")

    heads = lambda C: unsaid.heads or C // unsaid.head_width  # noqa: E731
    theirs = UNet2DModel.from_config(config).eval().requires_grad_(False)
    theirs.load_state_dict(openai_to_diffusers(weights, 3, 2, heads, unsaid.interleaved))
    for module in theirs.modules():
        if isinstance(module, TheirAttention):  # diffusers' configuration knows widths of heads only
            module.heads = heads(module.to_q.in_features)
    x, t, labels = inputs(16, config["num_class_embeds"])
    right = theirs(x, t - 1, labels).sample
    torch.testing.assert_close(read.answer(x, t, labels), right, atol=1e-4, rtol=0)
    torch.testing.assert_close(read.eps(x, t, labels), right[:, :3], atol=1e-4, rtol=0)
    assert in_double(read.net, theirs, 16, labels) < 1e-9


def test_nichol2021_rescaled_times_are_of_a_chain_of_1000(tmp_path):
    """T = 4,000: our t = 1 is the network's 0, our 4,000 its 999.75."""
    torch.save(drawn(listed("small improved")), tmp_path / "model.pt")
    read = zoo.from_published(tmp_path / "model.pt", Unsaid(heads=4, time=0.25))
    x, _, _ = inputs(16)
    right = read.net(x, torch.tensor([0.0, 999.75]))
    assert torch.equal(read.answer(x, torch.tensor([1.0, 4000.0])), right)


def test_a_condition_image_widens_the_input_only(tmp_path):
    """The super-resolution networks take 6 channels and answer 3 of eps and 3 of v."""
    shapes = listed("small U-Net") | {"input_blocks.0.0.weight": (32, 6, 3, 3)}
    torch.save(drawn(shapes), tmp_path / "model.pt")
    read = zoo.from_published(tmp_path / "model.pt", SMALL)
    x, t, labels = inputs(16, 10)
    assert read.eps(torch.cat([x, x], 1), t, labels).shape == x.shape and read.learned_variance


@pytest.mark.parametrize(
    ("preset", "parameters", "paper"),
    [
        (unet.improved_cifar10, 52_546_438, 50e6),
        (unet.improved_imagenet64, 121_063_942, 120e6),
        (lambda: unet.improved_imagenet64(192, 1000), 273_049_350, 270e6),
        (lambda: unet.adm(64), 295_904_454, 296e6),
        (lambda: unet.adm(128), 421_529_606, 422e6),
        (lambda: unet.adm(256), 553_838_086, 554e6),
        (lambda: unet.adm(256, 0), 552_814_086, 553e6),
        (lambda: unet.adm(512), 558_997_638, 559e6),
    ],
)
def test_published_sizes(preset, parameters, paper):
    """To the parameter as the public classes build them, and as the papers round."""
    with torch.device("meta"):
        count = sum(p.numel() for p in preset().parameters())
    assert count == parameters and abs(count / paper - 1) < 0.06


def test_the_published_network_for_64_pixels_is_known_by_its_shapes_and_is_the_preset():
    weights = {name: torch.empty(shape, device="meta") for name, shape in listed("64").items()}
    net, names, unsaid = published._from_openai(weights, None)
    published._fill(net, names, weights, unsaid.interleaved, "here")
    with torch.device("meta"):
        preset = unet.adm(64)
    shapes = {name: value.shape for name, value in preset.state_dict().items()}
    assert {name: value.shape for name, value in net.state_dict().items()} == shapes
    assert unsaid == Unsaid(heads=0, head_width=64, interleaved=False, time=1.0)


def test_the_table_of_unsaid_things_agrees_with_the_presets():
    nets = [unet.improved_cifar10, unet.improved_imagenet64, lambda: unet.improved_imagenet64(192, 1000)]
    nets += [lambda size=size: unet.adm(size) for size in unet.ADM]
    for preset in nets:
        with torch.device("meta"):
            net = preset()
        widths = tuple(stage[0].block.conv1.out_channels for stage in net.down)
        attention = tuple(i for i, stage in enumerate(net.down) if stage[0].attention is not None)
        unsaid = KNOWN[widths, attention, not isinstance(net.shrink[0], unet.Halve)]
        heads = {module.heads == (unsaid.heads or module.norm.num_channels // unsaid.head_width)
                 for module in net.modules() if isinstance(module, unet.Attention)}  # fmt: skip
        assert heads == {True}


# --- the classifier


def test_openai_classifier_is_read_and_answers_as_spelled_out(tmp_path):
    """Against guided-diffusion's arithmetic, with diffusers' blocks for the way down and the pooling by hand."""
    weights = drawn(listed("small classifier"))
    torch.save(weights, tmp_path / "classifier.pt")
    log_p = zoo.classifier_from_published(tmp_path / "classifier.pt", head_width=32)
    x, t, _ = inputs(16)
    answer = log_p(x, t)
    torch.testing.assert_close(answer.exp().sum(1), torch.ones(2))

    theirs = UNet2DModel.from_config(ADM | {"num_class_embeds": None}).eval().requires_grad_(False)
    way_down = {name: value for name, value in weights.items() if not name.startswith("out.")}
    mapped = openai_to_diffusers(way_down, 3, 2, lambda C: C // 32, True)
    missing, unexpected = theirs.load_state_dict(mapped, strict=False)
    assert not unexpected and all(re.match(r"up_blocks|conv_norm_out|conv_out", name) for name in missing)
    emb = theirs.time_embedding(theirs.time_proj(t - 1))
    h = theirs.conv_in(x)
    for block in theirs.down_blocks:
        h, _ = block(h, emb)
    h = theirs.mid_block(h, emb)  # (B, 96, 4, 4)

    h = nn.functional.silu(nn.functional.group_norm(h, 32, weights["out.0.weight"], weights["out.0.bias"], 1e-5))
    h = h.flatten(2)
    h = torch.cat([h.mean(2, keepdim=True), h], 2) + weights["out.2.positional_embedding"]  # (B, 96, 17)
    qkv = weights["out.2.qkv_proj.weight"][:, :, 0] @ h + weights["out.2.qkv_proj.bias"][:, None]
    mixed = torch.zeros_like(h)
    for head in range(3):
        q, k, v = (qkv[:, part * 96 + head * 32 :][:, :32] for part in range(3))
        mixed[:, head * 32 :][:, :32] = v @ (q.mT @ k / 32**0.5).softmax(2).mT
    logits = weights["out.2.c_proj.weight"][:, :, 0] @ mixed + weights["out.2.c_proj.bias"][:, None]
    torch.testing.assert_close(answer, logits[:, :, 0].log_softmax(1), atol=1e-4, rtol=0)


# --- refusals


class Bomb:
    """A pickle that calls a function when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path, suffix):
    path, proof = tmp_path / f"model{suffix}", tmp_path / "ran"
    torch.save({"input_blocks.0.0.weight": Bomb(proof)}, path)
    with pytest.raises(ValueError, match=r"is refused: its pickle wants to call \w+\.mkdir; weights are tensors"):
        zoo.from_published(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the bomb is live
    assert proof.exists()


def test_files_that_are_no_weights_are_refused(tmp_path):
    for name, words in (
        ("model.pt", "is refused|damaged"),
        ("model.safetensors", "not a safetensors"),
        ("model.npz", r"\.pth"),
    ):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=words):
            zoo.from_published(tmp_path / name)
    with pytest.raises(ValueError, match="no file"):
        zoo.from_published(tmp_path / "nothing.pt")
    torch.save({"model": {"a": torch.ones(1)}, "step": 5}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="not a checkpoint of a whole training"):
        zoo.from_published(tmp_path / "run.pt")


def test_weights_of_another_architecture_are_named(tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 3)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no layout that is known here: it begins with 0\.bias, 0\.weight"):
        zoo.from_published(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no layout that is known here"):
        zoo.classifier_from_published(tmp_path / "other.pt")
    with torch.random.fork_rng():
        text = UNet2DConditionModel(
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=8,
        )
    text.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json has mid_block_type = 'UNetMidBlock2DCrossAttn'"):
        zoo.from_published(tmp_path / "diffusion_pytorch_model.safetensors")


def test_a_tensor_that_is_missing_left_over_or_of_another_shape_is_named(tmp_path):
    good, path = drawn(listed("small U-Net")), tmp_path / "model.pt"
    name = "output_blocks.3.1.proj_out.weight"
    for weights, words in (
        ({k: v for k, v in good.items() if k != name}, rf"{name}: expected \(64, 64, 1, 1\), found no such tensor"),
        (good | {name: good[name][:32]}, rf"{name}: expected \(64, 64, 1, 1\), found \(32, 64, 1\)"),
        (good | {"extra.weight": torch.ones(2)}, r"extra\.weight: expected no such tensor, found \(2,\)"),
        (good | {f"more.{i}": torch.ones(2) for i in range(9)}, r"more\.0.*and 5 more"),
    ):
        torch.save(weights, path)
        with pytest.raises(ValueError, match=words):
            zoo.from_published(path, SMALL)
    torch.save({k: v for k, v in good.items() if k != "time_embed.0.weight"}, path)
    with pytest.raises(ValueError, match=r"'time_embed\.0\.weight', which tells a size, is missing"):
        zoo.from_published(path, SMALL)


def test_an_openai_network_of_unknown_heads_wants_them(tmp_path):
    torch.save(drawn(listed("small U-Net")), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"no published network has widths \[32, 64, 96\] .* hand over `unsaid`"):
        zoo.from_published(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="divisible"):
        zoo.from_published(tmp_path / "model.pt", Unsaid(head_width=48))


def test_a_u_net_is_no_classifier_and_the_other_way_round(tmp_path):
    torch.save(drawn(listed("small U-Net")), tmp_path / "model.pt")
    torch.save(drawn(listed("small classifier")), tmp_path / "classifier.pt")
    with pytest.raises(ValueError, match="use classifier_from_published"):
        zoo.from_published(tmp_path / "classifier.pt")
    with pytest.raises(ValueError, match="no layout that is known here"):
        zoo.classifier_from_published(tmp_path / "model.pt")


def test_diffusers_layout_wants_a_config_that_is_understood(tmp_path):
    model = UNet2DModel.from_config(ADM)
    model.save_pretrained(tmp_path)
    path, beside = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    config = json.loads(beside.read_text())
    for changes, words in (
        ({"act_fn": "gelu"}, "act_fn = 'gelu': only 'silu'"),
        ({"mid_block_scale_factor": 1.4}, "mid_block_scale_factor = 1.4"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ({"attn_norm_num_groups": 16}, "attn_norm_num_groups = 16"),
        ({"freq_shift": 1}, "flip_sin_to_cos, freq_shift"),
    ):
        beside.write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=words):
            zoo.from_published(path)
    beside.unlink()
    with pytest.raises(ValueError, match=r"put its config\.json beside it"):
        zoo.from_published(path)
