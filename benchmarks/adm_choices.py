"""ADM's choices on digits: trains the networks of notebook 10 to data/zoo/choices/.

    python benchmarks/adm_choices.py

Six small U-Nets, three seeds each; some four minutes of one core. Networks that are there already are kept.
"""

import argparse
from dataclasses import asdict

import torch

from ddpm_path.lab import zoo
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.making import hardware
from ddpm_path.lab.recipes import CHOICES, Recipe
from ddpm_path.lab.train import train


def main() -> None:
    """Train and save them all."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    data, folder = digits(), zoo.ZOO / "choices"
    folder.mkdir(exist_ok=True)
    for seed in range(3):
        for name, net in CHOICES.items():
            if f"{name}-{seed}" in zoo.names(folder):
                continue
            recipe = Recipe("digits", net, steps=200, prediction="eps", batch=16, warmup=50, seed=seed)
            trained = train(recipe, data)
            card = {"kind": "diffusion", "recipe": asdict(recipe), "data_digest": data.digest, "classes": data.classes}
            card |= {"seconds": round(trained.log[-1].seconds), "hardware": hardware(), "torch": torch.__version__}
            zoo.save(f"{name}-{seed}", trained.ema, card, folder)


if __name__ == "__main__":
    main()
