"""A training's folder: one run writes to it at a time, and its checkpoints are there whole or not at all.

A checkpoint is a folder, `checkpoint-000250` after 250 steps: weights as .safetensors, the rest in `state.pt`. It is
written beside its place and moved there when complete, so whoever is killed at any moment leaves the one before.
"""

import csv
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = Mapping[str, Tensor]
STATE = "state.pt"


class Checkpoint(NamedTuple):
    """What a checkpoint holds: the steps done, weights by name of the network, and everything else."""

    steps: int
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made, for one run; ValueError if another one, on this machine, holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another training writes to {folder}: wait for it, or choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def save(folder: Path, steps: int, weights: Mapping[str, Weights], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, and only then remove earlier ones; OSError, a full disk say, leaves those as they were."""
    part = folder / ".checkpoint.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for name, tensors in weights.items():
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(whole, part / f"{name}.safetensors")
        torch.save(dict(state), part / STATE)
        for file in part.iterdir():
            _to_disk(file)
        earlier = list(_all(folder).values())
        part.rename(folder / f"checkpoint-{steps:06d}")
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, RuntimeError | SafetensorError):  # how torch and safetensors report that the disk is full
            raise OSError(f"could not write a checkpoint to {folder}: {error}; the last one is kept") from error
        raise
    for old in earlier:
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> Checkpoint | None:
    """The latest checkpoint, on the CPU, or None; ValueError if it is damaged. Nothing in it is executed."""
    found = _all(folder)
    if not found:
        return None
    steps = max(found)
    path = found[steps]
    try:
        state = torch.load(path / STATE, weights_only=True, map_location="cpu")
        weights = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}): delete it to start over") from error
    return Checkpoint(steps, weights, state)


def append(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Add rows to a CSV file, which gets its header first, and see them on the disk."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*([header] if new else []), *rows])
        file.flush()
        os.fsync(file.fileno())


def _all(folder: Path) -> dict[int, Path]:
    names = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    return {int(match[1]): path for path, match in names.items() if match and (path / STATE).exists()}


def _to_disk(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
