"""Light through stained tissue: concentrations as the RGB that a scanner records."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.field import Field, blurred, noise

_GLASS = 243.0
"""Grey level of the empty slide."""

_HAEMATOXYLIN = (0.650, 0.704, 0.286)
"""Optical density by R, G, B of one unit (Ruifrok and Johnston 2001, table 1)."""

_EOSIN = (0.216, 0.801, 0.558)
"""As above for eosin, with QuPath's default: Ruifrok and Johnston's (0.072, 0.990, 0.105) comes
from a section more magenta than those of today's scanners."""


def see(
    haematoxylin: Field, eosin: Field, mpp: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """RGB of the concentrations: a slight blur of the optics, Beer and Lambert's law, noise."""
    height, width = haematoxylin.shape
    uneven = 1 + 0.05 * noise((height, width), 250 / mpp, rng)
    blur = max(0.35, 0.3 / mpp)
    blue = blurred(haematoxylin * uneven, blur)
    pink = blurred(eosin * uneven, blur) + 0.25 * blue  # nuclei take up some eosin, too
    pixels = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        density = _HAEMATOXYLIN[channel] * blue + _EOSIN[channel] * pink
        light = _GLASS * np.exp(-math.log(10) * density)
        light += 2.0 * rng.standard_normal((height, width), np.float32)
        pixels[..., channel] = np.clip(np.rint(light), 0, 255)
    return pixels
