"""Guidance over its scale, on the digits and on MNIST; writes guidance.md beside this file.

    python benchmarks/guidance.py

An hour on one core, most of it MNIST's (whose files are wanted: see data/README.md). Samples are kept in
build/guidance/, and a run that was stopped goes on where it was.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_path.guidance import clip_x0, guided_network, threshold_x0, within
from ddpm_path.lab import zoo
from ddpm_path.lab.files import replacing
from ddpm_path.losses import Network
from ddpm_path.samplers import decode, start_noise
from ddpm_path.schedule import EpsFn, Schedule, uniform_times

HERE = Path(__file__).parent
KEPT = HERE.parent / "build" / "guidance"
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
SAMPLES, STEPS = {"digits": 2000, "mnist": 500}, 10
Guided = Callable[[Network, Schedule, Tensor], EpsFn]
"""A row of the table: a network, its schedule and labels (B,) to what the sampler asks."""


def free(net: Network, schedule: Schedule, labels: Tensor, scale: float) -> EpsFn:
    """Classifier-free guidance; at scale 1 the conditional model itself, in one call."""
    return partial(net if scale == 1 else guided_network(net, 10, scale), label=labels)


def clipped(guided: Callable[..., EpsFn], **scale: float) -> Guided:
    """A row that clips what guidance makes of x_0."""
    return lambda net, schedule, labels: clip_x0(guided(net, schedule, labels, **scale), schedule)


def dynamic(net: Network, schedule: Schedule, labels: Tensor) -> EpsFn:
    """Scale 8 with Imagen's thresholding."""
    return threshold_x0(free(net, schedule, labels, 8.0), schedule)


def in_interval(net: Network, schedule: Schedule, labels: Tensor) -> EpsFn:
    """Scale 4 at the middle noise levels."""
    plain = partial(net, label=labels)
    return clip_x0(within(free(net, schedule, labels, 4.0), plain, schedule, 0.28, 2.9), schedule)


ROWS: dict[str, Guided] = {
    **{f"scale {scale:g}": clipped(free, scale=scale) for scale in SCALES},
    "scale 8, dynamic thresholding": dynamic,
    "scale 4 in [0.28, 2.9]": in_interval,
}


def draw(model: str, name: str, part: int = 20) -> Tensor:
    """The samples of a row, in parts that fit a CPU's cache, and are kept."""
    net, schedule = zoo.load(model)
    n, size = SAMPLES[model], zoo.card(model)["size"]
    x, labels = start_noise(n, (1, size, size), torch.Generator().manual_seed(0)), torch.arange(n) % 10
    folder = KEPT / model / name.replace(",", "").replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for i in tqdm(range(0, n, part), desc=f"{model}, {name}"):
        path = folder / f"{i:04d}.pt"
        if not path.exists():
            eps_fn = ROWS[name](net, schedule, labels[i : i + part])
            found = decode(eps_fn, schedule, x[i : i + part], uniform_times(schedule.T, STEPS))
            with replacing(path) as temporary:
                torch.save(found, temporary)
        parts.append(torch.load(path, weights_only=True))
    return torch.cat(parts)


if __name__ == "__main__":
    import sys

    for model in sys.argv[1:]:
        for name in ROWS:
            draw(model, name)
