"""Train a patch model from Python, look at its figures, save its bundle.

    python examples/train_a_model.py pcam/ model.safetensors

Without arguments it trains a ResNet18 for one short epoch on patches of two colours.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from histoslide.datasets import open_patches
from histoslide.training.fit import train
from histoslide.training.recipe import RECIPES, Recipe, Stage


def main(data_path: Path, out: Path, recipe: Recipe) -> None:
    """Train on any layout that histoslide recognises."""
    data = open_patches(data_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train(data, recipe, name=out.stem, device=device, on_epoch=print)
    model.save(out, half=True)
    print(f"accuracy {model.figures.accuracy:.3f}, AUC {model.figures.auc:.3f}")
    print(f"the fastai Learner is model.learner: {type(model.learner).__name__}")


def two_colours(folder: Path) -> Path:
    """Patches that anything can tell apart: violet is normal, pink is tumour."""
    rng = np.random.default_rng(0)
    for name, colour in (("normal", (110, 80, 160)), ("tumour", (190, 110, 160))):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.array(colour) + rng.integers(-25, 25, (96, 96, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), RECIPES["one-cycle"])
    else:
        quick = dataclasses.replace(
            RECIPES["one-cycle"],
            name="quick",
            architecture="resnet18",
            imagenet=False,
            stages=(Stage(epochs=1, lr=1e-3, crop_px=64),),
            batch_size=16,
        )
        with tempfile.TemporaryDirectory() as temporary:
            patches = two_colours(Path(temporary) / "patches")
            main(patches, Path(temporary) / "model.safetensors", quick)
