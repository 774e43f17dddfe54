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
from histoslide.slide.resampling import read_box

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
    """RGB as ``read_window`` returns it, or None where a single cell cannot be read."""


def read_windows(
    slide: Slide, grid: TileGrid, cells: CellRange, wanted: NDArray[np.bool_]
) -> Iterator[Window]:
    """Read the windows that hold all wanted cells of a range.

    Ranges of wide strides are read in several windows of at most ``MAX_WINDOW_PX``. A window that
    cannot be read is halved until the unreadable cells are singled out.

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
            yield from _read_or_halve(
                slide, grid, part, wanted[top : top + rows, left : left + cols]
            )


def _read_or_halve(
    slide: Slide, grid: TileGrid, part: CellRange, wanted: NDArray[np.bool_]
) -> Iterator[Window]:
    """Read what is wanted of a range; nothing where nothing is."""
    if not wanted.any():
        return
    part, wanted = _shrunk(part, wanted)
    try:
        yield Window(part, read_window(slide, grid, part))
    except SlideReadError as error:
        if part.rows * part.cols == 1:
            logger.debug("cell (%d, %d) is unreadable: %s", part.row, part.col, error)
            yield Window(part, None)
            return
        if isinstance(error, SlideGivenUpError):
            yield from _each_unread(part, wanted)
            return
        for half, wanted_half in _halves(part, wanted):
            yield from _read_or_halve(slide, grid, half, wanted_half)


def _each_unread(part: CellRange, wanted: NDArray[np.bool_]) -> Iterator[Window]:
    for row, col in np.argwhere(wanted).tolist():
        yield Window(CellRange(part.row + row, part.col + col, 1, 1), None)


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
