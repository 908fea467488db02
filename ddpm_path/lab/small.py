"""A network small enough to be trained ten times within a minute, for notebooks that compare losses."""

import itertools

import torch
from torch import Tensor, nn

from ddpm_path.lab.train import maximise, stratified_times
from ddpm_path.losses import Loss, Network, Prediction, as_eps
from ddpm_path.schedule import Discrete
from ddpm_path.unet import time_embedding


class MLP(nn.Module):
    """Three hidden layers on all pixels at once: x (B, ...) of `dims` numbers and t (B,) to an answer like x."""

    def __init__(self, dims: int, width: int = 192, embedding: int = 64) -> None:
        super().__init__()
        self.embedding = embedding
        widths = (dims + embedding, width, width, width)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dims))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The answer; it has no classes, so a label changes nothing."""
        time = time_embedding(t, self.embedding).to(x.dtype)
        answer: Tensor = self.layers(torch.cat([x.flatten(1), time], 1))
        return answer.view_as(x)


def learn(
    loss: Loss,
    prediction: Prediction,
    schedule: Discrete,
    images: Tensor,
    seed: int,
    steps: int = 1000,
    batch: int = 128,
    lr: float = 2e-3,
) -> Network:
    """The noise predictor in an MLP trained on a loss, with a progress bar. The seed decides weights, data and noise.

    FloatingPointError at the first loss that is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MLP(images[0].numel())
    draw = torch.Generator().manual_seed(seed)

    def minus_loss() -> Tensor:
        x0 = images[torch.randint(len(images), (batch,), generator=draw)]
        eps = torch.randn(x0.shape, generator=draw)
        return -loss(net, prediction, schedule, x0, stratified_times(batch, schedule.T, draw), eps).mean()

    maximise(minus_loss, net.parameters(), steps, lr, f"seed {seed}")
    return as_eps(net.requires_grad_(False), prediction, schedule)
