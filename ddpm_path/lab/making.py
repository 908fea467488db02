"""Make a shipped model, or one of a folder of images: train it, save it, measure what was saved, write its card."""

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ddpm_path.guidance import Classifier
from ddpm_path.lab import metrics, plots, probing, recipes, zoo
from ddpm_path.lab.datasets import DATASETS, Images
from ddpm_path.lab.device import Place, best_device
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.folder import folder as own_images
from ddpm_path.lab.recipes import ClassifierRecipe, Recipe, RecogniserRecipe, SegmenterRecipe
from ddpm_path.lab.scenes import touching_digits
from ddpm_path.lab.train import train, train_classifier, train_segmenter

HELD_OUT = 200
"""Scenes of test digits that a segmenter's card is measured on."""


def make(name: str, folder: Path, steps: int | None = None, place: Place | None = None) -> None:
    """Make the model `name` anew: train it, measure it, and write weights and card to `folder`.

    ValueError for a name that has no recipe, and for a `place` that only diffusion models are trained in. `steps`
    shortens the training, for a first look.
    """
    others = recipes.RECOGNISERS | recipes.CLASSIFIERS | recipes.SEGMENTERS
    if name in others and place is not None and (place.of > 1 or place.bf16 or place.compiled):
        raise ValueError(f"{name} trains in one process and in float32: leave torchrun, --bf16 and --compile out")
    if name in recipes.RECOGNISERS and steps is not None:
        raise ValueError(f"{name} trains in epochs, within minutes: leave --steps out")
    if name in recipes.RECIPES:
        recipe = recipes.RECIPES[name]
        _diffusion(name, replace(recipe, steps=steps or recipe.steps), DATASETS[recipe.data](), folder, place)
    elif name in recipes.RECOGNISERS:
        _recogniser(name, recipes.RECOGNISERS[name], folder)
    elif name in recipes.CLASSIFIERS:
        noisy = recipes.CLASSIFIERS[name]
        _classifier(name, replace(noisy, steps=steps or noisy.steps), folder)
    elif name in recipes.SEGMENTERS:
        seen = recipes.SEGMENTERS[name]
        _segmenter(name, replace(seen, steps=steps or seen.steps), folder)
    else:
        raise unknown("recipe", name, [*recipes.RECIPES, *others])


def make_of_images(images: Path, size: int, folder: Path, steps: int | None = None, place: Place | None = None) -> None:
    """Train on a folder of one's own images, see `folder.folder`; the model in `folder` is named as that is."""
    data = own_images(images, size)
    recipe = recipes.for_images(data.name, data.train.shape[1], size, len(data.classes), len(data.train))
    _diffusion(folder.resolve().name, replace(recipe, steps=steps or recipe.steps), data, folder, place)


AnyRecipe = Recipe | RecogniserRecipe | ClassifierRecipe | SegmenterRecipe


def _card(kind: str, recipe: AnyRecipe, data: Images, net: nn.Module, seconds: float) -> zoo.Card:
    """What is known of every model before it is measured."""
    return {
        "kind": kind,
        "recipe": asdict(recipe),
        "data_digest": data.digest,
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": round(seconds),
        "hardware": hardware(),
        "torch": torch.__version__,
    }


def hardware() -> str:
    """What a wall time was measured on, for cards."""
    kind = best_device().type
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads" if kind == "cpu" else kind.upper()


def _diffusion(name: str, recipe: Recipe, data: Images, folder: Path, place: Place | None) -> None:
    trained = train(recipe, data, folder, place=place)
    if place is not None and not place.leads:
        return
    card = _card("diffusion", recipe, data, trained.net, trained.log[-1].seconds)
    card |= {"size": data.train.shape[-1], "classes": list(data.classes)}
    zoo.save(name, trained.ema, card, folder)
    measure(name, folder, data)


def measure(name: str, folder: Path, data: Images) -> None:
    """Measure a model as it lies in `folder`, in half precision, and write the results into its card."""
    net, card = zoo.load_network(name, folder)
    eps_net, schedule = zoo.load(name, folder)
    recipe = Recipe(**card["recipe"])

    steps = recipe.T or 1000
    times = [t / steps * schedule.T for t in (1, 10, 50, *range(100, steps + 1, 100)) if t <= steps]
    table = probing.eps_by_level(eps_net, schedule, data, times, labelled=net.classes > 0)
    print(
        "eps error by noise level (doing nothing: 1)\n" + " ".join(f"{t:>9}" for t in ["t", *(f"{t:g}" for t in times)])
    )
    for label, row in table.items():
        print(f"{label:>9} " + " ".join(f"{v:9.4f}" for v in row.tolist()))
    plots.save(plots.loss_by_level(times, table), folder / "loss-by-level.png")

    judge = f"{data.name}-recogniser"
    known = judge in zoo.names() and zoo.card(judge)["data_digest"] == data.digest  # not by the name alone
    grid, n = recipe.times(50), 2000 if known else 200
    labels = metrics.balanced_labels(n, net.classes)
    settings: metrics.Settings = {"weights": "ema", "sampler": "ancestral", "steps": len(grid) - 1, "seed": 0}
    samples = metrics.sample(eps_net, schedule, n, data.train.shape[1:], grid, 0, labels)
    plots.save(plots.grid(samples[:100]), folder / "samples.png")
    if known:
        results = metrics.quality(zoo.load_recogniser(judge), data, samples, labels, settings)
    else:
        results = metrics.guards(data, samples, settings)
    for result in results:
        print(f"{result.metric:>12}: {result.value:.3f} +- {result.error:.3f} of what real images reach")
    zoo.save(name, net, card | {"metrics": [asdict(result) for result in results]}, folder)


def _recogniser(name: str, recipe: RecogniserRecipe, folder: Path) -> None:
    data, began = DATASETS[recipe.data](), time.perf_counter()
    net = metrics.train_recogniser(data, recipe.epochs, recipe.seed, partial(metrics.Recogniser, **recipe.net))
    card = _card("recogniser", recipe, data, net, time.perf_counter() - began)
    zoo.save(name, net, card, folder)
    net = zoo.load_recogniser(name, folder)  # what is shipped: half-precision weights
    measured = {
        "test_accuracy": metrics.accuracy(net, data.test, data.test_labels),
        "real_recognised": metrics.recognised(net, data.test, data.test_labels),
    }
    print(f"{name}: {measured}")
    zoo.save(name, net, card | measured, folder)


def _classifier(name: str, recipe: ClassifierRecipe, folder: Path) -> None:
    """Its accuracy is by noise level, on test images, beside the training set's."""
    data, began = DATASETS[recipe.data](), time.perf_counter()
    net = train_classifier(recipe, data)
    card = _card("classifier", recipe, data, net, time.perf_counter() - began)
    zoo.save(name, net, card, folder)
    net, schedule = zoo.load_classifier(name, folder)
    times, n = [1, 50, *range(100, recipe.T + 1, 100)], 1000
    rows: dict[str, Classifier] = {"classifier": net, "by heart": probing.by_heart_classifier(data, schedule)}
    table = {
        row: probing.accuracy_by_level(answers, schedule, data.test[:n], data.test_labels[:n], times)
        for row, answers in rows.items()
    }
    shares = {row: [round(share, 4) for share in accuracies.tolist()] for row, accuracies in table.items()}
    accuracy: dict[str, object] = {"n": min(n, len(data.test)), "split": "test", "times": times} | shares
    print(f"{name}: accuracy by noise level {accuracy}")
    zoo.save(name, net, card | {"accuracy": accuracy}, folder)


def _segmenter(name: str, recipe: SegmenterRecipe, folder: Path) -> None:
    data, began = DATASETS[recipe.data](), time.perf_counter()
    net = train_segmenter(recipe, data)
    card = _card("segmenter", recipe, data, net, time.perf_counter() - began)
    zoo.save(name, net, card, folder)
    held_out = touching_digits(data.test, data.test_labels, HELD_OUT, torch.Generator().manual_seed(1))
    seen = metrics.segment(zoo.load_segmenter(name, folder), held_out.images)
    measured = {"mean_iou": metrics.mean_iou(metrics.confusion(seen, held_out.classes, 11), 10)}
    print(f"{name}: {measured}")
    zoo.save(name, net, card | measured, folder)
