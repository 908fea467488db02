"""Every shipped model's hyper-parameters, in one place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from ddpm_path.losses import EPS, X0, Prediction, V
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
SDES: dict[str, Callable[[], Schedule]] = {"vp": VP, "sub-vp": SubVP, "ve": VE, "ve-digits": partial(VE, 0.02, 18.5)}
PREDICTIONS: dict[str, Prediction] = {"eps": EPS, "x0": X0, "v": V}


@dataclass(frozen=True)
class Recipe:
    """All that makes a diffusion model, as plain values that its card repeats.

    data: a name of `datasets.DATASETS`; net: the arguments of `UNet`; prediction and betas: names of the tables above.
    betas names a chain of T steps, or an SDE in continuous time; its network is handed T * t, as of a chain that long:
    0 for a network that is not told the time, as NCSNv2's.
    `dequantise` moves each pixel about its bin, afresh in each batch, for likelihoods. lr rises over `warmup` steps and
    falls to 0 on a half cosine, and does so once more from step `restart` on, if that is not 0 [Loshchilov & Hutter
    2017]; `label_dropout` is the share of examples that train the null label; `ema` is the largest decay of the moving
    average.
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
    "digits-vp": Recipe(
        "digits", SMALL | {"widths": [40, 80], "head_width": 40}, steps=2000, betas="vp", dequantise=True
    ),
    # From the digits' largest distance to one in a hundred of their range [Song & Ermon 2020, sec. 3].
    "digits-ncsn": Recipe(
        "digits",
        {"channels": 1, "patch": 2, "widths": [32, 64], "attention": [1]},
        steps=4300,
        restart=2500,
        betas="ve-digits",
        T=0,
        prediction="eps",
    ),
}
RECOGNISERS: dict[str, RecogniserRecipe] = {
    "digits-recogniser": RecogniserRecipe("digits", epochs=30),
    "mnist-recogniser": RecogniserRecipe("mnist", epochs=4),
}
