"""The article as data: every stop in its order, its papers and reading; the claims are in `record`."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ddpm_path.lab.record import claims_of


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
        ("guidance", "classifier"),
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
