"""One block of cells: read once, tiles cut where the network computes, probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import BundleError, SlideReadError
from histoslide.geometry import CellRange
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.grid.windows import Window, read_in_pieces, read_window, read_windows
from histoslide.model import Batches, ModelSpec, Request
from histoslide.model.first_look import FirstLook, in_doubt, with_again
from histoslide.model.pixels import Squares
from histoslide.model.work import Work
from histoslide.scoring.mode import EXACT, EXTRA_TYPES, Compiles, Extra, ScoreMode
from histoslide.slide import Slide

_Indices = NDArray[np.intp]

MOST_HELD_BYTES = 2**26
"""Pixels that a block holds while it waits for its scores. At a stride of 96 px all of a block is
half as much; of wider strides a part is scored before more is read."""


class Scorer(Compiles, Protocol):
    """What scores blocks: a ``histoslide.model.Model``, or a cascade of two."""

    @property
    def spec(self) -> ModelSpec:
        """Of the model whose heatmap it is."""
        ...

    def batches(self, work: Work) -> Batches:
        """The queue for a kind of work."""
        ...


def block_dtype(classes: int, extras: Sequence[Extra] = ()) -> np.dtype[np.void]:
    """Element of a scored block.

    ``probability``: float32 of all classes; ``status``; and what the mode leaves beside them, see
    ``histoslide.scoring.mode.Extra``.
    """
    fields: list[Any] = [("probability", np.float32, (classes,)), ("status", np.uint8)]
    return np.dtype([*fields, *((name, EXTRA_TYPES[name]) for name in extras)])


def empty_block(plan: NDArray[np.uint8], spec: ModelSpec, mode: ScoreMode) -> NDArray[np.void]:
    """A block of which nothing is scored yet.

    Args:
        plan: status of each cell, shape (rows, cols).
        spec: of the model.
        mode: decides which fields there are.
    """
    block = np.zeros(plan.shape, dtype=block_dtype(len(spec.classes), mode.extras))
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
    model: Scorer,
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
    if mode.first_look is not None:
        glances, tiles = model.batches(first), model.batches(then[0])
        work.look_twice(glances, tiles, mode.first_look, threshold=mode.cascade_threshold)
    elif mode.mode == "exact":
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


@dataclass(frozen=True)
class _Part:
    """Some cells of a part of the block."""

    inside: NDArray[np.void]
    """The part, a view of the block."""
    rows: _Indices
    """Of the cells in it, shape (n,)."""
    cols: _Indices
    """Likewise."""

    @property
    def probability(self) -> NDArray[np.float32]:
        """Of all classes, shape (n, classes)."""
        found: NDArray[np.float32] = self.inside["probability"][self.rows, self.cols]
        return found

    def put(self, probability: NDArray[np.float32]) -> None:
        """Set the probabilities of all classes, shape (n, classes)."""
        self.inside["probability"][self.rows, self.cols] = probability

    def of(self, chosen: NDArray[np.bool_]) -> _Part:
        """Those of its cells that are chosen, shape (n,)."""
        return _Part(self.inside, self.rows[chosen], self.cols[chosen])


_Waiting = tuple[Request, _Part]
"""Tiles that are queued, and their cells."""


class _Block:
    """A block while it is being scored."""

    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        cells: CellRange,
        block: NDArray[np.void],
        model: Scorer,
    ) -> None:
        self._slide, self._grid, self._cells = slide, grid, cells
        self._block, self._model = block, model

    def score_tiles(self, batches: Batches) -> None:
        """Score every pending cell as a tile of its own."""
        windows = self._windows()
        with batches.reader():
            while self._score_some(batches, windows):
                pass

    def look_twice(
        self, glances: Batches, tiles: Batches, first: FirstLook, *, threshold: float
    ) -> None:
        """Score every pending cell at a first look, and again where that leaves a doubt.

        Args:
            glances: queue of the model that looks first.
            tiles: queue of the model that looks again.
            first: has the scale that brings both to one, its weight in cells that both see, and
                from where on its word is enough.
            threshold: probability on that scale below which it is enough too.
        """
        tumour = self._model.spec.tumour_index
        assert tumour is not None
        windows = self._windows()
        with tiles.reader():  # from the start: others' part-filled batches wait for our tiles
            while True:
                with glances.reader():  # not while we wait for tiles: others need not wait for us
                    seen = self._score_some(glances, windows)
                if not seen:
                    return
                waiting: list[_Waiting] = []
                own: list[NDArray[np.float32]] = []
                for part, pixels in seen:
                    glance = part.probability
                    moved = first.scale.apply_to_all(glance, tumour)
                    part.put(moved)
                    doubtful = in_doubt(moved[:, tumour], threshold, first.enough)
                    if doubtful.any():
                        again = part.of(doubtful)
                        waiting.append((self._put(tiles, pixels, again), again))
                        own.append(glance[doubtful, tumour])
                        tiles.help()
                self._collect(tiles, waiting)
                for said, (_, part) in zip(own, waiting, strict=True):
                    part.put(with_again(said, part.probability, tumour, first.say))

    def _windows(self) -> Iterator[Window]:
        """Pieces of the slide that hold all pending cells."""
        pending = self._block["status"] == Status.PENDING
        return read_windows(self._slide, self._grid, self._cells, pending)

    def _score_some(
        self, batches: Batches, windows: Iterator[Window]
    ) -> list[tuple[_Part, NDArray[np.uint8]]]:
        """Score the tiles of the next windows, of as many as may be held at a time.

        To be called inside ``batches.reader``.

        Returns:
            The cells that were scored, and the pixels of their windows; none at the end.
        """
        waiting: list[_Waiting] = []
        seen: list[tuple[_Part, NDArray[np.uint8]]] = []
        held = 0
        for window in windows:
            inside = self._of(window.cells)
            inside["status"][window.unreadable] = Status.UNREADABLE
            if window.pixels is None:
                continue
            part = _Part(inside, *np.nonzero(inside["status"] == Status.PENDING))
            waiting.append((self._put(batches, window.pixels, part), part))
            seen.append((part, window.pixels))
            held += window.pixels.nbytes
            batches.help()
            if held + window.pixels.nbytes > MOST_HELD_BYTES:  # as one more would be as large
                break
        self._collect(batches, waiting)
        return seen

    def _put(self, batches: Batches, window: NDArray[np.uint8], part: _Part) -> Request:
        """Queue the tiles of some cells of a window."""
        side, stride = self._grid.input_px, self._grid.stride_px
        tiles = Squares(side=side, stride=stride, rows=part.rows, cols=part.cols)
        return batches.put(batches.memory.cut(window, tiles), len(part.rows))

    def _collect(self, batches: Batches, waiting: Sequence[_Waiting]) -> None:
        """Wait for tiles, and write their scores into the block."""
        batches.wait([request for request, _ in waiting])
        for request, part in waiting:
            self._write(part, request.result)

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
            part = _Part(inside, *np.nonzero(inside["status"] == Status.PENDING))
            assert request.result is not None
            self._write(part, request.result[0][part.rows, part.cols])
        return [(area, pixels) for _, area, pixels in requests]

    def _put_whole(self, batches: Batches, area: NDArray[np.uint8]) -> Request:
        """Queue an area as it is: a square of its own size."""
        side, first = len(area), np.zeros(1, dtype=np.intp)
        whole = Squares(side=side, stride=side, rows=first, cols=first)
        return batches.put(batches.memory.cut(area, whole), 1)

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
            part = _Part(inside, *np.nonzero(suspect))
            if len(part.rows):
                waiting.append((self._put(batches, pixels, part), part))
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

    def _write(self, part: _Part, scores: NDArray[np.float32] | None) -> None:
        """Write scores of cells into the block, which have then been looked at once more."""
        assert scores is not None
        if not np.isfinite(scores).all():
            raise BundleError(
                f"model {self._model.spec.name} gives probabilities that are no numbers: "
                "its weights are broken, train it again"
            )
        classes = len(self._model.spec.classes)
        inside, where = part.inside, (part.rows, part.cols)
        names = inside.dtype.names or ()
        inside["probability"][where] = scores[:, :classes]
        if "disagreement" in names:
            inside["disagreement"][where] = scores[:, classes]
        if "looks" in names:
            inside["looks"][where] += 1
        inside["status"][where] = Status.SCORED
