"""Exercises: re-derive a function that the package has, and learn what is wrong, not only that something is."""

from ddpm_path.lab.exercises.checking import Exercise, check
from ddpm_path.lab.exercises.ddpm import MARGINAL_FROM_CHAIN, MEAN_FROM_EPS, POSTERIOR_MEAN, TRAINING_PAIR
from ddpm_path.lab.exercises.pndm import MULTISTEP_WEIGHTS, TRANSFER

EXERCISES: tuple[Exercise, ...] = (
    MARGINAL_FROM_CHAIN,
    POSTERIOR_MEAN,
    MEAN_FROM_EPS,
    TRAINING_PAIR,
    TRANSFER,
    MULTISTEP_WEIGHTS,
)

__all__ = [
    "EXERCISES",
    "MARGINAL_FROM_CHAIN",
    "MEAN_FROM_EPS",
    "MULTISTEP_WEIGHTS",
    "POSTERIOR_MEAN",
    "TRAINING_PAIR",
    "TRANSFER",
    "Exercise",
    "check",
]
