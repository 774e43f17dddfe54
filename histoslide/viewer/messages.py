"""What the page is told, as values; ``histoslide/viewer/web`` reads their fields by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histoslide.storage.records import ABSENT, Absent, Number
from histoslide.store.record import CellCounts
from histoslide.viewer.cells import CellState


@dataclass(frozen=True, kw_only=True)
class HeatmapRow:
    """A heatmap in the list of a cohort, or a slide for which there is none."""

    key: str | None
    """Names the heatmap in addresses; None where there is none."""
    name: str | Absent = ABSENT
    """File name of the store."""
    slide: str
    """File name of the slide."""
    state: str
    """``complete``, ``running``, ``unreadable`` or ``failed``; of the last two little is known."""
    share_done: float | Absent = ABSENT
    """Part of the cells that are decided, 0-1."""
    model: str | Absent = ABSENT
    """Name of the model."""
    scored: int | Absent | None = ABSENT
    """Cells with a probability; None while the run goes on."""
    highest: float | Absent | None = ABSENT
    """Highest probability of the main class."""
    unreadable: int | Absent | None = ABSENT
    """Cells that could not be read, likewise."""
    warnings: tuple[str, ...] | Absent = ABSENT
    """What to know before trusting it."""
    positive: int | Absent | None = ABSENT
    """Cells at or above the threshold; of heatmaps whose run is recorded."""
    threshold: float | Absent | None = ABSENT
    """Of ``positive``."""
    error: str | Absent | None = ABSENT
    """Why there is nothing to see."""


@dataclass(frozen=True, kw_only=True)
class CohortMessage:
    """All heatmaps, and the slides for which there is none."""

    heatmaps: tuple[HeatmapRow, ...]
    """One a line."""


@dataclass(frozen=True, kw_only=True)
class SlideMessage:
    """A slide, and how it is cut into the tiles of the picture."""

    name: str
    """File name."""
    present: bool
    """Whether its pixels can be shown."""
    warning: str | None
    """What to say where it is not the slide that was scored."""
    version: str | None
    """Changes with the slide; stands in the addresses of its tiles."""
    size_l0: tuple[int, int]
    """Width and height in level-0 pixels."""
    mpp: float
    """Micrometres per level-0 pixel."""
    mpp_source: str
    """Where that comes from."""
    bounds_l0: tuple[Number, Number, Number, Number] | None
    """x, y, width and height of the scanned part in level-0 pixels."""
    tile_px: int
    """Side of a tile of the picture."""
    overlap_px: int
    """Pixels that a tile shares with the next."""
    max_level: int
    """Deep Zoom's finest level."""


@dataclass(frozen=True, kw_only=True)
class GridMessage:
    """Where the cells lie, and how they are cut into tiles."""

    rows: int
    """Cells down."""
    cols: int
    """Cells across."""
    cell_l0: float
    """Side of a cell in level-0 pixels."""
    cell_um: float
    """Side of a cell in micrometres."""
    tile_cells: int
    """Side of a tile in cells."""
    levels: tuple[tuple[int, int], ...]
    """Rows and columns of every level, finest first."""


@dataclass(frozen=True, kw_only=True)
class ComparableMessage:
    """Another heatmap that can be shown beside this one."""

    key: str
    """Names it in addresses."""
    name: str
    """File name of the store."""
    model: str
    """Name of its model."""


@dataclass(frozen=True, kw_only=True)
class HeatmapMessage:
    """Everything the page needs to show one heatmap."""

    key: str
    """Names it in addresses."""
    name: str
    """File name of the store."""
    classes: tuple[str, ...]
    """Classes that are stored, in the order of channels."""
    main_class: str
    """The one shown first."""
    model: str
    """Name of the model."""
    model_sha256: str
    """Of its weights."""
    slide: SlideMessage
    """What lies under it."""
    grid: GridMessage
    """Where its cells lie."""
    tissue_share: float
    """Part of the slide that is tissue, 0-1."""
    counts: CellCounts | None
    """Cells by status; None while the run goes on."""
    warnings: tuple[str, ...]
    """What to know before trusting it."""
    threshold: float
    """Probability that is marked first."""
    state: CellState
    """How far it is."""
    comparable: tuple[ComparableMessage, ...]
    """Others of the same slide and the same classes."""


@dataclass(frozen=True, kw_only=True)
class FociMessage:
    """The foci of a heatmap."""

    hint: str
    """How they are found, and what to know of them."""
    lesions: tuple[Mapping[str, Any], ...]
    """Rows of the table of lesions, each with its ``number``, ``box_l0`` and ``rings_l0``."""
