"""How each package trains on MNIST and samples, without labels, as its own documentation does: for peers.py."""

import copy
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from measure import Ask
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_path.lab import datasets, metrics, recipes
from ddpm_path.lab.train import train, update_ema
from ddpm_path.samplers import ddim

Form = dict[str, Any]
"""The arguments that make a network of a package."""
Learn = Callable[[nn.Module, Iterator[Tensor]], Iterator[Callable[[], nn.Module]]]
"""A network and batches to training steps, one each time it is asked; a call of its answer makes what one samples from.
"""


class Package(NamedTuple):
    """A package as its documentation uses it.

    forms: its networks by name, the documented one first; alike: the one with about as many parameters as `mnist`;
    side: of the images it takes; trial: a form and a number of steps to the second at which each ended; train: a form,
    one or more numbers of steps and a seed to the network that one samples from after each.
    """

    make: Callable[..., nn.Module]
    forms: dict[str, Form]
    alike: Form
    side: int
    ask: Ask
    trial: Callable[[Form, int], list[float]]
    train: Callable[[Form, Sequence[int], int], Iterator[nn.Module]]
    draw: Callable[[nn.Module, int, int], Tensor]


# --- training


def ours(width: int, attention: Sequence[int] = (1,), **changes: Any) -> recipes.Recipe:
    """The recipe `mnist` without labels, at another width, with other attention and other changes."""
    net = recipes.SMALL | {"classes": 0, "widths": [width, 2 * width], "attention": [*attention], "head_width": width}
    return replace(recipes.RECIPES["mnist"], net=net, label_dropout=0.0, restart=0, **changes)


def our_network(**changes: Any) -> nn.Module:
    """What it trains."""
    return ours(**changes).network()


def short(width: int, lr: float) -> Form:
    """A network of ours for a short training: a higher rate, and most times halfway."""
    return {"width": width, "lr": lr, "logit_normal": True}


def trial(form: Form, steps: int) -> list[float]:
    """When each step of ours ended."""
    return [entry.seconds for entry in train(replace(ours(**form), steps=steps), datasets.mnist()).log]


def fitted(form: Form, steps: Sequence[int], seed: int) -> Iterator[nn.Module]:
    """Ours: its cosine wants to know the number of steps, so there is a run for each."""
    for each in steps:
        yield train(replace(ours(**form), steps=each, seed=seed), datasets.mnist()).ema


class Peer(NamedTuple):
    """What trains a package whose rate is constant: one run, and what it would sample from at each number of steps."""

    make: Callable[..., nn.Module]
    learn: Learn
    batch: int
    side: int

    def steps(self, form: Form, seed: int) -> Iterator[Callable[[], nn.Module]]:
        """Its steps, one each time it is asked."""
        torch.manual_seed(seed)
        return self.learn(self.make(**form), batches(datasets.mnist().train, self.batch, self.side))

    def trial(self, form: Form, steps: int) -> list[float]:
        """When each step ended."""
        began = time.perf_counter()
        return [time.perf_counter() - began for _ in islice(self.steps(form, 0), steps)]

    def train(self, form: Form, steps: Sequence[int], seed: int) -> Iterator[nn.Module]:
        """Copies after each of `steps`, which are sorted."""
        for step, net in enumerate(islice(tqdm(self.steps(form, seed), "training", steps[-1]), steps[-1]), 1):
            if step in steps:
                yield copy.deepcopy(net()).eval()


def batches(images: Tensor, size: int, side: int) -> Iterator[Tensor]:
    """Images (N, 1, 28, 28) in [-1, 1] in a fresh order each time round, framed with background where side is 32."""
    frame = (side - 28) // 2
    while True:
        for at in torch.randperm(len(images)).split(size)[: len(images) // size]:
            yield F.pad(images[at], (frame,) * 4, value=-1.0)


# --- the packages


@cache
def peer(name: str) -> ModuleType:
    """A peer; where there is no torchvision, which it only imports, with something in its place meanwhile."""
    importlib.import_module("accelerate")  # looks for torchvision in earnest
    absent = find_spec("torchvision") is None
    if absent:
        sys.modules["torchvision"] = MagicMock()
    try:
        return importlib.import_module(name)
    finally:
        if absent:
            del sys.modules["torchvision"]


def draw_ours(net: nn.Module, n: int, calls: int) -> Tensor:
    """DDIM's sampler on an even grid, x_0 clipped, with more fresh noise than DDPM's: for short trainings."""
    eta = 2.0 if calls < 100 else 3.0
    recipe, seed = recipes.RECIPES["mnist"], int(torch.randint(2**31, ()))
    shape, times, sampler = (1, 28, 28), recipe.times(calls), partial(ddim, eta=eta)
    return metrics.sample(recipe.as_eps(net), recipe.schedule(), n, shape, times, seed, sampler=sampler)


def diffusers_network(width: int, groups: int) -> nn.Module:
    """The course's network for MNIST, at any width."""
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(width, 2 * width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=groups,
    )


def diffusers_scheduler() -> DDPMScheduler:
    """The course's chain for MNIST."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def learn_diffusers(net: nn.Module, images: Iterator[Tensor]) -> Iterator[Callable[[], nn.Module]]:
    """The course's loop, with the moving average of the training script."""
    scheduler, optimiser = diffusers_scheduler(), torch.optim.Adam(net.parameters(), lr=1e-3)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True)

    def averaged() -> nn.Module:
        ema.copy_to((average := copy.deepcopy(net)).parameters())
        return average

    for x in images:
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        loss = F.mse_loss(net(scheduler.add_noise(x, noise, t), t).sample, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ema.step(net.parameters())
        yield averaged


def draw_diffusers(net: nn.Module, n: int, calls: int) -> Tensor:
    """Its pipeline."""
    pipeline = DDPMPipeline(net, diffusers_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=n, num_inference_steps=calls, output_type="np").images
    return 2 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1


def denoising_network(width: int) -> nn.Module:
    """The read-me's network, for grey images."""
    unet = peer("denoising_diffusion_pytorch").Unet
    return unet(dim=width, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=True)


def learn_denoising(net: nn.Module, images: Iterator[Tensor]) -> Iterator[Callable[[], nn.Module]]:
    """What its Trainer does with the read-me's settings; images come in [0, 1], two batches to a step."""
    diffusion = peer("denoising_diffusion_pytorch").GaussianDiffusion(net, image_size=32, timesteps=1000)
    optimiser = torch.optim.Adam(diffusion.parameters(), lr=8e-5, betas=(0.9, 0.99))
    ema = importlib.import_module("ema_pytorch").EMA(diffusion, beta=0.995, update_every=10)
    while True:
        for _ in range(2):
            (diffusion((next(images) + 1) / 2) / 2).backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update()
        yield lambda: ema.ema_model.model


def draw_denoising(net: nn.Module, n: int, calls: int) -> Tensor:
    """DDIM, as its read-me samples in fewer steps than 1,000; the frame is cut off."""
    diffusion = peer("denoising_diffusion_pytorch").GaussianDiffusion(net, image_size=32, sampling_timesteps=calls)
    return 2 * diffusion.sample(batch_size=n)[:, :, 2:-2, 2:-2] - 1


def small_network(width: int, mults: tuple[int, ...] = (1, 1, 2), blocks: int = 2) -> nn.Module:
    """The network of its example on Fashion-MNIST, at any width that is a multiple of 32."""
    package = peer("smalldiffusion")
    form = {"ch": width, "ch_mult": mults, "num_res_blocks": blocks, "attn_resolutions": (14,)}
    return package.Scaled(package.Unet)(28, 1, 1, **form)


def small_schedule() -> Any:
    """That example's noise levels."""
    return peer("smalldiffusion").ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)


def learn_small(net: nn.Module, images: Iterator[Tensor]) -> Iterator[Callable[[], nn.Module]]:
    """Its own loop; the example's moving average warms up by the rule that ours has."""
    ema = copy.deepcopy(net)
    for step, _ in enumerate(peer("smalldiffusion").training_loop(images, net, small_schedule(), epochs=1, lr=7e-4)):
        if step:  # it answers before the optimiser's step
            update_ema(ema, net, step, 0.999)
            yield lambda: ema


def draw_small(net: nn.Module, n: int, calls: int) -> Tensor:
    """That example's sampler."""
    *_, x0 = peer("smalldiffusion").samples(net, small_schedule().sample_sigmas(calls), gam=1.6, batchsize=n)
    return x0.clamp(-1, 1)


DIFFUSERS = Peer(diffusers_network, learn_diffusers, 128, 28)
DENOISING = Peer(denoising_network, learn_denoising, 32, 32)
SMALL = Peer(small_network, learn_small, 64, 28)
PACKAGES: dict[str, Package] = {
    "here": Package(
        our_network,
        {
            "48": {"width": 48},
            "24": short(24, 6e-3),
            "16": short(16, 8e-3),
            "16-middle": short(16, 8e-3) | {"attention": ()},
        },
        {"width": 48},
        28,
        lambda net, x, t: net(x, t),
        trial,
        fitted,
        draw_ours,
    ),
    "diffusers": Package(
        diffusers_network,
        {str(width): {"width": width, "groups": 32 if width == 32 else 8} for width in (32, 24, 16, 8)},
        {"width": 32, "groups": 32},
        28,
        lambda net, x, t: net(x, t).sample,
        DIFFUSERS.trial,
        DIFFUSERS.train,
        draw_diffusers,
    ),
    "denoising-diffusion-pytorch": Package(
        denoising_network,
        {str(width): {"width": width} for width in (64, 32, 16, 8)},
        {"width": 14},
        32,
        lambda net, x, t: net(x, t),
        DENOISING.trial,
        DENOISING.train,
        draw_denoising,
    ),
    "smalldiffusion": Package(
        small_network,
        {
            "64": {"width": 64},
            "32": {"width": 32},
            "32-one-block": {"width": 32, "blocks": 1},
            "32-even": {"width": 32, "mults": (1, 1, 1)},
        },
        {"width": 32, "mults": (1, 2, 2)},
        28,
        lambda net, x, t: net(x, t[:, None, None, None]),
        SMALL.trial,
        SMALL.train,
        draw_small,
    ),
}
