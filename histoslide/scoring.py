"""One block of cells: read once, tiles cut on the device, probabilities out."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histoslide.errors import BundleError
from histoslide.geometry import CellRange
from histoslide.grid import TileGrid
from histoslide.model import Model
from histoslide.slide import Slide
from histoslide.tiles import read_windows


class Status(IntEnum):
    """What happened to a cell."""

    PENDING = 0
    """Not decided yet."""
    BACKGROUND = 1
    """Too little tissue in the label footprint; not read."""
    SCORED = 2
    """Has a probability."""
    UNREADABLE = 3
    """Should have been scored, but the slide could not be read there."""
    EXCLUDED = 4
    """Outside the region of interest."""


def block_dtype(classes: int) -> np.dtype[np.void]:
    """Element of a scored block: float32 probabilities of all classes and a status."""
    return np.dtype([("probability", np.float32, (classes,)), ("status", np.uint8)])


def score_block(
    slide: Slide, grid: TileGrid, cells: CellRange, plan: NDArray[np.uint8], model: Model
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

    Raises:
        BundleError: the network puts out NaN or infinity.

    Returns:
        Shape (rows, cols) of ``block_dtype``; probabilities are NaN where nothing was scored.
    """
    block = np.empty((cells.rows, cells.cols), dtype=block_dtype(len(model.spec.classes)))
    block["probability"] = np.nan
    block["status"] = plan
    for window in read_windows(slide, grid, cells, plan == Status.PENDING):
        top, left = window.cells.row - cells.row, window.cells.col - cells.col
        inside = block[top : top + window.cells.rows, left : left + window.cells.cols]
        rows, cols = np.nonzero(inside["status"] == Status.PENDING)
        if window.pixels is None:
            inside["status"][rows, cols] = Status.UNREADABLE
            continue
        for batch, tiles in cut_tiles(window.pixels, grid, rows, cols, model):
            scores = model.probabilities(tiles).cpu().numpy()
            if not np.isfinite(scores).all():
                raise BundleError(
                    f"model {model.spec.name} gives probabilities that are no numbers: "
                    "its weights are broken, train it again"
                )
            inside["probability"][rows[batch], cols[batch]] = scores
        inside["status"][rows, cols] = Status.SCORED
    return block


def cut_tiles(
    window: NDArray[np.uint8],
    grid: TileGrid,
    rows: NDArray[np.intp],
    cols: NDArray[np.intp],
    model: Model,
) -> Iterator[tuple[slice, Tensor]]:
    """Cut the tiles of some cells out of a window on the model's device, batch by batch.

    Args:
        window: RGB, uint8, as ``histoslide.tiles.read_window`` returns it.
        grid: gives tile size and stride.
        rows: of the cells, counted from the window's first.
        cols: likewise.
        model: gives device and batch size; the window is moved once, tiles are cut there.

    Yields:
        Which of the cells, and their uint8 tiles of shape (n, 3, input_px, input_px).
    """
    image = torch.from_numpy(np.array(window)).to(model.device).permute(2, 0, 1)
    side, stride = grid.input_px, grid.stride_px
    tiles = image.unfold(1, side, stride).unfold(2, side, stride)  # a view: (3, r, c, side, side)
    row_index, col_index = (torch.from_numpy(i).to(model.device) for i in (rows, cols))
    for start in range(0, len(rows), model.batch_size):
        batch = slice(start, start + model.batch_size)
        yield batch, tiles[:, row_index[batch], col_index[batch]].permute(1, 0, 2, 3)
