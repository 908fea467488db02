"""Claims of 06_score_matching and 07_score_sde."""

from ddpm_path.lab.record.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
