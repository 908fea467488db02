"""Where a training runs: the best device of this machine, and its place among the processes of torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Place(NamedTuple):
    """One process of a training: its number, how many there are, and its device."""

    rank: int
    of: int
    device: torch.device

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

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""
        if self.of > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value / self.of


@contextmanager
def placed() -> Iterator[Place]:
    """The place of this process, connected to the others if torchrun started it: CUDA before MPS before the CPU."""
    if "LOCAL_RANK" not in os.environ:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        yield Place(0, 1, torch.device(device))
        return
    device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), torch.device(device))
    finally:
        dist.destroy_process_group()
