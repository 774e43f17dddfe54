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

_OPACITY = (0.10, 0.70)
"""Opacity of the colour at probability 0 and 1: tissue stays readable where nothing is found."""


def blend(
    thumbnail: NDArray[np.uint8], grid: TileGrid, probability: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Colour a picture of the whole slide by probability, on an absolute scale from 0 to 1.

    Args:
        thumbnail: RGB, shape (h, w, 3), spanning the slide exactly.
        grid: of the heatmap.
        probability: shape ``grid.shape``; NaN leaves the picture untouched.

    Returns:
        RGB, shape (h, w, 3).
    """
    scored = np.isfinite(probability)
    level = np.zeros(probability.shape, dtype=np.int32)  # 0, which yields to all others: none
    level[scored] = np.minimum(probability[scored] * _LEVELS, _LEVELS - 1).astype(np.int32) + 1
    size = Size(thumbnail.shape[1], thumbnail.shape[0])
    row = cells_to_pixels(level, grid, size) * 256  # of the table, for grey level 0
    blended = np.empty_like(thumbnail)
    for channel, table in enumerate(_tables()):
        np.take(table, row + thumbnail[..., channel], out=blended[..., channel])
    return blended


@cache
def _tables() -> NDArray[np.uint8]:
    """What becomes of each grey level, by channel: first without a probability, then by its level.

    Shape (3, (1 + levels) * 256).
    """
    colour, opacity = colours()
    grey = np.arange(256)
    kept = (1 - opacity)[:, None] * grey  # (levels, 256)
    mixed = kept + (255 * colour * opacity[:, None]).T[..., None]  # (3, levels, 256)
    untouched = np.broadcast_to(grey, (3, 1, 256))
    return np.rint(np.concatenate([untouched, mixed], axis=1)).astype(np.uint8).reshape(3, -1)


def colours() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The colours of the map from probability 0 to 1, and their opacity.

    Shapes (levels, 3), RGB of 0-1, and (levels,).
    """
    low, high = _OPACITY
    opacity = low + (high - low) * (np.arange(_LEVELS) + 0.5) / _LEVELS
    return mpl.colormaps[COLOUR_MAP](np.arange(_LEVELS))[:, :3], opacity
