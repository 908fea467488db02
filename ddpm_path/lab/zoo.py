"""Shipped models: NAME.safetensors (half precision) beside NAME.json, its card. Verified when loaded."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor, nn

from ddpm_path.classifier import NoisyClassifier
from ddpm_path.lab.datasets import DATA
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.files import replacing
from ddpm_path.lab.metrics import Recogniser
from ddpm_path.lab.published import classifier_from_published as classifier_from_published
from ddpm_path.lab.published import from_published as from_published
from ddpm_path.lab.recipes import PREDICTIONS, ClassifierRecipe, Recipe, Scorer, SegmenterRecipe
from ddpm_path.losses import Network, as_learned, on_clock
from ddpm_path.schedule import Schedule
from ddpm_path.unet import UNet

ZOO = DATA / "zoo"
Card = dict[str, Any]


def names(folder: Path = ZOO) -> list[str]:
    """The models of a folder, the shipped ones by default."""
    return sorted(path.stem for path in folder.glob("*.json"))


def find(name: str) -> tuple[str, Path]:
    """A model's name and folder, from either a shipped model's name or a folder that `train` wrote one to."""
    path = Path(name)
    if name in names() or not path.is_dir():
        return name, ZOO
    found = names(path)
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} models; name a folder with one, as `train --out` leaves it")
    return found[0], path


def card(name: str, folder: Path = ZOO) -> Card:
    """A model's card: its recipe, data, seed, time, device and metrics. ValueError for an unknown name."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise unknown("model", name, names(folder))
    try:
        content: Card = json.loads(path.read_text(encoding="utf-8"))
        content["kind"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or no model's card ({error}): fetch it again") from error
    return content


def _card_of(kind: str, name: str, folder: Path) -> Card:
    """A model's card; ValueError for a model of another kind."""
    content = card(name, folder)
    if (other := content["kind"]) != kind:
        found, wanted = ("diffusion model" if each == "diffusion" else each for each in (other, kind))
        use = "load" if other == "diffusion" else f"load_{other}"
        raise ValueError(f"{name!r} is a {found}, not a {wanted}: use {use}")
    return content


def load_network(name: str, folder: Path = ZOO) -> tuple[UNet, Card]:
    """The bare network in float32, for inference, and its card; ValueError if the weights are damaged."""
    content = _card_of("diffusion", name, folder)
    net = Recipe(**content["recipe"]).network()
    _fill(net, name, folder)
    return net, content


def load(name: str, folder: Path = ZOO) -> tuple[Network, Schedule]:
    """A noise predictor, net(x, t, label=None) -> eps, and the schedule that it was trained on.

    Labels are class indices (B,); leave them out for the null label. ValueError for an unknown name, and if the
    file is damaged: never random weights.
    """
    net, content = load_network(name, folder)
    recipe = Recipe(**content["recipe"])
    return recipe.as_eps(net), recipe.schedule()


def load_learned(name: str, folder: Path = ZOO) -> tuple[Network, Schedule]:
    """A network that learned its variance, net(x, t, label=None) -> (eps, o) in twice the channels, and its schedule.

    For `ancestral_learned` and `learned_reverse`; `load` answers its eps alone. ValueError also for a model without.
    """
    net, content = load_network(name, folder)
    recipe = Recipe(**content["recipe"])
    if not recipe.learned:
        raise ValueError(f"{name!r} learned no variance: use load, and `ancestral` with a fixed one")
    schedule = recipe.schedule()
    return as_learned(on_clock(net, recipe.T / schedule.T), PREDICTIONS[recipe.prediction], schedule), schedule


def load_recogniser(name: str, folder: Path = ZOO) -> Recogniser:
    """A small classifier of real images, for the metrics."""
    net = Recogniser(**_card_of("recogniser", name, folder)["recipe"]["net"])
    _fill(net, name, folder)
    return net


def load_classifier(name: str, folder: Path = ZOO) -> tuple[NoisyClassifier, Schedule]:
    """A classifier of noisy images, to guide with, and the schedule whose times it knows: the guided model's."""
    recipe = ClassifierRecipe(**_card_of("classifier", name, folder)["recipe"])
    net = recipe.network()
    _fill(net, name, folder)
    return net, recipe.schedule()


def load_segmenter(name: str, folder: Path = ZOO) -> Scorer:
    """What names the digit at each pixel of `scenes.touching_digits`: images (B, 1, H, W) to scores (B, 11, H, W)."""
    net, score, _ = SegmenterRecipe(**_card_of("segmenter", name, folder)["recipe"]).network()
    _fill(net, name, folder)
    return score


def save(name: str, net: nn.Module, content: Card, folder: Path) -> None:
    """Write the weights in half precision and the card with their digest, the weights first."""
    weights = {key: value.half().contiguous() for key, value in net.state_dict().items() if value.is_floating_point()}
    packed = pack(weights)
    with replacing(folder / f"{name}.safetensors") as part:
        part.write_bytes(packed)
    with replacing(folder / f"{name}.json") as part:
        part.write_text(json.dumps(content | {"sha256": _digest(packed)}, indent=2) + "\n", encoding="utf-8")


def verify(name: str, folder: Path = ZOO) -> dict[str, Tensor]:
    """A model's tensors as they lie on disk; ValueError unless they are what its card says."""
    content, path = card(name, folder), folder / f"{name}.safetensors"
    packed = path.read_bytes() if path.exists() else b""
    if _digest(packed) != content["sha256"]:
        what = "is damaged (its SHA-256 is not its card's)" if packed else "is missing"
        raise ValueError(f"{path} {what}: fetch it again, or train it anew and copy both of its files here")
    try:
        return unpack(packed)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _fill(net: nn.Module, name: str, folder: Path) -> None:
    weights = verify(name, folder)
    expected = {key for key, value in net.state_dict().items() if value.is_floating_point()}
    if weights.keys() != expected:
        odd = sorted(weights.keys() ^ expected)[0]
        raise ValueError(
            f"{folder / name}.safetensors does not fit its card's network: tensor {odd!r} is in one of the two only"
        )
    net.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    net.eval().requires_grad_(False)


def _digest(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()
