"""The command line: list the path, run it, train a model, draw samples, evaluate."""

import argparse
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

MULTISTEP = ("f-pndm", "s-pndm", "plms", "runge-kutta")

# What a command needs is imported inside it: torch and Jupyter take seconds, and --help should not wait.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and answer its exit status; what the user can mend is one line and status 2."""
    options = vars(_parser().parse_args(arguments))
    try:
        return COMMANDS[options.pop("command")](**options) or 0
    except BrokenPipeError:  # of `... list | head`: Python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"ddpm-path: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddpm-path: interrupted. A training goes on from its last checkpoint if called again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddpm-path", description="Diffusion models from their papers to code.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the roadmap as a table: stops, papers, notebooks, claims")

    path = commands.add_parser("run", help="execute notebooks; pages and index.html go to build/path/")
    path.add_argument("notebooks", nargs="*", metavar="NN", help="numbers or names of notebooks; all if none are given")

    commands.add_parser("doctor", help="look for what is missing or wrong on this machine, and how to mend it")

    training = commands.add_parser("train", help="make a shipped model again, or one of your own images")
    training.add_argument("name", metavar="NAME", nargs="?", help="a recipe: digits, mnist-classifier, ...")
    training.add_argument("--data", type=Path, metavar="FOLDER", help="instead of NAME: images to train on")
    training.add_argument("--size", type=_positive, help="with --data: pixels a side (default: 32)")
    training.add_argument("--out", type=Path, help="folder (default: build/train/NAME)")
    training.add_argument("--steps", type=_positive, help="training steps (default: the recipe's)")
    training.add_argument("--bf16", action="store_true", help="on a GPU: the network's products in bfloat16")
    training.add_argument("--compile", action="store_true", help="run the network through torch.compile")

    asking = commands.add_parser("diagnose", help="one page on a training: what is wrong with it, and what to do")
    asking.add_argument("folder", type=Path, metavar="FOLDER", help="where `train` writes, or wrote")
    asking.add_argument("--data", type=Path, metavar="IMAGES", help="the images, if it trains on your own")
    asking.add_argument("--size", type=_positive, help="with --data: pixels a side (default: 32)")

    sampling = commands.add_parser("sample", help="draw samples from a shipped model")
    sampling.add_argument("name", metavar="NAME", help="a model of the zoo (digits, mnist, ...) or a training's folder")
    sampling.add_argument(
        "--steps", type=int, help="sampling steps (default: every time from the start on; 1,000 on an SDE)"
    )
    sampling.add_argument(
        "--sampler",
        default="ancestral",
        help="ancestral (default), ancestral-large (DDIM's sigma-hat), ddim, " + ", ".join(MULTISTEP),
    )
    sampling.add_argument("--eta", type=float, help="of ddim: 0 (default) is deterministic, 1 is ancestral, 2 noisier")
    sampling.add_argument("--grid", default="uniform", help="times: uniform (default), leading, quadratic or ratio")
    sampling.add_argument("--start", type=int, help="first time (default: the last of the chain)")
    sampling.add_argument("--label", help="a class to draw (default: none)")
    sampling.add_argument("--scale", type=float, help="guide without a classifier: 1 (default) does not, 3 does well")
    sampling.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    sampling.add_argument("--n", type=_positive, default=16, help="number of samples (default: %(default)s)")
    sampling.add_argument("--out", type=Path, default=Path("grid.png"), help="PNG file (default: %(default)s)")

    judging = commands.add_parser("evaluate", help="bits/dim, a distance, recognition and guards of a shipped model")
    judging.add_argument("name", metavar="NAME", help="a diffusion model of the zoo: digits, mnist, ...")
    judging.add_argument("--images", type=_positive, default=100, help="that are coded (default: %(default)s)")
    judging.add_argument("--samples", type=_positive, default=500, help="that are drawn (default: %(default)s)")
    judging.add_argument("--steps", type=_positive, default=25, help="of the sampler (default: %(default)s)")
    judging.add_argument("--variance", help="of the bound: small or large (default: the model's own, or else large)")
    judging.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    judging.add_argument("--save", type=Path, metavar="FILE.json", help="write the results, for a later --against")
    judging.add_argument("--against", metavar="OTHER", help="compare with FILE.json, or with a model measured alike")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def listing() -> str:
    """The roadmap as a table of at most 120 columns."""
    from ddpm_path.lab import roadmap

    try:
        written = {path.stem for path in roadmap.notebooks_folder().glob("*.ipynb")}
    except FileNotFoundError:  # outside a clone the record alone tells what is built
        written = {notebook for stop in roadmap.STOPS for notebook in stop.notebooks}
    widths = (30, 38, 27, 5, 12)
    lines = [_row(("stop", "paper", "notebook", "state", "claims"), widths)]
    step = ""
    for stop in roadmap.STOPS:
        if stop.step != step:
            step = stop.step
            lines += ["", step]
        title = textwrap.wrap(stop.title, widths[0], break_on_hyphens=False)
        papers = [str(paper) for paper in stop.papers]
        state = "built" if roadmap.is_built(stop, written) else "open"
        notebooks, claims = [], []
        for notebook in stop.notebooks:  # each takes as many lines as its claims have states
            states = _states(notebook) or [""]
            claims += states
            notebooks += [notebook, *[""] * (len(states) - 1)]
        columns = [title, papers, notebooks, [state], claims]
        for i in range(max(map(len, columns))):
            lines.append(_row([column[i] if i < len(column) else "" for column in columns], widths))
    return "\n".join(lines)


def _states(notebook: str) -> list[str]:
    """How many claims of a notebook are in which state: ['2 hold', '1 fail']."""
    from ddpm_path.lab.record import State, claims_of

    words = {State.HOLDS: "hold", State.UNDECIDED: "undecided", State.FAILS: "fail", None: "to measure"}
    recorded = [claim.recorded for claim in claims_of(notebook)]
    return [f"{recorded.count(state)} {word}" for state, word in words.items() if state in recorded]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def run(notebooks: Sequence[str]) -> int:
    """Execute notebooks of the clone; the exit status is `runner.run`'s."""
    from ddpm_path.lab import roadmap

    folder = roadmap.notebooks_folder()  # before the import below, which takes seconds

    from ddpm_path.lab import runner

    return runner.run(notebooks, folder, folder.parent / "build" / "path")


def doctor() -> int:
    """Print what this machine has; status 1 if there is a problem."""
    from ddpm_path.lab.doctor import examine, report

    findings = examine()
    print(report(findings))
    return int(any(finding.remedy for finding in findings))


def diagnose(folder: Path, data: Path | None, size: int | None) -> None:
    """Print one page on a training, and write it with pictures into its folder."""
    side = _side(size, data)

    from ddpm_path.lab import diagnosis
    from ddpm_path.lab.datasets import DATASETS
    from ddpm_path.lab.doctor import report
    from ddpm_path.lab.folder import folder as own_images

    recipe, _ = diagnosis.load(folder)
    if data is None and recipe.data not in DATASETS:
        raise ValueError(f"this run trains on images of its own, {recipe.data}: name their folder with --data")
    images = DATASETS[recipe.data]() if data is None else own_images(data, side)
    print(report(diagnosis.diagnose(folder, images)))
    print(f"with pictures: {folder / 'diagnosis.html'}")


def train(
    name: str | None,
    data: Path | None,
    size: int | None,
    out: Path | None,
    steps: int | None,
    bf16: bool,
    compile: bool,
) -> None:
    """Train a recipe, or on a folder of images; several processes if torchrun starts them."""
    if (name is None) == (data is None):
        raise ValueError("name a recipe, or give a folder of images with --data: one of the two")
    side = _side(size, data)

    from ddpm_path.lab.device import placed
    from ddpm_path.lab.making import make, make_of_images

    with placed(bf16, compile) as place:
        if data is not None:
            make_of_images(data, side, out or Path("build/train") / data.resolve().name, steps, place)
        elif name is not None:
            make(name, out or Path("build/train") / name, steps, place)


def sample(
    name: str,
    steps: int | None,
    sampler: str,
    eta: float | None,
    grid: str,
    start: int | None,
    label: str | None,
    scale: float | None,
    seed: int,
    n: int,
    out: Path,
) -> None:
    """Draw n samples of a shipped model into a PNG; ValueError for names or numbers that do not exist."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"samples are saved as a PNG: give a name like grid.png, not {out.name!r}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"a seed is a whole number from 0 to 2**63 - 1; got {seed}")
    if out.is_dir():
        raise ValueError(f"{out} is a folder: give the name of a PNG file")
    if eta is not None and sampler != "ddim":
        raise ValueError(f"--eta belongs to ddim: leave it out with {sampler}, or add --sampler ddim")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"--scale is a number, 3 say; got {scale}")
    if scale is not None and label is None:
        raise ValueError("--scale guides towards a class: add one with --label")

    from functools import partial

    import torch

    from ddpm_path import samplers, schedule
    from ddpm_path.gaussian import fixed_large
    from ddpm_path.guidance import guided_network
    from ddpm_path.lab import metrics, plots, zoo
    from ddpm_path.lab.errors import unknown

    known: dict[str, samplers.Sampler] = {
        "ancestral": samplers.ancestral,
        "ancestral-large": partial(samplers.ancestral, variance=fixed_large),
        "ddim": partial(samplers.ddim, eta=eta or 0.0),
        "f-pndm": samplers.f_pndm,
        "s-pndm": samplers.s_pndm,
        "plms": samplers.plms,
        "runge-kutta": samplers.pseudo_runge_kutta,
    }
    if sampler not in known:
        raise unknown("sampler", sampler, known)
    draw = known[sampler]
    name, folder = zoo.find(name)
    net, trained = zoo.load(name, folder)
    card = zoo.card(name, folder)
    labels = None if label is None else torch.full((n,), _class(label, card["classes"]))
    classes = card["recipe"]["net"].get("classes", 0)
    if labels is not None and not classes:
        raise ValueError(f"{name} was trained without labels: leave --label out")
    if scale is not None:
        if not card["recipe"]["label_dropout"] > 0:
            raise ValueError(f"{name} was never trained without a label, to guide away from: leave --scale out")
        net = guided_network(net, classes, scale)
    chain = trained.first == 1  # or an SDE, whose times are not whole
    if start is not None and not 1 <= start <= trained.T:
        raise ValueError(f"--start {start} is not a time of {name}: choose between 1 and {trained.T}")
    grids: dict[str, Callable[..., Sequence[float]]] = {
        "uniform": schedule.uniform_times if chain else lambda start, n: schedule.even_times(trained, n, 1e-3, start),
        "leading": schedule.leading_times,
        "quadratic": schedule.quadratic_times,
        "ratio": lambda start, steps: schedule.ratio_times(trained, steps, start),
    }
    if grid not in grids:
        raise unknown("grid of times", grid, grids)
    begin = start or trained.T
    signal, noise = trained(begin)
    if sampler in MULTISTEP and noise / signal > 40:  # too long a first step for a mixture of slopes: see notebook 15
        least = 2 if chain else 3
        if steps is not None and steps < least:
            raise ValueError(f"{sampler} begins with a step of DDIM on {name}: give --steps {least} or more")
        late = float(trained.time_at(40.0))
        late = round(late) if chain else late
        rest = (late if chain else 1000) if steps is None else steps - 1
        draw, times = samplers.ddim_first(draw), [begin, *grids[grid](late, rest)]
    else:
        times = list(grids[grid](begin, (begin if chain else 1000) if steps is None else steps))
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work
    shape = (card["recipe"]["net"]["channels"], card["size"], card["size"])
    images = metrics.sample(net, trained, n, shape, times, seed, labels, draw)
    plots.save(plots.grid(images, min(n, 8)), out)
    print(f"{n} samples of {name}, {len(times) - 1} steps of {sampler} from t = {times[0]:g}, seed {seed}: {out}")


def evaluate(
    name: str,
    images: int,
    samples: int,
    steps: int,
    variance: str | None,
    seed: int,
    save: Path | None,
    against: str | None,
) -> None:
    """Print a model's results with their settings, and its differences from another; ValueError if they differ."""
    from functools import partial

    from ddpm_path.lab import evaluation

    measure = partial(evaluation.evaluate, images=images, samples=samples, steps=steps, variance=variance, seed=seed)
    # A file is read before the work.
    other = evaluation.read(Path(against)) if against and against.endswith(".json") else None
    mine = measure(name)
    print(evaluation.report(mine))
    if save is not None:
        evaluation.save(mine, save)
    if against is not None:
        if other is None:
            other = measure(against)
            print(evaluation.report(other))
        print(evaluation.comparison(mine, other))


def _side(size: int | None, data: Path | None) -> int:
    """Pixels a side of one's own images; ValueError for a size where there are none."""
    if size is not None and data is None:
        raise ValueError("--size belongs to --data: a recipe has its own")
    return size or 32


def _class(label: str, classes: Sequence[str]) -> int:
    from ddpm_path.lab.errors import unknown

    if label not in classes:
        raise unknown("class", label, classes)
    return list(classes).index(label)


COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": lambda: print(listing()),
    "run": run,
    "doctor": doctor,
    "train": train,
    "diagnose": diagnose,
    "sample": sample,
    "evaluate": evaluate,
}

if __name__ == "__main__":
    sys.exit(main())
