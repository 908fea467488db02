"""The U-Net beside diffusers': time and memory of DDPM's network for CIFAR-10; writes unet.md beside this file.

    python benchmarks/unet.py

Four minutes of one core, on Linux. The networks have the same 35,746,307 parameters, and take turns, so that what
else the machine does hits both alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DModel
from measure import growth, in_turns, peak, work
from torch import Tensor, nn

from ddpm_path.unet import ddpm_cifar10

ROUNDS, BATCH = 20, 1


def theirs() -> nn.Module:
    """The configuration of google/ddpm-cifar10-32, with the paper's dropout."""
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        dropout=0.1,
    )


def ours() -> nn.Module:
    """Ours, with its weights in the memory format that spares attention its copies."""
    return ddpm_cifar10().to(memory_format=torch.channels_last)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"here": ours, "diffusers": theirs}


def ask(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """The answer as a tensor."""
    return getattr(found := net(x, t), "sample", found)


def noise(batch: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """What a network is asked: images and times."""
    return torch.randn(batch, 3, 32, 32, device=device), torch.full((batch,), 500, device=device)


def seconds() -> tuple[str, str]:
    """Rows of the table for both kinds of work."""
    nets = {name: make() for name, make in NETWORKS.items()}
    assert {sum(p.numel() for p in net.parameters()) for net in nets.values()} == {35_746_307}
    rows = []
    for what in ("forward", "training step"):
        runs = {name: work(what, ask, net, *noise(BATCH)) for name, net in nets.items()}
        spent = in_turns(runs, ROUNDS, what, time.process_time)
        rows.append(row(what, {name: statistics.median(times) for name, times in spent.items()}, "{:.2f} s"))
    return rows[0], rows[1]


def row(what: str, values: dict[str, float], form: str) -> str:
    """A line: both values, and ours over theirs."""
    cells = [*(form.format(value) for value in values.values()), f"{values['here'] / values['diffusers']:.2f}"]
    line = f"| {what} | " + " | ".join(cells) + " |"
    print(line, flush=True)
    return line


TEXT = """# The U-Net beside diffusers'

Made by `python benchmarks/unet.py`; torch {torch}, {threads} thread(s). DDPM's network for CIFAR-10, 35,746,307
parameters on both sides, dropout 0.1. Seconds are of processor time, medians of {rounds} rounds in which the networks
take turns, batch {batch}; ours lies in memory with channels last. Memory is what a process of its own takes at its
peak beyond its imports, batch 8. A training step is an answer, its gradients and Adam's step.

| | here | diffusers | ratio |
| --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "WORK"), help="print one measurement of memory")
    arguments = parser.parse_args()
    if arguments.peak:
        name, what = arguments.peak
        print(growth(lambda: work(what, ask, NETWORKS[name](), *noise(8))))
        return
    rows = list(seconds())
    for what in ("forward", "training step"):
        rows.append(row(f"memory, {what}", {name: peak(__file__, name, what) for name in NETWORKS}, "{:.0f} MiB"))
    page = TEXT.format(
        torch=torch.__version__, threads=torch.get_num_threads(), rounds=ROUNDS, batch=BATCH, rows="\n".join(rows)
    )
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
