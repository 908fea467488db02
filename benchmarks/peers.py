"""The packages that one would pick instead: speed at one parameter count, and quality for a given time of training.

    python benchmarks/peers.py --speed --quality

Writes peers.md and peers.png beside this file from all that is done so far, which is kept in build/peers/; without
arguments it does no more than that. Speed takes some ten minutes, quality some days on two cores: stop it at will, it
goes on where it was, and look at --help for less of it. MNIST's files are wanted, see data/README.md. `make bench`
makes the environment with the peers; by hand: pip install '.[test]' && pip install --no-deps -r
benchmarks/requirements.txt
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import growth, in_turns, kept, machine, peak, table, work
from packages import PACKAGES
from torch import Tensor
from tqdm import tqdm

from ddpm_path.lab import datasets, metrics, plots, zoo
from ddpm_path.lab.files import replacing

HERE = Path(__file__).parent
KEPT = HERE.parent / "build" / "peers"
ROUNDS, BATCH, PART = 20, 64, 32
TRIAL, WARM_UP = 20, 3
COVERED = 0.9  # the least coverage with which it counts what is recognised
WORKS = ("forward", "training step")
VERSIONS = ("diffusers", "denoising-diffusion-pytorch", "smalldiffusion")
Results = list[dict[str, Any]]


# --- speed at one parameter count


def alike(name: str, what: str) -> Callable[[], None]:
    """A forward pass or a training step of a package's network with about as many parameters as ours, on noise."""
    package = PACKAGES[name]
    net = package.make(**package.alike)
    x, t = torch.randn(BATCH, 1, package.side, package.side), torch.full((BATCH,), 500.0)
    return work(what, package.ask, net, x, t)


def speed() -> None:
    """Measure all packages in turns, and memory in processes of their own."""
    found: dict[str, Any] = {"machine": machine(*VERSIONS), "seconds": {}, "memory": {}}
    for what in WORKS:
        found["seconds"][what] = in_turns({name: alike(name, what) for name in PACKAGES}, ROUNDS, what)
        found["memory"][what] = {name: peak(__file__, name, what) for name in PACKAGES}
    found["parameters"] = {name: parameters(name, package.alike) for name, package in PACKAGES.items()}
    with replacing(KEPT / "speed.json") as path:
        path.write_text(json.dumps(found), encoding="utf-8")


def parameters(name: str, form: dict[str, Any]) -> int:
    """How many a network has."""
    return sum(p.numel() for p in PACKAGES[name].make(**form).parameters() if p.requires_grad)


# --- quality for a given time


class Job(NamedTuple):
    """A network of a package, trained for `budget` seconds."""

    package: str
    form: str
    seed: int
    budget: int

    @property
    def folder(self) -> Path:
        """Where its network, samples and results are kept."""
        return KEPT / f"{self.package}-{self.form}" / f"{self.budget}-seconds-seed-{self.seed}"


def plan(names: Sequence[str], seeds: Sequence[int], budgets: Sequence[int], smaller: int) -> Iterator[list[Job]]:
    """What to train, jobs of one run together: documented networks first, then smaller ones.

    Of these all are trained with the first seed only, and the best of them at a budget with the others.
    """

    def run(name: str, form: str, seed: int, budgets: Sequence[int] = budgets) -> list[Job]:
        return [Job(name, form, seed, budget) for budget in budgets]

    for seed in seeds:
        yield from (run(name, next(iter(PACKAGES[name].forms)), seed) for name in names)
    for name in names if smaller else ():
        yield from (run(name, form, seeds[0]) for form in list(PACKAGES[name].forms)[1 : 1 + smaller])
        for seed in seeds[1:]:
            yield from (run(name, best_smaller(results(), name, budget), seed, [budget]) for budget in budgets)


def best_smaller(found: Results, name: str, budget: int) -> str | None:
    """The smaller network of a package with the least kernel distance with the first seed; None if none is measured.

    By as many samples and calls as all that were tried have in common.
    """
    documented = next(iter(PACKAGES[name].forms))
    mine = [r for r in found if (r["package"], r["budget"]) == (name, budget) and r["form"] != documented]
    first = [r for r in mine if r["seed"] == min(r["seed"] for r in mine)]
    by_amount: dict[tuple[int, int], dict[str, float]] = {}
    for r in first:
        by_amount.setdefault((r["n"], r["calls"]), {})[r["form"]] = r["metrics"]["kernel distance"][0]
    if not by_amount:
        return None
    distances = by_amount[max(by_amount, key=lambda amount: (len(by_amount[amount]), amount))]
    return min(distances, key=lambda form: distances[form])


def shown_forms(found: Results, name: str, budget: int) -> list[str]:
    """What the page has of a package: its documented network and, if one is measured, the best smaller one."""
    forms = (next(iter(PACKAGES[name].forms)), best_smaller(found, name, budget))
    return [form for form in forms if form is not None]


def smaller_tried(found: Results) -> Iterator[str]:
    """A line for each budget: the smaller networks of each package that were measured."""
    for budget in sorted({r["budget"] for r in found}):
        measured = {(r["package"], r["form"]) for r in found if r["budget"] == budget}
        tried = {
            name: [form for form in list(package.forms)[1:] if (name, form) in measured]
            for name, package in PACKAGES.items()
        }
        yield f"- {budget} seconds: " + "; ".join(
            f"{name} {', '.join(forms)}" for name, forms in tried.items() if forms
        )


def paces(names: Sequence[str]) -> dict[str, float]:
    """Seconds a training step of each network of these packages, measured where that is not done yet."""
    path = KEPT / "paces.json"
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names:
        for form, settings in PACKAGES[name].forms.items():
            if f"{name}, {form}" in found:
                continue
            ends = PACKAGES[name].trial(settings, TRIAL)
            found[f"{name}, {form}"] = statistics.median(b - a for a, b in pairwise(ends[WARM_UP:]))
            found["machine"] = machine(*VERSIONS)
            with replacing(path) as part:
                part.write_text(json.dumps(found), encoding="utf-8")
    return found


def do(jobs: list[Job], n: int, calls: Sequence[int]) -> None:
    """Train, sample and measure what is not there yet."""
    wanted = sorted([job for job in jobs if not (job.folder / "net.pt").exists()], key=lambda job: job.budget)
    if wanted:
        package, form, seed, _ = wanted[0]
        print(f"{package}, {form}, seed {seed}", flush=True)
        pace = paces([])[f"{package}, {form}"]
        steps = [max(1, int(job.budget / pace)) for job in wanted]
        nets = PACKAGES[package].train(PACKAGES[package].forms[form], steps, seed)
        for job, net, each in zip(wanted, nets, steps, strict=True):
            with replacing(job.folder / "net.pt") as part:
                torch.save({"steps": each, "weights": net.state_dict()}, part)
    for job in jobs:
        for each in calls:
            path = job.folder / f"{each}-calls-{n}.json"
            if path.exists():
                continue
            facts = torch.load(job.folder / "net.pt", weights_only=True)
            facts["metrics"] = judged(samples(job, facts.pop("weights"), n, each))
            facts["parameters"] = parameters(job.package, PACKAGES[job.package].forms[job.form])
            with replacing(path) as part:
                part.write_text(json.dumps(job._asdict() | facts | {"n": n, "calls": each}), encoding="utf-8")


def samples(job: Job, weights: dict[str, Tensor], n: int, calls: int) -> Tensor:
    """n images (n, 1, 28, 28), in parts that are kept."""
    package = PACKAGES[job.package]
    net = package.make(**package.forms[job.form])
    net.load_state_dict(weights)
    net.eval()

    def draw(i: int) -> Tensor:
        torch.manual_seed(1_000_000 * (job.seed + 1) + i)
        return package.draw(net, PART, calls)

    starts = tqdm(range(0, n, PART), desc=f"{job.package}, {calls} calls")
    return torch.cat([kept(job.folder / f"{calls}-calls" / f"{i:04d}.pt", partial(draw, i)) for i in starts])[:n]


def judged(images: Tensor) -> dict[str, tuple[float, float]]:
    """The lab's metrics of images and their standard errors; Frechet distance from 2,000 images on."""
    data, recogniser, n = mnist(), zoo.load_recogniser("mnist-recogniser"), len(images)
    recognised, *guards = metrics.quality(recogniser, data, images, None, {})
    found = {"recognised": (recognised.value, recognised.error)}
    found |= {guard.metric: (guard.value, guard.error) for guard in guards}
    at = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:n]
    seen, test = recogniser.features(images), recogniser.features(data.test[at])
    found["kernel distance"] = (metrics.kernel_distance(seen, test), metrics.kernel_error(seen, test))
    if n >= 2000:
        draws = torch.randint(n, (100, n), generator=torch.Generator().manual_seed(0))
        spread = [metrics.frechet_distance(seen[draw], test) for draw in draws]
        found["Frechet distance"] = (metrics.frechet_distance(seen, test), statistics.stdev(spread))
    return found


mnist = cache(datasets.mnist)


# --- the page


def results() -> Results:
    """All that were measured."""
    paths = sorted(KEPT.glob("*/*/*-calls-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def speeds(found: dict[str, Any]) -> str:
    """The tables of speed and memory, ratios first."""
    seconds = {what: {k: statistics.median(v) for k, v in found["seconds"][what].items()} for what in WORKS}
    heads, ratios, rows = ["package", "parameters"], [], []
    for name, count in found["parameters"].items():
        rate, memory = [], []
        for what in WORKS:
            low, middle, high = (BATCH / s for s in statistics.quantiles(found["seconds"][what][name], n=4)[::-1])
            rate.append(f"{middle:.0f} ({low:.0f} to {high:.0f})")
            memory.append(f"{found['memory'][what][name]:.0f} MiB")
        times = [seconds[what][name] / seconds[what]["here"] for what in WORKS]
        sizes = [found["memory"][what][name] / found["memory"][what]["here"] for what in WORKS]
        ratios.append([name, f"{count:,}", *(f"{value:.2f}" for value in times + sizes)])
        rows.append([name, *rate, *memory])
    ratio_heads = [f"{thing}, {what}" for thing in ("time", "memory") for what in WORKS]
    value_heads = [f"{thing}, {what}" for thing in ("images/s", "memory") for what in WORKS]
    return table(heads + ratio_heads, ratios) + "\n\n" + table(["package", *value_heads], rows)


def qualities(found: Results) -> Iterator[str]:
    """A table for each budget, number of calls and number of samples; the best of each column in bold."""
    for budget, calls, n in sorted({(r["budget"], r["calls"], r["n"]) for r in found}):
        here = [r for r in found if (r["budget"], r["calls"], r["n"]) == (budget, calls, n)]
        groups = {}
        for name in PACKAGES:
            for form in shown_forms(found, name, budget):
                group = [r for r in here if (r["package"], r["form"]) == (name, form)]
                if group:
                    groups[f"{name}, {form}"] = group
        if not groups:  # neither documented nor the best
            continue
        heads = ["network", *next(iter(groups.values()))[0]["metrics"]]
        means = {row: {metric: mean(group, metric) for metric in heads[1:]} for row, group in groups.items()}
        counts = [row for row, found in means.items() if found["coverage"][0] >= COVERED] or list(means)
        rows = []
        for row, group in groups.items():
            cells = []
            for metric, (value, error) in means[row].items():
                rivals = counts if metric == "recognised" else means
                best = BEST[metric](means[rival][metric][0] for rival in rivals)
                cells.append(shown(value, error, best) if row in rivals else f"({shown(value, error, math.nan)})")
            cost = [group[0]["parameters"], group[0]["steps"], len(group)]
            rows.append([row, *cells, *(f"{value:,}" for value in cost)])
        yield f"### {budget} seconds of training, {calls} network calls, {n:,} samples"
        yield table([*heads, "parameters", "steps", "seeds"], rows)


def picture(found: Results) -> None:
    """The first samples of each network of the page after the longest training, a row each, beside the page."""
    budget, seed, rows = max(r["budget"] for r in found), min(r["seed"] for r in found), {}
    for name in PACKAGES:
        for form in shown_forms(found, name, budget):
            path = Job(name, form, seed, budget).folder / "50-calls" / "0000.pt"
            if path.exists():
                rows[f"{name}, {form}"] = torch.load(path, weights_only=True)[:20]
    if rows:
        plots.save(plots.grid(torch.cat(list(rows.values())), 20, rows=tuple(rows)), HERE / "peers.png")


BEST: dict[str, Callable[[Iterable[float]], float]] = {
    "recognised": max,
    "coverage": max,
    "novelty": partial(min, key=lambda value: abs(value - 1)),
    "kernel distance": min,
    "Frechet distance": min,
}


def mean(group: Results, metric: str) -> tuple[float, float]:
    """Over seeds, and its standard error: the results' own, or that of their spread if it is larger.

    The spread of two or three can be small by chance, but no mean is surer than what it is made of.
    """
    values, errors = zip(*(r["metrics"][metric] for r in group), strict=True)
    own = math.hypot(*errors) / len(values)
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.mean(values), max(own, spread)


def shown(value: float, error: float, best: float) -> str:
    """A cell."""
    text = f"{value:.3f} ± {error:.3f}" if abs(value) < 10 else f"{value:,.1f} ± {error:.1f}"
    return f"**{text}**" if value == best else text


TEXT = """# Beside the packages that one would pick instead

Made by `python benchmarks/peers.py --speed --quality`.

{speed}

## Quality for a given time

Every package trains on MNIST's 60,000 training images without labels for the same time on the same machine, and then
samples without guidance. Only training is timed: how long a step takes, batches and moving average included, is
measured first, on the machine at rest (the median of {trial} steps), and then as many steps are made as fit into the
time. Of each package there is its documented network and the best of three smaller ones: all three are trained with
the first seed, and the one with the least kernel distance is taken. Tried so far:

{tried}

Recognised: the share that a small classifier, trained apart, sees as any digit with confidence above 0.9, over that of
the test images. Noise is recognised, too, which its guard tells: in brackets, and out of the running, is what has a
coverage below {covered}. Coverage: the share of test images with a sample nearer than their fifth test neighbour, in
pixels, over that of as many training images. Novelty: median distance to the nearest training image, over that of test
images; copies have 0, and what is well above 1 is noise. Kernel distance: cubic, unbiased, in that classifier's
features, from as many test images; Frechet distance in the same. Errors are standard errors over images, or over
seeds, where they spread more. Best of each column in bold, for novelty the nearest to 1. Rows that one misses are not
measured yet: the command above goes on with them.

The first twenty of each after the longest training, 50 network calls, none chosen:

![Digits in rows: clear in the two of this package, else on grey, in blots or in noise.](peers.png)

{quality}

## Settings

All have one thread count, float32, images in memory, and no mirroring, which digits do not stand (the second and third
peer mirror by default). Where a package has no settings for MNIST, those of its nearest example are taken:

- **here**: the recipe `mnist` without labels; DDIM's sampler on an even grid, x_0 clipped, with eta = 2 for 50 calls,
  3 for 250. Its learning rate falls to 0 at the end of each budget, so there is a run for each. The smaller networks
  have higher rates and logit-normal times, one of them attention in the middle only. All this was chosen by trials on
  this very task, while the peers' settings were not searched.
- **diffusers**: the network, chain, batch of 128 and Adam at 1e-3 of the MNIST pages in Hugging Face's course on
  diffusion models (units 1 and 2), with the moving average of its training script for unconditional images (power 3/4,
  at most 0.9999); `DDPMPipeline`.
- **denoising-diffusion-pytorch**: the read-me's network, two batches of 32 to a step, Adam at 8e-5, moving average of
  0.995 every tenth step, gradients clipped at 1; MNIST in a frame that makes it 32 x 32, cut off afterwards; DDIM, as
  the read-me has it for 250 steps.
- **smalldiffusion**: its example of a U-Net on Fashion-MNIST: noise levels from 0.01 to 20, AdamW at 7e-4, moving
  average of 0.999, its sampler with gam 1.6. Batches of 64 where the example has 1,024, which would leave it a dozen
  steps. Its groups of 32 channels allow no width between 32 and 64, so smaller networks leave out blocks or widening.

{machines}
"""

SPEED = """## Speed at one parameter count

Networks of about as many parameters as the recipe `mnist` has without labels, each package's own at the nearest width
(ours works on patches of 2 x 2 pixels; `denoising-diffusion-pytorch` wants 32 x 32 pixels, the others have 28 x 28).
Medians and quartiles of {rounds} rounds in which they take turns, batch {batch}; a training step is an answer, its
gradients and Adam's step. Memory is what a process of its own takes at its peak beyond its imports. First as multiples
of ours, then as measured.

{tables}

Measured on {machine}.
"""


def page() -> str:
    """All that is measured so far."""
    found, path, speed = results(), KEPT / "speed.json", ""
    if path.exists():
        fast = json.loads(path.read_text(encoding="utf-8"))
        speed = SPEED.format(rounds=ROUNDS, batch=BATCH, tables=speeds(fast), machine=fast["machine"])
    quality = "\n\n".join(qualities(found)) or "Not measured yet."
    tried = "\n".join(smaller_tried(found))
    machines = f"Steps were timed on {paces([])['machine']}." if found else ""
    text = TEXT.format(
        speed=speed.strip(), quality=quality, trial=TRIAL - WARM_UP - 1, covered=COVERED, machines=machines, tried=tried
    )
    return text.rstrip() + "\n"


def write() -> None:
    """The page and its picture; without any quality measured here the page is printed, and the one there stays."""
    if not (found := results()):
        print(page())
        return
    (HERE / "peers.md").write_text(page(), encoding="utf-8")
    picture(found)


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure it")
    parser.add_argument("--quality", action="store_true", help="measure it, as far as the options below say")
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--budget", nargs="+", type=int, default=[300, 900], help="seconds of training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--calls", nargs="+", type=int, default=[50, 250], help="of the network, for a sample")
    parser.add_argument("--smaller", type=int, default=3, help="how many smaller networks to try")
    parser.add_argument("--peak", nargs=2, metavar=("PACKAGE", "WORK"), help="print one measurement of memory")
    options = parser.parse_args()
    if options.peak:
        print(growth(lambda: alike(*options.peak)))
        return
    if options.speed:
        speed()
    if options.quality:
        paces(options.packages)
        for jobs in plan(options.packages, options.seeds, options.budget, options.smaller):
            do(jobs, options.samples, options.calls)
            write()
    write()


if __name__ == "__main__":
    main()
