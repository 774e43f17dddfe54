"""Tiles a second of ``SlideTiles`` beside a plain torch dataset that reads each tile by itself.

    python benchmarks/tile_dataset.py [SLIDE ...] [--mpp 0.5] [--tiles 3000] [--workers 2]

The plain one is what people write first: an item is one ``read_region`` of OpenSlide at the best
level and one resize by Pillow, in the workers of a shuffled ``DataLoader``. Both give the same
tissue tiles of 96 px at 0.972 µm/px in batches of 64. They run in turns within one run, because
other programs may be busy: compare, do not quote. Without slides one is drawn. The time to find the
tissue, which both need, is not counted; that to start processes and open slides is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from PIL import Image
from reading import drawn_slide
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from histoslide.geometry import Mpp
from histoslide.tiling.dataset import SlideTiles
from histoslide.tiling.planned import PlannedSlide, tile_spec

BATCH = 64
TURNS = 3
SPEC = tile_spec(input_px=96, mpp=0.972, label_px=32)


class PlainTiles(Dataset[Tensor]):
    """Each item is a tile, read by itself."""

    def __init__(self, slides: Sequence[PlannedSlide]) -> None:
        self._slides = slides
        self._places = [
            (i, row, col)
            for i, slide in enumerate(slides)
            for row, col in np.argwhere(slide.wanted).tolist()
        ]
        self._open: dict[int, openslide.OpenSlide] = {}

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._places)

    def __getitem__(self, index: int) -> Tensor:
        """RGB, uint8, shape (3, 96, 96)."""
        i, row, col = self._places[index]
        if i not in self._open:
            self._open[i] = openslide.OpenSlide(self._slides[i].path)
        slide, grid = self._open[i], self._slides[i].grid
        box = grid.tile_box_l0(row, col)
        level = slide.get_best_level_for_downsample(grid.scale)
        side = round(box.width / slide.level_downsamples[level])
        region = slide.read_region((round(box.x), round(box.y)), level, (side, side))
        tile = region.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
        pixels: NDArray[np.uint8] = np.array(tile)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def rate(batches: Iterable[object], most: int) -> float:
    """Tiles a second of the first ``most`` or so."""
    started, tiles = time.perf_counter(), 0
    for batch in islice(batches, max(1, most // BATCH)):
        tiles += len(batch)  # type: ignore[arg-type]
    return tiles / (time.perf_counter() - started)


def compare(tiles: SlideTiles, most: int, workers: int) -> dict[str, object]:
    """Rates of both, in turns, and their ratio."""
    plain = PlainTiles(tiles.slides)
    rates: dict[str, list[float]] = {"plain": [], "SlideTiles": []}
    for turn in range(TURNS):
        torch.manual_seed(turn)
        loader = DataLoader(plain, batch_size=BATCH, shuffle=True, num_workers=workers)
        rates["plain"].append(rate(loader, most))
        tiles.set_epoch(turn)
        rates["SlideTiles"].append(rate(tiles, most))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "tiles in all": tiles.tiles,
        **{
            f"{name}, tiles/s": [round(value) for value in values] for name, values in rates.items()
        },
        "ratio": round(middle["SlideTiles"] / middle["plain"], 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("--mpp", type=float, help="of slides that record none")
    parser.add_argument("--side", type=int, default=12288)
    parser.add_argument("--tiles", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.slides or [drawn_slide(Path(folder), arguments.side)]
        mpp = None if arguments.mpp is None else Mpp(value=arguments.mpp, source="benchmark")
        for name, stride_px in (("side by side", 96), ("a third apart", 32)):
            tiles = SlideTiles(
                paths,
                SPEC,
                mpp=mpp,
                stride_px=stride_px,
                batch_size=BATCH,
                shuffle=True,
                readers=arguments.workers,
            )
            print(name, json.dumps(compare(tiles, arguments.tiles, arguments.workers)), flush=True)


if __name__ == "__main__":
    main()
