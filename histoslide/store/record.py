"""What a heat.zarr says of itself: ``attributes.histoslide``, as values.

``heatmap-1.json`` beside this file says the same to programs without histoslide; a test holds the
two together. The order of fields is the order in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.scoring.record import MaskRecord, ModelRecord, ModeRecord, SlideRecord
from histoslide.storage.records import Count, NotNegative, Positive, Whole

SCHEMA_VERSION: Final = 1
"""Of ``attributes.histoslide``."""


@dataclass(frozen=True, kw_only=True)
class GridRecord:
    """Where the cells lie. All but two follow from slide and model, for readers without these."""

    rows: Whole
    """Number of cells down."""
    cols: Whole
    """Number of cells across."""
    stride_px: Whole
    """Side of a cell in model pixels."""
    block_cells: Whole
    """Side of a block in cells."""
    cell_um: Positive
    """Side of a cell in micrometres."""
    cell_l0: Positive
    """Side of a cell in level-0 pixels."""

    @classmethod
    def of(cls, grid: TileGrid) -> GridRecord:
        """What is recorded of a grid."""
        return cls(
            rows=grid.rows,
            cols=grid.cols,
            stride_px=grid.stride_px,
            block_cells=grid.block_cells,
            cell_um=grid.cell_um,
            cell_l0=grid.cell_l0,
        )


@dataclass(frozen=True, kw_only=True)
class CellCounts:
    """Cells by status."""

    pending: Count
    """Not decided."""
    background: Count
    """Too little tissue."""
    scored: Count
    """With a probability."""
    unreadable: Count
    """Could not be read."""
    excluded: Count
    """Outside the region of interest."""

    @classmethod
    def of(cls, status: NDArray[np.uint8]) -> CellCounts:
        """Count the cells of each status."""
        return cls(**{it.label: int((status == it).sum()) for it in Status})


@dataclass(frozen=True, kw_only=True)
class HeatmapRecord:
    """Everything that is recorded of a heatmap."""

    schema_version: Literal[1]
    """Of this record; others are refused."""
    complete: bool
    """Every cell is decided and the pyramid is whole. Written last."""
    fingerprint: Mapping[str, Any]
    """Everything that decides the values, by names that runs are compared by. Another release may
    have other names; then it is another heatmap."""
    slide: SlideRecord
    """What was scored."""
    grid: GridRecord
    """In which cells."""
    mask: MaskRecord
    """Which of them."""
    model: ModelRecord
    """By what."""
    engine: str
    """What computed the probabilities and how precisely, for example ``torch fp32``."""
    mode: ModeRecord
    """How the cells came by them."""
    device: str
    """Where, as torch names it."""
    command: str | None
    """Command line, without folders."""
    versions: Mapping[str, str]
    """Of the packages that took part, by name."""
    counts: CellCounts | None
    """None until the heatmap is complete."""
    seconds: NotNegative
    """Spent scoring, in all runs together."""
