"""A small noise predictor for points in the plane, trained at a steady rate beside the average of its weights."""

import copy

import torch
from torch import Tensor, nn

from ddpm_path.exact import GaussianMixture
from ddpm_path.lab.train import update_ema
from ddpm_path.losses import EPS, simple
from ddpm_path.schedule import Schedule


class PlanarNet(nn.Module):
    """(x, std) on `schedule` to eps, x (B, 2): two layers of 64 softplus, as NCSN's toy has; x enters at size 1."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.Softplus(), nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, 2) and t (B,) in the schedule's time to eps (B, 2)."""
        std = self.schedule(t)[1].to(x)[:, None]
        eps: Tensor = self.layers(torch.cat([x / (1 + std**2).sqrt(), std.log()], 1))
        return eps


def fit(world: GaussianMixture, schedule: Schedule, seed: int) -> tuple[PlanarNet, PlanarNet]:
    """A network trained on `simple` with `EPS` at uniform times by Adam at lr 1e-3, and the average of its weights."""
    steps, batch = 1500, 128
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PlanarNet(schedule)
        data = world.sample(steps * batch)[0].float().split(batch)  # type: ignore[no-untyped-call]
        average, optimiser = copy.deepcopy(net).requires_grad_(False), torch.optim.Adam(net.parameters(), lr=1e-3)
        for step, x0 in enumerate(data):
            t = schedule.first + (schedule.T - schedule.first) * torch.rand(batch)
            loss = simple(net, EPS, schedule, x0, t, torch.randn(batch, 2)).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            update_ema(average, net, step, 0.999)
    return net.requires_grad_(False), average
