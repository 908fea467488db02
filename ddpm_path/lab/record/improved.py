"""Claims of 12_improved_ddpm."""

from ddpm_path.lab.record.claim import Claim, State

_COMPARED = (
    "Models: `compare-{models}-k` of the zoo, seeds k = 0, 1, 2: one small U-Net without labels, eps-prediction, T = "
    "1,000, the same 2,000 steps, EMA weights. "
)
_BITS = (
    "Data: the first 48 test digits. Bits: `probing.bits`, clipped x_0, 40 strata, seed 0: the same images, times and "
    "noise for all. "
)
_SEEDS = " Its standard error: the standard deviation of the three seeds' differences divided by sqrt(3)."

_LINEAR = _COMPARED.format(models="linear-simple-k` and `compare-cosine-simple")
_HYBRID = _COMPARED.format(models="cosine-simple-k` and `compare-cosine-hybrid")
_VLB = _COMPARED.format(models="cosine-hybrid-k` and `compare-cosine-vlb")
_DRAWS = (
    "100 of each, clipped x_0, start and noise of seed 0 for all. Distance: `kernel_difference` from the 355 test "
    "digits in the features of `digits-recogniser`. "
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "improved-cosine-bits",
        "12_improved_ddpm",
        "With the cosine schedule an image needs fewer bits than with the linear one [Nichol 2021, sec. 3.2, table 1: "
        "3.26 for 3.37 bits/dim at T = 4,000]",
        _LINEAR + _BITS + "Fixed-large variance. Margin: the mean over k of bits/dim(linear) - bits/dim(cosine), all "
        "terms." + _SEEDS,
        State.HOLDS,
        "Means 3.679 and 3.514 bits/dim; margin +0.165 +- 0.011. L_0 alone saves 0.444: 1.856 for 1.412.",
    ),
    Claim(
        "improved-cosine-rate",
        "12_improved_ddpm",
        "The same without L_0, whose floor on a flat background is lower for cosine by itself: its first noise, 0.006, "
        "is smaller than a grey level, linear's is not [Nichol 2021, sec. 3.2]",
        "As `improved-cosine-bits`, but the last term, L_0, is left out of both: the rate and the prior alone. Margin: "
        "that of those bits; its standard error: as there.",
        State.FAILS,
        "Rates 1.823 and 2.102; margin -0.279 +- 0.007. Cosine has a finer first level, std 0.0064 for 0.01, and so"
        " a finer x_1 to send: much of what L_0 gains is moved into the rate, not saved.",
    ),
    Claim(
        "improved-hybrid-bits",
        "12_improved_ddpm",
        "Trained on L_hybrid, with a learned variance, a network needs fewer bits than trained on L_simple, even in "
        "all 1,000 steps [Nichol 2021, sec. 3.1, table 2: 3.17 for 3.26 bits/dim]",
        _HYBRID + _BITS + "But 24 images. L_simple's with that fixed variance, small or large, that gives model k "
        "fewer bits, L_hybrid's with its own. Margin: the mean over k of bits/dim(simple) - bits/dim(hybrid)." + _SEEDS,
        State.HOLDS,
        "3.504 (large) and 3.362 bits/dim; margin +0.142 +- 0.0036.",
    ),
    Claim(
        "improved-vlb-bits",
        "12_improved_ddpm",
        "Trained on L_vlb, with the importance sampler, it needs fewer bits than trained on L_hybrid [Nichol 2021, "
        "sec. 3.3, table 2: 2.94 for 3.17 bits/dim]",
        _VLB
        + _BITS
        + "But 24 images, each with its own variance. Margin: the mean over k of bits/dim(hybrid) - bits/dim(vlb)."
        + _SEEDS,
        State.UNDECIDED,
        "3.362 and 3.374 bits/dim; margin -0.012 +- 0.037. In 2,000 steps L_vlb, whose gradient is noisy, gets no "
        "farther.",
    ),
    Claim(
        "improved-variance-bits",
        "12_improved_ddpm",
        "With few steps a learned variance saves bits over either fixed one [Nichol 2021, sec. 3.1]",
        "As `improved-hybrid-bits`, on 25, 50 and 100 steps of `uniform_times`. Margin: the smallest over the steps of "
        "the mean over k of bits/dim(simple) - bits/dim(hybrid)." + _SEEDS,
        State.FAILS,
        "At 25 steps 3.743 (small) and 3.978, at 50 3.508 and 3.684, at 100 3.414 and 3.485; margin -0.235 +- "
        "0.091. Over one of 1,000 steps both variances are alike but near the data, so 0.001 L_vlb teaches o "
        "nothing beyond t = 20, where seeds end anywhere; in long steps it counts. An o trained to its end on L_vlb"
        " beside a held mean saved 0.108 +- 0.005 at 25 steps in an earlier version of the notebook.",
    ),
    Claim(
        "improved-variance-draws",
        "12_improved_ddpm",
        "With few steps a hybrid model draws better samples than one of L_simple with the small variance "
        "[Nichol 2021, sec. 4, fig. 8]",
        _HYBRID + "Samples: 25, 50 and 100 steps of `uniform_times`, " + _DRAWS + "Margin: the smallest over the steps "
        "of the mean over k of distance(simple) - distance(hybrid)." + _SEEDS,
        State.FAILS,
        "Kernel distances 17, -4 and 0 (simple), 22, 1 and -1 (hybrid); margin -4.5 +- 2.1: alike by eye. The "
        "variance that was not learned, see `improved-variance-bits`, does not help.",
    ),
    Claim(
        "improved-vlb-draws",
        "12_improved_ddpm",
        "But it draws worse: bits are not looks [Nichol 2021, sec. 3.3, table 2: FID 11.47 and 3.19]",
        _VLB + "Samples: 50 steps of `uniform_times`, " + _DRAWS + "Margin: the mean over k of distance(vlb) - "
        "distance(hybrid)." + _SEEDS,
        State.HOLDS,
        "Kernel distance 112 and 1; margin +112 +- 1.2, as the grid shows.",
    ),
    Claim(
        "improved-importance",
        "12_improved_ddpm",
        "Importance sampling of t lowers the noise in the gradient of L_vlb [Nichol 2021, sec. 3.3, fig. 6]",
        "Networks: `compare-cosine-vlb-k` of the zoo, seeds k = 0, 1, 2, with these weights (final) and with fresh "
        "ones. Data: training digits. History: 2 losses for each of the 1,000 times at these weights (10 in training), "
        "one digit each. Gradient: of the mean weighted L_vlb of 16 digits over all weights; t drawn independently, "
        "uniformly or with probabilities p of eq. 18. Noise: the median over 20 batches of |g - the mean of the 20|^2. "
        "Margin: the smaller, over final and fresh weights, of the mean over k of log2(uniform / importance)." + _SEEDS,
        State.UNDECIDED,
        "Margin -3.2 +- 5.9 at fresh weights: +8.5, -10.1 and -8.1; final +5.0, -2.5, -0.9. The last step of "
        "cosine, beta = 0.999, returns an error of eps 30-fold, x_0 being unclipped in training: t = 1,000 takes "
        "most of p, and a uniform batch of 16 meets it once in 62, so the median of 20 batches does not see what "
        "the mean pays. E L^2 itself falls 152-fold at final weights.",
    ),
)
