"""Probability as a colour that lies over the tissue."""

from __future__ import annotations

from functools import cache

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from histoslide import look
from histoslide.geometry import Size
from histoslide.grid.cells import TileGrid
from histoslide.render.cell_pixels import cells_to_pixels

COLOUR_MAP = look.PROBABILITY_MAP
"""Of probability."""

_LEVELS = 256
"""Colours of the map; probabilities between two look the same."""


def blend(
    thumbnail: NDArray[np.uint8],
    grid: TileGrid,
    probability: NDArray[np.float32],
    threshold: float,
) -> NDArray[np.uint8]:
    """Colour a picture of the whole slide by probability, on an absolute scale from 0 to 1.

    Args:
        thumbnail: RGB, shape (h, w, 3), spanning the slide exactly.
        grid: of the heatmap.
        probability: shape ``grid.shape``; NaN leaves the picture untouched.
        threshold: cells below it are clear, as in the viewer and in reports.

    Returns:
        RGB, shape (h, w, 3).
    """
    shown = probability >= np.float32(threshold)  # NaN is not
    level = np.zeros(probability.shape, dtype=np.int32)  # 0, which yields to all others: none
    level[shown] = np.minimum(probability[shown] * _LEVELS, _LEVELS - 1).astype(np.int32) + 1
    size = Size(thumbnail.shape[1], thumbnail.shape[0])
    row = cells_to_pixels(level, grid, size) * 256  # of the table, for grey level 0
    blended = np.empty_like(thumbnail)
    for channel, table in enumerate(_tables()):
        np.take(table, row + thumbnail[..., channel], out=blended[..., channel])
    return blended


@cache
def _tables() -> NDArray[np.uint8]:
    """What becomes of each grey level, by channel: first where it is clear, then by its level.

    Shape (3, (1 + levels) * 256).
    """
    grey = np.arange(256)
    mixed = (1 - look.OPACITY) * grey + (255 * look.OPACITY * colours()).T[..., None]
    untouched = np.broadcast_to(grey, (3, 1, 256))
    return np.rint(np.concatenate([untouched, mixed], axis=1)).astype(np.uint8).reshape(3, -1)


def colours() -> NDArray[np.float64]:
    """The colours of the map from probability 0 to 1: RGB of 0-1, shape (levels, 3)."""
    return mpl.colormaps[COLOUR_MAP](np.arange(_LEVELS))[:, :3]


def colours_on_tissue(threshold: float) -> NDArray[np.float64]:
    """The same as they are seen over a light tone of tissue, clear below a threshold."""
    tissue = np.array([0.87, 0.76, 0.85])
    seen = colours() * look.OPACITY + tissue * (1 - look.OPACITY)
    below = (np.arange(_LEVELS) + 0.5) / _LEVELS < threshold
    return np.where(below[:, None], tissue, seen)
