"""Predictor and corrector at equal network calls, and every sampler on one network; writes sde.md beside this file.

    python benchmarks/sde.py [--minutes 5]

All of it takes half an hour on one idle core. What is measured is kept in build/sde/, and the next run goes on from
one that was stopped or had only so many minutes; the page has what there is.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from measure import kept, table, weights
from torch import Tensor
from tqdm import tqdm

from ddpm_path import sde
from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import fixed_large, fixed_small
from ddpm_path.lab import datasets, metrics, zoo
from ddpm_path.samplers import (
    Corrector,
    Predictor,
    ancestral,
    annealed_langevin,
    ddim,
    ddim_first,
    last,
    plms,
    predictor_corrector,
    start_noise,
)
from ddpm_path.schedule import VE, VP, EpsFn, Schedule, SubVP, even_times, on_schedule, uniform_times

HERE = Path(__file__).parent
KEPT = HERE.parent / "build" / "sde"
SDES: dict[str, Schedule] = {"VP": VP(), "sub-VP": SubVP(), "VE": VE()}
BUDGETS = (50, 100, 200, 400, 1000)
SNR = 0.16
Draw = Callable[[EpsFn, Tensor, torch.Generator], Tensor]


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def last_time(name: str) -> float:
    """The last time with noise: the papers', but on sub-VP where the digits' chain begins, as noisy as VP there."""
    return {"VP": 1e-3, "sub-VP": float(SubVP().time_at(0.01)), "VE": 1e-5}[name]


def walk(
    name: str,
    eps_fn: EpsFn,
    noise: Tensor,
    generator: torch.Generator,
    calls: int,
    predictor: Predictor,
    corrector: Corrector | None,
) -> Tensor:
    """Samples of one SDE at a budget of network calls, from noise of deviation 1."""
    schedule, steps = SDES[name], calls if corrector is None else (calls + 1) // 2
    times, x = even_times(schedule, steps, last_time(name)), float(schedule(1)[1]) * noise
    return last(predictor_corrector(eps_fn, schedule, x, times, predictor, corrector, generator=generator))


class Clock:
    """Until when new measurements are begun."""

    until = math.inf


def in_time(path: Path, make: Callable[[], Tensor]) -> Tensor | None:
    """As `kept`; None where it is not there and time is up."""
    return None if not path.exists() and time.monotonic() > Clock.until else kept(path, make)


# --- on a mixture


def on_mixture() -> Iterator[str]:
    """W1 from the world for each SDE, predictor and budget, with and without a corrector."""
    world = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15)
    noise = start_noise(10_000, (1,), seeded(1)).double()

    def row(name: str, what: str, predictor: Predictor, corrector: Corrector | None) -> list[str]:
        def measure() -> Tensor:
            eps_fn = world.eps_fn(SDES[name])
            ends = [walk(name, eps_fn, noise, seeded(2), calls, predictor, corrector) for calls in BUDGETS]
            return torch.tensor([metrics.wasserstein(end, world) for end in ends])

        found = in_time(KEPT / "mixture" / f"{name} {what}.pt".replace(" ", "-"), measure)
        return [what, *([""] * len(BUDGETS) if found is None else [f"{w:.4f}" for w in found.tolist()])]

    for name in ("VE", "VP", "sub-VP"):
        own = sde.ancestral_step(fixed_small if name == "VE" else fixed_large)
        predictors = {
            "Euler-Maruyama": sde.euler_maruyama,
            "reverse diffusion": sde.reverse_diffusion,
            "ancestral": own,
        }
        rows = [row(name, "ODE, Euler", sde.flow_euler, None)]
        for what, predictor in predictors.items():
            rows.append(row(name, what, predictor, None))
            rows.append(row(name, f"{what}, corrected", predictor, sde.level_step(SNR)))
        yield f"### {name}"
        yield table(["W at so many network calls", *map(str, BUDGETS)], rows)


# --- on digits


def digits(name: str, draw: Draw, n: int, part: int = 25) -> Tensor:
    """n digits with balanced labels, in whole parts that are kept; fewer where time is up."""
    net, _ = zoo.load("digits")
    whole = math.ceil(n / part) * part
    noise, labels = start_noise(whole, (1, 16, 16), seeded(0)), torch.arange(whole) % 10
    folder = KEPT / weights("digits") / name.replace(",", "").replace(" ", "-")
    parts = [torch.empty(0, 1, 16, 16)]
    for i in tqdm(range(0, n, part), desc=name):
        eps_fn, here = partial(net, label=labels[i : i + part]), noise[i : i + part]
        found = in_time(folder / f"{i:04d}.pt", partial(draw, eps_fn, here, seeded(2 + i)))
        if found is None:
            break
        parts.append(found)
    return torch.cat(parts)[:n]


def row(name: str, draw: Draw, n: int) -> list[str]:
    """Images, recognised share and kernel distance of a method."""
    recogniser, data = zoo.load_recogniser("digits-recogniser"), datasets.digits()
    images = digits(name, draw, n)
    if len(images) == 0:
        return [name, "0", "", ""]
    share, error = metrics.recognised(recogniser, images, torch.arange(len(images)) % 10)
    distance = metrics.kernel_distance(recogniser.features(images), recogniser.features(data.test))
    return [name, str(len(images)), f"{100 * share:.0f} ± {100 * error:.0f}%", f"{distance:.2f}"]


def on_sde(name: str, calls: int, predictor: Predictor, corrector: Corrector | None = None) -> Draw:
    """A method of one SDE at a budget, for digits."""
    _, chain = zoo.load("digits")

    def draw(eps_fn: EpsFn, noise: Tensor, generator: torch.Generator) -> Tensor:
        return walk(name, on_schedule(eps_fn, chain, SDES[name]), noise, generator, calls, predictor, corrector)

    return draw


HEADS = ["method, network calls", "images", "recognised", "kernel distance"]


def on_budgets(n: int) -> Iterator[str]:
    """The corrector on VE at every budget."""
    methods = {"predictor": None, "with corrector": sde.snr_step(SNR)}
    yield table(
        HEADS,
        [
            row(f"VE, {what}, {calls}", on_sde("VE", calls, sde.reverse_diffusion, corrector), n)
            for calls in BUDGETS
            for what, corrector in methods.items()
        ],
    )


def on_one_network(n: int) -> Iterator[str]:
    """Every method of both families."""
    _, chain = zoo.load("digits")
    late = [1000, *uniform_times(round(float(chain.time_at(40))), 19)]
    methods: dict[str, Draw] = {
        "DDPM, 100": lambda f, z, g: last(ancestral(f, chain, z, uniform_times(1000, 100), generator=g)),
        "DDIM, 20": lambda f, z, g: last(ddim(f, chain, z, uniform_times(1000, 20))),
        "PLMS, 21": lambda f, z, g: last(ddim_first(plms)(f, chain, z, late)),
        "annealed Langevin, 121": lambda f, z, g: annealed(on_schedule(f, chain, VE()), z, g),
    }
    for name in SDES:
        methods[f"{name}, Euler-Maruyama, 100"] = on_sde(name, 100, sde.euler_maruyama)
        methods[f"{name}, reverse diffusion, 100"] = on_sde(name, 100, sde.reverse_diffusion)
        methods[f"{name}, corrected, 100"] = on_sde(name, 100, sde.reverse_diffusion, sde.snr_step(SNR))
        methods[f"{name}, ODE by RK45"] = partial(by_flow, name)
    yield table(HEADS, [row(name, draw, n) for name, draw in methods.items()])


def annealed(eps_fn: EpsFn, noise: Tensor, generator: torch.Generator) -> Tensor:
    """40 levels of VE from 20 down, 3 updates at each, and the denoising."""
    times = even_times(VE(), 40, 1e-5, start=float(VE().time_at(20)))
    return last(annealed_langevin(eps_fn, VE(), 20 * noise, times, 0.17, 3, generator=generator))


def by_flow(name: str, eps_fn: EpsFn, noise: Tensor, generator: torch.Generator) -> Tensor:
    """RK45 at tolerances of 1e-3, and the denoising."""
    _, chain = zoo.load("digits")
    schedule, end = SDES[name], last_time(name)
    eps_fn = on_schedule(eps_fn, chain, schedule)
    solved = sde.flow(eps_fn, schedule, float(schedule(1)[1]) * noise, 1.0, end, 1e-3, 1e-3)
    print(f"{name}: {solved.calls + 1} network calls")
    return last(ddim(eps_fn, schedule, solved.x, [end, 0.0]))


TEXT = """# SDE samplers against the truth

Made by `python benchmarks/sde.py`; torch {torch}, {threads} thread(s).

## On a mixture, with the exact denoiser

Data: numbers, 30% near -0.6 and 70% near 0.5, each with deviation 0.15. W: Wasserstein-1 distance of 10,000 samples
from the data; perfect samples have about 0.005. All end with the denoising. A corrector is one Langevin step after each
predictor step, snr 0.16, its size the level's (`level_step`); it takes half of the budget.

{mixture}

## On digits, with the trained network

The network `digits`, trained on DDPM's chain, through `on_schedule`; balanced labels, no guidance and no clipping.
Recognised: seen as their label with confidence over 0.9. Kernel distance: to the test digits, in the classifier's
features; balanced labels bring it below 0, and fewer images lower still, so compare rows of equally many only. A
corrector has norms of each sample (`snr_step`), snr 0.16. Rows of 0 images were not measured.

{budgets}

Every method of both families, with that one network:

{one_network}
"""


def main() -> None:
    """Measure both parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=50, help="digits for each row (kept: more go on from fewer)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no measurement after so many")
    options = parser.parse_args()
    Clock.until = time.monotonic() + 60 * options.minutes
    parts = {
        "budgets": "\n\n".join(on_budgets(options.n)),
        "mixture": "\n\n".join(on_mixture()),
        "one_network": "\n\n".join(on_one_network(options.n)),
    }
    page = TEXT.format(torch=torch.__version__, threads=torch.get_num_threads(), **parts)
    (HERE / "sde.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
