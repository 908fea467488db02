"""Claims of 10_diffusion_unet."""

from ddpm_path.lab.record.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
