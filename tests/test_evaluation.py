"""`evaluate`: what it measures against what it should, and that only results of equal settings are compared."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LINEAR, close, gaussian_eps, randn

from ddpm_path.__main__ import main
from ddpm_path.gaussian import fixed_large, fixed_small, posterior
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import datasets, evaluation, metrics, probing, zoo
from ddpm_path.lab.evaluation import Evaluation, comparison, evaluate, read, report, save
from ddpm_path.lab.metrics import Result
from ddpm_path.lab.recipes import Recipe
from ddpm_path.losses import bound_terms, fixed_variance, prior_term
from ddpm_path.schedule import uniform_times

Capture = pytest.CaptureFixture[str]
PLAIN = Recipe(
    "digits",
    {"channels": 1, "classes": 0, "patch": 4, "widths": [8], "attention": [], "head_width": 8, "groups": 4},
    steps=1,
    betas="linear",
    prediction="eps",
)


def pixels(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(seed)) / 127.5 - 1


def put(name: str, recipe: Recipe, folder: Path) -> None:
    """A network of this recipe with random weights, saved as a model."""
    torch.manual_seed(0)
    net = recipe.network()
    torch.nn.init.normal_(net.head.weight, std=0.02)
    zoo.save(name, net, {"kind": "diffusion", "recipe": asdict(recipe), "classes": list("0123456789")}, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put("plain", PLAIN, tmp_path)
    return tmp_path


# --- bits


def test_ho2020_eq5_bits_of_single_steps_are_the_terms_themselves() -> None:
    """A step back that misses the posterior's mean by half a deviation costs 1/8 nat a pixel, wherever x_t is."""
    times, images = uniform_times(1000, 30), pixels(4)
    levels = {t: (LINEAR(t), LINEAR(s)) for t, s in itertools.pairwise(times)}

    def reverse(x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> Any:
        pairs = [levels[int(time)] for time in t]
        parts = [posterior(images[i : i + 1], x[i : i + 1], *pair) for i, pair in enumerate(pairs)]
        variance = torch.stack([torch.as_tensor(part[1]).clamp(min=1e-4) for part in parts])
        return torch.cat([part[0] for part in parts]) + 0.5 * variance.sqrt().float().view(-1, 1, 1, 1), variance

    found = probing.bits(reverse, LINEAR, images, times, strata=400)
    close(found.rate, torch.full((4,), 29 / 8 / 0.6931471805599453), rtol=1e-3)  # float32 means near T
    close(found.prior, prior_term(LINEAR, images).double())
    close(found.total, (found.prior + found.rate + found.distortion).double())


def test_bits_of_strata_are_unbiased_and_the_same_for_the_same_seed() -> None:
    images, times = pixels(600), uniform_times(1000, 60)
    reverse = fixed_variance(gaussian_eps(0.0, 0.4, LINEAR), LINEAR, fixed_large, times)
    few = probing.bits(reverse, LINEAR, images, times, strata=8)
    terms = torch.stack(list(bound_terms(reverse, LINEAR, images, times, torch.Generator().manual_seed(1))))
    for got, true in ((few.rate, terms[:-1].sum(0)), (few.distortion, terms[-1])):
        error = (got.var() + true.var()).sqrt() / 600**0.5
        assert abs(float(got.mean() - true.mean())) < 4 * float(error)
    assert torch.equal(probing.bits(reverse, LINEAR, images, times, strata=8).total, few.total)
    assert not torch.equal(probing.bits(reverse, LINEAR, images, times, strata=8, seed=1).total, few.total)


# --- evaluate


def test_evaluate_measures_the_whole_chain_and_samples_with_their_settings(folder: Path) -> None:
    found = evaluate("plain", images=5, samples=50, steps=2, folder=folder)
    value = {result.metric: result for result in found.results}
    assert list(value) == ["bits/dim", "prior", "rate", "distortion", "kernel", "recognised", "coverage", "novelty"]
    parts = [value[part].value for part in ("prior", "rate", "distortion")]
    assert value["bits/dim"].value == pytest.approx(sum(parts), rel=1e-5)

    net, schedule = zoo.load("plain", folder)
    data, times = datasets.digits(), list(range(1000, -1, -1))
    reverse = fixed_variance(clip_x0(net, schedule), schedule, fixed_large)
    bits = probing.bits(reverse, schedule, data.test[:5], times, evaluation.STRATA, 0)
    assert value["bits/dim"].value == pytest.approx(float(bits.total.mean()), rel=1e-5)
    assert value["bits/dim"].error == pytest.approx(float(bits.total.std()) / 5**0.5, rel=1e-5)
    settings = value["bits/dim"].settings
    assert (settings["n"], settings["levels"], settings["strata"]) == (5, 1000, 40)

    drawn = metrics.sample(net, schedule, 50, (1, 16, 16), uniform_times(1000, 2), 0)
    recogniser = zoo.load_recogniser("digits-recogniser")
    distance = metrics.kernel_distance(recogniser.features(data.test), recogniser.features(drawn))
    assert value["kernel"].value == pytest.approx(distance)
    assert value["kernel"].settings["steps"] == 2 and value["kernel"].settings["n"] == 50
    text = report(found)
    assert "levels 1000, strata 40" in text and text.count("bits/dim") == 1 and "kernel" in text


def test_evaluate_gives_true_labels_and_the_variance_asked_for(folder: Path) -> None:
    put("labelled", replace(PLAIN, net=PLAIN.net | {"classes": 10}), folder)
    own, small = (
        evaluate("labelled", images=4, samples=50, steps=2, variance=each, folder=folder) for each in (None, "small")
    )
    assert own.results[0].settings["labels"] == "true" and own.results[4].settings["labels"] == "balanced"
    net, schedule = zoo.load("labelled", folder)
    data = datasets.digits()
    for found, variance in ((own, fixed_large), (small, fixed_small)):
        eps_fn = clip_x0(lambda x, t: net(x, t, data.test_labels[:4]), schedule)
        reverse = fixed_variance(eps_fn, schedule, variance)
        bits = probing.bits(reverse, schedule, data.test[:4], list(range(1000, -1, -1)), 40, 0)
        assert found.results[0].value == pytest.approx(float(bits.total.mean()), rel=1e-5)
    with pytest.raises(ValueError, match=r"bits/dim of labelled and labelled: not comparable: variance differ"):
        comparison(own, small)


def test_evaluate_needs_no_mnist_and_says_what_that_leaves_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put("numbers", replace(PLAIN, data="mnist"), folder)
    monkeypatch.setenv("DDPM_PATH_DATA", str(tmp_path))
    found = evaluate("numbers", images=3, samples=50, steps=1, folder=folder)
    assert [result.metric for result in found.results[4:]] == ["kernel", "recognised", "coverage"]
    assert found.missing == ["no novelty: MNIST's training images are not on this machine"]
    assert "no novelty" in report(found)


def test_a_schedule_that_ends_at_other_noise_has_no_bits(folder: Path) -> None:
    put("exploding", replace(PLAIN, betas="ve"), folder)
    found = evaluate("exploding", images=3, samples=50, steps=2, folder=folder)
    assert [result.metric for result in found.results] == ["kernel", "recognised", "coverage", "novelty"]
    assert "the schedule ends at std 50" in found.missing[0]


def test_two_samples_of_one_law_have_no_distance_within_the_error_that_is_told() -> None:
    found = evaluation._distance(randn(300, 8), randn(200, 8, seed=1), "x", {})
    assert found.metric == "kernel" and abs(found.value) < 4 * found.error
    assert (found.settings["real"], found.settings["n"]) == (300, 200)


def test_evaluate_takes_a_recipe_that_names_no_classes(folder: Path) -> None:
    put("bare", replace(PLAIN, net={key: value for key, value in PLAIN.net.items() if key != "classes"}), folder)
    found, plain = (evaluate(name, images=2, samples=50, steps=2, folder=folder) for name in ("bare", "plain"))
    assert found.results == plain.results


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"variance": "larg"}, "did you mean 'large'"),
        ({"images": 356}, "choose from 2 to the 355 test images of digits"),
        ({"images": 1}, "choose from 2"),
        ({"samples": 49}, "49 samples are too few"),
        ({"name": "digits-recogniser", "folder": zoo.ZOO}, "not a diffusion model"),
        ({"name": "plane"}, "did you mean 'plain'"),
        ({"images": 2, "steps": 0}, "0 steps on a chain"),
    ],
)
def test_evaluate_says_what_to_change(folder: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(**({"name": "plain", "images": 3, "samples": 50, "steps": 2, "folder": folder} | more))


# --- comparing


ONE = Evaluation("one", [Result("bits/dim", 3.0, 0.3, {"n": 5}), Result("kernel", 7.0, 1.0, {"steps": 2})], [])


def test_a_comparison_is_the_differences_and_is_refused_where_settings_differ() -> None:
    other = Evaluation("other", [Result("bits/dim", 2.5, 0.4, {"n": 5}), Result("frechet", 1.0, 0.1, {})], [])
    assert comparison(ONE, other).split() == ["one", "less", "other", "bits/dim", "+0.5000", "+-", "0.5000"]
    differing = other._replace(results=[Result("bits/dim", 2.5, 0.4, {"n": 6})])
    with pytest.raises(ValueError, match=r"bits/dim of one and other: not comparable: n differ"):
        comparison(ONE, differing)
    with pytest.raises(ValueError, match="no metric in common"):
        comparison(ONE, other._replace(results=other.results[1:]))


def test_what_was_saved_is_what_is_read_and_other_files_are_named(tmp_path: Path) -> None:
    save(ONE, tmp_path / "one.json")
    assert read(tmp_path / "one.json") == ONE
    for content in ("{", "[]", json.dumps({"name": "one"}), json.dumps({"name": 1, "results": [{}], "missing": []})):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match=r"other\.json holds no evaluation .*--save"):
            read(tmp_path / "other.json")


def test_the_command_prints_saves_and_compares(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    calls = []

    def measured(name: str, **settings: Any) -> Evaluation:
        calls.append((name, settings))
        return ONE._replace(name=name)

    monkeypatch.setattr(evaluation, "evaluate", measured)
    path = str(tmp_path / "one.json")
    assert main(["evaluate", "one", "--save", path, "--images", "7", "--variance", "small"]) == 0
    assert "bits/dim      3.0000 +- 0.3000" in capsys.readouterr().out
    assert calls == [("one", {"images": 7, "samples": 500, "steps": 25, "variance": "small", "seed": 0})]
    assert main(["evaluate", "two", "--against", path]) == 0
    assert "two less one" in capsys.readouterr().out and len(calls) == 2
    assert main(["evaluate", "two", "--against", "three"]) == 0
    assert "two less three" in capsys.readouterr().out and [name for name, _ in calls[2:]] == ["two", "three"]
    Path(path).write_text("{}")
    assert main(["evaluate", "two", "--against", path]) == 2
    assert "holds no evaluation" in capsys.readouterr().err and len(calls) == 4  # told before the work
    assert main(["evaluate", "two", "--against", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err and len(calls) == 4
