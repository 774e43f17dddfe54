"""How fast slides are read: a TIFF's own tiles against OpenSlide, and where a window's time goes.

    python benchmarks/reading.py [SLIDE ...] [--side 20480] [--threads 2] [--seconds 4]

Without slides one is drawn: JPEG tiles, 0.25 µm/px, no coarser level that would help a model of
1.0 µm/px. Megapixels a second are of level 0 in blocks, each read once; the windows are those that
scoring reads. Both readers run in turns within one run, and processor time is counted beside the
clock, because other programs may be busy. Compare, do not quote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Mpp, Region
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import MAX_WINDOW_PX, read_window
from histoslide.slide import DEFAULT_CACHE_BYTES, Reader, Slide, open_slide
from histoslide.synthetic import scene, write_slide

BLOCKS_PX = (1024, 4096)
PIECE = 2048
TURNS = 3


def drawn_slide(folder: Path, side: int) -> Path:
    """A slide of one scene laid out many times."""
    piece = scene(PIECE, PIECE, mpp=0.25, seed=1).pixels
    count = -(-side // PIECE)
    pixels = np.tile(piece, (count, count, 1))[:side, :side]
    return write_slide(folder / "drawn.tif", pixels, mpp=0.25, downsamples=(16.0,))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def read_blocks(
    path: Path, reader: Reader, block_px: int, threads: int, seconds: float
) -> tuple[float, float, float]:
    """Megapixels of level 0 that were read, and the seconds of clock and processor."""
    with open_slide(path, mpp=Mpp(value=0.25, source="benchmark"), reader=reader) as slide:
        _ = slide.readers  # the comparison with OpenSlide is part of opening
        size = slide.size_l0
        corners = [
            (x, y) for y in range(0, size.height, block_px) for x in range(0, size.width, block_px)
        ]
        ends = time.perf_counter() + seconds

        def read(corner: tuple[int, int]) -> int:
            if time.perf_counter() > ends:
                return 0
            x, y = corner
            width, height = min(block_px, size.width - x), min(block_px, size.height - y)
            return slide.read(Region(0, x, y, width, height)).size // 3

        pixels: list[int] = []

        def work() -> None:
            with ThreadPoolExecutor(threads) as pool:
                pixels.extend(pool.map(read, corners))

        clock, processor = timed(work)
    return sum(pixels) / 1e6, clock, processor


def compare_blocks(path: Path, threads: int, seconds: float) -> dict[str, object]:
    """Rates of both readers, in turns, and their ratio."""
    found: dict[str, object] = {}
    for block_px in BLOCKS_PX:
        rates: dict[str, list[float]] = {reader: [] for reader in get_args(Reader)}
        costs: dict[str, list[float]] = {reader: [] for reader in get_args(Reader)}
        for _ in range(TURNS):
            for reader in get_args(Reader):
                megapixels, clock, processor = read_blocks(path, reader, block_px, threads, seconds)
                rates[reader].append(megapixels / clock)
                costs[reader].append(1000 * processor / megapixels)
        rate = {reader: statistics.median(values) for reader, values in rates.items()}
        cost = {reader: statistics.median(values) for reader, values in costs.items()}
        found[f"blocks of {block_px} px"] = {
            "tiff tiles, MP/s": round(rate["auto"], 1),
            "openslide, MP/s": round(rate["openslide"], 1),
            "ratio by the clock": round(rate["auto"] / rate["openslide"], 2),
            "ratio by the processor": round(cost["openslide"] / cost["auto"], 2),
        }
    return found


def split_windows(path: Path, stride: int, count: int) -> dict[str, object]:
    """Processor milliseconds a tile of windows, read and resampled, for one thread."""
    found: dict[str, object] = {}
    for name, reader, cache_bytes in (
        ("tiff tiles", "auto", DEFAULT_CACHE_BYTES),
        ("tiff tiles, no cache", "auto", 0),
        ("openslide", "openslide", DEFAULT_CACHE_BYTES),
    ):
        mpp = Mpp(value=0.25, source="benchmark")
        with open_slide(path, mpp=mpp, reader=reader, cache_bytes=cache_bytes) as slide:  # type: ignore[arg-type]
            _ = slide.readers
            grid = TileGrid(
                size_l0=slide.size_l0,
                slide_mpp=mpp,
                model_mpp=1.0,
                input_px=96,
                label_px=32,
                stride_px=stride,
                block_cells=max(1, (MAX_WINDOW_PX - 96) // stride + 1),
            )
            reading = ReadingClock(slide)
            tiles = 0
            started = time.process_time()
            for window in list(grid.blocks())[:count]:
                read_window(reading, grid, window)
                tiles += window.rows * window.cols
            total = time.process_time() - started
        found[name] = {
            "tiles": tiles,
            "read, ms": round(1000 * reading.seconds / tiles, 2),
            "resample and cut, ms": round(1000 * (total - reading.seconds) / tiles, 2),
            "tiles a second and core": round(tiles / total),
        }
    return found


class ReadingClock(Slide):
    """A slide that counts the processor time of its reads."""

    def __init__(self, slide: Slide) -> None:
        super().__init__(slide.facts)
        self._slide = slide
        self.seconds = 0.0

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read and count."""
        started = time.process_time()
        pixels = self._slide.read(region, shrink)
        self.seconds += time.process_time() - started
        return pixels


def measure(paths: Iterable[Path], threads: int, seconds: float) -> dict[str, object]:
    """Everything about each slide."""
    found: dict[str, object] = {}
    for path in paths:
        with open_slide(path, mpp=Mpp(value=0.25, source="benchmark")) as slide:
            readers = slide.readers
        found[path.name] = {
            "readers": readers,
            **compare_blocks(path, threads, seconds),
            "windows at stride 96": split_windows(path, 96, count=4),
            "windows at stride 32": split_windows(path, 32, count=4),
        }
        print(path.name, json.dumps(found[path.name], indent=2, ensure_ascii=False), flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("--side", type=int, default=20480)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slides = arguments.slides or [drawn_slide(Path(folder), arguments.side)]
        measure(slides, arguments.threads, arguments.seconds)


if __name__ == "__main__":
    main()
