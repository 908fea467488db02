"""Every shipped model's hyper-parameters, in one place."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ddpm_path.classifier import NoisyClassifier
from ddpm_path.gaussian import fixed_large
from ddpm_path.losses import EPS, X0, Loss, Prediction, V, bound_loss, simple
from ddpm_path.schedule import (
    VE,
    VP,
    Discrete,
    Schedule,
    SubVP,
    cosine_betas,
    even_times,
    linear_betas,
    scaled_linear_betas,
    uniform_times,
)
from ddpm_path.unet import UNet

BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "scaled-linear": scaled_linear_betas,
    "cosine": cosine_betas,
}
SDES: dict[str, Callable[[], Schedule]] = {"vp": VP, "sub-vp": SubVP, "ve": VE}
PREDICTIONS: dict[str, Prediction] = {"eps": EPS, "x0": X0, "v": V}
LOSSES: dict[str, Loss] = {"simple": simple, "bound": bound_loss(fixed_large)}


@dataclass(frozen=True)
class Recipe:
    """All that makes a diffusion model, as plain values that its card repeats.

    data: a name of `datasets.DATASETS`; net: the arguments of `UNet`; betas, prediction and loss: names of the tables
    above. betas names a chain of T steps, or an SDE in continuous time; its network is handed T * t, as of a chain that
    long. `dequantise` moves each pixel about its bin, afresh in each batch, for likelihoods. lr rises over `warmup`
    steps and falls to 0 on a half cosine, and does so once more from step `restart` on, if that is not 0 [Loshchilov &
    Hutter 2017]; `label_dropout` is the share of examples that train the null label; `ema` is the largest decay of the
    moving average.
    """

    data: str
    net: dict[str, int | float | list[int]]
    steps: int
    betas: str = "cosine"
    T: int = 1000
    prediction: str = "v"
    loss: str = "simple"
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 100
    restart: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    label_dropout: float = 0.1
    dequantise: bool = False
    seed: int = 0

    def schedule(self) -> Schedule:
        """The noise schedule it is trained on."""
        return SDES[self.betas]() if self.betas in SDES else Discrete.from_betas(BETAS[self.betas](self.T))

    def times(self, steps: int) -> list[float]:
        """An even grid of so many steps from the last time to data, on a chain of at most its T."""
        if self.betas in SDES:
            return even_times(self.schedule(), steps, 1e-3)
        return [float(t) for t in uniform_times(self.T, min(steps, self.T))]

    def network(self) -> UNet:
        """A fresh network, its weights drawn from torch's default generator."""
        return UNet(**self.net)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RecogniserRecipe:
    """What trains a small classifier for the metrics."""

    data: str
    epochs: int
    seed: int = 0
    net: dict[str, int] = field(default_factory=lambda: {"channels": 1, "classes": 10, "width": 24})


@dataclass(frozen=True)
class ClassifierRecipe:
    """What trains a classifier to guide with; its schedule must be that of the model which it will guide.

    net: the arguments of `NoisyClassifier`. Times in training run from 1 to `last`: T, or 1 for a classifier that knows
    only clean images. lr rises over `warmup` steps and then falls to 0 on a straight line.
    """

    data: str
    net: dict[str, int | float | list[int]]
    steps: int
    last: int = 1000
    betas: str = "cosine"
    T: int = 1000
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    seed: int = 0

    def schedule(self) -> Discrete:
        """The noise schedule it is trained on."""
        return Discrete.from_betas(BETAS[self.betas](self.T))

    def network(self) -> NoisyClassifier:
        """A fresh network, its weights drawn from torch's default generator."""
        return NoisyClassifier(**self.net)  # type: ignore[arg-type]


SMALL: dict[str, int | float | list[int]] = {
    "channels": 1,
    "classes": 10,
    "patch": 2,
    "widths": [48, 96],
    "attention": [1],
    "head_width": 48,
}
HALF: dict[str, int | float | list[int]] = {
    "channels": 1,
    "classes": 10,
    "patch": 2,
    "widths": [24, 48],
    "attention": [1],
    "head_width": 24,
}

TINY: dict[str, int | float | list[int]] = {
    "channels": 1,
    "classes": 0,
    "patch": 2,
    "widths": [24, 40],
    "attention": [1],
    "head_width": 40,
}


def _compared(betas: str, loss: str, seed: int) -> Recipe:
    """One of the small models without labels that differ in a single choice, to see what it buys."""
    return Recipe("digits", TINY, steps=600, betas=betas, prediction="eps", loss=loss, seed=seed)


RECIPES: dict[str, Recipe] = {
    "digits": Recipe("digits", SMALL, steps=3000),
    "digits-live": Recipe("digits", SMALL, steps=1000),
    "mnist": Recipe("mnist", SMALL, steps=9000, restart=6000),
    **{f"compare-linear-simple-{seed}": _compared("linear", "simple", seed) for seed in range(3)},
    **{f"compare-linear-bound-{seed}": _compared("linear", "bound", seed) for seed in range(3)},
    **{f"compare-cosine-simple-{seed}": _compared("cosine", "simple", seed) for seed in range(3)},
    "digits-vp": Recipe(
        "digits", SMALL | {"widths": [40, 80], "head_width": 40}, steps=2000, betas="vp", dequantise=True
    ),
}
RECOGNISERS: dict[str, RecogniserRecipe] = {
    "digits-recogniser": RecogniserRecipe("digits", epochs=30),
    "mnist-recogniser": RecogniserRecipe("mnist", epochs=4),
}
CLASSIFIERS: dict[str, ClassifierRecipe] = {
    "digits-classifier": ClassifierRecipe("digits", HALF | {"size": 16, "dropout": 0.1}, steps=2000),
    "digits-clean-classifier": ClassifierRecipe("digits", HALF | {"size": 16, "dropout": 0.1}, steps=2000, last=1),
    "mnist-classifier": ClassifierRecipe("mnist", HALF | {"size": 28}, steps=2500),
}
