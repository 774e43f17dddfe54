"""Write a slide as large as CAMELYON's in a file of a few megabytes, by repeating its tiles.

    python benchmarks/camelyon_slide.py slide.tif                  # 100,000 × 200,000 px
    python benchmarks/camelyon_slide.py small.tif --width 25600 --height 51200

Levels of 1, 4, 16, 64 and 256, tiles of 512 px in JPEG of quality 80 with chroma at half
resolution, 0.243 µm/px, and tissue on ``--tissue`` of the slide, in five pieces on clean glass; a
few squares of it are drawn carcinoma. Squares of tissue, 2,048 px wide, are all alike: each
distinct tile is stored once, and the table of tiles points at it as often as it occurs. Readers
decode it as often as they would other tiles; only the disk has less to do.
"""

from __future__ import annotations

import argparse
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.storage.writing import whole_file
from histoslide.synthetic import scene

MPP = 0.243
"""Micrometres per level-0 pixel."""

TILE_PX = 512
"""Side of a tile, of every level."""

DOWNSAMPLES = (1, 4, 16, 64, 256)
"""Of the levels."""

SQUARE_PX = 2048
"""Side of a square of tissue at level 0: a tile of the second level."""

_GLASS, _NORMAL, _TUMOUR = 0, 1, 2
"""What a square holds."""

_WHITE = 244
"""Of the glass, 0-255."""

_WINDOW_PX = 512
"""Side of the piece of a drawn node that a square repeats, mirrored."""


def write_camelyon_slide(path: Path, width: int, height: int, *, tissue: float) -> None:
    """Write a slide.

    Args:
        path: where to write.
        width: pixels.
        height: pixels.
        tissue: part of the slide that is tissue, 0-1.
    """
    kinds = lay_squares(width, height, tissue)
    glass = np.full((SQUARE_PX, SQUARE_PX, 3), _WHITE, np.uint8)
    squares: tuple[NDArray[np.uint8], ...] = (glass, *tissue_squares())
    with whole_file(path) as partial, partial.open("wb") as file:
        tiff = _Tiff(file)
        for number, downsample in enumerate(DOWNSAMPLES):
            if number:
                squares = tuple(_shrunk(square, 4) for square in squares)
            level = Level(kinds, squares, width // downsample, height // downsample)
            tiff.write_level(level, MPP * downsample, reduced=number > 0)


def lay_squares(width: int, height: int, tissue: float) -> NDArray[np.uint8]:
    """What each square of the slide holds: ellipses of tissue, with spots of carcinoma."""
    rows, cols = -(-height // SQUARE_PX), -(-width // SQUARE_PX)
    y, x = np.mgrid[:rows, :cols]
    y, x = (y + 0.5) / rows, (x + 0.5) / cols
    pieces = ((0.2, 0.3), (0.22, 0.72), (0.5, 0.45), (0.78, 0.3), (0.75, 0.75))
    away = np.min([np.hypot((y - cy) * 1.6, x - cx) for cy, cx in pieces], axis=0)
    order = np.argsort(away, axis=None, kind="stable")
    kinds = np.zeros((rows, cols), np.uint8)
    inside = order[: round(tissue * rows * cols)]
    kinds.flat[inside] = _NORMAL
    kinds.flat[inside[7::37]] = _TUMOUR
    return kinds


def tissue_squares() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square of normal node and one of carcinoma, both without a seam when repeated."""
    drawn = scene(2048, 2048, mpp=MPP, seed=3)
    side, step = _WINDOW_PX, 64
    corners = [(y, x) for y in range(0, 2048 - side, step) for x in range(0, 2048 - side, step)]
    tumour = [drawn.tumour[y : y + side, x : x + side].mean() for y, x in corners]
    red = [drawn.pixels[y : y + side : 8, x : x + side : 8, 0].mean() for y, x in corners]
    normal = min((r, c) for r, t, c in zip(red, tumour, corners, strict=True) if t == 0)[1]
    ill = corners[int(np.argmax(tumour))]
    windows = (drawn.pixels[y : y + side, x : x + side] for y, x in (normal, ill))
    first, second = (_mirrored(window) for window in windows)
    return first, second


def _mirrored(window: NDArray[np.uint8]) -> NDArray[np.uint8]:
    period = np.concatenate([window, window[::-1]])
    period = np.concatenate([period, period[:, ::-1]], axis=1)
    times = SQUARE_PX // len(period)
    return np.tile(period, (times, times, 1))


def _shrunk(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    side = len(pixels) // factor
    parts = pixels.reshape(side, factor, side, factor, 3).astype(np.float32)
    return np.rint(parts.mean(axis=(1, 3))).astype(np.uint8)


class Level:
    """A level as its distinct tiles."""

    def __init__(
        self,
        kinds: NDArray[np.uint8],
        squares: tuple[NDArray[np.uint8], ...],
        width: int,
        height: int,
    ) -> None:
        """Take what each square holds and the pixels of each kind at this level."""
        self.width, self.height = width, height
        self._kinds, self._squares = kinds, squares
        self._side = len(squares[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // TILE_PX), -(-self.width // TILE_PX)

    def tiles(self) -> Iterator[tuple[bytes, NDArray[np.uint8] | None]]:
        """What tells each tile from others, in reading order, and its pixels the first time."""
        seen: set[bytes] = set()
        for row, col in np.ndindex(self.shape):
            key, pixels = self._tile(row * TILE_PX, col * TILE_PX, seen)
            seen.add(key)
            yield key, pixels

    def _tile(
        self, top: int, left: int, seen: set[bytes]
    ) -> tuple[bytes, NDArray[np.uint8] | None]:
        first = top // self._side, left // self._side
        last = (top + TILE_PX - 1) // self._side, (left + TILE_PX - 1) // self._side
        rows, cols = (slice(a, b + 1) for a, b in zip(first, last, strict=True))
        part = self._kinds[rows, cols]
        inside = top - first[0] * self._side, left - first[1] * self._side
        # Glass is the same everywhere.
        key = repr((inside, part.tolist())).encode() if part.any() else b"glass"
        if key in seen:
            return key, None
        pixels = np.full((TILE_PX, TILE_PX, 3), _WHITE, np.uint8)
        for (i, j), kind in np.ndenumerate(part):
            y, x = i * self._side - inside[0], j * self._side - inside[1]
            target = pixels[max(0, y) : max(0, y + self._side), max(0, x) : max(0, x + self._side)]
            source = self._squares[kind][max(0, -y) :, max(0, -x) :]
            target[...] = source[: target.shape[0], : target.shape[1]]
        return key, pixels


class _Tiff:
    """A BigTIFF that is written level by level; tables of tiles may name a place many times."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        self._link = 8  # where the place of the next directory is to be written

    def write_level(self, level: Level, mpp: float, *, reduced: bool) -> None:
        places: dict[bytes, tuple[int, int]] = {}
        table = []
        for key, pixels in level.tiles():
            if pixels is not None:
                coded = io.BytesIO()
                Image.fromarray(pixels).save(coded, "JPEG", quality=80, subsampling="4:2:0")
                places[key] = self._append(coded.getvalue()), coded.tell()
            table.append(places[key])
        offsets, counts = zip(*table, strict=True)
        count = len(table)
        ratio = (round(1e4 / mpp * 1000), 1000)  # pixels per centimetre
        self._write_directory(
            {
                254: ("I", (int(reduced),)),
                256: ("I", (level.width,)),
                257: ("I", (level.height,)),
                258: ("H", (8, 8, 8)),
                259: ("H", (7,)),  # JPEG
                262: ("H", (6,)),  # YCbCr
                277: ("H", (3,)),
                282: ("II", ratio),
                283: ("II", ratio),
                284: ("H", (1,)),
                296: ("H", (3,)),  # centimetres
                322: ("I", (TILE_PX,)),
                323: ("I", (TILE_PX,)),
                324: ("Q" * count, offsets),
                325: ("I" * count, counts),
                530: ("H", (2, 2)),
            }
        )

    def _append(self, data: bytes) -> int:
        self._file.seek(0, io.SEEK_END)
        if self._file.tell() % 2:
            self._file.write(b"\0")
        place = self._file.tell()
        self._file.write(data)
        return place

    def _write_directory(self, tags: dict[int, tuple[str, tuple[int, ...]]]) -> None:
        types = {"H": 3, "I": 4, "II": 5, "Q": 16}
        entries = []
        for tag, (form, values) in tags.items():
            letter = form[0]
            kind = types["II"] if form == "II" else types[letter]
            data = struct.pack(f"<{len(values)}{letter}", *values)
            number = 1 if form == "II" else len(values)
            if len(data) > 8:
                data = struct.pack("<Q", self._append(data))
            entries.append(struct.pack("<HHQ", tag, kind, number) + data.ljust(8, b"\0"))
        place = self._append(struct.pack("<Q", len(entries)) + b"".join(entries) + bytes(8))
        self._file.seek(self._link)
        self._file.write(struct.pack("<Q", place))
        self._link = place + 8 + 20 * len(entries)


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--width", type=int, default=100_000)
    parser.add_argument("--height", type=int, default=200_000)
    parser.add_argument("--tissue", type=float, default=0.15, help="part of the slide, 0-1")
    given = parser.parse_args()
    write_camelyon_slide(given.path, given.width, given.height, tissue=given.tissue)
    size = given.path.stat().st_size / 1e6
    print(f"{given.path}: {given.width:,} × {given.height:,} px in {size:.1f} MB")


if __name__ == "__main__":
    main()
