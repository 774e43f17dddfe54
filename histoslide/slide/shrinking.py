"""Pixels shrunk by averaging squares of them, as the levels of a slide are made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BAND_ROWS = 128
"""Rows that are averaged at once: 2 MB of a window of 4400 px, which fits a processor's cache."""


def average_squares(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The mean of each square of pixels.

    Args:
        pixels: RGB, shape (h, w, 3), h and w multiples of ``side``.
        side: of a square in pixels.

    Returns:
        RGB, shape (h / side, w / side, 3).
    """
    if side == 1:
        return pixels
    height, width = pixels.shape[0] // side, pixels.shape[1] // side
    found = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BAND_ROWS // side)
    for start in range(0, height, rows):
        band = Image.fromarray(pixels[start * side : (start + rows) * side])
        found[start : start + rows] = np.asarray(band.reduce(side))
    return found
