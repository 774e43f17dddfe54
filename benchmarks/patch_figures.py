"""Figures of a bundle on labelled patches, computed the way `score` computes probabilities.

    python benchmarks/patch_figures.py pcam/ [--all] [--model FILE]

Judges the validation set of DATA, or with --all every labelled patch in it. The classes of the data
and of the model are matched by their order.
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
    figures = judge(logits, torch.from_numpy(patches.labels), positive=model.spec.tumour_index)
    rate = {"patches_per_second": round(len(patches) / seconds, 1), "device": str(model.device)}
    print(json.dumps(dataclasses.asdict(figures) | rate, indent=2))


if __name__ == "__main__":
    main()
