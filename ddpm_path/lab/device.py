"""Where a training runs: the best device of this machine, and its place among the processes of torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm_path.losses import Network


class Place(NamedTuple):
    """One process of a training: its number, how many there are, its device, and how it computes there.

    bf16: the network's products in bfloat16, its weights and all else in float32. compiled: through `torch.compile`.
    """

    rank: int
    of: int
    device: torch.device
    bf16: bool = False
    compiled: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The part of a global batch that is this process's; ValueError unless it divides evenly."""
        if batch % self.of:
            raise ValueError(f"batch {batch} cannot be divided among {self.of} processes: choose a multiple")
        part = batch // self.of
        return slice(self.rank * part, (self.rank + 1) * part)

    def runner(self, net: nn.Module) -> Network:
        """The network as this process runs it in training: its gradients are the mean over all processes'."""
        run: nn.Module = DistributedDataParallel(net) if self.of > 1 else net
        if self.compiled:
            run = torch.compile(run)  # type: ignore[assignment]

        def answer(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                out: Tensor = run(x, t, label)
            return out.to(x.dtype)

        return answer

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""
        if self.of > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value / self.of


def best_device() -> torch.device:
    """CUDA before MPS before the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


@contextmanager
def placed(bf16: bool = False, compiled: bool = False) -> Iterator[Place]:
    """The place of this process, connected to the others if torchrun started it; ValueError for bf16 on a CPU."""
    device, several = best_device(), "LOCAL_RANK" in os.environ
    if bf16 and device.type == "cpu":
        raise ValueError("bf16 saves time on a GPU, and this machine has none that torch can use: leave it out")
    if not several:
        yield Place(0, 1, device, bf16, compiled)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), device, bf16, compiled)
    finally:
        dist.destroy_process_group()
