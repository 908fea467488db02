"""Claims of 08_fcn_unet, 09_upsampling and 10_diffusion_unet."""

from ddpm_path.lab.record.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
