"""Claims of 14_classifier_free_guidance."""

from ddpm_path.lab.record.claim import Claim, State

_GUIDED = (
    "Model: `digits` of the zoo, labels 0, 1, ..., 9, 0, ...; `classifier_free_batched`, then `clip_x0`; DDIM, 10 "
    "steps of `uniform_times` from T, the same latents (seed 0) at the scales 1, 1.5, 2, 3, 4 and 8. A larger set, 500 "
    "latents (benchmarks/guidance.py), decides; the notebook, in its time, takes 80 (100 in "
    "a first run, with the same outcomes). "
)
_FEWER = " (Planned were 2,000 latents, and MNIST beside them, which take hours.)"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "free-recognised",
        "14_classifier_free_guidance",
        "Guidance buys fidelity: at a larger scale more samples are recognised as what was asked for [Ho "
        "2022, sec. 4, table 1: the inception score rises with w]",
        _GUIDED + "Recognised: seen as its own class with confidence above 0.9 by `digits-recogniser`. Margin: "
        "recognised share at scale 3 - at scale 1. Its standard error: of the paired difference, over latents.",
        State.HOLDS,
        "0.990 at scale 1, 1.000 at 3 (and at all others) of 500; margin +0.0100 +- 0.0042. The digits leave little to "
        "gain; the doubt that is left in the label falls from 5e-3 to 8e-6." + _FEWER,
    ),
    Claim(
        "free-coverage",
        "14_classifier_free_guidance",
        "Guidance pays with diversity: at a large scale the samples cover less of the data [Ho 2022, sec. 4, figure 1]",
        _GUIDED + "Coverage: the share of the test images' neighbourhoods (pixels, 5 neighbours) that samples reach. "
        "Margin: coverage at scale 1 - at scale 8. Its standard error: from 200 bootstrap draws of latents, the same "
        "for both.",
        State.HOLDS,
        "0.997 at scale 1, 0.749 at 8, of 500; margin +0.248 +- 0.017. Up to 2 little is lost; the notebook's 80 cover "
        "more at 1.5 than at 1.",
    ),
    Claim(
        "free-against-classifier",
        "14_classifier_free_guidance",
        "Without a classifier the trade is no worse than with one: at equal coverage as many samples are recognised "
        "[Ho 2022, sec. 5]",
        _GUIDED + "Against it the same conditional model guided by `digits-classifier` of the zoo at the scales s - 1, "
        "which with exact models would be the same (the notebook: s = 1.5, 3 and 8). Both curves, recognised over "
        "coverage, are read off by linear interpolation half way between the coverage at s = 1, where they start "
        "together, and the larger of their two coverages at s = 8. Difference: classifier-free - classifier; its "
        "standard error e from 200 bootstrap draws of latents, the same for both. Margin: the upper end of the "
        "interval, difference + 2 e, so that it holds unless classifier-free is clearly worse; standard error 0, since "
        "the interval is in the margin.",
        State.HOLDS,
        "At coverage 0.975, of 500, the difference is +0.0006 +- 0.0019; margin +0.004. Both recognise nearly all "
        "there, so the claim is mild; in doubt, classifier-free is ahead at every scale, sevenfold at 1.5.",
    ),
    Claim(
        "free-dynamic",
        "14_classifier_free_guidance",
        "At a large scale dynamic thresholding draws better samples than clipping, which saturates pixels [Saharia "
        "2022, sec. 2.3]",
        _GUIDED + "Scale 8; `threshold_x0` at the percentile 0.995 in the place of `clip_x0`. Difference: the kernel "
        "distance to the test images, in the recogniser's features, of clipped samples - of thresholded ones. Margin: "
        "that; its standard error: from 200 bootstrap draws of latents, the same for both.",
        State.FAILS,
        "Kernel distance 13 clipped, 335 thresholded, of 500; margin -322 +- 46. It was made for photographs. Here "
        "most pixels are -1 exactly, and dividing by the percentile greys them at every step." + _FEWER,
    ),
    Claim(
        "free-interval",
        "14_classifier_free_guidance",
        "Guidance in the middle noise levels alone draws better samples than guidance at all of them, and in fewer "
        "network calls [Kynkaanniemi 2024, abstract]",
        _GUIDED + "Scale 4; the interval is the paper's for ImageNet, std / scale from 0.28 to 2.9, and not tuned. "
        "Margin: the kernel distance to the test images, in the recogniser's features, of samples guided everywhere - "
        "of those guided in the interval; its standard error: from 200 bootstrap draws of latents, the same for both.",
        State.HOLDS,
        "27.5 everywhere, 8.0 in the interval, of 500; margin +19.5 +- 3.9, for 16 network evaluations an image "
        "instead of 20, and no coverage lost. Unguided, -5.1 is best: these digits need no guidance. The notebook's 80 "
        "do not decide: +15 +- 12." + _FEWER,
    ),
)
