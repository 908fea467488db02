"""The mistake museum: famous bugs of the field, each as the few characters that plant it in this package.

`python tests/mistakes.py` guides through it. `test_mistakes.py` plants every one and demands that the test named here
fails. Where a mistake was met: in public code or its issues, as it stood when it was read; most are long mended.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """One exhibit: in `module`, `right` stands once, and `wrong` in its place is the mistake."""

    name: str
    met: str  # who met it, and where
    seen: str  # what it looks like when wrong
    module: str
    right: str
    wrong: str
    test: str  # the one that catches it

    def planted(self, text: str) -> str:
        """The module's text with the mistake in it; AssertionError where `right` no longer stands once."""
        times = text.count(self.right)
        assert times == 1, f"{self.name}: {self.module} has {self.right!r} {times} times, once was expected"
        return text.replace(self.right, self.wrong)


MUSEUM = [
    # --- the ends of the chain
    Mistake(
        "levels counted from 0 in a network that counts from 1",
        "PLMS in CompVis/latent-diffusion shifts all times by one, and overruns its table when T - 1 is among them",
        "nothing at first sight: each step takes off a little too much noise, and t = T is an IndexError",
        "ddpm_path.schedule",
        "return lambda x, t: net(x, t - 1)",
        "return lambda x, t: net(x, t)",
        "test_schedule.py::test_from_zero_based_asks_a_network_that_counts_from_0",
    ),
    Mistake(
        "the last step is never taken",
        "dome272/Diffusion-Models-pytorch walks t = 999, ..., 1 over indices that begin at 0",
        "a fine grain on every sample: the first level's noise was never taken off",
        "ddpm_path.schedule",
        "for left in range(steps, -1, -1)]",
        "for left in range(steps, 0, -1)]",
        "test_schedule.py::test_uniform_times_of_the_readme",
    ),
    Mistake(
        "300 steps asked for, 334 taken",
        "ermongroup/ddim and CompVis/latent-diffusion, range(0, T, T // S); diffusers #444 fails at 3, 9 and 27 steps",
        "steps that do not divide T come out as more; progress bars and tables of cost are wrong",
        "ddpm_path.schedule",
        "return [1 + i * (T // steps) for i in range(steps - 1, -1, -1)] + [0]",
        "return [*range(1, T + 1, T // steps)][::-1] + [0]",
        "test_schedule.py::test_whole_grids_fall_strictly_to_data_in_as_many_steps_as_asked",
    ),
    Mistake(
        "noise at the last step",
        "labmlai's stable-diffusion sampler at t = 0; udlbook's 18_2 to 18_4 ask for t > 0 in a loop that ends at 1",
        "grainy samples, however good the network: with fixed_large a deviation of 0.01 stays on every pixel",
        "ddpm_path.samplers",
        "noisy = then[1] > 0  # the data",
        "noisy = True  # the data",
        "test_samplers.py::test_ho2020_alg2_no_noise_at_the_last_step",
    ),
    Mistake(
        "the walk stops one step short",
        "Sohl-Dickstein's own code samples down to t = 1 and hands that out",
        "samples of x_1: sharp enough to be believed, with the first step's noise on them",
        "ddpm_path.early",
        "for t in range(schedule.T, 0, -1):",
        "for t in range(schedule.T, 1, -1):",
        "test_early.py::test_walk_back_visits_every_time_and_ends_without_noise",
    ),
    Mistake(
        "t = T is sampled from and never trained",
        "cloneofsimo/minDiffusion, superminddpm.py: randint's open end",
        "the first step asks a network about a level it has never seen",
        "ddpm_path.losses",
        "return (i + 1).to(torch.float64), 1 / (len(p) * p[i])",
        "return (i + 1).clamp(max=len(p) - 1).to(torch.float64), 1 / (len(p) * p[i])",
        "test_improved.py::test_nichol2021_eq18_every_place_of_a_batch_together_draws_p",
    ),
    Mistake(
        "times in half precision",
        "no one named: bfloat16 cannot tell 999 from 1000",
        "neighbouring levels collapse at the noisy end; in float32 all is well",
        "ddpm_path.gaussian",
        "dtype = torch.promote_types(x.dtype, torch.float32)",
        "dtype = x.dtype",
        "test_pndm.py::test_any_shape_and_dtype",
    ),
    # --- schedule and marginal
    Mistake(
        "alpha for alpha_bar",
        "no one named: alpha is a step in DDPM, a product in DDIM, the root of a product in VDM",
        "images hardly noised at t = T: training looks splendid, and samples from pure noise are mush",
        "ddpm_path.schedule",
        "alphas.cumprod(0)]))",
        "alphas]))",
        "test_schedule.py::test_ho2020_eq4_alpha_bar_is_the_product_of_the_first_t_alphas",
    ),
    Mistake(
        "a square root forgotten",
        "labmlai/annotated_deep_learning_paper_implementations #152",
        "the marginal has another variance than the schedule says: too little noise everywhere but at the ends",
        "ddpm_path.schedule",
        "table.sqrt(), (1 - table).sqrt()",
        "table.sqrt(), 1 - table",
        "test_schedule.py::test_ho2020_eq4_scale_and_std_are_square_roots",
    ),
    Mistake(
        "the cosine without its offset",
        "no one named; Nichol 2021 gives the offset half a sentence",
        "the first levels add less noise than a pixel's bin: the network trains on nothing there, the bound suffers",
        "ddpm_path.schedule",
        "torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2",
        "torch.cos(t * math.pi / 2) ** 2",
        "test_schedule.py::test_nichol2021_eq17_alpha_bar_is_the_squared_cosine_until_the_clip",
    ),
    Mistake(
        "1 - exp near 0",
        "yang-song/score_sde_pytorch in float32: a deviation of 1.0066e-3 at t = 1e-5 instead of 1.0005e-3",
        "the last levels are off in the third digit; likelihoods drift",
        "ddpm_path.schedule",
        "torch.sqrt(-torch.expm1(-integral))",
        "torch.sqrt(1 - torch.exp(-integral))",
        "test_schedule.py::test_song2021_vp_keeps_its_precision_near_0",
    ),
    Mistake(
        "deviations subtracted instead of variances",
        "lucidrains/imagen-pytorch, q_sample_from_to: 0.79 where 0.97 is right",
        "noising from one level to the next leaves too little noise; a cascade sees levels that it is not told of",
        "ddpm_path.gaussian",
        "std_t**2 - (factor * std_s) ** 2",
        "(std_t - factor * std_s) ** 2",
        "test_gaussian.py::test_ho2020_eq2_transition_of_neighbours_is_sqrt_1_minus_beta_and_beta",
    ),
    # --- the step back
    Mistake(
        "variance for deviation",
        "no one named: beta_t times z, for Algorithm 2 writes sigma_t",
        "samples far too smooth, all alike: hardly any noise is ever added",
        "ddpm_path.samplers",
        "x = mean + var.sqrt() * draw() if noisy else mean",
        "x = mean + var * draw() if noisy else mean",
        "test_samplers.py::test_ho2020_alg2_a_step_is_mean_plus_root_variance_times_noise",
    ),
    Mistake(
        "alpha_bar of the wrong time in the posterior",
        "no one named: an off-by-one in a table, alpha_bar of t twice",
        "every step adds beta_t of noise where less is right; with few steps samples are grainy",
        "ddpm_path.gaussian",
        "return variance * (then[1] / now[1]) ** 2",
        "return variance * (now[1] / now[1]) ** 2",
        "test_gaussian.py::test_ho2020_fixed_large_is_beta_and_fixed_small_is_beta_tilde",
    ),
    Mistake(
        "x_0 is never clipped",
        "dome272/Diffusion-Models-pytorch #20; asked about in lucidrains/denoising-diffusion-pytorch #135, #47 and #65",
        "blown-out colours: at t = T an error of eps is multiplied by 157 (linear) or 20,000 (cosine)",
        "ddpm_path.guidance",
        "lambda x0: x0.clamp(low, high)",
        "lambda x0: x0",
        "test_guidance.py::test_ho2020_appB_a_slightly_wrong_eps_at_pure_noise_is_held_in_range",
    ),
    Mistake(
        "v-prediction takes scale^2 + std^2 for 1",
        "no one named: VP's formula on VE or sub-VP",
        "x_0 is too large by up to std_T^2, 2,500 on VE",
        "ddpm_path.gaussian",
        "return (scale * x - std * v) / (scale**2 + std**2)",
        "return scale * x - std * v",
        "test_gaussian.py::test_eps_x0_and_v_agree_with_one_another",
    ),
    Mistake(
        "a history that outlives its trajectory",
        "PNDM of diffusers and CompVis keep old eps in the object until someone resets them",
        "the second image of a session differs from the first, at the same seed",
        "ddpm_path.samplers",
        "past = [eps, *past[: order - 1]]",
        'past = _multistep.past = [eps, *getattr(_multistep, "past", past)[: order - 1]]',
        "test_pndm.py::test_each_trajectory_has_a_past_of_its_own",
    ),
    Mistake(
        "gradients are recorded while sampling",
        "no one named: no_grad forgotten, or inside a generator, where it leaks into whoever called it",
        "memory grows with every step until it runs out",
        "ddpm_path.samplers",
        "@torch.no_grad()\ndef _ddim(",
        "def _ddim(",
        "test_samplers.py::test_gradients_are_off_inside_and_left_alone_outside",
    ),
    Mistake(
        "one stream of noise for the whole batch",
        "torch.randn of the batch's shape: diffusers #1514 and many others",
        "the same seed gives other images in a batch of 8 than in a batch of 4",
        "ddpm_path.samplers",
        "streams = [torch.Generator().manual_seed(root + k * 0x9E3779B1) for k in range(n)]",
        "streams = [torch.Generator().manual_seed(root)] * n",
        "test_samplers.py::test_sample_k_does_not_depend_on_the_batch",
    ),
    Mistake(
        "one angle for all latents",
        "slerp of ermongroup/ddim takes the angle between whole batches; unCLIP's in diffusers forgets a sum",
        "interpolations change when other images join the batch, and norms are lost on the way",
        "ddpm_path.samplers",
        "torch.cosine_similarity(flat_a.double(), flat_b.double(), dim=1)",
        "torch.cosine_similarity(flat_a.double().flatten(), flat_b.double().flatten(), dim=0).expand(len(a))",
        "test_inversion.py::test_song2020_appD5_slerp_by_the_formula",
    ),
    # --- losses and the bound
    Mistake(
        "a loss that broadcasts",
        "no one named: (B,) against (B, 1) makes (B, B), with a warning at best",
        "the loss falls to the data's variance and stays there: every answer is compared with every target",
        "ddpm_path.gaussian",
        "if answer.shape != x.shape:",
        "if answer.numel() != x.numel():",
        "test_losses.py::test_an_answer_of_another_shape_type_or_dtype_is_refused_not_broadcast",
    ),
    Mistake(
        "the mean learns from the variance's loss",
        "no one named: Nichol 2021 without its stop-gradient (eq. 16)",
        "training becomes noisy and samples lose quality: at small t the bound's weight rules",
        "ddpm_path.losses",
        "torch.cat([output.detach(), o], dim=1)",
        "torch.cat([output, o], dim=1)",
        "test_improved.py::test_nichol2021_eq16_the_bound_moves_the_variance_and_never_the_mean",
    ),
    Mistake(
        "a variance interpolated from -1 to 1 as if from 0 to 1",
        "openai/improved-diffusion maps v in [-1, 1] by (v + 1) / 2; ports leave that out (its #114, #147)",
        "variances below the smallest legal one; the bound explodes",
        "ddpm_path.gaussian",
        "torch.exp((1 - o) / 2 * expand(ratio.log(), o))",
        "torch.exp((1 - o) * expand(ratio.log(), o))",
        "test_improved.py::test_nichol2021_eq15_spelled_out",
    ),
    Mistake(
        "the outermost bins are left closed",
        "no one named: ports of DDPM's decoder that forget black and white",
        "the 256 probabilities do not sum to 1: bits/dim look better or worse than they are",
        "ddpm_path.gaussian",
        "torch.where(first | last, ends, inside)",
        "inside",
        "test_bound.py::test_ho2020_eq13_the_256_bins_sum_to_1",
    ),
    Mistake(
        "the VAE's KL is averaged over latents",
        "pytorch/examples PR #296; AppliedDataSciencePartners/WorldModels #12 collapsed",
        "the KL weighs next to nothing: sharp reconstructions, and samples of the prior are noise",
        "ddpm_path.vae",
        "- kl_to_prior(posterior).sum(1)\n\n\ndef iwae",
        "- kl_to_prior(posterior).mean(1)\n\n\ndef iwae",
        "test_vae.py::test_kingma2013_eq6_eq7_eq10_both_estimators_have_the_bound_as_mean",
    ),
    Mistake(
        "log-variance taken for log-deviation",
        "no one named: exp(logvar) times eps, which reads so well",
        "latents too wide or too narrow by a square; the bound is no bound",
        "ddpm_path.vae",
        "return mean + (0.5 * logvar).exp() * eps",
        "return mean + logvar.exp() * eps",
        "test_vae.py::test_kingma2013_sec24_reparameterised_samples_have_the_mean_and_the_variance",
    ),
    Mistake(
        "an average of bounds called importance-weighted",
        "no one named: the average taken after the logarithm instead of before it",
        "the bound does not rise with more samples",
        "ddpm_path.vae",
        "return log_w.logsumexp(0) - math.log(len(log_w))",
        "return log_w.mean(0)",
        "test_vae.py::test_burda2015_eq8_is_the_log_of_the_mean_weight_and_one_sample_is_estimator_a",
    ),
    # --- guidance
    Mistake(
        "w for the scale",
        "is 1 off, or 0? asked in lucidrains/denoising-diffusion-pytorch #155, #184 and #207 and DALLE2-pytorch #303",
        "guidance is one stronger than asked for: scale 1 already overshoots",
        "ddpm_path.guidance",
        "check_answer(cond(x, t), x), scale)",
        "check_answer(cond(x, t), x), 1 + scale)",
        "test_guidance.py::test_ho2022_scales_0_and_1_are_the_two_models_to_the_last_bit",
    ),
    Mistake(
        "the halves of the batch exchanged",
        "no one named: diffusers puts the unconditional half first, others second",
        "guidance pushes away from the label",
        "ddpm_path.guidance",
        "cond, uncond = check_answer(net(",
        "uncond, cond = check_answer(net(",
        "test_guidance.py::test_ho2022_one_call_at_twice_the_batch_is_the_same",
    ),
    Mistake(
        "labels are dropped for the whole batch",
        "dome272/Diffusion-Models-pytorch, ddpm_conditional.py",
        "it trains, more slowly: steps with all labels and steps with none pull in turn",
        "ddpm_path.lab.train",
        "dropped = torch.rand(recipe.batch, generator=draw) < recipe.label_dropout",
        "dropped = (torch.rand(1, generator=draw) < recipe.label_dropout).expand(recipe.batch)",
        "test_train.py::test_labels_are_dropped_example_by_example",
    ),
    Mistake(
        "the class score without its deviation",
        "no one named: the sqrt(1 - alpha_bar) of Dhariwal 2021, alg. 2, left out",
        "guidance far too strong near the data, where std is small: saturated, broken images",
        "ddpm_path.guidance",
        "scale * expand(schedule(t)[1], x) * grad",
        "scale * grad",
        "test_guidance.py::test_guidance_identity_on_a_mixture",
    ),
    Mistake(
        "dynamic thresholding that is static",
        "diffusers' thresholding=True with its default sample_max_value = 1",
        "saturation at large guidance scales, as if it were clipping: it is",
        "ddpm_path.guidance",
        "percentile, dim=1).clamp(min=1)",
        "percentile, dim=1).clamp(1, 1)",
        "test_guidance.py::test_saharia2022_dynamic_thresholding_by_hand",
    ),
    # --- scores and SDEs
    Mistake(
        "alpha / 2 or alpha",
        "NCSN's paper steps by alpha / 2 and sqrt(alpha), its image code by alpha and sqrt(2 alpha), numerals alike",
        "half the noise for the drift: samples contract to the modes",
        "ddpm_path.gaussian",
        "(math.sqrt(2 * step) * noise - step * eps)",
        "(math.sqrt(step) * noise - step * eps)",
        "test_langevin.py::test_song2019_eq4_is_the_step_of_the_published_code",
    ),
    Mistake(
        "the target without its 1 / std",
        "no one named: denoising score matching on eps, used as a score",
        "scores too small by the deviation; Langevin dynamics hardly move at low noise",
        "ddpm_path.score",
        "check_answer(score_fn(x), x) + eps / expand(std, x))",
        "check_answer(score_fn(x), x) + eps)",
        "test_score.py::test_song2019_eq5_minimum_on_gaussian_data",
    ),
    Mistake(
        "the ODE with the SDE's drift",
        "no one named: the factor 1/2 of Song 2021, eq. 13",
        "samples collapse: the score's pull is twice what no noise makes up for",
        "ddpm_path.sde",
        "expand(g2 / (2 * schedule(t)[1]), x) * eps",
        "expand(g2 / schedule(t)[1], x) * eps",
        "test_sde.py::test_song2021_eq13_the_flow_carries_the_density_by_the_continuity_equation",
    ),
    Mistake(
        "a corrector's step from the batch's norms",
        "yang-song/score_sde_pytorch takes means over the batch",
        "a sample's image depends on its neighbours",
        "ddpm_path.sde",
        "z.flatten(1).norm(dim=1) / eps.flatten(1).norm(dim=1)",
        "(z.norm() / eps.norm()).expand(len(z))",
        "test_sde.py::test_sample_k_depends_on_seed_and_k_only_with_correctors_too",
    ),
    Mistake(
        "the mask upside down",
        "1 keeps in SDEdit's code and in GLIDE, 1 is to be filled in Palette and in latent diffusion's script",
        "what was to stay is new, what was to be new has stayed",
        "ddpm_path.sde",
        "torch.where(mask, q_sample(known, noise().to(known), schedule(s)), x)",
        "torch.where(mask, x, q_sample(known, noise().to(known), schedule(s)))",
        "test_sde.py::test_song2021_app_i2_what_is_known_is_a_fresh_draw_at_its_level",
    ),
    # --- networks
    Mistake(
        "sines and cosines exchanged",
        "DDPM's code has sines first, improved diffusion's cosines (diffusers: flip_sin_to_cos)",
        "a loaded network answers noise; one trained from scratch is none the worse",
        "ddpm_path.unet",
        "return torch.cat([angle.sin(), angle.cos()], dim=1)",
        "return torch.cat([angle.cos(), angle.sin()], dim=1)",
        "test_unet.py::test_ho2020_time_embedding_equals_diffusers",
    ),
    Mistake(
        "adaptive normalisation without its 1",
        "GN(h) * scale + shift, as the paper writes it; the code has 1 + scale",
        "a fresh network multiplies by almost 0: training is slow to start, loaded weights answer nonsense",
        "ddpm_path.unet",
        "self.norm2(h) * (1 + scale) + shift",
        "self.norm2(h) * scale + shift",
        "test_unet.py::test_dhariwal2021_sec3_adaptive_group_norm_spelled_out",
    ),
    Mistake(
        "padding on the wrong side",
        "TensorFlow's SAME pads below and on the right when it halves; ported as a symmetric or a mirrored padding",
        "a loaded network's images shift by half a pixel a level, and blur",
        "ddpm_path.unet",
        "F.pad(input, (0, 1, 0, 1))",
        "F.pad(input, (1, 0, 1, 0))",
        "test_unet.py::test_ho2020_a_halving_convolution_spelled_out_where_its_padding_lies",
    ),
    Mistake(
        "skips cut from a corner",
        "no one named: crop-and-concatenate as h[..., :H, :W]",
        "edges come out doubled: fine and coarse features are of different places",
        "ddpm_path.segmentation",
        "top, left = ((n - m) // 2 for",
        "top, left = (0 for",
        "test_segmentation.py::test_each_skip_is_cropped_from_the_middle",
    ),
    Mistake(
        "a bilinear kernel off centre",
        "no one named: the centre of an even filter lies between two weights, as FCN's surgery.py has it",
        "every up-sampling shifts the scores by half a pixel",
        "ddpm_path.convolution",
        "centre = factor - 1 if size % 2 else factor - 0.5",
        "centre = factor - 1",
        "test_convolution.py::test_bilinear_kernel_is_the_published_filter",
    ),
    # --- training
    Mistake(
        "averaged weights without a warm-up",
        "openai/improved-diffusion #59: EMA samples are noise; 0.9999^10,000 leaves 37% of the initial weights",
        "the loss is fine and the samples are noise, for ten thousand steps",
        "ddpm_path.lab.train",
        "weight = 1 - ema_decay(step, decay)",
        "weight = 1 - decay",
        "test_train.py::test_ema_forgets_its_initial_weights_as_the_warm_up_says",
    ),
    Mistake(
        "images of another range",
        "[0, 255] or [0, 1] where [-1, 1] is meant: denoising-diffusion-pytorch #20, DALLE2-pytorch #96",
        "grey, washed-out samples; the loss looks almost right",
        "ddpm_path.lab.datasets",
        "return pixels.float() / 127.5 - 1",
        "return pixels.float() / 255",
        "test_datasets.py::test_ho2020_sec33_model_range_is_from_minus_1_to_1",
    ),
]


def guide() -> str:
    """The museum as a text, one exhibit after the other."""
    return "\n\n".join(
        f"{i}. {m.name}\n   met:    {m.met}\n   seen:   {m.seen}\n   {m.module}:\n     - {m.right}\n     + {m.wrong}\n"
        f"   caught: {m.test}"
        for i, m in enumerate(MUSEUM, 1)
    )


if __name__ == "__main__":
    print(guide())
