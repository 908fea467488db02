import math
import subprocess
import sys

import pytest
import torch
from helpers import LEVELS, LINEAR, close, gaussian_eps, randn, seeded, skewed_mixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from ddpm_path.exact import FiniteData, GaussianMixture, gaussian_reverse, isotropic_mixture
from ddpm_path.gaussian import q_sample
from ddpm_path.schedule import VE, VP, SubVP

ROOTS = randn(4, 3, 3, seed=12)
# In space: the eigenvectors of a 2x2 covariance may form a symmetric matrix, which hides a transposition.
WORLD = GaussianMixture(
    torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64),
    3 * randn(4, 3, seed=13),
    0.1 * ROOTS @ ROOTS.mT + 0.02 * torch.eye(3, dtype=torch.float64),
)
ONE_D = GaussianMixture(
    *(torch.tensor(a, dtype=torch.float64) for a in ([0.6, 0.4], [[-1.0], [0.7]], [[[0.09]], [[0.25]]]))
)
LEVELS_AND_DATA = [(torch.tensor(1.0).double(), torch.tensor(0.0).double()), *LEVELS]


def diffused(world, now):
    """p_t by torch's own distributions: means times scale, covariances scale^2 C + std^2 I."""
    scale, std = now
    eye = torch.eye(world.means.shape[1], dtype=torch.float64)
    parts = MultivariateNormal(scale * world.means, scale**2 * world.covariances + std**2 * eye)
    return MixtureSameFamily(Categorical(probs=world.weights), parts)


def points(world, now, n=64):
    """Where p_t has its mass."""
    return q_sample(world.sample(n, seeded(0))[0], randn(n, world.means.shape[1], seed=1), now)


# --- the mixture


@pytest.mark.parametrize("now", LEVELS_AND_DATA)
def test_mixture_log_prob_equals_torch_distributions(now):
    x = points(WORLD, now)
    close(WORLD.log_prob(x, now), diffused(WORLD, now).log_prob(x), atol=1e-11)


@pytest.mark.parametrize("now", LEVELS_AND_DATA)
def test_mixture_score_is_the_gradient_of_log_prob(now):
    x = points(WORLD, now).requires_grad_()
    (ours,) = torch.autograd.grad(WORLD.log_prob(x, now).sum(), x)
    (torchs,) = torch.autograd.grad(diffused(WORLD, now).log_prob(x).sum(), x)
    close(WORLD.score(x.detach(), now), ours, atol=1e-12)
    close(WORLD.score(x.detach(), now), torchs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("schedule", "t"), [(LINEAR, 1.0), (LINEAR, 300.0), (LINEAR, 1000.0), (SubVP(), 0.4), (VE(), 0.6)]
)
def test_mixture_eps_is_minus_std_times_score(schedule, t):
    now = schedule(t)
    x = points(WORLD, now)
    eps = WORLD.eps_fn(schedule)(x, torch.full((len(x),), t, dtype=torch.float64))
    close(eps, -now[1] * WORLD.score(x, now), rtol=1e-9, atol=1e-11)  # (x - scale x0) / std cancels at t = 1


@pytest.mark.parametrize("now", LEVELS)
def test_mixture_x0_is_tweedies_formula(now):
    scale, std = now
    x = points(WORLD, now)
    true = (x + std**2 * WORLD.score(x, now)) / scale  # cancels at t = T, where scale is 0.006
    close(WORLD.x0(x, now), true, rtol=1e-9, atol=1e-12)


def test_mixture_of_full_covariances_x0_is_the_conditional_mean_of_each_component():
    """mu_k + scale C (scale^2 C + std^2 I)^-1 (x - scale mu_k), weighed by p(k | x): matrices, not eigenvectors."""
    now = scale, std = LINEAR(200)
    x = points(WORLD, now)
    C = WORLD.covariances
    gain = scale * C @ torch.linalg.inv(scale**2 * C + std**2 * torch.eye(3, dtype=torch.float64))  # (K, 3, 3)
    given_k = WORLD.means + torch.einsum("kij,bkj->bki", gain, x[:, None] - scale * WORLD.means)
    close(WORLD.x0(x, now), (WORLD.log_class(x, now).exp()[:, :, None] * given_k).sum(1), rtol=1e-10)


@pytest.mark.parametrize("now", LEVELS)
def test_mixture_x0_and_class_are_what_integration_over_the_data_gives(now):
    """E[x_0 | x_t] and p(k | x_t), 1-D, from the data's density and the forward kernel alone."""
    grid = torch.linspace(-4, 5, 200_001, dtype=torch.float64)  # the forward kernel at t = 1 is 0.01 wide: 200 points
    density = ONE_D.weights * Normal(ONE_D.means[:, 0], ONE_D.covariances[:, 0, 0].sqrt()).log_prob(grid[:, None]).exp()
    x = points(ONE_D, now, 12)
    kernel = Normal(now[0] * grid, now[1]).log_prob(x).exp()  # (12, G)
    joint = kernel @ density  # (12, 2)
    close(ONE_D.log_class(x, now).exp(), joint / joint.sum(1, keepdim=True), rtol=1e-8, atol=1e-10)
    close(
        ONE_D.x0(x, now), (kernel @ (grid[:, None] * density)).sum(1, keepdim=True) / joint.sum(1, keepdim=True), 1e-9
    )


@pytest.mark.parametrize("now", LEVELS_AND_DATA)
def test_mixture_log_prob_integrates_to_1(now):
    half = 8 * float((now[0] ** 2 + now[1] ** 2).sqrt())
    grid = torch.linspace(-half, half, 20_001, dtype=torch.float64)
    close(torch.trapezoid(ONE_D.log_prob(grid[:, None], now).exp(), grid), 1.0, rtol=1e-9)


def test_mixture_class_posterior_is_bayes_rule():
    now = LINEAR(250)
    x = points(WORLD, now)
    each = torch.stack([WORLD.weights[k] * WORLD.component(k).log_prob(x, now).exp() for k in range(4)], 1)
    close(WORLD.log_class(x, now).exp(), each / each.sum(1, keepdim=True), rtol=1e-9, atol=1e-15)
    close(WORLD.log_joint(x, now).exp(), each, rtol=1e-9, atol=1e-15)


def test_mixture_class_is_unknown_at_pure_noise_and_certain_at_data():
    close(WORLD.log_class(randn(8, 3), (0.0, 1.0)).exp(), WORLD.weights.expand(8, 4))
    x, k = WORLD.sample(400, seeded(5))
    # The components overlap little: the density's own argmax is right for almost all draws.
    assert float((WORLD.log_class(x, (1.0, 0.0)).argmax(1) == k).double().mean()) > 0.97


def test_mixture_component_is_that_gaussian_alone():
    now = LINEAR(400)
    x = points(WORLD, now)
    for k in range(4):
        cov = now[0] ** 2 * WORLD.covariances[k] + now[1] ** 2 * torch.eye(3, dtype=torch.float64)
        close(WORLD.component(k).log_prob(x, now), MultivariateNormal(now[0] * WORLD.means[k], cov).log_prob(x), 1e-11)


def test_mixture_samples_have_its_weights_means_and_covariances():
    n = 40_000
    x, k = WORLD.sample(n, seeded(7))
    for j in range(4):
        ours, w, C = x[k == j], float(WORLD.weights[j]), WORLD.covariances[j]
        assert abs(len(ours) / n - w) < 4 * math.sqrt(w * (1 - w) / n)
        assert bool(((ours.mean(0) - WORLD.means[j]).abs() < 4 * (C.diagonal() / len(ours)).sqrt()).all())
        # Var of a sample covariance: (C_ii C_jj + C_ij^2) / n.
        error = ((C.diagonal()[:, None] * C.diagonal() + C**2) / len(ours)).sqrt()
        assert bool(((ours.T.cov() - C).abs() < 4 * error).all())


def test_mixture_takes_a_level_for_each_item_and_answers_in_x_dtype():
    t = torch.tensor([1.0, 500.0, 1000.0])
    x = randn(3, 3, seed=3)
    eps = WORLD.eps_fn(LINEAR)
    for i in range(3):
        close(eps(x, t)[i : i + 1], eps(x[i : i + 1], t[i : i + 1]))
        close(WORLD.log_prob(x, LINEAR(t))[i : i + 1], WORLD.log_prob(x[i : i + 1], LINEAR(t[i])))
    assert eps(x.float(), t).dtype == torch.float32


@pytest.mark.parametrize("mu,var", [(0.7, 0.25), (-1.5, 2.0)])
@pytest.mark.parametrize("t", [1, 300, 1000])
def test_gaussian_eps_is_the_closed_form_and_its_error_the_minimum(mu, var, t):
    """eps* = std (x - scale mu) / v and E|eps - eps*|^2 = alpha_bar var / v, with v = alpha_bar var + 1 - alpha_bar."""
    world, n = isotropic_mixture([1.0], [[mu, mu]], math.sqrt(var)), 20_000
    x0, eps = world.sample(n, seeded(1))[0], randn(n, 2, seed=2)
    x, times = q_sample(x0, eps, LINEAR(t)), torch.full((n,), float(t))
    got = world.eps_fn(LINEAR)(x, times)
    close(got, gaussian_eps(mu, var, LINEAR)(x, times), rtol=1e-9, atol=1e-10)
    bar = float(LINEAR.alpha_bar[t])
    minimum = bar * var / (bar * var + 1 - bar)
    # The error is Gaussian: its square, over 2 n numbers, has relative standard error sqrt(2 / 2 n) = 0.7 %.
    close((eps - got).square().mean(), minimum, rtol=4 * math.sqrt(1 / n))


@pytest.mark.parametrize(
    ("weights", "covariance", "words"),
    [
        ([0.5, 0.6], [[[1.0]], [[1.0]]], "sum to 1"),
        ([1.2, -0.2], [[[1.0]], [[1.0]]], "positive"),
        ([0.5, 0.5], [[[1.0]], [[-1.0]]], "positive definite"),
        ([0.5, 0.5], [[[1.0]]], "covariances"),
        ([1.0], [[[1.0]], [[1.0]]], "weights"),
    ],
)
def test_impossible_mixtures_are_refused(weights, covariance, words):
    with pytest.raises(ValueError, match=words):
        GaussianMixture(torch.tensor(weights), torch.tensor([[0.0], [1.0]]), torch.tensor(covariance))


# --- the finite data set


def brute_force_x0(data, x, scale, std):
    answer = []
    for item in x:
        weight = torch.tensor([-float((item - scale * d).square().sum()) / (2 * std**2) for d in data]).double()
        answer.append((weight.softmax(0).view(-1, *[1] * (data.ndim - 1)) * data).sum(0))
    return torch.stack(answer)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("now", LEVELS)
def test_finite_data_x0_is_the_softmax_average(now, chunk):
    data = randn(7, 1, 3, 3, seed=1)
    x = q_sample(data[:5], randn(5, 1, 3, 3, seed=2), now)
    true = brute_force_x0(data, x, *map(float, now))
    # The brute force keeps its logits in float32: at t = 1 they reach 1e5, but there one weight is 1.
    close(FiniteData(data, chunk).x0(x, now), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("now", LEVELS)
def test_finite_data_is_the_limit_of_a_mixture_of_narrow_gaussians(now):
    data = randn(6, 2, seed=1)
    narrow = isotropic_mixture([1 / 6] * 6, data.tolist(), 1e-6)
    x = q_sample(data, 3 * randn(6, 2, seed=2), now)
    # Widths of 1e-6 move x0 by (1e-6 / std)^2 <= 1e-8 of a standard deviation.
    close(FiniteData(data).x0(x, now), narrow.x0(x, now), rtol=1e-6, atol=1e-6)


def test_finite_data_answers_the_nearest_item_at_low_noise():
    data = randn(50, 8, seed=1)
    which = torch.tensor([3, 3, 49, 0])
    x = data[which] + 0.01 * randn(4, 8, seed=2)
    close(FiniteData(data, 7).x0(x, (1.0, 0.01)), data[which], atol=1e-12)
    far = FiniteData(data, 7).x0(x + 100, (1.0, 0.01))  # every weight underflows unless the largest is taken out
    close(far, data[torch.cdist(x + 100, data).argmin(1)], atol=1e-9)


def test_finite_data_answers_the_mean_at_pure_noise():
    data = randn(50, 8, seed=1)
    close(FiniteData(data, 7).x0(randn(3, 8), (0.0, 1.0)), data.mean(0).expand(3, 8))


def test_finite_data_takes_a_level_for_each_item_and_answers_in_x_dtype():
    world, t = FiniteData(randn(9, 3, 3, seed=1).float(), 4), torch.tensor([1.0, 400.0, 1000.0])
    x = randn(3, 3, 3, seed=2)
    for i in range(3):
        close(world.eps_fn(LINEAR)(x, t)[i : i + 1], world.eps_fn(LINEAR)(x[i : i + 1], t[i : i + 1]), atol=1e-12)
    assert world.eps_fn(LINEAR)(x.float(), t).dtype == torch.float32


@pytest.mark.parametrize("t", [1.0, 300.0, 1000.0])
def test_finite_data_eps_rebuilds_x(t):
    world, x = FiniteData(randn(9, 4, seed=1), 4), randn(5, 4, seed=2)
    now = LINEAR(t)
    close(q_sample(world.x0(x, now), world.eps_fn(LINEAR)(x, torch.full((5,), t)), now), x, atol=1e-12)


@pytest.mark.parametrize("now", LEVELS)
def test_finite_data_log_prob_is_that_of_a_mixture_at_the_items(now):
    data = randn(7, 4, seed=1)
    narrow = isotropic_mixture([1 / 7] * 7, data.tolist(), 1e-9)
    x = q_sample(data, randn(7, 4, seed=2), now)
    for chunk in (1, 3, 100):
        close(FiniteData(data.view(7, 1, 2, 2), chunk).log_prob(x.view(7, 1, 2, 2), now), narrow.log_prob(x, now), 1e-9)


def test_finite_data_eps_is_minus_std_times_the_gradient_of_log_prob():
    world, t = FiniteData(randn(9, 2, 3, seed=1), 4), torch.tensor([1.0, 400.0, 1000.0])
    x = q_sample(world.data[:3], randn(3, 2, 3, seed=2), tuple(c.view(-1, 1, 1) for c in LINEAR(t))).requires_grad_()
    score = torch.autograd.grad(world.log_prob(x, LINEAR(t)).sum(), x)[0]
    close(-LINEAR(t)[1].view(-1, 1, 1) * score, world.eps_fn(LINEAR)(x.detach(), t), rtol=1e-9, atol=1e-10)


def test_impossible_finite_data_are_refused():
    for data in (torch.zeros(0, 3), torch.tensor([[1.0, math.nan]]), torch.tensor([[1.0, math.inf]])):
        with pytest.raises(ValueError, match="at least one item"):
            FiniteData(data)


@pytest.mark.slow
def test_finite_data_of_mnist_size_fit_in_little_memory():
    """60,000 images of 784 pixels, a batch of 64: all logits and a float64 copy at once would take 400 MB."""
    code = """
import resource, torch
from ddpm_path.exact import FiniteData
torch.set_num_threads(1)
data = torch.rand(60_000, 784, generator=torch.Generator().manual_seed(0))
world, x = FiniteData(data), data[:64] + 0.5
world.data, before = data, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x0 = world.x0(x, (1.0, 0.05))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, float((x0 - data[:64]).abs().max()) < 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kilobytes, finite = done.stdout.split()
    assert int(kilobytes) < 200_000 and finite == "True"


def test_mixtures_refuse_what_is_none():
    eye = torch.eye(2)[None]
    for weights, covariances, words in (
        ([0.5], eye, "sum to 1"),
        ([float("nan")], eye, "sum to 1"),
        ([1.0], torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        ([1.0], -eye, "positive definite"),
        ([0.5, 0.5], eye, "want weights"),
    ):
        with pytest.raises(ValueError, match=words):
            GaussianMixture(torch.tensor(weights), torch.zeros(1, 2), covariances)
    with pytest.raises(ValueError, match=r"x is \(B, 3\), not \(4, 1\)"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.eye(3)[None]).score(torch.zeros(4, 1), LINEAR(5))


# --- shares and quantiles on a line

LINE = isotropic_mixture([0.3, 0.7], [[-0.6], [0.5]], 0.15)


@pytest.mark.parametrize("now", [(1.0, 0.0), LINEAR(300), LINEAR(1000), VE()(0.5)])
def test_the_share_below_x_integrates_the_density(now):
    x = torch.linspace(-30, 3, 200_001, dtype=torch.float64)[:, None]
    summed = torch.trapezoid(LINE.log_prob(x, now).exp(), x[:, 0])
    close(LINE.cdf(x[-1:], now), summed.view(1, 1), rtol=1e-9)
    single = isotropic_mixture([1.0], [[0.7]], 0.5)
    close(single.cdf(torch.tensor([[1.2]]).double(), (1.0, 0.0)), [[0.841344746068543]], rtol=1e-7)  # one deviation up


@pytest.mark.parametrize("now", [(1.0, 0.0), LINEAR(300), LINEAR(1000), VE()(0.5)])
def test_quantiles_invert_shares(now):
    share = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)[:, None]
    close(LINE.cdf(LINE.quantile(share, now), now), share, rtol=1e-8)


def test_song2021_eq13_the_ode_keeps_every_walkers_share():
    """The velocity of quantile(share, t), by differences, is the drift of the probability-flow ODE: VP, eq. 13."""
    schedule, x = VP(), torch.tensor([[-1.2], [-0.1], [0.4], [1.5]], dtype=torch.float64)
    for t in (0.1, 0.4, 0.8):
        share, h = LINE.cdf(x, schedule(t)), 1e-4
        velocity = (LINE.quantile(share, schedule(t + h)) - LINE.quantile(share, schedule(t - h))) / (2 * h)
        beta = 0.1 + t * (20 - 0.1)
        close(velocity, -0.5 * beta * (x + LINE.score(x, schedule(t))), rtol=1e-5, atol=1e-7)


def test_shares_and_quantiles_want_one_dimension():
    with pytest.raises(ValueError, match="this world has 2"):
        skewed_mixture().cdf(randn(3, 2), (1.0, 0.0))
    with pytest.raises(ValueError, match="this world has 2"):
        skewed_mixture().quantile(torch.full((3, 1), 0.5), (1.0, 0.0))
    for wrong in (randn(3), randn(3, 2)):
        with pytest.raises(ValueError, match="they came as"):
            LINE.cdf(wrong, (1.0, 0.0))
        with pytest.raises(ValueError, match="they came as"):
            LINE.quantile(torch.full_like(wrong, 0.5), (1.0, 0.0))
    with pytest.raises(ValueError, match="a list of points"):
        isotropic_mixture([0.5, 0.5], [-1.0, 1.0], 0.1)  # type: ignore[list-item]
    for share in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="a share lies between 0 and 1"):
            LINE.quantile(torch.tensor([[share]]), (1.0, 0.0))


def test_plain_numbers_are_taken_to_the_last_digit():
    close(LINE.weights, [0.3, 0.7], rtol=1e-15)
    close(LINE.means, [[-0.6], [0.5]], rtol=1e-15)
    close(LINE.covariances, torch.full((2, 1, 1), 0.15**2, dtype=torch.float64), rtol=1e-15)


def test_draws_follow_their_generator_alone():
    one = WORLD.sample(6, seeded(3))
    torch.manual_seed(99)
    for a, b in zip(one, WORLD.sample(6, seeded(3)), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one[0], WORLD.sample(6, seeded(4))[0])


# --- what is refused: see test_fuzz.py


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: ONE_D.sample(0), "n = 0"),
        (lambda: isotropic_mixture([1.0], [[math.nan]], 1.0), "a finite point for each component"),
        (lambda: ONE_D.quantile(torch.ones(0, 1), (1.0, 0.0)), "B > 0"),
        (lambda: gaussian_reverse(math.inf, 1.0, LINEAR), "mean = inf"),
        (lambda: gaussian_reverse(0.0, -0.1, LINEAR), "variance = -0.1"),
        (lambda: FiniteData(torch.ones(2)), "a finite data set is"),
        (lambda: FiniteData(torch.ones(2, 1), 0), "chunk = 0"),
        (lambda: FiniteData(torch.ones(2, 3)).x0(torch.ones(2, 3), (1.0, 0.0)), "std = 0"),
        (lambda: FiniteData(torch.ones(2, 3)).x0(torch.ones(2, 1), (1.0, 1.0)), "like the data"),
        (lambda: FiniteData(torch.ones(2, 3)).log_prob(torch.ones(2, 3, 1), (1.0, 1.0)), "like the data"),
        (lambda: FiniteData(torch.ones(2, 3)).log_prob(torch.ones(2, 3), (1.0, 0.0)), "std = 0"),
    ],
)
def test_worlds_say_what_they_cannot_answer(function, message):
    with pytest.raises(ValueError, match=message):
        function()


def test_a_line_takes_a_level_for_each_item():
    x, now = randn(3, 1), VP()(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    each = [ONE_D.cdf(x[i : i + 1], VP()(t)) for i, t in enumerate((0.1, 0.5, 0.9))]
    close(ONE_D.cdf(x, now), torch.cat(each))
    close(ONE_D.quantile(ONE_D.cdf(x, now), now), x, atol=1e-6)
