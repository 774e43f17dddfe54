"""The lesions of a heatmap: found, joined, measured, the longest first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.lesions.foci import joined_foci
from histoslide.lesions.lesion import Lesion
from histoslide.lesions.measures import measured
from histoslide.lesions.settings import LesionSettings
from histoslide.lesions.source import LesionSource
from histoslide.lesions.summary import LesionSummary, summary_of
from histoslide.store import Heatmap


@dataclass(frozen=True, kw_only=True)
class LesionReport:
    """The lesions of a heatmap and what they were found with."""

    source: LesionSource
    """What they were found in."""
    settings: LesionSettings
    """With ``class_name`` filled in."""
    lesions: tuple[Lesion, ...]
    """The longest first."""
    summary: LesionSummary
    """The slide in a few numbers."""


def find_lesions(
    heatmap: Heatmap,
    settings: LesionSettings = LesionSettings(),  # noqa: B008 - frozen, so calls may share it
) -> LesionReport:
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
    name = settings.class_name or heatmap.tumour_class
    probability, status = heatmap.cells(name)
    lesions = lesions_of(heatmap.grid, probability, status, settings)
    return LesionReport(
        source=LesionSource.of(heatmap),
        settings=replace(settings, class_name=str(name)),
        lesions=lesions,
        summary=summary_of(heatmap, lesions, probability, status, settings),
    )


def lesions_of(
    grid: TileGrid,
    probability: NDArray[np.float32],
    status: NDArray[np.uint8],
    settings: LesionSettings,
) -> tuple[Lesion, ...]:
    """The lesions among given cells, the longest first.

    Args:
        grid: of the cells.
        probability: shape ``grid.shape``, NaN where nothing was scored.
        status: of the cells, same shape.
        settings: how; its class says nothing here.
    """
    unknown = np.isin(status, (Status.PENDING, Status.UNREADABLE, Status.EXCLUDED))
    beside_unknown = binary_dilation(
        np.pad(unknown, 1, constant_values=True), np.ones((3, 3), np.bool_)
    )
    found = []
    for outlines, cells in joined_foci(probability, grid.cell_um, settings):
        cut_off = bool(beside_unknown[1:-1, 1:-1][tuple(cells.T)].any())
        outline = shapely.union_all(outlines)
        found.append(measured(grid, outline, cells, probability, cut_off=cut_off))
    found.sort(key=lambda it: (-it["longest_diameter_um"], -it["area_mm2"], *it["cells_rc"][0]))
    return tuple(Lesion(number=i, **it) for i, it in enumerate(found, start=1))
