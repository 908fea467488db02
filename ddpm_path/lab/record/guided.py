"""Claims of 13_classifier_guidance and 14_classifier_free_guidance."""

from ddpm_path.lab.record.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
