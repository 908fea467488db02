"""The small network of the notebooks: it learns a world whose best denoiser is known, as its seed says."""

import torch
from helpers import LINEAR, gaussian_eps, randn

from ddpm_path.gaussian import fixed_large, q_sample
from ddpm_path.lab.small import learn
from ddpm_path.losses import EPS, X0, bound_loss, simple


def test_it_learns_the_best_denoiser_of_normal_data_from_either_loss():
    images = 0.3 + 0.4 * torch.randn(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = images.clamp(-1, 1).add(1).mul(127.5).round().div(127.5) - 1  # on the grid: moved by 1/255 at most
    best = gaussian_eps(0.3, 0.16, LINEAR)
    t = torch.tensor([100.0, 300.0, 600.0]).repeat_interleave(500)
    x0, eps = 0.3 + 0.4 * randn(1500, 1, 2, 2, seed=1).float(), randn(1500, 1, 2, 2, seed=2).float()
    x = q_sample(x0, eps, LINEAR(t))
    # The closed form reaches alpha_bar var / (alpha_bar var + 1 - alpha_bar); answering 0 costs 1.
    minimum = (best(x, t) - eps).square().mean()
    for loss, prediction in ((simple, EPS), (bound_loss(fixed_large), EPS), (simple, X0)):
        net = learn(loss, prediction, LINEAR, images, seed=0, steps=300)
        assert (net(x, t) - eps).square().mean() < minimum + 0.03, (loss, prediction)


def test_the_seed_decides_the_network_whatever_was_drawn_before():
    images, x, t = torch.zeros(200, 1, 2, 2), torch.ones(2, 1, 2, 2), torch.tensor([5.0, 500.0])
    one = learn(simple, EPS, LINEAR, images, seed=3, steps=3)(x, t)
    torch.rand(5)
    assert torch.equal(learn(simple, EPS, LINEAR, images, seed=3, steps=3)(x, t), one)
    assert not torch.equal(learn(simple, EPS, LINEAR, images, seed=4, steps=3)(x, t), one)
