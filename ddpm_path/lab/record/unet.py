"""Claims of 10_diffusion_unet: ADM's choices, one changed at a time, at the scale of digits."""

from ddpm_path.lab.record.claim import Claim, State

_PROTOCOL = (
    "Models: `choices` of the zoo, made by benchmarks/adm_choices.py: U-Nets of widths 8 and 16 over 2 x 2 patches, "
    "one block a level, eps prediction, cosine schedule, 200 steps of 16 digits, EMA, half precision; seeds 0, 1 and "
    "2 draw weights, images, times and noise. The base has AdaGN, one head, attention at the lower level and "
    "convolutions that resample; each other network changes one thing. L: the mean squared error of eps on the 355 "
    "test digits, five noises each (seed 0), the times evenly spread over 1 to 1,000, true labels. Margin: ln(L "
    "{worse} / L {better}), mean over the seeds. Its standard error: from the spread over the three seeds. The paper "
    "judges by FID."
)


def _choice(key: str, statement: str, worse: str, better: str, state: State, reason: str) -> Claim:
    protocol = _PROTOCOL.format(worse=worse, better=better)
    return Claim(f"adm-{key}", "10_diffusion_unet", statement, protocol, state, reason)


CLAIMS: tuple[Claim, ...] = (
    _choice(
        "adaptive-norm",
        "Conditioning by scale and shift (AdaGN) beats adding it [Dhariwal 2021, table 3]",
        "with added conditioning",
        "of the base",
        State.UNDECIDED,
        "L 0.3322, 0.3331, 0.3125 added, 0.3231, 0.3197, 0.3152 with AdaGN; margin +0.020 +- 0.015. Two seeds of three "
        "are on the paper's side.",
    ),
    _choice(
        "heads",
        "More heads beat one [Dhariwal 2021, tables 1 and 2]",
        "of the base",
        "with 4 heads",
        State.HOLDS,
        "By a hundredth of a percent: margin +0.00014 +- 0.00002. Attention starts silent, and after 200 steps it has "
        "hardly begun, so that all three pairs of networks differ little and in one direction.",
    ),
    _choice(
        "attention",
        "Attention at more resolutions helps [Dhariwal 2021, table 1]",
        "of the base",
        "with attention at both levels",
        State.UNDECIDED,
        "Margin -0.012 +- 0.013: one seed of three is on the paper's side, after 200 steps.",
    ),
    _choice(
        "resampling",
        "Residual blocks that resample, as in BigGAN, beat convolutions [Dhariwal 2021, table 1]",
        "of the base",
        "with residual resampling",
        State.UNDECIDED,
        "Margin -0.002 +- 0.021: two seeds for it, one against; and it has 9% more parameters.",
    ),
    _choice(
        "rescaling",
        "Dividing residual sums by sqrt(2) does not pay [Dhariwal 2021, table 1]",
        "with rescaled sums",
        "of the base",
        State.HOLDS,
        "L 0.3274, 0.3211, 0.3229 rescaled, 0.3231, 0.3197, 0.3152 without; margin +0.0138 +- 0.0057.",
    ),
)
