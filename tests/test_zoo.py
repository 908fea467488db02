"""The zoo: what was saved is what is loaded, damage is named, and the shipped models know what they claim."""

import json
from dataclasses import asdict

import pytest
import torch

from ddpm_path.exact import GaussianMixture
from ddpm_path.gaussian import q_sample
from ddpm_path.lab import recipes, zoo
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.metrics import accuracy
from ddpm_path.lab.probing import accuracy_by_level, by_heart_classifier


@pytest.fixture
def saved(tmp_path):
    """A fresh digits network in a zoo of its own."""
    torch.manual_seed(0)
    net = recipes.RECIPES["digits"].network()
    torch.nn.init.normal_(net.head.weight)
    zoo.save("fresh", net, {"kind": "diffusion", "recipe": asdict(recipes.RECIPES["digits"])}, tmp_path)
    return net, tmp_path


def test_what_was_saved_is_what_is_loaded_in_half_precision(saved):
    net, folder = saved
    loaded, _ = zoo.load_network("fresh", folder)
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float()), key
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_a_damaged_or_missing_file_is_named_and_never_random_weights(saved):
    _, folder = saved
    path = folder / "fresh.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # one bit of one weight
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"fresh\.safetensors is damaged .* train it anew"):
        zoo.load("fresh", folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"fresh\.safetensors is missing"):
        zoo.load("fresh", folder)


def test_weights_of_another_network_are_refused(saved):
    _, folder = saved
    card = json.loads((folder / "fresh.json").read_text())
    card["recipe"]["net"]["attention"] = []
    (folder / "fresh.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"does not fit its card's network: tensor 'down\.1\.0\.attention"):
        zoo.load("fresh", folder)


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        zoo.card("minst")


@pytest.mark.parametrize("name", sorted([*recipes.RECIPES, *recipes.RECOGNISERS, *recipes.CLASSIFIERS]))
def test_shipped_cards_tell_the_recipe_that_makes_them(name):
    if name in ("digits-live", "cifar10"):  # trained in notebook 04 each time; days on a GPU: never shipped
        assert name not in zoo.names()
        return
    recipe = {**recipes.RECIPES, **recipes.RECOGNISERS, **recipes.CLASSIFIERS}[name]
    assert type(recipe)(**zoo.card(name)["recipe"]) == recipe  # a card older than a field has that field's default


def test_a_damaged_card_or_the_wrong_kind_is_named(saved):
    _, folder = saved
    with pytest.raises(ValueError, match=r"'fresh' is a diffusion model, not a recogniser: use load$"):
        zoo.load_recogniser("fresh", folder)
    with pytest.raises(ValueError, match=r"'fresh' is a diffusion model, not a classifier: use load$"):
        zoo.load_classifier("fresh", folder)
    with pytest.raises(ValueError, match="'digits-classifier' is a classifier, not a diffusion model"):
        zoo.load("digits-classifier")
    with pytest.raises(ValueError, match="'digits-recogniser' is a recogniser, not a classifier: use load_recogniser"):
        zoo.load_classifier("digits-recogniser")
    (folder / "fresh.json").write_text("{")
    with pytest.raises(ValueError, match=r"fresh\.json is damaged, or no model's card"):
        zoo.load("fresh", folder)


@pytest.mark.parametrize(("name", "rate"), [("digits", 0.85), ("mnist", 0.95)])
def test_cards_record_samples_that_are_recognised_cover_the_data_and_are_new(name, rate):
    """The numbers are measured by `train NAME` on what it ships; `digits-live` repeats them in notebook 04."""
    measured = {result["metric"]: result["value"] for result in zoo.card(name)["metrics"]}
    assert measured["recognised"] >= rate and measured["coverage"] >= 0.9 and measured["novelty"] >= 0.9


def test_dhariwal2021_the_networks_of_one_choice_each_are_what_they_say():
    folder = zoo.ZOO / "choices"
    assert zoo.names(folder) == sorted(f"{name}-{seed}" for name in recipes.CHOICES for seed in range(3))
    for name in zoo.names(folder):
        net, card = zoo.load_network(name, folder)  # its weights fit its recipe
        choice, seed = name.rsplit("-", 1)
        assert card["recipe"]["net"] == recipes.CHOICES[choice] and card["recipe"]["seed"] == int(seed)
        assert not net.training


def test_the_zoo_stays_small():
    assert sum(path.stat().st_size for path in zoo.ZOO.rglob("*")) < 40e6


def test_the_digits_model_beats_the_best_linear_denoiser_at_every_level():
    data = digits()
    net, schedule = zoo.load("digits")
    flat = data.train.flatten(1).double()
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / len(flat) + 1e-6 * torch.eye(256, dtype=torch.float64)
    linear = GaussianMixture(torch.ones(1), flat.mean(0)[None], covariance[None])
    eps = torch.randn(data.test.shape, generator=torch.Generator().manual_seed(0))
    for t in (200, 500, 800):
        now = schedule(t)
        x, times = q_sample(data.test, eps, now), torch.full((len(eps),), float(t))
        error = (net(x, times, data.test_labels) - eps).square().mean()
        best_linear = (linear.eps_fn(schedule)(x.flatten(1), times).view_as(eps) - eps).square().mean()
        assert error < 0.9 * best_linear, t


def test_the_digits_recogniser_recognises_digits():
    data = digits()
    assert accuracy(zoo.load_recogniser("digits-recogniser"), data.test, data.test_labels) >= 0.97
    assert zoo.card("mnist-recogniser")["test_accuracy"] >= 0.99  # MNIST itself is not shipped


def test_dhariwal2021_the_digits_classifier_reads_noise_nearly_as_the_training_set_itself_would():
    """Up to half of the chain within 3 points of the posterior of the training set; the clean one is lost there."""
    data, (clean, _) = digits(), zoo.load_classifier("digits-clean-classifier")
    net, schedule = zoo.load_classifier("digits-classifier")
    assert schedule.T == zoo.load("digits")[1].T and torch.equal(schedule.alpha_bar, zoo.load("digits")[1].alpha_bar)
    accuracies = [
        accuracy_by_level(each, schedule, data.test, data.test_labels, [1, 300, 500], seed=1)
        for each in (net, by_heart_classifier(data, schedule), clean)
    ]
    ours, heart, clean_ones = accuracies
    assert bool((ours > heart - 0.03).all()) and ours[0] > 0.97, accuracies
    assert clean_ones[0] > 0.97 and clean_ones[2] < ours[2] - 0.1, accuracies
    weight = sum((zoo.ZOO / f"{name}.safetensors").stat().st_size for name in recipes.CLASSIFIERS)
    assert weight < len(recipes.CLASSIFIERS) * 1e6
