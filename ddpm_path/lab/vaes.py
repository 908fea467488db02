"""Variational auto-encoders on the bench: trained in seconds on a CPU, so without checkpoints, and measured."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_path.vae import BernoulliVAE, Bound, kl_to_prior, reconstruction


class Log(NamedTuple):
    """The two terms of the bound on held-out data after a step, each a mean over items, in nats."""

    step: int
    reconstruction: float
    kl: float


def train(
    vae: BernoulliVAE,
    bound: Bound,
    data: Tensor,
    held_out: Tensor,
    steps: int,
    samples: int = 1,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> list[Log]:
    """Raise the mean of `bound` on data (N, ...) by Adam [Kingma 2013, alg. 1]; the log tells of every 50th step.

    `samples` noises for each item and step. FloatingPointError at the first bound that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)
    log = []
    progress = tqdm(range(1, steps + 1), desc="training", unit="step")
    for step in progress:
        x = data[torch.randint(len(data), (batch,), generator=generator)]
        loss = -bound(*vae.inputs(x, samples, generator)).mean()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the bound is {-loss.item()} at step {step}: lower lr {lr:g} or look at the data")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 50 == 0:
            fit, cost = terms(vae, held_out)
            log.append(Log(step, float(fit), float(cost)))
            progress.set_postfix_str(f"reconstruction {fit:.1f}, KL {cost:.2f}")
    return log


@torch.no_grad()
def evaluate(vae: BernoulliVAE, bound: Bound, x: Tensor, samples: int = 1, seed: int = 0) -> Tensor:
    """The bound of each item, (N,), in nats, in parts that fit in memory."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.split(x, max(1, 20_000 // samples))
    return torch.cat([bound(*vae.inputs(part, samples, generator)) for part in parts])


@torch.no_grad()
def terms(vae: BernoulliVAE, x: Tensor, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Mean reconstruction and mean KL of items x (N, ...), in nats: their difference is the bound."""
    return evaluate(vae, reconstruction, x, samples).mean(), kl_to_prior(vae.posterior(x)).sum(1).mean()


def variances(vae: BernoulliVAE, bound: Bound, x: Tensor, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """How much one sample's estimate of the bound varies, and its gradient, over `draws` noises, each (N,).

    The gradient is with respect to mean and log-variance of q, its variances summed over all of these.
    """
    generator = torch.Generator().manual_seed(seed)
    values, gradients = [], []
    for _ in range(draws):
        log_likelihood, x, answer, eps = vae.inputs(x, 1, generator)
        mean, logvar = (each.detach().requires_grad_() for each in answer)
        value = bound(log_likelihood, x, (mean, logvar), eps)
        gradients.append(torch.cat(torch.autograd.grad(value.sum(), (mean, logvar)), 1))
        values.append(value.detach())
    return torch.stack(values).var(0), torch.stack(gradients).var(0).sum(1)
