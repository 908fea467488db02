"""The training loop: AdamW, warm-up and cosine decay, a warmed-up EMA, stratified times, checkpoints.

All randomness of a step follows from (seed, step), dropout's too: a resumed run is the run that was never stopped.
"""

import copy
import csv
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_path.lab import metrics, plots, recipes, zoo
from ddpm_path.lab.datasets import DATASETS, Images, check_images
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.files import replacing
from ddpm_path.lab.recipes import Recipe, Scorer, SegmenterRecipe
from ddpm_path.lab.scenes import touching_digits
from ddpm_path.losses import Network, as_eps, simple
from ddpm_path.schedule import Discrete, uniform_times
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


def train(recipe: Recipe, data: Images, folder: Path | None = None, save_every: int = 250) -> Trained:
    """Train a network as `recipe` says, with a progress bar [Ho 2020, alg. 1].

    With a `folder` a checkpoint and the log are written there every `save_every` steps, a sample grid every fourth
    time, and a run found there is resumed. ValueError for illegal images or a folder that holds another run, before
    training; FloatingPointError at the first loss that is not finite (the last checkpoint is kept).
    """
    check_images(data.train)
    if recipe.batch > len(data.train):
        raise ValueError(f"batch {recipe.batch} exceeds the {len(data.train)} training images: choose a smaller batch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        net = recipe.network().to(device)
    if net.classes not in (0, len(data.classes)):
        raise ValueError(f"the network has {net.classes} classes, {data.name} has {len(data.classes)}")
    ema = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    log: list[Log] = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        log = _resume(folder, recipe, net, ema, optimiser)
    schedule, prediction = recipe.schedule(), recipes.PREDICTIONS[recipe.prediction]
    images, labels = data.train.to(device), data.train_labels.to(device)

    first, earlier, began = len(log), log[-1].seconds if log else 0.0, time.perf_counter()
    steps = tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, desc="training", unit="step")
    with steps, torch.random.fork_rng():
        for step in steps:
            step_seed = (recipe.seed * 1_000_003 + step + 1) % 2**32
            torch.manual_seed(step_seed ^ 0x5EED)  # for dropout
            draw = torch.Generator().manual_seed(step_seed)
            at = _batch(step, recipe, len(images)).to(device)
            t = stratified_times(recipe.batch, recipe.T, draw)
            eps = torch.randn(recipe.batch, *images.shape[1:], generator=draw).to(device)
            dropped = torch.rand(recipe.batch, generator=draw).to(device) < recipe.label_dropout
            label = labels[at].masked_fill(dropped, net.classes) if net.classes else None

            lr = learning_rate(step, recipe)
            for group in optimiser.param_groups:
                group["lr"] = lr
            loss = simple(partial(net, label=label), prediction, schedule, images[at], t, eps).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            grad_norm = torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            seconds = time.perf_counter() - began
            entry = Log(step, loss.item(), lr, grad_norm.item(), earlier + seconds)
            if not math.isfinite(entry.loss + entry.grad_norm):
                raise FloatingPointError(
                    f"loss {entry.loss} and gradient norm {entry.grad_norm} at step {step} (lr {lr:.2g}, "
                    f"{images.dtype}): lower lr, lengthen warmup or look at the data; the last checkpoint is kept"
                )
            optimiser.step()
            update_ema(ema, net, step, recipe.ema)
            log.append(entry)

            if step % 10 == 9:
                recent = [entry.loss for entry in log[-100:]]
                speed = (step + 1 - first) * recipe.batch / seconds
                steps.set_postfix_str(f"loss {sum(recent) / len(recent):.4f}, {speed:.0f} images/s")
            done, end = step + 1, step + 1 == recipe.steps
            if folder is not None and (done % save_every == 0 or end):
                _save(folder, recipe, net, ema, optimiser, log)
            if folder is not None and (done % (4 * save_every) == 0 or end):
                _picture(folder / f"samples-{done:06d}.png", recipe, data, net, ema)
    return Trained(net.eval(), ema.eval(), log)


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


def stratified_times(batch: int, T: int, generator: torch.Generator) -> Tensor:
    """Whole times in 1..T, (batch,), one from each of `batch` equal slices of the chain.

    Each is uniform over all batches, as in algorithm 1, while every batch sees all noise levels: less noise in
    the gradient for the same expectation.
    """
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (1 + (u.double() * T).floor()).clamp(max=T)


def learning_rate(step: int, recipe: Recipe) -> float:
    """A linear rise over the warm-up (never 0), then a half cosine down to 0; all of it again after a restart."""
    start, end = (recipe.restart, recipe.steps) if step >= recipe.restart else (0, recipe.restart)
    step, steps = step - start, end - start
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    gone = max(0, step - recipe.warmup) / max(1, steps - recipe.warmup)
    return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * gone))


@torch.no_grad()
def update_ema(ema: torch.nn.Module, net: torch.nn.Module, step: int, decay: float) -> None:
    """Move the average towards the network; the decay rises as (1 + step) / (10 + step) up to `decay`.

    Without that warm-up the random first weights stay in the average: 0.999^3000 of them is still 5 percent.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), weight)


def _batch(step: int, recipe: Recipe, n: int) -> Tensor:
    """The indices of this step's images: a fresh order each epoch, the remainder left out."""
    epoch, i = divmod(step, n // recipe.batch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed((recipe.seed + 7919 * (epoch + 1)) % 2**32))
    return order[i * recipe.batch : (i + 1) * recipe.batch]


def _save(folder: Path, recipe: Recipe, net: UNet, ema: UNet, optimiser: torch.optim.Optimizer, log: list[Log]) -> None:
    """Write the checkpoint, whole, and the log."""
    content = {
        "recipe": asdict(recipe),
        "net": net.state_dict(),
        "ema": ema.state_dict(),
        "optimiser": optimiser.state_dict(),
        "log": [tuple(entry) for entry in log],
    }
    with replacing(folder / "checkpoint.pt") as part:
        torch.save(content, part)
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Log._fields, *log])


def _picture(path: Path, recipe: Recipe, data: Images, net: UNet, ema: UNet) -> None:
    """One fixed-seed grid, to see a run improve: two rows of the raw network, two of the average."""
    schedule, times = recipe.schedule(), uniform_times(recipe.T, min(25, recipe.T))
    shape, labels, rows = data.train.shape[1:], metrics.balanced_labels(20, net.classes), []
    for weights in (net, ema):
        eval_net = copy.deepcopy(weights).cpu().eval()
        eps_net = as_eps(eval_net, recipes.PREDICTIONS[recipe.prediction], schedule)
        rows.append(metrics.sample(eps_net, schedule, 20, shape, times, 0, labels))
    plots.save(plots.grid(torch.cat(rows)), path)


def _resume(folder: Path, recipe: Recipe, net: UNet, ema: UNet, optimiser: torch.optim.Optimizer) -> list[Log]:
    """Load the folder's checkpoint, if it has one, and answer the log so far."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return []
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}): delete it to start over") from error
    if content["recipe"] != asdict(recipe):
        raise ValueError(f"{folder} holds a run of another recipe: choose another folder, or delete it")
    net.load_state_dict(content["net"])
    ema.load_state_dict(content["ema"])
    optimiser.load_state_dict(content["optimiser"])
    return [Log(*entry) for entry in content["log"]]


def train_recipe(name: str, folder: Path, steps: int | None = None) -> None:
    """Make the model `name` anew: train it, measure it, and write weights and card to `folder`.

    ValueError for a name that has no recipe. `steps` shortens a diffusion model's run, for a first look.
    """
    if name in recipes.RECOGNISERS:
        if steps is not None:
            raise ValueError(f"{name} trains in epochs, within minutes: leave --steps out")
        _train_recogniser(name, folder)
        return
    if name in recipes.SEGMENTER_RECIPES:
        segmenter = recipes.SEGMENTER_RECIPES[name]
        _train_segmenter(name, segmenter if steps is None else replace(segmenter, steps=steps), folder)
        return
    if name not in recipes.RECIPES:
        raise unknown("recipe", name, [*recipes.RECIPES, *recipes.RECOGNISERS, *recipes.SEGMENTER_RECIPES])
    recipe = recipes.RECIPES[name]
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    data = DATASETS[recipe.data]()
    zoo.load_recogniser(f"{data.name}-recogniser")  # needed at the end: better missed now
    trained = train(recipe, data, folder)
    card = {
        "kind": "diffusion",
        "recipe": asdict(recipe),
        "data_digest": data.digest,
        "size": data.train.shape[-1],
        "classes": list(data.classes),
        "parameters": sum(p.numel() for p in trained.net.parameters()),
        "seconds": round(trained.log[-1].seconds),
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    zoo.save(name, trained.ema, card, folder)
    measure(name, folder, data)


def measure(name: str, folder: Path, data: Images) -> None:
    """Measure a model as it lies in `folder`, in half precision, and write the results into its card."""
    net, card = zoo.load_network(name, folder)
    eps_net, schedule = zoo.load(name, folder)

    times = [1, 10, 50, *range(100, schedule.T + 1, 100)]
    table = eps_by_level(eps_net, schedule, data, times, labelled=net.classes > 0)
    print("eps error by noise level (doing nothing: 1)\n" + " ".join(f"{t:>9}" for t in ["t", *times]))
    for label, row in table.items():
        print(f"{label:>9} " + " ".join(f"{v:9.4f}" for v in row.tolist()))
    plots.save(plots.loss_by_level(times, table), folder / "loss-by-level.png")

    settings: metrics.Settings = {"weights": "ema", "sampler": "ancestral", "steps": min(50, schedule.T), "seed": 0}
    grid, labels = uniform_times(schedule.T, min(50, schedule.T)), metrics.balanced_labels(2000, net.classes)
    samples = metrics.sample(eps_net, schedule, 2000, data.train.shape[1:], grid, 0, labels)
    plots.save(plots.grid(samples[:100]), folder / "samples.png")
    results = metrics.quality(zoo.load_recogniser(f"{data.name}-recogniser"), data, samples, labels, settings)
    for result in results:
        print(f"{result.metric:>12}: {result.value:.3f} +- {result.error:.3f} of what real images reach")
    zoo.save(name, net, card | {"metrics": [asdict(result) for result in results]}, folder)


def eps_by_level(
    eps_net: Network, schedule: Discrete, data: Images, times: Sequence[float], labelled: bool = True
) -> dict[str, Tensor]:
    """The eps error of a network on training and test images, beside the training set's own optimum."""
    n = min(256, len(data.test))

    def error(net: Network, images: Tensor, labels: Tensor) -> Tensor:
        return metrics.loss_by_level(net, schedule, images[:n], labels[:n] if labelled else None, times)

    return {
        "train": error(eps_net, data.train, data.train_labels),
        "test": error(eps_net, data.test, data.test_labels),
        "by heart": error(metrics.by_heart(data, schedule), data.train, data.train_labels),
    }


def hardware() -> str:
    """What a wall time was measured on, for cards."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _train_recogniser(name: str, folder: Path) -> None:
    recipe = recipes.RECOGNISERS[name]
    data = DATASETS[recipe.data]()
    began = time.perf_counter()
    net = metrics.train_recogniser(data, recipe.epochs, recipe.seed)
    card = {
        "kind": "recogniser",
        "recipe": asdict(recipe),
        "data_digest": data.digest,
        "seconds": round(time.perf_counter() - began),
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    zoo.save(name, net, card, folder)
    net = zoo.load_recogniser(name, folder)  # measure what is shipped: half-precision weights
    measured = {
        "test_accuracy": metrics.accuracy(net, data.test, data.test_labels),
        "real_recognised": metrics.recognised(net, data.test, data.test_labels),
    }
    print(f"{name}: {measured}")
    zoo.save(name, net, card | measured, folder)


HELD_OUT = 200
"""Scenes of test digits that a segmenter's card is measured on."""


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


def _train_segmenter(name: str, recipe: SegmenterRecipe, folder: Path) -> None:
    data = DATASETS[recipe.data]()
    began = time.perf_counter()
    net = train_segmenter(recipe, data)
    card = {
        "kind": "segmenter",
        "recipe": asdict(recipe),
        "data_digest": data.digest,
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": round(time.perf_counter() - began),
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    zoo.save(name, net, card, folder)
    held_out = touching_digits(data.test, data.test_labels, HELD_OUT, torch.Generator().manual_seed(1))
    seen = metrics.segment(zoo.load_segmenter(name, folder), held_out.images)  # what is shipped: half-precision weights
    measured = {"mean_iou": metrics.mean_iou(metrics.confusion(seen, held_out.classes, 11), 10)}
    print(f"{name}: {measured}")
    zoo.save(name, net, card | measured, folder)
