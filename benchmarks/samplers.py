"""Every sampler against the truth, on a mixture and on MNIST; writes samplers.md beside this file.

    python benchmarks/samplers.py

The mixture takes three minutes. MNIST takes three hours on one core, most of them for DDIM's 1,000 steps; its samples
are kept in build/samplers/, and a run that was stopped goes on where it was. Times with a do-nothing network are taken
last: leave the machine alone then.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler, PNDMScheduler
from measure import kept, table, weights
from torch import Tensor
from tqdm import tqdm

from ddpm_path.exact import isotropic_mixture
from ddpm_path.gaussian import fixed_large
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import datasets, metrics, zoo
from ddpm_path.samplers import (
    Sampler,
    ancestral,
    ddim,
    ddim_first,
    f_pndm,
    last,
    plms,
    pseudo_runge_kutta,
    s_pndm,
    start_noise,
)
from ddpm_path.schedule import Discrete, EpsFn, cosine_betas, linear_betas, uniform_times

HERE = Path(__file__).parent
KEPT = HERE.parent / "build" / "samplers"
LINEAR, COSINE = Discrete.from_betas(linear_betas()), Discrete.from_betas(cosine_betas())
SOLVERS: dict[str, tuple[Sampler, Callable[[int], float]]] = {  # and the steps that so many network calls pay for
    "DDIM": (ddim, lambda calls: calls),
    "S-PNDM": (s_pndm, lambda calls: calls - 1),
    "F-PNDM": (f_pndm, lambda calls: calls - 9 if calls >= 12 else calls / 4),
    "PLMS": (plms, lambda calls: calls - 1),
    "Runge-Kutta": (pseudo_runge_kutta, lambda calls: calls / 4),
}
RANDOM: dict[str, Sampler] = {
    "DDPM, small variance": ancestral,
    "DDPM, large variance": partial(ancestral, variance=fixed_large),
}
BUDGETS = (10, 20, 50, 100)


def start_at_40(schedule: Discrete) -> int:
    """The whole time whose std / scale is nearest to 40."""
    return round(float(schedule.time_at(40)))


# --- on a mixture


def on_mixture() -> Iterator[str]:
    """RMS from the ODE's exact end, and W1 from the world, by schedule, start and budget."""
    world = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], std=0.15)
    x = isotropic_mixture([1.0], [[0.0]], std=1.0).quantile((torch.arange(20_000)[:, None] + 0.5) / 20_000, (1, 0))
    for name, schedule in (("linear", LINEAR), ("cosine", COSINE)):
        for start in (schedule.T, start_at_40(schedule)):
            now = schedule(start)
            end = world.quantile(world.cdf(x, now), (1, 0))
            yield f"### {name}, from t = {start} (std / scale = {float(now[1] / now[0]):,.0f})"

            @cache  # the two tables share measurements
            def measure(sampler: Sampler, steps: float, schedule=schedule, start=start, end=end) -> tuple[float, float]:
                if steps < 1 or steps != int(steps):
                    return float("nan"), float("nan")
                times, noise = uniform_times(start, int(steps)), torch.Generator().manual_seed(2)
                found = last(sampler(world.eps_fn(schedule), schedule, x, times, generator=noise))
                return float((found - end).square().mean().sqrt()), metrics.wasserstein(found, world)

            for what in ("network calls", "steps"):
                rms, w = {}, {}
                for solver, (sampler, steps) in SOLVERS.items():
                    results = [measure(sampler, steps(n) if what == "network calls" else n) for n in BUDGETS]
                    rms[solver], w[solver] = ([result[i] for result in results] for i in (0, 1))
                for solver, sampler in RANDOM.items():
                    rms[solver] = [float("nan")] * len(BUDGETS)
                    w[solver] = [measure(sampler, n)[1] for n in BUDGETS]
                heads = [f"at equal {what}", *(f"{m}, {n}" for m in ("RMS", "W") for n in BUDGETS)]
                columns = list(zip(*(rms[name] + w[name] for name in rms), strict=True))
                best = [min(value for value in column if value == value) for column in columns]
                rows = [[name, *map(shown, rms[name] + w[name], best)] for name in rms]
                yield table(heads, rows)


def shown(value: float, best: float) -> str:
    """A number of the table, the best of its column in bold; empty where nothing was measured."""
    text = "" if value != value else f"{value:.4f}" if value < 10 else f"{value:.1e}"
    return f"**{text}**" if value == best else text


# --- on MNIST


def mnist_rows() -> dict[str, tuple[Sampler, Sequence[float], bool]]:
    """Name, sampler, times, and whether x_0 is clipped (DDPM's way; the ODE's methods are left alone)."""
    late = start_at_40(COSINE)
    rows = {"DDPM, small variance, 20 steps": (ancestral, uniform_times(1000, 20), True)}
    rows |= {f"DDIM, {n} steps": (ddim, uniform_times(late, n), False) for n in (10, 20, 50)}
    rows |= {"S-PNDM, 20 steps": (s_pndm, uniform_times(late, 20), False)}
    rows |= {f"PLMS, {n} steps": (plms, uniform_times(late, n), False) for n in (20, 50)}
    rows |= {"F-PNDM, 50 steps": (f_pndm, uniform_times(late, 50), False)}
    rows |= {"DDIM to 40, F-PNDM in 49": (ddim_first(f_pndm), [1000, *uniform_times(late, 49)], False)}
    rows |= {"DDIM to 40, PLMS in 19": (ddim_first(plms), [1000, *uniform_times(late, 19)], False)}
    rows |= {"DDIM, 1000 steps": (ddim, uniform_times(1000, 1000), False)}
    return rows


def draw(name: str, n: int = 2000, part: int = 100) -> Tensor:
    """The n samples of a row, in parts that are kept."""
    sampler, times, clip = mnist_rows()[name]
    net, schedule = zoo.load("mnist")
    x, labels = start_noise(n, (1, 28, 28), torch.Generator().manual_seed(0)), torch.arange(n) % 10
    folder = KEPT / weights("mnist") / name.replace(",", "").replace(" ", "-")

    def walk(i: int) -> Tensor:
        eps_fn: EpsFn = partial(net, label=labels[i : i + part])
        eps_fn = clip_x0(eps_fn, schedule) if clip else eps_fn
        noise = torch.Generator().manual_seed(1 + i)
        return last(sampler(eps_fn, schedule, x[i : i + part], times, generator=noise))

    starts = tqdm(range(0, n, part), desc=name)
    return torch.cat([kept(folder / f"{i:04d}.pt", partial(walk, i)) for i in starts])


def on_mnist() -> Iterator[str]:
    """Frechet distance with its bootstrap error, against DDIM's 1,000 steps, and how many samples are recognised."""
    recogniser, data = zoo.load_recogniser("mnist-recogniser"), datasets.mnist()
    each = [torch.nonzero(data.test_labels == k)[:200, 0] for k in range(10)]
    real = recogniser.features(data.test[torch.stack(each, 1).flatten()])  # 2,000, labels 0, 1, ..., 9, 0, ...
    each = [torch.nonzero(data.train_labels == k)[:200, 0] for k in range(10)]
    samples = {"real training images": data.train[torch.stack(each, 1).flatten()]}
    samples |= {name: draw(name) for name in mnist_rows()}
    features = {name: recogniser.features(images) for name, images in samples.items()}
    draws = [torch.randint(2000, (2000,), generator=torch.Generator().manual_seed(k)) for k in range(200)]
    converged = "DDIM, 1000 steps"

    def distances(name: str) -> Tensor:
        again = [metrics.frechet_distance(features[name][at], real) for at in draws]
        return torch.tensor([metrics.frechet_distance(features[name], real), *again])

    base = distances(converged)
    rows = []
    for name, images in samples.items():
        found = distances(name)
        difference = base - found
        share, error = metrics.recognised(recogniser, images, torch.arange(2000) % 10)
        far = (images - samples[converged]).square().mean().sqrt()
        low, high = (float(difference[0] + k * difference[1:].std()) for k in (-2, 2))
        rows.append(
            [
                name,
                f"{found[0]:.2f} ± {found[1:].std():.2f}",
                "" if name == converged else f"{low:+.2f} to {high:+.2f}",
                f"{100 * share:.1f} ± {100 * error:.1f}%",
                "" if name.startswith(("DDPM", "real")) else f"{far:.4f}",
            ]
        )
    heads = [
        "sampler",
        "Frechet distance",
        f"that of {converged} less this one's",
        "recognised",
        f"RMS from {converged}",
    ]
    yield table(heads, rows)


# --- time


def overhead() -> Iterator[str]:
    """Microseconds a step with a network that does nothing, beside diffusers' schedulers, x_0 included."""
    rows = []
    for shape, steps in (((1, 1, 8, 8), 200), ((64, 3, 32, 32), 50)):
        x = torch.randn(shape)
        for name, sampler, scheduler in (
            ("DDIM", ddim, DDIMScheduler(clip_sample=False)),
            ("PLMS", plms, PNDMScheduler(skip_prk_steps=True)),
            ("F-PNDM", f_pndm, PNDMScheduler(skip_prk_steps=False)),
        ):
            pair = [partial(run_ours, sampler, x, steps), partial(run_theirs, scheduler, x, steps)]
            clocked = [[clock(run) for run in pair] for _ in range(61)][1:]
            ours, theirs = (1e6 * statistics.median(column) for column in zip(*clocked, strict=True))
            rows.append([name, str(shape), f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"])
    yield table(["sampler", "shape", "here, µs a call", "diffusers, µs a call", "ratio"], rows)


def clock(run: Callable[[], int]) -> float:
    """Seconds for each network call of a run."""
    began = time.perf_counter()
    calls = run()
    return (time.perf_counter() - began) / calls


def run_ours(sampler: Sampler, x: Tensor, steps: int) -> int:
    """A trajectory here; answers the number of network calls."""
    eps, calls = torch.zeros_like(x), 0

    def idle(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return eps

    last(sampler(idle, LINEAR, x, uniform_times(1000, steps)))
    return calls


def run_theirs(scheduler: DDIMScheduler | PNDMScheduler, x: Tensor, steps: int) -> int:
    """The same trajectory there."""
    eps = torch.zeros_like(x)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(eps, t, x).prev_sample
    return len(scheduler.timesteps)


TEXT = """# Samplers against the truth

Made by `python benchmarks/samplers.py`; torch {torch}, {threads} thread(s).

## On a mixture, with the exact denoiser

Data: numbers, 30% near -0.6 and 70% near 0.5, each with deviation 0.15. RMS: how far a walker ends from where the
ODE would have taken it, which is known exactly. W: Wasserstein-1 distance of 20,000 samples from the data; starts
are the quantiles of N(0, 1), so only DDPM's own noise is random. The grid is even in time. Best of each column in bold;
empty where a method cannot make that number of calls.

Started at T of the cosine schedule the ODE's methods fail but for DDIM, S-PNDM and PLMS in 50 calls or fewer, F-PNDM
and Runge-Kutta in 100, too: their first step, from std / scale = 20,000 down to 12 or so, mixes slopes from both of its
ends and carries the mixture over its whole length, where a thousandth in eps moves the estimate of x_0 by 20. From
std / scale = 40 on one of them has the least RMS in every column.

{mixture}

## On MNIST, with the trained network

2,000 latents with balanced labels, unguided; features of the small classifier `mnist-recogniser`; 2,000 test images on
the other side, as many of each label. Errors from 200 bootstrap draws of latents, the same for all rows. The third
column is an interval of two standard errors: it contains 0 where a row matches DDIM's 1,000 steps, and lies above 0
where it is better. DDIM's 1,000 steps start at T, the ODE's other methods at std / scale = 40, t = 984, as if x_T
were x there, and all share that start's fault: x there has a mean. `DDIM to 40` gets there from T by one step of DDIM
(`ddim_first`).

{mnist}

## Time of a step

The network does nothing; one state with its estimate of x_0 is made at each call. Medians of 60 runs.

{overhead}
"""


def main() -> None:
    """Measure all three parts and write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    parts = {part.__name__.removeprefix("on_"): "\n\n".join(part()) for part in (on_mixture, on_mnist, overhead)}
    page = TEXT.format(torch=torch.__version__, threads=torch.get_num_threads(), **parts)
    (HERE / "samplers.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
