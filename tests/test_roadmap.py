"""The article as data is complete, in order, and true to what the package has."""

import importlib
import itertools
import re
from pathlib import Path

import pytest

from ddpm_path.lab import claims, record, roadmap
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.record import CLAIMS, Claim, State
from ddpm_path.lab.roadmap import STOPS

NOTEBOOKS = [notebook for stop in STOPS for notebook in stop.notebooks]


def test_every_stop_of_the_article_in_its_order() -> None:
    steps = [step for step, _ in itertools.groupby(stop.step for stop in STOPS)]
    assert [step.split()[0] for step in steps] == ["1", "2", "4", "The", "7"]
    numbers = [int(notebook[:2]) for notebook in NOTEBOOKS]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 29))
    assert len(STOPS) == 28
    assert len({stop.title for stop in STOPS}) == 28
    papers = {paper for stop in STOPS for paper in stop.papers}
    assert len(papers) == 28
    assert all(re.fullmatch(r"\d{4}\.\d{5}|\d{4}\.\d{4}", paper.arxiv) for paper in papers if paper.arxiv)
    assert [paper.authors_year for paper in papers if paper.arxiv is None] == ["Odena et al. 2016"]
    assert len({paper.arxiv for paper in papers}) == 28


@pytest.mark.parametrize(
    ("notebook", "arxiv"),
    [
        ("02_early_diffusion", "1503.03585"),
        ("04_ddpm_reverse", "2006.11239"),
        ("07_score_sde", "2011.13456"),
        ("11_ddim", "2010.02502"),
        ("15_pndm", "2202.09778"),
        ("28_magicmix", "2210.16056"),
    ],
)
def test_papers_stand_at_their_notebooks(notebook: str, arxiv: str) -> None:
    assert arxiv in [paper.arxiv for stop in roadmap.stops_of(notebook) for paper in stop.papers]


def test_recommended_reading_stands_where_the_article_has_it() -> None:
    reading = {stop.title: " ".join(stop.reading) for stop in STOPS}
    ddpm = reading["Denoising diffusion probabilistic models"]
    for recommended in ("Lilian Weng", "Introduction to diffusion", "math explained", "dome272", "from scratch"):
        assert recommended in ddpm
    assert "Yang Song" in reading["Equivalence of DDPM and score-based generation"]
    assert "building it from scratch" in reading["U-Net"]
    assert "illustrated" in reading["Stable Diffusion"]


def test_claims_are_complete() -> None:
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.notebook in NOTEBOOKS
        assert "margin:" in claim.protocol.lower()
        assert "standard error" in claim.protocol
        assert re.search(r"\[[\w& -]+ \d{4}, .+\]", claim.statement), "a claim cites its paper"
        assert (claim.recorded is None) == (claim.reason == ""), "a recorded claim says with numbers why"


def test_written_notebooks_have_recorded_claims_and_modules() -> None:
    written = {path.stem for path in roadmap.notebooks_folder().glob("[0-9]*.ipynb")} - {"00_roadmap"}
    assert written <= set(NOTEBOOKS)
    for notebook in written:
        assert record.claims_of(notebook), f"{notebook} measures no claim"
        for claim in record.claims_of(notebook):
            assert claim.recorded is not None, f"{claim.key} has been measured: record it in lab/record"
        for stop in roadmap.stops_of(notebook):
            for module in stop.modules:
                importlib.import_module(f"ddpm_path.{module}")


def test_a_stop_is_built_when_all_of_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = roadmap.Stop("1", "A stop", (), ("01_a", "02_b"))
    claim = Claim("a", "01_a", "", "", State.FAILS, "")
    monkeypatch.setattr(record, "CLAIMS", (claim,))
    assert roadmap.is_built(stop, {"01_a", "02_b"}), "a claim that does not hold is measured all the same"
    assert not roadmap.is_built(stop, {"01_a"})
    monkeypatch.setattr(record, "CLAIMS", (claim, Claim("b", "02_b", "", "")))
    assert not roadmap.is_built(stop, {"01_a", "02_b"}), "a claim without a record"
    monkeypatch.setattr(record, "CLAIMS", ())
    assert not roadmap.is_built(stop, {"01_a", "02_b"}), "no claims"


def test_unknown_names_get_the_nearest_match() -> None:
    assert "did you mean 'ddpm-prior'" in str(unknown("claim", "ddpm-pior", ["ddpm-prior", "x"]))
    assert claims.find("ddpm-prior").notebook == "03_ddpm_forward"
    with pytest.raises(ValueError, match="did you mean 'ddpm-prior'"):
        claims.find("ddpm_prior")


def test_outside_a_clone_it_says_what_to_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roadmap, "__file__", str(tmp_path / "site" / "ddpm_path" / "lab" / "roadmap.py"))
    with pytest.raises(FileNotFoundError, match="clone the repository of ddpm_path"):
        roadmap.notebooks_folder()
