"""What ``--mode dense`` and ``--mode cascade`` cost in accuracy and gain in speed.

    python benchmarks/modes.py patches pcam/valid
    python benchmarks/modes.py slide slide.tif --mpp 0.5

``patches`` takes a folder per class. Each patch is put into the middle of a mosaic, so that its
tile has surroundings as on a slide: of other patches, or of its own reflection. The dense
probability of the middle cell is compared with the patch's own. ``slide`` scores a slide in all
modes, one after the other in the same process, and compares cell by cell with exact tiles. A
positive cell that dense puts below the threshold of the cascade is lost to it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from histoslide.datasets import PatchFolder
from histoslide.geometry import Mpp
from histoslide.model import Model, load_model
from histoslide.model.graphs import AreaGraph
from histoslide.scoring.lazy import make_heatmap
from histoslide.scoring.mode import ScoreMode
from histoslide.slide import open_slide
from histoslide.store import store_heatmap

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
POSITIVE = 0.5


def compare_patches(model: Model, folder: Path, limit: int | None) -> None:
    """Print how the dense probability of patches in mosaics compares with their own."""
    data, _ = PatchFolder(root=folder).part("all")
    chosen = np.random.default_rng(0).permutation(len(data))[:limit]
    pixels = np.stack([data.read(int(i)) for i in chosen])
    labels = np.asarray(data.labels)[chosen]
    exact = tumour(model, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    print(f"{len(labels):,} patches, exact AUC {roc_auc_score(labels, exact):.4f}")
    graph = AreaGraph(model.spec, model._network(), stride_px=32).eval()  # noqa: SLF001
    for context in ("others", "reflection"):
        dense = np.empty(len(labels), dtype=np.float32)
        rng = np.random.default_rng(1)
        for index in range(len(labels)):
            area = torch.from_numpy(mosaic(pixels, index, context, rng)).permute(2, 0, 1)[None]
            with torch.inference_mode():
                logits = graph(area)[0, 3, 3] / model.spec.temperature
            dense[index] = float(torch.softmax(logits, dim=0)[model.spec.tumour_index])
        difference = np.abs(dense - exact)
        print(
            f"among {context}: AUC {roc_auc_score(labels, dense):.4f}, difference mean "
            f"{difference.mean():.3f}, largest {difference.max():.3f}"
        )
        positive = (exact >= POSITIVE) & (labels == model.spec.tumour_index)
        print_losses(dense, positive, "tumour patches called so by exact")


def tumour(model: Model, tiles: torch.Tensor) -> NDArray[np.float32]:
    """P(tumour) of tiles."""
    parts = [model.probabilities(part)[:, model.spec.tumour_index] for part in tiles.split(32)]
    return np.concatenate(parts)


def mosaic(
    pixels: NDArray[np.uint8], index: int, context: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A patch in the middle of eight others, or of its own reflection."""
    side = pixels.shape[1]
    if context == "reflection":
        return np.pad(pixels[index], ((side, side), (side, side), (0, 0)), mode="symmetric")
    parts = pixels[rng.integers(len(pixels), size=9)]
    parts[4] = pixels[index]
    return parts.reshape(3, 3, side, side, 3).swapaxes(1, 2).reshape(3 * side, 3 * side, 3)


def print_losses(dense: NDArray[np.float32], positive: NDArray[np.bool_], what: str) -> None:
    """Print, by threshold, how many positives are lost and how much is looked at again."""
    print(f"  {positive.sum():,} {what}; threshold: lost, share looked at again")
    for threshold in THRESHOLDS:
        lost, again = int((dense[positive] < threshold).sum()), (dense >= threshold).mean()
        print(f"  {threshold:5.2f}: {lost:4} ({lost / positive.sum():.4f}), {again:.3f}")


def compare_slide(model: Model, path: Path, mpp: float | None) -> None:
    """Print how modes compare on a slide, and how long each takes."""
    resolution = None if mpp is None else Mpp(value=mpp, source="--mpp")
    found: dict[str, NDArray[np.float32]] = {}
    with open_slide(path, mpp=resolution) as slide, tempfile.TemporaryDirectory() as folder:
        for mode in ("exact", "dense", "cascade"):
            lazy = make_heatmap(slide, model, mode=ScoreMode(mode=mode))
            started = time.perf_counter()
            heat = store_heatmap(lazy, Path(folder) / f"{mode}.zarr")
            seconds = time.perf_counter() - started
            values = heat.probability()
            scored = np.isfinite(values)
            found[mode] = values[scored]
            cells = int(scored.sum())
            print(f"{mode:8} {cells:,} cells in {seconds:.1f} s: {cells / seconds:,.0f} cells/s")
    exact = found["exact"]
    positive = exact >= POSITIVE
    for mode in ("dense", "cascade"):
        difference = np.abs(found[mode] - exact)
        crossed = int((positive & (found[mode] < POSITIVE)).sum())
        gained = int((~positive & (found[mode] >= POSITIVE)).sum())
        print(
            f"{mode}: difference mean {difference.mean():.3f}, largest {difference.max():.3f}; of "
            f"{positive.sum():,} positive cells {crossed} lost, {gained} gained at {POSITIVE}; "
            f"ranks them with AUC {roc_auc_score(positive, found[mode]):.4f}"
        )
    print_losses(found["dense"], positive, "cells that are positive by exact tiles")


def main() -> None:
    """Run the comparison that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("patches", "slide"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backend", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--precision", choices=("fp32", "int8", "bf16"), default="fp32")
    given = parser.parse_args()
    if given.what == "patches":
        model = load_model(given.model, device="cpu", backend="torch", precision="fp32")
        compare_patches(model, given.path, given.limit)
    else:
        model = load_model(
            given.model,
            device="cpu",
            backend=given.backend,
            precision=given.precision,
        )
        compare_slide(model, given.path, given.mpp)


if __name__ == "__main__":
    main()
