"""The reader that takes the segments of a TIFF itself, and OpenSlide for the rest."""

from __future__ import annotations

import logging
import os

import numpy as np
import openslide
from numpy.typing import NDArray

from histoslide.errors import SlideOpenError, SlideReadError
from histoslide.geometry import Region
from histoslide.slide.alignment import is_aligned
from histoslide.slide.openslide_slide import OpenSlideSlide
from histoslide.slide.tiff.levels import direct_levels
from histoslide.slide.tiff.reader import SegmentMissingError, SegmentReader
from histoslide.slide.tiff.segments import TiffSegments

logger = logging.getLogger(__name__)

MAX_CHANNEL_DIFFERENCE = 1
"""How far a channel of a directly decoded segment may lie from OpenSlide's, for rounding; it is 0
on every slide seen so far. Beyond it the level is read through OpenSlide."""

_COMPARED_SEGMENTS = 3
"""Segments of a level that are tried for a comparison with OpenSlide."""


class TiffSlide(OpenSlideSlide):
    """A slide whose pixels come straight from its TIFF's compressed segments where that is safe.

    All facts are OpenSlide's, and so is every pixel that cannot be had otherwise: of other formats
    and kinds of segments, of those that are missing, and of levels whose segments do not decode to
    what OpenSlide makes of them. The pixels are OpenSlide's, only faster; at fractional downsamples
    they are those of the file, which OpenSlide may move by one. A segment that is damaged is an
    error also where OpenSlide would show what is left of it.
    """

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return tuple(
            "tiff tiles" if self._is_direct(level) else "openslide" for level in self._stored
        )

    def _read_stored(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        if self._is_direct(region.level):
            try:
                return self._segments().read(region, shrink)
            except (SegmentMissingError, SlideOpenError) as error:
                logger.debug("%s; OpenSlide is asked", error)
        return super()._read_stored(region, shrink)

    def _start(self) -> None:
        super()._start()
        self._segment_reader: SegmentReader | None = None
        self._direct: dict[int, bool] = {}

    def _segments(self) -> SegmentReader:
        if self._process != os.getpid():
            self._start()
        reader = self._segment_reader
        if reader is None:
            vendor = self.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
            reader = SegmentReader(
                self._path,
                direct_levels(self._path, vendor, self._stored_sizes),
                cache_bytes=self._cache_bytes,
                # Philips leaves out segments without tissue, which are transparent in OpenSlide.
                missing=self._background if vendor == "philips" else None,
            )
            with self._lock:
                reader = self._segment_reader = self._segment_reader or reader
        return reader

    def _is_direct(self, level: int) -> bool:
        known = self._direct  # another thread may close the slide, which begins a new one
        if level not in known:
            segments = self._segments().levels[level]
            known[level] = segments is not None and self._agrees(level, segments)
        return known[level]

    def _agrees(self, level: int, segments: TiffSegments) -> bool:
        """Whether segments of a level decode to what OpenSlide makes of them.

        Those with the most bytes are compared, for they have the most to differ in, out of those
        that OpenSlide reads unshifted. Segments that are damaged say nothing of the others, but
        where only OpenSlide reads any, it is left to it.
        """
        verdict = True
        for x, y in _best_compared(segments, self._reported_downsamples[level]):
            width = min(segments.each.width, segments.size.width - x)
            height = min(segments.each.height, segments.size.height - y)
            region = Region(level, x, y, width, height)
            try:
                theirs = super()._read_stored(region)
                verdict = False
                ours = self._segments().read(region).astype(np.int16)
            except SlideReadError as error:
                logger.debug("%s: level %d cannot be compared there: %s", self.name, level, error)
                continue
            difference = int(np.abs(ours - theirs).max())
            if difference > MAX_CHANNEL_DIFFERENCE:
                logger.debug("%s: level %d differs by %d", self.name, level, difference)
            return difference <= MAX_CHANNEL_DIFFERENCE
        return verdict


def _best_compared(segments: TiffSegments, downsample: float) -> list[tuple[int, int]]:
    """Corners, in level pixels, of the segments to compare with OpenSlide's, the best first."""
    rows, cols = segments.byte_counts.shape
    exact_rows = [is_aligned(row * segments.each.height, downsample) for row in range(rows)]
    exact_cols = [is_aligned(col * segments.each.width, downsample) for col in range(cols)]
    worth = np.where(np.outer(exact_rows, exact_cols), segments.byte_counts, 0).ravel()
    best = np.argsort(worth, kind="stable")[::-1][:_COMPARED_SEGMENTS]
    return [
        (int(i) % cols * segments.each.width, int(i) // cols * segments.each.height)
        for i in best
        if worth[i]
    ]
