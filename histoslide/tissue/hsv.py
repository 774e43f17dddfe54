"""Hue, saturation and value of large pictures, in planes and little memory.

The same as ``skimage.color.rgb2hsv`` to rounding, in a tenth of its time: a picture of a whole
slide has twenty million pixels, and the colour of glass decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.machine.threads import side_by_side

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
        hue, saturation, value = (np.empty(rgb.shape[:2], dtype=np.float32) for _ in range(3))

        def convert(rows: slice) -> None:
            hue[rows], saturation[rows], value[rows] = _band(rgb[rows])

        side_by_side(convert, _bands(rgb))
        return cls(hue=hue, saturation=saturation, value=value)


def saturation_of(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``Hsv.saturation`` alone."""
    saturation = np.empty(rgb.shape[:2], dtype=np.float32)

    def convert(rows: slice) -> None:
        _, value, chroma = _channels(rgb[rows])
        saturation[rows] = chroma / np.maximum(value, 1)

    side_by_side(convert, _bands(rgb))
    return saturation


def _bands(rgb: NDArray[np.uint8]) -> list[slice]:
    return [slice(top, top + _BAND_ROWS) for top in range(0, len(rgb), _BAND_ROWS)]


def _band(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.floating], ...]:
    (red, green, blue), value, chroma = _channels(rgb)
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


def _channels(
    rgb: NDArray[np.uint8],
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32], NDArray[np.float32]]:
    """Red, green and blue, the largest of them, and how far it lies above the smallest; 0-255."""
    red, green, blue = channels = [rgb[..., i].astype(np.float32) for i in range(3)]
    value = np.maximum(np.maximum(red, green), blue)
    return channels, value, value - np.minimum(np.minimum(red, green), blue)
