"""Figures: image grids, schedules, trajectories, loss by noise level. Each answers a matplotlib Figure."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_path.lab.datasets import to_display
from ddpm_path.schedule import Schedule

COLOURS = ("#3465a4", "#e07b00", "#3a923a", "#c03d3e", "#8868b0", "#6b6b6b")
mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=COLOURS)  # type: ignore[attr-defined]
mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 80, "legend.frameon": False}


def grid(images: Tensor, columns: int = 10, titles: Sequence[str] = (), zoom: float = 1.0) -> Figure:
    """Images (N, C, H, W) in [-1, 1] as a grid, row by row; `titles` stand over the columns."""
    N, C, H, W = images.shape
    rows = -(-N // columns)
    pixels = to_display(images.cpu())
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=255)  # a thin frame tells images apart
    blank = padded.new_full((rows * columns - N, C, H + 2, W + 2), 255)
    sheet = rearrange(torch.cat([padded, blank]), "(r c) k h w -> (r h) (c w) k", c=columns).numpy()
    width = min(10.0, 0.75 * columns) * zoom
    figure = Figure(figsize=(width, width * sheet.shape[0] / sheet.shape[1] + (0.25 if titles else 0)), layout="tight")
    axes = figure.subplots()
    axes.imshow(sheet[..., 0] if C == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    for i, title in enumerate(titles):
        axes.text((i + 0.5) * (W + 2), -2, title, ha="center", va="bottom", fontsize=8)
    return figure


def schedules(named: Mapping[str, Schedule]) -> Figure:
    """For each schedule, the signal's and the noise's share over time, and log10(std / scale)."""
    figure = Figure(figsize=(9, 3), layout="tight")
    left, right = figure.subplots(1, 2)
    for colour, (name, schedule) in zip(COLOURS, named.items(), strict=False):
        t = torch.linspace(1, schedule.T, 400) if schedule.T > 1 else torch.linspace(1e-3, 1, 400)
        scale, std = schedule(t)
        left.plot(t / schedule.T, scale, color=colour, label=f"{name}: scale")
        left.plot(t / schedule.T, std, color=colour, linestyle="--", label=f"{name}: std")
        right.plot(t / schedule.T, (std / scale).log10(), color=colour, label=name)
    left.set(xlabel="t / T", title="how much data (line) and noise (dashes)")
    right.set(xlabel="t / T", title="log10(std / scale)")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return figure


def scatter(panels: Mapping[str, Tensor], limit: float = 2.5) -> Figure:
    """2-D point sets (N, 2) side by side, on equal axes."""
    figure = Figure(figsize=(2.2 * len(panels), 2.4), layout="tight")
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.scatter(*points.T, s=2, alpha=0.4, linewidths=0)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title, xticks=[], yticks=[])
    return figure


def trajectories(times: Sequence[float], paths: Tensor, density: Tensor, extent: tuple[float, float]) -> Figure:
    """1-D paths (steps, N) over times, on the density (cells, steps) that they should follow."""
    figure = Figure(figsize=(8, 3.2), layout="tight")
    axes = figure.subplots()
    axes.imshow(density, aspect="auto", origin="lower", cmap="Greys", extent=(times[0], times[-1], *extent), alpha=0.8)
    axes.plot(times, paths, linewidth=0.7)
    axes.set(xlabel="t", ylabel="x", ylim=extent)
    return figure


def loss_by_level(times: Sequence[float], curves: Mapping[str, Tensor]) -> Figure:
    """The eps error at each time, on a logarithmic axis; the dotted line at 1 is what doing nothing costs."""
    figure = Figure(figsize=(6, 3.2), layout="tight")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(times, curve, marker="o", markersize=3, label=name)
    axes.axhline(1.0, color="black", linestyle=":", linewidth=1, label="doing nothing")
    axes.set(xlabel="t", ylabel="mean squared error of eps", yscale="log")
    axes.legend(fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".tmp"), format="png", dpi=120)
    path.with_suffix(".tmp").replace(path)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, as a PNG that carries its description for those who do not see it."""
    from IPython.display import Image, display

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    display(Image(buffer.getvalue()), metadata={"image/png": {"alt": alt}})
