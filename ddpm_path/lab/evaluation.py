"""`python -m ddpm_path evaluate`: bits/dim by terms, a distance, recognition and guards, each with its settings."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_path.gaussian import fixed_large, fixed_small
from ddpm_path.guidance import clip_x0, on_eps
from ddpm_path.lab import datasets, metrics, probing, zoo
from ddpm_path.lab.datasets import Images
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.files import replacing
from ddpm_path.lab.metrics import Result, Settings
from ddpm_path.lab.recipes import Recipe
from ddpm_path.losses import Reverse, learned_reverse
from ddpm_path.samplers import Variance

VARIANCES: dict[str, Variance] = {"small": fixed_small, "large": fixed_large}
STRATA = 40


class Evaluation(NamedTuple):
    """All results of a model, and what could not be measured, in words."""

    name: str
    results: list[Result]
    missing: list[str]


def evaluate(
    name: str,
    images: int = 100,
    samples: int = 500,
    steps: int = 25,
    variance: str | None = None,
    seed: int = 0,
    folder: Path = zoo.ZOO,
) -> Evaluation:
    """Measure a diffusion model, by default within minutes on one core.

    Bits/dim and their terms: of the first `images` test images along the whole chain, by `probing.bits`, x_0 clipped,
    with the true labels where the model has classes. `variance` is the bound's, `small` or `large`; None leaves it to
    the model: the learned one, or else large. Distance, recognition and guards: of `samples` samples with balanced
    labels, drawn in `steps` steps with the small variance. MNIST's test images are the 2,000 shipped ones, half of
    them the hold-out of the coverage. ValueError for names and numbers that do not exist.
    """
    recipe = Recipe(**zoo.load_network(name, folder)[1]["recipe"])
    real, source = _data(recipe.data)
    if variance is not None and variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    if not 2 <= images <= len(real.test):
        raise ValueError(f"{images} images: choose from 2 to the {len(real.test)} test images of {recipe.data}")
    if samples < 50:
        raise ValueError(f"{samples} samples are too few for distances and guards: draw 50 or more")
    coded, no_bits = _bits(name, folder, recipe, real, images, variance, seed)
    drawn, no_copies = _samples(name, folder, recipe, real, source, samples, steps, seed)
    return Evaluation(name, coded + drawn, no_bits + no_copies)


def _bits(
    name: str, folder: Path, recipe: Recipe, real: Images, n: int, variance: str | None, seed: int
) -> tuple[list[Result], list[str]]:
    schedule = recipe.schedule()
    last = float(schedule(schedule.T)[1])
    if last > 1:
        return [], [f"no bits/dim: the bound's prior is N(0, I), and the schedule ends at std {last:g}"]
    labels, chain = real.test_labels[:n] if recipe.net.get("classes") else None, recipe.times(1000)
    reverse = step_back(name, chain, variance, labels, folder)
    measured = probing.bits(reverse, schedule, real.test[:n], chain, STRATA, seed, f"bits of {n} images")
    settings: Settings = {"weights": "ema", "data": recipe.data, "split": "test", "n": n}
    settings |= {"levels": len(chain) - 1, "strata": STRATA, "labels": "none" if labels is None else "true"}
    settings |= {"variance": variance or "the model's", "x_0": "clipped", "seed": seed}
    parts = {"bits/dim": measured.total, **measured._asdict()}
    return [Result(part, float(x.mean()), float(x.std()) / math.sqrt(n), settings) for part, x in parts.items()], []


def step_back(
    name: str,
    times: Sequence[float],
    variance: str | None = None,
    labels: Tensor | None = None,
    folder: Path = zoo.ZOO,
) -> Reverse:
    """A shipped model's step back along `times`, x_0 clipped, for `probing.bits`.

    variance: `small` or `large`; None is the model's own, the one that it learned, or else large.
    """
    if variance is None and Recipe(**zoo.load_network(name, folder)[1]["recipe"]).learned:
        full, schedule = zoo.load_learned(name, folder)
        clipped = on_eps(metrics.in_parts(full, labels), lambda eps_fn: clip_x0(eps_fn, schedule))
        return learned_reverse(clipped, schedule, times)
    net, schedule = zoo.load(name, folder)
    return probing.clipped_reverse(net, schedule, labels, VARIANCES[variance or "large"], times)


def _samples(
    name: str, folder: Path, recipe: Recipe, real: Images, source: Images | None, n: int, steps: int, seed: int
) -> tuple[list[Result], list[str]]:
    if f"{recipe.data}-recogniser" not in zoo.names():
        return [], [f"no distance, recognition or guards: there is no {recipe.data}-recogniser"]
    recogniser = zoo.load_recogniser(f"{recipe.data}-recogniser")
    net, schedule = zoo.load(name, folder)
    times, labels = recipe.times(steps), metrics.balanced_labels(n, int(recipe.net.get("classes", 0)))  # type: ignore[arg-type]
    drawn = metrics.sample(net, schedule, n, real.test.shape[1:], times, seed, labels)
    settings: Settings = {"weights": "ema", "sampler": "ancestral", "steps": len(times) - 1, "seed": seed}
    settings["labels"] = "none" if labels is None else "balanced"
    results = [_distance(recogniser.features(real.test), recogniser.features(drawn), recipe.data, settings)]
    recognised, coverage, novelty = metrics.quality(recogniser, real, drawn, labels, settings)
    if source is None:
        return [*results, recognised, coverage], ["no novelty: MNIST's training images are not on this machine"]
    if source is not real:
        *_, novelty = metrics.guards(source, drawn, settings)
    return [*results, recognised, coverage, novelty], []


def _data(name: str) -> tuple[Images, Images | None]:
    """The images to measure against, and the training set that samples may copy, None if it is not here."""
    if name != "mnist":
        data = datasets.DATASETS[name]()
        return data, data
    images, labels = datasets.mnist_sample()
    halves = Images(name, images[1000:], labels[1000:], images[:1000], labels[:1000], tuple("0123456789"))
    try:
        return halves, datasets.mnist()
    except FileNotFoundError:
        return halves, None


def _distance(real: Tensor, drawn: Tensor, data: str, settings: Settings) -> Result:
    """The kernel distance of features: Frechet's would need 2,000 test images, more than there are."""
    settings = settings | {"data": data, "split": "test", "real": len(real), "n": len(drawn)}
    parts = torch.tensor([metrics.kernel_distance(real, part) for part in drawn.chunk(5)])  # each unbiased
    return Result("kernel", metrics.kernel_distance(real, drawn), float(parts.std()) / math.sqrt(5), settings)


def report(evaluation: Evaluation) -> str:
    """One line a result, value and standard error, grouped under the settings that they share."""
    lines, shown = [evaluation.name], None
    for result in evaluation.results:
        if result.settings != shown:
            shown = result.settings
            lines.append("  " + ", ".join(f"{key} {value}" for key, value in shown.items()))
        lines.append(f"    {result.metric:10} {result.value:9.4f} +- {result.error:.4f}")
    return "\n".join(lines + [f"  {line}" for line in evaluation.missing])


def comparison(one: Evaluation, other: Evaluation) -> str:
    """The differences, one less the other, of the metrics that both have; ValueError for none, or other settings.

    The errors are those of independent measurements; where both models met the same images and noise they are smaller.
    """
    found = {result.metric: result for result in other.results}
    both = [(result, found[result.metric]) for result in one.results if result.metric in found]
    if not both:
        raise ValueError(f"{one.name} and {other.name} have no metric in common")
    lines = [f"{one.name} less {other.name}"]
    for result, against in both:
        try:
            difference, error = result.minus(against)
        except ValueError as refusal:
            raise ValueError(f"{result.metric} of {one.name} and {other.name}: {refusal}") from None
        lines.append(f"    {result.metric:10} {difference:+9.4f} +- {error:.4f}")
    return "\n".join(lines)


def save(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as JSON, for a later `--against`."""
    with replacing(path) as part:
        part.write_text(json.dumps(evaluation._asdict() | {"results": list(map(asdict, evaluation.results))}, indent=2))


def read(path: Path) -> Evaluation:
    """An evaluation that `save` wrote; ValueError for a file of anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = [Result(**result) for result in content["results"]]
        return Evaluation(content["name"], results, content["missing"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no evaluation ({error}): write one with --save") from error
