"""Claims of 08_fcn_unet and 09_upsampling."""

from ddpm_path.lab.record.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
