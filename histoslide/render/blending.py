"""Probability as a colour that lies over the tissue."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Size
from histoslide.grid import TileGrid
from histoslide.render.cell_pixels import cells_to_pixels

COLOUR_MAP = "viridis"
"""Perceptually uniform; from its middle up unlike any colour of haematoxylin and eosin."""

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
    scored = np.isfinite(values)
    values = values[scored]
    colour = mpl.colormaps[COLOUR_MAP](values)[:, :3].astype(np.float32) * 255
    opacity = opacity_of(values)[:, None]
    blended = thumbnail.copy()
    blended[scored] = np.rint(thumbnail[scored] * (1 - opacity) + colour * opacity)
    return blended


def opacity_of(values: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float64]:
    """Opacity of the colour at a probability, 0 to 1."""
    low, high = _OPACITY
    return np.asarray(low + (high - low) * values, dtype=np.float64)
