"""The diagnosis of a training: each question answered right on runs whose illness is known."""

import math
from dataclasses import replace

import pytest
import torch
from crash import RECIPE

from ddpm_path.lab import diagnosis, train
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.train import Log


def remedies(findings) -> dict[str, str]:
    return {finding.subject: finding.remedy for finding in findings}


def test_the_weight_of_the_first_network_in_its_average_is_measured_on_one():
    """A network of ones whose average starts at 0 is, after n steps, the share that is not left."""
    net, ema = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
        ema.weight.fill_(0.0)
    for step in range(40):
        train.update_ema(ema, net, step, 0.9)
    left = diagnosis.initial_weight(replace(RECIPE, ema=0.9), 40)
    assert abs(ema.weight.item() - (1 - left)) < 1e-5 and left < 0.02


def test_the_constant_decay_of_users_questions_leaves_a_third():
    """0.9999 without warm-up leaves 37% after 10,000 steps; with it, the first steps forget."""
    assert abs(0.9999**10_000 - math.exp(-1)) < 1e-4
    assert diagnosis.initial_weight(replace(RECIPE, ema=0.9999), 10_000) < 1e-6


def test_an_average_that_still_remembers_is_a_problem():
    young, old = (remedies(diagnosis._average(RECIPE, steps))["moving average"] for steps in (2, 60))
    assert "raw network" in young and not old


@pytest.mark.parametrize(("norm", "ill"), [(0.5, False), (3.0, True)])
def test_gradients_that_are_always_clipped_are_a_problem(norm, ill):
    log = [Log(step, 1.0, 1e-3, norm, 0.0) for step in range(300)]
    assert bool(remedies(diagnosis._gradients(RECIPE, log))["gradient norm"]) == ill


def test_the_first_bad_step_is_found():
    log = [Log(step, math.nan if step >= 7 else 1.0, 1e-3, 1.0, 0.0) for step in range(9)]
    *_, bad = diagnosis._steps(RECIPE, log, 5)
    assert bad.state == "7" and "lower lr" in bad.remedy
    *_, none = diagnosis._steps(RECIPE, log[:7], 5)
    assert none.state == "none" and not none.remedy


@pytest.mark.parametrize(
    ("trained", "test", "ill"),
    [(0.1, 0.1, []), (0.9, 0.9, ["error of eps"]), (0.1, 0.2, ["unseen images"])],
)
def test_noise_that_stays_and_images_learned_by_heart_are_problems(trained, test, ill):
    table = {"train": torch.full((3,), trained), "test": torch.full((3,), test), "by heart": torch.zeros(3)}
    found = remedies(diagnosis._levels([1, 500, 1000], table))
    assert [subject for subject, remedy in found.items() if remedy] == ill


def test_a_tint_is_found_in_its_channel():
    images = torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(0)) / 3
    tinted = images.clone()
    tinted[:, 1] += 0.2
    pale = images * torch.tensor([1.0, 1.0, 0.5])[:, None, None]
    for samples, ill in ((images, []), (tinted, ["channel 1"]), (pale, ["channel 2"])):
        found = remedies(diagnosis._colours(samples, images))
        assert [subject for subject, remedy in found.items() if remedy] == ill


def test_a_run_is_diagnosed_from_its_folder(tmp_path, monkeypatch):
    """Two steps leave an average of random weights, and noise: both are said; the page has its pictures."""
    monkeypatch.setattr(train, "_picture", lambda *arguments: None)
    monkeypatch.setattr(diagnosis, "SAMPLES", 4)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        diagnosis.load(tmp_path)
    data = digits(8)
    train.train(replace(RECIPE, steps=2), data, tmp_path)
    found = remedies(diagnosis.diagnose(tmp_path, data))
    assert found["moving average"] and found["error of eps"] and not found["first bad step"]
    with pytest.raises(ValueError, match="not trained on these images"):
        diagnosis.diagnose(tmp_path, data._replace(train=-data.train))
    page = (tmp_path / "diagnosis.html").read_text()
    for picture in ("curves.png", "loss-by-level.png", "diagnosis.png"):
        assert f'src="{picture}"' in page and (tmp_path / picture).exists()


def test_the_sheet_names_the_rows_of_averaged_and_of_last_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_picture", lambda *arguments: None)
    monkeypatch.setattr(diagnosis, "SAMPLES", 16)
    drawn, real = [], diagnosis.plots.grid
    monkeypatch.setattr(diagnosis.plots, "grid", lambda *a, **k: drawn.append((a[0], k["rows"])) or real(*a, **k))
    data = digits(8)
    trained = train.train(replace(RECIPE, steps=2), data, tmp_path)
    diagnosis.diagnose(tmp_path, data)
    ((images, rows),) = drawn
    assert rows == ["averaged (EMA)", "last weights"]
    for net, seen in zip((trained.ema, trained.net), images.split(16), strict=True):
        eps_net, times = RECIPE.as_eps(net.eval()), RECIPE.times(25)
        labels = diagnosis.metrics.balanced_labels(16, net.classes)
        expected = diagnosis.metrics.sample(eps_net, RECIPE.schedule(), 16, images.shape[1:], times, 0, labels)
        torch.testing.assert_close(seen, expected)


def test_a_run_that_hides_the_time_is_diagnosed_at_the_same_levels(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_picture", lambda *arguments: None)
    monkeypatch.setattr(diagnosis, "SAMPLES", 2)
    data = digits(8)
    train.train(replace(RECIPE, steps=1, betas="ve-digits", prediction="eps", T=0), data, tmp_path)
    (levels,) = [f.state for f in diagnosis.diagnose(tmp_path, data) if f.subject == "error of eps"]
    assert levels.count("t = ") == 9


def test_a_run_that_exploded_has_its_bad_step_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_picture", lambda *arguments: None)
    rate = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda step, recipe: 1e30 if step >= 6 else rate(step, recipe))
    with pytest.raises(FloatingPointError) as error:
        train.train(RECIPE, digits(8), tmp_path, save_every=5)
    log = train.read_log(tmp_path)
    *_, bad = diagnosis._steps(RECIPE, log, 5)
    assert f"at step {bad.state} " in str(error.value) and int(bad.state) == len(log) - 1
