"""The training loop: AdamW, warm-up and cosine decay, a warmed-up EMA, stratified times, checkpoints.

All randomness of a step follows from (seed, step), dropout's too: a resumed run is the run that was never stopped.
"""

import contextlib
import copy
import csv
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_path.classifier import NoisyClassifier
from ddpm_path.gaussian import q_sample
from ddpm_path.lab import metrics, plots, recipes
from ddpm_path.lab.checkpoint import alone, append, load, save
from ddpm_path.lab.datasets import Images, check_images, dequantise
from ddpm_path.lab.device import Place, best_device
from ddpm_path.lab.files import replacing
from ddpm_path.lab.recipes import ClassifierRecipe, Recipe, Scorer, SegmenterRecipe
from ddpm_path.lab.scenes import touching_digits
from ddpm_path.losses import LossHistory, on_clock, stratified, weighted_times
from ddpm_path.segmentation import border_weights, pixel_loss
from ddpm_path.unet import UNet


class Log(NamedTuple):
    """One step as it was trained: mean loss, learning rate, gradient norm before clipping, seconds since the start."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float


class Trained(NamedTuple):
    """What training leaves behind: the raw network, its moving average (sample from that one), and the log."""

    net: UNet
    ema: UNet
    log: list[Log]


class Run(NamedTuple):
    """All that a step of training changes, and a checkpoint keeps."""

    net: UNet
    ema: UNet
    optimiser: torch.optim.Optimizer
    history: LossHistory | None


def train(
    recipe: Recipe, data: Images, folder: Path | None = None, save_every: int = 250, place: Place | None = None
) -> Trained:
    """Train a network as `recipe` says, with a progress bar [Ho 2020, alg. 1].

    With a `folder` a checkpoint and the log are written there every `save_every` steps, a sample grid and the curves
    every fourth time, and a run found there is resumed. `place` is this process's among several, or how it computes;
    None is one process on the best device. ValueError, before training, for illegal images and for a folder that holds
    another run, one on other images say, or that another training writes to; FloatingPointError at the first loss that
    is not finite (the last checkpoint is kept).
    """
    place = place or Place(0, 1, best_device())
    mine = place.share(recipe.batch)
    check_images(data.train)
    if recipe.batch > len(data.train):
        raise ValueError(f"batch {recipe.batch} exceeds the {len(data.train)} training images: choose a smaller batch")
    run = _begin(recipe, place)
    if run.net.classes not in (0, len(data.classes)):
        raise ValueError(f"the network has {run.net.classes} classes, {data.name} has {len(data.classes)}")
    with contextlib.ExitStack() as held:
        log: list[Log] = []
        digest = ""
        if folder is not None:
            digest = data.digest
            if place.leads:
                held.enter_context(alone(folder))
            log = _resume(folder, recipe, digest, run, place)
        written = len(log)
        steps = _steps(recipe, data, run, place, mine, log)
        bar = held.enter_context(
            tqdm(steps, "training", recipe.steps, initial=len(log), unit="step", disable=not place.leads)
        )
        for entry in bar:
            log.append(entry)
            if entry.step % 10 == 9:
                recent, speed = log[-100:], (bar.format_dict["rate"] or 0) * recipe.batch
                mean = sum(entry.loss for entry in recent) / len(recent)
                bar.set_postfix_str(f"loss {mean:.4f}, {speed:.0f} images/s")
            if folder is not None and place.leads:
                written = _keep(folder, recipe, data, digest, run, log, written, save_every)
    return Trained(run.net.eval(), run.ema.eval(), log)


def _begin(recipe: Recipe, place: Place) -> Run:
    """Fresh weights, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        net = recipe.network().to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.importance and place.of > 1:
        raise ValueError("importance sampling keeps one history of losses: train it in a single process")
    if recipe.importance and recipe.logit_normal:
        raise ValueError("importance and logit_normal draw times in two ways: choose one")
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    history = LossHistory(recipe.T) if recipe.importance else None
    return Run(net, copy.deepcopy(net).requires_grad_(False), optimiser, history)


def _steps(recipe: Recipe, data: Images, run: Run, place: Place, mine: slice, log: Sequence[Log]) -> Iterator[Log]:
    """Train from where `log` ends, a step at a time.

    Everything random is drawn for the whole batch, of which `mine` is this process's part: what a step sees does not
    depend on the number of processes.
    """
    net, ema, optimiser, history = run
    schedule, prediction = recipe.schedule(), recipes.PREDICTIONS[recipe.prediction]
    objective = recipes.LOSSES[recipe.loss]
    images, labels = data.train.to(place.device), data.train_labels.to(place.device)
    asked = on_clock(place.runner(net), recipe.T / schedule.T)
    draw_times = partial(stratified_times, recipe.batch, recipe.T)
    if recipe.betas in recipes.SDES:
        draw_times = partial(stratified_moments, recipe.batch, schedule.first, schedule.T)
    if recipe.logit_normal:
        draw_times = partial(draw_times, spread=logit_normal)

    earlier, began = log[-1].seconds if log else 0.0, time.perf_counter()
    for step in range(len(log), recipe.steps):
        step_seed = (recipe.seed * 1_000_003 + step + 1) % 2**32
        draw = torch.Generator().manual_seed(step_seed)
        at = _batch(step, recipe, len(images))
        t, weight = draw_times(draw), torch.ones(recipe.batch)
        if history is not None:
            t, weight = weighted_times(history.probabilities(), recipe.batch, draw)
            weight = weight.float()  # not every device has float64
        eps = torch.randn(recipe.batch, *images.shape[1:], generator=draw)
        dropped = torch.rand(recipe.batch, generator=draw) < recipe.label_dropout
        x0 = images[at.to(place.device)]
        if recipe.dequantise:
            x0 = dequantise(x0, draw)
        if recipe.flip:
            turned = torch.rand(recipe.batch, generator=draw).to(place.device) < 0.5
            x0 = torch.where(turned[:, None, None, None], x0.flip(3), x0)
        at, dropped, eps, weight = (each[mine].to(place.device) for each in (at, dropped, eps, weight))
        label = labels[at].masked_fill(dropped, net.classes) if net.classes else None

        lr = learning_rate(step, recipe)
        for group in optimiser.param_groups:
            group["lr"] = lr
        with torch.random.fork_rng():
            torch.manual_seed((step_seed ^ 0x5EED) + place.rank)  # for dropout
            losses = objective(partial(asked, label=label), prediction, schedule, x0[mine], t[mine], eps)
            loss = (weight * losses).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        entry = Log(step, place.mean(loss.detach()).item(), lr, grad_norm.item(), earlier + time.perf_counter() - began)
        if not math.isfinite(entry.loss + entry.grad_norm):
            yield entry  # to be logged
            raise FloatingPointError(
                f"loss {entry.loss} and gradient norm {entry.grad_norm} at step {step} (lr {lr:.2g}, {images.dtype}): "
                "lower lr, lengthen warmup or look at the data; the last checkpoint is kept"
            )
        if history is not None:
            history.add(t, losses.detach())
        optimiser.step()
        update_ema(ema, net, step, recipe.ema)
        yield entry


def _keep(
    folder: Path, recipe: Recipe, data: Images, digest: str, run: Run, log: Sequence[Log], written: int, save_every: int
) -> int:
    """Every `save_every` steps and at the end the log and a checkpoint; every fourth time pictures, too.

    Answers how many rows of the log are written.
    """
    done = len(log)
    end, bad = done == recipe.steps, not math.isfinite(log[-1].loss + log[-1].grad_norm)
    if done % save_every and not end and not bad:
        return written
    append(folder / "log.csv", Log._fields, log[written:])
    if bad:
        return done
    state = {
        "recipe": asdict(recipe),
        "data_digest": digest,
        "optimiser": run.optimiser.state_dict(),
        "history": None if run.history is None else (run.history.losses, run.history.count),
    }
    save(folder, done, {"net": run.net.state_dict(), "ema": run.ema.state_dict()}, state)
    if done % (4 * save_every) == 0 or end:
        _picture(folder / f"samples-{done:06d}.png", recipe, data, run)
        plots.save(plots.training(log), folder / "curves.png")
    return done


def train_classifier(recipe: ClassifierRecipe, data: Images) -> NoisyClassifier:
    """A classifier of noisy images: cross-entropy on x_t at stratified times [Dhariwal 2021, sec. 4].

    Shows a progress bar. Images are shifted by up to a pixel, where ADM crops them at random. FloatingPointError at
    the first loss that is not finite.
    """
    check_images(data.train)
    device, schedule = best_device(), recipe.schedule()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # also for dropout
        draw = torch.Generator().manual_seed(recipe.seed)
        net = recipe.network().to(device)
        optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        steps = tqdm(range(recipe.steps), desc="training", unit="step")
        for step in steps:
            at = _batch(step, recipe, len(data.train))
            t = stratified_times(recipe.batch, recipe.last, draw)
            x0 = metrics.jitter(data.train[at])
            x = q_sample(x0, torch.randn(x0.shape, generator=draw), schedule(t)).to(device)
            loss = F.nll_loss(net(x, t), data.train_labels[at].to(device))
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"loss {loss.item()} at step {step}: lower lr = {recipe.lr:g}")
            left = 1 - step / recipe.steps
            optimiser.param_groups[0]["lr"] = recipe.lr * min(left, (step + 1) / recipe.warmup)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % 50 == 49:
                steps.set_postfix_str(f"loss {loss.item():.3f}")
    return net.cpu().eval().requires_grad_(False)


def maximise(
    objective: Callable[[], Tensor], parameters: Iterable[nn.Parameter], steps: int, lr: float, label: str
) -> None:
    """Raise a noisy objective by Adam, with a warm-up of 20 steps, a half cosine down to 0, and a progress bar.

    FloatingPointError at the first value that is not finite.
    """
    optimiser = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99))
    for step in tqdm(range(steps), desc=label, unit="step"):
        optimiser.param_groups[0]["lr"] = lr * min(1, (step + 1) / 20) * math.cos(math.pi / 2 * step / steps) ** 2
        value = objective()
        if not bool(value.isfinite()):
            raise FloatingPointError(f"objective {value.item()} at step {step}: lower lr = {lr:g}, or look at the data")
        optimiser.zero_grad()
        (-value).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def stratified_times(
    batch: int, T: int, generator: torch.Generator, spread: Callable[[Tensor], Tensor] = torch.clone
) -> Tensor:
    """Whole times in 1..T, (batch,), one from each of `batch` equal slices of the chain.

    Each is uniform over all batches, as in algorithm 1, while every batch sees all noise levels: less noise in
    the gradient for the same expectation. Where `spread` makes other numbers in [0, 1] of uniform ones, slices are
    equally probable instead.
    """
    u = stratified(batch, generator, torch.float32).double()  # float32: what checkpoints saw
    return (1 + (spread(u) * T).floor()).clamp(max=T)


def stratified_moments(
    batch: int, first: float, last: float, generator: torch.Generator, spread: Callable[[Tensor], Tensor] = torch.clone
) -> Tensor:
    """As `stratified_times`, on an SDE: real times in [first, last], (batch,) float64."""
    return first + (last - first) * spread(stratified(batch, generator))


def logit_normal(u: Tensor) -> Tensor:
    """Uniform numbers to logit-normal ones, the sigmoids of normal ones: most of them halfway [Esser 2024, sec. 3.1].

    Halfway between noise and data a network has most to learn. At both ends, where it seldom looks, it learns less.
    """
    numbers: Tensor = torch.special.ndtri(u).sigmoid()
    return numbers


def learning_rate(step: int, recipe: Recipe) -> float:
    """A linear rise over the warm-up (never 0), then a half cosine down to 0 or none; all again after a restart."""
    start, end = (recipe.restart, recipe.steps) if step >= recipe.restart else (0, min(recipe.restart, recipe.steps))
    step, steps = step - start, end - start
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    if recipe.constant:
        return recipe.lr * warm
    gone = max(0, step - recipe.warmup) / max(1, steps - recipe.warmup)
    return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * gone))


def ema_decay(step: int, largest: float) -> float:
    """The average's decay at a step: (1 + step) / (10 + step), up to `largest`."""
    return min(largest, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: torch.nn.Module, net: torch.nn.Module, step: int, decay: float) -> None:
    """Move the average towards the network; the decay rises up to `decay`, see `ema_decay`.

    Without that warm-up the random first weights stay in the average: 0.999^3000 of them is still 5 percent.
    """
    weight = 1 - ema_decay(step, decay)
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), weight)


def _batch(step: int, recipe: Recipe | ClassifierRecipe, n: int) -> Tensor:
    """The indices of this step's images: a fresh order each epoch, the remainder left out."""
    epoch, i = divmod(step, n // recipe.batch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed((recipe.seed + 7919 * (epoch + 1)) % 2**32))
    return order[i * recipe.batch : (i + 1) * recipe.batch]


def _picture(path: Path, recipe: Recipe, data: Images, run: Run) -> None:
    """One fixed-seed grid, to see a run improve: two rows of the raw network, two of the average."""
    schedule, times = recipe.schedule(), recipe.times(25)
    shape, labels, rows = data.train.shape[1:], metrics.balanced_labels(20, run.net.classes), []
    for weights in (run.net, run.ema):
        eval_net = copy.deepcopy(weights).cpu().eval()
        rows.append(metrics.sample(recipe.as_eps(eval_net), schedule, 20, shape, times, 0, labels))
    plots.save(plots.grid(torch.cat(rows)), path)


def _resume(folder: Path, recipe: Recipe, digest: str, run: Run, place: Place) -> list[Log]:
    """Load the folder's checkpoint, if it has one, and answer the log so far, which is cut to its length."""
    kept = load(folder)
    if kept is None:
        if place.leads:
            (folder / "log.csv").unlink(missing_ok=True)
        return []
    if Recipe(**kept.state["recipe"]) != recipe:
        raise ValueError(f"{folder} holds a run of another recipe: choose another folder, or delete it")
    if kept.state.get("data_digest", digest) != digest:  # older checkpoints have none
        raise ValueError(f"{folder} holds a run on other training images: choose another folder, or delete it")
    run.net.load_state_dict(kept.weights["net"])
    run.ema.load_state_dict(kept.weights["ema"])
    run.optimiser.load_state_dict(kept.state["optimiser"])
    if run.history is not None:
        run.history.losses, run.history.count = kept.state["history"]
    log = read_log(folder)[: kept.steps]
    if len(log) < kept.steps:
        raise ValueError(f"{folder / 'log.csv'} is shorter than its checkpoint: delete the folder to start over")
    if place.leads:
        with replacing(folder / "log.csv") as part:
            append(part, Log._fields, log)
    return log


def read_log(folder: Path) -> list[Log]:
    """The log of a run, as far as it is whole; FileNotFoundError if there is none."""
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values()) and None not in row]
    return [Log(int(row["step"]), *(float(row[name]) for name in Log._fields[1:])) for row in rows]


def train_segmenter(recipe: SegmenterRecipe, data: Images) -> nn.Module:
    """A network that names the digit at each pixel, trained as `recipe` says: one function for FCN and U-Net."""
    draw = torch.Generator().manual_seed(recipe.seed)
    seen = touching_digits(data.train, data.train_labels, recipe.scenes, draw, recipe.digits, recipe.size)
    weights = torch.ones(seen.classes.shape)
    if recipe.border:
        weights = torch.stack([border_weights(each, w0=recipe.border, sigma=2.0).float() for each in seen.instances])

    def recognition(classify: Scorer) -> Tensor:
        at = torch.randint(len(data.train), (64,), generator=draw)
        return -F.cross_entropy(classify(data.train[at]).mean((2, 3)), data.train_labels[at])

    def segmentation() -> Tensor:
        at = torch.randint(recipe.scenes, (1,), generator=draw)
        return -pixel_loss(score(seen.images[at]), seen.classes[at], weights[at])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # for first weights and dropout
        net, score, classify = recipe.network()
        if classify is not None:
            first = partial(recognition, classify)
            maximise(first, net.parameters(), recipe.classify, recipe.lr, "single digits")
        maximise(segmentation, net.parameters(), recipe.steps, recipe.lr, "scenes")
    return net.eval()
