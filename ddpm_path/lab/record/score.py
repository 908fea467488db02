"""Claims of 06_score_matching."""

from ddpm_path.lab.record.claim import Claim, State

DIGITS_WALKS = (
    "Model: `digits-ncsn` of the zoo, unconditional, not told the time. 60 walks from one uniform start on [-1, 1] "
    "(seed 0), noise of seed 1. Levels and steps are the papers', in their pixels of [0, 1], doubled for ours. NCSNv2: "
    "as many levels as technique 2 asks from 18.23 (technique 1) to 0.02, 3 steps each, step by technique 4, then the "
    "denoising. Distance: the kernel distance to the 355 test digits, on the recogniser's features. "
)
BOOTSTRAP = " Its standard error: over 200 bootstrap draws of walks, the same for both."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "langevin-weights",
        "06_score_matching",
        "Annealed Langevin dynamics recovers the weights of modes far apart, which plain Langevin dynamics cannot see "
        "[Song 2019, sec. 3.2.2, fig. 3]",
        "World: the paper's toy, weights 1/5 and 4/5 at (-5, -5) and (5, 5), unit variance, exact score. 1,280 walks "
        "from one even start on [-8, 8]^2 (seed 0), noise of seed 1. Annealed: 10 geometric levels from 20 to 1, 100 "
        "steps each, step 0.05 (its code's 0.1 in alg. 1's convention). Plain: 1,000 such steps at level 1. Share: of "
        "walks that end nearer to the small mode. Margin: the smaller of 0.1 - |annealed share - 0.2| and |plain share "
        "- 0.2| - 0.1; standard error: the binomial one of that share.",
        State.HOLDS,
        "0.194 of the annealed and 0.496 of the plain walks end in the small heap, 0.52 start on its side; margin "
        "+0.094 +- 0.011.",
    ),
    Claim(
        "ncsnv2-first-level",
        "06_score_matching",
        "A first noise level as large as the largest distance between data lets walks forget their start; NCSN's own "
        "does not [Song & Ermon 2020, prop. 1, technique 1]",
        "World: the 1,442 training digits, exact denoiser. 100 walks that all start at the first training digit (noise "
        "of seed 0), from level 18.23 or from 2 (NCSN's 1 in pixels of [0, 1]) to 0.02, levels by technique 2, 5 steps "
        "each, step by technique 4, then the denoising. Left: the share whose nearest training digit is of another "
        "class than the start; nine in ten would be even. Margin: share from 18.23 - share from 2; its standard error: "
        "the two binomial ones, added in squares.",
        State.HOLDS,
        "0.91 leave from 18.23, 0.26 from 2; margin +0.65 +- 0.05.",
    ),
    Claim(
        "ncsnv2-unconditional",
        "06_score_matching",
        "In high dimension a network need not be told the noise level: f(x) / sigma with one f loses next to nothing "
        "[Song & Ermon 2020, sec. 3.3, technique 3]",
        "World: N(0, 0.25 I) in D dimensions, 49 geometric levels from 18.23 to 0.02, equally likely, 1,000 draws of "
        "each (seed 0). The best answer without the level is the mean of the exact eps over the exact posterior of the "
        "level. Excess: what it adds to the exact eps's squared error, over that error, both averaged over levels. "
        "Margin: 0.05 - excess at D = 256, the digits' dimension; its standard error: over 10 batches of draws. D = 2 "
        "and D = 16 are told beside it.",
        State.HOLDS,
        "Excess 0.167 at D = 2, 0.051 at 16, 0.0095 at 256; margin +0.0405 +- 0.0001.",
    ),
    Claim(
        "ncsnv2-ema",
        "06_score_matching",
        "A moving average of the weights has the better score [Song & Ermon 2020, sec. 3.4, technique 5]",
        "World: weights 0.3 and 0.7 at (-1, -0.5) and (1, 0.5), standard deviation 0.3, VE from 0.05 to 8. Four "
        "networks (seeds 0 to 3), (x / sqrt(1 + std^2), log std) to eps, two layers of 64 softplus; 1,500 steps of "
        "Adam, lr 1e-3 as in NCSN, batch 128, `simple` at uniform t; EMA 0.999 with the warm-up of `update_ema`. "
        "Error: squared distance to the exact eps on 4,096 draws (seed 9). Margin: the mean over networks of "
        "log2(error of the last weights / error of their average); its standard error: from the spread over networks.",
        State.UNDECIDED,
        "Squared distances 0.0610 and 0.0585 in the mean; margin +0.059 +- 0.044. A first run, which drew its data "
        "batch by batch from the same seeds, had +0.098 +- 0.039: with four networks it is too near to call.",
    ),
    Claim(
        "ncsnv2-sampling",
        "06_score_matching",
        "With its levels, step and denoising NCSNv2's sampler draws better than NCSN's from one network "
        "[Song & Ermon 2020, sec. 4.1, table 1]",
        DIGITS_WALKS + "NCSN, with about as many calls: 10 levels from 2 to 0.02, 15 steps each, step 0.2 (the code's "
        "2e-5), no denoising. Margin: distance of NCSN's samples - of NCSNv2's." + BOOTSTRAP,
        State.UNDECIDED,
        "Distances 50.73 and 50.66, of 60 walks 0.65 and 0.72 are recognised; margin +0.07 +- 15. The protocol had 100 "
        "walks until it was cut to the notebook's time, before the measurement, after a look at 20 of NCSNv2's.",
    ),
    Claim(
        "ncsnv2-denoising",
        "06_score_matching",
        "The final denoising improves samples, though one hardly sees it "
        "[Song & Ermon 2020, sec. 4; Jolicoeur-Martineau 2020]",
        DIGITS_WALKS + "Margin: distance without the denoising - with it, of the same walks." + BOOTSTRAP,
        State.HOLDS,
        "51.70 without, 50.66 with it; margin +1.05 +- 0.31. The recogniser's verdicts are the same.",
    ),
)
