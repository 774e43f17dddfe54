"""Lines around sets of cells and around lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal as PathNormal
from matplotlib.patheffects import Stroke as PathStroke
from numpy.typing import NDArray

from histoslide import look
from histoslide.geometry import Size
from histoslide.grid.cells import TileGrid
from histoslide.lesions import LESION_COLOURS, Lesion
from histoslide.render.canvas import Canvas

_NUMBERED_LESIONS = 30
"""Lesions that have their number beside them, the longest ones; more would hide the tissue."""


def outline_cells(
    canvas: Canvas,
    grid: TileGrid,
    inside: NDArray[np.bool_],
    colour: str = "black",
    halo: str | None = None,
) -> None:
    """Draw the border between cells inside and outside a set, along the cells' edges.

    Args:
        canvas: to draw on.
        grid: of the cells.
        inside: the set, shape ``grid.shape``.
        colour: of the line.
        halo: colour beside it, for pictures on which the line alone would not stand out.
    """
    padded = np.pad(inside, 1)
    across = np.argwhere(padded[:, 1:] != padded[:, :-1])  # edges between column j and j + 1
    down = np.argwhere(padded[1:, :] != padded[:-1, :])
    side = grid.cell_l0
    vertical = [((j, i - 1), (j, i)) for i, j in across]
    horizontal = [((j - 1, i), (j, i)) for i, j in down]
    segments = np.array(vertical + horizontal, dtype=float).reshape(-1, 2, 2) * side
    width = 1.1 if colour == "black" else 0.8
    lines = LineCollection(list(segments), colors=colour, linewidths=width)
    if halo is not None:
        lines.set_path_effects([PathStroke(linewidth=3 * width, foreground=halo), PathNormal()])
    canvas.axes.add_collection(lines, autolim=False)


def hatch_cells(
    canvas: Canvas, grid: TileGrid, inside: NDArray[np.bool_], colour: look.Rgb, hatch: str
) -> None:
    """Hatch a set of cells.

    Args:
        canvas: to draw on.
        grid: of the cells.
        inside: the set, shape ``grid.shape``.
        colour: of the hatching.
        hatch: as Matplotlib has it.
    """
    side = grid.cell_l0
    # One rectangle a run of cells in a row: thousands of single cells would be slow to draw.
    for row in np.flatnonzero(inside.any(axis=1)):
        edges = np.flatnonzero(np.diff(np.pad(inside[row], 1).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2):
            box = Rectangle((start * side, row * side), (stop - start) * side, side)
            box.set(**hatching(colour, hatch, alpha=0.55))
            canvas.axes.add_patch(box)


def hatching(colour: look.Rgb, hatch: str, *, alpha: float = 1.0) -> dict[str, Any]:
    """Properties of a hatched patch, of a picture or its legend."""
    return {
        "facecolor": (1, 1, 1, alpha),
        "edgecolor": look.hexadecimal(colour),
        "hatch": hatch,
        "linewidth": 0,
    }


def outline_lesions(canvas: Canvas, size_l0: Size, lesions: Sequence[Lesion]) -> None:
    """Draw lesions in the colour of their class on a dark line, with a legend, and number them."""
    halo = [PathStroke(linewidth=3.2, foreground=look.hexadecimal(look.RIM)), PathNormal()]
    for kind, rgb in LESION_COLOURS.items():
        rings = [
            shapely.get_coordinates(ring)
            for lesion in lesions
            if lesion.kind == kind
            for ring in shapely.get_rings(shapely.get_parts(lesion.polygon_l0))
        ]
        if rings:
            colour = look.hexadecimal(rgb)
            lines = LineCollection(rings, colors=[colour], linewidths=1.6, label=str(kind))
            lines.set_path_effects(halo)
            canvas.axes.add_collection(lines)
    for lesion in lesions[:_NUMBERED_LESIONS]:
        for part in shapely.get_parts(lesion.polygon_l0):  # each piece says whose it is
            corners = shapely.get_coordinates(part)
            x, y = corners[corners[:, 1].argmin()]  # at the top of the outline, not of its box
            canvas.axes.text(
                x,
                y,
                str(lesion.number),
                fontsize=canvas.points * 0.8,
                va="bottom",
                ha="left",
                clip_on=True,
                bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
            )
    if lesions:
        canvas.axes.legend(loc="upper right", fontsize=canvas.points * 0.8)
    canvas.axes.set_xlim(0, size_l0.width)
    canvas.axes.set_ylim(size_l0.height, 0)
