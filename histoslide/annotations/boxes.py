"""Rectangles in level-0 pixels, many at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Size

Boxes = NDArray[np.float64]
"""(left, top, right, bottom) in level-0 pixels, shape (n, 4)."""


def on_slide(boxes: Boxes, size_l0: Size) -> Boxes:
    """What of boxes lies on the slide; where nothing does, right is not beyond left."""
    edges = np.array([size_l0.width, size_l0.height] * 2, dtype=np.float64)
    return np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0.0, edges)


def areas(boxes: Boxes) -> NDArray[np.float64]:
    """Area of each, shape (n,)."""
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
