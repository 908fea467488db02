"""Claims of 08_fcn_unet and 09_upsampling."""

from ddpm_path.lab.record.claim import Claim

_SCENES = (
    "Models: {models} of the zoo, each trained once, from scratch, on 1,000 scenes of five touching training digits, "
    "with the same steps, batches and learning rate. Data: 200 scenes of test digits (seed 1). "
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
        "PASCAL) [Long 2014, sec. 4.2, table 2]",
        _SCENES.format(models="`scenes-fcn-32s`, `scenes-fcn-16s` and `scenes-fcn-8s`") + "Margin: the smaller of "
        "mean IoU(16s) - mean IoU(32s) and mean IoU(8s) - mean IoU(16s), over the digits' classes without the "
        "background. " + _BOOTSTRAP,
    ),
    Claim(
        "unet-fcn",
        "08_fcn_unet",
        "The U-Net, which changes the FCN so that its way up has channels of its own, segments more precisely from few "
        "images [Ronneberger 2015, sec. 1]",
        _SCENES.format(models="`scenes-unet` and `scenes-fcn-8s`") + "Margin: mean IoU(U-Net) - mean IoU(FCN-8s), over "
        "the digits' classes without the background. " + _BOOTSTRAP,
    ),
    Claim(
        "unet-skips",
        "08_fcn_unet",
        "To localise, the way up needs the features of the way down, at high resolution [Ronneberger 2015, sec. 1]",
        _SCENES.format(models="`scenes-unet` and `scenes-unet-no-skips`, trained with zeros for every skip,")
        + "Margin: mean IoU(U-Net) - mean IoU(without skips), over the digits' classes without the background. "
        + _BOOTSTRAP,
    ),
    Claim(
        "unet-borders",
        "08_fcn_unet",
        "Weights that are high between cells teach the network the narrow borders that keep them apart "
        "[Ronneberger 2015, sec. 3, eq. 2]",
        _SCENES.format(models="`scenes-unet-borders`, w0 = 10, sigma = 5, and `scenes-unet`, w0 = 0,") + "Margin: the "
        "share of border pixels (background within two pixels of two digits) seen as background, with the weights less "
        "without. " + _BOOTSTRAP,
    ),
    Claim(
        "checkerboard-untrained",
        "09_upsampling",
        "Before any training, transposed convolution with uneven overlap draws checkerboards that resizing does not "
        "[Odena 2016, sec. Deconvolution & Overlap]",
        _GENERATOR + "Untrained. Images: 200 from numbers of N(0, I). Margin: log2(energy of k = 3 / energy of "
        "resizing), mean over seeds. Its standard error: over 10 seeds, 0 to 9, each with first weights of its own.",
    ),
    Claim(
        "checkerboard-trained",
        "09_upsampling",
        "Nor does training remove them: resizing, then convolving, has fewer [Odena 2016, sec. Better Upsampling]",
        _TRAINED + "Margin: log2(energy of k = 3 / energy of resizing), mean over seeds. " + _SEEDS,
    ),
    Claim(
        "checkerboard-divides",
        "09_upsampling",
        "Even if the stride divides the kernel, learned weights fall into checkerboards more than after resizing "
        "[Odena 2016, sec. Overlap & Learning]",
        _TRAINED + "Margin: log2(energy of k = 4 / energy of resizing), mean over seeds. " + _SEEDS,
    ),
)
