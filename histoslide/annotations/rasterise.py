"""Polygons turned into masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histoslide.annotations.polygons import Polygon, Ring
from histoslide.geometry import Size


def rasterise(polygons: list[Polygon], size_l0: Size, size: Size) -> NDArray[np.bool_]:
    """A mask of the whole slide that is true inside the polygons.

    Args:
        polygons: in level-0 pixels.
        size_l0: of the slide.
        size: of the mask in pixels.

    Returns:
        Shape (size.height, size.width); a pixel counts by its centre.
    """
    factor = np.array([size.width / size_l0.width, size.height / size_l0.height])
    canvas = np.zeros((size.height, size.width), dtype=np.bool_)
    for polygon in polygons:
        outline = polygon.outline * factor
        # Of thousands of polygons each covers little: only its own part is looked at.
        low, high = np.floor(outline.min(axis=0)), np.ceil(outline.max(axis=0))
        left, top = np.clip(low, 0, (size.width, size.height)).astype(int)
        right, bottom = np.clip(high, 0, (size.width, size.height)).astype(int)
        shape, corner = (int(bottom - top), int(right - left)), (left, top)
        inside = _fill(outline - corner, shape)
        for hole in polygon.holes:
            inside &= ~_fill(hole * factor - corner, shape)
        canvas[top:bottom, left:right] |= inside
    return canvas


def _fill(ring: Ring, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a ring by the even-odd rule; `ring` is in pixels.

    Pillow's polygons would not do: they truncate vertices to whole pixels and paint the outline.
    """
    height, width = shape
    crossings = np.zeros((height, width + 1), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        upper, lower = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        rows = np.arange(upper, lower)  # an edge crosses at most once in a row of pixel centres
        if len(rows):
            x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
    return inside
