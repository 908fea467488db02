"""Every shipped model's hyper-parameters, in one place."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from ddpm_path.classifier import NoisyClassifier
from ddpm_path.gaussian import fixed_large, two_answers
from ddpm_path.losses import (
    EPS,
    X0,
    Loss,
    Network,
    Prediction,
    V,
    as_eps,
    bound_loss,
    chain_mean,
    hybrid,
    learned_bound,
    on_clock,
    simple,
)
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
from ddpm_path.segmentation import FCN, UNet2015, whole
from ddpm_path.unet import UNet

BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "scaled-linear": scaled_linear_betas,
    "cosine": cosine_betas,
}
SDES: dict[str, Callable[[], Schedule]] = {"vp": VP, "sub-vp": SubVP, "ve": VE, "ve-digits": partial(VE, 0.02, 18.5)}
PREDICTIONS: dict[str, Prediction] = {
    "eps": EPS,
    "x0": X0,
    "v": V,
    "linear-mean": chain_mean(Discrete.from_betas(linear_betas())),
}
LOSSES: dict[str, Loss] = {
    "simple": simple,
    "bound": bound_loss(fixed_large),
    "hybrid": hybrid,
    "learned-bound": learned_bound,
}


@dataclass(frozen=True)
class Recipe:
    """All that makes a diffusion model, as plain values that its card repeats.

    data: a name of `datasets.DATASETS`; net: the arguments of `UNet`; betas, prediction and loss: names of the tables
    above. betas names a chain of T steps, or an SDE in continuous time; its network is handed T * t, as of a chain that
    long: 0 for a network that is not told the time, as NCSNv2's. `dequantise` moves each pixel about its bin, afresh in
    each batch, for likelihoods; `flip` mirrors half of the images, each time another half. lr rises over `warmup` steps
    and, unless it is `constant` from there, falls to 0 on a half cosine, and once more from step `restart` on, if that
    is not 0 [Loshchilov & Hutter 2017]; with `importance` times are drawn by `LossHistory`, with `logit_normal` most of
    them halfway; `label_dropout` is the share of examples that train the null label; `ema` is the largest decay of the
    moving average.
    """

    data: str
    net: dict[str, int | float | list[int]]
    steps: int
    betas: str = "cosine"
    T: int = 1000
    prediction: str = "v"
    loss: str = "simple"
    importance: bool = False
    logit_normal: bool = False
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 100
    restart: int = 0
    constant: bool = False
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    label_dropout: float = 0.1
    dequantise: bool = False
    flip: bool = False
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

    @property
    def learned(self) -> bool:
        """Whether its network answers twice the channels: its own prediction, and a variance."""
        return self.net.get("out_channels") == 2 * self.net["channels"]

    def as_eps(self, net: Network) -> Network:
        """The noise predictor in its network; a learned variance is left out."""
        schedule = self.schedule()
        asked = on_clock(_first_half(net) if self.learned else net, self.T / schedule.T)
        return as_eps(asked, PREDICTIONS[self.prediction], schedule)


def _first_half(net: Network) -> Network:
    def first(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return two_answers(net(x, t, label), x)[0]

    return first


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

    kind: a name of `SCORERS`; net: the arguments of its network, from one channel to ten digits and background;
    border: w0 of the border weights, 0 for none (sigma is 2 pixels, as digits are small). It sees one large scene a
    step, of `scenes` that are drawn. lr rises over 20 steps and falls on a half cosine; so it does before, while the
    FCN learns to classify 64 single digits a step.
    """

    kind: str
    net: dict[str, int | float | list[int]]
    border: float = 0.0
    classify: int = 0
    data: str = "digits"
    scenes: int = 300
    digits: int = 20
    size: int = 88
    steps: int = 4000
    lr: float = 2e-3
    seed: int = 0

    def network(self) -> Segmenter:
        """A fresh network, its weights drawn from torch's default generator."""
        return SCORERS[self.kind](self)


def _fcn(recipe: SegmenterRecipe) -> Segmenter:
    net = FCN(1, 11, **recipe.net)  # type: ignore[arg-type]
    return Segmenter(net, net, net.classify)


def _unet(recipe: SegmenterRecipe) -> Segmenter:
    net = UNet2015(1, 11, **recipe.net)  # type: ignore[arg-type]
    return Segmenter(net, partial(whole, net), None)


SCORERS: dict[str, Callable[[SegmenterRecipe], Segmenter]] = {"fcn": _fcn, "unet": _unet}

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
    "widths": [16, 32],
    "attention": [1],
    "head_width": 32,
}

CIFAR10: dict[str, int | float | list[int]] = {  # `unet.ddpm_cifar10`
    "channels": 3,
    "widths": [128, 256, 256, 256],
    "attention": [1],
    "blocks": 2,
    "heads": 1,
    "groups": 32,
    "dropout": 0.1,
    "scale_shift": False,
    "asymmetric": True,
    "eps": 1e-6,
}


def _compared(betas: str, loss: str, seed: int = 0, prediction: str = "eps") -> Recipe:
    """One of the small models without labels that differ in a single choice, to see what it buys."""
    return Recipe("digits", TINY, steps=2000, betas=betas, prediction=prediction, loss=loss, seed=seed)


def _learning(recipe: Recipe, loss: str, importance: bool = False) -> Recipe:
    """The same, but its network answers a variance, too."""
    return replace(recipe, net=recipe.net | {"out_channels": 2}, loss=loss, importance=importance)


RECIPES: dict[str, Recipe] = {
    "digits": Recipe("digits", SMALL, steps=3000),
    "digits-live": Recipe("digits", SMALL, steps=1000),
    "mnist": Recipe("mnist", SMALL, steps=9000, restart=6000),
    **{f"compare-linear-simple-{seed}": _compared("linear", "simple", seed) for seed in range(3)},
    **{f"compare-linear-bound-{seed}": _compared("linear", "bound", seed) for seed in range(3)},
    **{f"compare-linear-{loss}-x0": _compared("linear", loss, prediction="x0") for loss in ("simple", "bound")},
    **{
        f"compare-linear-{loss}-mean": _compared("linear", loss, prediction="linear-mean")
        for loss in ("simple", "bound")
    },
    **{f"compare-cosine-simple-{seed}": _compared("cosine", "simple", seed) for seed in range(3)},
    **{f"compare-cosine-hybrid-{seed}": _learning(_compared("cosine", "simple", seed), "hybrid") for seed in range(3)},
    **{
        f"compare-cosine-vlb-{seed}": _learning(_compared("cosine", "simple", seed), "learned-bound", importance=True)
        for seed in range(3)
    },
    "digits-vp": Recipe(
        "digits", SMALL | {"widths": [40, 80], "head_width": 40}, steps=2000, betas="vp", dequantise=True
    ),
    # From the digits' largest distance to one in a hundred of their range [Song & Ermon 2020, sec. 3].
    "digits-ncsn": Recipe(
        "digits",
        {"channels": 1, "patch": 2, "widths": [32, 64], "attention": [1]},
        steps=2500,
        betas="ve-digits",
        T=0,
        prediction="eps",
    ),
    # DDPM's own [Ho 2020, app. B], but for stratified times and the moving average's warm-up: days on one GPU.
    "cifar10": Recipe(
        "cifar10",
        CIFAR10,
        steps=800_000,
        betas="linear",
        prediction="eps",
        batch=128,
        lr=2e-4,
        warmup=5000,
        constant=True,
        weight_decay=0.0,
        ema=0.9999,
        label_dropout=0.0,
        flip=True,
    ),
}
PLAIN: dict[str, int | float | list[int]] = SMALL | {"widths": [8, 16], "heads": 1, "groups": 4}
CHOICES: dict[str, dict[str, int | float | list[int]]] = {  # ADM's, one changed at a time: benchmarks/adm_choices.py
    "base": PLAIN,
    "added": PLAIN | {"scale_shift": False},
    "heads": PLAIN | {"heads": 4},
    "attention": PLAIN | {"attention": [0, 1]},
    "resampling": PLAIN | {"residual_resampling": True},
    "rescaling": PLAIN | {"rescale": 0.5**0.5},
}


def for_images(name: str, channels: int, size: int, classes: int, images: int) -> Recipe:
    """A sensible recipe for a set of one's own images: three levels over patches that leave at most 16 x 16.

    On a laptop's CPU it trains within half an hour. ValueError for a size that its patches and levels do not divide.
    """
    patch = 2
    while size / patch > 16:
        patch *= 2
    unit = 4 * patch
    if size % unit:
        below = size // unit * unit
        nearest = f"{below}, {below + unit}" if below else str(unit)
        raise ValueError(f"{size} is not divisible by {unit}: nearest legal sizes {nearest}")
    net = SMALL | {"channels": channels, "classes": classes, "patch": patch}
    net |= {"widths": [32, 64, 128], "attention": [2], "head_width": 32}
    return Recipe(name, net, steps=4000, batch=min(64, images))


RECOGNISERS: dict[str, RecogniserRecipe] = {
    "digits-recogniser": RecogniserRecipe("digits", epochs=30),
    "mnist-recogniser": RecogniserRecipe("mnist", epochs=4),
}
CLASSIFIERS: dict[str, ClassifierRecipe] = {
    "digits-classifier": ClassifierRecipe("digits", HALF | {"size": 16, "dropout": 0.1}, steps=2000),
    "digits-clean-classifier": ClassifierRecipe("digits", HALF | {"size": 16, "dropout": 0.1}, steps=2000, last=1),
    "mnist-classifier": ClassifierRecipe("mnist", HALF | {"size": 28}, steps=1500),
}

NARROW: dict[str, int | float | list[int]] = {
    "widths": [16, 32, 64],
    "convs": [2, 2, 2],
    "head": 128,
    "window": 1,
    "padding": 1,
    "dropout": 0.1,
}
SHALLOW: dict[str, int | float | list[int]] = {"width": 16, "depth": 2, "dropout": 0.1}

SEGMENTERS: dict[str, SegmenterRecipe] = {
    "scenes-fcn-8s": SegmenterRecipe("fcn", NARROW | {"stride": 8}, classify=150),
    "scenes-fcn-4s": SegmenterRecipe("fcn", NARROW | {"stride": 4}, classify=150),
    "scenes-fcn-2s": SegmenterRecipe("fcn", NARROW | {"stride": 2}, classify=150),
    "scenes-unet": SegmenterRecipe("unet", SHALLOW),
    "scenes-unet-borders": SegmenterRecipe("unet", SHALLOW, border=10.0),
}
