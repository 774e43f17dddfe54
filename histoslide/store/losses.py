"""Whether a store holds every file that it must: what it says of itself is no proof."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import StoreError
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.scoring.mode import Extra
from histoslide.storage.location import (
    Location,
    file_system,
    is_remote,
    object_key,
    storage_errors,
)
from histoslide.store.arrays import (
    LABELS,
    MOST_CELLS,
    STATUS,
    StoreArrays,
    extra_name,
    probability_name,
    status_name,
)
from histoslide.store.layout import array_names, chunk_name, metadata_name
from histoslide.store.pyramid import level_shapes
from histoslide.store.record import CellCounts, HeatmapRecord


def refuse_losses(
    path: Location,
    record: HeatmapRecord,
    grid: TileGrid,
    channels: int,
    *,
    allow_damaged: bool = False,
) -> None:
    """Make sure that all files of a store are there, and that its cells are those that it counted.

    Of a store that is not complete only the arrays can be missed: what has no status was never
    computed or is computed again.

    Args:
        path: of the store.
        record: what it says of itself.
        grid: that follows from that.
        channels: classes that it stores.
        allow_damaged: let blocks be missed, but no arrays.

    Raises:
        StoreError: files are lost, cells were altered, or it claims more cells than any slide has.
    """
    _refuse_claims(path, grid, channels)
    keys = _keys(path)
    v3 = "zarr.json" in keys
    extras = record.mode.value.extras
    arrays = array_names(len(level_shapes(grid.shape)), extras)
    groups = ["", LABELS, STATUS, *extras]
    wanted = [metadata_name(group, array=False, v3=v3) for group in groups]
    wanted += [metadata_name(array, array=True, v3=v3) for array in arrays]
    _refuse_missing(path, keys, wanted)
    if not record.complete or allow_damaged:
        return
    stored = StoreArrays.open(path).status(0, grid)
    side = (stored.shards or stored.chunks)[-1]
    _refuse_missing(path, keys, _statuses(grid, side, v3=v3))
    status = np.asarray(stored[:])
    if record.counts != (found := CellCounts.of(status)):
        told = None if record.counts is None else record.counts.scored
        raise StoreError(
            f"{path} is damaged ({found.scored} cells are scored, it counted {told}; "
            f"{found.pending} are undecided): score the slide again with --overwrite"
        )
    lead = (0,) if channels > 1 else ()
    _refuse_missing(path, keys, _probabilities(status, side, lead, extras, v3=v3))


def forget_lost(
    path: Location, status: NDArray[np.uint8], block_cells: int, *, classes: int, v3: bool
) -> None:
    """Let the blocks of a begun store be computed again whose probabilities are lost.

    Args:
        path: of the store.
        status: of each cell as it is stored, shape (rows, cols); updated in place.
        block_cells: cells along the side of a block.
        classes: that the store holds.
        v3: version of Zarr; otherwise 2.
    """
    keys, lead = _keys(path), (0,) if classes > 1 else ()
    for row, col in np.argwhere(_any_of(status == Status.SCORED, block_cells)).tolist():
        if chunk_name(probability_name(0), (*lead, row, col), v3=v3) not in keys:
            top, left = row * block_cells, col * block_cells
            status[top : top + block_cells, left : left + block_cells] = Status.PENDING


def _refuse_claims(path: Location, grid: TileGrid, channels: int) -> None:
    """Refuse what no run has written, before anything of that size is allocated or looked for."""
    for claimed in (grid.rows * grid.cols, grid.block_cells**2):
        if claimed * channels > MOST_CELLS:
            raise StoreError(
                f"{path} claims {claimed:,} cells of {channels} classes, more than any slide has: "
                "score the slide again with --overwrite"
            )


def _statuses(grid: TileGrid, side: int, *, v3: bool) -> Iterator[str]:
    """The files of the statuses of a complete store: none of its cells is undecided."""
    for level, shape in enumerate(level_shapes(grid.shape)):
        for block in product(*(range(-(-cells // side)) for cells in shape)):
            yield chunk_name(status_name(level), block, v3=v3)


def _probabilities(
    status: NDArray[np.uint8],
    side: int,
    lead: tuple[int, ...],
    extras: Sequence[Extra],
    *,
    v3: bool,
) -> Iterator[str]:
    """The files of the probabilities: of all blocks in which something was scored."""
    scored, level = status == Status.SCORED, 0
    for _ in level_shapes(status.shape):
        for row, col in np.argwhere(_any_of(scored, side)).tolist():
            yield chunk_name(probability_name(level), (*lead, row, col), v3=v3)
            for extra in extras if level == 0 else ():
                yield chunk_name(extra_name(extra), (row, col), v3=v3)
        scored, level = _any_of(scored, 2), level + 1


def _any_of(cells: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Whether any is true of each square of cells."""
    down = np.logical_or.reduceat(cells, np.arange(0, cells.shape[0], side), axis=0)
    found: NDArray[np.bool_] = np.logical_or.reduceat(
        down, np.arange(0, cells.shape[1], side), axis=1
    )
    return found


def _refuse_missing(path: Location, keys: set[str], wanted: Iterator[str] | list[str]) -> None:
    lost = [name for name in wanted if name not in keys]
    if lost:
        raise StoreError(
            f"{path} is damaged ({len(lost)} of its files are lost, the first is {lost[0]}): "
            "score the slide again with --overwrite"
        )


def _keys(path: Location) -> set[str]:
    """Names of all files of a store, seen from its folder."""
    if is_remote(path):
        start = object_key(path)
        with storage_errors(path):
            return {key.removeprefix(f"{start}/") for key in file_system(path).find(start)}
    return {
        os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")  # noqa: PTH118
        for folder, _, names in os.walk(path, followlinks=True)
        for name in names
    }
