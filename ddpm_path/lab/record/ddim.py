"""Claims of 11_ddim."""

from ddpm_path.lab.record.claim import LINE_WORLD, Claim, State

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ddim-few-steps",
        "11_ddim",
        "With few steps deterministic DDIM comes nearer to the data than DDPM with its small variance "
        "[Song 2020, sec. 5.1, table 1]",
        LINE_WORLD + " Schedule: linear betas, T = 1,000, `uniform_times`, from x_T ~ N(0, 1). W: the exact 1-D "
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
)
