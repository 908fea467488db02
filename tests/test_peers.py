"""The benchmark of the peers: the budget is kept, jobs are planned and chosen as the page says, and it shows them."""

import importlib
import itertools
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers")
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def peers(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("peers")
    monkeypatch.setattr(module, "KEPT", tmp_path)
    return module


@pytest.fixture
def packages(peers):
    return importlib.import_module("packages")


def result(package="here", form="48", seed=0, budget=300, kernel=1.0, calls=50, n=2000, **measured) -> dict:
    facts = {"package": package, "form": form, "seed": seed, "budget": budget, "calls": calls, "n": n}
    values = {"recognised": 0.5, "coverage": 1.0, "kernel distance": kernel} | measured
    return facts | {"metrics": {k: [v, 0.1] for k, v in values.items()}, "parameters": 1000, "steps": 10}


@pytest.fixture
def few(packages, monkeypatch):
    """The digits of the zoo in the place of MNIST."""
    x, y = packages.datasets.mnist_sample()
    monkeypatch.setattr(packages.datasets, "mnist", lambda: packages.datasets.Images("mnist", x, y, x, y, ()))


def counting(packages):
    """A package whose network holds the number of steps it has seen."""

    def learn(net, batches):
        for step in itertools.count(1):
            with torch.no_grad():
                net.weight.fill_(step)
            yield lambda: net

    return packages.Peer(torch.nn.Linear, learn, 8, 28)


FORM = {"in_features": 1, "out_features": 1}


def test_a_peer_is_trained_once_and_copied_at_each_number_of_steps(packages, few):
    found = list(counting(packages).train(FORM, [2, 5], 0))
    assert [net.weight.item() for net in found] == [2, 5]


def test_the_pace_is_the_median_of_steps_after_slow_first_ones_and_is_measured_once(peers, monkeypatch):
    # The first end is the beginning of the second step: warm-up ends with the step after it.
    ends = list(itertools.accumulate([9.0] * (peers.WARM_UP + 1) + [1.0, 2.0, 3.0]))
    package = peers.PACKAGES["diffusers"]._replace(forms={"32": {}}, trial=lambda form, steps: ends)
    monkeypatch.setattr(peers, "PACKAGES", {"diffusers": package})
    monkeypatch.setattr(peers, "machine", lambda *packages: "a 386")
    assert peers.paces(["diffusers"])["diffusers, 32"] == 2.0
    monkeypatch.setattr(peers, "PACKAGES", {"diffusers": package._replace(trial=None)})
    assert peers.paces(["diffusers"])["diffusers, 32"] == 2.0


def test_a_job_makes_as_many_steps_as_fit_into_its_budget(peers, packages, few, monkeypatch):
    peer = counting(packages)
    package = peers.PACKAGES["diffusers"]._replace(make=peer.make, forms={"32": FORM}, train=peer.train)
    monkeypatch.setattr(peers, "PACKAGES", {"diffusers": package})
    peers.KEPT.joinpath("paces.json").write_text('{"diffusers, 32": 3.0}')
    peers.do([peers.Job("diffusers", "32", 0, budget) for budget in (20, 10)], 8, [])
    kept = [torch.load(path, weights_only=True) for path in sorted(peers.KEPT.rglob("net.pt"))]
    assert [(each["steps"], each["weights"]["weight"].item()) for each in kept] == [(3, 3), (6, 6)]


def test_our_networks_are_the_recipe_s_but_for_what_their_form_says(packages):
    recipe = packages.recipes.RECIPES["mnist"]
    forms = {name: packages.ours(**form) for name, form in packages.PACKAGES["here"].forms.items()}
    for each in forms.values():
        assert (each.net["classes"], each.label_dropout, each.restart) == (0, 0.0, 0)
        same = {"net": None, "label_dropout": None, "restart": None, "lr": None, "logit_normal": None}
        assert asdict(each) | same == asdict(recipe) | same
    assert [each.net["widths"] for each in forms.values()] == [[48, 96], [24, 48], [16, 32], [16, 32]]
    assert [each.net["attention"] for each in forms.values()] == [[1], [1], [1], []]
    assert [(each.lr, each.logit_normal) for each in forms.values()] == [
        *[(recipe.lr, False), (6e-3, True), (8e-3, True), (8e-3, True)]
    ]
    for form in packages.PACKAGES["here"].forms.values():
        packages.our_network(**form)


def test_diffusers_is_shown_noisy_images_and_draws_in_our_range(packages):
    """Of an image of -0.5: each input holds its share, and the rest is noise of the share that is left."""
    scheduler, seen = packages.diffusers_scheduler(), []
    net = packages.diffusers_network(8, 8)

    def forward(x, t, return_dict=True):
        clean, noise = (alpha.sqrt().view(-1, 1, 1, 1) for alpha in (bars[t], 1 - bars[t]))
        eps = (x + 0.5 * clean) / noise
        seen.append((t, eps))
        return SimpleNamespace(sample=eps + 0 * net.conv_in.weight.sum())

    bars, net.forward = scheduler.alphas_cumprod, forward
    torch.manual_seed(0)
    next(packages.learn_diffusers(net, iter([torch.full((128, 1, 28, 28), -0.5)])))
    ((t, eps),) = seen
    assert t.min() < 50 and t.max() > 950 and t.shape == (128,)
    # 784 normal numbers each, 128 times: means off by 0.036, deviations by 0.025, times 5.
    assert float(eps.mean((1, 2, 3)).abs().max()) < 0.18 and float((eps.std((1, 2, 3)) - 1).abs().max()) < 0.13
    assert torch.allclose(packages.draw_diffusers(net, 2, 20), torch.full((2, 1, 28, 28), -0.5), atol=1e-4)


def test_batches_are_whole_in_a_fresh_order_and_framed_by_background(packages):
    images = torch.arange(10.0)[:, None, None, None].expand(10, 1, 28, 28) / 10
    torch.manual_seed(0)
    seen = list(itertools.islice(packages.batches(images, 4, 32), 4))
    assert all(x.shape == (4, 1, 32, 32) for x in seen)
    epochs = [torch.cat(seen[i : i + 2])[:, 0, 16, 16].tolist() for i in (0, 2)]
    assert all(len(set(epoch)) == 8 for epoch in epochs) and epochs[0] != epochs[1]
    assert bool((seen[0][:, :, [0, 1, -2, -1]] == -1).all()) and bool((seen[0][:, :, 2:-2, 2:-2] >= 0).all())


def test_every_documented_network_comes_first_then_smaller_ones_once_and_the_best_again(peers, monkeypatch):
    measured = [result("here", form, kernel=k, budget=b) for form, k in (("24", 2), ("16", 1)) for b in (300, 900)]
    measured += [result("here", "16-middle", kernel=k, budget=b) for k, b in ((0.5, 900), (3, 300))]
    monkeypatch.setattr(peers, "results", lambda: measured)
    runs = [
        (run[0].form, run[0].seed, [job.budget for job in run]) for run in peers.plan(["here"], [0, 7], [300, 900], 3)
    ]
    both = [300, 900]
    assert runs == [
        *[("48", 0, both), ("48", 7, both), ("24", 0, both), ("16", 0, both), ("16-middle", 0, both)],
        *[("16", 7, [300]), ("16-middle", 7, [900])],
    ]


def test_the_best_smaller_network_is_chosen_by_the_first_seed_at_most_calls_and_never_the_documented(peers):
    found = [
        result("here", "48", kernel=0.1, calls=250),
        result("here", "32", kernel=0.2),
        result("here", "24", kernel=0.3),
    ]
    assert peers.best_smaller(found, "here", 300) == "32"
    found += [result("here", "32", kernel=9, calls=250), result("here", "24", kernel=8, calls=250)]
    found += [result("here", "32", kernel=0.01, seed=1, calls=250), result("diffusers", "16", kernel=0.001)]
    found += [result("here", "32", kernel=0.01, calls=250, n=5000)]  # of one alone: no comparison
    assert peers.best_smaller(found, "here", 300) == "24"
    assert peers.best_smaller(found, "here", 900) is None


def test_the_page_tells_which_smaller_networks_were_tried(peers):
    found = [result("diffusers", "16"), result("here", "16"), result("here", "16", seed=1), result("here", "24")]
    assert list(peers.smaller_tried([*found, result("here", "48", budget=900)])) == [
        "- 300 seconds: here 24, 16; diffusers 16",
        "- 900 seconds: ",
    ]


def test_the_page_averages_over_seeds_and_marks_the_best(peers):
    found = [result(seed=0, kernel=1.0, recognised=0.8), result(seed=1, kernel=2.0, recognised=0.9)]
    found += [result("diffusers", "32", kernel=1.2, recognised=0.2)]
    own = 0.1 / 2**0.5  # of the mean of two results, 0.1 each: the least error that it can have
    title, text = peers.qualities(found)
    assert title == "### 300 seconds of training, 50 network calls, 2,000 samples"
    _, _, here, theirs = text.splitlines()
    assert here.startswith(f"| here, 48 | **0.850 ± {own:.3f}** | **1.000 ± {own:.3f}** | 1.500 ± 0.500 |")
    assert theirs == "| diffusers, 32 | 0.200 ± 0.100 | **1.000 ± 0.100** | **1.200 ± 0.100** | 1,000 | 10 | 1 |"


def test_the_page_leaves_out_amounts_at_which_neither_is_measured(peers):
    found = [result("here", form, kernel=k, n=500) for form, k in (("24", 1.0), ("16", 2.0))]
    title, _ = peers.qualities([*found, result("here", "16", kernel=0.1, n=2000)])
    assert title.endswith("500 samples")


def test_the_page_stays_where_no_quality_is_measured(peers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "KEPT", tmp_path)
    monkeypatch.setattr(peers, "HERE", tmp_path / "no such folder")
    (tmp_path / "paces.json").write_text("{}")
    peers.write()
    assert "Not measured yet." in capsys.readouterr().out


def test_what_covers_too_little_is_out_of_the_running(peers):
    noise = result("diffusers", "32", recognised=1.0, coverage=0.6)
    _, text = peers.qualities([result(recognised=0.7, coverage=0.95), noise])
    _, _, here, theirs = text.splitlines()
    assert here.startswith("| here, 48 | **0.700 ± 0.100** |") and theirs.startswith(
        "| diffusers, 32 | (1.000 ± 0.100) |"
    )
    _, text = peers.qualities(
        [result(recognised=0.7), noise | {"metrics": noise["metrics"] | {"recognised": [0.7, 0.1]}}]
    )
    assert "| (0.700 ± 0.100) |" in text, "nor is what ties with the best"


def test_speeds_are_multiples_of_ours(peers):
    seconds = {"here": [1.0, 2.0, 3.0], "diffusers": [2.0, 4.0, 6.0]}
    memory = {"here": 100.0, "diffusers": 50.0}
    found = {
        "seconds": dict.fromkeys(peers.WORKS, seconds),
        "memory": dict.fromkeys(peers.WORKS, memory),
        "parameters": {"here": 1000, "diffusers": 2000},
    }
    ratios, values = peers.speeds(found).split("\n\n")
    assert ratios.splitlines()[-1] == "| diffusers | 2,000 | 2.00 | 2.00 | 0.50 | 0.50 |"
    assert values.splitlines()[-1] == "| diffusers | 16 (11 to 32) | 16 (11 to 32) | 50 MiB | 50 MiB |"
