"""How cost grows with the work; writes cost.md beside this file.

    python benchmarks/cost.py

A minute. Leave the machine alone meanwhile.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from measure import forward, in_turns, machine, table
from torch import Tensor

from ddpm_path.exact import FiniteData
from ddpm_path.lab import datasets, recipes
from ddpm_path.samplers import ddim, last, start_noise
from ddpm_path.schedule import Discrete, cosine_betas, uniform_times
from ddpm_path.unet import UNet

ROUNDS = 7
Work = Callable[[], object]
COSINE = Discrete.from_betas(cosine_betas())


def asked(size: int, width: int, batch: int) -> tuple[UNet, Tensor, Tensor]:
    """The small U-Net over 2 x 2 patches, and what it is asked."""
    net = UNet(**recipes.SMALL | {"widths": [width, 2 * width], "head_width": width})  # type: ignore[arg-type]
    return net, torch.randn(batch, 1, size, size), torch.full((batch,), 500.0)


def answer(size: int, width: int, batch: int) -> Work:
    """Its answer."""
    return partial(forward, lambda net, x, t: net(x, t), *asked(size, width, batch))


def gradients(size: int, width: int, batch: int) -> Work:
    """Its answer and gradients."""
    net, x, t = asked(size, width, batch)
    return lambda: net(x, t).square().mean().backward()


def sampling(steps: int, batch: int) -> Work:
    """DDIM with a network that does nothing: what the sampler itself takes."""
    x = start_noise(batch, (3, 32, 32))
    return lambda: last(ddim(lambda x, t: x, COSINE, x, uniform_times(1000, steps)))


def by_heart(n: int, batch: int) -> Work:
    """The exact denoiser of n images of 16 x 16 pixels, asked about a batch."""
    images = datasets.digits().train
    eps_fn = FiniteData(images.repeat(math.ceil(n / len(images)), 1, 1, 1)[:n]).eps_fn(COSINE)
    x, t = torch.randn(batch, 1, 16, 16), torch.full((batch,), 500.0)
    return lambda: eps_fn(x, t)


GROWTHS: list[tuple[str, str, Sequence[int], Callable[[int], Work]]] = [
    (
        "the U-Net's answer, batch 16, width 48",
        "pixels a side",
        (16, 24, 32, 48, 64),
        lambda n: answer(n, 48, 16),
    ),
    ("the U-Net's answer, batch 64, 16 x 16", "width", (16, 32, 48, 64, 96, 128), lambda n: answer(16, n, 64)),
    ("the U-Net's answer, width 48, 16 x 16", "batch", (1, 4, 16, 64, 256), lambda n: answer(16, 48, n)),
    ("its answer and gradients, width 48, 16 x 16", "batch", (1, 4, 16, 64, 256), lambda n: gradients(16, 48, n)),
    ("DDIM without a network, 64 x 3 x 32 x 32", "steps", (10, 30, 100, 300, 1000), lambda n: sampling(n, 64)),
    (
        "the denoiser of a finite set, batch 64, 16 x 16",
        "images",
        (250, 500, 1000, 2000, 4000, 8000),
        lambda n: by_heart(n, 64),
    ),
]


def line(n: Sequence[int], cost: Sequence[float]) -> tuple[float, float, float]:
    """Fixed cost, cost for each more, by least squares of relative errors; and the exponent between the last two."""
    rows = torch.tensor([[1.0, float(k)] for k in n], dtype=torch.float64)
    values = torch.tensor(cost, dtype=torch.float64)
    fixed, each = torch.linalg.lstsq(rows / values[:, None], torch.ones(len(n), 1, dtype=torch.float64)).solution[:, 0]
    return float(fixed), float(each), math.log(cost[-1] / cost[-2]) / math.log(n[-1] / n[-2])


def growth() -> Iterator[str]:
    """A table for each quantity that grows."""
    for what, quantity, values, make in GROWTHS:
        spent = in_turns({str(n): make(n) for n in values}, ROUNDS, what)
        cost = [1000 * statistics.median(times) for times in spent.values()]
        fixed, each, exponent = line(values, cost)
        yield f"### {what}\n"
        yield table([quantity, *map(str, values)], [["ms", *(f"{c:.3g}" for c in cost)]]) + "\n"
        tail = f"Between the last two the cost grows as the power {exponent:.2f}."
        if quantity in ("pixels a side", "width"):
            yield tail + "\n"
        else:
            yield f"A line through them: {max(fixed, 0):.2g} ms and {each:.3g} ms for each. {tail}\n"


TEXT = """# How cost grows

Made by `python benchmarks/cost.py` on {machine}. Milliseconds of the clock, medians of
{rounds} rounds in which the sizes take turns. The U-Net works over 2 x 2 patches and has attention at the lowest
resolution, whose cost grows with the fourth power of the side.

{growth}
"""


def main() -> None:
    """Measure and write the page."""
    lines = []
    for text in growth():
        print(text, flush=True)
        lines.append(text)
    page = TEXT.format(machine=machine(), rounds=ROUNDS, growth="\n".join(lines))
    Path(__file__).with_suffix(".md").write_text(page.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
