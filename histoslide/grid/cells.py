"""The grid of heatmap cells over a slide; the only place that converts between frames.

Three frames share their origin at level-0 (0, 0): level-0 pixels, model pixels (``scale`` level-0
pixels each) and cells (``stride_px`` model pixels each). All conversions are one multiplication
by a float64, so nothing accumulates and nothing drifts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import ResolutionError
from histoslide.geometry import Box, CellRange, Mpp, Size

DEFAULT_BLOCK_CELLS = 32
"""Side of a block in cells: with 32 px cells a read of about 1088 model pixels."""

_EDGE_TOLERANCE = 1e-9
"""Part of a cell below which a remainder at the slide's edge is float rounding, not tissue."""


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """All cells of a slide and the tile that is centred on each.

    Raises:
        ResolutionError: the slide is coarser than the model by more than a factor of two, or the
            model's resolution is not a positive number.
        ValueError: a size is not positive, or the footprint is larger than the tile.
    """

    size_l0: Size
    """Level-0 size of the slide."""
    slide_mpp: Mpp
    """Resolution of level 0."""
    model_mpp: float
    """Micrometres per model pixel."""
    input_px: int
    """Side of a tile in model pixels."""
    label_px: int
    """Side of the label footprint in model pixels."""
    stride_px: int
    """Side of a cell in model pixels."""
    block_cells: int = DEFAULT_BLOCK_CELLS
    """Side of a block in cells."""

    def __post_init__(self) -> None:
        for name in ("input_px", "label_px", "stride_px", "block_cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.label_px > self.input_px:
            raise ValueError(f"label_px {self.label_px} exceeds input_px {self.input_px}")
        Mpp(value=self.model_mpp, source="model")  # raises where it is not a positive number
        if self.scale < 0.5:
            raise ResolutionError(
                f"the slide's {self.slide_mpp.value:g} µm/px ({self.slide_mpp.source}) "
                f"is more than twice as coarse as the model's {self.model_mpp:g} µm/px: "
                "enlarging would invent detail; pass the right --mpp or another model"
            )

    @property
    def scale(self) -> float:
        """Level-0 pixels a model pixel."""
        return self.model_mpp / self.slide_mpp.value

    @property
    def cell_l0(self) -> float:
        """Level-0 pixels along the side of a cell."""
        return self.stride_px * self.scale

    @property
    def cell_um(self) -> float:
        """Micrometres along the side of a cell."""
        return self.stride_px * self.model_mpp

    @property
    def rows(self) -> int:
        """Cells down the slide; the last may reach beyond its lower edge."""
        return max(1, math.ceil(self.size_l0.height / self.cell_l0 - _EDGE_TOLERANCE))

    @property
    def cols(self) -> int:
        """Cells across the slide; the last may reach beyond its right edge."""
        return max(1, math.ceil(self.size_l0.width / self.cell_l0 - _EDGE_TOLERANCE))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def block_shape(self) -> tuple[int, int]:
        """Blocks (down, across)."""
        return math.ceil(self.rows / self.block_cells), math.ceil(self.cols / self.block_cells)

    def numbered_blocks(self) -> Iterator[tuple[tuple[int, int], CellRange]]:
        """All blocks in reading order, each with its row and column among them."""
        down, across = self.block_shape
        for i in range(down):
            for j in range(across):
                yield (i, j), self.block(i, j)

    def blocks(self) -> Iterator[CellRange]:
        """All blocks in reading order."""
        return (cells for _, cells in self.numbered_blocks())

    def block(self, i: int, j: int) -> CellRange:
        """The cells of block (i, j); those at the lower and right edge may be smaller."""
        row, col = i * self.block_cells, j * self.block_cells
        rows = min(self.block_cells, self.rows - row)
        cols = min(self.block_cells, self.cols - col)
        return CellRange(row, col, rows, cols)

    def cell_box_l0(self, row: int, col: int) -> Box:
        """The square that a cell paints, in level-0 pixels."""
        return self._centred_l0(row, col, self.stride_px)

    def label_box_l0(self, row: int, col: int) -> Box:
        """The label footprint of a cell's tile, in level-0 pixels."""
        return self._centred_l0(row, col, self.label_px)

    def tile_box_l0(self, row: int, col: int) -> Box:
        """The tile that is centred on a cell, in level-0 pixels; may reach beyond the slide."""
        return self._centred_l0(row, col, self.input_px)

    def cells_box_l0(self, cells: CellRange) -> Box:
        """The rectangle that a range of cells paints, in level-0 pixels."""
        side = self.cell_l0
        return Box(cells.col * side, cells.row * side, cells.cols * side, cells.rows * side)

    def window_box_l0(self, cells: CellRange) -> Box:
        """The rectangle that the tiles of a range of cells cover, in level-0 pixels."""
        margin = (self.input_px - self.stride_px) / 2 * self.scale
        size = self.window_size_px(cells)
        return Box(
            cells.col * self.cell_l0 - margin,
            cells.row * self.cell_l0 - margin,
            size.width * self.scale,
            size.height * self.scale,
        )

    def window_size_px(self, cells: CellRange) -> Size:
        """Size of ``window_box_l0`` in model pixels, always whole."""
        return Size(
            (cells.cols - 1) * self.stride_px + self.input_px,
            (cells.rows - 1) * self.stride_px + self.input_px,
        )

    def edges_l0(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the lines between cells lie, in level-0 pixels, ending at the slide's edge.

        Returns:
            x of the edges between columns, shape (cols + 1,), and y of those between rows, shape
            (rows + 1,). The last cells reach only as far as the slide does.
        """
        x = np.minimum(np.arange(self.cols + 1) * self.cell_l0, self.size_l0.width)
        y = np.minimum(np.arange(self.rows + 1) * self.cell_l0, self.size_l0.height)
        return x, y

    def cell_at_l0(self, x_l0: float, y_l0: float) -> tuple[int, int]:
        """(row, col) of the cell that paints a level-0 point.

        Raises:
            ValueError: the point lies outside the slide.
        """
        if not (0 <= x_l0 < self.size_l0.width and 0 <= y_l0 < self.size_l0.height):
            raise ValueError(f"level-0 ({x_l0}, {y_l0}) lies outside {self.size_l0}")
        row, col = int(y_l0 / self.cell_l0), int(x_l0 / self.cell_l0)
        return min(row, self.rows - 1), min(col, self.cols - 1)

    def _centred_l0(self, row: int, col: int, side_px: int) -> Box:
        side = side_px * self.scale
        return Box(
            (col + 0.5) * self.cell_l0 - side / 2, (row + 0.5) * self.cell_l0 - side / 2, side, side
        )
