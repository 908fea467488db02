"""Figures: image grids, schedules, trajectories, loss by noise level. Each answers a matplotlib Figure."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import PIL.Image
import torch
from einops import rearrange
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from torch import Tensor

from ddpm_path.lab.datasets import to_display
from ddpm_path.lab.files import replacing
from ddpm_path.schedule import Schedule

COLOURS = ("#3465a4", "#e07b00", "#3a923a", "#c03d3e", "#8868b0", "#6b6b6b")
DPI = 80  # of figures in notebooks
mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=COLOURS)  # type: ignore[attr-defined]
mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": DPI, "legend.frameon": False}


def grid(
    images: Tensor, columns: int = 10, titles: Sequence[str] = (), rows: Sequence[str] = (), zoom: float = 1.0
) -> Figure:
    """Images (N, C, H, W) in [-1, 1] as a grid, row by row; `titles` stand over the columns, `rows` before the rows."""
    N, C, H, W = images.shape
    lines = -(-N // columns)
    pixels = to_display(images.cpu())
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=255)  # a thin frame tells images apart
    blank = padded.new_full((lines * columns - N, C, H + 2, W + 2), 255)
    sheet = rearrange(torch.cat([padded, blank]), "(r c) k h w -> (r h) (c w) k", c=columns).numpy()
    # A whole number of dots for each pixel, so that all pixels are drawn alike.
    dots = max(1, round(zoom * min(10.0, 0.75 * columns) * DPI / sheet.shape[1]))
    width, height = dots * sheet.shape[1] / DPI, dots * sheet.shape[0] / DPI
    left = 0.15 + 0.075 * max(map(len, rows)) if rows else 0.0  # inches for the words
    top = 0.17 + 2 * dots / DPI if titles else 0.0
    figure = Figure(figsize=(left + width, height + top))
    axes = figure.add_axes((left / (left + width), 0, width / (left + width), height / (height + top)))
    axes.imshow(sheet[..., 0] if C == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    for i, title in enumerate(titles):
        axes.text((i + 0.5) * (W + 2), -2, title, ha="center", va="bottom", fontsize=9)
    for i, row in enumerate(rows):
        axes.text(-3, (i + 0.5) * (H + 2), row, ha="right", va="center", fontsize=9)
    return figure


def schedules(named: Mapping[str, Schedule]) -> Figure:
    """For each schedule, the signal's and the noise's share over time, and log10(std / scale)."""
    figure = Figure(figsize=(9, 3), layout="tight")
    left, right = figure.subplots(1, 2)
    for colour, (name, schedule) in zip(COLOURS, named.items(), strict=False):
        t = torch.linspace(schedule.first, schedule.T, 400, dtype=torch.float64)
        scale, std = schedule(t)
        left.plot(t / schedule.T, scale, color=colour)
        left.plot(t / schedule.T, std, color=colour, linestyle="--")
        right.plot(t / schedule.T, (std / scale).log10(), color=colour, label=name)
    left.set(xlabel="t / T", title="scale (line) and std (dashes)")
    right.set(xlabel="t / T", title="log10(std / scale)")
    right.axhline(0, color="black", linestyle=":", linewidth=1)
    right.legend(fontsize=9)
    return figure


def scatter(panels: Mapping[str, Tensor], limit: float = 2.5, columns: int = 6, colour: Tensor | None = None) -> Figure:
    """2-D point sets (N, 2) side by side, on equal axes; `colour` (N,) follows each point through the panels."""
    lines, columns = -(-len(panels) // columns), min(columns, len(panels))
    side = 9 / max(columns, 4)
    figure = Figure(figsize=(side * columns, (side + 0.2) * lines + 0.1), layout="tight")
    plane = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, (title, points) in zip(plane, panels.items(), strict=False):
        axes.scatter(*points.T, s=3, alpha=0.6, linewidths=0, c=COLOURS[0] if colour is None else colour)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(True)
    for axes in plane[len(panels) :]:
        axes.axis("off")
    return figure


def arrows(panels: Mapping[str, tuple[Tensor, Tensor]], limit: float, length: float = 1.0) -> Figure:
    """Fields of arrows side by side, each from points (N, 2) along directions (N, 2), drawn `length` times as long."""
    figure = Figure(figsize=(3 * len(panels), 3.2), layout="tight")
    for axes, (title, (points, directions)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.quiver(*points.T, *(length * directions).T, angles="xy", scale_units="xy", scale=1, color=COLOURS[0])
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(True)
    return figure


def trajectories(
    times: Sequence[float],
    paths: Tensor,
    density: Tensor,
    extent: tuple[float, float],
    labels: tuple[str, str] = ("t", "x"),
) -> Figure:
    """1-D paths (steps, N) over times, on the density (cells, steps) they should follow, dark at each time's peak."""
    figure = Figure(figsize=(9, 3.4), layout="tight")
    axes = figure.subplots()
    shade = density / density.amax(0)
    axes.imshow(shade, aspect="auto", origin="lower", cmap="Greys", extent=(times[0], times[-1], *extent), alpha=0.5)
    axes.plot(times, paths, linewidth=1)
    axes.set(xlabel=labels[0], ylabel=labels[1], ylim=extent)
    return figure


def loss_by_level(times: Sequence[float], curves: Mapping[str, Tensor]) -> Figure:
    """The eps error at each time, on a logarithmic axis down to 1e-4; dotted: what doing nothing costs, 1."""
    figure = Figure(figsize=(6, 3.2), layout="tight")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(times, curve, marker="o", markersize=3, label=name)
    axes.axhline(1.0, color="black", linestyle=":", linewidth=1, label="doing nothing")
    axes.set(xlabel="t", ylabel="mean squared error of eps", yscale="log", ylim=(1e-4, 2))
    axes.legend(fontsize=8, frameon=True, framealpha=1, edgecolor="none")  # over the dotted line
    return figure


def curves(x: Sequence[float], named: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """Each of `named` over x, with a legend; set the scales of `figure.axes[0]` where linear ones hide something."""
    figure = Figure(figsize=(6, 3), layout="tight")
    axes = figure.subplots()
    for name, y in named.items():
        axes.plot(x, y, marker="o" if len(x) < 50 else "", markersize=3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=8)
    return figure


def maps(named: Mapping[str, Tensor], columns: int = 5, label: str = "") -> Figure:
    """Arrays (H, W) as panels in colour, on one scale told by a bar with this label."""
    lines, columns = -(-len(named) // columns), min(columns, len(named))
    low, high = (float(f(torch.stack([f(panel) for panel in named.values()]))) for f in (torch.min, torch.max))
    figure = Figure(figsize=(1.0 + 1.9 * columns, 2.1 * lines), layout="constrained")
    row = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, (title, panel) in zip(row, named.items(), strict=False):
        image = axes.imshow(panel, vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=9)
    for axes in row:
        axes.axis("off")
    figure.colorbar(image, ax=row.tolist(), label=label, shrink=0.8)
    return figure


def labelled(lines: Mapping[str, Mapping[str, tuple[float, float]]], xlabel: str, ylabel: str) -> Figure:
    """Lines through points (x, y), each point with its own label beside it: a trade-off over a scale, say."""
    figure = Figure(figsize=(6, 3.4), layout="tight")
    axes = figure.subplots()
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        axes.plot(*zip(*points.values(), strict=True), marker="o", markersize=4, color=colour, label=name)
        for label, at in points.items():
            axes.annotate(label, at, xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=8)
    return figure


def log_curves(x: Sequence[float], named: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """As `curves`, without markers and with both axes logarithmic."""
    figure = curves(x, named, xlabel, ylabel)
    figure.axes[0].set(xscale="log", yscale="log")
    for line in figure.axes[0].lines:
        line.set_marker("")
    return figure


def errors_by_calls(panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Figure:
    """Panels side by side, in each the errors of samplers (by name) over their network calls, all axes logarithmic.

    An error above 1 is out of the picture: a line that leaves it at the top diverges.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, samplers) in zip(row, panels.items(), strict=True):
        for name, errors in samplers.items():
            axes.loglog(list(errors), list(errors.values()), marker="o", markersize=3, label=name)
        axes.xaxis.set_major_locator(FixedLocator(sorted({n for errors in samplers.values() for n in errors})))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.set(xlabel="network calls")
        axes.set_title(title, fontsize=9)
    row[0].set(ylabel="error", ylim=(None, 1))  # shared, so only once all lines are there
    lines = {line.get_label(): line for axes in row for line in axes.lines}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), fontsize=8)
    return figure


def training(log: Sequence[tuple[float, ...]]) -> Figure:
    """The curves of a log of (step, loss, lr, gradient norm, seconds): the loss, its running mean, and the norm."""
    step, loss, _, norm, _ = torch.tensor(log, dtype=torch.float64).T
    figure = Figure(figsize=(9, 3), layout="tight")
    left, right = figure.subplots(1, 2)
    width = max(1, len(loss) // 50)
    mean = loss.unfold(0, width, 1).mean(1)
    left.plot(step, loss, linewidth=0.5, alpha=0.4)
    left.plot(step[width - 1 :], mean, color=COLOURS[0], label=f"mean of {width} steps")
    left.set(xlabel="step", ylabel="loss", yscale="log")
    left.legend(fontsize=8)
    right.plot(step, norm, linewidth=0.5, color=COLOURS[1])
    right.set(xlabel="step", ylabel="gradient norm before clipping", yscale="log")
    return figure


def save(figure: Figure, path: Path | str) -> None:
    """Write the figure as a PNG, whole or not at all; its folder is made."""
    with replacing(Path(path)) as part:
        figure.savefig(part, format="png", dpi=120)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook: a PNG of 128 colours, small, with its description for who does not see it."""
    from IPython.display import Image, display

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    PIL.Image.open(buffer).convert("RGB").quantize(128, dither=PIL.Image.Dither.NONE).save(small, "png", optimize=True)
    display(Image(small.getvalue()), metadata={"image/png": {"alt": alt}})  # type: ignore[no-untyped-call]
