"""A slide in a few numbers: its lesions together, and a score that needs no threshold."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from histoslide.grid.status import Status
from histoslide.lesions.lesion import ISOLATED_UM, Lesion, LesionClass
from histoslide.lesions.settings import LesionSettings
from histoslide.store import Heatmap


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


def summary_of(
    heatmap: Heatmap,
    lesions: Sequence[Lesion],
    probability: NDArray[np.float32],
    status: NDArray[np.uint8],
    settings: LesionSettings,
) -> LesionSummary:
    """Count and add up the lesions of a heatmap.

    Args:
        heatmap: they were found in.
        lesions: the longest first.
        probability: of the class that they were found for, shape (rows, cols).
        status: of the cells, same shape.
        settings: they were found with.
    """
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
