import math

import pytest
import torch
from helpers import close, rand, randn

from ddpm_path.gaussian import bits_per_dim, kl, posterior, q_sample, transition
from ddpm_path.lab import vaes
from ddpm_path.schedule import Discrete, cosine_betas
from ddpm_path.vae import (
    BernoulliVAE,
    LinearGaussian,
    iwae,
    kl_to_prior,
    log_bernoulli,
    log_normal,
    log_weights,
    reconstruction,
    reparameterise,
    sgvb_a,
    sgvb_b,
)

# Uneven, correlated columns, an offset, a standard deviation that is not 1: nothing that an error could hide behind.
WORLD = LinearGaussian(
    torch.tensor([[1.5, 0.9], [-0.4, 0.4], [0.9, 1.1], [0.1, -0.2]], dtype=torch.float64),
    torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64),
    std=0.6,
)


def data(n: int = 5, seed: int = 0) -> torch.Tensor:
    return randn(n, 2, seed=seed) @ WORLD.weight.T + WORLD.bias + WORLD.std * randn(n, 4, seed=seed + 1)


def off(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Some diagonal q, neither the prior nor the best, different for every item and latent."""
    return WORLD.posterior_mean(x) + 0.3 * randn(len(x), 2, seed=8), -1 + 0.5 * randn(len(x), 2, seed=9)


def by_quadrature(x: torch.Tensor, integrand) -> torch.Tensor:
    """The integral of integrand(z) over a fine grid of the two latents, for one x: no formula for Gaussians."""
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    return integrand(x.expand(len(z), -1), z).sum() * (axis[1] - axis[0]) ** 2


# --- densities


def test_log_normal_is_torch_distributions_also_for_plain_numbers():
    x, mean, logvar = randn(4, 3, seed=1), randn(4, 3, seed=2), randn(4, 3, seed=3)
    close(log_normal(x, mean, logvar), torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(x))
    close(log_normal(x, 0.7, math.log(0.25)), torch.distributions.Normal(0.7 + 0 * x, 0.5 + 0 * x).log_prob(x))


def test_log_bernoulli_is_the_log_of_the_probability():
    logits = 3 * randn(50, 3, seed=1)
    p, x = logits.sigmoid(), (rand(50, 3, seed=2) < 0.5).double()
    close(log_bernoulli(x, logits), torch.where(x == 1, p, 1 - p).log(), rtol=1e-12, atol=1e-14)  # 1 - p rounds
    close(log_bernoulli(torch.zeros_like(logits), logits).exp() + log_bernoulli(x * 0 + 1, logits).exp(), x * 0 + 1)


def test_log_bernoulli_is_finite_where_the_probability_rounds_to_0():
    close(log_bernoulli(torch.tensor([0.0, 1.0]), torch.tensor([800.0, -800.0])), [-800.0, -800.0])


def test_log_bernoulli_of_grey_is_the_mean_over_binarised_images():
    grey, logits = rand(3, seed=1), randn(3, seed=2)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)  # all 8
    chance = torch.where(images == 1, grey, 1 - grey).prod(1)
    total = log_bernoulli(images, logits.expand(8, 3)).sum(1)
    close(log_bernoulli(grey, logits).sum(), (chance * total).sum())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0), (0.0, math.nan)])
def test_log_bernoulli_refuses_targets_outside_0_and_1(low, high):
    with pytest.raises(ValueError, match=r"targets in \[0, 1\].*binarise"):
        log_bernoulli(torch.tensor([low, high]), torch.zeros(2))


# --- the pieces of the bound


def test_kingma2013_appB_kl_is_torch_distributions():
    mean, logvar = randn(4, 3, seed=1), randn(4, 3, seed=2)
    Normal = torch.distributions.Normal
    true = torch.distributions.kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(mean * 0, mean * 0 + 1))
    close(kl_to_prior((mean, logvar)), true)
    close(kl_to_prior((mean, logvar)), 0.5 * (mean**2 + logvar.exp() - 1 - logvar), rtol=1e-10)


def test_kingma2013_appB_kl_is_the_mean_of_the_log_ratio():
    mean, logvar = torch.tensor([[0.8]], dtype=torch.float64), torch.tensor([[-1.2]], dtype=torch.float64)
    z = reparameterise((mean, logvar), randn(200_000, 1, 1, seed=1))
    ratio = log_normal(z, mean, logvar) - log_normal(z, 0.0, 0.0)
    assert abs(float(ratio.mean() - kl_to_prior((mean, logvar)))) < 4 * float(ratio.std()) / 200_000**0.5


def test_kingma2013_sec24_reparameterised_samples_have_the_mean_and_the_variance():
    mean, logvar = torch.tensor([[1.5, -2.0]]).double(), torch.tensor([[0.8, -1.5]]).double()
    n = 100_000
    z = reparameterise((mean, logvar), randn(n, 1, 2, seed=1))[:, 0]
    variance = logvar[0].exp()
    assert bool(((z.mean(0) - mean[0]).abs() < 4 * (variance / n).sqrt()).all())
    assert bool(((z.var(0) - variance).abs() < 4 * variance * (2 / n) ** 0.5).all())


def test_kingma2013_sec24_gradient_of_the_mean_square_is_2_mu_and_2_sigma():
    mean, std = torch.tensor([[0.7]]).double().requires_grad_(), torch.tensor([[1.3]]).double().requires_grad_()
    n = 200_000
    z = reparameterise((mean, 2 * std.log()), randn(n, 1, 1, seed=1))
    z.square().mean().backward()
    # Per sample these are 2 z and 2 z eps, of standard deviations 2 std, and 2 sqrt(mean^2 + 2 std^2).
    assert abs(float(mean.grad) - 2 * 0.7) < 4 * 2 * 1.3 / n**0.5
    assert abs(float(std.grad) - 2 * 1.3) < 4 * 2 * math.sqrt(0.7**2 + 2 * 1.3**2) / n**0.5


# --- a world that is known exactly


def test_linear_gaussian_evidence_and_posterior_are_the_integrals():
    x = data(1)
    joint = lambda x, z: (WORLD.log_likelihood(x, z) + log_normal(z, 0.0, 0.0).sum(1)).exp()  # noqa: E731
    evidence = by_quadrature(x, joint)
    close(WORLD.log_evidence(x), evidence.log().view(1), rtol=1e-9)
    mean = [by_quadrature(x, lambda x, z, j=j: z[:, j] * joint(x, z)) / evidence for j in range(2)]
    close(WORLD.posterior_mean(x), torch.stack(mean)[None], rtol=1e-9)
    pairs = [(i, j) for i in range(2) for j in range(2)]
    second = [by_quadrature(x, lambda x, z, i=i, j=j: z[:, i] * z[:, j] * joint(x, z)) / evidence for i, j in pairs]
    covariance = torch.stack(second).view(2, 2) - torch.outer(*[torch.stack(mean)] * 2)
    close(WORLD.precision.inverse(), covariance, rtol=1e-8)


def test_kingma2013_eq3_bound_of_any_q_is_the_integral():
    x = data(1)
    mean, logvar = off(x)

    def integrand(x, z):
        log_q = log_normal(z, mean, logvar).sum(1)
        return log_q.exp() * (WORLD.log_likelihood(x, z) + log_normal(z, 0.0, 0.0).sum(1) - log_q)

    close(WORLD.elbo(x, (mean, logvar)), by_quadrature(x, integrand).view(1), rtol=1e-9)


def test_kingma2013_eq1_bound_and_kl_to_the_true_posterior_add_up_to_the_evidence():
    x = data()
    mean, logvar = off(x)
    true = torch.distributions.MultivariateNormal(WORLD.posterior_mean(x), precision_matrix=WORLD.precision)
    q = torch.distributions.MultivariateNormal(mean, torch.diag_embed(logvar.exp()))
    gap = torch.distributions.kl_divergence(q, true)
    close(WORLD.elbo(x, (mean, logvar)) + gap, WORLD.log_evidence(x), rtol=1e-10)


def test_best_diagonal_posterior_loses_half_the_log_of_hadamards_ratio():
    x = data()
    gap = WORLD.log_evidence(x) - WORLD.elbo(x, WORLD.best_diagonal(x))
    M = torch.eye(2).double() + WORLD.weight.T @ WORLD.weight / 0.36
    close(gap, (0.5 * (M.diagonal().log().sum() - M.det().log())).expand(5), rtol=1e-10)
    assert float(gap[0]) > 0.2  # the columns are correlated, so there is something to lose


def test_best_diagonal_posterior_is_where_the_gradient_of_the_bound_is_zero():
    x = data()
    q = tuple(part.clone().requires_grad_() for part in WORLD.best_diagonal(x))
    for gradient in torch.autograd.grad(WORLD.elbo(x, q).sum(), q):
        close(gradient, torch.zeros(5, 2), atol=1e-12)


def orthogonal() -> LinearGaussian:
    """Columns at right angles, so that the true posterior is diagonal."""
    weight = torch.tensor([[1.0, 2.0, 0.5], [2.0, -1.0, 0.0]]).double().T
    return LinearGaussian(weight, WORLD.bias[:3], 0.6)


def test_estimator_a_is_the_evidence_for_every_sample_of_the_true_posterior():
    """log p(x, z) - log p(z | x) = log p(x), whatever z is: a bound without gap, an estimator without variance."""
    world, x = orthogonal(), randn(4, 3, seed=5)
    q = world.best_diagonal(x)
    close(world.elbo(x, q), world.log_evidence(x), rtol=1e-10)
    log_w = log_weights(world.log_likelihood, x, q, randn(7, 4, 2, seed=6))
    close(log_w, world.log_evidence(x).expand(7, 4), rtol=1e-10)
    b = sgvb_b(world.log_likelihood, x, q, randn(1, 4, 2, seed=6))
    assert float((b - world.log_evidence(x)).abs().min()) > 0.01  # B has variance even here


@pytest.mark.parametrize("estimator", [sgvb_a, sgvb_b])
def test_kingma2013_eq6_eq7_eq10_both_estimators_have_the_bound_as_mean(estimator):
    x = data()
    q, n = off(x), 4000
    draws = torch.stack([estimator(WORLD.log_likelihood, x, q, randn(10, 5, 2, seed=i)) for i in range(n // 10)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - WORLD.elbo(x, q)).abs() < 4.5 * error).all())


@pytest.mark.parametrize("estimator", [sgvb_a, sgvb_b])
def test_kingma2013_sec23_gradients_of_both_estimators_have_the_gradient_of_the_bound_as_mean(estimator):
    x = data(2)
    q = tuple(part.requires_grad_() for part in off(x))
    true = torch.cat(torch.autograd.grad(WORLD.elbo(x, q).sum(), q), 1)
    draws = []
    for i in range(400):
        value = estimator(WORLD.log_likelihood, x, q, randn(5, 2, 2, seed=i)).sum()
        draws.append(torch.cat(torch.autograd.grad(value, q), 1))
    error = torch.stack(draws).std(0) / 20
    assert bool(((torch.stack(draws).mean(0) - true).abs() < 4.5 * error).all())


def test_burda2015_thm1_importance_weighted_bound_rises_to_the_evidence():
    x = data(1000, seed=20)
    q = off(x)
    truth, before, rises = WORLD.log_evidence(x), sgvb_a(WORLD.log_likelihood, x, q, randn(1, 1000, 2, seed=30)), []
    for seed, k in ((31, 2), (32, 5), (33, 50), (34, 2000)):  # fresh samples for each k
        bound = iwae(WORLD.log_likelihood, x, q, randn(k, 1000, 2, seed=seed))
        rise = bound - before
        rises.append(float(rise.mean() / (rise.std() / 1000**0.5)))
        assert float((bound - truth).mean()) < 4 * float((bound - truth).std()) / 1000**0.5
        before = bound
    assert min(rises[:3]) > 3
    gap = truth - before
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 1000**0.5 + 1e-3  # the rest: Var(w) / 2k


def test_burda2015_eq8_is_the_log_of_the_mean_weight_and_one_sample_is_estimator_a():
    x = data()
    q, eps = off(x), randn(6, 5, 2, seed=1)
    log_w = log_weights(WORLD.log_likelihood, x, q, eps)
    close(iwae(WORLD.log_likelihood, x, q, eps), log_w.exp().mean(0).log(), rtol=1e-10)
    close(iwae(WORLD.log_likelihood, x, q, eps[:1]), sgvb_a(WORLD.log_likelihood, x, q, eps[:1]))
    assert bool((iwae(WORLD.log_likelihood, x, q, eps) > sgvb_a(WORLD.log_likelihood, x, q, eps)).all())


def test_burda2015_eq8_survives_weights_that_no_float_can_hold():
    far = lambda x, z: WORLD.log_likelihood(x, z) - 5000  # noqa: E731
    x, eps = data(), randn(6, 5, 2, seed=1)
    close(iwae(far, x, off(x), eps), iwae(WORLD.log_likelihood, x, off(x), eps) - 5000)


def test_importance_weights_are_p_over_q_of_each_sample_and_item():
    """One sample and item at a time: neither a wrong pairing nor a sum over the wrong axis survives."""
    x = data(3)
    q, eps = off(x), randn(4, 3, 2, seed=1)
    z = reparameterise(q, eps)
    log_w, fit = log_weights(WORLD.log_likelihood, x, q, eps), reconstruction(WORLD.log_likelihood, x, q, eps)
    Normal = torch.distributions.Normal
    for i in range(3):
        likelihood = [Normal(WORLD.weight @ z[k, i] + WORLD.bias, 0.6).log_prob(x[i]).sum() for k in range(4)]
        close(fit[i], sum(likelihood) / 4)
        for k in range(4):
            prior = Normal(0.0, 1.0).log_prob(z[k, i]).sum()
            log_q = Normal(q[0][i], (0.5 * q[1][i]).exp()).log_prob(z[k, i]).sum()
            close(log_w[k, i], likelihood[k] + prior - log_q)


def test_images_reach_the_decoder_whole():
    """x (B, C, H, W) and L samples: log p sees N = L * B images with the z that belongs to each."""
    x, q = rand(3, 1, 2, 2, seed=1), (randn(3, 4, seed=2), randn(3, 4, seed=3))
    eps = randn(5, 3, 4, seed=4)
    pixels = lambda x, z: log_normal(x, z.view(-1, 1, 2, 2), 0.0).sum((1, 2, 3))  # noqa: E731
    flat = lambda x, z: log_normal(x, z, 0.0).sum(1)  # noqa: E731
    close(sgvb_b(pixels, x, q, eps), sgvb_b(flat, x.flatten(1), q, eps))


# --- posterior collapse, in closed form


def test_lucas2019_a_latent_pays_only_where_the_data_vary_more_than_the_noise():
    """Around an unused latent (a zero column) the evidence rises in direction u if and only if the variance > std^2."""
    stds = torch.tensor([2.0, 0.5]).double()  # of the data, along the two axes
    x = stds * torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]]).double()
    for std, used in ((1.0, [True, False]), (0.4, [True, True]), (2.1, [False, False])):
        for axis in range(2):
            weight = torch.zeros(2, 1).double()
            nothing = LinearGaussian(weight, torch.zeros(2).double(), std).log_evidence(x).mean()
            weight[axis] = 0.01
            little = LinearGaussian(weight, torch.zeros(2).double(), std).log_evidence(x).mean()
            assert bool(little > nothing) == used[axis]


# --- the bridge to diffusion


def test_ho2020_bound_of_one_step_is_the_elbo_with_a_fixed_encoder():
    """T = 1: L_1 is the KL to the prior, L_0 the reconstruction [Ho 2020, eq. 5]."""
    scale, std = 0.6, 0.8
    x0, eps = randn(5, 2, seed=1) + 1, randn(3, 5, 2, seed=2)
    decode = lambda x, z: log_normal(x, 0.7 * z + 0.2, -1.0).sum(1)  # noqa: E731
    mean = scale * x0
    q = (mean, torch.full_like(mean, 2 * math.log(std)))
    x1 = q_sample(x0.expand(3, 5, 2), eps, (scale, std))
    L_0 = -torch.distributions.Normal(0.7 * x1 + 0.2, math.exp(-0.5)).log_prob(x0).sum(2).mean(0)
    L_1 = kl(mean, std**2, torch.zeros_like(mean), 1.0).sum(1)
    close(sgvb_b(decode, x0, q, eps), -(L_0 + L_1))


def test_ho2020_eq5_is_the_elbo_of_a_hierarchy_with_a_fixed_encoder():
    """For Gaussian data the best reverse steps are Gaussian, and only the prior at x_T misses: for every chain

    log p(x_0, ..., x_T) - log q(x_1, ..., x_T | x_0) = log p(x_0) + log N(x_T; 0, I) - log q(x_T).
    """
    mu, var, T, n = 0.7, 0.3, 8, 6
    schedule = Discrete.from_betas(cosine_betas(T))
    x0 = mu + math.sqrt(var) * randn(n, 1, seed=1)
    scale, std = schedule(T)
    x = x_T = q_sample(x0, randn(n, 1, seed=2), (scale, std))
    log_w = log_normal(x, 0.0, 0.0) - log_normal(x, scale * x0, 2 * std.log())
    for t in range(T, 0, -1):
        now, then = schedule(t), schedule(t - 1)
        total = now[0] ** 2 * var + now[1] ** 2
        guess, uncertain = mu + now[0] * var / total * (x - now[0] * mu), var * now[1] ** 2 / total
        on_x0 = then[0] * transition(now, then)[1] / now[1] ** 2
        q_mean, q_var = posterior(x0, x, now, then)
        p_mean, p_logvar = posterior(guess, x, now, then)[0], (q_var + on_x0**2 * uncertain).log()
        x = q_mean + q_var.sqrt() * randn(n, 1, seed=10 + t)
        log_w += log_normal(x, p_mean, p_logvar)
        if t > 1:  # the last step ends on the data, which q is given
            log_w -= log_normal(x, q_mean, q_var.log())
    mismatch = log_normal(x_T, 0.0, 0.0) - log_normal(x_T, scale * mu, (scale**2 * var + std**2).log())
    close(log_w, log_normal(x0, mu, math.log(var)) + mismatch, rtol=1e-9, atol=1e-9)  # beta = 0.999 amplifies round-off


# --- units, and what is refused


def test_bits_per_dim_of_a_fair_coin_for_each_pixel_is_1():
    nats = -log_bernoulli(torch.ones(1, 9).double(), torch.zeros(1, 9).double()).sum(1)
    close(bits_per_dim(nats, 9), [1.0])


def test_shapes_that_do_not_fit_are_refused():
    x = data()
    mean, logvar = off(x)
    log_px = WORLD.log_likelihood
    for q, eps in (
        ((mean, logvar), randn(5, 2)),  # the axis of samples is missing
        ((mean, logvar), randn(0, 5, 2)),
        ((mean, logvar), randn(3, 5, 1)),  # would broadcast: one noise for both latents
        ((mean, logvar[:, :1]), randn(3, 5, 2)),
        ((mean, logvar[0]), randn(3, 5, 2)),
    ):
        with pytest.raises(ValueError, match=r"eps \(L, B, J\)"):
            sgvb_b(log_px, x, q, eps)
    with pytest.raises(ValueError, match="answered for 5 items, x has 4"):
        sgvb_b(log_px, x[:4], (mean, logvar), randn(3, 5, 2))


@pytest.mark.parametrize("reduce", [lambda each: each, torch.mean, lambda each: each.sum(1).mean()])
def test_a_likelihood_that_is_averaged_or_not_summed_is_refused(reduce):
    x = data()
    wrong = lambda x, z: reduce(log_normal(x, z @ WORLD.weight.T, 0.0))  # noqa: E731
    for estimator in (sgvb_a, sgvb_b, iwae):
        with pytest.raises(ValueError, match="sum it over the dimensions of x"):
            estimator(wrong, x, off(x), randn(3, 5, 2))


# --- on the bench


def deaf(mean: float, std: float) -> BernoulliVAE:
    """A VAE whose decoder ignores z, and whose encoder ignores x: q = N(mean, std^2) in its one latent."""
    vae = BernoulliVAE(dims=3, latents=1, hidden=4).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.encoder[2].bias.copy_(torch.tensor([mean, 2 * math.log(std)]))
    return vae


def test_kingma2013_sec23_variances_of_both_estimators_where_they_are_closed_forms():
    """With nothing to reconstruct, B and its gradient are constants; A's are those of log p(z) - log q(z)."""
    m, s = 0.8, 0.6
    x = torch.ones(5000, 3, dtype=torch.float64)
    value, gradient = vaes.variances(deaf(m, s), sgvb_b, x, draws=8)
    close(value, torch.zeros(5000), atol=1e-28)
    close(gradient, torch.zeros(5000), atol=1e-28)
    value, gradient = vaes.variances(deaf(m, s), sgvb_a, x, draws=8)
    # value: -m s eps + (1 - s^2) eps^2 / 2; by m: -(m + s eps); by log-variance: -s eps (m + s eps) / 2.
    for found, true in (
        (value, m**2 * s**2 + (1 - s**2) ** 2 / 2),
        (gradient, s**2 + s**2 * (m**2 + 2 * s**2) / 4),
    ):
        assert abs(float(found.mean()) - true) < 4 * float(found.std()) / 5000**0.5


def test_bernoulli_vae_is_a_normalised_model():
    """log p(x) by quadrature over the latent sums to 1 over all images; L_k stays below it, and comes near."""
    torch.manual_seed(0)
    vae = BernoulliVAE(dims=3, latents=1, hidden=4).double()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    prior = log_normal(z, 0.0, math.log(1.0)).exp()[:, 0] * (z[1] - z[0])
    each = torch.stack([vae.log_likelihood(image.expand(2001, 3), z).exp() @ prior for image in images])
    close(each.sum(), 1.0, rtol=1e-10)
    bound = vaes.evaluate(vae, iwae, images.view(8, 1, 1, 3), samples=20_000)
    close(bound.exp(), each, rtol=0.02)
    p = vae.decode(z[:5])
    close(vae.log_likelihood(images[5:6].expand(5, 3), z[:5]).exp(), (p[:, 0] * (1 - p[:, 1]) * p[:, 2]).detach())


def test_training_raises_the_bound_reproducibly():
    data = (rand(64, 6, seed=1) < torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1, 0.1])).float()
    logs, bounds = [], []
    for _ in range(2):
        torch.manual_seed(0)
        vae = BernoulliVAE(6, 2, hidden=8)
        before = vaes.evaluate(vae, sgvb_b, data, samples=50).mean()
        logs.append(vaes.train(vae, sgvb_b, data, data, steps=300))
        bounds.append(vaes.evaluate(vae, sgvb_b, data, samples=50).mean())
    assert logs[0] == logs[1] and bounds[0] == bounds[1]
    assert [entry.step for entry in logs[0]] == [50, 100, 150, 200, 250, 300]
    rate = data.mean(0)  # what six independent pixels reach
    alone = torch.distributions.Bernoulli(rate).log_prob(data).sum(1).mean()
    assert before < alone - 1 and abs(float(bounds[0] - alone)) < 0.2
    fit, cost = vaes.terms(vae, data, samples=50)
    close(fit - cost, bounds[0], rtol=1e-5)


def test_training_stops_at_the_first_bound_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="at step 1: lower lr"):
        vaes.train(
            BernoulliVAE(6, 2), lambda *given: sgvb_b(*given) * math.inf, torch.ones(8, 6), torch.ones(8, 6), steps=3
        )


def test_log_normal_refuses_shapes_that_would_spread_x():
    """Images (N, 1, H, W) against means (N, H, W) would compare every image with every mean."""
    with pytest.raises(ValueError, match=r"mean is \(3, 2, 2\)"):
        log_normal(randn(3, 1, 2, 2), randn(3, 2, 2), 0.0)
    with pytest.raises(ValueError, match="convert it to floats"):
        log_normal(torch.tensor([10]), torch.tensor([10.6]), 0.0)
    close(log_normal(torch.tensor(0.5).double(), 0.0, 0.0), -0.5 * (math.log(2 * math.pi) + 0.25))


def test_the_parts_of_a_bound_have_one_shape():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="logvar is"):
        kl_to_prior((x, x[:1]))
    with pytest.raises(ValueError, match="logits is"):
        log_bernoulli(x, x[:1])


@pytest.mark.parametrize("name", ["dims", "latents", "hidden"])
def test_the_sizes_of_a_vae_are_positive(name):
    legal = {"dims": 1, "latents": 1, "hidden": 1}
    net = BernoulliVAE(**legal)
    net.inputs(torch.ones(2), samples=1)  # (B,) are items of one number
    with pytest.raises(ValueError, match="samples = 0"):
        net.inputs(torch.ones(2, 1), samples=0)
    with pytest.raises(ValueError, match=f"{name} = 0"):
        BernoulliVAE(**legal | {name: 0})


def test_items_and_latents_of_another_size_are_refused():
    net, world = BernoulliVAE(3, 2, 4), LinearGaussian(torch.ones(3, 2).double(), torch.zeros(3).double(), 1.0)
    x, z = torch.ones(5, 3), torch.ones(5, 2)
    for call, shape in (
        (lambda: net.posterior(x[:, :2]), "3"),
        (lambda: net.log_likelihood(x, x), "2"),
        (lambda: net.decode(x), "2"),
        (lambda: world.log_likelihood(x.double(), x.double()), "2"),
        (lambda: world.posterior_mean(z.double()), "3"),
    ):
        with pytest.raises(ValueError, match=rf"x is to be \(B, {shape}\)"):
            call()
    with pytest.raises(ValueError, match="logvar is"):
        world.elbo(x.double(), (z.double(), z[:1].double()))
    with pytest.raises(ValueError, match="logvar is"):
        log_normal(z, 0.0, x)
    for mean, logvar in ((math.nan, 0.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match="a coefficient is"):
            log_normal(z, mean, logvar)
