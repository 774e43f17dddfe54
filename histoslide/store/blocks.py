"""Blocks of a heatmap on their way into its store: which are to be computed, and writing them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import LockLostError
from histoslide.geometry import CellRange
from histoslide.grid.status import Status
from histoslide.scoring.lazy import LazyHeatmap
from histoslide.scoring.runners import BlockIndex, Runner
from histoslide.storage.location import Location
from histoslide.storage.lock import LockGuard
from histoslide.store.arrays import StoreArrays
from histoslide.store.layout import stored_classes
from histoslide.store.losses import forget_lost
from histoslide.store.metadata import read_record, write_record

if TYPE_CHECKING:
    from dask.delayed import Delayed


class BlockTarget:
    """What blocks are stored into: probabilities first, status last."""

    def __init__(self, path: Location, tumour_index: int | None, guard: LockGuard) -> None:
        arrays = StoreArrays.open(path, "r+")
        self._probability, self._status = arrays.probability(), arrays.status()
        self._extras = arrays.extras
        # Two classes sum to one: the heatmap shows the tumour class, or else the second.
        self._shown = 1 if tumour_index is None else tumour_index
        self._guard = guard
        self._opened = path, tumour_index, guard

    def __reduce__(self) -> tuple[object, ...]:
        return BlockTarget, self._opened

    def __setitem__(self, where: tuple[slice, slice], block: NDArray[np.void]) -> None:
        # A block may come late, from a worker of a run that has ended long ago.
        self._guard.check()
        probability = block["probability"]
        if self._probability.ndim == 2:
            self._probability[where] = probability[..., self._shown]
        else:
            self._probability[(slice(None), *where)] = np.moveaxis(probability, -1, 0)
        for extra, array in self._extras.items():
            array[where] = block[extra]
        self._status[where] = block["status"]


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Scores blocks of a heatmap and writes them; see ``histoslide.scoring.runners.BlockTask``."""

    lazy: LazyHeatmap
    target: BlockTarget

    def __call__(self, block: BlockIndex) -> int:
        return _write_block(self.target, self.lazy.grid.block(*block), self.lazy.score(block))

    def graph(self, block: BlockIndex) -> Delayed:
        from dask.delayed import delayed  # noqa: PLC0415 - see LazyHeatmap.blocks

        values = self.lazy.blocks.blocks[block].to_delayed().item()
        write = delayed(_write_block, pure=False)
        return write(self.target, self.lazy.grid.block(*block), values)


def run_blocks(
    lazy: LazyHeatmap,
    path: Location,
    on_block: Callable[[int, int, int], None],
    runner: Runner,
    guard: LockGuard,
) -> None:
    """Compute and write the blocks that an earlier run has left to do.

    Args:
        lazy: the heatmap.
        path: of its store, laid out.
        on_block: called after each block with (blocks done, blocks in all, cells scored so far).
        runner: computes the blocks.
        guard: of the lock that we hold.

    Raises:
        LockLostError: another run has taken the store.
    """
    arrays = StoreArrays.open(path, "r+")
    stored = arrays.status()
    status = np.asarray(stored[:])
    # Not of a packed store, which is whole when it is made.
    if stored.shards is None and (status == Status.SCORED).any():
        forget_lost(
            path,
            status,
            lazy.grid.block_cells,
            classes=len(stored_classes(lazy.spec.classes, lazy.spec.tumour_class)),
            v3=stored.metadata.zarr_format == 3,
        )
    _settle_untouched(lazy, arrays, status)
    total, done = lazy.grid.block_shape[0] * lazy.grid.block_shape[1], 0
    blocks: list[BlockIndex] = []
    for block, cells in lazy.grid.numbered_blocks():
        if (status[cells.slices] == Status.PENDING).any():
            blocks.append(block)
        else:
            done += 1
    if not blocks:
        return
    scored = int((status == Status.SCORED).sum())
    task = _Task(lazy=lazy, target=BlockTarget(path, lazy.spec.tumour_index, guard))

    started, ours = time.monotonic(), True
    try:
        with closing(runner.run(blocks, task)) as results:
            for result in results:
                done, scored = done + 1, scored + result
                on_block(done, total, scored)
    except LockLostError:
        ours = False
        raise
    finally:
        if ours:
            record = read_record(path)
            seconds = record.seconds + (time.monotonic() - started)
            write_record(arrays.group, dataclasses.replace(record, seconds=seconds))


def _settle_untouched(lazy: LazyHeatmap, arrays: StoreArrays, status: NDArray[np.uint8]) -> None:
    """Write the status of blocks in which nothing is to be scored, many at a time.

    Most of a slide is glass: a task for each of its blocks would cost more than all else.

    Args:
        lazy: the heatmap.
        arrays: of its store.
        status: as stored; updated in place.
    """
    stored = arrays.status()
    side = lazy.grid.block_cells
    for top in range(0, lazy.grid.rows, side):
        band = np.s_[top : top + side]
        lefts = range(0, lazy.grid.cols, side)
        idle = [
            (status[band, left : left + side] == Status.PENDING).any()
            and (lazy.plan[band, left : left + side] != Status.PENDING).all()
            for left in lefts
        ]
        for found, run in itertools.groupby(range(len(lefts)), key=idle.__getitem__):
            if found:
                columns = list(run)
                where = np.s_[top : top + side, columns[0] * side : (columns[-1] + 1) * side]
                status[where] = lazy.plan[where]
                stored[where] = lazy.plan[where]


def _write_block(target: BlockTarget, cells: CellRange, block: NDArray[np.void]) -> int:
    """Write a block, and return how many of its cells were scored."""
    target[cells.slices] = block
    return int((block["status"] == Status.SCORED).sum())


def reopened(status: NDArray[np.uint8], block_cells: int) -> NDArray[np.uint8]:
    """Status of cells of which all blocks with unreadable ones are to be scored again.

    Args:
        status: of each cell, shape (rows, cols).
        block_cells: cells along the side of a block.
    """
    status = status.copy()
    unreadable = np.argwhere(status == Status.UNREADABLE) // block_cells * block_cells
    for row, col in np.unique(unreadable, axis=0):
        status[row : row + block_cells, col : col + block_cells] = Status.PENDING
    return status
