import math

import pytest
import torch
from helpers import LEVELS, LINEAR, close, gaussian_eps, randn, skewed_mixture
from torch import nn

from ddpm_path.gaussian import fixed_large, fixed_small, q_sample
from ddpm_path.losses import (
    EPS,
    X0,
    LossHistory,
    V,
    as_eps,
    bound_loss,
    bound_term,
    hybrid,
    importance,
    learned_bound,
    on_clock,
    prior_term,
    simple,
    weighted_times,
    with_decoder,
)
from ddpm_path.schedule import VE, VP, SubVP

PREDICTIONS = pytest.mark.parametrize("prediction", [EPS, X0, V], ids=["eps", "x0", "v"])


def answering(output):
    """A network that answers this, whatever it is asked."""
    return lambda x, t, label=None: output


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_ho2020_eq14_at_the_best_denoiser_is_the_closed_form_minimum(t):
    """E|eps - eps*|^2 = alpha_bar var / (alpha_bar var + 1 - alpha_bar) per dimension, for data N(0.7, 0.25)."""
    n, var, bar = 40_000, 0.25, float(LINEAR.alpha_bar[t])
    x0, eps = 0.7 + math.sqrt(var) * randn(n, 2, seed=1), randn(n, 2, seed=2)
    best = gaussian_eps(0.7, var, LINEAR)
    loss = simple(lambda x, t: best(x, t), EPS, LINEAR, x0, torch.full((n,), float(t)), eps)
    minimum = bar * var / (bar * var + 1 - bar)
    # A squared Gaussian has variance 2 minimum^2: relative standard error sqrt(2 / 2 n) of the mean of 2 n.
    close(loss.mean(), minimum, rtol=4 * math.sqrt(1 / n))


@PREDICTIONS
def test_ho2020_eq14_targets_spelled_out(prediction):
    scale, std = (c[:, None] for c in LINEAR(torch.tensor([1, 400, 1000])))
    x0, eps, output = randn(3, 3, seed=1), randn(3, 3, seed=2), randn(3, 3, seed=3)
    target = {EPS: eps, X0: x0, V: scale * eps - std * x0}[prediction]
    got = simple(answering(output), prediction, LINEAR, x0, torch.tensor([1.0, 400.0, 1000.0]), eps)
    close(got, ((output - target) ** 2).mean(1))


def test_ho2020_alg1_the_network_is_shown_x_t_and_its_time():
    x0, eps, t = randn(3, 3, 3, 3, seed=1), randn(3, 3, 3, 3, seed=2), torch.tensor([1.0, 400.0, 1000.0])
    seen = []

    def net(x, t):
        seen.append((x, t))
        return x

    simple(net, EPS, LINEAR, x0, t, eps)
    ((x, time),) = seen
    assert torch.equal(time, t)
    for i in range(3):
        bar = LINEAR.alpha_bar[int(t[i])]
        close(x[i], bar.sqrt() * x0[i] + (1 - bar).sqrt() * eps[i], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", [simple, bound_loss(fixed_large), hybrid, learned_bound])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_tell_the_time_as_precisely_as_x_and_at_least_in_float32(loss, dtype):
    """Not every device has float64, and bfloat16 takes 999 for 1000."""
    x0, seen = -torch.ones(2, 1, 3, 3, dtype=dtype), []

    def net(x, t):
        seen.append(t)
        return torch.cat([x, x], dim=1) if loss in (hybrid, learned_bound) else x

    loss(net, EPS, LINEAR, x0, torch.tensor([1.0, 999.0], dtype=torch.float64), torch.ones_like(x0))
    wanted = torch.tensor([1, 999], dtype=torch.promote_types(dtype, torch.float32))
    for t in seen:
        torch.testing.assert_close(t, wanted, rtol=0, atol=0)
    assert seen


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        (lambda x: x[:, :1], (3, 2, 3, 3)),
        (lambda x: x.flatten(), (3, 1)),  # as many numbers; broadcasting would compare every answer with every target
        (lambda x: x.float(), (3, 2, 3, 3)),
        (lambda x: (x,), (3, 2, 3, 3)),
    ],
)
def test_an_answer_of_another_shape_type_or_dtype_is_refused_not_broadcast(wrong, shape):
    x0, t = randn(*shape), torch.tensor([1.0, 400.0, 1000.0])
    with pytest.raises(ValueError, match="a network answer"):
        simple(lambda x, t: wrong(x), EPS, LINEAR, x0, t, randn(*shape, seed=1))
    with pytest.raises(ValueError, match="a network answer"):
        as_eps(lambda x, t, label: wrong(x), V, LINEAR)(x0, t)


def test_ho2020_eq14_is_one_number_an_example_averaged_over_its_dimensions():
    x0, eps = randn(5, 2, 3, 4, seed=1), randn(5, 2, 3, 4, seed=2)
    t = torch.tensor([1.0, 2.0, 400.0, 999.0, 1000.0])
    loss = simple(lambda x, t: 0.5 * x, EPS, LINEAR, x0, t, eps)
    assert loss.shape == (5,)
    for i in range(5):
        one = simple(lambda x, t: 0.5 * x, EPS, LINEAR, x0[i : i + 1], t[i : i + 1], eps[i : i + 1])
        close(loss[i : i + 1], one)
    close(simple(answering(eps + 3), EPS, LINEAR, x0, t, eps), torch.full((5,), 9.0))  # not 9 times 24, not 3
    close(simple(answering(eps), EPS, LINEAR, x0, t, eps), torch.zeros(5))


def test_ho2020_eq14_gradient():
    """d loss / d output = 2 (output - target) / dims: nothing detached, nothing rooted."""
    x0, eps, output = randn(4, 2, 3, seed=1), randn(4, 2, 3, seed=2), randn(4, 2, 3, seed=3).requires_grad_()
    loss = simple(answering(output), EPS, LINEAR, x0, torch.full((4,), 500.0), eps)
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    close(gradient, 2 * (output.detach() - eps) / 6)


@PREDICTIONS
def test_ho2020_eq14_least_squares_finds_the_posterior_mean(prediction):
    """An affine network fitted to the loss is, read as eps, the closed form for Gaussian data."""
    n, t, x_at = 40_000, 300, torch.tensor([[-1.0], [0.0], [2.0]]).double()
    x0, eps = 0.7 + 0.5 * randn(n, 1, seed=1), randn(n, 1, seed=2)
    net = nn.Linear(1, 1).double()

    def call(x, t, label=None):
        return net(x)

    optimiser = torch.optim.LBFGS(net.parameters(), lr=1, max_iter=50)

    def closure():
        optimiser.zero_grad()
        loss = simple(call, prediction, LINEAR, x0, torch.full((n,), float(t)), eps).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        got = as_eps(call, prediction, LINEAR)(x_at, torch.full((3,), float(t)))
    # Standard error of a regression at 3 deviations from the mean: sqrt(residual (1 + 9) / n) <= 0.016.
    close(got, gaussian_eps(0.7, 0.25, LINEAR)(x_at, torch.full((3,), float(t))), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("schedule", "t"), [(LINEAR, 1.0), (LINEAR, 400.0), (LINEAR, 1000.0), (SubVP(), 0.5), (VE(), 0.4)]
)
def test_every_prediction_of_one_posterior_reads_as_the_same_eps(schedule, t):
    world, x, times = skewed_mixture(), randn(6, 2), torch.full((6,), t, dtype=torch.float64)
    scale, std = schedule(times[0])
    x0, eps = world.x0(x, (scale, std)), world.eps_fn(schedule)(x, times)
    for prediction, output in [(EPS, eps), (X0, x0), (V, scale * eps - std * x0)]:
        # (x - scale x0) / std cancels at low noise
        close(as_eps(answering(output), prediction, schedule)(x, times), eps, rtol=1e-9, atol=1e-10)


@PREDICTIONS
def test_as_eps_passes_x_t_and_label_on(prediction):
    def net(x, t, label=None):
        return x * t[:, None] + (0 if label is None else label[:, None])

    x, t, label = randn(3, 3), torch.tensor([1.0, 400.0, 1000.0]), torch.tensor([3, 0, 7])
    eps_net = as_eps(net, prediction, LINEAR)
    now = LINEAR(t)
    close(eps_net(x, t, label), prediction.eps(x, net(x, t, label), now))
    close(eps_net(x, t), prediction.eps(x, net(x, t), now))
    assert as_eps(net, EPS, LINEAR)(x, t, label).equal(net(x, t, label))


@pytest.mark.parametrize("schedule", [LINEAR, VP(), SubVP(), VE()])
def test_salimans2022_sec4_v_and_x0_losses_are_the_eps_loss_reweighed(schedule):
    """v-loss = eps-loss (scale^2 + std^2)^2 / scale^2, 1 / scale^2 on VP, and x0-loss = eps-loss std^2 / scale^2."""
    times = torch.linspace(0.1, 1, 5, dtype=torch.float64) * schedule.T
    scale, std = schedule(times)
    x0, eps, v = randn(5, 4, seed=1), randn(5, 4, seed=2), randn(5, 4, seed=3)
    eps_loss = simple(as_eps(answering(v), V, schedule), EPS, schedule, x0, times, eps)
    close(simple(answering(v), V, schedule, x0, times, eps), eps_loss * ((scale**2 + std**2) / scale) ** 2, rtol=1e-9)
    x = q_sample(x0, eps, (scale, std))
    implied = (x - std[:, None] * as_eps(answering(v), V, schedule)(x, times)) / scale[:, None]
    close(simple(answering(implied), X0, schedule, x0, times, eps), eps_loss * std**2 / scale**2, rtol=1e-9)


@pytest.mark.parametrize("now", LEVELS)
@PREDICTIONS
def test_the_true_target_reads_as_the_true_eps(prediction, now):
    x0, eps = randn(4, 3, seed=1), randn(4, 3, seed=2)
    close(prediction.eps(q_sample(x0, eps, now), prediction.target(x0, eps, now), now), eps, atol=1e-12)


# --- what is refused: see test_fuzz.py


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: on_clock(answering(None), math.nan), "rate = nan"),
        (lambda: on_clock(answering(None), -1), "rate = -1"),
        (lambda: prior_term(LINEAR, torch.ones(2, 3).long()), "convert it to floats"),
        (lambda: importance(torch.ones(3, 2), -0.1), "floor = -0.1"),
        (lambda: importance(torch.ones(3, 2), 1.1), "floor = 1.1"),
        (lambda: LossHistory(0), "T = 0"),
        (lambda: LossHistory(1, 0), "each = 0"),
        (lambda: LossHistory(3).add(torch.tensor([0.0]), torch.ones(1)), r"from 1 to 3; got \[0.0\]"),
        (lambda: LossHistory(3).add(torch.tensor([4.0]), torch.ones(1)), r"from 1 to 3; got \[4.0\]"),
        (lambda: LossHistory(3).add(torch.tensor([1.5]), torch.ones(1)), r"whole, from 1 to 3; got \[1.5\]"),
        (lambda: LossHistory(3).add(torch.tensor(1.0), torch.tensor(1.0)), r"times are \(B,\)"),
        (lambda: weighted_times(torch.ones(3), 0), "batch = 0"),
        (lambda: weighted_times(torch.zeros(3), 1), r"p is \(T,\)"),
        (lambda: weighted_times(torch.ones(3, 1), 1), r"p is \(T,\)"),
        (lambda: weighted_times(torch.tensor([2.0, -1.0]), 1), r"p is \(T,\)"),
        (lambda: weighted_times(torch.tensor([1.0, math.inf]), 1), r"p is \(T,\)"),
        (lambda: with_decoder(fixed_small, LINEAR, []), r"\[\], lends its decoder no variance"),
        (lambda: bound_term(None, LINEAR, X0S, torch.ones(3), torch.zeros(2), X0S), "of each example"),
        (lambda: bound_term(None, LINEAR, X0S, torch.ones(2), torch.zeros(1), X0S), "of each example"),
        (lambda: bound_term(None, LINEAR, X0S, torch.ones(2), torch.tensor([0.0, 1.0]), X0S), "an earlier s"),
    ],
)
def test_losses_say_what_they_cannot_answer(function, message):
    with pytest.raises(ValueError, match=message):
        function()


X0S = torch.ones(2, 3)


def test_the_ends_of_what_losses_take():
    close(importance(torch.ones(3, 2), 1), [1 / 3] * 3)
    close(importance(torch.tensor([[1.0], [3.0]]), 0), [0.25, 0.75])
    history = LossHistory(2, 1)
    history.add(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert history.count.tolist() == [1, 1]
    assert weighted_times(torch.tensor([0.0, 2.0]), 2)[0].tolist() == [2, 2]
    close(prior_term(LINEAR, X0S[:, 0]), prior_term(LINEAR, X0S[:, :1]))


def test_a_loss_history_keeps_numbers_and_no_graph():
    history = LossHistory(3, 1)
    history.add(torch.tensor([2.0]), torch.tensor([4.0], requires_grad=True))
    assert history.losses[1, 0] == 4 and not history.losses.requires_grad
