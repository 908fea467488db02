"""Exercises: re-derive a function that the package has, and learn what is wrong, not only that something is."""

from ddpm_path.lab.exercises.checking import Exercise, check
from ddpm_path.lab.exercises.classifier_guidance import CLASS_GRADIENT, GUIDED_EPS
from ddpm_path.lab.exercises.convnet import BORDER_WEIGHTS, OVERLAP, TRANSPOSED, UNET_SIZE
from ddpm_path.lab.exercises.ddim import SLERP, STEP_OF_ETA
from ddpm_path.lab.exercises.ddpm import MARGINAL_FROM_CHAIN, MEAN_FROM_EPS, POSTERIOR_MEAN, TRAINING_PAIR
from ddpm_path.lab.exercises.diffusion_unet import EMBEDDING_OF_TIME, MANY_HEADS
from ddpm_path.lab.exercises.early import BIT_MARGINAL, GAUSSIAN_PRODUCT
from ddpm_path.lab.exercises.free import DROPPED_CONDITION, DYNAMIC_THRESHOLD
from ddpm_path.lab.exercises.improved import IMPORTANCE_WEIGHTS, LEARNED_VARIANCE
from ddpm_path.lab.exercises.likelihood import BIN_LOG_PROB, BOUND_WEIGHT
from ddpm_path.lab.exercises.pndm import MULTISTEP_WEIGHTS, TRANSFER
from ddpm_path.lab.exercises.score import LANGEVIN_UPDATE, WEIGHTED_LOSS
from ddpm_path.lab.exercises.sde import CORRECTED, SUB_VP_COEFFICIENTS
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
    BIN_LOG_PROB,
    BOUND_WEIGHT,
    LANGEVIN_UPDATE,
    WEIGHTED_LOSS,
    SUB_VP_COEFFICIENTS,
    CORRECTED,
    UNET_SIZE,
    BORDER_WEIGHTS,
    OVERLAP,
    TRANSPOSED,
    EMBEDDING_OF_TIME,
    MANY_HEADS,
    STEP_OF_ETA,
    SLERP,
    LEARNED_VARIANCE,
    IMPORTANCE_WEIGHTS,
    CLASS_GRADIENT,
    GUIDED_EPS,
    DROPPED_CONDITION,
    DYNAMIC_THRESHOLD,
    TRANSFER,
    MULTISTEP_WEIGHTS,
)

__all__ = [
    "BIN_LOG_PROB",
    "BIT_MARGINAL",
    "BORDER_WEIGHTS",
    "BOUND_WEIGHT",
    "CLASS_GRADIENT",
    "CORRECTED",
    "DROPPED_CONDITION",
    "DYNAMIC_THRESHOLD",
    "EMBEDDING_OF_TIME",
    "EXERCISES",
    "GAUSSIAN_PRODUCT",
    "GUIDED_EPS",
    "IMPORTANCE_BOUND",
    "IMPORTANCE_WEIGHTS",
    "KL_OF_NORMALS",
    "LANGEVIN_UPDATE",
    "LEARNED_VARIANCE",
    "MANY_HEADS",
    "MARGINAL_FROM_CHAIN",
    "MEAN_FROM_EPS",
    "MULTISTEP_WEIGHTS",
    "OVERLAP",
    "POSTERIOR_MEAN",
    "SLERP",
    "STEP_OF_ETA",
    "SUB_VP_COEFFICIENTS",
    "TRAINING_PAIR",
    "TRANSFER",
    "TRANSPOSED",
    "UNET_SIZE",
    "WEIGHTED_LOSS",
    "Exercise",
    "check",
]
