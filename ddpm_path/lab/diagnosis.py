"""One page on a training: what learners ask of theirs, each question with its number, and what to do if it is bad."""

import html
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddpm_path.lab import checkpoint, metrics, plots, probing, train
from ddpm_path.lab.checkpoint import Checkpoint
from ddpm_path.lab.datasets import Images
from ddpm_path.lab.doctor import Finding, report
from ddpm_path.lab.recipes import Recipe

SAMPLES = 64


def load(folder: Path) -> tuple[Recipe, Checkpoint]:
    """The recipe of the run in a folder, and its last checkpoint; FileNotFoundError if it has none yet."""
    kept = checkpoint.load(folder)
    if kept is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint: give the folder that `train --out` writes to")
    return Recipe(**kept.state["recipe"]), kept


def diagnose(folder: Path, data: Images) -> list[Finding]:
    """What there is to say of a run, from its log and its last checkpoint; with pictures in its diagnosis.html.

    data are those it trains on: ValueError for others. Other errors as in `load`.
    """
    recipe, kept = load(folder)
    if kept.state.get("data_digest", data.digest) != data.digest:  # older checkpoints have none
        raise ValueError(f"{folder} was not trained on these images: name its own with --data, and their --size")
    log, schedule = train.read_log(folder), recipe.schedule()
    net = recipe.network().eval()
    labels, drawn = metrics.balanced_labels(SAMPLES, net.classes), []
    for weights in ("net", "ema"):
        net.load_state_dict(kept.weights[weights])
        eps_net = recipe.as_eps(net)
        drawn.append(metrics.sample(eps_net, schedule, SAMPLES, data.train.shape[1:], recipe.times(25), 0, labels))
    times = [
        t / 1000 * schedule.T for t in (1, 10, 50, 100, 200, 400, 600, 800, 1000) if t * (recipe.T or 1000) >= 1000
    ]
    table = probing.eps_by_level(eps_net, schedule, data, times, labelled=net.classes > 0)
    findings = [
        *_steps(recipe, log, kept.steps),
        *_gradients(recipe, log),
        *_average(recipe, kept.steps),
        *_levels(times, table),
        *_colours(drawn[1], data.train),
    ]
    plots.save(plots.training([entry for entry in log if _finite(entry)]), folder / "curves.png")
    plots.save(plots.loss_by_level(times, table), folder / "loss-by-level.png")
    more = [""] * (SAMPLES // 16 - 1)
    rows = ["averaged (EMA)", *more, "last weights", *more]
    plots.save(plots.grid(torch.cat(drawn[::-1]), 16, rows=rows), folder / "diagnosis.png")
    page = PAGE.format(title=html.escape(folder.resolve().name), report=html.escape(report(findings)))
    (folder / "diagnosis.html").write_text(page, encoding="utf-8")
    return findings


def initial_weight(recipe: Recipe, steps: int) -> float:
    """The share of the network's random first weights that is left in its moving average."""
    return math.exp(sum(math.log(train.ema_decay(step, recipe.ema)) for step in range(steps)))


def _finite(entry: train.Log) -> bool:
    return math.isfinite(entry.loss + entry.grad_norm)


def _steps(recipe: Recipe, log: Sequence[train.Log], kept: int) -> Iterator[Finding]:
    bad = [entry.step for entry in log if not _finite(entry)]
    remedy = "it goes on from its checkpoint when called again; with a lower lr or a longer warmup in a new folder"
    yield Finding("steps", f"{kept} of {recipe.steps} kept, {len(log)} logged", "")
    yield Finding("first bad step", str(bad[0]) if bad else "none", remedy if bad else "")


def _gradients(recipe: Recipe, log: Sequence[train.Log]) -> Iterator[Finding]:
    norms = torch.tensor([entry.grad_norm for entry in log[-200:] if math.isfinite(entry.grad_norm)])
    clipped = float((norms > recipe.clip).double().mean())
    yield Finding(
        "gradient norm",
        f"median {norms.median():.3g} over the last {len(norms)} steps, clipped at {recipe.clip:g} in {clipped:.0%}",
        "every step is clipped: lower lr, or raise clip" if clipped > 0.9 else "",
    )


def _average(recipe: Recipe, steps: int) -> Iterator[Finding]:
    left = initial_weight(recipe, steps)
    yield Finding(
        "moving average",
        f"{left:.1%} of the random first weights are left in it",
        "sample from the raw network until then, train longer, or lower ema" if left > 0.01 else "",
    )


def _levels(times: Sequence[float], table: dict[str, Tensor]) -> Iterator[Finding]:
    rows = [
        f"t = {t:g}: {train:.3f} ({heart:.3f})"
        for t, train, heart in zip(times, table["train"], table["by heart"], strict=True)
    ]
    middle = len(times) // 2
    flat = bool(table["train"][middle] > 0.5)
    yield Finding(
        "error of eps",
        "doing nothing: 1; known by heart: in brackets; " + ", ".join(rows),
        "half of it or more is left at middle levels: train longer, or overfit one batch first to find a mistake"
        if flat
        else "",
    )
    gap = float(table["test"][middle] / table["train"][middle])
    yield Finding(
        "unseen images",
        f"{gap:.2f} times the training images' error at t = {times[middle]:g}",
        "it learns its images by heart: fewer steps, a smaller network, or more images" if gap > 1.5 else "",
    )


def _colours(samples: Tensor, images: Tensor) -> Iterator[Finding]:
    for channel in range(samples.shape[1]):
        (mean, std), (true_mean, true_std) = (
            (float(x[:, channel].mean()), float(x[:, channel].std())) for x in (samples, images)
        )
        off = abs(mean - true_mean) > 0.2 * true_std or not 0.8 < std / true_std < 1.25
        yield Finding(
            f"channel {channel}",
            f"samples have mean {mean:+.2f} and std {std:.2f}, images {true_mean:+.2f} and {true_std:.2f}",
            "a tint or a lost contrast: look at samples by step; more steps of training or sampling" if off else "",
        )


PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<style>body {{ max-width: 70rem; margin: auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif }}
img {{ max-width: 100% }} pre {{ white-space: pre-wrap }}</style></head>
<body><h1>{title}</h1>
<pre>{report}</pre>
<img src="curves.png" alt="Loss and gradient norm over the steps">
<img src="loss-by-level.png" alt="Error of eps by noise level, beside doing nothing and the training set by heart">
<img src="diagnosis.png" alt="Samples of the moving average (upper half) and of the raw network (lower half)">
</body>
</html>
"""
