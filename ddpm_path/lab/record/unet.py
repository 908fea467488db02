"""Claims of 10_diffusion_unet: ADM's choices, one changed at a time, at the scale of digits."""

from ddpm_path.lab.record.claim import Claim

_PROTOCOL = (
    "Models: `choices` of the zoo, made by benchmarks/adm_choices.py: U-Nets of widths 8 and 16 over 2 x 2 patches, "
    "one block a level, eps prediction, cosine schedule, 200 steps of 16 digits, EMA, half precision; seeds 0, 1 and "
    "2 draw weights, images, times and noise. The base has AdaGN, one head, attention at the lower level and "
    "convolutions that resample; each other network changes one thing. L: the mean squared error of eps on the 355 "
    "test digits, five noises each (seed 0), the times evenly spread over 1 to 1,000, true labels. Margin: ln(L "
    "{worse} / L {better}), mean over the seeds. Its standard error: from the spread over the three seeds. The paper "
    "judges by FID."
)


def _choice(key: str, statement: str, worse: str, better: str) -> Claim:
    return Claim(f"adm-{key}", "10_diffusion_unet", statement, _PROTOCOL.format(worse=worse, better=better))


CLAIMS: tuple[Claim, ...] = (
    _choice(
        "adaptive-norm",
        "Conditioning by scale and shift (AdaGN) beats adding it [Dhariwal 2021, table 3]",
        "with added conditioning",
        "of the base",
    ),
    _choice("heads", "More heads beat one [Dhariwal 2021, tables 1 and 2]", "of the base", "with 4 heads"),
    _choice(
        "attention",
        "Attention at more resolutions helps [Dhariwal 2021, table 1]",
        "of the base",
        "with attention at both levels",
    ),
    _choice(
        "resampling",
        "Residual blocks that resample, as in BigGAN, beat convolutions [Dhariwal 2021, table 1]",
        "of the base",
        "with residual resampling",
    ),
    _choice(
        "rescaling",
        "Dividing residual sums by sqrt(2) does not pay [Dhariwal 2021, table 1]",
        "with rescaled sums",
        "of the base",
    ),
)
