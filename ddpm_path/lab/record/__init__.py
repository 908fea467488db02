"""Every claim on record, in the path's order: its protocol, written before it was measured, and the outcome."""

from ddpm_path.lab.record import convnet, ddim, ddpm, early, free, guided, improved, pndm, score, sde, unet
from ddpm_path.lab.record.claim import Claim, State

CLAIMS: tuple[Claim, ...] = (
    *early.CLAIMS,
    *ddpm.CLAIMS,
    *score.CLAIMS,
    *sde.CLAIMS,
    *convnet.CLAIMS,
    *unet.CLAIMS,
    *ddim.CLAIMS,
    *improved.CLAIMS,
    *guided.CLAIMS,
    *free.CLAIMS,
    *pndm.CLAIMS,
)

__all__ = ["CLAIMS", "Claim", "State", "claims_of"]


def claims_of(notebook: str) -> tuple[Claim, ...]:
    """The claims that a notebook measures."""
    return tuple(claim for claim in CLAIMS if claim.notebook == notebook)
