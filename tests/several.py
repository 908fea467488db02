"""A few training steps in the process that this is, of one or of several: the child of a test in test_device.py."""

import sys
from pathlib import Path

import torch
from crash import RECIPE

from ddpm_path.lab import train
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.device import placed
from ddpm_path.lab.recipes import Recipe

RECIPE = Recipe("digits", {**RECIPE.net, "dropout": 0.0}, steps=8, batch=16, warmup=2)

if __name__ == "__main__":
    torch.set_num_threads(1)
    train._picture = lambda *arguments: None
    with placed() as place:
        train.train(RECIPE, digits(8), Path(sys.argv[1]), save_every=4, place=place)
