"""Probability as a colour that lies over the tissue."""

from __future__ import annotations

from functools import cache

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Size
from histoslide.grid import TileGrid
from histoslide.render.cell_pixels import cells_to_pixels

COLOUR_MAP = "viridis"
"""Perceptually uniform; from its middle up unlike any colour of haematoxylin and eosin."""

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
    values = cells_to_pixels(probability, grid, Size(thumbnail.shape[1], thumbnail.shape[0]))
    with np.errstate(invalid="ignore"):  # NaN has no level
        level = np.minimum(values * _LEVELS, _LEVELS - 1).astype(np.intp)
    level[~np.isfinite(values)] = _LEVELS
    kept, added = _by_level()
    blended = thumbnail * kept[level][..., None]
    blended += added[level]
    return np.asarray(np.rint(blended, out=blended).astype(np.uint8))


@cache
def _by_level() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By level of probability, and last for no probability: what is kept, and what is added.

    Shapes (levels + 1,) and (levels + 1, 3), in parts of 1 and in grey levels.
    """
    opacity = opacity_of((np.arange(_LEVELS) + 0.5) / _LEVELS)
    colour = mpl.colormaps[COLOUR_MAP](np.arange(_LEVELS))[:, :3] * 255
    kept = np.append(1 - opacity, 1).astype(np.float32)
    added = np.append(colour * opacity[:, None], np.zeros((1, 3)), axis=0).astype(np.float32)
    return kept, added


def opacity_of(values: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float64]:
    """Opacity of the colour at a probability, 0 to 1."""
    low, high = _OPACITY
    return np.asarray(low + (high - low) * values, dtype=np.float64)
