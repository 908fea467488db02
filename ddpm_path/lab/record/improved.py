"""Claims of 12_improved_ddpm."""

from ddpm_path.lab.record.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
