"""The heatmap as tiles of cells, whole or still being written.

A complete store is read tile by tile from its own pyramid. While it is being written its coarser
levels are empty, so they are made here, from a copy in memory that takes in each new block.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import StoreError
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.storage.location import Location, file_system, is_remote, object_key, storage_errors
from histoslide.store import (
    Heatmap,
    PyramidLevel,
    level_shapes,
    open_heatmap,
    pyramid,
    readable,
)
from histoslide.store.arrays import StoreArrays

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

TILE_CELLS = 128
"""Side of a tile in cells: four chunks of the store."""

_REST = 5.0
"""A store being written is looked at again after this many times as long as looking took, so that
watching it costs a fraction of a core."""

_LEAST_REST_S = 1.0

_UNREAD: tuple[object, ...] | None = ("unread",)
"""Stamp of what no store is like."""


@dataclass(frozen=True, kw_only=True)
class CellState:
    """How far a heatmap is."""

    revision: str
    """Changes whenever any cell does."""
    complete: bool
    """Whether the run has finished."""
    decided: int
    """Cells that are not pending."""
    cells: int
    """Cells in all."""


@dataclass(frozen=True)
class _Arrays:
    """One level in memory."""

    probability: NDArray[np.float32]
    status: NDArray[np.uint8]


class CellSource:
    """Tiles of one stored heatmap; usable from several threads.

    Raises:
        StoreError: the store is missing, damaged or of an unknown version.
    """

    def __init__(self, path: Location) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known_highest: float | None = None
        self._load()

    @property
    def heat(self) -> Heatmap:
        """The heatmap as it was when last looked at."""
        return self._heat

    @property
    def grid(self) -> TileGrid:
        """Where its cells lie."""
        return self._heat.grid

    def highest(self) -> float | None:
        """Highest probability of the main class; None where nothing is scored yet."""
        with self._lock:
            if self._known_highest is None and self._live is None:
                # The coarsest level knows it, being made of maxima.
                with readable(self._path):
                    values = np.asarray(self._levels[-1].probability[:])
                channel = self._heat.shown_classes.index(self._heat.main_class)
                values = values if values.ndim == 2 else values[channel]
                found = values[np.isfinite(values)]
                self._known_highest = float(found.max()) if found.size else None
            return self._known_highest

    def state(self) -> CellState:
        """How far the heatmap is; a store that changed is read anew.

        Raises:
            StoreError: the store has gone or is damaged.
        """
        with self._lock:
            if _stamp(self._path) != self._stamp:
                self._load()
            elif self._live is not None and time.monotonic() >= self._next_look:
                self._look()
            return self._state

    def tile(self, level: int, row: int, col: int, channel: int = 0) -> bytes:
        """Probabilities as little-endian float32, then statuses as uint8, row by row.

        At level 0 of a complete heatmap with a first look, ``Heatmap.looks`` follow as uint8.

        A cell that was scored but whose probability was lost or cannot be one is unreadable, and
        so are all cells of a tile that cannot be decoded: damage must not look like normal tissue.

        Args:
            level: of the store's pyramid, 0 is the finest.
            row: of the tile.
            col: of the tile.
            channel: index into ``heat.shown_classes``.

        Raises:
            IndexError: there is no such tile or channel.
        """
        with self._lock:
            levels, live = self._levels, self._live
        shapes = level_shapes(self.grid.shape)
        if not (0 <= level < len(shapes) and 0 <= channel < len(self._heat.shown_classes)):
            raise IndexError(f"no level {level} of channel {channel}")
        top, left = row * TILE_CELLS, col * TILE_CELLS
        rows, cols = shapes[level]
        if not (0 <= top < rows and 0 <= left < cols):
            raise IndexError(f"no tile {level}/{row}/{col}")
        where = np.s_[top : min(rows, top + TILE_CELLS), left : min(cols, left + TILE_CELLS)]
        if live is None:
            probability = levels[level].probability
            index = where if probability.ndim == 2 else (channel, *where)
            try:
                with readable(self._path):
                    values = np.asarray(probability[index])
                    status = np.asarray(levels[level].status[where])
            except StoreError as error:
                logger.warning("%s", error)
                shape = (where[0].stop - top, where[1].stop - left)
                values = np.full(shape, np.nan, dtype=np.float32)
                status = np.full(shape, Status.UNREADABLE, dtype=np.uint8)
        else:
            made = live[level]
            index = where if made.probability.ndim == 2 else (channel, *where)
            values, status = made.probability[index], made.status[where]
        lost = (status == Status.SCORED) & ~((values >= 0) & (values <= 1))
        if live is None:  # nothing is still to come
            lost |= status == Status.PENDING
        values, status = np.where(lost, np.nan, values), np.where(lost, Status.UNREADABLE, status)
        return (
            np.ascontiguousarray(values, dtype="<f4").tobytes()
            + np.ascontiguousarray(status, dtype=np.uint8).tobytes()
            + (self._looks(where) if live is None and level == 0 else b"")
        )

    def _looks(self, where: tuple[slice, slice]) -> bytes:
        """How many networks have seen some cells; nothing where that is not known."""
        try:
            with readable(self._path):
                stored = StoreArrays.open(self._path).extra_array("looks", self.grid)
                return b"" if stored is None else np.asarray(stored[where]).tobytes()
        except StoreError as error:
            logger.warning("%s", error)
            return b""

    def _load(self) -> None:
        # The stamp comes first: what changes after it is seen the next time. It counts once all is
        # read: what cannot be read is tried again, not shown as it was.
        self._stamp, stamp = _UNREAD, _stamp(self._path)
        self._heat = open_heatmap(self._path, allow_incomplete=True, allow_damaged=True)
        self._levels: tuple[PyramidLevel, ...] = self._heat.levels()
        self._live: list[_Arrays] | None = None
        self._next_look = 0.0
        self._known_highest = None
        cells = self.grid.rows * self.grid.cols
        if self._heat.complete:
            seconds = self._heat.record.seconds
            self._state = CellState(
                revision=f"{self._heat.id}-{seconds}", complete=True, decided=cells, cells=cells
            )
        else:
            shape = self._levels[0].probability.shape
            self._live = [
                _Arrays(
                    np.full(shape, np.nan, dtype=np.float32),
                    np.full(self.grid.shape, Status.PENDING, dtype=np.uint8),
                )
            ]
            self._look()
        self._stamp = stamp

    def _look(self) -> None:
        """Take in the blocks that were written since the last look."""
        assert self._live is not None
        started = time.monotonic()
        before = self._live[0]
        with readable(self._path):
            finest = _Arrays(before.probability.copy(), np.asarray(self._levels[0].status[:]))
            for cells in self.grid.blocks():
                where = cells.slices
                new = (before.status[where] == Status.PENDING) & (finest.status[where] > 0)
                if new.any():
                    everywhere = (slice(None),) * (finest.probability.ndim - 2)
                    index = (*everywhere, *where)
                    finest.probability[index] = np.asarray(self._levels[0].probability[index])
        self._live = [_Arrays(*level) for level in pyramid(finest.probability, finest.status)]
        decided = int((finest.status != Status.PENDING).sum())
        self._state = CellState(
            revision=f"{self._heat.id}-{decided}",
            complete=False,
            decided=decided,
            cells=finest.status.size,
        )
        now = time.monotonic()
        self._next_look = now + max(_LEAST_REST_S, _REST * (now - started))


def _stamp(path: Location) -> tuple[object, ...] | None:
    """Changes when the store's metadata are written, as they are when a run ends."""
    if is_remote(path):
        return _remote_stamp(path)
    for name in ("zarr.json", ".zattrs"):
        try:
            found = (path / name).stat()
        except OSError:
            continue
        return found.st_ino, found.st_mtime_ns
    return None


def _remote_stamp(path: UPath) -> tuple[object, ...] | None:
    for name in ("zarr.json", ".zattrs"):
        with storage_errors(path):
            try:
                return (file_system(path).info(object_key(path / name), refresh=True)["ETag"],)
            except FileNotFoundError:
                continue
    return None
