"""Lesions: the connected foci of a heatmap, outlined, measured, classed and written to tables.

A focus is a connected group of cells. Its outline runs along the edges of its cells, and every
length and area is taken from that outline, never from the centres of cells: a focus of one cell
is as long as the diagonal of the cell.
"""

from __future__ import annotations

import csv
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform
from skimage.filters import gaussian
from skimage.measure import label

from histoslide.errors import HistoslideError, StoreError
from histoslide.geometry import Box
from histoslide.grid import TileGrid
from histoslide.outputs import whole_file
from histoslide.place import read_bytes
from histoslide.scoring import Status
from histoslide.store import Heatmap

NOTICE = "Research use only. Not a medical device; not for diagnosis."
"""Stands in every output."""

ISOLATED_UM = 200.0
"""Longest diameter up to which a focus is called isolated tumour cells (AJCC Cancer Staging
Manual, 8th edition, breast, regional lymph nodes; its other criterion, fewer than 200 cells, cannot
be judged from a heatmap)."""

MICRO_UM = 2000.0
"""Longest diameter up to which a focus is called a micrometastasis (same source)."""

DEFAULT_SEED = 0.91
"""Probability that at least one cell of a focus must reach: 98 % of the 1,500 tumour-free
validation patches of the model that ships lie below it (36 % of the tumour patches lie above)."""

DEFAULT_EXTEND = 0.72
"""Probability from which a cell belongs to the focus that it touches: 90 % of those tumour-free
patches lie below it (71 % of the tumour patches lie above)."""

DEFAULT_GAP_UM = 75.0
"""Foci nearer than this are one: five tumour cells, as in the evaluation of CAMELYON16."""

_TOLERANCE = 1e-9
"""Relative: a focus of exactly 200 µm must not change its class by rounding."""

_DECIMALS = 6
"""Of numbers in tables: a picometre, and no noise of the last bit."""


class LesionClass(StrEnum):
    """What a focus is called by its longest diameter."""

    ISOLATED_TUMOUR_CELLS = "isolated tumour cells"
    """At most 0.2 mm."""
    MICROMETASTASIS = "micrometastasis"
    """More than 0.2 mm, at most 2 mm."""
    MACROMETASTASIS = "macrometastasis"
    """More than 2 mm."""


LESION_COLOURS: Mapping[LesionClass, tuple[int, int, int]] = {
    LesionClass.ISOLATED_TUMOUR_CELLS: (255, 145, 0),
    LesionClass.MICROMETASTASIS: (0, 229, 255),
    LesionClass.MACROMETASTASIS: (255, 230, 0),
}
"""RGB of outlines: unlike haematoxylin and eosin, and told apart by people who see no red."""


@dataclass(frozen=True, kw_only=True)
class LesionSettings:
    """How foci are found.

    Raises:
        HistoslideError: a value is out of range.
    """

    class_name: str | None = None
    """Class of the heatmap; None for its tumour class."""
    seed_probability: float = DEFAULT_SEED
    """A focus holds at least one cell at or above it."""
    extend_probability: float = DEFAULT_EXTEND
    """A focus consists of connected cells at or above it."""
    smoothing_um: float = 0.0
    """Standard deviation of the Gaussian that the heatmap is smoothed with before; 0 for none."""
    join_gap_um: float = DEFAULT_GAP_UM
    """Foci whose outlines are nearer than this are one lesion; 0 for none."""
    min_cells: int = 1
    """Lesions of fewer cells are left out."""
    score_cells: int = 4
    """Size of the group of cells that the slide score is taken from."""

    def __post_init__(self) -> None:
        for name in ("seed_probability", "extend_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise HistoslideError(
                    f"the {name.replace('_', ' ')} must be above 0 and at most 1, "
                    f"not {getattr(self, name)}"
                )
        if self.extend_probability > self.seed_probability:
            raise HistoslideError(
                f"the extend probability {self.extend_probability:g} must not exceed the seed "
                f"probability {self.seed_probability:g}"
            )
        for name in ("smoothing_um", "join_gap_um"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise HistoslideError(
                    f"{name.removesuffix('_um').replace('_', ' ')} must be 0 µm or more, "
                    f"not {getattr(self, name)}"
                )
        for name in ("min_cells", "score_cells"):
            if getattr(self, name) < 1:
                raise HistoslideError(
                    f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A focus, or several that lie close together. Points are (x, y)."""

    number: int
    """From 1, the longest first."""
    kind: LesionClass
    """By ``longest_diameter_um``."""
    polygon_l0: shapely.Polygon | shapely.MultiPolygon = field(repr=False)
    """Outline along the edges of cells, in level-0 pixels; ends at the slide's edge."""
    cells_rc: NDArray[np.intp] = field(repr=False, compare=False)
    """(row, col) of its cells in reading order, shape (cells, 2)."""
    cells: int
    """Number of cells."""
    area_mm2: float
    """Of the outline, without holes."""
    longest_diameter_um: float
    """Largest distance between two points of the outline (Feret diameter)."""
    longest_axis_l0: tuple[tuple[float, float], tuple[float, float]]
    """The two points, in level-0 pixels."""
    perimeter_um: float
    """Length of the outline along the edges of cells, holes included."""
    peak_probability: float
    """Highest probability of a cell, as in the heatmap."""
    peak_l0: tuple[float, float]
    """Centre of that cell in level-0 pixels."""
    mean_probability: float
    """Mean over the cells, as in the heatmap."""
    centroid_l0: tuple[float, float]
    """Centre of gravity in level-0 pixels; may lie outside of a curved lesion."""
    centroid_um: tuple[float, float]
    """The same in micrometres from the slide's corner."""
    box_l0: Box
    """Bounding box in level-0 pixels."""
    box_um: Box
    """The same in micrometres from the slide's corner."""
    cut_off: bool
    """Touches the slide's edge, an excluded region or unreadable cells: may be larger."""


@dataclass(frozen=True, kw_only=True)
class LesionSummary:
    """A slide in a few numbers."""

    lesions: int
    """How many."""
    lesions_by_kind: Mapping[str, int]
    """How many of each ``LesionClass``."""
    largest_kind: LesionClass | None
    """Class of the longest lesion, or None where there is none."""
    largest_diameter_um: float | None
    """Its longest diameter."""
    tumour_area_mm2: float
    """All lesions together."""
    tissue_area_mm2: float
    """All cells that were scored."""
    tumour_share_of_tissue: float | None
    """Ratio of the two, or None where nothing was scored."""
    slide_score: float | None
    """Highest probability that a connected group of ``score_cells`` cells reaches in common;
    depends on no threshold. None where nothing was scored."""
    highest_probability: float | None
    """Of any cell."""
    unreadable_cells: int
    """Cells of tissue that could not be read, and may hide a lesion."""
    notes: tuple[str, ...]
    """What a reader of the table should know."""


@dataclass(frozen=True, kw_only=True)
class LesionReport:
    """The lesions of a heatmap and what they were found with."""

    source: Mapping[str, Any]
    """Slide, resolution, cell, heatmap and model, as recorded in the heatmap."""
    settings: LesionSettings
    """With ``class_name`` filled in."""
    lesions: tuple[Lesion, ...]
    """The longest first."""
    summary: LesionSummary
    """The slide in a few numbers."""


def find_lesions(heatmap: Heatmap, settings: LesionSettings = LesionSettings()) -> LesionReport:
    """Find, join, measure and class the foci of a heatmap.

    Cells from ``extend_probability`` on that touch, also at a corner, are a focus if one of them
    reaches ``seed_probability`` (hysteresis, Canny 1986). Foci nearer than ``join_gap_um`` are
    joined; the gap between them is not filled.

    Args:
        heatmap: stored; where it is incomplete, only what is there is seen.
        settings: how.

    Raises:
        StoreError: no such class, or none was named and the model has no tumour class.
    """
    grid, name = heatmap.grid, settings.class_name or heatmap.tumour_class
    probability, status = heatmap.probability(name), heatmap.status
    foci = _label_foci(_smoothed(probability, settings.smoothing_um / grid.cell_um), settings)
    outlines = _outlines(foci)
    lesion_of_focus = _joined(outlines, settings.join_gap_um / grid.cell_um)
    unknown = np.isin(status, (Status.PENDING, Status.UNREADABLE, Status.EXCLUDED))
    beside_unknown = binary_dilation(
        np.pad(unknown, 1, constant_values=True), np.ones((3, 3), np.bool_)
    )
    found = []
    for part_of, cells in _cells_of_lesions(foci, lesion_of_focus):
        if len(cells) >= settings.min_cells:
            outline = shapely.union_all([outlines[i] for i in part_of])
            cut_off = bool(beside_unknown[1:-1, 1:-1][tuple(cells.T)].any())
            found.append(_measured(grid, outline, cells, probability, cut_off=cut_off))
    found.sort(key=lambda it: (-it["longest_diameter_um"], -it["area_mm2"], *it["cells_rc"][0]))
    lesions = tuple(Lesion(number=i, **it) for i, it in enumerate(found, start=1))
    return LesionReport(
        source=_source(heatmap),
        settings=_named(settings, str(name)),
        lesions=lesions,
        summary=_summary(heatmap, lesions, probability, status, settings),
    )


def kind_of(longest_diameter_um: float) -> LesionClass:
    """What a lesion is called by its longest diameter in µm; limits belong to the lower class."""
    if longest_diameter_um <= ISOLATED_UM * (1 + _TOLERANCE):
        return LesionClass.ISOLATED_TUMOUR_CELLS
    if longest_diameter_um <= MICRO_UM * (1 + _TOLERANCE):
        return LesionClass.MICROMETASTASIS
    return LesionClass.MACROMETASTASIS


# ------------------------------------------------------------------------------ finding


def _smoothed(probability: NDArray[np.float32], sigma_cells: float) -> NDArray[np.float64]:
    """Normalised convolution (Knutsson and Westin 1993): cells that were not scored weigh nothing.

    Cells that were not scored stay NaN, and do not draw their neighbours down.
    """
    values = probability.astype(np.float64)
    scored = np.isfinite(values)
    if sigma_cells == 0 or not scored.any():
        return values
    total = gaussian(np.where(scored, values, 0.0), sigma_cells, mode="constant")
    weight = gaussian(scored.astype(np.float64), sigma_cells, mode="constant")
    return np.where(scored, total / np.where(scored, weight, 1.0), np.nan)


def _label_foci(values: NDArray[np.float64], settings: LesionSettings) -> NDArray[np.intp]:
    """Number of the focus that each cell belongs to, from 1 in reading order; 0 for none.

    skimage's ``apply_hysteresis_threshold`` does not count cells that touch at a corner as
    connected.
    """
    # A heatmap holds float32; 0.7 as a float64 would leave out cells that are shown as 0.7.
    candidates = label(values >= np.float32(settings.extend_probability), connectivity=2)
    seeded = np.zeros(candidates.max() + 1, dtype=np.bool_)
    seeded[candidates[values >= np.float32(settings.seed_probability)]] = True
    seeded[0] = False
    number = np.where(seeded, seeded.cumsum(), 0)
    return np.asarray(number[candidates])


def _outlines(foci: NDArray[np.intp]) -> list[shapely.Geometry]:
    """The union of each focus's cells as a polygon whose unit is a cell: exact, in integers."""
    left = np.pad(foci, ((0, 0), (1, 1)))
    rows, starts = np.nonzero((left[:, 1:] != left[:, :-1]) & (left[:, 1:] > 0))
    _, stops = np.nonzero((left[:, 1:] != left[:, :-1]) & (left[:, :-1] > 0))
    owner = foci[rows, starts]
    order = np.argsort(owner, kind="stable")
    runs = shapely.box(starts, rows, stops, rows + 1)[order]
    ends = np.cumsum(np.bincount(owner, minlength=foci.max() + 1)[1:])
    return [shapely.union_all(part) for part in np.split(runs, ends[:-1])] if len(ends) else []


def _joined(outlines: Sequence[shapely.Geometry], gap: float) -> NDArray[np.intp]:
    """The lesion that each focus belongs to: those nearer than ``gap`` share one."""
    count = len(outlines)
    if count == 0 or gap == 0:
        return np.arange(count)
    one, other = shapely.STRtree(outlines).query(outlines, predicate="dwithin", distance=gap)
    pairs = one < other  # the other way round is the same, and with itself it costs most
    one, other, parts = one[pairs], other[pairs], np.asarray(outlines)
    near = shapely.distance(parts[one], parts[other]) < gap * (1 - _TOLERANCE)
    links = coo_array((near[near], (one[near], other[near])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.intp)


def _cells_of_lesions(
    foci: NDArray[np.intp], lesion_of_focus: NDArray[np.intp]
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each lesion its foci, as indices of outlines, and (row, col) of its cells."""
    if not len(lesion_of_focus):
        return []
    cells = np.argwhere(foci)
    owner = lesion_of_focus[foci[tuple(cells.T)] - 1]
    count = int(lesion_of_focus.max()) + 1
    split = np.cumsum(np.bincount(owner, minlength=count))[:-1]
    parts = np.split(cells[np.argsort(owner, kind="stable")], split)
    split = np.cumsum(np.bincount(lesion_of_focus, minlength=count))[:-1]
    members = np.split(np.argsort(lesion_of_focus, kind="stable"), split)
    return list(zip(members, parts, strict=True))


# ------------------------------------------------------------------------------ measuring


def _measured(
    grid: TileGrid,
    outline: shapely.Geometry,
    cells: NDArray[np.intp],
    probability: NDArray[np.float32],
    *,
    cut_off: bool,
) -> dict[str, Any]:
    """All fields of a lesion but its number.

    Args:
        grid: of the heatmap.
        outline: in cells.
        cells: (row, col), shape (n, 2).
        probability: of all cells.
        cut_off: see ``Lesion``.
    """
    mpp, polygon = grid.slide_mpp.value, _to_l0(grid, outline)
    axis = _longest_axis(polygon)
    diameter_um = float(np.hypot(*np.subtract(*axis))) * mpp
    values = probability[tuple(cells.T)].astype(np.float64)
    peak = grid.cell_box_l0(*cells[values.argmax()])
    left, top, right, bottom = polygon.bounds
    box = Box(left, top, right - left, bottom - top)
    centroid = polygon.centroid
    return {
        "kind": kind_of(diameter_um),
        "polygon_l0": polygon,
        "cells_rc": cells,
        "cells": len(cells),
        "area_mm2": polygon.area * mpp**2 / 1e6,
        "longest_diameter_um": diameter_um,
        "longest_axis_l0": axis,
        "perimeter_um": polygon.length * mpp,
        "peak_probability": float(values.max()),
        "peak_l0": (float(peak.x + peak.width / 2), float(peak.y + peak.height / 2)),
        "mean_probability": float(values.mean()),
        "centroid_l0": (centroid.x, centroid.y),
        "centroid_um": (centroid.x * mpp, centroid.y * mpp),
        "box_l0": box,
        "box_um": box.scaled(mpp),
        "cut_off": cut_off,
    }


def _to_l0(grid: TileGrid, outline: shapely.Geometry) -> Any:
    """An outline in cells as one in level-0 pixels, which ends at the slide's edge."""
    x_edges, y_edges = grid.edges_l0()

    def corners(points: NDArray[np.float64]) -> NDArray[np.float64]:
        col, row = points.astype(np.intp).T
        return np.stack([x_edges[col], y_edges[row]], axis=1)

    # The union of squares has a vertex at every cell; only those at corners say something. With
    # a tolerance of 0 nothing moves, so topology needs no keeping, which costs most of the time.
    plain = shapely.simplify(outline, 0, preserve_topology=False)
    return shapely.orient_polygons(shapely.normalize(shapely.transform(plain, corners)))


def _longest_axis(
    polygon: shapely.Geometry,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The two points of a polygon that are farthest apart; they are corners of its hull."""
    corners = shapely.get_coordinates(shapely.convex_hull(polygon))[:-1]
    far = squareform(pdist(corners))
    one, other = np.unravel_index(far.argmax(), far.shape)
    (x0, y0), (x1, y1) = sorted((tuple(corners[one]), tuple(corners[other])))
    return (float(x0), float(y0)), (float(x1), float(y1))


def _summary(
    heatmap: Heatmap,
    lesions: Sequence[Lesion],
    probability: NDArray[np.float32],
    status: NDArray[np.uint8],
    settings: LesionSettings,
) -> LesionSummary:
    grid, scored = heatmap.grid, np.isfinite(probability)
    x_edges, y_edges = grid.edges_l0()
    mm2 = (grid.slide_mpp.value / 1000) ** 2
    tissue_mm2 = float(np.diff(y_edges) @ scored.astype(np.float64) @ np.diff(x_edges)) * mm2
    tumour_mm2 = float(sum(lesion.area_mm2 for lesion in lesions))
    return LesionSummary(
        lesions=len(lesions),
        lesions_by_kind={kind: sum(it.kind == kind for it in lesions) for kind in LesionClass},
        largest_kind=lesions[0].kind if lesions else None,
        largest_diameter_um=lesions[0].longest_diameter_um if lesions else None,
        tumour_area_mm2=tumour_mm2,
        tissue_area_mm2=tissue_mm2,
        tumour_share_of_tissue=tumour_mm2 / tissue_mm2 if tissue_mm2 else None,
        slide_score=slide_score(probability, settings.score_cells),
        highest_probability=float(probability[scored].max()) if scored.any() else None,
        unreadable_cells=int((status == Status.UNREADABLE).sum()),
        notes=_notes(heatmap, status),
    )


def slide_score(probability: NDArray[np.float32], cells: int = 4) -> float | None:
    """The highest probability that a connected group of cells reaches in common.

    It is the maximum of the heatmap's area opening (Vincent 1994): a single cell that errs does
    not decide about a slide, and no threshold has to be chosen.

    Args:
        probability: shape (rows, cols), NaN where nothing was scored.
        cells: size of the group; cells touch also at corners.

    Returns:
        0-1; 0 where no group is that large, None where nothing was scored.
    """
    values = np.unique(probability[np.isfinite(probability)])
    if not len(values):
        return None

    # Groups only grow as the threshold falls, so the highest one that holds can be bisected for.
    # skimage's area_opening gives the same but takes minutes for a million cells of noise.
    def too_small(value: np.float32) -> bool:
        group = label(probability >= value, connectivity=2)
        return bool(np.bincount(group.ravel())[1:].max() < cells)

    first = bisect_left(values, True, key=too_small)
    return float(values[first - 1]) if first else 0.0


def _notes(heatmap: Heatmap, status: NDArray[np.uint8]) -> tuple[str, ...]:
    grid, notes = heatmap.grid, []
    if grid.stride_px > grid.label_px:
        notes.append(
            f"cells of {grid.cell_um:.1f} µm are larger than the label footprint of "
            f"{grid.label_px * grid.model_mpp:.1f} µm: sizes are coarse, and a small focus between "
            "footprints is missed"
        )
    if grid.cell_um * 2**0.5 > ISOLATED_UM:
        notes.append(
            f"one cell of {grid.cell_um:.1f} µm is longer than {ISOLATED_UM:g} µm: isolated tumour "
            "cells cannot be told apart"
        )
    if unreadable := int((status == Status.UNREADABLE).sum()):
        notes.append(f"{unreadable:,} cells could not be read and may hide a lesion")
    if not heatmap.complete:
        notes.append("the heatmap is incomplete: lesions may be missing or larger")
    return tuple(notes)


def _source(heatmap: Heatmap) -> dict[str, Any]:
    slide, model, grid = heatmap.metadata["slide"], heatmap.metadata["model"], heatmap.grid
    return {
        "slide": slide["name"],
        "quickhash": slide["quickhash"],
        "size_l0": list(slide["size_l0"]),
        "mpp": slide["mpp"],
        "mpp_source": slide["mpp_source"],
        "cell_um": grid.cell_um,
        "cell_l0": grid.cell_l0,
        "heatmap_id": heatmap.id,
        "model": model["name"],
        "model_sha256": model["sha256"],
        "histoslide": version("histoslide"),
    }


def _named(settings: LesionSettings, class_name: str) -> LesionSettings:
    return LesionSettings(**asdict(settings) | {"class_name": class_name})


# ------------------------------------------------------------------------------ writing


def lesion_row(lesion: Lesion) -> dict[str, int | float | str | bool]:
    """A lesion's measures as one flat row whose column names carry the units."""
    row: dict[str, int | float | str | bool] = {
        "lesion": lesion.number,
        "class": lesion.kind.value,
        "longest_diameter_um": lesion.longest_diameter_um,
        "area_mm2": lesion.area_mm2,
        "perimeter_um": lesion.perimeter_um,
        "cells": lesion.cells,
        "peak_probability": lesion.peak_probability,
        "mean_probability": lesion.mean_probability,
        "cut_off": lesion.cut_off,
    }
    for name in ("centroid", "peak"):
        row |= dict(
            zip((f"{name}_x_l0", f"{name}_y_l0"), getattr(lesion, f"{name}_l0"), strict=True)
        )
    row |= dict(zip(("centroid_x_um", "centroid_y_um"), lesion.centroid_um, strict=True))
    for frame in ("l0", "um"):
        box = getattr(lesion, f"box_{frame}")
        row |= {
            f"{part}_{frame}": value
            for part, value in (
                ("box_x", box.x), ("box_y", box.y), ("box_width", box.width),
                ("box_height", box.height),
            )
        }  # fmt: skip
    return {k: round(v, _DECIMALS) if isinstance(v, float) else v for k, v in row.items()}


def lesion_document(report: LesionReport) -> dict[str, Any]:
    """A report as plain data for JSON: notice, source, settings, summary, lesions."""
    summary = {
        key: round(value, _DECIMALS) if isinstance(value, float) else value
        for key, value in asdict(report.summary).items()
    }
    return {
        "notice": NOTICE,
        "source": dict(report.source),
        "settings": asdict(report.settings),
        "summary": summary,
        "lesions": [lesion_row(lesion) for lesion in report.lesions],
    }


def write_lesions(report: LesionReport, csv_path: Path, json_path: Path) -> None:
    """Write the table as CSV and everything as JSON, each whole or not at all.

    Every row of the CSV names slide, heatmap, class and settings, so that tables of several slides
    can be put together.

    Args:
        report: from ``find_lesions``.
        csv_path: one row a lesion; only a header where there is none.
        json_path: with the summary.

    Raises:
        StoreError: a file cannot be written.
    """
    settings = {
        key: value for key, value in asdict(report.settings).items() if key != "score_cells"
    }
    before = {"slide": report.source["slide"], "heatmap_id": report.source["heatmap_id"]}
    after = settings | {"model": report.source["model"], "notice": NOTICE}
    rows = [before | lesion_row(lesion) | after for lesion in report.lesions]
    try:
        with (
            whole_file(csv_path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [*before, *_COLUMNS, *after], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        with whole_file(json_path) as partial:
            text = json.dumps(lesion_document(report), indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{csv_path.parent} cannot be written: {error.strerror}") from error


def are_lesion_files(csv_path: Path, json_path: Path) -> bool:
    """Whether ``write_lesions`` wrote these files, so that they may be written anew."""
    try:
        document = read_bytes(json_path)
        if document is None:
            return read_bytes(csv_path) is None
        return json.loads(document)["notice"] == NOTICE
    except (OSError, ValueError, KeyError, TypeError):
        return False


_COLUMNS = (
    "lesion", "class", "longest_diameter_um", "area_mm2", "perimeter_um", "cells",
    "peak_probability", "mean_probability", "cut_off",
    "centroid_x_l0", "centroid_y_l0", "peak_x_l0", "peak_y_l0", "centroid_x_um", "centroid_y_um",
    "box_x_l0", "box_y_l0", "box_width_l0", "box_height_l0",
    "box_x_um", "box_y_um", "box_width_um", "box_height_um",
)  # fmt: skip
"""Of ``lesion_row``, for a table without lesions."""
