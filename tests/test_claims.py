"""A margin and its error become a state, a line, a file and a verdict."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_path.lab import claims
from ddpm_path.lab.claims import Measurement
from ddpm_path.lab.record import Claim, State

HOLDS, UNDECIDED, FAILS = State.HOLDS, State.UNDECIDED, State.FAILS


@pytest.mark.parametrize(
    ("margin", "error", "state"),
    [
        (0.3, 0.1, HOLDS),
        (0.1, 0.1, UNDECIDED),
        (-0.1, 0.1, UNDECIDED),
        (-0.3, 0.1, FAILS),
        (0.25, 0.125, UNDECIDED),  # the interval ends at 0, and contains it
        (-0.25, 0.125, UNDECIDED),
        (0.0, 0.0, UNDECIDED),
        (1e-9, 0.0, HOLDS),  # without randomness the margin's sign decides
        (-1e-9, 0.0, FAILS),
        (math.inf, 0.0, HOLDS),
    ],
)
def test_state_is_where_two_standard_errors_lie(margin: float, error: float, state: State) -> None:
    assert claims.state_of(margin, error) == state


@pytest.mark.parametrize(("margin", "error"), [(math.nan, 0.1), (0.1, math.nan), (0.1, -0.1), (0.1, math.inf)])
def test_what_is_no_measurement_is_refused(margin: float, error: float) -> None:
    with pytest.raises(ValueError, match="a margin is a number"):
        claims.measure("ddpm-prior", margin, error)


def test_state_of_a_margin_of_zero_mean_is_rarely_decided() -> None:
    """The rule's own truth: of claims right at the limit under 2.3% come out on either side."""
    margins = np.random.default_rng(0).normal(size=20_000)
    share = np.mean([claims.state_of(margin, 1.0) == FAILS for margin in margins])
    assert share == pytest.approx(0.0228, abs=0.004)


def test_measure_prints_one_line_and_writes_for_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(claims.FOLDER, str(tmp_path / "new"))
    claims.measure("ddpm-prior", torch.tensor(0.25, dtype=torch.float64), np.float64(0.03), "1,442 images")
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    for part in ("Ho 2020, sec. 4", "holds", "+0.25 +- 0.03", "recorded: ", "1,442 images"):
        assert part in line
    assert json.loads((tmp_path / "new" / "ddpm-prior.json").read_text()) == {
        "margin": 0.25,
        "error": 0.03,
        "detail": "1,442 images",
    }
    assert claims.collect(tmp_path / "new") == {"ddpm-prior": Measurement(0.25, 0.03, "1,442 images")}


def test_measure_without_a_runner_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(claims.FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    claims.measure("ddpm-prior", 1.0, 0.1)
    assert list(tmp_path.iterdir()) == []


def test_unknown_claim() -> None:
    with pytest.raises(ValueError, match=r"no claim 'ddpm-digit': did you mean 'ddpm-digits'\? There are .*ddpm-prior"):
        claims.measure("ddpm-digit", 1.0, 0.1)


@pytest.mark.parametrize(
    ("recorded", "margin", "failed", "verdict"),
    [
        (HOLDS, 1.0, False, "as recorded"),
        (HOLDS, 0.1, False, "undecided now"),
        (HOLDS, -1.0, True, "CONTRADICTED"),
        (UNDECIDED, 1.0, False, "holds now"),
        (UNDECIDED, 0.0, False, "as recorded"),
        (UNDECIDED, -1.0, False, "does not hold at this scale now"),
        (FAILS, 1.0, True, "CONTRADICTED"),
        (FAILS, -0.1, False, "undecided now"),
        (FAILS, -1.0, False, "as recorded"),  # an honest negative repeats
        (None, -1.0, False, "to be recorded"),
        (HOLDS, None, True, "NOT MEASURED"),
        (None, None, True, "NOT MEASURED"),
    ],
)
def test_verdicts(recorded: State | None, margin: float | None, failed: bool, verdict: str) -> None:
    claim = Claim("key", "03_x", "statement", "protocol", recorded)
    measurement = None if margin is None else Measurement(margin, 0.1)
    assert claims.failed(claim, measurement) == failed
    assert claims.verdict(claim, measurement) == verdict


def test_table_has_a_line_for_each_claim_and_fits() -> None:
    known = [Claim("one", "03_x", "", "", FAILS), Claim("another-claim", "03_x", "", "")]
    lines = claims.table(known, {"one": Measurement(-0.1234567, 0.01234)}).splitlines()
    assert [line.split()[0] for line in lines] == ["claim", "one", "another-claim"]
    assert "-0.123 +- 0.012" in lines[1]
    assert lines[1].count("does not hold at this scale") == 2
    assert "NOT MEASURED" in lines[2]
    assert max(map(len, lines)) <= 120
