"""The measures of a lesion, taken from its outline."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from histoslide.geometry import Box
from histoslide.grid.cells import TileGrid
from histoslide.lesions.lesion import kind_of


def measured(
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
    from scipy.spatial.distance import pdist, squareform  # noqa: PLC0415 - see lesions.foci

    corners = shapely.get_coordinates(shapely.convex_hull(polygon))[:-1]
    far = squareform(pdist(corners))
    one, other = np.unravel_index(far.argmax(), far.shape)
    (x0, y0), (x1, y1) = sorted((tuple(corners[one]), tuple(corners[other])))
    return (float(x0), float(y0)), (float(x1), float(y1))
