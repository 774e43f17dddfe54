"""Figures of a bundle on labelled patches, computed the way `score` computes probabilities.

    python benchmarks/patch_figures.py pcam/ [--all] [--model FILE]

Judges the validation set of DATA, or with --all every labelled patch in it. The classes of the data
and of the model are matched by their order. For a model with a tumour class, also prints the
thresholds below which 90, 95, 98 and 99 % of the other patches lie, and the part of the tumour
patches at or above each: lesions are found with the first as --extend and the third as --seed.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from histoslide.datasets import Joined, PatchSet, open_patches
from histoslide.model import Model, load_model
from histoslide.patch_evaluation.figures import judge


def logits_of(model: Model, patches: PatchSet) -> torch.Tensor:
    """Calibrated logits of all patches, shape (n, classes), on the CPU."""
    parts = []
    for start in range(0, len(patches), model.batch_size):
        stop = min(start + model.batch_size, len(patches))
        tiles = np.stack([patches.read(i) for i in range(start, stop)])
        batch = torch.from_numpy(tiles).permute(0, 3, 1, 2)
        parts.append(model.logits(batch).cpu() / model.spec.temperature)
    return torch.cat(parts)


def operating_points(tumour: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Thresholds by the part of tumour-free patches below them.

    Args:
        tumour: probabilities, shape (n,).
        truth: whether each patch is tumour, shape (n,).
    """
    points = []
    for specificity in (0.90, 0.95, 0.98, 0.99):
        threshold = float(np.quantile(tumour[~truth], specificity, method="higher"))
        sensitivity = float((tumour[truth] >= threshold).mean())
        points.append(
            {"specificity": specificity, "threshold": threshold, "sensitivity": sensitivity}
        )
    return points


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    data = open_patches(arguments.data)
    patches = Joined((data.train, data.valid)) if arguments.all else data.valid
    model = load_model(arguments.model)
    started = time.monotonic()
    logits = logits_of(model, patches)
    seconds = time.monotonic() - started
    positive = model.spec.tumour_index
    figures = judge(logits, torch.from_numpy(patches.labels), positive=positive)
    points = []
    if positive is not None:
        tumour = torch.softmax(logits.double(), dim=1)[:, positive].numpy()
        points = operating_points(tumour, patches.labels == positive)
    rate = {"patches_per_second": round(len(patches) / seconds, 1), "device": str(model.device)}
    result = dataclasses.asdict(figures) | rate | {"operating_points": points}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
