"""Every shipped model's hyper-parameters, in one place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from ddpm_path.losses import EPS, X0, Prediction, V
from ddpm_path.schedule import Discrete, cosine_betas, linear_betas, scaled_linear_betas
from ddpm_path.segmentation import FCN, UNet2015, whole
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


Scorer = Callable[[Tensor], Tensor]
"""Images (B, 1, H, W) to scores of the classes (B, classes, H, W)."""


class Segmenter(NamedTuple):
    """A network to train, its scores of every pixel and, if it was a classifier once, its scores of windows."""

    net: nn.Module
    score: Scorer
    classify: Scorer | None


@dataclass(frozen=True)
class SegmenterRecipe:
    """What trains a network to name the digit at each pixel of `scenes.touching_digits`.

    kind: a name of `SEGMENTERS`; net: the arguments of its network, from one channel to ten digits and background;
    border: w0 of the border weights, 0 for none (sigma is 2 pixels, as digits are small). It sees one large scene a
    step, of `scenes` that are drawn. lr rises over 20 steps and falls on a half cosine; so it does before, while the
    FCN learns to classify 64 single digits a step.
    """

    kind: str
    net: dict[str, int | float | list[int]]
    border: float = 0.0
    classify: int = 0
    data: str = "digits"
    scenes: int = 60
    digits: int = 20
    size: int = 88
    steps: int = 800
    lr: float = 2e-3
    seed: int = 0

    def network(self) -> Segmenter:
        """A fresh network, its weights drawn from torch's default generator."""
        return SEGMENTERS[self.kind](self)


def _fcn(recipe: SegmenterRecipe) -> Segmenter:
    net = FCN(1, 11, **recipe.net)  # type: ignore[arg-type]
    return Segmenter(net, net, net.classify)


def _unet(recipe: SegmenterRecipe) -> Segmenter:
    net = UNet2015(1, 11, **recipe.net)  # type: ignore[arg-type]
    return Segmenter(net, partial(whole, net), None)


SEGMENTERS: dict[str, Callable[[SegmenterRecipe], Segmenter]] = {"fcn": _fcn, "unet": _unet}

SMALL: dict[str, int | float | list[int]] = {
    "channels": 1,
    "classes": 10,
    "patch": 2,
    "widths": [48, 96],
    "attention": [1],
    "head_width": 48,
}

RECIPES: dict[str, Recipe] = {
    "digits": Recipe("digits", SMALL, steps=3000),
    "digits-live": Recipe("digits", SMALL, steps=1000),
    "mnist": Recipe("mnist", SMALL, steps=9000, restart=6000),
}
RECOGNISERS: dict[str, RecogniserRecipe] = {
    "digits-recogniser": RecogniserRecipe("digits", epochs=30),
    "mnist-recogniser": RecogniserRecipe("mnist", epochs=4),
}

NARROW: dict[str, int | float | list[int]] = {
    "widths": [16, 32, 64],
    "convs": [2, 2, 2],
    "head": 128,
    "window": 1,
    "padding": 1,
    "dropout": 0.2,
}
SHALLOW: dict[str, int | float | list[int]] = {"width": 12, "depth": 2, "dropout": 0.2}

SEGMENTER_RECIPES: dict[str, SegmenterRecipe] = {
    "scenes-fcn-8s": SegmenterRecipe("fcn", NARROW | {"stride": 8}, classify=150),
    "scenes-fcn-4s": SegmenterRecipe("fcn", NARROW | {"stride": 4}, classify=150),
    "scenes-fcn-2s": SegmenterRecipe("fcn", NARROW | {"stride": 2}, classify=150),
    "scenes-unet": SegmenterRecipe("unet", SHALLOW),
    "scenes-unet-borders": SegmenterRecipe("unet", SHALLOW, border=10.0),
}
