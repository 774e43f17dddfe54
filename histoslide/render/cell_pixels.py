"""Cells of a heatmap as pixels of a picture that spans the slide."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Size
from histoslide.grid.cells import TileGrid

T = TypeVar("T", np.float32, np.int32)


def cells_to_pixels(values: NDArray[T], grid: TileGrid, size: Size) -> NDArray[T]:
    """The value of the cell under each pixel of a picture that spans the slide.

    Where pixels are larger than cells, the highest value of all cells whose centre lies in the
    pixel is taken, so that a single cell does not vanish from the picture of a large slide.

    Args:
        values: shape ``grid.shape``; NaN yields to any number.
        grid: of the slide.
        size: of the picture.
    """
    pixel_l0 = max(grid.size_l0.width / size.width, grid.size_l0.height / size.height)
    if pixel_l0 <= grid.cell_l0:
        rows, cols = cell_index(grid, size)
        return values[np.ix_(rows, cols)]
    starts_y = _first_cells(size.height, grid.size_l0.height, grid.cell_l0, grid.rows)
    starts_x = _first_cells(size.width, grid.size_l0.width, grid.cell_l0, grid.cols)
    by_row = np.fmax.reduceat(values, starts_y, axis=0)
    return np.asarray(np.fmax.reduceat(by_row, starts_x, axis=1))


def _first_cells(pixels: int, length_l0: int, cell_l0: float, cells: int) -> NDArray[np.intp]:
    """The first cell whose centre lies in each pixel, along one axis."""
    edges = np.arange(pixels) * (length_l0 / pixels)
    first = np.ceil(edges / cell_l0 - 0.5).astype(np.intp)
    return np.clip(first, 0, cells - 1)


def cell_index(grid: TileGrid, size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The row of cells under each pixel row, and the column under each pixel column.

    Args:
        grid: of the slide.
        size: of a picture that spans the slide.
    """
    y = (np.arange(size.height) + 0.5) * (grid.size_l0.height / size.height)
    x = (np.arange(size.width) + 0.5) * (grid.size_l0.width / size.width)
    rows = np.minimum((y / grid.cell_l0).astype(np.intp), grid.rows - 1)
    cols = np.minimum((x / grid.cell_l0).astype(np.intp), grid.cols - 1)
    return rows, cols
