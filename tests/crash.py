"""Trainings that are killed with SIGKILL, again and again, and must end bit-identical to one that never was.

    python tests/crash.py 25

Of so many kills every second falls inside a checkpoint's write, the others at random times. pytest does a few of them.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ddpm_path.lab import checkpoint, train
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.recipes import Recipe

NET = {"channels": 1, "classes": 10, "patch": 2, "widths": [8, 16], "attention": [1], "head_width": 8, "groups": 4}
RECIPE = Recipe("digits", NET | {"dropout": 0.1}, steps=60, batch=16, warmup=5)
WRITES = ("save_file", "torch.save", "to disk", "rename", "sweep")  # the moments of a write to be killed at


def child(folder: Path, moment: str) -> None:
    """Train in `folder`; killed at this moment of a later write, if `moment` names one."""
    torch.set_num_threads(1)
    train._picture = lambda *arguments: None
    die = lambda *arguments, **named: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    saves, real = [], checkpoint.save

    def save(*arguments) -> None:
        saves.append(arguments)
        if len(saves) == 2 and moment:
            owner, name = {
                "save_file": (checkpoint, "save_file"),
                "torch.save": (torch, "save"),
                "to disk": (checkpoint, "_to_disk"),
                "rename": (checkpoint.Path, "rename"),
                "sweep": (checkpoint.shutil, "rmtree"),
            }[moment]
            write = getattr(owner, name)

            def half(*arguments, **named) -> None:
                if name in ("save_file", "save"):  # leave half a file behind
                    write(*arguments, **named)
                    target = Path(arguments[1])
                    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
                die()

            setattr(owner, name, half)
        real(*arguments)

    train.save = save
    print("begun", flush=True)
    train.train(RECIPE, digits(8), folder, save_every=4)


def crash(kills: int, seed: int = 0) -> int:
    """Train with so many kills, each followed by a fresh process; the number that fell inside a write.

    AssertionError unless weights, average and log end as those of a run that was never stopped.
    """
    draw, inside = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder, whole = Path(name) / "killed", Path(name) / "whole"
        _child(whole, "").communicate()
        true = checkpoint.load(whole)
        for i in range(kills):
            moment = WRITES[(i // 2) % len(WRITES)] if i % 2 else ""
            run = _child(folder, moment)
            assert run.stdout is not None
            run.stdout.readline()
            if not moment:
                time.sleep(draw.uniform(0.0, 0.8))
                run.kill()
            run.communicate()
            inside += run.returncode == -signal.SIGKILL and bool(moment)
            found = checkpoint.load(folder)
            print(f"kill {i + 1}: {moment or 'at random'}, {found.steps if found else 0} steps kept", flush=True)
            if found and found.steps >= RECIPE.steps - 8:  # nearly done: compare, and begin another run
                _compare(folder, whole, true)
                folder = Path(name) / f"killed-{i}"
        _compare(folder, whole, true)
    return inside


def _compare(folder: Path, whole: Path, true: checkpoint.Checkpoint | None) -> None:
    _child(folder, "").communicate()
    found = checkpoint.load(folder)
    assert found is not None and true is not None and found.steps == true.steps == RECIPE.steps
    for network, tensors in true.weights.items():
        for key, value in tensors.items():
            assert torch.equal(found.weights[network][key], value), f"{network} {key} differs"
    logs = [[entry[:4] for entry in train.read_log(each)] for each in (folder, whole)]
    assert logs[0] == logs[1] and len(logs[0]) == RECIPE.steps, "the logs differ"


def _child(folder: Path, moment: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, __file__, "child", str(folder), moment]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]), sys.argv[3])
    else:
        inside = crash(int(sys.argv[1]))
        print(f"{sys.argv[1]} kills, {inside} of them inside a write: all resumed bit-exactly")
