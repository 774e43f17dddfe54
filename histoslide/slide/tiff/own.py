"""A TIFF that is read by its own segments alone, because OpenSlide cannot or not rightly."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, ResolutionError, SlideOpenError
from histoslide.geometry import Mpp, Region
from histoslide.slide.base import Slide
from histoslide.slide.downsamples import StoredLevel, find_downsamples
from histoslide.slide.facts import SlideFacts
from histoslide.slide.file_hash import file_hash
from histoslide.slide.giving_up import GivingUp
from histoslide.slide.tiff.ome import OmeImage
from histoslide.slide.tiff.reader import SegmentReader
from histoslide.slide.tiff.segments import TiffSegments, UnsupportedSegmentsError
from histoslide.storage.location import readable_name

logger = logging.getLogger(__name__)

_CACHE_BYTES = 64 * 2**20
"""Bound on the decoded segments that are kept."""

_CM_UNIT = 3

_INCH_UNIT = 2

_UM_PER_UNIT = {_CM_UNIT: 1e4, _INCH_UNIT: 25.4e3}


class OwnTiff(Slide):
    """A tiled TIFF read without OpenSlide; picklable, and usable from any thread or process.

    What is missing or damaged is an error, never white.
    """

    vendor = "generic-tiff"
    """What such a file is called where OpenSlide would name the scanner."""

    def __init__(
        self,
        path: Path,
        levels: Sequence[TiffSegments],
        *,
        mpp: Mpp | None,
        given_mpp: Mpp | None,
    ) -> None:
        """Describe a slide; see ``open``.

        Args:
            path: TIFF file.
            levels: segments of its levels, finest first.
            mpp: resolution, whatever its source.
            given_mpp: resolution that replaces what the file records.
        """
        name = readable_name(path)
        self._path, self._given_mpp, self._giving_up = path, given_mpp, GivingUp(name)
        stored = [StoredLevel(size=level.size, tile=level.each) for level in levels]
        with_all = SegmentReader(path, levels, cache_bytes=_CACHE_BYTES)
        found = find_downsamples(name, stored, with_all.read)
        with_all.close()
        known = [(level, d) for level, d in zip(levels, found, strict=True) if d is not None]
        self._levels = tuple(level for level, _ in known)
        self._reader = SegmentReader(path, self._levels, cache_bytes=_CACHE_BYTES)
        super().__init__(
            SlideFacts(
                name=name,
                level_sizes=tuple(level.size for level in self._levels),
                level_downsamples=tuple(downsample for _, downsample in known),
                mpp=mpp,
                quickhash=file_hash(path),
                properties={"openslide.vendor": self.vendor},
            )
        )

    @classmethod
    def open(cls, path: Path, *, mpp: Mpp | None) -> OwnTiff | None:
        """Open a TIFF whose segments are all understood; None where not one level is.

        Args:
            path: slide file, of which ``TiffDirectory`` found no fault.
            mpp: resolution that replaces what the slide records.

        Raises:
            ResolutionError: x and y resolutions differ by more than 1 % (unless ``mpp`` is given).
        """
        try:
            with tifffile.TiffFile(path) as tiff:
                first = tiff.pages.first
                below = list(first.pages or ()) if first.subifds else []
                pages = [first, *(page.aspage() for page in below)]
                if not below:
                    others = [page.aspage() for page in tiff.pages][1:]
                    pages += [page for page in others if int(page.subfiletype) & 1]
                levels = described(pages, path)
                if not levels or levels[0].size.width != first.imagewidth:
                    return None
                recorded = mpp or recorded_mpp(first)
            levels.sort(key=lambda level: -level.size.width)
            return cls(path, levels, mpp=recorded, given_mpp=mpp)
        except HistoslideError:
            raise
        except Exception:  # tifffile meets files that it does not foresee, and fails in any way
            logger.debug("%s is not read by its segments", path, exc_info=True)
            return None

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``histoslide.slide.Slide.read``."""
        return self._giving_up.read(
            region,
            self.level_sizes[region.level],
            lambda part: self._reader.read(part, shrink if part is region else 1),
        )

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return ("tiff tiles",) * len(self._levels)

    def close(self) -> None:
        """Let go of the file; it is opened again when the slide is read again."""
        self._reader.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (type(self), self._path, self._given_mpp)


def _reopen(kind: type[OwnTiff], path: Path, mpp: Mpp | None) -> OwnTiff:
    slide = kind.open(path, mpp=mpp)
    if slide is None:
        raise SlideOpenError(f"{path} can no longer be read")
    return slide


def described(pages: Sequence[tifffile.TiffPage], path: Path) -> list[TiffSegments]:
    """The segments of those pages whose segments are understood."""
    found: list[TiffSegments] = []
    for page in pages:
        try:
            found.append(TiffSegments.of_page(page))
        except UnsupportedSegmentsError as error:
            logger.debug("%s: page %d: %s", path, page.index, error)
    return found


def recorded_mpp(page: tifffile.TiffPage) -> Mpp | None:
    """The resolution of a page, from its OME-XML or else its tags.

    Raises:
        ResolutionError: x and y resolutions differ by more than 1 %.
    """
    name = readable_name(Path(page.parent.filename))
    ome = OmeImage.of(page.description)
    if ome is not None and ome.um_x is not None and ome.um_y is not None:
        return square_mpp(name, ome.um_x, ome.um_y)
    um = _UM_PER_UNIT.get(int(page.resolutionunit))
    x, y = page.resolution
    if um is None or not (0 < x < math.inf and 0 < y < math.inf):
        return None
    return square_mpp(name, um / x, um / y)


def square_mpp(name: str, x: float, y: float) -> Mpp:
    """A resolution of pixels that are square.

    Raises:
        ResolutionError: they are not, by more than 1 %.
    """
    if abs(x - y) > 0.01 * min(x, y):
        raise ResolutionError(
            f"{name} records {x:g} µm/px across but {y:g} µm/px down: "
            "pixels must be square, pass --mpp if the record is wrong"
        )
    return Mpp(value=math.sqrt(x * y), source="slide metadata")
