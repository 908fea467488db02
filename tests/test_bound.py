"""The variational bound: Ho 2020's terms against closed forms, brute force and each other, in float64."""

import itertools
import math

import pytest
import torch
from helpers import COSINE, LINEAR, close, gaussian_eps, rand, randn

from ddpm_path.exact import gaussian_reverse
from ddpm_path.gaussian import (
    discretised_log_prob,
    fixed_large,
    fixed_small,
    kl,
    posterior,
    q_sample,
)
from ddpm_path.losses import (
    EPS,
    X0,
    V,
    bound_loss,
    bound_term,
    bound_terms,
    chain_mean,
    fixed_variance,
    prior_term,
    simple,
    with_decoder,
)
from ddpm_path.samplers import noise_source
from ddpm_path.schedule import VP, Discrete, cosine_betas, linear_betas, uniform_times
from ddpm_path.vae import log_normal

GRID = torch.arange(256, dtype=torch.float64) / 127.5 - 1  # the 256 levels
LN2 = math.log(2)


def density(x0, mean, variance):
    """A decoder for data that are no pixels: the Gaussian's own density."""
    return log_normal(x0, mean, torch.as_tensor(variance).log())


def corners(mu, var):
    """Four pairs (x0, eps) that have the mean and covariance of data N(mu, var) and their noise.

    A term with a fixed variance is quadratic in the pair, so its mean over the four is its expectation, exactly.
    """
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    return mu + math.sqrt(var) * signs[:, :1], signs[:, 1:]


def expected_bound(reverse, schedule, mu, var, times):
    """The bound's expectation over Gaussian data, in nats, and its terms."""
    x0, eps = corners(mu, var)
    terms = []
    for t, s in itertools.pairwise(times):
        each = [torch.full((4,), float(time), dtype=torch.float64) for time in (t, s)]
        terms.append(bound_term(reverse, schedule, x0, *each, eps, density).mean() * LN2)
    return sum(terms) + prior_term(schedule, x0, times[0]).mean() * LN2, torch.stack(terms)


# --- the decoder


@pytest.mark.parametrize("std", [1e-4, 0.0074, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.301, 0.0, 0.9999, 40.0])
def test_ho2020_eq13_the_256_bins_sum_to_1(mean, std):
    means = torch.full((256,), mean, dtype=torch.float64)
    # Where a bin is 1e-3 deviations wide, two logarithms agree in their first three digits.
    close(discretised_log_prob(GRID, means, std**2).logsumexp(0), 0.0, atol=1e-11)


def test_ho2020_eq13_is_the_integral_over_the_bin():
    """Against a fine trapezoidal rule over the density, edges to infinity included."""
    mean, std, cells = 0.13, 0.4, 200_001
    for k in (0, 1, 100, 254, 255):
        low = float(GRID[k]) - 1 / 255 if k > 0 else mean - 12 * std
        high = float(GRID[k]) + 1 / 255 if k < 255 else mean + 12 * std
        x = torch.linspace(low, high, cells, dtype=torch.float64)
        mass = torch.trapezoid(torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)), x)
        got = discretised_log_prob(GRID[k : k + 1], torch.tensor([mean]).double(), std**2)
        close(got, mass.log()[None], rtol=1e-8)  # the rule's own error at 6e-6 std a cell


def test_ho2020_eq13_far_tails_are_exact_not_floored():
    """1,000 and 20,000 deviations off: log(Phi(b) - Phi(a)) by Mills' series, where any difference is 0."""
    for std, k in ((1e-3, 200), (1e-4, 255), (1e-4, 0), (1e-4, 254)):
        mean = -1.0 if k > 127 else 1.0
        edge = (abs(float(GRID[k]) - mean) - 1 / 255) / std  # the nearer one; beyond the farther there is nothing
        mills = -0.5 * edge**2 - math.log(edge * math.sqrt(2 * math.pi)) - 1 / edge**2
        got = discretised_log_prob(GRID[k : k + 1], torch.tensor([mean]).double(), std**2)
        close(got, torch.tensor([mills], dtype=torch.float64), rtol=1e-9)


def test_ho2020_eq13_is_symmetric_and_keeps_its_digits_in_float32():
    mean, var = rand(256, seed=1) * 2 - 1, rand(256, seed=2) * 0.1 + 1e-5
    got = discretised_log_prob(GRID, mean, var)
    close(
        discretised_log_prob(-GRID, -mean, var), got, rtol=1e-9
    )  # -1 + k / 127.5 rounds differently from 1 - k / 127.5
    single = discretised_log_prob(GRID.float(), mean.float(), var.float())
    assert single.dtype == torch.float32
    # The inputs' rounding, 6e-8, moves an edge by up to 2e-5 of the smallest deviation, 300 deviations out.
    torch.testing.assert_close(single.double(), got, rtol=1e-4, atol=1e-4)


def test_ho2020_eq13_gradients_are_finite_and_right_everywhere():
    mean = (rand(256, seed=1) * 4 - 2).requires_grad_()
    variance = (rand(256, seed=2) * 0.1 + 1e-3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: discretised_log_prob(GRID, m, v), (mean, variance))
    far = torch.full((256,), 5.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discretised_log_prob(GRID, far, 1e-8).sum(), far)
    assert bool(gradient.isfinite().all())


def test_data_off_the_grid_are_refused_with_the_remedy():
    mean = torch.zeros(3).double()
    for wrong in (
        [0.0, 0.5, 0.25],
        [-1.2, 0.2, 1.0],
        [-1.0, math.nan, 1.0],
        [-1 - 2 / 255, 1.0, -1.0],
        [1 + 2 / 255, 1.0, -1.0],
    ):
        with pytest.raises(ValueError, match=r"256 levels.*round images"):
            discretised_log_prob(torch.tensor(wrong).double(), mean, 0.1)
    remedy = torch.tensor([0.0, 0.5, -1.0]).add(1).mul(127.5).round().div(127.5) - 1
    assert bool(discretised_log_prob(remedy, mean.float(), 0.1).isfinite().all())
    for wrong in (0.0, torch.tensor([0.1, -0.1, 0.1])):
        with pytest.raises(ValueError, match=r"variance must be positive.*with_decoder"):
            discretised_log_prob(GRID[:3], mean, wrong)


# --- the terms


@pytest.mark.parametrize(("mu", "var"), [(0.0, 1.0), (0.7, 0.25), (-1.0, 2.0)])
@pytest.mark.parametrize("times", [list(range(1000, -1, -1)), uniform_times(1000, 37)], ids=["all", "37"])
def test_ho2020_eq5_with_the_best_mean_and_variance_is_the_entropy_and_the_last_latents_kl(mu, var, times):
    """The bound is tight but for the prior: entropy of the data + KL(q(x_T) || N(0, I)), to 1e-10 nats."""
    bound, _ = expected_bound(gaussian_reverse(mu, var, LINEAR), LINEAR, mu, var, times)
    scale, std = LINEAR(1000)
    v = scale**2 * var + std**2
    entropy = 0.5 * math.log(2 * math.pi * math.e * var)
    close(bound, entropy + 0.5 * (v + (scale * mu) ** 2 - 1 - v.log()), atol=1e-10, rtol=0)
    if (mu, var) == (0.0, 1.0):
        assert float(bound) == pytest.approx(1.418939, abs=1e-6)


@pytest.mark.parametrize(("variance", "value"), [(fixed_large, 1.5326), (fixed_small, 1.9975)])
def test_ho2020_sec32_the_two_fixed_variances_on_standard_normal_data(variance, value):
    """Both with the code's variance at the last step. Numbers of an independent computation, to its four digits."""
    reverse = fixed_variance(gaussian_eps(0.0, 1.0, LINEAR), LINEAR, variance)
    bound, terms = expected_bound(reverse, LINEAR, 0.0, 1.0, list(range(1000, -1, -1)))
    assert float(bound) == pytest.approx(value, abs=6e-5)
    # Away from the substituted last step beta_t is the best there is, for any of the steps.
    best = expected_bound(gaussian_reverse(0.0, 1.0, LINEAR), LINEAR, 0.0, 1.0, list(range(1000, -1, -1)))[1]
    if variance is fixed_large:
        close(terms[:-1], best[:-1], atol=1e-11)
    assert bool((terms > best - 1e-11).all())


@pytest.mark.parametrize("t", [2, 3, 100, 999, 1000])
@pytest.mark.parametrize("variance", [fixed_small, fixed_large])
def test_ho2020_eq12_weighs_the_squared_error_of_eps(t, variance):
    """KL = beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps_theta|^2, and what the variances cost."""
    beta = float(linear_betas()[t - 1])
    bar, before = (float(LINEAR.alpha_bar[k]) for k in (t, t - 1))
    small = beta * (1 - before) / (1 - bar)
    sigma2 = {fixed_small: small, fixed_large: beta}[variance]
    weight = beta**2 / (2 * sigma2 * (1 - beta) * (1 - bar))
    if t in (2, 1000):
        known = {(2, fixed_small): 0.5997, (2, fixed_large): 0.2727}.get((t, variance), 0.01020)
        assert weight == pytest.approx(known, abs=6e-5)
    x0, eps, answer = 0.7 + randn(5, 3, seed=1), randn(5, 3, seed=2), randn(5, 3, seed=3)
    reverse = fixed_variance(lambda x, t: answer, LINEAR, variance)
    each = torch.full((5,), float(t)).double()
    got = bound_term(reverse, LINEAR, x0, each, each - 1, eps)
    spread = 0.5 * (small / sigma2 - 1 - math.log(small / sigma2))
    close(got, (weight * (answer - eps).square().mean(1) + spread) / LN2, rtol=1e-8)  # 1 - alpha_bar cancels


def test_ho2020_eq5_terms_are_kls_and_the_decoder_each_example_at_its_own_step():
    x0 = GRID[torch.randint(256, (4, 3, 2, 2), generator=torch.Generator().manual_seed(0))]
    eps, answer = randn(4, 3, 2, 2, seed=1), randn(4, 3, 2, 2, seed=2)
    t, s = torch.tensor([1, 500, 300, 2]).double(), torch.tensor([0, 499, 0, 1]).double()
    variances = rand(4, 3, 2, 2, seed=3) + 0.1  # learned, one for each pixel
    got = bound_term(lambda x, t, s: (answer, variances), LINEAR, x0, t, s, eps)
    for i in range(4):
        now, then = LINEAR(t[i]), LINEAR(s[i])
        if s[i] == 0:
            nats = -discretised_log_prob(x0[i], answer[i], variances[i])
        else:
            mean, variance = posterior(x0[i], q_sample(x0[i], eps[i], now), now, then)
            nats = kl(mean, variance, answer[i], variances[i])
        close(got[i], nats.sum() / (12 * LN2))


def test_ho2020_code_the_last_variance_is_the_posteriors_one_step_before():
    """diffusion_utils_2.py: index 0 of the clipped posterior log-variance is index 1, 5.4532e-5, for both choices."""
    for variance in (fixed_small, fixed_large):
        _, got = fixed_variance(lambda x, t: x, LINEAR, variance)(
            randn(2, 3), torch.tensor([1, 7]), torch.tensor([0, 6])
        )
        close(got[0], 5.4532e-5, rtol=2e-5)
        close(got[1], variance(LINEAR(7), LINEAR(6)))
    short = with_decoder(fixed_large, LINEAR, [1000, 500, 20, 0])
    close(short(LINEAR(20), LINEAR(0)), fixed_small(LINEAR(500), LINEAR(20)))
    for chain in ([1000, 0], [1000, 500, 20]):
        with pytest.raises(ValueError, match="lends its decoder no variance"):
            with_decoder(fixed_small, LINEAR, chain)


def test_ho2020_prior_term_values():
    """2.91e-5 bits/dim for pixels at the ends of the range, 7.3e-6 for those at half: sec. 4's 'about 1e-5'."""
    ends = torch.tensor([[1.0, -1.0], [0.5, -0.5]]).double()
    got = prior_term(LINEAR, ends)
    assert got[0] == pytest.approx(2.91e-5, abs=1e-7) and got[1] == pytest.approx(7.3e-6, abs=1e-7)
    for start in (1.0, 0.3):
        scale, std = VP()(start)
        for i in range(2):
            pair = [torch.distributions.Normal(scale * ends[i], std.expand(2)), torch.distributions.Normal(0.0, 1.0)]
            true = torch.distributions.kl_divergence(*pair).mean() / LN2
            close(prior_term(VP(), ends, start)[i], true, rtol=1e-6, atol=1e-12)
    close(prior_term(VP(), ends), prior_term(VP(), ends, 1.0))


def test_ho2020_eq5_uniform_t_times_T_and_the_prior_are_the_full_sum():
    schedule = Discrete.from_betas(linear_betas(30, 0.1 / 30, 20 / 30))
    x0 = GRID[torch.randint(256, (1, 2, 3, 3), generator=torch.Generator().manual_seed(0))]
    reverse = fixed_variance(gaussian_eps(0.2, 0.5, schedule), schedule, fixed_large)
    terms = torch.stack(list(bound_terms(reverse, schedule, x0, range(30, -1, -1), torch.Generator().manual_seed(1))))
    assert terms.shape == (30, 1)
    # The same noise for each t, all t once: the mean of the loss over t uniform.
    draw = noise_source(1, (2, 3, 3), torch.Generator().manual_seed(1), torch.float64)
    eps = torch.cat([draw() for _ in range(30)])
    net = gaussian_eps(0.2, 0.5, schedule)
    t = torch.arange(30, 0, -1).double()
    loss = bound_loss(fixed_large)(net, EPS, schedule, x0.expand(30, -1, -1, -1), t, eps)
    close(loss.mean() + prior_term(schedule, x0)[0], terms.sum() + prior_term(schedule, x0)[0])


def test_the_bound_along_times_is_that_of_the_respaced_chain():
    """Nichol 2021: a chain of the kept levels has betas 1 - bar / bar' of its own; its bound is ours along `times`."""
    times = uniform_times(1000, 20)
    short = Discrete(LINEAR.alpha_bar[times[::-1]])
    x0 = GRID[torch.randint(256, (3, 1, 2, 2), generator=torch.Generator().manual_seed(0))]
    for variance in (fixed_small, fixed_large):
        long_way = fixed_variance(gaussian_eps(0.2, 0.5, LINEAR), LINEAR, variance, times)
        own = fixed_variance(gaussian_eps(0.2, 0.5, short), short, variance)
        runs = [
            torch.stack(list(bound_terms(reverse, schedule, x0, grid, torch.Generator().manual_seed(1))))
            for reverse, schedule, grid in ((long_way, LINEAR, times), (own, short, range(20, -1, -1)))
        ]
        close(runs[0], runs[1], rtol=1e-9)


def test_bad_steps_and_times_are_told_at_the_call():
    reverse, x0 = fixed_variance(lambda x, t: x, LINEAR, fixed_small), GRID[:4].view(1, 1, 2, 2)
    for times in ([1000, 500], [0, 1000], [1000, 1000, 0], [0], []):
        with pytest.raises(ValueError, match="times fall strictly from a start to data"):
            bound_terms(reverse, LINEAR, x0, times)
    assert len(list(bound_terms(reverse, LINEAR, x0, [1000, 0]))) == 1  # the shortest
    ones = torch.ones(1).double()
    with pytest.raises(ValueError, match="an earlier s"):
        bound_term(reverse, LINEAR, x0, ones, ones, x0)
    with pytest.raises(ValueError, match="256 levels"):
        list(bound_terms(reverse, LINEAR, x0 + 0.3, [1000, 500, 0]))
    with pytest.raises(ValueError, match="a network answered"):
        bound_term(fixed_variance(lambda x, t: x[:, :, :1], LINEAR, fixed_small), LINEAR, x0, ones, ones - 1, x0)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"{steps} steps on a chain of 1000"):
            bound_terms(reverse, LINEAR, x0, uniform_times(1000, steps))


# --- the loss L


@pytest.mark.parametrize("prediction", [EPS, X0, V, chain_mean(LINEAR)], ids=["eps", "x0", "v", "mean"])
def test_ho2020_table2_the_loss_is_T_times_the_term_whatever_is_predicted(prediction):
    x0 = GRID[torch.randint(256, (4, 1, 2, 2), generator=torch.Generator().manual_seed(0))]
    eps, t = randn(4, 1, 2, 2, seed=1), torch.tensor([1, 2, 400, 1000]).double()
    world = gaussian_eps(0.3, 0.4, LINEAR)

    def net(x, t):
        """The answer, in this prediction, of the best denoiser of another world."""
        noise, now = world(x, t), LINEAR(t)
        return prediction.target((x - now[1].view(-1, 1, 1, 1) * noise) / now[0].view(-1, 1, 1, 1), noise, now)

    got = bound_loss(fixed_small)(net, prediction, LINEAR, x0, t, eps)
    reverse = fixed_variance(world, LINEAR, fixed_small)
    close(got, 1000 * bound_term(reverse, LINEAR, x0, t, t - 1, eps), rtol=1e-6)  # the mean's weight of x_0 is 1e-4


def test_ho2020_table2_l_and_l_simple_agree_up_to_eq12s_weight_in_gradient():
    """For one t > 1, d L / d output is T weight / ln 2 times that of L_simple: a constant falls out."""
    x0, eps, t = randn(3, 4, seed=1), randn(3, 4, seed=2), torch.tensor([2, 400, 1000]).double()
    output = randn(3, 4, seed=3).requires_grad_()
    gradients = [
        torch.autograd.grad(loss(lambda x, t: output, EPS, LINEAR, x0, t, eps).sum(), output)[0]
        for loss in (bound_loss(fixed_large), simple)
    ]
    beta, bar = linear_betas()[t.long() - 1], LINEAR.alpha_bar[t.long()]
    weight = beta / (2 * (1 - beta) * (1 - bar))
    close(gradients[0], (1000 * weight / LN2)[:, None] * gradients[1], rtol=1e-8)


def test_the_losses_gradient_is_finite_where_a_batch_mixes_both_ends():
    x0 = GRID[torch.randint(256, (3, 4), generator=torch.Generator().manual_seed(0))]
    output = (100 * randn(3, 4, seed=1)).requires_grad_()
    t = torch.tensor([1, 2, 1000]).double()
    loss = bound_loss(fixed_small)(lambda x, t: output, EPS, COSINE, x0, t, randn(3, 4, seed=2))
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    assert bool(gradient.isfinite().all()) and bool((gradient != 0).all())


def test_ho2020_eq8_the_mean_reads_back_as_eps_on_the_whole_chain():
    for schedule in (LINEAR, Discrete.from_betas(cosine_betas(50))):
        prediction = chain_mean(schedule)
        t = torch.arange(1, schedule.T + 1).double()
        x0, eps = randn(schedule.T, 2, seed=1), randn(schedule.T, 2, seed=2)
        now = schedule(t)
        target = prediction.target(x0, eps, now)
        close(target, posterior(x0, q_sample(x0, eps, now), now, schedule(t - 1))[0])
        # Divided by x_0's weight in the mean, 1e-4 at T, and by the noise at t = 1, 0.01.
        close(prediction.eps(q_sample(x0, eps, now), target, now), eps, atol=1e-9)


def test_terms_carry_no_gradients():
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    reverse = fixed_variance(lambda x, t: weight * x, LINEAR, fixed_large)
    assert not any(term.requires_grad for term in bound_terms(reverse, LINEAR, -torch.ones(2, 3).double(), [9, 4, 0]))
