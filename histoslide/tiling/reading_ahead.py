"""Tiles read ahead of whoever wants them: windows of several slides, in threads, in a given order.

The threads hand their reads to the processes of ``histoslide.slide.isolated`` and cut the tiles; a
slide is opened by whoever first needs it and closed after its last window.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import HistoslideError
from histoslide.geometry import CellRange
from histoslide.grid.windows import read_windows
from histoslide.slide import Slide
from histoslide.slide.access import SlideAccess
from histoslide.tiling.planned import PlannedSlide

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WindowPlace:
    """What is read at once."""

    slide: int
    """Index of the slide."""
    cells: CellRange
    """Which of its cells."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile and where it is from."""

    pixels: NDArray[np.uint8]
    """RGB, shape (3, input_px, input_px)."""
    slide: int
    """Index of the slide."""
    row: int
    """Of its cell."""
    col: int
    """Of its cell."""


@dataclass(frozen=True, kw_only=True)
class ReadWindow:
    """What became of a window."""

    slide: int
    """Index of the slide."""
    tiles: Sequence[Tile]
    """Those that could be read, in reading order."""
    unreadable: int
    """How many could not."""


def read_ahead(
    slides: Sequence[PlannedSlide],
    places: Sequence[WindowPlace],
    access: SlideAccess,
    *,
    threads: int,
) -> Iterator[ReadWindow]:
    """Read windows in their order, some ahead of the one that is wanted next.

    A slide that cannot be opened, or kills its readers too often, is logged once, and its tiles
    count as unreadable from there on.

    Args:
        slides: that the places speak of.
        places: what to read.
        access: how slides are opened.
        threads: that read; twice as many windows are read or wait to be taken.
    """
    counts = Counter(place.slide for place in places)
    sources = {i: _Source(slides[i], i, access, windows) for i, windows in counts.items()}
    waiting: deque[Future[ReadWindow]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
    try:
        for place in places:
            waiting.append(pool.submit(sources[place.slide].read, place.cells))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for source in sources.values():
            source.close()


class _Source:
    """A slide from its first window to its last."""

    def __init__(
        self, planned: PlannedSlide, index: int, access: SlideAccess, windows: int
    ) -> None:
        self._planned, self._index, self._access = planned, index, access
        self._left = windows
        self._slide: Slide | None = None
        self._given_up = False
        self._lock = threading.Lock()

    def read(self, cells: CellRange) -> ReadWindow:
        """Read a window and cut its tiles."""
        tiles: list[Tile] = []
        wanted = self._planned.wanted[cells.slices]
        try:
            if (slide := self._opened()) is not None:
                tiles = list(self._cut(slide, cells, wanted))
        except HistoslideError as error:
            self._give_up(error)
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self.close()
        unreadable = int(wanted.sum()) - len(tiles)
        return ReadWindow(slide=self._index, tiles=tiles, unreadable=unreadable)

    def close(self) -> None:
        """Close the slide, if it is open."""
        with self._lock:
            slide, self._slide = self._slide, None
        if slide is not None:
            slide.close()

    def _opened(self) -> Slide | None:
        with self._lock:
            if self._slide is None and not self._given_up:
                self._slide = self._access.open(self._planned.path, mpp=self._planned.mpp)
            return None if self._given_up else self._slide

    def _give_up(self, error: HistoslideError) -> None:
        with self._lock:
            first, self._given_up = not self._given_up, True
        if first:
            logger.warning(
                "%s: %s; the rest of its tiles is left out", self._planned.path.name, error
            )

    def _cut(self, slide: Slide, cells: CellRange, wanted: NDArray[np.bool_]) -> Iterator[Tile]:
        grid = self._planned.grid
        side, stride = grid.input_px, grid.stride_px
        for window in read_windows(slide, grid, cells, wanted):
            if window.pixels is None:
                continue
            inside = self._planned.wanted[window.cells.slices]
            for i, j in np.argwhere(inside & ~window.unreadable).tolist():
                top, left = i * stride, j * stride
                tile = window.pixels[top : top + side, left : left + side]
                yield Tile(
                    pixels=np.ascontiguousarray(tile.transpose(2, 0, 1)),
                    slide=self._index,
                    row=window.cells.row + i,
                    col=window.cells.col + j,
                )
