"""Claims of 15_pndm."""

from ddpm_path.lab.record.claim import LINE_WORLD, Claim, State

CLAIMS: tuple[Claim, ...] = (
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
        LINE_WORLD + " Schedules: linear and cosine betas, T = 1,000, `uniform_times` from the whole time nearest to "
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
