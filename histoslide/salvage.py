"""What is left of a tiled TIFF whose end is missing, as after a broken copy.

OpenSlide refuses such a file altogether. Where the page directory survived, the tiles that lie
before the break are as good as ever; reading any other tile is an error, never white.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, ResolutionError, SlideOpenError, SlideReadError
from histoslide.geometry import Box, Mpp, Size, true_downsample

logger = logging.getLogger(__name__)

_HASHED_BYTES = 2**20
_CM_UNIT = 3
_INCH_UNIT = 2
_UM_PER_UNIT = {_CM_UNIT: 1e4, _INCH_UNIT: 25.4e3}


class SalvagedTiff:
    """A damaged TIFF slide; picklable, and usable from any thread or process."""

    def __init__(
        self, path: Path, pages: list[tifffile.TiffPage], *, file_size: int, mpp: Mpp | None
    ) -> None:
        self._path, self._pages, self._file_size = path, pages, file_size
        self._given_mpp = mpp
        self._level_sizes = tuple(Size(page.imagewidth, page.imagelength) for page in pages)
        self._mpp = mpp if mpp is not None else _recorded_mpp(pages[0])

    @classmethod
    def open(cls, path: Path, *, mpp: Mpp | None) -> SalvagedTiff | None:
        """Open what is left of a tiled RGB TIFF, or None where that is nothing."""
        try:
            with tifffile.TiffFile(path) as tiff:
                pages = _levels(tiff)
                size = tiff.filehandle.size
            slide = cls(path, pages, file_size=size, mpp=mpp)
            some_left = slide.tiles_left > 0
        except HistoslideError:
            raise
        except Exception:  # a damaged directory can hold any nonsense, and fail in any way
            logger.debug("%s holds nothing to salvage", path, exc_info=True)
            return None
        return slide if some_left else None

    @property
    def tiles_in_all(self) -> int:
        """Tiles of all levels that the directory lists."""
        return sum(len(page.dataoffsets) for page in self._pages)

    @property
    def tiles_left(self) -> int:
        """Tiles that lie wholly inside what is left of the file."""
        return sum(
            offset + count <= self._file_size
            for page in self._pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        )

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self._path.name

    @property
    def size_l0(self) -> Size:
        """Size of the finest level, in level-0 pixels."""
        return self._level_sizes[0]

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of every level that is left in its own pixels, finest first."""
        return self._level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level."""
        return tuple(true_downsample(self.size_l0, size) for size in self._level_sizes)

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, or None where it is not known."""
        return self._mpp

    @property
    def bounds_l0(self) -> Box | None:
        """Not recorded in plain TIFF."""
        return None

    @property
    def quickhash(self) -> str:
        """A hash of the file's size and ends."""
        return file_hash(self._path)

    @property
    def properties(self) -> Mapping[str, str]:
        """None but a vendor that says what happened."""
        return {"openslide.vendor": "damaged-tiff"}

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``histoslide.slide.Slide.read_level``."""
        page = self._pages[level]
        across = math.ceil(page.imagewidth / page.tilewidth)
        canvas = np.empty((height, width, 3), dtype=np.uint8)
        try:
            opened = self._path.open("rb")
        except OSError as error:
            raise SlideOpenError(f"{self._path} can no longer be read: {error}") from error
        with opened as file:
            for row in range(y // page.tilelength, (y + height - 1) // page.tilelength + 1):
                for col in range(x // page.tilewidth, (x + width - 1) // page.tilewidth + 1):
                    tile = self._tile(file, level, row * across + col)
                    top, left = row * page.tilelength - y, col * page.tilewidth - x
                    bottom = min(top + page.tilelength, height)
                    right = min(left + page.tilewidth, width)
                    part = tile[max(-top, 0) : bottom - top, max(-left, 0) : right - left]
                    canvas[max(top, 0) : bottom, max(left, 0) : right] = part
        return canvas

    def _tile(self, file: BinaryIO, level: int, index: int) -> NDArray[np.uint8]:
        page = self._pages[level]
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        file.seek(offset)
        data = file.read(count)
        if len(data) < count or not count:
            raise SlideReadError(f"{self.name}: tile {index} of level {level} is missing")
        try:
            pixels, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:  # every codec has errors of its own
            raise SlideReadError(
                f"{self.name}: tile {index} of level {level} cannot be decoded: {error}"
            ) from error
        if pixels is None:
            raise SlideReadError(f"{self.name}: tile {index} of level {level} is empty")
        return np.asarray(pixels[0])

    def close(self) -> None:
        """Nothing is kept open between reads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self._path, self._given_mpp)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's size and its first and last mebibyte.

    Raises:
        SlideOpenError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(f"{size}|".encode() + file.read(_HASHED_BYTES))
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
    except OSError as error:
        raise SlideOpenError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


def _reopen(path: Path, mpp: Mpp | None) -> SalvagedTiff:
    slide = SalvagedTiff.open(path, mpp=mpp)
    if slide is None:
        raise SlideOpenError(f"{path} can no longer be read")
    return slide


def _levels(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Pages that are levels of the pyramid, as far as the directory can be followed."""
    levels: list[tifffile.TiffPage] = []
    for page in tiff.pages:
        if not isinstance(page, tifffile.TiffPage):
            continue
        tiled_rgb = page.is_tiled and page.samplesperpixel == 3 and page.dtype == np.uint8
        if not tiled_rgb or page.planarconfig != 1:
            continue
        if levels:
            first = levels[0]
            ratio = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
            if page.imagewidth >= levels[-1].imagewidth or abs(ratio[0] / ratio[1] - 1) > 0.02:
                continue
        _ = page.decode, page.jpegtables  # both are cached while the file is open
        levels.append(page)
    return levels


def _recorded_mpp(page: tifffile.TiffPage) -> Mpp | None:
    um = _UM_PER_UNIT.get(int(page.resolutionunit))
    x, y = page.resolution
    if um is None or x <= 0 or y <= 0:
        return None
    if abs(x - y) > 0.01 * min(x, y):
        raise ResolutionError(
            f"{page.parent.filename} records {um / x:g} µm/px across but {um / y:g} µm/px down"
        )
    return Mpp(value=um / math.sqrt(x * y), source="slide metadata")
