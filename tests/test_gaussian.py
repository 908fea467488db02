import math

import pytest
import torch
from helpers import COSINE, LEVELS, LINEAR, close, rand, randn

from ddpm_path.gaussian import (
    bits_per_dim,
    check_alike,
    check_fits,
    check_input,
    check_range,
    ddim_step,
    discretised_log_prob,
    eps_from_v,
    eps_from_x0,
    expand,
    fixed_large,
    fixed_small,
    kl,
    langevin_step,
    learned_variance,
    posterior,
    q_sample,
    score_from_eps,
    transition,
    v_from_x0_eps,
    x0_from_eps,
    x0_from_v,
)
from ddpm_path.schedule import VE, VP, SubVP, linear_betas

STEPS = [(1, 0), (2, 1), (500, 499), (1000, 999), (1000, 500), (37, 0), (600, 1)]
BETAS = [0.0, *linear_betas().tolist()]  # BETAS[t] is the paper's beta_t


def bar(t):
    return math.prod(1 - b for b in BETAS[1 : t + 1])


# --- broadcasting


def test_expand_puts_one_coefficient_on_each_item():
    x = torch.ones(3, 3, 3, 3)  # all sides equal: a coefficient on the wrong axis cannot hide
    got = expand(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), x) * x
    assert [float(item.unique()) for item in got] == [1, 2, 3]


def test_expand_keeps_every_digit_of_a_plain_float():
    assert float(expand(0.1, torch.ones(2, 3, dtype=torch.float64))) == 0.1  # and not float32's 0.10000000149


@pytest.mark.parametrize("c", [2.5, torch.tensor(2.5, dtype=torch.float64)])
def test_expand_takes_one_number_for_all_and_keeps_x_dtype(c):
    x = torch.ones(2, 3)
    assert (expand(c, x) * x).dtype == torch.float32
    assert bool((expand(c, x) * x == 2.5).all())
    assert expand(torch.ones(2, dtype=torch.float64), x).dtype == torch.float32


# --- the forward chain


def test_ho2020_eq4_is_T_one_step_noisings():
    """x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) z: the mean's factor and the variance, step by step."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    factor, variance = 1.0, 0.0
    for t in range(1, 1001):
        factor, variance = factor * math.sqrt(1 - BETAS[t]), variance * (1 - BETAS[t]) + BETAS[t]
        if t in (1, 2, 500, 1000):
            close(q_sample(one, zero, LINEAR(t)), factor * one, rtol=1e-11)
            close(q_sample(zero, one, LINEAR(t)), math.sqrt(variance) * one, rtol=1e-11)


def test_ho2020_eq4_monte_carlo_of_the_chain():
    n, x0, T = 40_000, 0.7, 60
    x = torch.full((n,), x0, dtype=torch.float64)
    for t in range(1, T + 1):
        x = math.sqrt(1 - BETAS[t]) * x + math.sqrt(BETAS[t]) * randn(n, seed=t)
    direct = q_sample(torch.full((n, 1), x0, dtype=torch.float64), randn(n, 1, seed=999), LINEAR(T))[:, 0]
    std = math.sqrt(1 - bar(T))
    for draws in (x, direct):  # standard errors: std / sqrt(n), and std^2 sqrt(2 / n)
        assert abs(float(draws.mean()) - math.sqrt(bar(T)) * x0) < 4 * std / math.sqrt(n)
        assert abs(float(draws.var()) - std**2) < 4 * std**2 * math.sqrt(2 / n)


def test_q_sample_uses_each_items_own_level():
    x0, eps, t = randn(3, 3, 3, seed=1), randn(3, 3, 3, seed=2), torch.tensor([0, 10, 1000])
    got = q_sample(x0, eps, LINEAR(t))
    for i, time in enumerate(t.tolist()):
        close(got[i], math.sqrt(bar(time)) * x0[i] + math.sqrt(1 - bar(time)) * eps[i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_ho2020_eq2_transition_of_neighbours_is_sqrt_1_minus_beta_and_beta(t):
    factor, variance = transition(LINEAR(t), LINEAR(t - 1))
    close(factor, math.sqrt(1 - BETAS[t]))
    close(variance, BETAS[t], rtol=1e-10)  # 1 - alpha_bar loses 1e-16 / beta


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE()], ids=["vp", "subvp", "ve"])
def test_transitions_compose(schedule):
    """From r to t in one leap or by way of s: factors multiply, variances add after rescaling."""
    r, s, t = schedule(0.1), schedule(0.35), schedule(0.8)
    (f1, v1), (f2, v2), (f, v) = transition(s, r), transition(t, s), transition(t, r)
    close(f, f1 * f2)
    close(v, v2 + f2**2 * v1)


# --- the posterior


def bayes(x0, x, now, then):
    """q(x_s | x_t, x_0) by adding precisions: the prior q(x_s | x_0) and the likelihood q(x_t | x_s)."""
    (scale_t, std_t), (scale_s, std_s) = now, then
    factor = scale_t / scale_s
    noise = std_t**2 - factor**2 * std_s**2
    precision = 1 / std_s**2 + factor**2 / noise
    return (scale_s * x0 / std_s**2 + factor * x / noise) / precision, 1 / precision


@pytest.mark.parametrize(
    ("now", "then"),
    [(LINEAR(t), LINEAR(s)) for t, s in STEPS if s > 0]
    + [(COSINE(1000), COSINE(999)), (VE()(0.8), VE()(0.3)), (SubVP()(0.8), SubVP()(0.3)), (VP()(0.01), VP()(0.001))],
)
def test_ho2020_eq6_eq7_posterior_is_bayes_rule(now, then):
    x0, x = randn(5, 2, seed=1) + 1, randn(5, 2, seed=2)
    mean, variance = posterior(x0, x, now, then)
    true_mean, true_variance = bayes(x0, x, now, then)
    close(mean, true_mean, rtol=1e-9, atol=1e-12)  # beta is a difference of numbers near 1
    close(variance, true_variance, rtol=1e-9)


def test_ho2020_eq7_posterior_is_bayes_rule_on_a_grid():
    """No formula for Gaussians at all: multiply two densities on a fine grid and take moments."""
    x0, x, t = torch.tensor([[0.8]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64), 40
    grid = torch.linspace(-4, 4, 400_001, dtype=torch.float64)
    before = -((grid - math.sqrt(bar(t - 1)) * x0) ** 2) / (2 * (1 - bar(t - 1)))
    step = -((x - math.sqrt(1 - BETAS[t]) * grid) ** 2) / (2 * BETAS[t])
    weight = (before + step).softmax(1)
    true_mean = (weight * grid).sum()
    mean, variance = posterior(x0, x, LINEAR(t), LINEAR(t - 1))
    close(mean, true_mean.view(1, 1), rtol=1e-10)
    close(variance, (weight * (grid - true_mean) ** 2).sum(), rtol=1e-10)


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_ho2020_eq7_in_the_papers_own_letters(t):
    x0, x = randn(4, 3, seed=1) + 1, randn(4, 3, seed=2)
    beta, alpha, before, now = BETAS[t], 1 - BETAS[t], bar(t - 1), bar(t)
    true = math.sqrt(before) * beta / (1 - now) * x0 + math.sqrt(alpha) * (1 - before) / (1 - now) * x
    mean, variance = posterior(x0, x, LINEAR(t), LINEAR(t - 1))
    close(mean, true, rtol=1e-9, atol=1e-12)
    close(variance, (1 - before) / (1 - now) * beta, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_ho2020_eq11_eq15_mean_from_eps_is_the_posterior_mean_of_the_implied_x0(t):
    x, eps = randn(4, 3, seed=1), randn(4, 3, seed=2)
    true = (x - BETAS[t] / math.sqrt(1 - bar(t)) * eps) / math.sqrt(1 - BETAS[t])
    close(posterior(x0_from_eps(x, eps, LINEAR(t)), x, LINEAR(t), LINEAR(t - 1))[0], true, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("t", [1, 37, 1000])
def test_posterior_at_0_is_the_data_without_variance(t):
    x0, x = randn(4, 3, seed=1), randn(4, 3, seed=2)
    mean, variance = posterior(x0, x, LINEAR(t), LINEAR(0))
    close(mean, x0)
    assert float(variance) == 0 and float(fixed_small(LINEAR(t), LINEAR(0))) == 0


def test_posterior_takes_a_level_for_each_item():
    x0, x = randn(2, 2, 2, seed=1), randn(2, 2, 2, seed=2)
    t, s = torch.tensor([5, 900]), torch.tensor([4, 0])
    mean, variance = posterior(x0, x, LINEAR(t), LINEAR(s))
    for i in range(2):
        one_mean, one_variance = posterior(x0[i : i + 1], x[i : i + 1], LINEAR(t[i]), LINEAR(s[i]))
        close(mean[i : i + 1], one_mean)
        close(variance[i], one_variance)


def test_ho2020_fixed_small_at_t_2_of_the_linear_schedule():
    assert abs(float(fixed_small(LINEAR(2), LINEAR(1))) - 5.4532e-5) < 5e-10


@pytest.mark.parametrize(("t", "s"), STEPS)
def test_ho2020_fixed_large_is_beta_and_fixed_small_is_beta_tilde(t, s):
    large, small = fixed_large(LINEAR(t), LINEAR(s)), fixed_small(LINEAR(t), LINEAR(s))
    beta = 1 - math.prod(1 - b for b in BETAS[s + 1 : t + 1])
    close(large, beta, rtol=1e-10)
    close(small, (1 - bar(s)) / (1 - bar(t)) * beta, rtol=1e-10)  # 0 at s = 0
    assert small < large


def test_fixed_variances_take_a_level_for_each_item_and_plain_floats():
    t, s = torch.tensor([1, 2, 1000]), torch.tensor([0, 1, 999])
    floats = [tuple(map(float, LINEAR(i))) for i in (*t.tolist(), *s.tolist())]
    for variance in (fixed_small, fixed_large):
        each = variance(LINEAR(t), LINEAR(s))
        close(each, torch.tensor([variance(floats[i], floats[i + 3]) for i in range(3)], dtype=torch.float64))
        assert bool((each[1:] > 0).all())


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_ho2020_sec32_fixed_variances_are_right_for_two_kinds_of_data(t):
    """Var(x_{t-1} | x_t) = tilde beta + (weight of x_0)^2 Var(x_0 | x_t): beta for N(0, 1), tilde beta for a point."""
    now, then = LINEAR(t), LINEAR(t - 1)
    on_x0 = posterior(torch.ones(1, 1).double(), torch.zeros(1, 1).double(), now, then)[0]
    uncertain = 1 - bar(t)  # Var(x_0 | x_t) for standard normal data
    close(fixed_small(now, then) + on_x0[0, 0] ** 2 * uncertain, fixed_large(now, then), rtol=1e-9)


# --- conversions


@pytest.mark.parametrize("now", LEVELS)
def test_eps_x0_and_v_agree_with_one_another(now):
    x0, eps = randn(4, 3, seed=1) + 0.5, randn(4, 3, seed=2)
    x, v = q_sample(x0, eps, now), v_from_x0_eps(x0, eps, now)
    # Dividing by a small scale or std magnifies round-off: at most 1 / 0.006 and 1 / 0.01 here.
    close(x0_from_eps(x, eps, now), x0, rtol=1e-12, atol=1e-12)
    close(eps_from_x0(x, x0, now), eps, rtol=1e-12, atol=1e-12)
    close(x0_from_v(x, v, now), x0, rtol=1e-12, atol=1e-12)
    close(eps_from_v(x, v, now), eps, rtol=1e-12, atol=1e-12)


def test_conversions_take_a_level_for_each_item():
    x0, eps, now = randn(3, 3, 3, seed=1), randn(3, 3, 3, seed=2), LINEAR(torch.tensor([1, 500, 1000]))
    x, v = q_sample(x0, eps, now), v_from_x0_eps(x0, eps, now)
    for got, true in [
        (x0_from_eps(x, eps, now), x0),
        (eps_from_x0(x, x0, now), eps),
        (x0_from_v(x, v, now), x0),
        (eps_from_v(x, v, now), eps),
    ]:
        close(got, true, rtol=1e-12, atol=1e-12)


def test_salimans2022_sec4_v_is_the_velocity_along_the_circle():
    """With scale = cos(phi) and std = sin(phi), v = dx / dphi."""
    x0, eps = randn(4, 3, seed=1), randn(4, 3, seed=2)
    phi = torch.tensor(0.7, dtype=torch.float64)
    velocity = torch.autograd.functional.jacobian(lambda p: p.cos() * x0 + p.sin() * eps, phi)
    close(v_from_x0_eps(x0, eps, (phi.cos(), phi.sin())), velocity)


@pytest.mark.parametrize("now", LEVELS)
def test_score_of_the_forward_kernel_is_minus_eps_over_std(now):
    x0, eps = randn(4, 3, seed=1), randn(4, 3, seed=2)
    x = q_sample(x0, eps, now).requires_grad_()
    (score,) = torch.autograd.grad(torch.distributions.Normal(now[0] * x0, now[1]).log_prob(x).sum(), x)
    close(score_from_eps(eps, now), score, rtol=1e-10, atol=1e-10)


# --- KL and bits


def test_kl_equals_torch_distributions():
    mean1, mean2 = randn(4, 3, seed=1), randn(4, 3, seed=2)
    var1, var2 = randn(4, seed=3).exp(), randn(4, seed=4).exp()
    Normal = torch.distributions.Normal
    true = torch.distributions.kl_divergence(Normal(mean1, var1.sqrt()[:, None]), Normal(mean2, var2.sqrt()[:, None]))
    close(kl(mean1, var1, mean2, var2), true)
    close(kl(mean1, 0.5, mean1, 0.5), torch.zeros(4, 3))


def test_kl_takes_a_variance_for_each_number():
    mean1, mean2, var1, var2 = (randn(4, 3, seed=1), randn(4, 3, seed=2), rand(4, 3, seed=3), rand(4, 3, seed=4))
    Normal = torch.distributions.Normal
    close(
        kl(mean1, var1, mean2, var2),
        torch.distributions.kl_divergence(Normal(mean1, var1.sqrt()), Normal(mean2, var2.sqrt())),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize(("square", "bits"), [(1.0, 2.91e-5), (0.25, 7.3e-6)])
def test_ho2020_prior_term_of_the_linear_schedule(square, bits):
    scale, std = LINEAR(1000)
    x0 = torch.full((1, 12), math.sqrt(square), dtype=torch.float64)
    nats = kl(scale * x0, std**2, torch.zeros_like(x0), 1.0).sum(1)
    assert abs(float(bits_per_dim(nats, 12)) - bits) < 0.006 * bits


def test_bits_per_dim_of_uniform_pixels_is_8():
    close(bits_per_dim(torch.full((2,), 784 * math.log(256), dtype=torch.float64), 784), [8.0, 8.0])


def test_eps_is_not_defined_on_data():
    for std in (0.0, torch.tensor([0.1, 0.0])):
        with pytest.raises(ValueError, match="t = 0 is data"):
            eps_from_x0(randn(2, 3), randn(2, 3, seed=1), (1.0, std))


def test_a_coefficient_is_neither_rounded_nor_broadcast_by_mistake():
    x = torch.zeros(3, 2)
    assert expand(torch.ones(3), x).shape == (3, 1) and expand(torch.ones(1), x).shape == (1, 1)
    with pytest.raises(ValueError, match=r"torch\.int64: convert it to floats"):
        q_sample(torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"coefficients \(4,\) for x \(3, 2\)"):
        expand(torch.ones(4), x)
    with pytest.raises(ValueError, match=r"coefficients \(3,\) for x \(1, 2\)"):
        expand(torch.ones(3), x[:1])


# --- what is refused: see test_fuzz.py

NOW, THEN, DATA = (0.6, 0.8), (0.8, 0.6), (1.0, 0.0)


@pytest.mark.parametrize(
    "function",
    [
        *(
            lambda x, y, f=f: f(x, y, NOW)
            for f in (q_sample, x0_from_eps, eps_from_x0, v_from_x0_eps, x0_from_v, eps_from_v)
        ),
        lambda x, y: posterior(x, y, NOW, THEN),
        lambda x, y: ddim_step(x, y, NOW, THEN, 0.5),
        lambda x, y: ddim_step(x, x, NOW, THEN, 0.5, y),
        lambda x, y: langevin_step(x, y, 0.5, 0.1, x),
        lambda x, y: langevin_step(x, x, 0.5, 0.1, y),
        lambda x, y: kl(x, 1.0, y, 1.0),
        lambda x, y: discretised_log_prob(x, y, 1.0),
        lambda x, y: check_alike(x, y=y),
    ],
)
def test_two_batches_have_one_shape(function):
    x = torch.ones(3, 2)
    function(x, x)
    for other in (x[:1], x[:, :1], x[0], x[..., None]):
        with pytest.raises(ValueError, match=r" beside .*: give both the same shape"):
            function(x, other)
    with pytest.raises(ValueError, match=r"x is a batch, \(B, \.\.\.\), B > 0; got \(0, 2\)"):
        function(x[:0], x[:0])


def test_a_batch_holds_floats():
    for x in (torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="convert it to floats"):
            check_alike(x)
        with pytest.raises(ValueError, match=r"mask is .* beside .* torch\.float32: give both"):
            check_alike(torch.ones(2), eps=torch.ones(2), mask=x)
    with pytest.raises(ValueError, match=r"B > 0; got \(\)"):
        check_alike(torch.tensor(1.0))
    check_alike(torch.ones(1, dtype=torch.float16))


def test_numbers_lie_in_their_range_and_are_finite():
    check_range(1, 3, low=1, high=3)
    check_range(0, any=1e300)
    for number in (0.99, 3.01, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"eta = {number}: give a finite number from 1 to 3"):
            check_range(1, 3, legal=2, eta=number)
    with pytest.raises(ValueError, match="from 0 to inf"):
        check_range(0, any=math.inf)


@pytest.mark.parametrize(
    "function", [transition, fixed_small, fixed_large, lambda now, then: ddim_step(X, X, now, then, 1)]
)
def test_a_step_leads_from_noise_to_less_noise(function):
    function(NOW, THEN)
    function(NOW, DATA)
    assert float(fixed_large(NOW, NOW)) == 0
    for now, then in ((DATA, DATA), (THEN, NOW), (DATA, NOW), ((1.0, math.nan), DATA)):
        for cast in (float, torch.tensor):
            with pytest.raises(ValueError, match="a step leads from x_t, with noise, to an earlier x_s"):
                function(*(tuple(map(cast, level)) for level in (now, then)))
    mixed = (torch.tensor([0.6, 0.8]), torch.tensor([0.8, 0.6]))
    with pytest.raises(ValueError, match="a step leads"):
        function(mixed, (0.7, 0.7))
    with pytest.raises(ValueError, match=r"then is \(3,\) .* beside \(2,\)"):
        function(mixed, (torch.ones(3), torch.zeros(3)))


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: ddim_step(X, X, NOW, THEN, -0.1), "eta = -0.1"),
        (lambda: ddim_step(X, X, NOW, THEN, math.nan), "eta = nan"),
        (lambda: langevin_step(X, X, 0.5, -0.1, X), "step = -0.1"),
        (lambda: bits_per_dim(X[:, 0], 0), "dims = 0"),
        (lambda: kl(X, 0.0, X, 1.0), "variances must be positive"),
        (lambda: kl(X, X, X, 1 - X), "variances must be positive"),
        (lambda: kl(X, 1.0, X, -1.0), "variances must be positive"),
        (lambda: score_from_eps(X, DATA), "t = 0 is data"),
        (lambda: learned_variance(X, 0.1, 0.0), "the small variance is 0"),
        (lambda: q_sample(X, X, (1.0, math.inf)), "a coefficient is inf"),
        (lambda: q_sample(X, X, (math.nan, 1.0)), "a coefficient is nan"),
        (lambda: expand(X[:, :2], X), r"coefficients \(2, 2\) for x \(2, 3\)"),
        (lambda: expand(X[..., None], X), "coefficients"),
    ],
)
def test_numbers_that_have_no_answer(function, message):
    with pytest.raises(ValueError, match=message):
        function()


def test_a_coefficient_may_have_the_dimensions_of_x():
    for c in (X, X[:, :1], X[:1], X[:1, :1]):
        assert expand(c, X) is c
    with pytest.raises(ValueError, match="coefficients"):
        expand(torch.ones(1), torch.tensor(1.0))


def test_a_part_repeats_to_the_whole():
    check_fits(X, a=X, b=X[0], c=X[:1], d=X[:, :1], e=torch.tensor(1.0))
    for part in (X[None], X[:, :2], X[0, :2], torch.ones(3, 3)):
        with pytest.raises(ValueError, match=r"mask is .*, which does not repeat to \(2, 3\)"):
            check_fits(X, a=X, mask=part)


def test_what_enters_a_network_is_a_batch_of_its_shape_and_type():
    weight = torch.ones(1)
    check_input(torch.ones(1, 3, 4), weight, 3, "L")
    check_input(torch.ones(2), weight)
    for wrong in ((3, 4), (1, 2, 4), (0, 3, 4), (1, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"x is to be \(B, 3, L\), B > 0; got \("):
            check_input(torch.ones(wrong), weight, 3, "L")
    x = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x is torch\.float64, the network torch\.float32: convert one of them"):
        check_input(x, weight, 3)
    with torch.autocast("cpu", torch.bfloat16):
        check_input(x, weight, 3)
