"""The article as data: every stop in its order, its papers and reading, and the claims measured on the way."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple


class Paper(NamedTuple):
    """A paper; `arxiv` is its number there, None for the one that only Distill has."""

    authors_year: str
    title: str
    arxiv: str | None

    def __str__(self) -> str:
        """Authors, year and where to find it, short enough for a table."""
        return f"{self.authors_year}, {self.arxiv or 'Distill'}"


@dataclass(frozen=True)
class Stop:
    """One stop of the article.

    `step` is the article's heading, `reading` what it recommends beside the papers, `modules` where the
    package keeps the idea, `notebooks` where it is taught (two stops may share one).
    """

    step: str
    title: str
    papers: tuple[Paper, ...]
    notebooks: tuple[str, ...]
    modules: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()


class State(Enum):
    """What a measurement says of a claim, at the scale of a laptop."""

    HOLDS = "holds"
    UNDECIDED = "undecided"
    FAILS = "does not hold at this scale"


@dataclass(frozen=True)
class Claim:
    """A paper's claim and how it is measured.

    `protocol` is written before the first measurement: model, data, steps, sample count, margin and its
    standard error, seeds. It puts the claim as a margin that is positive where the claim is true. `recorded` is the
    outcome, None until the first measurement; `reason` says with numbers why, above all if it does not hold.
    """

    key: str
    notebook: str
    statement: str
    protocol: str
    recorded: State | None = None
    reason: str = ""


EARLY = "1 Early diffusion"
DDPM = "2 DDPM"
DEFAULT = "4 The default choice"
FRONT_PAGE = "The three front-page papers"
POPULAR = "7 Other popular papers (optional)"

_HO = Paper("Ho et al. 2020", "Denoising diffusion probabilistic models", "2006.11239")
_ADM = Paper("Dhariwal & Nichol 2021", "Diffusion models beat GANs on image synthesis", "2105.05233")

STOPS: tuple[Stop, ...] = (
    Stop(
        EARLY,
        "Variational auto-encoders (optional prerequisite)",
        (Paper("Kingma & Welling 2013", "Auto-encoding variational Bayes", "1312.6114"),),
        ("01_vae",),
        ("vae",),
    ),
    Stop(
        EARLY,
        "Deep unsupervised learning using nonequilibrium thermodynamics",
        (
            Paper(
                "Sohl-Dickstein et al. 2015",
                "Deep unsupervised learning using nonequilibrium thermodynamics",
                "1503.03585",
            ),
        ),
        ("02_early_diffusion",),
        ("early",),
    ),
    Stop(
        DDPM,
        "Denoising diffusion probabilistic models",
        (_HO,),
        ("03_ddpm_forward", "04_ddpm_reverse", "05_ddpm_likelihood"),
        ("schedule", "gaussian", "losses", "samplers"),
        (
            '"What are diffusion models?" (Lilian Weng, blog)',
            '"Introduction to diffusion models for machine learning" (blog)',
            '"Diffusion models, paper explanation, math explained" (video, highly recommended)',
            '"Diffusion models, PyTorch implementation" (video; code: dome272/Diffusion-Models-pytorch)',
            '"Diffusion models from scratch in PyTorch" (video)',
        ),
    ),
    Stop(
        DDPM,
        "Equivalence of DDPM and score-based generation",
        (
            Paper(
                "Song & Ermon 2019",
                "Generative modeling by estimating gradients of the data distribution",
                "1907.05600",
            ),
        ),
        ("06_score_matching",),
        ("score",),
        ('"Generative modelling by estimating gradients of the data distribution" (Yang Song, blog)',),
    ),
    Stop(
        DDPM,
        "Improved techniques for training score-based generative models",
        (Paper("Song & Ermon 2020", "Improved techniques for training score-based generative models", "2006.09011"),),
        ("06_score_matching",),
        ("score",),
    ),
    Stop(
        DDPM,
        "Score-based generative modelling through SDEs",
        (
            Paper(
                "Song et al. 2021",
                "Score-based generative modeling through stochastic differential equations",
                "2011.13456",
            ),
        ),
        ("07_score_sde",),
        ("sde",),
    ),
    Stop(
        DDPM,
        "Fully convolutional networks (inspiration of U-Net)",
        (Paper("Long et al. 2014", "Fully convolutional networks for semantic segmentation", "1411.4038"),),
        ("08_fcn_unet",),
        ("segmentation",),
    ),
    Stop(
        DDPM,
        "U-Net",
        (
            Paper(
                "Ronneberger et al. 2015",
                "U-Net: convolutional networks for biomedical image segmentation",
                "1505.04597",
            ),
        ),
        ("08_fcn_unet",),
        ("segmentation",),
        ('"Understanding the U-Net architecture and building it from scratch" (video)',),
    ),
    Stop(
        DDPM,
        "De-convolutions: arithmetic, up-sampling, checkerboards",
        (
            Paper("Dumoulin & Visin 2016", "A guide to convolution arithmetic for deep learning", "1603.07285"),
            Paper("Odena et al. 2016", "Deconvolution and checkerboard artifacts", None),
        ),
        ("09_upsampling",),
        ("convolution",),
        ('"Up-sampling with transposed convolution" (blog)',),
    ),
    Stop(
        DDPM,
        "U-Net inside diffusion: timestep encoding, conditioning",
        (_HO, _ADM),
        ("10_diffusion_unet",),
        ("unet",),
    ),
    Stop(
        DDPM,
        "Denoising diffusion implicit models",
        (Paper("Song et al. 2020", "Denoising diffusion implicit models", "2010.02502"),),
        ("11_ddim",),
        ("samplers",),
    ),
    Stop(
        DEFAULT,
        "Improved denoising diffusion probabilistic models",
        (Paper("Nichol & Dhariwal 2021", "Improved denoising diffusion probabilistic models", "2102.09672"),),
        ("12_improved_ddpm",),
        ("schedule", "losses", "samplers"),
    ),
    Stop(
        DEFAULT,
        "Diffusion models beat GANs on image synthesis (classifier guidance)",
        (_ADM,),
        ("13_classifier_guidance",),
        ("guidance",),
    ),
    Stop(
        DEFAULT,
        "Classifier-free diffusion guidance",
        (Paper("Ho & Salimans 2022", "Classifier-free diffusion guidance", "2207.12598"),),
        ("14_classifier_free_guidance",),
        ("guidance",),
    ),
    Stop(
        DEFAULT,
        "Pseudo numerical methods for diffusion models on manifolds",
        (Paper("Liu et al. 2022", "Pseudo numerical methods for diffusion models on manifolds", "2202.09778"),),
        ("15_pndm",),
        ("samplers",),
    ),
    Stop(
        DEFAULT,
        "Image super-resolution via iterative refinement (SR3)",
        (Paper("Saharia et al. 2021", "Image super-resolution via iterative refinement", "2104.07636"),),
        ("16_sr3",),
    ),
    Stop(
        FRONT_PAGE,
        "Stable Diffusion",
        (Paper("Rombach et al. 2021", "High-resolution image synthesis with latent diffusion models", "2112.10752"),),
        ("17_latent_diffusion",),
        reading=('"The illustrated Stable Diffusion" (blog)',),
    ),
    Stop(
        FRONT_PAGE,
        "DALL-E 2",
        (
            Paper(
                "Ramesh et al. 2022", "Hierarchical text-conditional image generation with CLIP latents", "2204.06125"
            ),
        ),
        ("18_dalle2",),
    ),
    Stop(
        FRONT_PAGE,
        "Imagen",
        (
            Paper(
                "Saharia et al. 2022",
                "Photorealistic text-to-image diffusion models with deep language understanding",
                "2205.11487",
            ),
        ),
        ("19_imagen",),
    ),
    Stop(
        POPULAR,
        "SDEdit",
        (
            Paper(
                "Meng et al. 2021",
                "SDEdit: guided image synthesis and editing with stochastic differential equations",
                "2108.01073",
            ),
        ),
        ("20_sdedit",),
    ),
    Stop(
        POPULAR,
        "Palette: image-to-image diffusion",
        (Paper("Saharia et al. 2021", "Palette: image-to-image diffusion models", "2111.05826"),),
        ("21_palette",),
    ),
    Stop(
        POPULAR,
        "GLIDE",
        (
            Paper(
                "Nichol et al. 2021",
                "GLIDE: towards photorealistic image generation and editing with text-guided diffusion models",
                "2112.10741",
            ),
        ),
        ("22_glide",),
    ),
    Stop(
        POPULAR,
        "Semantic image synthesis via diffusion models",
        (Paper("Wang et al. 2022", "Semantic image synthesis via diffusion models", "2207.00050"),),
        ("23_semantic_synthesis",),
    ),
    Stop(
        POPULAR,
        "Textual inversion (an image is worth one word)",
        (
            Paper(
                "Gal et al. 2022",
                "An image is worth one word: personalizing text-to-image generation using textual inversion",
                "2208.01618",
            ),
        ),
        ("24_textual_inversion",),
    ),
    Stop(
        POPULAR,
        "DreamBooth",
        (
            Paper(
                "Ruiz et al. 2022",
                "DreamBooth: fine tuning text-to-image diffusion models for subject-driven generation",
                "2208.12242",
            ),
        ),
        ("25_dreambooth",),
    ),
    Stop(
        POPULAR,
        "Prompt-to-Prompt image editing with cross-attention control",
        (Paper("Hertz et al. 2022", "Prompt-to-Prompt image editing with cross attention control", "2208.01626"),),
        ("26_prompt_to_prompt",),
    ),
    Stop(
        POPULAR,
        "Imagic",
        (Paper("Kawar et al. 2022", "Imagic: text-based real image editing with diffusion models", "2210.09276"),),
        ("27_imagic",),
    ),
    Stop(
        POPULAR,
        "MagicMix",
        (Paper("Liew et al. 2022", "MagicMix: semantic mixing with diffusion models", "2210.16056"),),
        ("28_magicmix",),
    ),
)

_RATIO_ERROR = (
    "Its standard error: the two shares' binomial errors, carried through the ratio (relative errors add in squares)."
)

_LINE_WORLD = (
    "Model: the exact denoiser of a 1-D mixture, weights 0.3 and 0.7, means -0.6 and 0.5, standard deviation 0.15."
)

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
        "355 real test digits - 0.85. " + _RATIO_ERROR,
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
        _LINE_WORLD
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
        "share / the share of the 10,000 real test images - 0.95. " + _RATIO_ERROR,
        State.HOLDS,
        "0.98 of the real rate; margin +0.030 +- 0.008. The card's 2,000 samples at 50 steps reach 0.963 +- 0.005.",
    ),
    Claim(
        "ddim-few-steps",
        "11_ddim",
        "With few steps deterministic DDIM comes nearer to the data than DDPM with its small variance "
        "[Song 2020, sec. 5.1, table 1]",
        _LINE_WORLD + " Schedule: linear betas, T = 1,000, `uniform_times`, from x_T ~ N(0, 1). W: the exact 1-D "
        "Wasserstein-1 distance of 20,000 samples from the world. Same start (seed 1) for all, DDPM's noise seed 2. "
        "Margin: the smallest of W(DDPM, fixed-small) - W(DDIM) over 10, 20 and 50 steps. Its standard error: that of "
        "this difference over 10 batches of 2,000.",
        State.HOLDS,
        "W(DDPM) - W(DDIM) = 0.0183, 0.0245 and 0.0178 at 10, 20 and 50 steps; margin +0.0178 +- 0.0022. But the large "
        "variance, the paper's sigma-hat and its worst, is best here: 0.0673 for DDIM's 0.0899 at 10 steps.",
    ),
    Claim(
        "ddim-consistent",
        "11_ddim",
        "One latent leads to much the same image however many steps are taken [Song 2020, sec. 5.2]",
        "Model: `mnist` of the zoo, labels 0 to 9 five times each, no clipping, eta = 0. 50 latents (seed 0), each "
        "decoded in 20 and in 100 steps of `uniform_times`. Distance: the root mean square over pixels. Margin: 0.5 - "
        "(mean distance of the two decodings of one latent) / (mean distance, at 100 steps, of two latents decoded "
        "under the same label). Its standard error: from the spread of the first mean over latents.",
        State.HOLDS,
        "0.039 for one latent, 0.594 for two; margin +0.434 +- 0.007.",
    ),
    Claim(
        "ddim-reconstructs",
        "11_ddim",
        "Encoding an image and decoding it loses less with more steps: the mean squared error falls 6-fold from 10 to "
        "50 steps on CIFAR-10 [Song 2020, table 2]",
        "Model: `mnist` of the zoo, with the true labels, no clipping, `ddim_invert` and `ddim` along `uniform_times`. "
        "Data: the first 50 test images. Margin: log2(mean squared error at 10 steps / at 50 steps) - 2, so that it "
        "holds if the error falls at least 4-fold. Its standard error: from the spread over images of both means.",
        State.HOLDS,
        "0.0426 at 10 steps, 0.0007 at 50: 58-fold; margin +3.87 +- 0.35.",
    ),
    Claim(
        "pndm-order",
        "15_pndm",
        "The pseudo numerical methods S-PNDM and F-PNDM are convergent of second order [Liu 2022, theorem 3.2]",
        "World: N(0, 0.25) in one dimension, exact denoiser, the VP schedule from t = 0.6 to 0.1 on a grid even in t, "
        "whose ODE is solved in closed form. Order: log2 of the error at 320 steps over that at 640. No randomness. "
        "Margin: 0.1 - the larger of |order - 2| of the two methods; standard error 0.",
        State.HOLDS,
        "Orders 1.99 (S-PNDM) and 2.00 (F-PNDM); margin +0.094. On a grid even in std / scale they are 1.98 and 4.14.",
    ),
    Claim(
        "pndm-mixture",
        "15_pndm",
        "At the same number of network calls a multistep method solves the ODE better than DDIM "
        "[Liu 2022, sec. 4; started where std / scale = 40]",
        _LINE_WORLD + " Schedules: linear and cosine betas, T = 1,000, `uniform_times` from the whole time nearest to "
        "std / scale = 40. RMS: of the end's distance from the ODE's exact end, over the 2,000 quantiles of N(0, 1) as "
        "starts. PLMS in 19 and 49 steps, DDIM in 20 and 50: 20 and 50 calls each. Margin: the smallest of log2(RMS "
        "of DDIM / RMS of PLMS) over both schedules and both numbers of calls; no randomness, standard error 0.",
        State.HOLDS,
        "DDIM's RMS and PLMS's: 0.0549 and 0.0476 (linear, 20 calls: the least gain), 0.0169 and 0.0012 (cosine, 50: "
        "the most); margin +0.207. It is PLMS's: F-PNDM has 11 steps in 20 calls, and loses to DDIM.",
    ),
    Claim(
        "pndm-mnist",
        "15_pndm",
        "50 steps of F-PNDM draw as well as 1,000 of DDIM [Liu 2022, abstract]",
        "Model: `mnist` of the zoo, balanced labels, no clipping. F-PNDM: one step of DDIM from T to where std / "
        "scale = 40, then 49 steps (`ddim_first`); DDIM from T. The large table (benchmarks/samplers.md): 2,000 "
        "latents (seed 0), Frechet distance to 2,000 test images. The notebook, in its time: 60 latents (seed 0), "
        "DDIM in 250 steps instead, and the kernel distance to 2,000 test images, since 60 are too few for Frechet. "
        "Difference: DDIM's distance - F-PNDM's, on the recogniser's features; its standard error s from 200 "
        "bootstrap draws of latents, the same for both. Margin: the upper end of the interval, difference + 2 s, so "
        "that it holds unless F-PNDM is clearly worse; standard error 0, since the interval is in the margin.",
        State.HOLDS,
        "The large table decides: Frechet 1.70 against 1.72 of DDIM in 1,000 steps, difference -0.00 to +0.03. The "
        "first protocol started F-PNDM at std / scale = 40 with x_T itself, and did not hold: 1.91, difference -0.36 "
        "to -0.03. All methods that start so lose as much, DDIM too (-0.39 to -0.04): the start is at fault.",
    ),
)


def claims_of(notebook: str) -> tuple[Claim, ...]:
    """The claims that a notebook measures."""
    return tuple(claim for claim in CLAIMS if claim.notebook == notebook)


def stops_of(notebook: str) -> tuple[Stop, ...]:
    """The stops that a notebook teaches; none for 00_roadmap."""
    return tuple(stop for stop in STOPS if notebook in stop.notebooks)


def is_built(stop: Stop, notebooks: Collection[str]) -> bool:
    """Whether a stop is built: all of its notebooks are among `notebooks`, and it has claims, all recorded."""
    claims = [claim for notebook in stop.notebooks for claim in claims_of(notebook)]
    written = all(notebook in notebooks for notebook in stop.notebooks)
    return written and len(claims) > 0 and all(claim.recorded is not None for claim in claims)


def notebooks_folder() -> Path:
    """The clone's notebooks; FileNotFoundError outside a clone, since the installed package has none."""
    clone = Path(__file__).parents[2]
    if (clone / "pyproject.toml").exists() and (clone / "notebooks").is_dir():
        return clone / "notebooks"
    raise FileNotFoundError(
        "the notebooks are not part of the installed package: clone the repository of ddpm_path (`git clone`, with the "
        "address you had the package from) and run this inside the clone"
    )
