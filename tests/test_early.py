"""Sohl-Dickstein 2015: both chains, their bound K, and products with r, against enumeration and closed forms."""

import itertools
import math

import pytest
import torch
from helpers import close, gaussian_eps, rand, randn, seeded
from torch.distributions import Bernoulli, Normal, kl_divergence

from ddpm_path import early
from ddpm_path.gaussian import fixed_large, fixed_small, posterior, q_sample
from ddpm_path.lab.datasets import heartbeats
from ddpm_path.schedule import Discrete

BIT = math.log(2)
HEART = heartbeats()
BETAS = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
SHORT = Discrete.from_betas(torch.tensor([0.2, 0.5, 0.6, 0.7], dtype=torch.float64))
LONG = Discrete.from_betas(1 / torch.linspace(200, 2, 200, dtype=torch.float64))
ONE_HOT = torch.eye(3, dtype=torch.float64)  # three sequences of three bits; their mean is 1/3
SMALL = early.Binomial(BETAS, rate=1 / 3)
ALL = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)  # (8, 3)


def crooked(x, t):
    """A step back of bits that is nowhere right, depends on everything, and mixes the bits."""
    return 0.7 * x.roll(1, -1) - 1.1 * x + 0.3 * t.view(-1, 1, 1).to(x) - 0.5


def moments(x, t):
    """A step back of numbers whose mean and variance depend on x and t, one variance a number."""
    time = t.view(-1, 1).to(x)
    return 0.5 * x.flip(1) + 0.1 * time, 0.2 + 0.1 * x.cos() + 0.05 * time


def standard(x, t):
    return torch.zeros_like(x), torch.zeros_like(x)


# --- the binomial chain


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("t", [0, 1, 2, 37, 99, 100])
def test_sohldickstein2015_sec241_each_step_erases_an_equal_share(rate, t):
    chain, x0 = early.Binomial(early.fractional_betas(100), rate), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    close(chain.marginal_rate(x0, t), rate + (x0 - rate) * (100 - t) / 100, atol=1e-12)
    if t == 100:
        assert chain.marginal_rate(x0, t).tolist() == [[rate, rate]]  # not a trace of the data


def test_binomial_marginal_is_the_chain_walked():
    chain, x0 = early.Binomial(rand(30, seed=1), 0.3), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    rate = x0
    for t in range(1, 31):
        rate = rate * chain.forward_rate(torch.ones_like(x0), t) + (1 - rate) * chain.forward_rate(0 * x0, t)
        close(chain.marginal_rate(x0, t), rate, rtol=1e-10)


@pytest.mark.parametrize("t", [1, 2, 25, 49, 50])
def test_binomial_posterior_is_bayes_rule(t):
    chain = early.Binomial(early.fractional_betas(50), 0.2)
    x0, x = (torch.tensor(bits, dtype=torch.float64).view(-1, 1) for bits in ([0, 0, 1, 1], [0, 1, 0, 1]))
    joint = [
        Bernoulli(chain.marginal_rate(x0, t - 1), validate_args=False).log_prob(bit).exp()
        * Bernoulli(chain.forward_rate(bit, t)).log_prob(x).exp()
        for bit in (torch.zeros_like(x), torch.ones_like(x))
    ]
    close(chain.posterior_rate(x0, x, t), joint[1] / (joint[0] + joint[1]), rtol=1e-10, atol=1e-12)


def test_binomial_methods_take_a_time_for_each_item():
    chain, t = early.Binomial(early.fractional_betas(9), 0.2), torch.tensor([1, 5, 9])
    x0, x = (rand(3, 3, 3, seed=1) < 0.5).double(), (rand(3, 3, 3, seed=2) < 0.5).double()
    for i in range(3):
        time = int(t[i])
        close(chain.marginal_rate(x0, t)[i], chain.marginal_rate(x0[i], time))
        close(chain.forward_rate(x0, t)[i], chain.forward_rate(x0[i], time))
        close(chain.posterior_rate(x0, x, t)[i], chain.posterior_rate(x0[i], x[i], time))


def test_binomial_sample_has_the_marginal_rate():
    chain, n = early.Binomial(early.fractional_betas(10), 0.2), 40_000
    for bit, rate in ((0.0, 0.2 * 0.4), (1.0, 0.2 + 0.8 * 0.6)):
        share = float(chain.sample(torch.full((n, 1), bit), 4, seeded(1)).mean())
        assert abs(share - rate) < 4 * math.sqrt(rate * (1 - rate) / n)


def log_p(logits, chain, x):
    """log p of all paths x (..., T + 1, D), the last step back being the first step forward under the prior."""
    total = Bernoulli(torch.full_like(x[..., -1, :], chain.rate)).log_prob(x[..., -1, :]).sum(-1)
    for t in range(2, chain.T + 1):
        z = logits(x[..., t, :].reshape(1, -1, x.shape[-1]), torch.tensor([t])).view(x[..., t, :].shape)
        total = total + Bernoulli(logits=z).log_prob(x[..., t - 1, :]).sum(-1)
    return total + Bernoulli(chain.forward_rate(x[..., 1, :], 1)).log_prob(x[..., 0, :]).sum(-1)


def paths(chain, starts):
    """All paths from each start, (N, 8^T, T + 1, D), and their log q(x_1 ... x_T | x_0)."""
    later = torch.stack([torch.stack(path) for path in itertools.product(ALL, repeat=chain.T)])  # (8^T, T, D)
    x = torch.cat([starts[:, None, None].expand(-1, len(later), 1, -1), later.expand(len(starts), *later.shape)], 2)
    steps = [Bernoulli(chain.forward_rate(x[:, :, t - 1], t)).log_prob(x[:, :, t]) for t in range(1, chain.T + 1)]
    return x, torch.stack(steps).sum((0, -1))


def test_sohldickstein2015_eq14_binomial_bound_is_the_bound_of_all_paths():
    """K = E_q log p(x_0 ... x_T) / q(x_1 ... x_T | x_0), by enumerating 512 paths from each datum; K by Monte Carlo."""
    x, log_q = paths(SMALL, ONE_HOT)
    exact = float((log_q.exp() * (log_p(crooked, SMALL, x) - log_q)).sum(1).mean())
    K = early.binomial_bound(crooked, SMALL, ONE_HOT.repeat(20_000, 1), seeded(1), chunk=1)
    assert abs(float(K.mean()) - exact) < 4 * float(K.std()) / math.sqrt(len(K))
    likelihood = float(torch.logsumexp(log_p(crooked, SMALL, paths(SMALL, ALL)[0]), 1).exp().sum())
    close(likelihood, 1.0)  # p is a distribution of x_0
    assert exact < float(torch.logsumexp(log_p(crooked, SMALL, x), 1).mean())  # and K a bound on its log


def test_binomial_bound_is_the_same_in_any_chunks():
    K = [early.binomial_bound(crooked, SMALL, ONE_HOT.repeat(5000, 1), seeded(1), chunk).mean() for chunk in (1, 5)]
    assert abs(float(K[0] - K[1])) < 0.05


def test_best_logits_is_the_enumeration_of_data_and_previous_states():
    """P(x_{t-1, i} = 1 | x_t) from the joint of x_0, x_{t-1} and x_t, nothing factorised."""
    data = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=torch.float64)  # with unequal numbers of ones
    for t in (2, 3):
        joint = torch.zeros(8, 8, dtype=torch.float64)  # x_{t-1}, x_t
        for x0 in data:
            before = Bernoulli(SMALL.marginal_rate(x0, t - 1)).log_prob(ALL).sum(-1)
            step = Bernoulli(SMALL.forward_rate(ALL, t)[:, None].expand(8, 8, 3)).log_prob(ALL.expand(8, 8, 3)).sum(-1)
            joint += (before[:, None] + step).exp() / 3
        true = (joint / joint.sum(0)).T @ ALL  # (8, 3)
        close(early.best_logits(SMALL, data)(ALL[None], torch.tensor([t]))[0].sigmoid(), true, rtol=1e-10)


@pytest.mark.parametrize(
    ("T", "rate", "n", "bits", "error"),
    [
        (2000, 0.2, 100, -2.38, 0.01),
        (2000, 0.5, 50, -2.40, 0.01),
        (50, 0.2, 1000, -3.43, 0.04),
        (50, 0.5, 1000, -3.98, 0.04),
    ],
)
def test_heartbeat_optimum_agrees_with_an_independent_enumeration(T, rate, n, bits, error):
    """`bits` +- `error` come from another program, by Monte Carlo; the truth, -log2(5), is above."""
    chain = early.Binomial(early.fractional_betas(T), rate)
    K = early.binomial_bound(early.best_logits(chain, HEART), chain, HEART.repeat(n // 5, 1), seeded(1)) / BIT
    own = float(K.std()) / math.sqrt(n)
    assert abs(float(K.mean()) - bits) < 3 * math.hypot(own, error)
    assert float(K.mean()) < -math.log2(5) + 3 * own


def test_no_step_back_beats_the_best_at_any_time():
    """The paired difference is an average of KL divergences: a network's loss may only be larger."""
    chain = early.Binomial(early.fractional_betas(100), 0.2)
    best, t = early.best_logits(chain, HEART), torch.arange(2, 101)
    for shift in (-0.1, 0.1):
        other = lambda x, t, shift=shift: best(x, t) + shift  # noqa: E731
        loss = [early.binomial_term(z, chain, HEART.repeat(100, 1), t, seeded(1)).mean(1) for z in (best, other)]
        assert float((loss[1] - loss[0]).sum()) > 0


def test_heartbeat_null_model_is_what_an_unlearned_network_answers():
    """Step back as step forward: 20 independent bits of rate 0.2, -14.439 bits; and 12.024 above it the paper's K."""
    chain = early.Binomial(early.fractional_betas(200), 0.2)
    null = -20 * float(early.binary_entropy(torch.tensor(0.2))) / BIT
    assert abs(null + 14.439) < 5e-4 and abs(null + 12.024 + 2.414) < 2e-3
    net = early.StepwiseMLP(200, 20)
    K = early.binomial_bound(early.relative_bits(net, chain), chain, HEART.repeat(200, 1), seeded(1)) / BIT
    assert abs(float(K.mean()) - null) < 4 * float(K.std()) / math.sqrt(len(K))


def test_only_bits_enter_the_binomial_chain():
    chain = early.Binomial(early.fractional_betas(4), 0.3)
    logits = early.best_logits(chain, ONE_HOT)
    for wrong in (0.5 * ONE_HOT, 255 * ONE_HOT, 2 * ONE_HOT - 1):
        for call in (
            lambda x: chain.sample(x, 2),
            lambda x: early.best_logits(chain, x),
            lambda x: early.walk_back_bits(logits, chain, x),  # at the call, not at the first step
            lambda x: early.binomial_bound(logits, chain, x),
        ):
            with pytest.raises(ValueError, match="made of bits"):
                call(wrong)


def test_walk_back_bits_draws_from_p():
    """The share of each of the eight sequences of three bits, against p(x_0) summed over all paths."""
    n = 40_000
    exact = torch.logsumexp(log_p(crooked, SMALL, paths(SMALL, ALL)[0]), 1).exp()
    start = (torch.rand(n, 3, generator=seeded(1)) < 1 / 3).double()
    states = dict(early.walk_back_bits(crooked, SMALL, start, seeded(2)))
    assert list(states) == [2, 1, 0]
    share = (states[0][:, None] == ALL).all(2).double().mean(0)
    assert bool(((share - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all())


def test_stepwise_mlp_gives_each_step_a_readout_and_untying_changes_no_answer():
    torch.manual_seed(0)
    net, t = early.StepwiseMLP(30, 4, knots=5, hidden=6).double(), torch.tensor([1, 2, 17, 30])
    torch.nn.init.normal_(net.readouts)
    x = randn(4, 3, 4, seed=1)
    tied = net(x, t)
    assert not torch.allclose(net(x, t.flip(0)), tied)
    net.untie()
    close(net(x, t), tied, rtol=1e-6, atol=1e-6)  # the positions are float32
    net(x[:1], torch.tensor([17])).sum().backward()
    touched = net.readouts.grad.abs().sum((1, 2)).nonzero().flatten().tolist()
    assert len(net.readouts) == 30 and touched == [16]
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    close(net(x, t), alone)


# --- the Gaussian chain


def test_sohldickstein2015_eq14_gaussian_term_equals_torch_distributions():
    x0, eps, t = randn(3, 2, seed=1) + 1, randn(3, 2, seed=2), torch.tensor([2, 3, 4])
    now, then = SHORT(t), SHORT(t - 1)
    x = q_sample(x0, eps, now)
    mean, variance = posterior(x0, x, now, then)
    guess, var = moments(x, t)
    true = kl_divergence(Normal(mean, variance.sqrt()[:, None]), Normal(guess, var.sqrt())).sum(1)
    close(early.gaussian_term(moments, SHORT, x0, t, eps), true, rtol=1e-10)


def test_sohldickstein2015_eq14_gaussian_bound_is_the_bound_along_sampled_paths():
    """K against the mean of log p(x_0 ... x_T) - log q(x_1 ... x_T | x_0) over walks of the chain, step by step."""
    n, betas = 100_000, (0.2, 0.5, 0.6, 0.7)
    x0 = randn(n, 2, seed=1).sign()  # mean square 1
    K = early.gaussian_bound(moments, SHORT, x0, seeded(2))
    x, ratio = x0, torch.zeros(n, dtype=torch.float64)
    for t, beta in enumerate(betas, start=1):
        later = math.sqrt(1 - beta) * x + math.sqrt(beta) * randn(n, 2, seed=10 + t)
        mean, var = (math.sqrt(1 - beta) * later, torch.tensor(beta)) if t == 1 else moments(later, torch.full((n,), t))
        ratio += Normal(mean, var.sqrt()).log_prob(x).sum(1)
        ratio -= Normal(math.sqrt(1 - beta) * x, math.sqrt(beta)).log_prob(later).sum(1)
        x = later
    ratio += Normal(0.0, 1.0).log_prob(x).sum(1)
    error = math.hypot(float(K.std()), float(ratio.std())) / math.sqrt(n)
    assert abs(float(K.mean() - ratio.mean())) < 4 * error


def test_standard_normal_data_and_the_forward_kernel_give_the_data_entropy():
    """K = -1/2 log(2 pi e) a dimension. The mean of a quadratic over normal numbers is that over -1 and 1."""
    x0, eps = (torch.tensor(v, dtype=torch.float64).view(-1, 1) for v in ([1, 1, -1, -1], [1, -1, 1, -1]))
    reverse, K = early.relative_to_forward(standard, LONG), early.entropies(LONG, 1)
    for t in range(2, 201):
        K = K - early.gaussian_term(reverse, LONG, x0, torch.full((4,), t), eps).mean()
    close(K, -0.5 * math.log(2 * math.pi * math.e), atol=1e-10)


def test_null_likelihood_of_the_plane():
    """Two dimensions of a unit Gaussian: -4.094 bits, 6.45 below the paper's K of the Swiss roll."""
    null = -2 * float(early.gaussian_entropy(1.0)) / BIT
    assert abs(null + 4.094) < 5e-4 and abs(null + 6.45 - 2.35) < 0.01


@pytest.mark.parametrize("t", [2, 3, 100, 200])
def test_sohldickstein2015_entropy_bounds_are_ddpms_two_variances(t):
    now, then = LONG(t), LONG(t - 1)
    step = early.gaussian_entropy(fixed_large(now, then))
    low, high = early.entropy_of_step_back(
        step, early.gaussian_entropy(then[1] ** 2), early.gaussian_entropy(now[1] ** 2)
    )
    bar, before = float(LONG.alpha_bar[t]), float(LONG.alpha_bar[t - 1])
    beta = 1 - bar / before
    close(low, 0.5 * math.log(2 * math.pi * math.e * beta * (1 - before) / (1 - bar)), atol=1e-10)
    close(high, 0.5 * math.log(2 * math.pi * math.e * beta), atol=1e-10)
    close(low, early.gaussian_entropy(fixed_small(now, then)), atol=1e-10)


def test_entropy_bounds_hold_for_bits():
    """H(X_{t-1} | X_t) by enumeration, averaged over data, lies between the two bounds."""
    for t in (2, 3):
        one = torch.full((1, 1), 1.0, dtype=torch.float64)
        rates = {s: torch.cat([SMALL.marginal_rate(b * one, s) for b in (0, 1)]) for s in (t - 1, t)}
        weight = torch.tensor([[2 / 3], [1 / 3]], dtype=torch.float64)
        entropy = {s: float((weight * early.binary_entropy(rate)).sum()) for s, rate in rates.items()}
        prior = (weight * rates[t - 1]).sum()
        kernel = torch.cat([SMALL.forward_rate(b * one, t) for b in (0, 1)]).flatten()
        before = torch.stack([1 - prior, prior])
        step = float((before * early.binary_entropy(kernel)).sum())
        joint = before[:, None] * torch.stack([1 - kernel, kernel], 1)  # (x_{t-1}, x_t)
        true = float(torch.special.entr(joint).sum() - torch.special.entr(joint.sum(0)).sum())
        low, high = early.entropy_of_step_back(step, entropy[t - 1], entropy[t])
        assert low <= true <= high + 1e-12


def test_learned_schedule_gradient_with_frozen_noise_is_the_finite_difference():
    """K is a function of the betas once the noise is frozen; its gradient passes through x_t, posterior and step."""
    free = randn(3, seed=1)
    x0, eps, t = randn(6, 2, seed=2), randn(6, 2, seed=3), torch.tensor([2, 3, 4, 2, 3, 4])
    net = lambda x, t: (x.sin(), x.cos())  # noqa: E731

    def K(free):
        first = torch.tensor([0.1], dtype=torch.float64)
        schedule = Discrete.from_betas(torch.cat([first, 0.3 + 0.6 * free.sigmoid()]))
        reverse = early.relative_to_forward(net, schedule)
        return early.entropies(schedule, 2) - 3 * early.gaussian_term(reverse, schedule, x0, t, eps).mean()

    assert torch.autograd.gradcheck(K, free.requires_grad_(), eps=1e-6, atol=1e-8)


def test_reference_code_reverse_is_relative_to_the_step_forward():
    """Mean sqrt(1 - beta) x + sqrt(beta) drift, variance sigmoid(logit(beta) + spread / sqrt(T))."""
    x, t, betas = randn(4, 2, seed=1), torch.tensor([1, 2, 3, 4]), [0.2, 0.5, 0.6, 0.7]
    mean, variance = early.relative_to_forward(lambda x, t: (x.sin(), x.cos()), SHORT)(x, t)
    for i, beta in enumerate(betas):
        close(mean[i], math.sqrt(1 - beta) * x[i] + math.sqrt(beta) * x[i].sin())
        odds = beta / (1 - beta) * (x[i].cos() / 2).exp()
        close(variance[i], odds / (1 + odds))


def test_fit_variance_finds_the_variance_of_the_step_back():
    """Data N(0.5, 0.6^2), their best eps: Var(x_{t-1} | x_t) is the posterior's + weight^2 Var(x_0 | x_t)."""
    n, var = 20_000, 0.36
    x0 = 0.5 + 0.6 * randn(n, 2, seed=1)
    fitted = early.fit_variance(gaussian_eps(0.5, var, SHORT), SHORT, x0, seeded(2))
    assert float(fitted[0]) == 0
    for t in range(1, 5):
        now, then = SHORT(t), SHORT(t - 1)
        one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        weight, small = posterior(one, zero, now, then)
        uncertain = var * now[1] ** 2 / (now[0] ** 2 * var + now[1] ** 2)
        error = weight**2 * uncertain
        assert abs(float(fitted[t] - small - error)) < 4 * float(error) * math.sqrt(2 / (2 * n))


def test_eps_reverse_answers_the_posterior_mean_of_the_implied_x0():
    x0, t = randn(3, 2, seed=1), torch.tensor([1, 2, 4])
    eps = randn(3, 2, seed=2)
    x = q_sample(x0, eps, SHORT(t))
    mean, variance = early.eps_reverse(lambda x, t: eps, SHORT, torch.arange(5).double())(x, t)
    close(mean, posterior(x0, x, SHORT(t), SHORT(t - 1))[0], rtol=1e-9, atol=1e-12)
    close(variance, t.double()[:, None].expand(3, 2))


def test_stepwise_rbf_is_a_weighted_mean_of_its_readouts():
    """Normalised: near one centre only that unit's readout counts; equal centres average; and each step has its own."""
    net = early.StepwiseRBF(7, units=2).double()
    with torch.no_grad():
        net.centres.copy_(torch.tensor([[-10.0, 0.0], [10.0, 0.0]]))
        torch.nn.init.normal_(net.readout)
    t = torch.tensor([1, 7, 7])
    drift, spread = net(torch.tensor([[-10.0, 0.5], [10.0, 0.5], [0.0, 3.0]]).double(), t)
    both = torch.cat([drift, spread], 1)
    close(both, torch.stack([net.readout[0, 0], net.readout[6, 1], net.readout[6].mean(0)]).detach(), rtol=1e-10)


def test_stepwise_rbf_spelled_out():
    """exp(-|x - centre|^2 / (2 width^2)), normalised; 16 units in the plane unless told otherwise."""
    torch.manual_seed(0)
    net = early.StepwiseRBF(7).double()
    assert net.centres.shape == (16, 2)
    with torch.no_grad():
        torch.nn.init.normal_(net.log_width)
        torch.nn.init.normal_(net.readout)
    x, width = randn(1, 2), net.log_width.exp()
    weight = torch.stack([(-(x[0] - net.centres[u]).square().sum() / (2 * width[u] ** 2)).exp() for u in range(16)])
    close(torch.cat(net(x, torch.tensor([3])), 1)[0].detach(), (weight / weight.sum() @ net.readout[2]).detach())


def test_sohldickstein2015_app_d12_the_papers_network_of_bits():
    """Three layers of 50 sigmoids; weights of 4 times Xavier's deviation, for a slope of at most 1/4."""
    torch.manual_seed(0)
    net = early.StepwiseMLP(2000, 20)
    linears = [module for module in net.trunk if isinstance(module, torch.nn.Linear)]
    assert [linear.weight.shape for linear in linears] == [(50, 20), (50, 50), (50, 50)]
    for linear in linears:
        true = 16 * 2 / sum(linear.weight.shape)
        assert abs(float(linear.weight.detach().square().mean()) / true - 1) < 5 * math.sqrt(2 / linear.weight.numel())
    assert net.readouts.shape == (21, 51, 20)


def test_sampling_and_measuring_carry_no_gradients():
    weight = torch.ones((), requires_grad=True, dtype=torch.float64)
    end = dict(early.walk_back(lambda x, t: (weight * x, torch.ones_like(x)), SHORT, randn(2, 3)))[0]
    assert not end.requires_grad
    assert not early.fit_variance(lambda x, t: weight * x, SHORT, randn(2, 3)).requires_grad
    logits = lambda x, t: weight * crooked(x, t)  # noqa: E731
    assert not early.binomial_bound(logits, SMALL, ONE_HOT).requires_grad


def test_walk_back_visits_every_time_and_ends_without_noise():
    seen = []

    def reverse(x, t):
        seen.append(t.tolist())
        return 0.5 * x, torch.full_like(x, 0.3)

    states = dict(early.walk_back(reverse, SHORT, randn(2, 3), generator=seeded(1)))
    assert list(states) == [3, 2, 1, 0] and seen == [[4, 4], [3, 3], [2, 2], [1, 1]]
    close(states[0], 0.5 * states[1])
    step = states[2] - 0.5 * states[3]
    assert float(step.abs().min()) > 0


# --- products with r


def test_sohldickstein2015_sec25_exact_product_on_a_grid():
    mean, var, y, tau2 = 0.3, 0.4, 1.5, 0.2
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    weight = (-((grid - mean) ** 2) / (2 * var) - (grid - y) ** 2 / (2 * tau2)).softmax(0)
    true = (weight * grid).sum()
    spread = (weight * (grid - true) ** 2).sum()
    got = early.multiply_gaussian(torch.tensor([y], dtype=torch.float64), torch.tensor([tau2], dtype=torch.float64))(
        torch.tensor([mean], dtype=torch.float64), torch.tensor([var], dtype=torch.float64), SHORT(1)
    )
    close(torch.cat(got), torch.stack([true, spread]), rtol=1e-10)
    close(got[0], [mean + var / (var + tau2) * (y - mean)])


def test_gradient_form_differs_at_second_order():
    """Mean and variance are off by order var^2 / tau^2: for a tenth of the variance a hundredth of the difference."""
    mean, y, tau2 = (
        torch.tensor([0.3], dtype=torch.float64),
        torch.tensor([1.5], dtype=torch.float64),
        torch.tensor([0.5], dtype=torch.float64),
    )
    exact = early.multiply_gaussian(y, tau2)
    shifted = early.shift_by_gradient(lambda mean: (y - mean) / tau2)
    difference = []
    for var in (torch.tensor([1e-3], dtype=torch.float64), torch.tensor([1e-4], dtype=torch.float64)):
        difference.append(
            [
                float((a - b).abs())
                for a, b in zip(exact(mean, var, SHORT(1)), shifted(mean, var, SHORT(1)), strict=True)
            ]
        )
    for coarse, fine in zip(*difference, strict=True):
        assert 0.0098 < fine / coarse < 0.0102


def conditioned(multiply, schedule, start):
    """Mean and variance of x_0 when every step back of standard normal data is multiplied, the last noise included."""
    reverse = early.relative_to_forward(standard, schedule)
    mean, var = start
    for t in range(schedule.T, 0, -1):
        points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        moved, v = multiply(*reverse(points, torch.tensor([t, t])), schedule(t - 1))
        slope = moved[1, 0] - moved[0, 0]
        mean, var = moved[0, 0] + slope * mean, slope**2 * var + v[0, 0]
    return mean, var


Y, TAU2 = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.04, dtype=torch.float64)


def following(mean, var, now):
    scale, std = now
    return early.multiply_gaussian(Y / scale, (TAU2 + std**2) / scale**2)(mean, var, now)


def test_r_that_follows_the_noise_gives_the_exact_posterior():
    """With r_t(x_t) = p(y | x_t) the chain times r is Bayes' rule, in any number of steps."""
    for schedule in (SHORT, LONG):
        scale, std = schedule(schedule.T)
        start = following(torch.zeros(1).double(), torch.ones(1).double(), (scale, std))
        mean, var = conditioned(following, schedule, [m[0] for m in start])
        close(mean, Y / (1 + TAU2), rtol=1e-10)
        close(var, TAU2 / (1 + TAU2), rtol=1e-10)


def test_the_same_r_at_every_level_counts_twice_in_the_limit():
    """The stationary density of small steps times r is p r^2: precision 1 + 2 / tau^2, not 1 + 1 / tau^2."""
    fine = Discrete.from_betas(torch.full((1200,), 2e-3, dtype=torch.float64))
    zero, one = torch.zeros(()).double(), torch.ones(()).double()
    mean, var = conditioned(early.multiply_gaussian(Y, TAU2), fine, (zero, one))
    close(var, 1 / (1 + 2 / TAU2), rtol=0.05)  # the steps are beta / tau^2 = 0.05 wide
    close(mean, (2 * Y / TAU2) / (1 + 2 / TAU2), rtol=0.05)


def test_inpainting_keeps_the_known_and_leaves_the_rest_its_distribution():
    """Standard normal pixels are independent: what is known must not move the others."""
    image, known = randn(4000, 1, 2, 2, seed=1) + 3, torch.tensor([[True, False], [False, True]]).expand(4000, 1, 2, 2)
    reverse = early.relative_to_forward(standard, LONG)
    *_, (_, x) = early.walk_back(reverse, LONG, randn(4000, 1, 2, 2, seed=2), early.inpainting(image, known), seeded(3))
    assert torch.equal(x[known], image[known])
    rest = x[~known]
    assert abs(float(rest.mean())) < 4 / math.sqrt(len(rest))
    # The last step adds no noise: beta_1 = 1/200 of the variance is missing.
    assert abs(float(rest.var()) - (1 - 1 / 200)) < 4 * math.sqrt(2 / len(rest))


def test_variance_0_pins_even_a_step_without_noise():
    mean, var = early.multiply_gaussian(torch.ones(2), torch.tensor([0.0, math.inf]))(
        torch.zeros(2), torch.zeros(2), SHORT(0)
    )
    assert mean.tolist() == [1, 0] and var.tolist() == [0, 0]


# --- bad input


@pytest.mark.parametrize(
    "betas", [[0.1], [0.0, 0.1], [0.1, 0.0], [0.1, 1.2], [1.0, 0.5], [-0.1, 0.5], [[0.1, 0.2]], [0.1, math.nan]]
)
def test_betas_that_leave_their_range_are_refused(betas):
    with pytest.raises(ValueError, match=r"each in \(0, 1\)"):
        early.Binomial(torch.tensor(betas))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, math.nan])
def test_a_prior_rate_that_leaves_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"lies in \(0, 1\)"):
        early.Binomial(BETAS, rate)


@pytest.mark.parametrize("bad", [0.5, -1.0, 255.0, math.nan])
def test_data_that_are_not_bits_are_refused(bad):
    x0 = torch.tensor([[0.0, 1.0, bad]])
    for call in (
        lambda: SMALL.sample(x0, 1),
        lambda: SMALL.posterior_rate(torch.ones(1, 3), x0, 2),
        lambda: early.binomial_term(crooked, SMALL, x0, torch.tensor([2])),
        lambda: early.binomial_bound(crooked, SMALL, x0),
    ):
        with pytest.raises(ValueError, match="threshold the data first"):
            call()


@pytest.mark.parametrize("mask", [torch.ones(1, 2, 2).bool(), torch.ones(3, 1, 2, 2), torch.ones(3, 1, 2, 1).bool()])
def test_a_mask_of_another_shape_or_type_is_refused(mask):
    with pytest.raises(ValueError, match="one bool for each number of the image"):
        early.inpainting(torch.zeros(3, 1, 2, 2), mask)


def test_a_gaussian_schedule_that_leaves_its_range_is_refused():
    for betas in ([0.1, 1.0], [0.1, 0.0], [0.1, -0.1]):
        with pytest.raises(ValueError, match=r"every beta lies in \(0, 1\)"):
            Discrete.from_betas(torch.tensor(betas))


def test_no_step_leads_back_from_the_data():
    x = torch.ones(2, 3)
    for t in (0, -1, torch.tensor([1, 0])):
        with pytest.raises(ValueError, match="t is whole, from 1"):
            SMALL.posterior_rate(x, x, t)


def test_a_binomial_chain_knows_its_own_times_only():
    chain, x = early.Binomial(early.fractional_betas(4)), torch.ones(2, 3, dtype=torch.float64)
    rates = ((chain.forward_rate, 1), (chain.marginal_rate, 0), (lambda x, t: chain.posterior_rate(x, x, t), 1))
    for rate, first in rates:
        rate(x, first), rate(x, 4)
        for t in (first - 1, 5, 1.5, torch.tensor([1, 5]), torch.tensor([first - 1, 1])):
            with pytest.raises(ValueError, match=f"t is whole, from {first} to 4"):
                rate(x, t)
    with pytest.raises(ValueError, match="x0 is"):
        chain.posterior_rate(x[:1], x, 2)
    with pytest.raises(ValueError, match="T = 0"):
        early.fractional_betas(0)


def test_corrections_and_estimates_have_the_shape_of_x():
    x, t, chain = torch.ones(2, 3), torch.tensor([2, 3]), SHORT
    for part, answer in (("drift", (x[:1], x)), ("spread", (x, x[:1]))):
        with pytest.raises(ValueError, match=f"{part} is"):
            early.relative_to_forward(lambda x, t, answer=answer: answer, chain)(x, t)
    with pytest.raises(ValueError, match="a network answered"):
        early.eps_reverse(lambda x, t: x[:1], chain, torch.ones(chain.T + 1))(x, t)


BITS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
STEPS = torch.tensor([2, 3])
CORRECT = torch.zeros(2, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: early.gaussian_bound(None, SHORT, torch.ones(0, 2)), "B > 0"),
        (lambda: early.fit_variance(None, SHORT, torch.ones(2, 2).long()), "x holds"),
        (lambda: early.gaussian_entropy(0.0), "positive"),
        (lambda: early.gaussian_entropy(torch.tensor([1.0, math.inf])), "finite"),
        (lambda: early.eps_reverse(None, SHORT, torch.ones(SHORT.T)), "variance is"),
        (lambda: early.StepwiseRBF(0), "T = 0"),
        (lambda: early.StepwiseRBF(1, 0), "dims = 0"),
        (lambda: early.StepwiseRBF(1, 1, 0), "units = 0"),
        (lambda: early.StepwiseRBF(3, 3)(BITS[:, :2], STEPS), r"x is to be \(B, 3\)"),
        (lambda: early.StepwiseRBF(3, 3)(BITS, STEPS - 2), "t is whole, from 1 to 3"),
        (lambda: early.StepwiseRBF(3, 3)(BITS, STEPS + 1), "t is whole, from 1 to 3"),
        (lambda: early.StepwiseRBF(3, 3)(BITS, STEPS[:1]), "one for each item"),
        (lambda: early.StepwiseMLP(0, 1), "T = 0"),
        (lambda: early.StepwiseMLP(1, 0), "dims = 0"),
        (lambda: early.StepwiseMLP(1, 1, 1), "knots = 1"),
        (lambda: early.StepwiseMLP(1, 1, 2, 0), "hidden = 0"),
        (lambda: early.StepwiseMLP(1, 1, 2, 1, 0), "layers = 0"),
        (lambda: early.StepwiseMLP(3, 3).readout(STEPS + 1), "t is whole, from 1 to 3"),
        (lambda: early.StepwiseMLP(3, 3).readout(STEPS[:, None]), "one for each item"),
        (lambda: early.StepwiseMLP(3, 2)(CORRECT, STEPS), r"x is to be \(B, k, 2\)"),
        (lambda: early.StepwiseMLP(3, 3)(CORRECT, STEPS[:1]), "one for each item"),
        (lambda: early.StepwiseMLP(3, 3)(CORRECT, STEPS - 2), "t is whole, from 1 to 3"),
        (lambda: early.multiply_gaussian(BITS, BITS)(BITS, BITS[:1], (1, 0)), "var is"),
        (lambda: early.multiply_gaussian(BITS, BITS.T)(BITS, BITS, (1, 0)), "variance is"),
        (lambda: early.multiply_gaussian(BITS.T, BITS)(BITS, BITS, (1, 0)), "centre is"),
        (lambda: early.shift_by_gradient(torch.sin)(BITS, BITS[:1], (1, 0)), "var is"),
        (lambda: early.shift_by_gradient(lambda x: x[:1])(BITS, BITS, (1, 0)), "network answered"),
        (lambda: SMALL.posterior_rate(BITS + 1, BITS, 1), "made of bits"),
        (lambda: early.relative_bits(lambda x, t: x, SMALL)(BITS + 1, STEPS), "made of bits"),
        (lambda: early.relative_bits(lambda x, t: x[:1], SMALL)(BITS, STEPS), "network answered"),
        (lambda: early.binomial_term(lambda x, t: x, SMALL, BITS[0], STEPS), r"x is to be \(B, D\)"),
        (lambda: early.binomial_term(lambda x, t: x, SMALL, BITS, STEPS - 1), "from 2 to"),
        (lambda: early.binomial_term(lambda x, t: x, SMALL, BITS, STEPS[0]), "one for each item"),
        (lambda: early.binomial_term(lambda x, t: x[:1], SMALL, BITS, STEPS), "network answered"),
        (lambda: early.binomial_bound(lambda x, t: x, SMALL, BITS[0]), r"x is to be \(B, D\)"),
        (lambda: early.binomial_bound(lambda x, t: x, SMALL, BITS + 1), "made of bits"),
        (lambda: early.binomial_bound(lambda x, t: x, SMALL, BITS, chunk=0), "chunk = 0"),
        (lambda: early.binary_entropy(torch.tensor([0.5, -0.1])), r"lies in \[0, 1\]"),
        (lambda: early.binary_entropy(torch.tensor([0.5, 1.1])), r"lies in \[0, 1\]"),
        (lambda: early.best_logits(SMALL, BITS[0]), r"x is to be \(B, D\)"),
        (lambda: early.best_logits(SMALL, BITS)(CORRECT[..., :2], STEPS), r"x is to be \(B, k, 3\)"),
        (lambda: early.best_logits(SMALL, BITS)(CORRECT + 2, STEPS), "made of bits"),
        (lambda: early.best_logits(SMALL, BITS)(CORRECT, STEPS[:1]), "one for each item"),
        (lambda: early.walk_back_bits(lambda x, t: x, SMALL, BITS[0]), r"x is to be \(B, D\)"),
        (lambda: list(early.walk_back_bits(lambda x, t: x[..., :2], SMALL, BITS)), "network answered"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_smallest_networks_and_the_ends_of_the_chain_are_legal():
    one = torch.ones(1, 1)
    assert early.StepwiseRBF(1, 1, 1)(one, torch.tensor([1]))[0].shape == (1, 1)
    assert early.StepwiseMLP(1, 1, 2, 1, 1)(one[None], torch.tensor([1])).shape == (1, 1, 1)
    assert early.binary_entropy(torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]
    assert early.binomial_bound(lambda x, t: x, SMALL, BITS, chunk=1).shape == (2,)
    early.best_logits(SMALL, BITS)(CORRECT, torch.tensor([1, SMALL.T]))
