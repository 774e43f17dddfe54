"""The empty glass of a slide: its colour, and pictures with that colour taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

GREY = 243.0
"""Grey level of empty glass on most scanners; pictures whose glass has another colour are brought
to it."""

_FLAT_LEVELS = 2.0
"""Deviation within 3×3 pixels of an overview, in grey levels, up to which they are empty."""

_DARKEST = 128
"""Grey level that glass exceeds in red, green and blue."""

_NEAR_LEVELS = 6
"""Most grey levels between the glass's commonest colour and a pixel that is glass, too."""

_SMALLEST_SHARE = 0.01
"""Part of a slide below which flat, bright pixels of one colour may be anything."""

_BAND_ROWS = 256
"""Rows that are looked at once."""


@dataclass(frozen=True, kw_only=True)
class Glass:
    """Where a slide is empty, and of which colour."""

    colour: tuple[float, float, float]
    """Median red, green and blue, 0-255."""
    where: NDArray[np.bool_]
    """Pixels of the overview that are glass for certain, shape (h, w)."""

    @property
    def tint(self) -> float:
        """HSV saturation of the colour, 0-1: below 0.02 on the scanners of the test slides."""
        return (max(self.colour) - min(self.colour)) / max(self.colour)

    def taken_out_of(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture as if its glass were grey, shape as before: light divided by glass's light."""
        levels = np.arange(256)[:, None] * (GREY / np.array(self.colour))
        table = np.rint(levels).clip(0, 255).astype(np.uint8)
        return np.stack([table[rgb[..., i], i] for i in range(3)], axis=-1)


def find_glass(rgb: NDArray[np.uint8]) -> Glass | None:
    """The flat, bright pixels of an overview that share the commonest colour of such pixels.

    Stained tissue is never as flat: on the seven real H&E slides of the tests, what is found is
    grey to 1.2 %, and nothing is found on the one that is cut from the middle of tissue.

    Args:
        rgb: overview of the slide, shape (h, w, 3).

    Returns:
        The glass, or None where less than a hundredth of the slide is flat, bright and of a colour.
    """
    flat = np.empty(rgb.shape[:2], dtype=np.bool_)
    for start in range(0, len(rgb), _BAND_ROWS):
        above = min(1, start)
        band = rgb[start - above : start + _BAND_ROWS + 1].astype(np.float32)
        found = _deviation(band).max(axis=2) < _FLAT_LEVELS
        flat[start : start + _BAND_ROWS] = found[above : above + _BAND_ROWS]
    flat &= rgb.min(axis=2) > _DARKEST
    pixels = rgb[flat]
    if len(pixels) < _SMALLEST_SHARE * flat.size:
        return None
    coarse = pixels.astype(np.int32) // 4
    counts = np.bincount(coarse @ np.array([4096, 64, 1]))
    commonest = int(counts.argmax())
    mode = np.array([commonest // 4096, commonest // 64 % 64, commonest % 64]) * 4 + 2
    near = (np.abs(pixels - mode) <= _NEAR_LEVELS).all(axis=1)
    if near.sum() < _SMALLEST_SHARE * flat.size:
        return None
    where = np.zeros_like(flat)
    where[flat] = near
    red, green, blue = np.median(pixels[near], axis=0)
    return Glass(colour=(float(red), float(green), float(blue)), where=where)


def _deviation(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each channel within 3×3 pixels."""
    mean = uniform_filter(band, (3, 3, 1))
    square = uniform_filter(band * band, (3, 3, 1))
    deviation: NDArray[np.float32] = np.sqrt(np.maximum(square - mean * mean, 0))
    return deviation
