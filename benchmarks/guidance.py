"""Guidance over its scale, on the digits and on MNIST; writes guidance.md beside this file.

    python benchmarks/guidance.py [digits] [mnist]

Half an hour on one core for the digits, and three times that for MNIST, whose files are wanted: see data/README.md.
Samples are kept in build/guidance/, and a run that was stopped goes on where it was.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from measure import kept, table, weights
from torch import Tensor
from tqdm import tqdm

from ddpm_path.guidance import class_score, classifier_guided, clip_x0, guided_network, threshold_x0, within
from ddpm_path.lab import datasets, metrics, zoo
from ddpm_path.losses import Network
from ddpm_path.samplers import decode, start_noise
from ddpm_path.schedule import EpsFn, Schedule, uniform_times

HERE = Path(__file__).parent
KEPT = HERE.parent / "build" / "guidance"
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
SAMPLES, STEPS = {"digits": 500, "mnist": 500}, 10
Guided = Callable[[str, Network, Schedule, Tensor], EpsFn]
"""A row of the table: a model's name, its network, schedule and labels (B,) to what the sampler asks."""


def free(scale: float) -> Guided:
    """Classifier-free guidance; at scale 1 the conditional model itself, in one call."""
    return lambda model, net, schedule, labels: partial(
        net if scale == 1 else guided_network(net, 10, scale), label=labels
    )


def by_classifier(scale: float) -> Guided:
    """The conditional model guided by the noisy classifier of its zoo."""

    def guided(model: str, net: Network, schedule: Schedule, labels: Tensor) -> EpsFn:
        score = class_score(zoo.load_classifier(f"{model}-classifier")[0], labels)
        return classifier_guided(partial(net, label=labels), score, schedule, scale)

    return guided


def in_interval(guided: Guided, low: float, high: float) -> Guided:
    """Guidance at the middle noise levels, the conditional model elsewhere."""
    plain = free(1.0)
    return lambda model, net, schedule, labels: within(
        guided(model, net, schedule, labels), plain(model, net, schedule, labels), schedule, low, high
    )


def limited(guided: Guided, limit: Callable[[EpsFn, Schedule], EpsFn] = clip_x0) -> Guided:
    """What guidance makes of x_0 is held in range, by clipping if nothing else is said."""
    return lambda model, net, schedule, labels: limit(guided(model, net, schedule, labels), schedule)


ROWS: dict[str, Guided] = {
    **{f"scale {scale:g}": limited(free(scale)) for scale in SCALES},
    **{f"classifier, scale 1 + {scale - 1:g}": limited(by_classifier(scale - 1)) for scale in SCALES[1:]},
    "scale 8, dynamic thresholding": limited(free(8.0), threshold_x0),
    "scale 4 in [0.28, 2.9]": limited(in_interval(free(4.0), 0.28, 2.9)),
}


def draw(model: str, name: str, part: int = 20) -> Tensor:
    """The samples of a row, in parts that fit a CPU's cache, and are kept."""
    net, schedule = zoo.load(model)
    n, size = SAMPLES[model], zoo.card(model)["size"]
    x, labels = start_noise(n, (1, size, size), torch.Generator().manual_seed(0)), torch.arange(n) % 10
    folder = KEPT / weights(model, f"{model}-classifier") / name.replace(",", "").replace(" ", "-")

    def walk(i: int) -> Tensor:
        eps_fn = ROWS[name](model, net, schedule, labels[i : i + part])
        return decode(eps_fn, schedule, x[i : i + part], uniform_times(schedule.T, STEPS))

    starts = tqdm(range(0, n, part), desc=f"{model}, {name}")
    return torch.cat([kept(folder / f"{i:04d}.pt", partial(walk, i)) for i in starts])


def measured(model: str) -> Iterator[str]:
    """The table of a model: what guidance buys, and what it costs."""
    n, data = SAMPLES[model], datasets.DATASETS[model]()
    recogniser = zoo.load_recogniser(f"{model}-recogniser")
    test, labels = data.test[:1000], torch.arange(n) % 10
    at = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:n]
    images = {"real training images": (data.train[at], data.train_labels[at])}
    images |= {name: (draw(model, name), labels) for name in ROWS}
    traded = {name: metrics.trade_off(recogniser, test, x, label) for name, (x, label) in images.items()}
    features = {name: recogniser.features(x) for name, (x, _) in images.items()}
    real, rows = recogniser.features(test), []

    def nearer(name: str, than: str) -> tuple[float, float]:
        return metrics.kernel_difference(features[than], features[name], real)

    for name, (x, label) in images.items():
        doubt = 1 - recogniser.log_probs(x).exp()[torch.arange(n), label].mean()
        gain = (
            "" if name in ("real training images", "scale 1") else "{:+.1f} ± {:.1f}".format(*nearer(name, "scale 1"))
        )
        good, cover = ([100 * float(part[0]), 100 * float(part[1:].std())] for part in traded[name])
        distance = metrics.kernel_distance(features[name], real)
        shares = [f"{value:.1f} ± {error:.1f}%" for value, error in (good, cover)]
        rows.append([name, shares[0], f"{doubt:.4f}", shares[1], f"{distance:.1f}", gain])
    heads = ["guidance", "recognised", "doubt", "coverage", "kernel distance", "that of scale 1 less this one's"]
    yield table(heads, rows)

    (good1, cover1), (good3, _), (_, cover8) = (traded[f"scale {s}"] for s in (1, 3, 8))
    free_curve = [traded[f"scale {s:g}"] for s in SCALES]
    other = [traded["scale 1"], *(traded[f"classifier, scale 1 + {s - 1:g}"] for s in SCALES[1:])]
    level = (cover1 + torch.maximum(cover8, other[-1][1])) / 2
    margins = {
        "recognised, scale 3 less scale 1": good3 - good1,
        "coverage, scale 1 less scale 8": cover1 - cover8,
        "recognised at equal coverage, classifier-free less classifier": metrics.at_coverage(free_curve, level)
        - metrics.at_coverage(other, level),
    }
    rows = [[what, f"{draws[0]:+.4f} ± {draws[1:].std():.4f}"] for what, draws in margins.items()]
    for what, name, than in (
        ("kernel distance at scale 8, clipping less dynamic thresholding", "scale 8, dynamic thresholding", "scale 8"),
        ("kernel distance at scale 4, everywhere less in the interval", "scale 4 in [0.28, 2.9]", "scale 4"),
    ):
        rows.append([what, "{:+.1f} ± {:.1f}".format(*nearer(name, than))])
    yield table(["difference", "and its standard error"], rows)


TEXT = """# Guidance over its scale

Made by `python benchmarks/guidance.py {models}`; torch {torch}.

Latents with balanced labels, the same for all rows; DDIM in 10 steps from T; x_0 clipped after guidance, where no
other limit is named. `scale s`: classifier-free, 1 being the conditional model. `classifier, scale 1 + w`: the
conditional model guided by the noisy classifier at w, which with exact models would be the row `scale 1 + w`.

Recognised: seen as its own class with confidence above 0.9 by a small classifier trained apart. Doubt: 1 less the
probability that it gives the class, on average. Coverage: the share of test images with a sample nearer than their
fifth test neighbour, in pixels; the first row has what as many real images reach. Kernel distance: cubic, unbiased, in
that classifier's features. Errors from 200 bootstrap draws of latents, the same for all rows.

{parts}
"""


def main() -> None:
    """Measure the models and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(SAMPLES), help="of the zoo (default: %(default)s)")
    models = parser.parse_args().models
    if not set(models) <= set(SAMPLES):
        parser.error(f"models are {', '.join(SAMPLES)}; got {', '.join(models)}")
    parts = [f"## {model}, {SAMPLES[model]:,} latents\n\n" + "\n\n".join(measured(model)) for model in models]
    page = TEXT.format(models=" ".join(models), torch=torch.__version__, parts="\n\n".join(parts))
    (HERE / "guidance.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
