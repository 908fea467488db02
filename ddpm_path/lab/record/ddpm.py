"""Claims of 03_ddpm_forward, 04_ddpm_reverse and 05_ddpm_likelihood."""

from ddpm_path.lab.record.claim import LINE_WORLD, RATIO_ERROR, Claim, State

_COMPARED = (
    "Networks: `compare-linear-bound-k` and `compare-linear-simple-k` of the zoo, seeds k = 0, 1, 2: one small U-Net "
    "without labels, eps-prediction, linear betas, T = 1,000, trained alike for 2,000 steps but for the loss, L with "
    "fixed-large variance or L_simple; EMA weights. "
)
_SEEDS = " Its standard error: the standard deviation of the three seeds' differences divided by sqrt(3)."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ddpm-prior",
        "03_ddpm_forward",
        "With T = 1,000 linear betas the last latent carries almost nothing of the image: "
        "KL(q(x_T | x_0) || N(0, I)) is about 1e-5 bits/dim [Ho 2020, sec. 4]",
        "Data: the shipped digits, 16x16, all 1,442 training images. Schedule: linear betas 1e-4 to 0.02, T = 1,000. "
        "No network, no randomness. Margin: log10(3e-5) - log10(mean KL in bits/dim), so that it holds up to a factor "
        "of 3. Its standard error: of the mean KL, from the spread over images, divided by ln(10) times the mean.",
        State.HOLDS,
        "Mean 1.88e-5, largest 2.32e-5 bits/dim; margin +0.203 +- 0.001. An image in [-1, 1] cannot exceed 2.91e-5.",
    ),
    Claim(
        "ddpm-digits",
        "04_ddpm_reverse",
        "A small network trained for minutes to denoise, and nothing else, draws what it was shown: its unguided "
        "samples are recognised almost as often as real test digits [Ho 2020, sec. 4]",
        "Model: a U-Net trained in the notebook by the recipe `digits-live`: v-prediction, cosine schedule, labels "
        "(the paper: eps, linear, none, and far longer); EMA weights. Samples: 2,000 with balanced labels, unguided, "
        "ancestral sampler with fixed-small variance and clipped x_0, 25 steps, seed 0. Recognised: seen as the "
        "requested label with confidence above 0.9 by `digits-recogniser`. Margin: recognised share / the share of the "
        "355 real test digits - 0.85. " + RATIO_ERROR,
        State.HOLDS,
        "0.98 of the real rate after 1,000 steps, about 150 s on two cores; margin +0.130 +- 0.005.",
    ),
    Claim(
        "ddpm-covers",
        "04_ddpm_reverse",
        "A guard: the samples are as diverse as the data, and reach the neighbourhoods of test digits as real ones do "
        "[Ho 2020, sec. 4.1, where FID is the guard]",
        "Model and samples: those of `ddpm-digits`. Coverage: the share of the 355 test digits with one of 355 samples "
        "nearer than their fifth real neighbour, in pixels; over that of 355 real training digits. Margin: the ratio "
        "of the means over 5 batches of each - 0.9; its standard error from their spreads.",
        State.HOLDS,
        "As many neighbourhoods as real digits reach; margin +0.102 +- 0.004.",
    ),
    Claim(
        "ddpm-novel",
        "04_ddpm_reverse",
        "The samples are no copies: they lie as far from the training digits as test digits do "
        "[Ho 2020, nearest-neighbour figures]",
        "Model and samples: those of `ddpm-digits`. Novelty: the samples' median distance to the nearest training "
        "digit, in pixels, over the test digits' own. Margin: the ratio - 0.9; its standard error: 1.25 times that of "
        "the ratio of means.",
        State.HOLDS,
        "1.02 times the test digits' distance; margin +0.119 +- 0.017. Trained three times as long it is 0.95.",
    ),
    Claim(
        "ddpm-variances",
        "04_ddpm_reverse",
        "The two fixed variances of the reverse step, posterior (small) and forward (large), give similar results at "
        "1,000 steps [Ho 2020, sec. 3.2]",
        LINE_WORLD
        + " Schedule: linear betas, T = 1,000, every step. Samples: 20,000 with each variance, from the same start "
        "(seed 1) and the same noise (seed 2). W: the exact 1-D Wasserstein-1 distance to 20,000 draws of the data "
        "(seed 0). Margin: 0.02 - |W(small) - W(large)|. Its standard error: the difference over 10 batches of 2,000 "
        "(samples and data alike), their standard deviation divided by sqrt(10).",
        State.HOLDS,
        "W(small) = 0.0100, W(large) = 0.0111; margin +0.0189 +- 0.0007. At 1,000 steps both are as good as the draws.",
    ),
    Claim(
        "ddpm-mnist",
        "04_ddpm_reverse",
        "The same on MNIST: unguided samples are recognised almost as often as real test digits [Ho 2020, sec. 4]",
        "Model: `mnist` of the zoo (v-prediction, cosine schedule, labels), EMA weights. Samples: 500 with balanced "
        "labels, unguided, ancestral sampler with fixed-small variance and clipped x_0, 25 steps, seed 0. "
        "Recognised: seen as the requested label with confidence above 0.9 by `mnist-recogniser`. Margin: recognised "
        "share / the share of the 10,000 real test images - 0.95. " + RATIO_ERROR,
        State.HOLDS,
        "0.98 of the real rate; margin +0.030 +- 0.008. The card's 2,000 samples at 50 steps reach 0.963 +- 0.005.",
    ),
    Claim(
        "ddpm-bound-codes",
        "05_ddpm_likelihood",
        "Trained on the variational bound itself, a network needs fewer bits for an image than trained on L_simple "
        "[Ho 2020, sec. 4.1, table 1: 3.70 and 3.75 bits/dim]",
        _COMPARED + "Data: the first 96 test digits. Bits: `probing.bits`, fixed-large variance, clipped x_0, 40 "
        "strata, seed 0: the same images, times and noise for all. Margin: the mean over k of bits/dim(L_simple) - "
        "bits/dim(L)." + _SEEDS,
        State.HOLDS,
        "3.542 for 3.699 bits/dim; margin +0.157 +- 0.025.",
    ),
    Claim(
        "ddpm-simple-draws",
        "05_ddpm_likelihood",
        "Trained on L_simple, a network draws better samples than trained on the variational bound itself "
        "[Ho 2020, table 2: FID 3.17 and 13.51]",
        _COMPARED + "Samples: 200 of each, ancestral sampler with fixed-small variance and clipped x_0, 50 steps of "
        "`uniform_times`, seed 0: the same start and noise for all. Distance: `kernel_difference` from the 355 test "
        "digits in the features of `digits-recogniser`. Margin: the mean over k of distance(L) - distance(L_simple)."
        + _SEEDS,
        State.HOLDS,
        "Kernel distance 92 for L, 7 for L_simple; margin +85 +- 18. With one seed each x_0-prediction on L_simple "
        "draws as well, 5, though its code is the worst, 43 bits/dim; the mean, which must copy x_t to a hundredth,"
        " has learned too little with either loss, in 1,000 steps without clipping too.",
    ),
    Claim(
        "ddpm-fine-detail",
        "05_ddpm_likelihood",
        "More than half of a lossless code describes detail too fine to see: the distortion L_0 outweighs the rate "
        "[Ho 2020, sec. 4.3: 1.97 of 3.75 bits/dim]",
        "Networks, data and bits: those of `ddpm-bound-codes` trained on L_simple. Margin: L_0's share "
        "of an image's bits, the mean over k and all images, - 0.5. Its standard error: from the spread over images "
        "of the mean over k.",
        State.UNDECIDED,
        "The distortion is 1.859 of 3.699 bits/dim: half, as in the paper, but not clearly more; margin +0.0024 +- "
        "0.0016.",
    ),
)
