"""A paper's claim, measured where it is taught and held against what is on record."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ddpm_path.lab import record
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.record import Claim, State

FOLDER = "DDPM_PATH_CLAIMS"
"""The environment variable that names the folder where measurements are left for the runner."""
WIDTH = 2  # of the interval to each side, in standard errors


class Measurement(NamedTuple):
    """One measurement of a claim: a margin, positive where the claim is true, and its standard error."""

    margin: float
    error: float
    detail: str = ""


def state_of(margin: float, error: float) -> State:
    """The state of a margin: it holds if margin +- 2 standard errors lies above 0, fails if below, else is undecided.

    ValueError for NaN or an infinite or negative error.
    """
    if math.isnan(margin) or not 0 <= error < math.inf:
        raise ValueError(f"a margin is a number and its standard error finite, 0 or more; got {margin} +- {error}")
    if margin - WIDTH * error > 0:
        return State.HOLDS
    return State.FAILS if margin + WIDTH * error < 0 else State.UNDECIDED


def measure(key: str, margin: float, error: float, detail: str = "") -> None:
    """Print one line about the measured claim, and leave it to the runner if $DDPM_PATH_CLAIMS names a folder.

    ValueError for a key that the roadmap does not have, and as in `state_of`.
    """
    claim = find(key)
    margin, error = float(margin), float(error)  # from numpy or torch, say
    state = state_of(margin, error)
    recorded = claim.recorded.value if claim.recorded else "nothing yet"
    more = f"; {detail}" if detail else ""
    print(f"{claim.statement}: {state.value}, margin {margin:+.3g} +- {error:.2g} (recorded: {recorded}){more}")
    folder = os.environ.get(FOLDER)
    if folder:
        content = {"margin": margin, "error": error, "detail": detail}
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{key}.json").write_text(json.dumps(content), encoding="utf-8")


def find(key: str) -> Claim:
    """The roadmap's claim of this key; ValueError with the nearest match if there is none."""
    for claim in record.CLAIMS:
        if claim.key == key:
            return claim
    raise unknown("claim", key, (claim.key for claim in record.CLAIMS))


def collect(folder: Path) -> dict[str, Measurement]:
    """All measurements left in a folder, by key."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Measurement(**content)
    return found


def contradicts(measured: State, recorded: State | None) -> bool:
    """Whether a measurement contradicts the record: both are decided, and to opposite sides.

    An interval that contains 0 leaves the recorded side possible: near the limit that happens to a true claim
    again and again, and an alarm that rings at random gets ignored. A record of `undecided` (or none) commits to
    no side, so nothing contradicts it. Such changes are told in the table, for a person to look at. Where the
    recorded side is true, an interval wholly on the other side comes up by chance in under 2.3% of runs.
    """
    return {measured, recorded} == {State.HOLDS, State.FAILS}


def verdict(claim: Claim, measurement: Measurement | None) -> str:
    """What the measurement means for the record, in a few words."""
    if measurement is None:
        return "NOT MEASURED"
    state = state_of(measurement.margin, measurement.error)
    if claim.recorded is None:
        return "to be recorded"
    if contradicts(state, claim.recorded):
        return "CONTRADICTED"
    return "as recorded" if state == claim.recorded else f"{state.value} now"


def failed(claim: Claim, measurement: Measurement | None) -> bool:
    """Whether a run must fail for this claim: it was not measured, or the measurement contradicts its record."""
    if measurement is None:
        return True
    return contradicts(state_of(measurement.margin, measurement.error), claim.recorded)


def table(claims: Iterable[Claim], measurements: Mapping[str, Measurement]) -> str:
    """The claims, one a line: key, margin, measured and recorded state, verdict."""
    rows = [("claim", "margin", "measured", "recorded", "verdict")]
    for claim in claims:
        found = measurements.get(claim.key)
        margin = f"{found.margin:+.3g} +- {found.error:.2g}" if found else "-"
        state = state_of(found.margin, found.error).value if found else "-"
        rows.append((claim.key, margin, state, claim.recorded.value if claim.recorded else "-", verdict(claim, found)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
