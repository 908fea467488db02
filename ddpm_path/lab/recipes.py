"""Every shipped model's hyper-parameters, in one place."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ddpm_path.classifier import NoisyClassifier
from ddpm_path.losses import EPS, X0, Prediction, V
from ddpm_path.schedule import Discrete, cosine_betas, linear_betas, scaled_linear_betas
from ddpm_path.unet import UNet

BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "scaled-linear": scaled_linear_betas,
    "cosine": cosine_betas,
}
PREDICTIONS: dict[str, Prediction] = {"eps": EPS, "x0": X0, "v": V}


@dataclass(frozen=True)
class Recipe:
    """All that makes a diffusion model, as plain values that its card repeats.

    data: a name of `datasets.DATASETS`; net: the arguments of `UNet`; betas and prediction: names of the tables
    above. lr rises over `warmup` steps and falls to 0 on a half cosine, and does so once more from step `restart` on,
    if that is not 0 [Loshchilov & Hutter 2017]; `label_dropout` is the share of examples that train the null label;
    `ema` is the largest decay of the moving average.
    """

    data: str
    net: dict[str, int | float | list[int]]
    steps: int
    betas: str = "cosine"
    T: int = 1000
    prediction: str = "v"
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 100
    restart: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    label_dropout: float = 0.1
    seed: int = 0

    def schedule(self) -> Discrete:
        """The noise schedule it is trained on."""
        return Discrete.from_betas(BETAS[self.betas](self.T))

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

RECIPES: dict[str, Recipe] = {
    "digits": Recipe("digits", SMALL, steps=3000),
    "digits-live": Recipe("digits", SMALL, steps=1000),
    "mnist": Recipe("mnist", SMALL, steps=9000, restart=6000),
}
TINY: dict[str, int | float | list[int]] = SMALL | {"widths": [8, 16], "heads": 1, "groups": 4}
CHOICES: dict[str, dict[str, int | float | list[int]]] = {  # ADM's, one changed at a time: benchmarks/adm_choices.py
    "base": TINY,
    "added": TINY | {"scale_shift": False},
    "heads": TINY | {"heads": 4},
    "attention": TINY | {"attention": [0, 1]},
    "resampling": TINY | {"residual_resampling": True},
    "rescaling": TINY | {"rescale": 0.5**0.5},
}
RECOGNISERS: dict[str, RecogniserRecipe] = {
    "digits-recogniser": RecogniserRecipe("digits", epochs=30),
    "mnist-recogniser": RecogniserRecipe("mnist", epochs=4),
}
CLASSIFIERS: dict[str, ClassifierRecipe] = {
    "digits-classifier": ClassifierRecipe("digits", HALF | {"size": 16, "dropout": 0.1}, steps=2000),
    "digits-clean-classifier": ClassifierRecipe("digits", HALF | {"size": 16, "dropout": 0.1}, steps=2000, last=1),
    "mnist-classifier": ClassifierRecipe("mnist", HALF | {"size": 28}, steps=4000),
}
