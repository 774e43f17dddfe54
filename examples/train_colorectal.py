"""The colorectal notebook from Python: eight tissues, a rate from the finder, frozen then unfrozen.

    python examples/train_colorectal.py Kather_texture_2016_image_tiles_5000/ model.safetensors

Without arguments it trains a small network for a few short epochs on eight made-up textures.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from histoslide.datasets import PatchFolder
from histoslide.training.fit import train
from histoslide.training.rates import find_rate, scale_rates
from histoslide.training.recipe import RECIPES, Recipe

TISSUES = ("TUMOR", "STROMA", "COMPLEX", "LYMPHO", "DEBRIS", "MUCOSA", "ADIPOSE", "EMPTY")


def main(data_path: Path, out: Path, recipe: Recipe) -> None:
    """Train on one folder a tissue."""
    data = PatchFolder(root=data_path).divide(recipe.division(seed=42))  # random 20 %
    run = out.with_suffix(".run")
    search = find_rate(data, recipe)
    print(f"suggested learning rate: {search.suggestion:.2g}")
    if search.suggestion is not None:
        recipe = scale_rates(recipe, search.suggestion)
    model = train(data, recipe, name=out.stem, folder=run, finder=search, on_epoch=print)
    model.save(out)
    print(f"accuracy {model.figures.accuracy:.3f} over {len(data.classes)} tissues")
    print(f"loss plot, finder, confusion matrix, top losses: {model.report(run, data.valid)}")


def eight_textures(folder: Path) -> Path:
    """Stripes of eight widths and colours, 150 px as Kather's."""
    rng = np.random.default_rng(0)
    x = np.arange(150)
    for k, name in enumerate(TISSUES):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            wave = np.sin(x / (1.5 + k) + rng.uniform(0, 6))[None, :, None]
            colour = np.array([70 + 20 * k, 200 - 18 * k, 150])
            pixels = colour + 30 * wave + rng.integers(-15, 15, (150, 150, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), RECIPES["colorectal"])
    else:
        colorectal = RECIPES["colorectal"].from_random_weights()
        quick = dataclasses.replace(
            colorectal,
            architecture="resnet18",
            presize_px=64,
            network_px=48,
            batch_size=8,
            stages=tuple(dataclasses.replace(stage, epochs=1) for stage in colorectal.stages),
        )
        with tempfile.TemporaryDirectory() as temporary:
            tiles = eight_textures(Path(temporary) / "tiles")
            main(tiles, Path(temporary) / "model.safetensors", quick)
