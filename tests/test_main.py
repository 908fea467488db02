"""The command line: what it prints, what it passes on, and one clear line for what a user can mend."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_path import samplers
from ddpm_path.__main__ import listing, main
from ddpm_path.lab import diagnosis, doctor, making, metrics, plots, record, roadmap, runner, zoo
from ddpm_path.lab.recipes import Recipe
from ddpm_path.lab.record import Claim, State
from ddpm_path.schedule import VP, Discrete, leading_times, linear_betas, quadratic_times, ratio_times, uniform_times

Capture = pytest.CaptureFixture[str]


class Shown(list[Tensor]):
    """The images that a command drew, and where."""

    path: Path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A zoo of one model that answers the noise of all-1/4 images for label 1, of 3/4 else; and what was drawn."""
    schedule = Discrete.from_betas(linear_betas())
    shown = Shown()

    def net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        scale, std = (c.float().view(-1, 1, 1, 1) for c in schedule(t))
        dog = torch.zeros(len(x), dtype=torch.bool) if label is None else label == 1
        return (x - scale * torch.where(dog, 0.25, 0.75).view(-1, 1, 1, 1)) / std

    def card(name: str, folder: Path) -> dict[str, Any]:
        assert name == "toy"
        return {
            "recipe": {"net": {"channels": 2, "classes": 2, "widths": [8]}, "label_dropout": 0.1},
            "size": 4,
            "classes": ["cat", "dog"],
        }

    def grid(images: Tensor, columns: int) -> Figure:
        shown.append(images)
        return Figure()

    def save(figure: Figure, path: Path) -> None:
        shown.path = path

    monkeypatch.setattr(zoo, "card", card)
    monkeypatch.setattr(zoo, "load", lambda name, folder: (net, schedule))
    monkeypatch.setattr(plots, "grid", grid)
    monkeypatch.setattr(plots, "save", save)
    return shown


def fails(arguments: list[str], capsys: Capture) -> str:
    """The error of a command: status 2 and one line."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ddpm-path: error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def test_list_shows_every_stop_within_120_columns(capsys: Capture) -> None:
    assert main(["list"]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 120
    for stop in roadmap.STOPS:
        assert stop.title.split()[0] in table
        for paper in stop.papers:
            assert (paper.arxiv or "Distill") in table
        for notebook in stop.notebooks:
            assert notebook in table
    starts = [table.index(notebook) for stop in roadmap.STOPS for notebook in stop.notebooks]
    assert starts == sorted(starts)


def test_list_tells_built_from_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stop = roadmap.Stop("1 Step", "A stop", (roadmap.Paper("A 2020", "T", "2001.00001"),), ("01_a",))
    later = roadmap.Stop("1 Step", "Later", (roadmap.Paper("B 2021", "U", None),), ("02_b",))
    known = (
        Claim("x", "01_a", "", "", State.HOLDS, "r"),
        Claim("y", "01_a", "", "", State.FAILS, "r"),
        Claim("z", "02_b", "", ""),
    )
    monkeypatch.setattr(roadmap, "STOPS", (stop, later))
    monkeypatch.setattr(record, "CLAIMS", known)
    monkeypatch.setattr(roadmap, "notebooks_folder", lambda: tmp_path)
    assert "built" not in listing(), "its notebook is not written"
    (tmp_path / "01_a.ipynb").touch()
    lines = [line.split() for line in listing().splitlines()]
    assert ["A", "stop", "A", "2020,", "2001.00001", "01_a", "built", "1", "hold"] in lines
    assert ["1", "fail"] in lines
    assert ["Later", "B", "2021,", "Distill", "02_b", "open", "1", "to", "measure"] in lines


def test_sample_draws_what_the_model_knows(drawn: Shown, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "grid.png"
    command = ["sample", "toy", "--steps", "10", "--n", "3", "--seed", "5", "--out", str(out)]
    assert main([*command, "--label", "dog"]) == 0
    assert "3 samples of toy, 10 steps of ancestral from t = 1000, seed 5" in capsys.readouterr().out
    assert drawn.path == out
    assert drawn[0].shape == (3, 2, 4, 4)
    torch.testing.assert_close(drawn[0], torch.full((3, 2, 4, 4), 0.25), atol=1e-5, rtol=0)
    assert main(command) == 0  # no label
    torch.testing.assert_close(drawn[1], torch.full((3, 2, 4, 4), 0.75), atol=1e-5, rtol=0)


SAMPLERS = ("ancestral", "ancestral-large", "ddim", "f-pndm", "s-pndm", "plms", "runge-kutta")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sample_guides_every_sampler(drawn: Shown, tmp_path: Path, sampler: str) -> None:
    """The toy's x_0 is 1/4 for dogs and 3/4 without a label: 3/4 + scale (1/4 - 3/4), and then clipped to [-1, 1]."""
    command = ["sample", "toy", "--sampler", sampler, "--steps", "60", "--n", "2", "--label", "dog"]
    command += ["--out", str(tmp_path / "grid.png")]
    for scale, x0 in (("0", 0.75), ("1", 0.25), ("3", -0.75), ("8", -1.0), ("-1", 1.0)):
        assert main([*command, "--scale", scale]) == 0
        # Runge-Kutta's last slope is asked for at t = 1 where x is data already: a sixth of that error is left.
        torch.testing.assert_close(drawn[-1], torch.full((2, 2, 4, 4), x0), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "more", "message"),
    [
        ({"classes": 2}, ["--scale", "3"], "--scale guides towards a class: add one with --label"),
        ({"classes": 2}, ["--scale", "nan", "--label", "dog"], "--scale is a number, 3 say; got nan"),
        ({"classes": 2}, ["--scale=-inf", "--label", "dog"], "--scale is a number, 3 say; got -inf"),
        ({}, ["--scale", "3", "--label", "dog"], "toy was trained without labels: leave --label out"),
        ({"classes": 0}, ["--label", "dog"], "toy was trained without labels: leave --label out"),
        ({"classes": 2, "label_dropout": 0.0}, ["--scale", "3", "--label", "dog"], "leave --scale out"),
    ],
)
def test_what_cannot_be_guided(
    drawn: Shown,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    recipe: dict[str, Any],
    more: list[str],
    message: str,
) -> None:
    dropout = recipe.pop("label_dropout", 0.1)
    card = {
        "recipe": {"net": {"channels": 2, **recipe}, "label_dropout": dropout},
        "size": 4,
        "classes": ["cat", "dog"],
    }
    monkeypatch.setattr(zoo, "card", lambda name, folder: card)
    assert message in fails(["sample", "toy", *more], capsys)
    assert not drawn


def test_sample_is_set_by_seed_and_sampler(drawn: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Discrete.from_betas(linear_betas())
    monkeypatch.setattr(zoo, "load", lambda name, folder: (lambda x, t, label=None: 0.5 * x, schedule))
    command = ["sample", "toy", "--steps", "5", "--n", "2"]
    for more in ([], [], ["--seed", "1"], ["--sampler", "ancestral-large"], ["--n", "1"]):
        assert main([*command, *more]) == 0
    first, again, seeded, large, one = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, seeded)
    assert not torch.equal(first, large)
    torch.testing.assert_close(first[:1], one)


@pytest.mark.parametrize(
    ("name", "sampler", "late"),
    [
        *(("ancestral", samplers.ancestral, None), ("ddim", None, None), ("ancestral-large", None, None)),
        *(("f-pndm", samplers.f_pndm, 854), ("s-pndm", samplers.s_pndm, 854), ("plms", samplers.plms, 854)),
        ("runge-kutta", samplers.pseudo_runge_kutta, 854),
    ],
)
def test_sample_takes_every_sampler_on_every_grid(
    drawn: Shown, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, sampler: Any, late: int | None
) -> None:
    """Multistep samplers take DDIM's step to where std / scale = 40, t = 854 with linear betas: see notebook 15."""
    schedule, seen = Discrete.from_betas(linear_betas()), {}

    def sample(net: Any, schedule: Any, n: int, shape: Any, times: Any, seed: int, labels: Any, sampler: Any) -> Tensor:
        seen["times"], seen["sampler"] = times, sampler
        return torch.zeros(n, *shape)

    monkeypatch.setattr(metrics, "sample", sample)
    monkeypatch.setattr(samplers, "ddim_first", lambda sampler: ("DDIM first", sampler))

    def expected(start: int, steps: int) -> dict[str, list[float]]:
        return {
            "uniform": [*uniform_times(start, steps)],
            "leading": [*leading_times(start, steps)],
            "quadratic": [*quadratic_times(start, steps)],
            "ratio": ratio_times(schedule, steps, start),
        }

    for more, start in (([], late or 1000), (["--start", "600"], 600)):
        first = late is not None and not more
        for grid, times in expected(start, 19 if first else 20).items():
            times = [1000, *times] if first else times
            command = ["sample", "toy", "--sampler", name, "--grid", grid, "--steps", "20", "--n", "2", *more]
            assert main(command) == 0
            assert f"20 steps of {name} from t = {times[0]:g}, seed 0" in capsys.readouterr().out
            assert seen["times"] == times
            assert sampler is None or seen["sampler"] == (("DDIM first", sampler) if first else sampler)


@pytest.mark.parametrize(("sampler", "late"), [("ancestral", None), ("plms", 0.856)])
def test_sample_takes_every_sampler_on_an_sde(
    drawn: Shown, monkeypatch: pytest.MonkeyPatch, sampler: str, late: float | None
) -> None:
    """Times are not whole there, and 1 is not a number of steps: 1,000 unless it is said."""
    schedule, seen = VP(), []
    monkeypatch.setattr(zoo, "load", lambda name, folder: (lambda x, t, label=None: 0.5 * x, schedule))
    monkeypatch.setattr(metrics, "sample", lambda net, schedule, n, shape, times, *rest: seen.append(times) or drawn)
    for more in ([], ["--steps", "20"]):
        assert main(["sample", "toy", "--sampler", sampler, *more]) == 0
    assert [len(times) - 1 for times in seen] == [1001 if late else 1000, 20]
    for times in seen:
        assert times[0] == 1 and times[-2:] == [pytest.approx(1e-3), 0]
        assert late is None or times[1] == pytest.approx(late, abs=1e-3)


def test_sample_takes_eta_and_a_start(drawn: Shown, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    schedule = Discrete.from_betas(linear_betas())
    monkeypatch.setattr(zoo, "load", lambda name, folder: (lambda x, t, label=None: 0.5 * x, schedule))
    for more in ([], ["--eta", "0"], ["--eta", "0.5"], ["--start", "400"], ["--grid", "quadratic"]):
        assert main(["sample", "toy", "--sampler", "ddim", "--steps", "5", "--n", "2", *more]) == 0
    plain, zero, half, later, quadratic = drawn
    assert torch.equal(plain, zero)
    assert all(not torch.equal(plain, other) for other in (half, later, quadratic))
    assert "5 steps of ddim from t = 400" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label", "dogs"], "no class 'dogs': did you mean 'dog'? There are cat, dog"),
        (["--sampler", "ancestrall"], "did you mean 'ancestral'? There are ancestral, ancestral-large, ddim"),
        (["--sampler", "pndm"], "f-pndm, s-pndm, plms, runge-kutta"),
        (["--eta", "0.5"], "--eta belongs to ddim"),
        (["--sampler", "ddim", "--eta", "-1"], "eta = -1.0: give a finite number from 0"),
        (["--grid", "quadratc"], "did you mean 'quadratic'? There are uniform, leading, quadratic, ratio"),
        (["--start", "1001"], "--start 1001 is not a time of toy: choose between 1 and 1000"),
        (["--start", "0"], "choose between 1 and 1000"),
        (["--steps", "0"], "0 steps on a chain of 1000: choose between 1 and 1000"),
        (["--steps", "1001"], "choose between 1 and 1000"),
        (["--sampler", "plms", "--steps", "1"], "begins with a step of DDIM on toy: give --steps 2 or more"),
        (["--out", "grid.jpeg"], "give a name like grid.png"),
        (["--seed", "-1"], "a seed is a whole number"),
    ],
)
def test_sample_says_what_to_change(drawn: Shown, more: list[str], message: str, capsys: Capture) -> None:
    assert message in fails(["sample", "toy", *more], capsys)
    assert drawn == []


def test_a_walk_on_an_sde_has_a_step_more_at_its_end(capsys: Capture) -> None:
    short = ["sample", "digits-vp", "--sampler", "plms", "--steps", "2"]
    assert "plms begins with a step of DDIM on digits-vp: give --steps 3 or more" in fails(short, capsys)


def test_unknown_models_and_classifiers_do_not_draw(capsys: Capture) -> None:
    assert "no model 'digit': did you mean 'digits'? There are " in fails(["sample", "digit"], capsys)
    assert "is a recogniser, not a diffusion model: use" in fails(["sample", "digits-recogniser"], capsys)


def test_train_passes_on_name_folder_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(making, "make", lambda *arguments: calls.append(arguments[:3]))
    monkeypatch.setattr(making, "make_of_images", lambda *arguments: calls.append(arguments[:4]))
    assert main(["train", "digits"]) == 0
    assert main(["train", "mnist", "--out", "here", "--steps", "7"]) == 0
    assert main(["train", "--data", "photos", "--out", "here"]) == 0
    assert main(["train", "--data", "some/photos", "--size", "64", "--steps", "7"]) == 0
    assert calls == [
        ("digits", Path("build/train/digits"), None),
        ("mnist", Path("here"), 7),
        (Path("photos"), 32, Path("here"), None),
        (Path("some/photos"), 64, Path("build/train/photos"), 7),
    ]


def test_train_wants_a_recipe_or_images_not_both(capsys: Capture) -> None:
    assert "one of the two" in fails(["train"], capsys)
    assert "one of the two" in fails(["train", "digits", "--data", "photos"], capsys)
    assert "--size belongs to --data" in fails(["train", "digits", "--size", "16"], capsys)


def test_diagnose_asks_for_the_images_of_a_run_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(diagnosis, "load", lambda folder: (Recipe("photos", {}, 1), None))
    assert "name their folder with --data" in fails(["diagnose", "run"], capsys)
    for command in (["diagnose", "run"], ["train", "digits"]):
        assert "--size belongs to --data" in fails([*command, "--size", "16"], capsys)


def test_doctor_s_status_tells_of_problems(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for remedy, status in (("", 0), ("mend it", 1)):
        monkeypatch.setattr(doctor, "examine", lambda remedy=remedy: [doctor.Finding("a", "b", remedy)])
        assert main(["doctor"]) == status
    assert "remedy: mend it" in capsys.readouterr().out


def test_sample_draws_from_a_trainings_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for suffix in ("json", "safetensors"):
        shutil.copy(zoo.ZOO / f"digits.{suffix}", tmp_path / f"mine.{suffix}")
    out = tmp_path / "grid.png"
    assert main(["sample", str(tmp_path), "--steps", "2", "--n", "2", "--out", str(out)]) == 0
    assert out.stat().st_size > 200 and "samples of mine" in capsys.readouterr().out
    (tmp_path / "mine.json").unlink()
    assert "holds 0 models" in fails(["sample", str(tmp_path)], capsys)


def test_train_of_an_unknown_recipe(capsys: Capture) -> None:
    assert "did you mean 'digits'" in fails(["train", "digit"], capsys)


@pytest.mark.parametrize("arguments", [[], ["walk"], ["sample"], ["train", "digits", "--steps", "0"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_run_passes_on_names_and_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "03_ddpm_forward.ipynb").touch()
    monkeypatch.setattr(roadmap, "notebooks_folder", lambda: notebooks)
    assert "did you mean '03_ddpm_forward'" in fails(["run", "03_forward"], capsys)
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(runner, "run", lambda *given: calls.append(given) or 1)
    assert main(["run", "03", "04"]) == 1
    assert calls == [(["03", "04"], notebooks, tmp_path / "build" / "path")]


def test_run_outside_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setattr(roadmap, "__file__", str(tmp_path / "site" / "ddpm_path" / "lab" / "roadmap.py"))
    assert "git clone" in fails(["run"], capsys)
    assert "03_ddpm_forward" in listing(), "the table needs no clone"


def test_help_is_fast_and_imports_no_torch() -> None:
    code = "import sys\nfrom ddpm_path.__main__ import _parser\n_parser()\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    done = subprocess.run([sys.executable, "-m", "ddpm_path", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("list", "run", "train", "sample", "evaluate"))
