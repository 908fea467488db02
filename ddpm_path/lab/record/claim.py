"""What a claim is, and the phrases that several protocols share."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What a measurement says of a claim, at the scale of a laptop."""

    HOLDS = "holds"
    UNDECIDED = "undecided"
    FAILS = "does not hold at this scale"


@dataclass(frozen=True)
class Claim:
    """A paper's claim and how it is measured.

    `protocol` is written before the first measurement: model, data, steps, sample count, margin and its
    standard error, seeds. It puts the claim as a margin that is positive where the claim is true. `recorded` is the
    outcome, None until the first measurement; `reason` says with numbers why, above all if it does not hold.
    """

    key: str
    notebook: str
    statement: str
    protocol: str
    recorded: State | None = None
    reason: str = ""


RATIO_ERROR = (
    "Its standard error: the two shares' binomial errors, carried through the ratio (relative errors add in squares)."
)

LINE_WORLD = (
    "Model: the exact denoiser of a 1-D mixture, weights 0.3 and 0.7, means -0.6 and 0.5, standard deviation 0.15."
)
