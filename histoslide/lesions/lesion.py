"""A lesion, and what it is called by its length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import shapely
from numpy.typing import NDArray

from histoslide import look
from histoslide.geometry import Box

ISOLATED_UM = 200.0
"""Longest diameter up to which a focus is called isolated tumour cells (AJCC Cancer Staging
Manual, 8th edition, breast, regional lymph nodes; its other criterion, fewer than 200 cells, cannot
be judged from a heatmap)."""

MICRO_UM = 2000.0
"""Longest diameter up to which a focus is called a micrometastasis (same source)."""

TOLERANCE = 1e-9
"""Relative: by rounding, no focus of exactly 200 µm changes its class, and no two foci that are
exactly the gap apart are joined."""


class LesionClass(StrEnum):
    """What a focus is called by its longest diameter."""

    ISOLATED_TUMOUR_CELLS = "isolated tumour cells"
    """At most 0.2 mm."""
    MICROMETASTASIS = "micrometastasis"
    """More than 0.2 mm, at most 2 mm."""
    MACROMETASTASIS = "macrometastasis"
    """More than 2 mm."""


LESION_COLOURS: Mapping[LesionClass, look.Rgb] = {kind: look.CLASSES[kind] for kind in LesionClass}
"""RGB of outlines."""


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


def kind_of(longest_diameter_um: float) -> LesionClass:
    """What a lesion is called by its longest diameter in µm; limits belong to the lower class."""
    if longest_diameter_um <= ISOLATED_UM * (1 + TOLERANCE):
        return LesionClass.ISOLATED_TUMOUR_CELLS
    if longest_diameter_um <= MICRO_UM * (1 + TOLERANCE):
        return LesionClass.MICROMETASTASIS
    return LesionClass.MACROMETASTASIS
