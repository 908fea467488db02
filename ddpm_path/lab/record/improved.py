"""Claims of 12_improved_ddpm."""

from ddpm_path.lab.record.claim import Claim

_COMPARED = (
    "Models of the zoo, seeds k = 0, 1, 2: one small network without labels, eps-prediction, T = 1,000, the same 600 "
    "steps, EMA weights; `compare-linear-simple-k`, `compare-cosine-simple-k`, and with twice the output channels "
    "`compare-cosine-hybrid-k` and `compare-cosine-vlb-k` (L_vlb, times by importance). "
)
_BITS = (
    "Data: the first 48 test digits. Bits: `metrics.bits`, clipped x_0, 40 strata, seed 0: the same images, times and "
    "noise for all. "
)
_SEEDS = " Its standard error: the standard deviation of the three seeds' differences divided by sqrt(3)."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "improved-cosine-bits",
        "12_improved_ddpm",
        "With the cosine schedule an image needs fewer bits than with the linear one [Nichol 2021, sec. 3.2, table 1: "
        "3.26 for 3.37 bits/dim at T = 4,000]",
        _COMPARED + _BITS + "The linear and the cosine L_simple models, fixed-large variance. Margin: the mean over k "
        "of bits/dim(linear) - bits/dim(cosine), all terms." + _SEEDS,
    ),
    Claim(
        "improved-cosine-rate",
        "12_improved_ddpm",
        "The same without L_0, whose floor on a flat background is lower for cosine by itself: its first noise, 0.006, "
        "is smaller than a grey level, linear's is not [Nichol 2021, sec. 3.2]",
        "As `improved-cosine-bits`, but the last term, L_0, is left out of both: the rate and the prior alone.",
    ),
    Claim(
        "improved-hybrid-bits",
        "12_improved_ddpm",
        "With few steps a learned variance saves bits over either fixed one [Nichol 2021, sec. 3.1, 4; fig. 8]",
        _COMPARED + _BITS + "But 24 images. The cosine hybrid and L_simple models on 25, 50 and 100 steps of "
        "`uniform_times`; L_simple with that fixed variance, small or large, that gives model k fewer bits. Margin: "
        "the smallest over the steps of the mean over k of bits/dim(simple) - bits/dim(hybrid)." + _SEEDS,
    ),
    Claim(
        "improved-hybrid-draws",
        "12_improved_ddpm",
        "With few steps a hybrid model draws better than one of L_simple [Nichol 2021, sec. 4, fig. 8]",
        _COMPARED + "The cosine hybrid and L_simple models, the latter with fixed-small variance, the better one in "
        "few steps. Samples: 60 of each, clipped x_0, 25 steps of `uniform_times`, start and noise of seed 0 for all. "
        "Distance: `kernel_difference` from the 355 test digits in the features of `digits-recogniser`. Margin: the "
        "mean over k of distance(simple) - distance(hybrid)." + _SEEDS + " Beside it, not in the notebook's time: 200 "
        "samples in 25, 50 and 100 steps.",
    ),
    Claim(
        "improved-vlb-bits",
        "12_improved_ddpm",
        "Trained on L_vlb itself, with times drawn by importance, a model needs fewer bits than the hybrid one "
        "[Nichol 2021, sec. 3.3, table 2: 2.94 for 3.17 bits/dim]",
        _COMPARED + _BITS + "All 1,000 steps. Margin: the mean over k of bits/dim(hybrid) - bits/dim(vlb)." + _SEEDS,
    ),
    Claim(
        "improved-importance",
        "12_improved_ddpm",
        "Importance sampling of t lowers the noise in the gradient of L_vlb [Nichol 2021, sec. 3.3, fig. 6]",
        _COMPARED + "Networks: `compare-cosine-vlb-k`, with its final and with fresh weights. Data: training digits. "
        "History: 2 losses for each of the 1,000 times at these weights (10 in training), one digit each. Gradient: "
        "of the mean weighted L_vlb of 16 digits over all weights; t drawn independently, uniformly or with "
        "probabilities p of eq. 18. Noise: the median over 20 batches of |g - the mean of the 20|^2. Margin: the "
        "smaller, over final and fresh weights, of the mean over k of log2(noise uniform / noise by importance)."
        + _SEEDS,
    ),
)
