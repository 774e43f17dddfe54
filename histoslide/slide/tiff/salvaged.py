"""What is left of a tiled TIFF whose end is missing, as after a broken copy.

OpenSlide refuses such a file altogether. Where the page directory survived, the tiles that lie
before the break are as good as ever; reading any other tile is an error, never white.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, ResolutionError, SlideOpenError
from histoslide.geometry import Box, Mpp, Size, true_downsample
from histoslide.slide.file_hash import file_hash
from histoslide.slide.protocol import Closable
from histoslide.slide.tiff.reader import TileReader
from histoslide.slide.tiff.tiles import TiffTiles, UnsupportedTilesError
from histoslide.storage.location import readable_name

logger = logging.getLogger(__name__)

_CACHE_BYTES = 64 * 2**20
"""Bound on the decoded tiles that are kept."""

_CM_UNIT = 3

_INCH_UNIT = 2

_UM_PER_UNIT = {_CM_UNIT: 1e4, _INCH_UNIT: 25.4e3}


class SalvagedTiff(Closable):
    """A damaged TIFF slide; picklable, and usable from any thread or process."""

    def __init__(
        self,
        path: Path,
        levels: list[TiffTiles],
        *,
        file_size: int,
        mpp: Mpp | None,
        given_mpp: Mpp | None,
    ) -> None:
        self._path, self._levels, self._file_size = path, levels, file_size
        self._mpp, self._given_mpp = mpp, given_mpp
        self._level_sizes = tuple(tiles.size for tiles in levels)
        self._reader = TileReader(path, levels, cache_bytes=_CACHE_BYTES)

    @classmethod
    def open(cls, path: Path, *, mpp: Mpp | None) -> SalvagedTiff | None:
        """Open what is left of a tiled RGB TIFF, or None where that is nothing."""
        try:
            with tifffile.TiffFile(path) as tiff:
                pages, levels = _levels(tiff)
                recorded = _recorded_mpp(pages[0]) if mpp is None else mpp
                size = tiff.filehandle.size
            slide = cls(path, levels, file_size=size, mpp=recorded, given_mpp=mpp)
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
        return sum(tiles.offsets.size for tiles in self._levels)

    @property
    def tiles_left(self) -> int:
        """Tiles that lie wholly inside what is left of the file."""
        return sum(
            int(np.count_nonzero(tiles.offsets + tiles.byte_counts <= self._file_size))
            for tiles in self._levels
        )

    @property
    def name(self) -> str:
        """File name without its folder."""
        return readable_name(self._path)

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

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1
    ) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``histoslide.slide.Slide.read_level``."""
        return self._reader.read(level, x, y, width, height, shrink)

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return ("tiff tiles",) * len(self._levels)

    def close(self) -> None:
        """Let go of the file; it is opened again when the slide is read again."""
        self._reader.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self._path, self._given_mpp)


def _reopen(path: Path, mpp: Mpp | None) -> SalvagedTiff:
    slide = SalvagedTiff.open(path, mpp=mpp)
    if slide is None:
        raise SlideOpenError(f"{path} can no longer be read")
    return slide


def _levels(tiff: tifffile.TiffFile) -> tuple[list[tifffile.TiffPage], list[TiffTiles]]:
    """Pages that are levels of the pyramid, as far as the directory can be followed."""
    tiled: list[tuple[tifffile.TiffPage, TiffTiles]] = []
    for page in tiff.pages:
        if not isinstance(page, tifffile.TiffPage):
            continue
        try:
            tiled.append((page, TiffTiles.of_page(page)))
        except UnsupportedTilesError as error:
            logger.debug("%s: page %d: %s", tiff.filename, page.index, error)
    # Some scanners put a picture of the whole glass first; the finest level is the widest page.
    finest = max(range(len(tiled)), key=lambda index: tiled[index][1].size.width, default=0)
    pages: list[tifffile.TiffPage] = []
    levels: list[TiffTiles] = []
    for page, tiles in tiled[finest:]:
        if levels:
            first, size = levels[0].size, tiles.size
            ratio = first.width / size.width, first.height / size.height
            if size.width >= levels[-1].size.width or abs(ratio[0] / ratio[1] - 1) > 0.02:
                continue
        pages.append(page)
        levels.append(tiles)
    return pages, levels


def _recorded_mpp(page: tifffile.TiffPage) -> Mpp | None:
    um = _UM_PER_UNIT.get(int(page.resolutionunit))
    x, y = page.resolution
    if um is None or not (0 < x < math.inf and 0 < y < math.inf):
        return None
    if abs(x - y) > 0.01 * min(x, y):
        raise ResolutionError(
            f"{page.parent.filename} records {um / x:g} µm/px across but {um / y:g} µm/px down: "
            "pixels must be square, pass --mpp if the record is wrong"
        )
    return Mpp(value=um / math.sqrt(x * y), source="slide metadata")
