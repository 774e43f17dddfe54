"""What is left of a tiled TIFF whose end is missing, as after a broken copy.

OpenSlide refuses such a file altogether. Where the page directory survived, the segments that lie
before the break are as good as ever; reading any other segment is an error, never white.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, ResolutionError, SlideOpenError
from histoslide.geometry import Mpp, Region, true_downsample
from histoslide.slide.base import Slide
from histoslide.slide.facts import SlideFacts
from histoslide.slide.file_hash import file_hash
from histoslide.slide.tiff.reader import SegmentReader
from histoslide.slide.tiff.segments import TiffSegments, UnsupportedSegmentsError
from histoslide.storage.location import readable_name

logger = logging.getLogger(__name__)

_CACHE_BYTES = 64 * 2**20
"""Bound on the decoded segments that are kept."""

_CM_UNIT = 3

_INCH_UNIT = 2

_UM_PER_UNIT = {_CM_UNIT: 1e4, _INCH_UNIT: 25.4e3}


class SalvagedTiff(Slide):
    """A damaged TIFF slide; picklable, and usable from any thread or process."""

    def __init__(
        self,
        path: Path,
        levels: list[TiffSegments],
        *,
        file_size: int,
        mpp: Mpp | None,
        given_mpp: Mpp | None,
    ) -> None:
        sizes = tuple(segments.size for segments in levels)
        super().__init__(
            SlideFacts(
                name=readable_name(path),
                level_sizes=sizes,
                level_downsamples=tuple(true_downsample(sizes[0], size) for size in sizes),
                mpp=mpp,
                quickhash=file_hash(path),
                properties={"openslide.vendor": "damaged-tiff"},
            )
        )
        self._path, self._levels, self._file_size = path, levels, file_size
        self._given_mpp = given_mpp
        self._reader = SegmentReader(path, levels, cache_bytes=_CACHE_BYTES)

    @classmethod
    def open(cls, path: Path, *, mpp: Mpp | None) -> SalvagedTiff | None:
        """Open what is left of a tiled RGB TIFF, or None where that is nothing."""
        try:
            with tifffile.TiffFile(path) as tiff:
                pages, levels = _levels(tiff)
                recorded = _recorded_mpp(pages[0]) if mpp is None else mpp
                size = tiff.filehandle.size
            slide = cls(path, levels, file_size=size, mpp=recorded, given_mpp=mpp)
            some_left = slide.segments_left > 0
        except HistoslideError:
            raise
        except Exception:  # a damaged directory can hold any nonsense, and fail in any way
            logger.debug("%s holds nothing to salvage", path, exc_info=True)
            return None
        return slide if some_left else None

    @property
    def segments_in_all(self) -> int:
        """Segments of all levels that the directory lists."""
        return sum(segments.offsets.size for segments in self._levels)

    @property
    def segments_left(self) -> int:
        """Segments that lie wholly inside what is left of the file."""
        return sum(
            int(np.count_nonzero(segments.offsets + segments.byte_counts <= self._file_size))
            for segments in self._levels
        )

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``histoslide.slide.Slide.read``."""
        return self._reader.read(region, shrink)

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


def _levels(tiff: tifffile.TiffFile) -> tuple[list[tifffile.TiffPage], list[TiffSegments]]:
    """Pages that are levels of the pyramid, as far as the directory can be followed."""
    tiled: list[tuple[tifffile.TiffPage, TiffSegments]] = []
    for page in tiff.pages:
        if not isinstance(page, tifffile.TiffPage):
            continue
        try:
            tiled.append((page, TiffSegments.of_page(page)))
        except UnsupportedSegmentsError as error:
            logger.debug("%s: page %d: %s", tiff.filename, page.index, error)
    # Some scanners put a picture of the whole glass first; the finest level is the widest page.
    finest = max(range(len(tiled)), key=lambda index: tiled[index][1].size.width, default=0)
    pages: list[tifffile.TiffPage] = []
    levels: list[TiffSegments] = []
    for page, segments in tiled[finest:]:
        if levels:
            first, size = levels[0].size, segments.size
            ratio = first.width / size.width, first.height / size.height
            if size.width >= levels[-1].size.width or abs(ratio[0] / ratio[1] - 1) > 0.02:
                continue
        pages.append(page)
        levels.append(segments)
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
