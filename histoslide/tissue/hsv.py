"""Hue, saturation and value of large pictures, in planes and little memory.

The same as ``skimage.color.rgb2hsv`` to rounding, in a tenth of its time: a picture of a whole
slide has twenty million pixels, and the colour of glass decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BAND_ROWS = 64
"""Rows that are converted at once: their planes fit the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Hsv:
    """A picture in hue, saturation and value (Smith 1978), all 0-1; planes of shape (h, w)."""

    hue: NDArray[np.float32]
    """Position on the colour circle, red at 0; 0 for grey."""
    saturation: NDArray[np.float32]
    """0 for grey."""
    value: NDArray[np.float32]
    """The brightest of red, green and blue."""

    @classmethod
    def of(cls, rgb: NDArray[np.uint8]) -> Hsv:
        """That of an RGB picture of shape (h, w, 3)."""
        planes = [np.empty(rgb.shape[:2], dtype=np.float32) for _ in range(3)]
        for start in range(0, len(rgb), _BAND_ROWS):
            rows = slice(start, start + _BAND_ROWS)
            for plane, band in zip(planes, _band(rgb[rows]), strict=True):
                plane[rows] = band
        hue, saturation, value = planes
        return cls(hue=hue, saturation=saturation, value=value)


def _band(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.floating], ...]:
    red, green, blue = (rgb[..., i].astype(np.float32) for i in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # Where the divisor is 0, so is what it divides.
    sixth = np.float32(1) / np.maximum(chroma, 1) / 6
    hue = np.where(
        value == blue,
        (red - green) * sixth + np.float32(4 / 6),
        np.where(
            value == green,
            (blue - red) * sixth + np.float32(2 / 6),
            (green - blue) * sixth,
        ),
    )
    hue[hue < 0] += 1
    hue[chroma == 0] = 0
    return hue, chroma / np.maximum(value, 1), value / np.float32(255)
