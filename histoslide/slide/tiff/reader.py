"""Regions of a TIFF's images, put together from its compressed segments.

Threads share one descriptor, which `os.pread` reads at a place without moving it, and decoding lets
go of the interpreter's lock, so that threads read at once without waiting for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from histoslide.errors import SlideOpenError, SlideReadError, reason
from histoslide.geometry import Region
from histoslide.slide.shrinking import average_squares
from histoslide.slide.tiff.segments import SegmentDecodeError, TiffSegments

_RIM_SEGMENTS = 2
"""Segments this near to the border of a region are kept: windows of neighbouring blocks overlap by
about as much. Those further in are not asked for again, and would only push others out."""

_MAX_OFFSET = 2**62
"""Places in a file that an operating system can be asked for."""

_Key = tuple[int, int, int, int]
"""Level, segment row, segment column, and by how much it is shrunk."""


class SegmentMissingError(SlideReadError):
    """The bytes of a segment cannot be had: not in the file, or not read from it."""


class SegmentReader:
    """Reads from any thread and process what `TiffSegments` describe."""

    def __init__(
        self,
        path: Path,
        levels: Sequence[TiffSegments | None],
        *,
        cache_bytes: int,
        missing: NDArray[np.uint8] | None = None,
    ) -> None:
        """Describe the file; it is opened when it is first read.

        Args:
            path: TIFF file.
            levels: segments of each level, None for those that are not read here.
            cache_bytes: bound on the decoded segments that all threads keep together.
            missing: colour of segments that the file leaves out, or None where that is an error.
        """
        self._path = path
        self._missing = missing
        self._levels = tuple(levels)
        self._cache_bytes = cache_bytes
        self._start()

    @property
    def levels(self) -> tuple[TiffSegments | None, ...]:
        """Segments of each level, None for those that are not read here."""
        return self._levels

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of a level; see ``histoslide.slide.Slide.read``.

        Raises:
            SegmentMissingError: the file holds no such segment, or it cannot be read from it.
            SlideReadError: a segment is damaged.
            SlideOpenError: the file is gone.
        """
        level, segments = region.level, self._levels[region.level]
        if segments is None:
            raise SlideReadError(f"{self._path.name}: level {level} is not read by its segments")
        if self._process != os.getpid():
            self._start()  # forked: another thread of the parent may have held the lock
        rows = range(
            region.y // segments.each.height, (region.bottom - 1) // segments.each.height + 1
        )
        cols = range(region.x // segments.each.width, (region.right - 1) // segments.each.width + 1)
        counts = segments.byte_counts[rows.start : rows.stop, cols.start : cols.stop]
        if self._missing is None and not counts.all():
            row, col = (int(i[0]) for i in np.nonzero(counts == 0))
            raise SegmentMissingError(
                self._failure((level, rows[row], cols[col], 1), "it is missing")
            )
        by = segments.shrunk_by_decoding(shrink)
        x, y, width, height = (
            length // by for length in (region.x, region.y, region.width, region.height)
        )
        segment_width, segment_height = segments.each.width // by, segments.each.height // by
        canvas = np.empty((height, width, 3), dtype=np.uint8)
        scratch = segments.canvas(by)
        for row, col, keep in _each(rows, cols):
            pixels = self._segment(segments, (level, row, col, by), out=None if keep else scratch)
            top, left = row * segment_height - y, col * segment_width - x
            bottom, right = top + segment_height, left + segment_width
            part = pixels[max(-top, 0) : height - top, max(-left, 0) : width - left]
            canvas[max(top, 0) : bottom, max(left, 0) : right] = part
        return average_squares(canvas, shrink // by)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._file: _File | None = None
        self._cache: LRUCache[_Key, NDArray[np.uint8]] = LRUCache(
            self._cache_bytes, getsizeof=lambda pixels: pixels.nbytes
        )
        self._times_closed = 0
        self._process = os.getpid()

    def close(self) -> None:
        """Let go of file and cache; reading again opens the file again.

        A descriptor that another thread is reading with closes when that read ends: its number
        would otherwise be given to another file under the reader.
        """
        with self._lock:
            self._file = None
            self._cache.clear()
            self._times_closed += 1

    def _segment(
        self, segments: TiffSegments, key: _Key, *, out: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """A segment in memory of its own, which is kept for later, or in ``out``, which is not."""
        with self._lock:
            pixels = self._cache.get(key)
            if pixels is not None:
                return pixels
            times_closed = self._times_closed
        pixels = self._decoded(segments, key, out)
        if out is None and pixels.nbytes <= self._cache_bytes:
            with self._lock:
                if times_closed == self._times_closed:  # else it is of the file as it was before
                    self._cache[key] = pixels
        return pixels

    def _decoded(
        self, segments: TiffSegments, key: _Key, out: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """A segment from the file; a failure is tried once more with a fresh descriptor."""
        _, row, col, shrink = key
        offset, count = int(segments.offsets[row, col]), int(segments.byte_counts[row, col])
        if not count and self._missing is not None:
            return np.broadcast_to(self._missing, segments.canvas(shrink).shape)
        if count > segments.max_bytes or offset >= _MAX_OFFSET:
            raise SlideReadError(self._failure(key, f"it cannot have {count} bytes at {offset}"))
        file = self._opened(None)
        try:
            return segments.decode(file.read(offset, count), out=out, shrink=shrink)
        except (OSError, SegmentDecodeError):
            file = self._opened(file)
        try:
            return segments.decode(file.read(offset, count), out=out, shrink=shrink)
        except SegmentDecodeError as error:
            raise SlideReadError(self._failure(key, str(error))) from error
        except OSError as error:
            self._drop(file)
            raise SegmentMissingError(self._failure(key, str(error))) from error

    def _opened(self, failed: _File | None) -> _File:
        """The open file, another one than that which failed."""
        with self._lock:
            if self._file is None or self._file is failed:
                try:
                    self._file = _File(self._path)
                except OSError as error:
                    self._file = None
                    raise SlideOpenError(f"{self._path} cannot be read: {reason(error)}") from error
            return self._file

    def _drop(self, failed: _File) -> None:
        with self._lock:
            if self._file is failed:
                self._file = None

    def _failure(self, key: _Key, reason: str) -> str:
        level, row, col, _ = key
        return f"{self._path.name}: tile ({row}, {col}) of level {level} cannot be read: {reason}"


class _File:
    """A descriptor that closes when its last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from a place.

        Raises:
            OSError: the file cannot be read, or ends before.
        """
        assert self._descriptor is not None
        parts: list[bytes] = []
        while count:
            part = self._read_some(self._descriptor, offset, count)
            if not part:
                raise OSError("the file ends before it")
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, descriptor: int, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(descriptor, count, offset)
        with self._lock:  # Windows reads only where the descriptor stands
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, count)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _each(rows: range, cols: range) -> Iterator[tuple[int, int, bool]]:
    """Row and column of every segment of a region, and whether it lies at the region's rim."""
    for row in rows:
        row_at_rim = row - rows.start < _RIM_SEGMENTS or rows.stop - row <= _RIM_SEGMENTS
        for col in cols:
            at_rim = col - cols.start < _RIM_SEGMENTS or cols.stop - col <= _RIM_SEGMENTS
            yield row, col, row_at_rim or at_rim
