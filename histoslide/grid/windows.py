"""The tiles of a range of cells, read at once at the model's resolution."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideGivenUpError, SlideReadError
from histoslide.geometry import CellRange
from histoslide.grid.cells import TileGrid
from histoslide.slide import Slide
from histoslide.slide.resampling import WHITE, Squares, read_box, read_padded, squares_for

logger = logging.getLogger(__name__)

MAX_WINDOW_PX = 1152
"""Longest side of one window in model pixels (the tiles of 34 cells at a stride of 32)."""


def read_window(slide: Slide, grid: TileGrid, cells: CellRange) -> NDArray[np.uint8]:
    """Read all tiles of a range of cells at once, at the model's resolution.

    Returns:
        RGB, shape of ``grid.window_size_px(cells)``; the tile of the cell at (i, j) within the
        range is the ``input_px`` square whose corner is at (i, j) times ``stride_px``.

    Raises:
        SlideReadError: the slide cannot be read there.
    """
    return read_box(slide, grid.window_box_l0(cells), grid.window_size_px(cells))


@dataclass(frozen=True)
class Window:
    """A range of cells and the pixels that all their tiles lie in."""

    cells: CellRange
    """Which cells."""
    pixels: NDArray[np.uint8] | None
    """RGB as ``read_window`` returns it, white where it cannot be read; None where nothing can."""
    unreadable: NDArray[np.bool_]
    """Which of the wanted cells cannot be read, shape (rows, cols)."""


def read_windows(
    slide: Slide, grid: TileGrid, cells: CellRange, wanted: NDArray[np.bool_]
) -> Iterator[Window]:
    """Read the windows that hold all wanted cells of a range.

    Ranges of wide strides are read in several windows of at most ``MAX_WINDOW_PX``. A window that
    cannot be read is read in pieces, which are halved until the unreadable cells are singled out.

    Args:
        slide: to read from.
        grid: of the slide.
        cells: range to read.
        wanted: which of its cells, shape (rows, cols); windows hold others in between as well.
    """
    step = max(1, (MAX_WINDOW_PX - grid.input_px) // grid.stride_px + 1)
    for top in range(0, cells.rows, step):
        for left in range(0, cells.cols, step):
            rows, cols = min(step, cells.rows - top), min(step, cells.cols - left)
            part = CellRange(cells.row + top, cells.col + left, rows, cols)
            inside = wanted[top : top + rows, left : left + cols]
            if inside.any():
                part, inside = _shrunk(part, inside)
                try:
                    pixels = read_window(slide, grid, part)
                except SlideReadError as error:
                    logger.debug("%s is read in pieces: %s", part, error)
                    yield read_in_pieces(slide, grid, part, inside)
                else:
                    yield Window(part, pixels, np.zeros_like(inside))


def read_in_pieces(
    slide: Slide, grid: TileGrid, cells: CellRange, wanted: NDArray[np.bool_]
) -> Window:
    """Read what can be read of a range of cells that cannot be read at once.

    The pieces are of the slide's own pixels, which are resampled as a whole when all are there:
    so the tiles of cells that can be read are, to the last bit, those of ``read_window``. Had each
    piece been resampled for itself, its rounding would have been its own.

    Args:
        slide: to read from.
        grid: of the slide.
        cells: range to read.
        wanted: which of its cells, shape (rows, cols); what only others need is left white.
    """
    if cells.rows * cells.cols == 1:
        return Window(cells, None, np.ones((1, 1), dtype=np.bool_))
    pieces = _Pieces(grid, cells, wanted)
    box, size = grid.window_box_l0(cells), grid.window_size_px(cells)
    pixels = read_box(slide, box, size, read=pieces.read)
    nothing = bool((pieces.unreadable == wanted).all())
    return Window(cells, None if nothing else pixels, pieces.unreadable)


class _Pieces:
    """Reads the pixels that cells need in pieces, and notes the cells whose cannot be read."""

    def __init__(self, grid: TileGrid, cells: CellRange, wanted: NDArray[np.bool_]) -> None:
        self._grid, self._cells, self._wanted = grid, cells, wanted
        self.unreadable = np.zeros_like(wanted)

    def read(self, slide: Slide, level: int, squares: Squares, shrink: int) -> NDArray[np.uint8]:
        """What can be read of some squares, else white; see ``resampling.read_padded``."""
        left, top, right, bottom = squares
        canvas = np.full((bottom - top, right - left, 3), WHITE, dtype=np.uint8)
        side_l0 = slide.level_downsamples[level] * shrink
        halves = list(_halves(self._cells, self._wanted))  # the whole has been tried
        while halves:
            cells, wanted = halves.pop()
            if not wanted.any():
                continue
            cells, wanted = _shrunk(cells, wanted)
            x0, y0, x1, y1 = self._squares_of(cells, side_l0)
            x0, y0, x1, y1 = max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)
            if x0 >= x1 or y0 >= y1:
                continue
            try:
                piece = read_padded(slide, level, (x0, y0, x1, y1), shrink)
            except SlideGivenUpError:
                row, col = cells.row - self._cells.row, cells.col - self._cells.col
                self.unreadable[row : row + cells.rows, col : col + cells.cols] |= wanted
            except SlideReadError as error:
                if cells.rows * cells.cols > 1:
                    halves += _halves(cells, wanted)
                    continue
                logger.debug("cell (%d, %d) is unreadable: %s", cells.row, cells.col, error)
                self.unreadable[cells.row - self._cells.row, cells.col - self._cells.col] = True
            else:
                canvas[y0 - top : y1 - top, x0 - left : x1 - left] = piece
        return canvas

    def _squares_of(self, cells: CellRange, side_l0: float) -> Squares:
        """The squares that the tiles of some cells are made of."""
        box = self._grid.window_box_l0(cells).scaled(1 / side_l0)
        return squares_for(box, self._grid.window_size_px(cells))


def _shrunk(part: CellRange, wanted: NDArray[np.bool_]) -> tuple[CellRange, NDArray[np.bool_]]:
    """The smallest range that holds all that is wanted of a part."""
    rows, cols = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    top, left, bottom, right = int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1
    cells = CellRange(part.row + top, part.col + left, bottom - top, right - left)
    return cells, wanted[top:bottom, left:right]


def _halves(
    cells: CellRange, wanted: NDArray[np.bool_]
) -> Iterator[tuple[CellRange, NDArray[np.bool_]]]:
    if cells.rows >= cells.cols:
        middle = cells.rows // 2
        yield CellRange(cells.row, cells.col, middle, cells.cols), wanted[:middle]
        rest = CellRange(cells.row + middle, cells.col, cells.rows - middle, cells.cols)
        yield rest, wanted[middle:]
    else:
        middle = cells.cols // 2
        yield CellRange(cells.row, cells.col, cells.rows, middle), wanted[:, :middle]
        rest = CellRange(cells.row, cells.col + middle, cells.rows, cells.cols - middle)
        yield rest, wanted[:, middle:]
