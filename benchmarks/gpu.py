"""The U-Net beside diffusers' on a GPU: images/s of DDPM's network for CIFAR-10, and the share of the chip's peak.

    python benchmarks/gpu.py

Some minutes; writes gpu.md beside this file. Without a GPU it says so and does nothing. Where it does not know the
chip's peak, give it: --peak 312, in 10^12 bfloat16 operations a second, dense, by the maker's data sheet.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from measure import in_turns, machine, table, work
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from unet import NETWORKS, ask, noise

ROUNDS, BATCH = 20, 128  # the batch is DDPM's
PEAKS = {"H200": 989.5, "H100 80GB HBM3": 989.5, "A100": 312.0}  # by a part of the chip's name


def in_bf16(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """The answer, its products computed in bfloat16."""
    with torch.autocast(x.device.type, torch.bfloat16):
        answer = ask(net, x, t)
    return answer.float()


def operations(what: str, device: str) -> int:
    """Multiplications and additions that an image takes: of convolutions, matrix products and attention."""
    run = work(what, ask, NETWORKS["here"]().to(device), *noise(1, device))
    with FlopCounterMode(display=False) as counted:
        run()
    return counted.get_total_flops()


def images_per_second(what: str, device: str, batch: int, rounds: int) -> dict[str, float]:
    """Of both networks, as they are and through torch.compile; the first round, which compiles, is left out."""

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    runs = {}
    for name, make in NETWORKS.items():
        plain, compiled = (make().to(device, memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
        runs[name] = work(what, in_bf16, plain, *noise(batch, device))
        runs[f"{name}, compiled"] = work(what, in_bf16, torch.compile(compiled), *noise(batch, device))  # type: ignore[arg-type]
    spent = in_turns(runs, rounds, what, clock)
    return {name: batch / statistics.median(seconds) for name, seconds in spent.items()}


def rows(what: str, device: str, peak: float, batch: int = BATCH, rounds: int = ROUNDS) -> list[list[str]]:
    """Lines of the table, each network's images/s over diffusers' with the same treatment first."""
    rates, cost = images_per_second(what, device, batch, rounds), operations(what, device)
    lines = []
    for name, rate in rates.items():
        ratio = rate / rates[name.replace("here", "diffusers")]
        lines.append([what, name, f"{ratio:.2f}", f"{rate:,.0f}", f"{100 * rate * cost / peak / 1e12:.1f}%"])
    return lines


TEXT = """# The U-Net beside diffusers', on a GPU

Made by `python benchmarks/gpu.py` on {chip}; {machine}. DDPM's network for CIFAR-10, 35,746,307 parameters on both
sides, dropout 0.1, batch {batch}, products in bfloat16 and weights in float32, channels last in memory on both sides.
Medians of {rounds} rounds in which the networks take turns; a training step is an answer, its gradients and Adam's
step. The ratio is to diffusers with the same treatment. The peak is {peak:g} TFLOP/s by the chip's data sheet.

{table}
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=float, help="of the chip, in TFLOP/s, bfloat16, dense")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU that torch can use: nothing is measured.")
        return
    chip = torch.cuda.get_device_name()
    peak = options.peak or next((peak for name, peak in PEAKS.items() if name in chip), None)
    if peak is None:
        parser.error(f"the peak of {chip} is not known here: give --peak, see --help")
    lines = [line for what in ("forward", "training step") for line in rows(what, "cuda", peak)]
    heads = ["work", "network", "images/s over diffusers'", "images/s", "share of the peak"]
    page = TEXT.format(
        chip=chip, machine=machine("diffusers"), batch=BATCH, rounds=ROUNDS, peak=peak, table=table(heads, lines)
    )
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
