"""The PatchCamelyon notebook from Python: look at patches, train, look at what it gets wrong.

    python examples/train_pcam.py pcam/ model.safetensors

Without arguments it trains a small network for two short epochs on patches of two colours.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from histoslide.datasets import PatchFolder
from histoslide.training.fit import train
from histoslide.training.recipe import RECIPES, Recipe


def main(data_path: Path, out: Path, recipe: Recipe) -> None:
    """Train on any layout that histoslide recognises."""
    data = PatchFolder(root=data_path).divide(recipe.division())
    run = out.with_suffix(".run")
    model = train(data, recipe, name=out.stem, folder=run, on_epoch=print)
    model.save(out, half=True)
    print(f"accuracy {model.figures.accuracy:.4f}, AUC {model.figures.auc:.4f}")
    print(f"curves, ROC, confusion matrix, top losses: {model.report(run, data.valid)}")
    # From here on it is fastai: model.learner.show_results(), model.learner.fit_one_cycle(1) …
    print(f"parameter groups: {[len(group) for group in model.learner.opt.param_lists]}")


def two_colours(folder: Path) -> Path:
    """Patches in folders, whose centre 32 px tell their class: violet is normal, pink tumour."""
    rng = np.random.default_rng(0)
    for name, colour in (("normal", (110, 80, 160)), ("tumour", (190, 110, 160))):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(90, 230, (96, 96, 3))
            pixels[32:64, 32:64] = np.array(colour) + rng.integers(-25, 25, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}-{i}.png")
    return folder


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), RECIPES["pcam"])
    else:
        pcam = RECIPES["pcam"].from_random_weights()
        quick = dataclasses.replace(
            pcam,
            architecture="resnet18",
            network_px=64,
            batch_size=16,
            valid_fraction=0.2,
            stages=tuple(dataclasses.replace(stage, epochs=1) for stage in pcam.stages),
        )
        with tempfile.TemporaryDirectory() as temporary:
            patches = two_colours(Path(temporary) / "patches")
            main(patches, Path(temporary) / "model.safetensors", quick)
