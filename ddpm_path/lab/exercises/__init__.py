"""Exercises: re-derive a function that the package has, and learn what is wrong, not only that something is."""

from ddpm_path.lab.exercises.checking import Exercise, check
from ddpm_path.lab.exercises.ddim import SLERP, STEP_OF_ETA
from ddpm_path.lab.exercises.ddpm import MARGINAL_FROM_CHAIN, MEAN_FROM_EPS, POSTERIOR_MEAN, TRAINING_PAIR
from ddpm_path.lab.exercises.diffusion_unet import EMBEDDING_OF_TIME, MANY_HEADS
from ddpm_path.lab.exercises.early import BIT_MARGINAL, GAUSSIAN_PRODUCT
from ddpm_path.lab.exercises.pndm import MULTISTEP_WEIGHTS, TRANSFER
from ddpm_path.lab.exercises.vae import IMPORTANCE_BOUND, KL_OF_NORMALS

EXERCISES: tuple[Exercise, ...] = (
    IMPORTANCE_BOUND,
    KL_OF_NORMALS,
    BIT_MARGINAL,
    GAUSSIAN_PRODUCT,
    MARGINAL_FROM_CHAIN,
    POSTERIOR_MEAN,
    MEAN_FROM_EPS,
    TRAINING_PAIR,
    EMBEDDING_OF_TIME,
    MANY_HEADS,
    STEP_OF_ETA,
    SLERP,
    TRANSFER,
    MULTISTEP_WEIGHTS,
)

__all__ = [
    "BIT_MARGINAL",
    "EMBEDDING_OF_TIME",
    "EXERCISES",
    "GAUSSIAN_PRODUCT",
    "IMPORTANCE_BOUND",
    "KL_OF_NORMALS",
    "MANY_HEADS",
    "MARGINAL_FROM_CHAIN",
    "MEAN_FROM_EPS",
    "MULTISTEP_WEIGHTS",
    "POSTERIOR_MEAN",
    "SLERP",
    "STEP_OF_ETA",
    "TRAINING_PAIR",
    "TRANSFER",
    "Exercise",
    "check",
]
