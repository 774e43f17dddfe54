"""A slide whose tissue tiles are known and not yet read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import CellRange, Mpp
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.grid.windows import MAX_WINDOW_PX
from histoslide.model import ModelSpec
from histoslide.pipeline.options import TissueOptions
from histoslide.scoring.lazy import make_grid, plan_cells
from histoslide.slide.access import SlideAccess
from histoslide.storage.location import Location


@dataclass(frozen=True, kw_only=True)
class PlannedSlide:
    """A slide and which of its tiles are wanted."""

    path: Location
    """Slide file."""
    mpp: Mpp | None
    """Resolution that replaces what the slide records."""
    grid: TileGrid
    """Where its cells and tiles lie; a block is what is read at once."""
    wanted: NDArray[np.bool_]
    """Cells whose tiles are wanted, shape ``grid.shape``."""

    @property
    def tiles(self) -> int:
        """How many are wanted."""
        return int(self.wanted.sum())

    @property
    def windows(self) -> Sequence[CellRange]:
        """Ranges of cells with a wanted one in them, in reading order."""
        return [cells for cells in self.grid.blocks() if self.wanted[cells.slices].any()]


def plan_slide(
    path: Location,
    spec: ModelSpec,
    *,
    stride_px: int,
    tissue: TissueOptions,
    mpp: Mpp | None,
    access: SlideAccess,
) -> PlannedSlide:
    """Open a slide, find its tissue, and close it again.

    Args:
        path: slide file.
        spec: gives size and resolution of the tiles.
        stride_px: distance between tiles in model pixels.
        tissue: which part of the slide.
        mpp: resolution that replaces what the slide records.
        access: how the slide is opened.

    Raises:
        HistoslideError: the slide or a mask cannot be used.
    """
    with access.open(path, mpp=mpp) as slide:
        window_cells = max(1, (MAX_WINDOW_PX - spec.input_px) // stride_px + 1)
        grid = make_grid(slide, spec, stride_px=stride_px, block_cells=window_cells)
        mask, roi = tissue.find(slide)
        plan = plan_cells(grid, mask, threshold=tissue.threshold, roi=roi)
        return PlannedSlide(path=path, mpp=mpp, grid=grid, wanted=plan == Status.PENDING)


def tile_spec(*, input_px: int, mpp: float, label_px: int | None = None) -> ModelSpec:
    """Size and resolution of tiles for a network that is not one of ours.

    Args:
        input_px: side of a tile.
        mpp: micrometres per pixel of the tile.
        label_px: side of the centre that must hold tissue; None for all of the tile.

    Raises:
        BundleError: a number is out of range.
    """
    return ModelSpec(
        name="tiles",
        architecture="none",
        classes=("unlabelled", "tile"),
        input_px=input_px,
        label_px=input_px if label_px is None else label_px,
        mpp=mpp,
    )
