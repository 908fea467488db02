"""`python -m ddpm_path evaluate`: bits/dim by terms, a distance, recognition and guards, each with its settings."""

from typing import NamedTuple

from ddpm_path.gaussian import fixed_large, fixed_small
from ddpm_path.lab.metrics import Result

VARIANCES = {"small": fixed_small, "large": fixed_large}


class Measured(NamedTuple):
    """All results of a model, and what could not be measured, in words."""

    name: str
    results: list[Result]
    missing: list[str]


def evaluate(
    name: str,
    images: int = 100,
    strata: int = 40,
    samples: int = 500,
    steps: int = 25,
    variance: str = "own",
    seed: int = 0,
) -> Measured:
    """Measure a diffusion model of the zoo, by default within minutes on one core.

    bits/dim and its three terms: `metrics.bits` of the first `images` test images, x_0 clipped, with the true labels
    where the model has classes. Distance, recognition and guards: of `samples` samples with balanced labels, in
    `steps` steps. `variance` is the bound's: `own` is the learned one, or fixed-large where none was learned. MNIST's
    test images are the 2,000 that are shipped. ValueError for names and numbers that do not exist.
    """
