"""What is left of a tiled TIFF whose end is missing, as after a broken copy.

OpenSlide refuses such a file altogether. Where the page directory survived, the segments that lie
before the break are as good as ever; reading any other segment is an error, never white.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import tifffile

from histoslide.errors import HistoslideError
from histoslide.geometry import Mpp
from histoslide.slide.tiff.directory import TiffDirectory
from histoslide.slide.tiff.own import OwnTiff, recorded_mpp
from histoslide.slide.tiff.segments import TiffSegments, UnsupportedSegmentsError

logger = logging.getLogger(__name__)


class SalvagedTiff(OwnTiff):
    """A TIFF slide that was cut off; picklable, and usable from any thread or process."""

    vendor = "damaged-tiff"

    @classmethod
    def open(cls, path: Path, *, mpp: Mpp | None) -> SalvagedTiff | None:
        """Open what is left of a tiled RGB TIFF, or None where it is whole or nothing is left.

        The file is cut off for certain: a directory or a segment is said to lie beyond its end.
        """
        try:
            with tifffile.TiffFile(path) as tiff:
                tiled = _tiled(tiff)
                pages, levels = _levels(tiled)
                recorded = recorded_mpp(pages[0]) if mpp is None else mpp
            directory = TiffDirectory.of(path)
            file_size = path.stat().st_size
            whole = directory is not None and not directory.ends_early
            if whole and all(_left(each, file_size) == each.offsets.size for _, each in tiled):
                return None
            slide = cls(path, levels, mpp=recorded, given_mpp=mpp)
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
        file_size = self._path.stat().st_size
        return sum(_left(segments, file_size) for segments in self._levels)


def _left(segments: TiffSegments, file_size: int) -> int:
    ends = segments.offsets + segments.byte_counts
    return int(np.count_nonzero((segments.offsets <= file_size) & (ends <= file_size)))


_Tiled = list[tuple[tifffile.TiffPage, TiffSegments]]


def _tiled(tiff: tifffile.TiffFile) -> _Tiled:
    """Pages whose segments are understood, as far as the directory can be followed."""
    tiled: _Tiled = []
    for page in tiff.pages:
        if not isinstance(page, tifffile.TiffPage):
            continue
        try:
            tiled.append((page, TiffSegments.of_page(page)))
        except UnsupportedSegmentsError as error:
            logger.debug("%s: page %d: %s", tiff.filename, page.index, error)
    return tiled


def _levels(tiled: _Tiled) -> tuple[list[tifffile.TiffPage], list[TiffSegments]]:
    """Pages that are levels of one pyramid."""
    # Some scanners put a picture of the whole glass first; the finest level is the widest page.
    finest = max(range(len(tiled)), key=lambda index: tiled[index][1].size.width, default=0)
    pages: list[tifffile.TiffPage] = []
    levels: list[TiffSegments] = []
    for page, segments in tiled[finest:]:
        if levels:
            first, size = levels[0].size, segments.size
            ratio = first.width / size.width, first.height / size.height
            if size.width >= levels[-1].size.width:
                break  # another area of the glass begins
            if abs(ratio[0] / ratio[1] - 1) > 0.02:
                continue
        pages.append(page)
        levels.append(segments)
    return pages, levels
