"""The U-Net beside diffusers': time and memory of DDPM's network for CIFAR-10; writes unet.md beside this file.

    python benchmarks/unet.py

Four minutes of one core, on Linux. The networks have the same 35,746,307 parameters, and take turns, so that what
else the machine does hits both alike.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_path.unet import ddpm_cifar10

ROUNDS, BATCH = 20, 1
Ask = Callable[[Tensor, Tensor], Tensor]


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


def asked(net: nn.Module) -> Ask:
    """The answer as a tensor."""
    return lambda x, t: getattr(found := net(x, t), "sample", found)


def forward(net: nn.Module, x: Tensor, t: Tensor) -> None:
    """An answer, without gradients."""
    with torch.no_grad():
        asked(net.eval())(x, t)


def train(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, t: Tensor) -> None:
    """A training step: answer, gradients, Adam."""
    loss = (asked(net.train())(x, t) - x).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def seconds() -> tuple[str, str]:
    """Rows of the table for both kinds of work."""
    x, t = torch.randn(BATCH, 3, 32, 32), torch.full((BATCH,), 500)
    nets = {name: make() for name, make in NETWORKS.items()}
    assert {sum(p.numel() for p in net.parameters()) for net in nets.values()} == {35_746_307}
    rows = []
    for what in ("forward", "training step"):
        runs = {name: partial(forward, net, x, t) for name, net in nets.items()}
        if what == "training step":
            adam = {name: torch.optim.Adam(net.parameters(), lr=1e-5) for name, net in nets.items()}
            runs = {name: partial(train, net, adam[name], x, t) for name, net in nets.items()}
        spent: dict[str, list[float]] = {name: [] for name in nets}
        for i in tqdm(range(ROUNDS + 1), desc=what):
            for name in list(nets)[:: 1 if i % 2 else -1]:
                began = time.process_time()
                runs[name]()
                spent[name].append(time.process_time() - began)
        medians = {name: statistics.median(times[1:]) for name, times in spent.items()}
        rows.append(row(what, medians, "{:.2f} s"))
    return rows[0], rows[1]


def row(what: str, values: dict[str, float], form: str) -> str:
    """A line: both values, and ours over theirs."""
    cells = [*(form.format(value) for value in values.values()), f"{values['here'] / values['diffusers']:.2f}"]
    line = f"| {what} | " + " | ".join(cells) + " |"
    print(line, flush=True)
    return line


def peak(name: str, what: str) -> float:
    """MiB that a process of its own takes at its peak beyond what the imports took."""
    done = subprocess.run([sys.executable, __file__, "--peak", name, what], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_peak(name: str, what: str) -> None:
    """Print that number for this process."""
    before = high_water()
    net, x, t = NETWORKS[name](), torch.randn(8, 3, 32, 32), torch.full((8,), 500)
    run = partial(forward, net, x, t)
    if what == "training step":
        run = partial(train, net, torch.optim.Adam(net.parameters()), x, t)
    run()
    run()
    print(high_water() - before)


def high_water() -> float:
    """The most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


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
        measure_peak(*arguments.peak)
        return
    rows = list(seconds())
    for what in ("forward", "training step"):
        rows.append(row(f"memory, {what}", {name: peak(name, what) for name in NETWORKS}, "{:.0f} MiB"))
    page = TEXT.format(
        torch=torch.__version__, threads=torch.get_num_threads(), rounds=ROUNDS, batch=BATCH, rows="\n".join(rows)
    )
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
