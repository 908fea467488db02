"""What the benchmarks share: work, time in turns, peak memory, kept samples, the machine, tables."""

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_path.lab import zoo
from ddpm_path.lab.files import replacing

Ask = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A network, images and times to its answer."""


def forward(ask: Ask, net: nn.Module, x: Tensor, t: Tensor) -> None:
    """An answer, without gradients."""
    with torch.no_grad():
        ask(net.eval(), x, t)


def training_step(ask: Ask, net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, t: Tensor) -> None:
    """A training step: answer, gradients, and the optimiser's."""
    loss = (ask(net.train(), x, t) - x).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def work(what: str, ask: Ask, net: nn.Module, x: Tensor, t: Tensor) -> Callable[[], None]:
    """One of the two, `forward` or `training step`, with Adam."""
    if what == "forward":
        return partial(forward, ask, net, x, t)
    return partial(training_step, ask, net, torch.optim.Adam(net.parameters(), lr=1e-5), x, t)


def in_turns(
    runs: dict[str, Callable[[], object]], rounds: int, label: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run in each round; a first round is left out, and every other one goes backwards."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for i in tqdm(range(rounds + 1), desc=label):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            began = clock()
            runs[name]()
            spent[name].append(clock() - began)
    return {name: times[1:] for name, times in spent.items()}


def peak(script: str, *arguments: str) -> float:
    """The number that `script --peak arguments` prints in a process of its own."""
    command = [sys.executable, script, "--peak", *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def growth(make: Callable[[], Callable[[], object]]) -> float:
    """MiB by which the most memory that this process has held grows while work is made and done twice (Linux)."""
    before = high_water()
    run = make()
    run()
    run()
    return high_water() - before


def high_water() -> float:
    """The most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """What was made before, or is made now and kept, whole or not at all."""
    if not path.exists():
        with replacing(path) as part:
            torch.save(make(), part)
    result: Tensor = torch.load(path, weights_only=True)
    return result


def weights(*models: str) -> str:
    """What tells the weights of these shipped models from others of the same names."""
    return "-".join(zoo.card(model)["sha256"][:8] for model in models)


def machine(*packages: str) -> str:
    """Processor, threads, and versions."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8") if info.exists() else "")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    return f"{named[1] if named else platform.machine()}, {torch.get_num_threads()} thread(s); {versions}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
