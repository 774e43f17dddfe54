"""What the page is told, as values; ``histoslide/viewer/web`` reads their fields by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from histoslide.storage.records import ABSENT, Absent, Number, Whole
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
    longest_um: float | Absent | None = ABSENT
    """Longest diameter of the longest focus, or None where there is none."""
    longest_class: str | Absent | None = ABSENT
    """What it is called by that, likewise."""
    slide_score: float | Absent | None = ABSENT
    """Highest probability that a group of cells reaches in common."""
    positive: int | Absent | None = ABSENT
    """Cells at or above the threshold; of heatmaps whose run is recorded."""
    threshold: float | Absent | None = ABSENT
    """Of ``positive``."""
    judged: int | Absent = ABSENT
    """Foci and regions in the review, where one is made."""
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
    first_look: str | None
    """Name of the model that looked first; None where none did."""
    first_look_weight: float
    """Of its log-odds in cells that both have seen; 0 where it has no say."""
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
    review: str | None
    """Name of the file that a review goes to; None where none is made."""


@dataclass(frozen=True, kw_only=True)
class FociSettings:
    """How foci are found, as far as the page can change it: see ``LesionSettings``."""

    seed_probability: Number
    """At least one cell of a focus reaches it."""
    extend_probability: Number
    """All of its cells do."""
    smoothing_um: Number
    """Standard deviation of the Gaussian before."""
    join_gap_um: Number
    """Foci nearer than this are one."""
    min_cells: Whole
    """Smaller ones are left out."""


@dataclass(frozen=True, kw_only=True)
class FociMessage:
    """The foci of a heatmap."""

    notes: tuple[str, ...]
    """What to know of them."""
    settings: FociSettings
    """How they were found."""
    recorded: FociSettings
    """How those in the tables were."""
    tables: str | None
    """Name of the tables beside the heatmap; None where there are none."""
    lesions: tuple[Mapping[str, Any], ...]
    """Rows of the table of lesions, each with its ``number``, ``id``, ``box_l0`` and
    ``polygons_l0``."""


Polygons = Sequence[Sequence[Sequence[tuple[float, float]]]]
"""Polygons of rings of points in level-0 pixels, none closed by its first point again."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
_Id = Annotated[str, msgspec.Meta(min_length=30, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


@dataclass(frozen=True, kw_only=True)
class ReviewClassMessage:
    """A class that an outline may have."""

    name: str
    """As QuPath shows it."""
    colour: tuple[int, int, int]
    """RGB."""


@dataclass(frozen=True, kw_only=True)
class ReviewObjectMessage:
    """An outline of a review."""

    id: str
    """Names it."""
    version: str
    """Changes with it."""
    class_name: str | None
    """None where it has none."""
    is_focus: bool
    """Whether a heatmap showed it, and nobody drew it."""
    number: int | None
    """Of the focus when it was judged."""
    polygons_l0: Polygons
    """Where it lies."""


@dataclass(frozen=True, kw_only=True)
class ReviewMessage:
    """A review."""

    file: str
    """Name of its file."""
    version: str
    """Changes with the file."""
    decisions: tuple[tuple[str, str], ...]
    """For each class that the heatmap shows, what an accepted and a rejected focus is called."""
    classes: tuple[ReviewClassMessage, ...]
    """On offer."""
    objects: tuple[ReviewObjectMessage, ...]
    """In the order of the file."""


@dataclass(frozen=True, kw_only=True)
class ReviewShape:
    """What the page wants an object to be."""

    class_name: _Name | None
    """Its class."""
    polygons_l0: Polygons
    """Where it lies."""
    number: Whole | None
    """Of a focus; None of what was drawn."""


@dataclass(frozen=True, kw_only=True)
class ReviewChange:
    """What the page asks for."""

    id: _Id
    """Of the object."""
    base: str | None
    """The version that the page saw; None for no such object."""
    to: ReviewShape | None
    """What it shall be; None to remove it."""


@dataclass(frozen=True, kw_only=True)
class ReviewAnswer:
    """How an object is after a change that was asked for."""

    object: ReviewObjectMessage | None
    """None where it is not, or no more."""
    error: str | Absent = ABSENT
    """Why it is not as asked for."""
