"""Claims of 01_vae and 02_early_diffusion."""

from ddpm_path.lab.record.claim import Claim, State

_VAE = (
    "Model: encoder and decoder with one hidden layer of 256 tanh units, 10 latents, Bernoulli likelihood, trained in "
    "the notebook on the 1,442 training digits, 16x16, binarised at 0: 1,500 steps of Adam, lr 2e-3, batch 64, one "
    "sample of estimator B, seed 0. Data: the 355 test digits, binarised. "
)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "vae-b-value",
        "01_vae",
        "Estimator B of the bound, with the KL in closed form, has less variance than estimator A "
        "[Kingma 2013, sec. 2.3]",
        _VAE + "Each bound is estimated 200 times for each image, from one sample, the same for both (seed 1). Margin: "
        "log(variance of A / variance of B), mean over images. Its standard error: over images (one training run).",
        State.FAILS,
        "The value of A has 0.62 of B's variance; margin -0.477 +- 0.013. At the true posterior A's is 0, since "
        "log p(x, z) - log q(z | x) is log p(x) for every z; B always keeps the variance of the reconstruction.",
    ),
    Claim(
        "vae-b-gradient",
        "01_vae",
        "The same of the gradients, which is what training feels: B's have less variance [Kingma 2013, sec. 2.3]",
        _VAE + "Gradients of each image's bound with respect to the 20 numbers that the encoder answers for it (the "
        "decoder's gradients are the same in A and B), 200 times, from one sample, the same for both (seed 1). Margin: "
        "log(variance of A / variance of B), variances summed over the 20, mean over images. Its standard error: over "
        "images (one training run).",
        State.HOLDS,
        "A's gradients have 1.10 times B's variance; margin +0.0994 +- 0.0012. Three trainings: +0.096 to +0.100.",
    ),
    Claim(
        "vae-iwae-tighter",
        "01_vae",
        "The importance-weighted bound of a trained VAE is tighter with more samples: L_50 > L_5 > L_1 "
        "[Burda 2015, thm. 1]",
        _VAE
        + "Fresh samples for each k (seeds 1, 5, 50). Margin: the smaller of the mean rises L_5 - L_1 and L_50 - L_5, "
        "in nats. Its standard error: of that rise, over images.",
        State.HOLDS,
        "Both rises are 1.29 nats or more; margin +1.29 +- 0.10. Three trainings: +1.17 to +1.29.",
    ),
    Claim(
        "vae-iwae-trains",
        "01_vae",
        "Training on the importance-weighted bound gives a better model than training on the ELBO "
        "[Burda 2015, table 1]",
        _VAE + "Against it the same network, seed and steps, trained on L_5 (the paper: 5 and 50, on MNIST, far "
        "longer). Margin: mean of log p(x) by L_500 (seed 3), the second model's minus the first's, in "
        "nats. Its standard error: of the paired difference, over images (one training run each).",
        State.HOLDS,
        "0.73 nats better by L_500 with 5 samples in training; margin +0.731 +- 0.15. Three trainings: +0.62 to +0.85.",
    ),
    Claim(
        "early-heartbeat",
        "02_early_diffusion",
        "A network of 3 x 50 sigmoid units with a readout for each of T = 2,000 steps learns the binary heartbeat "
        "almost perfectly: K = -2.414 bits a sequence, where the truth is -log2(5) = -2.322 [Sohl-Dickstein 2015, "
        "table 1]",
        "Data: 20 bits, a 1 in every fifth place, five phases. Chain: binomial, beta_t = 1 / (T - t + 1), T = 2,000, "
        "prior rate 0.2. Model: trained from random weights in the notebook. K*: the bound of the best factorised step "
        "back, by enumerating the phases. Both on 1,000 sequences (200 of each phase), fresh noise at each of the "
        "1,999 steps, the same noise for both (seed 1). Margin: 0.15 - |K* - K| in bits, since a K above K* is a "
        "mistake. Its standard error: of the paired difference over sequences.",
        State.HOLDS,
        "K = -2.464, K* = -2.368 bits; margin +0.054 +- 0.002, after about 40 s of training on one core.",
    ),
    Claim(
        "early-heartbeat-null",
        "02_early_diffusion",
        "K of the heartbeat exceeds the likelihood of the null model, independent bits, by 12.024 bits "
        "[Sohl-Dickstein 2015, table 1]",
        "Model and K: those of `early-heartbeat`. Null model: 20 independent bits of rate 0.2, -14.439 bits. Margin: "
        "0.15 - |K + 14.439 - 12.024| in bits. Its standard error: of K, from the spread over sequences.",
        State.HOLDS,
        "K = -2.464 bits, 11.975 above the null model; margin +0.101 +- 0.004. K* itself would give +0.103.",
    ),
    Claim(
        "early-roll",
        "02_early_diffusion",
        "Forty steps with 16 radial basis functions raise K of the Swiss roll far above the likelihood of the null "
        "model, a unit Gaussian [Sohl-Dickstein 2015, table 1: by 6.45 bits]",
        "Data: `swiss_roll`, standardised by its own mean and root mean square. Model: normalised radial basis "
        "network, 16 units, readout a step, T = 40, learned mean and covariance, trained with its schedule in the"
        " notebook. The paper's 6.45 bits depend on how thin its roll is, which is not told; so the gain is held "
        "against the gain of the true density, found by integrating along the curve. K and the truth on the same "
        "5,000 fresh points (seed 1). Margin: (K - null) / (truth - null) - 0.5. Its standard error: of the "
        "ratio, over points.",
        State.HOLDS,
        "K = -1.89, truth -0.77, null -4.09 bits: 0.66 of the gain after 1,500 steps; margin +0.161 +- 0.008. (First "
        "measured after 2,000 steps, on batches that weighed the times a little unevenly: 0.65.)",
    ),
    Claim(
        "early-inpaint",
        "02_early_diffusion",
        "Multiplied by what is known of an image, the chain of steps back fills in the rest, and far better than a "
        "fixed guess does [Sohl-Dickstein 2015, sec. 2.5]",
        "Data: the 355 test digits, their right halves known (as in the paper's code). One unlabelled chain trained on "
        "the digits. Against it: the missing half filled with the mean training digit. Recognised: seen as its own "
        "class with confidence above 0.9 by `digits-recogniser`. Seeds: 0 for the variances, 1 for the start, 2 for "
        "the noise. Margin: recognised share inpainted - recognised share mean-filled. Its standard error: of the "
        "paired difference over digits.",
        State.HOLDS,
        "Recognised 0.693 inpainted, 0.299 mean-filled, 0.994 whole; margin +0.394 +- 0.033.",
    ),
)
