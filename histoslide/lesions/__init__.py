"""Lesions: the connected foci of a heatmap, outlined, measured, classed and written to tables.

A focus is a connected group of cells. Its outline runs along the edges of its cells, and every
length and area is taken from that outline, never from the centres of cells: a focus of one cell
is as long as the diagonal of the cell.

``report`` tells the story: ``foci`` finds and joins them, ``measures`` takes their measures,
``summary`` speaks of the whole slide. ``lesion`` and ``settings`` are the values, ``table`` writes.
"""

from __future__ import annotations

from histoslide.lesions.lesion import (
    ISOLATED_UM,
    LESION_COLOURS,
    MICRO_UM,
    Lesion,
    LesionClass,
    kind_of,
)
from histoslide.lesions.report import LesionReport, find_lesions
from histoslide.lesions.settings import (
    DEFAULT_EXTEND,
    DEFAULT_GAP_UM,
    DEFAULT_SEED,
    LesionSettings,
)
from histoslide.lesions.summary import LesionSummary, slide_score
from histoslide.lesions.table import (
    NOTICE,
    are_lesion_files,
    heatmap_of_lesions,
    lesion_document,
    lesion_row,
    settings_of_lesions,
    write_lesions,
)

__all__ = [
    "DEFAULT_EXTEND",
    "DEFAULT_GAP_UM",
    "DEFAULT_SEED",
    "ISOLATED_UM",
    "LESION_COLOURS",
    "MICRO_UM",
    "NOTICE",
    "Lesion",
    "LesionClass",
    "LesionReport",
    "LesionSettings",
    "LesionSummary",
    "are_lesion_files",
    "find_lesions",
    "heatmap_of_lesions",
    "kind_of",
    "lesion_document",
    "lesion_row",
    "settings_of_lesions",
    "slide_score",
    "write_lesions",
]
