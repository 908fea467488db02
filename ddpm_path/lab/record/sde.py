"""Claims of 07_score_sde."""

from ddpm_path.lab.record.claim import LINE_WORLD, Claim, State

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "sde-corrector",
        "07_score_sde",
        "At equal network calls predictor and corrector draw better than the predictor alone [Song 2021, table 1]",
        LINE_WORLD + " Schedule: VE from 0.01 to 50, `even_times` down to 1e-5 and then data, from N(0, 50^2). "
        "Predictor: reverse diffusion. Corrector: one Langevin step after each, snr = 0.16, its norms replaced by what "
        "they are expected to be (`level_step`). Calls: 50, 100, 200, 400 and 1,000 for both, steps = calls or "
        "(calls + 1) // 2. W: the exact 1-D Wasserstein-1 distance of 10,000 samples from the world; starts of seed 1, "
        "noise of seed 2 for both. Margin: W(predictor) - W(predictor-corrector) at 1,000 calls, the paper's budget "
        "nearest. Its standard error: that of this difference over 10 batches of 1,000. Where the two cross is told.",
        State.UNDECIDED,
        "Margin -0.0005 +- 0.0028, and they do not cross: W = 0.0370, 0.0147, 0.0052, 0.0051 and 0.0048 for the "
        "predictor, 0.0635, 0.0211, 0.0061, 0.0059 and 0.0053 with the corrector. From 200 calls on both are at what "
        "10,000 perfect samples have. An exact score leaves nothing to repair but the steps' own error, and half of "
        "the steps make more of that.",
    ),
    Claim(
        "sde-likelihood",
        "07_score_sde",
        "The probability-flow ODE gives a better likelihood than the variational bound of the same network [Song 2021, "
        "table 2: 3.28 bits/dim where DDPM's bound is 3.75]",
        "Model: `digits-vp` of the zoo, with the true labels. Data: the first 16 test digits, dequantised (seed 0). "
        "Smallest time 1e-5 for both. ODE: RK45 at tolerances of 1e-4, one Rademacher probe an image (seed 1), prior "
        "N(0, I). Bound: 64 stratified times an image, uniform in log(scale / std), seed 2, the Gaussian decoder "
        "N(x_0 estimate, (std / scale)^2) at 1e-5. Margin: bound - ODE, in bits/dim. Its standard error: from the "
        "spread over images of the difference, which holds the noise of probes and times too.",
        State.HOLDS,
        "ODE 3.448 +- 0.055, bound 3.802 +- 0.060 bits/dim; margin +0.353 +- 0.045. They are two models' numbers: "
        "unless the score is exact, the ODE's density is not that of the reverse SDE, which the bound is of.",
    ),
)
