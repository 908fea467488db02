"""Claims of 12_improved_ddpm."""

from ddpm_path.lab.record.claim import Claim, State

_COMPARED = (
    "Models: `compare-linear-simple-k` and `compare-cosine-simple-k` of the zoo, seeds k = 0, 1, 2: one small network "
    "without labels, eps-prediction, L_simple, T = 1,000, the same 600 steps, EMA weights. "
)
_LEARNED = (
    "Its learned variance: the model's weights are held and an `MLP` beside it answers o, trained in the notebook on "
    "L_vlb, which is all that eq. 16's stop-gradient leaves to a variance: 250 steps of Adam (`maximise`, lr 2e-3), 64 "
    "digits each, stratified times, seed k. "
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
        State.HOLDS,
        "Means 5.025 and 4.836 bits/dim; margin +0.189 +- 0.006. L_0 alone saves 0.525: 2.022 for 1.497.",
    ),
    Claim(
        "improved-cosine-rate",
        "12_improved_ddpm",
        "The same without L_0, whose floor on a flat background is lower for cosine by itself: its first noise, 0.006, "
        "is smaller than a grey level, linear's is not [Nichol 2021, sec. 3.2]",
        "As `improved-cosine-bits`, but the last term, L_0, is left out of both: the rate and the prior alone. Margin: "
        "that of those bits; its standard error: as there.",
        State.FAILS,
        "Rates 3.003 and 3.339; margin -0.336 +- 0.002. Cosine's first level, std 0.0064 for 0.01, leaves a finer "
        "x_1 to send: much of what L_0 gains is moved into the rate, not saved.",
    ),
    Claim(
        "improved-variance-bits",
        "12_improved_ddpm",
        "With few steps a learned variance saves bits over either fixed one, the mean being the same "
        "[Nichol 2021, sec. 3.1]",
        _COMPARED + _LEARNED + _BITS + "But 24 images. The cosine models on 25, 50 and 100 steps of `uniform_times`, "
        "with that fixed variance, small or large, that gives model k fewer bits, and with the learned one. Margin: "
        "the smallest over the steps of the mean over k of bits/dim(fixed) - bits/dim(learned)." + _SEEDS,
        State.HOLDS,
        "Margin +0.108 +- 0.005, at 25 steps, against the small variance; about 0.2 at 50 and 0.27 at 100, where the "
        "large one is the better fixed one.",
    ),
    Claim(
        "improved-variance-draws",
        "12_improved_ddpm",
        "With few steps a learned variance draws better samples than the small one, the mean being the same "
        "[Nichol 2021, sec. 4, fig. 8]",
        _COMPARED
        + _LEARNED
        + "The cosine models. Samples: 60 of each, clipped x_0, 25 steps of `uniform_times`, start "
        "and noise of seed 0 for all. Distance: `kernel_difference` from the 355 test digits in the features of "
        "`digits-recogniser`. Margin: the mean over k of distance(small) - distance(learned)." + _SEEDS,
        State.UNDECIDED,
        "Margin -15.9 +- 23: after 600 steps the digits are too crude for a variance to show.",
    ),
    Claim(
        "improved-importance",
        "12_improved_ddpm",
        "Importance sampling of t lowers the noise in the gradient of L_vlb [Nichol 2021, sec. 3.3, fig. 6]",
        _COMPARED + _LEARNED + "Networks: a cosine model and its MLP, with these weights (final) and with fresh ones. "
        "Data: training digits. History: 2 losses for each of the 1,000 times at these weights (10 in training), one "
        "digit each. Gradient: of the mean weighted L_vlb of 16 digits over all weights of both; t drawn "
        "independently, uniformly or with probabilities p of eq. 18. Noise: the median over 20 batches of |g - the "
        "mean of the 20|^2. Margin: the smaller, over final and fresh weights, of the mean over k of log2(uniform / "
        "importance)." + _SEEDS,
        State.UNDECIDED,
        "Margin -4.2 +- 5.8 at fresh weights: +7.4, -10.4 and -9.5; final +7.2, -6.3, -4.4. Cosine's last step, beta "
        "= 0.999, returns an error of eps 30-fold, x_0 being unclipped in training: t = 1,000 takes most of p, and a "
        "uniform batch of 16 meets it once in 62, so the median of 20 batches does not see what the mean pays.",
    ),
)
