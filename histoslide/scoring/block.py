"""One block of cells: read once, tiles cut where the network computes, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import BundleError, SlideReadError
from histoslide.geometry import CellRange
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.grid.windows import read_in_pieces, read_window, read_windows
from histoslide.model import Batches, Model, ModelSpec, Request
from histoslide.model.pixels import Squares
from histoslide.scoring.mode import EXACT, ScoreMode
from histoslide.slide import Slide

_Indices = NDArray[np.intp]

_Waiting = tuple[Request, NDArray[np.void], tuple[_Indices, _Indices]]
"""Tiles that are queued, the part of the block that they belong to, and their cells in it."""

MOST_HELD_BYTES = 2**26
"""Pixels that a block holds while it waits for its scores. At a stride of 96 px all of a block is
half as much; of wider strides a part is scored before more is read."""


def block_dtype(classes: int, *, tta: bool = False) -> np.dtype[np.void]:
    """Element of a scored block.

    ``probability``: float32 of all classes; ``status``; and with test-time augmentation
    ``disagreement``: float32, the standard deviation over the orientations.
    """
    fields: list[Any] = [("probability", np.float32, (classes,)), ("status", np.uint8)]
    if tta:
        fields.append(("disagreement", np.float32))
    return np.dtype(fields)


def empty_block(plan: NDArray[np.uint8], spec: ModelSpec, mode: ScoreMode) -> NDArray[np.void]:
    """A block of which nothing is scored yet.

    Args:
        plan: status of each cell, shape (rows, cols).
        spec: of the model.
        mode: decides which fields there are.
    """
    block = np.empty(plan.shape, dtype=block_dtype(len(spec.classes), tta=mode.tta))
    block["probability"] = np.nan
    if mode.tta:
        block["disagreement"] = np.nan
    block["status"] = plan
    return block


def score_block(
    slide: Slide,
    grid: TileGrid,
    cells: CellRange,
    plan: NDArray[np.uint8],
    model: Model,
    mode: ScoreMode = EXACT,
) -> NDArray[np.void]:
    """Score the pending cells of one block.

    A region that cannot be read is halved until the unreadable cells are singled out; they become
    ``UNREADABLE``, all others are scored.

    Args:
        slide: to read from.
        grid: of the slide.
        cells: of the block.
        plan: status of each cell before scoring, shape (rows, cols); only ``PENDING`` is scored.
        model: to score with; its input and label sizes are the grid's.
        mode: how.

    Raises:
        BundleError: the network puts out NaN or infinity, or cannot be used in this mode.

    Returns:
        Shape (rows, cols) of ``block_dtype``; probabilities are NaN where nothing was scored.
    """
    block = empty_block(plan, model.spec, mode)
    if not (plan == Status.PENDING).any():
        return block
    work = _Block(slide, grid, cells, block, model)
    first, *then = mode.works(grid.stride_px)
    if mode.mode == "exact":
        work.score_tiles(model.batches(first))
    elif mode.mode == "dense":
        work.score_areas(model.batches(first), across=first.across)
    else:
        assert model.spec.tumour_index is not None
        tiles = model.batches(then[0])
        with tiles.reader():  # from the start: others' part-filled batches wait for our tiles
            areas = work.score_areas(model.batches(first), across=first.across)
            threshold = mode.cascade_threshold
            work.repeat_tiles(tiles, areas, tumour=model.spec.tumour_index, threshold=threshold)
    return block


class _Block:
    """A block while it is being scored."""

    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        cells: CellRange,
        block: NDArray[np.void],
        model: Model,
    ) -> None:
        self._slide, self._grid, self._cells = slide, grid, cells
        self._block, self._model = block, model

    def score_tiles(self, batches: Batches) -> None:
        """Score every pending cell as a tile of its own."""
        pending = self._block["status"] == Status.PENDING
        waiting: list[_Waiting] = []
        held = 0
        with batches.reader():
            for window in read_windows(self._slide, self._grid, self._cells, pending):
                inside = self._of(window.cells)
                inside["status"][window.unreadable] = Status.UNREADABLE
                rows, cols = np.nonzero(inside["status"] == Status.PENDING)
                if window.pixels is None:
                    continue
                if held + window.pixels.nbytes > MOST_HELD_BYTES:
                    self._collect(batches, waiting)
                    waiting, held = [], 0
                waiting.append(
                    (self._put(batches, window.pixels, rows, cols), inside, (rows, cols))
                )
                held += window.pixels.nbytes
                batches.help()
            self._collect(batches, waiting)

    def _put(
        self, batches: Batches, window: NDArray[np.uint8], rows: _Indices, cols: _Indices
    ) -> Request:
        """Queue the tiles of some cells of a window."""
        side, stride = self._grid.input_px, self._grid.stride_px
        tiles = Squares(side=side, stride=stride, rows=rows, cols=cols)
        return batches.put(self._model.memory.cut(window, tiles), len(rows))

    def _collect(self, batches: Batches, waiting: Sequence[_Waiting]) -> None:
        """Wait for tiles, and write their scores into the block."""
        batches.wait([request for request, _, _ in waiting])
        for request, inside, (rows, cols) in waiting:
            self._write(inside, rows, cols, request.result)

    def score_areas(
        self, batches: Batches, *, across: int
    ) -> list[tuple[CellRange, NDArray[np.uint8]]]:
        """Score areas of ``across`` cells a side in one pass each.

        Returns:
            The areas and their pixels.
        """
        requests: list[tuple[Request, CellRange, NDArray[np.uint8]]] = []
        with batches.reader():
            for top in range(0, self._cells.rows, across):
                for left in range(0, self._cells.cols, across):
                    area = CellRange(self._cells.row + top, self._cells.col + left, across, across)
                    if (self._of(area)["status"] != Status.PENDING).all():
                        continue
                    pixels = self._read_area(area)
                    if (self._of(area)["status"] == Status.PENDING).any():
                        requests.append((self._put_whole(batches, pixels), area, pixels))
                        batches.help()
            batches.wait([request for request, _, _ in requests])
        for request, area, _ in requests:
            inside = self._of(area)
            rows, cols = np.nonzero(inside["status"] == Status.PENDING)
            assert request.result is not None
            self._write(inside, rows, cols, request.result[0][rows, cols])
        return [(area, pixels) for _, area, pixels in requests]

    def _put_whole(self, batches: Batches, area: NDArray[np.uint8]) -> Request:
        """Queue an area as it is: a square of its own size."""
        side, first = len(area), np.zeros(1, dtype=np.intp)
        whole = Squares(side=side, stride=side, rows=first, cols=first)
        return batches.put(self._model.memory.cut(area, whole), 1)

    def repeat_tiles(
        self,
        batches: Batches,
        areas: Sequence[tuple[CellRange, NDArray[np.uint8]]],
        *,
        tumour: int,
        threshold: float,
    ) -> None:
        """Score again, as tiles of their own, the cells of areas that may hold tumour."""
        waiting: list[_Waiting] = []
        for area, pixels in areas:
            inside = self._of(area)
            suspect = inside["probability"][..., tumour] >= threshold  # NaN is not
            rows, cols = np.nonzero(suspect)
            if len(rows):
                waiting.append((self._put(batches, pixels, rows, cols), inside, (rows, cols)))
        self._collect(batches, waiting)

    def _read_area(self, area: CellRange) -> NDArray[np.uint8]:
        """An area's pixels; cells that cannot be read are marked, and white in the picture."""
        try:
            return read_window(self._slide, self._grid, area)
        except SlideReadError:
            pass
        # All of it, as a network sees it, whatever is wanted of it.
        everything = np.ones((area.rows, area.cols), dtype=np.bool_)
        window = read_in_pieces(self._slide, self._grid, area, everything)
        inside = self._of(area)
        unreadable = window.unreadable[: inside.shape[0], : inside.shape[1]]
        inside["status"][unreadable & (inside["status"] == Status.PENDING)] = Status.UNREADABLE
        if window.pixels is not None:
            return window.pixels
        size = self._grid.window_size_px(area)
        return np.full((size.height, size.width, 3), 255, dtype=np.uint8)

    def _of(self, area: CellRange) -> NDArray[np.void]:
        """The part of the block that lies in an area, which may reach beyond the block."""
        top, left = area.row - self._cells.row, area.col - self._cells.col
        return self._block[top : top + area.rows, left : left + area.cols]

    def _write(
        self,
        inside: NDArray[np.void],
        rows: _Indices,
        cols: _Indices,
        scores: NDArray[np.float32] | None,
    ) -> None:
        """Put scores into cells of a part of the block."""
        assert scores is not None
        if not np.isfinite(scores).all():
            raise BundleError(
                f"model {self._model.spec.name} gives probabilities that are no numbers: "
                "its weights are broken, train it again"
            )
        classes = len(self._model.spec.classes)
        inside["probability"][rows, cols] = scores[:, :classes]
        if scores.shape[1] > classes:
            inside["disagreement"][rows, cols] = scores[:, classes]
        inside["status"][rows, cols] = Status.SCORED
