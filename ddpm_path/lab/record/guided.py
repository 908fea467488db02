"""Claims of 13_classifier_guidance."""

from ddpm_path.lab.record.claim import Claim, State

_GUIDED = (
    "Model: `digits` of the zoo under its null label, guided through eps by `digits-classifier`, x_0 clipped after "
    "that; DDIM, 10 steps of `uniform_times`; the same latents (seed 0), labels 0, 1, ..., 9, 0, ... "
)
_ACCURACY = (
    "Class accuracy: the share whose most likely class, by `digits-recogniser`, is the requested one; it was trained "
    "apart, on clean images, and has no part in guiding. "
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "adm-sharpens",
        "13_classifier_guidance",
        "Guidance at scale s draws from p(x) p(y | x)^s, where the label's probability is sharpened "
        "[Dhariwal 2021, sec. 4.3]",
        "World: N(-1, 0.25) and N(1, 0.25) on a line, equal weights, exact denoiser and exact class score, class +1, "
        "s = 4. Linear betas, T = 1,000; DDIM, 250 steps of `uniform_times`, 20,000 starts from N(0, 1) (seed 1). "
        "p(x) p(y | x)^4 normalised by quadrature. W: the Wasserstein-1 distance of samples from it. Margin: 0.05, a "
        "tenth of a mode's standard deviation, - W. Its standard error: of W over 10 batches of 2,000.",
        State.FAILS,
        "W = 0.61: the mean is 1.67 where sharpening gives 1.06; margin -0.563 +- 0.0014. Noising p(x) p(y | x)^s does "
        "not give p_t(x) p_t(y | x)^s: in noise the classifier is unsure and pushes hard, however sure it is of data.",
    ),
    Claim(
        "adm-fidelity",
        "13_classifier_guidance",
        "A classifier steers a model that is told no label, and the more the larger its scale [Dhariwal 2021, sec. "
        "4.3, figure 4]",
        _GUIDED + _ACCURACY + "355 latents, scales 0, 1 and 3. Margin: the smaller of the rises, accuracy(1) - "
        "accuracy(0) and accuracy(3) - accuracy(1). Its standard error: of that paired difference, over latents.",
        State.HOLDS,
        "0.087, 0.775, 0.946 and, at scale 10, 0.992; margin +0.172 +- 0.020. The steering classifier itself says "
        "0.794, 0.975 and 0.997 of the last three.",
    ),
    Claim(
        "adm-diversity",
        "13_classifier_guidance",
        "Fidelity is paid for with diversity: recall falls as the scale rises [Dhariwal 2021, sec. 4.3, figure 4]",
        _GUIDED + "Coverage: the share of the 355 test digits with one of 355 samples nearer than their fifth real "
        "neighbour, in pixels. Margin: coverage at scale 1 - at scale 10. Its standard error: of the paired "
        "difference, over test digits.",
        State.UNDECIDED,
        "0.882 at scale 1, 0.930 at 3 and 0.887 at 10 (unguided 0.932); margin -0.006 +- 0.019. Scale 1 leaves botched "
        "digits, in 50 steps too, and they reach no neighbourhood; what a larger scale mends hides what it loses. "
        "Hence the next claim.",
    ),
    Claim(
        "adm-narrows",
        "13_classifier_guidance",
        "Within a class the samples grow alike as the scale rises [Dhariwal 2021, sec. 4.3]",
        _GUIDED + "Added when `adm-diversity` had come out undecided, and before this was measured. Spread: the mean "
        "distance, in pixels, of two of the 355 samples with the same label. Margin: log(spread at scale 1 / at scale "
        "10), mean over labels. Its standard error: over the 10 labels.",
        State.HOLDS,
        "15% less spread at scale 10; margin +0.164 +- 0.016.",
    ),
    Claim(
        "adm-distance",
        "13_classifier_guidance",
        "Guidance brings the samples of an unconditional model nearer to the data: FID 26.2 unguided, 12.0 at scale 10 "
        "[Dhariwal 2021, table 4]",
        _GUIDED + "355 latents, scales 0, 1, 3 and 10. Margin: the kernel distance to the test digits, in the "
        "recogniser's features, at scale 0 - at the best of the other scales, which is chosen as in the paper, and "
        "favours the claim. Its standard error: from 200 bootstrap draws of latents, the same for both.",
        State.HOLDS,
        "25.4 unguided, 5.3, -4.7 and 8.3 at scales 1, 3 and 10; margin +30.1 +- 6.5. The choice cannot explain that: "
        "every scale gains.",
    ),
    Claim(
        "adm-noisy",
        "13_classifier_guidance",
        "The classifier must know noise: one trained on clean images guides worse at the same scale "
        "[Dhariwal 2021, sec. 4.1]",
        _GUIDED + _ACCURACY + "Against it `digits-clean-classifier`, of the same recipe but for its times: t = 1 "
        "only, which it is told at every step. The first 200 latents, scale 3. Margin: accuracy guided by the noisy "
        "classifier - by the clean one. Its standard error: of the paired difference, over latents.",
        State.HOLDS,
        "0.95 and 0.33; margin +0.610 +- 0.036, though both read 0.99 of clean test digits.",
    ),
)
