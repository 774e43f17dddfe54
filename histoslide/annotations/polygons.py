"""Polygons in level-0 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Vertices (x, y) in level-0 pixels, shape (n, 2)."""


@dataclass(frozen=True)
class Polygon:
    """An outline and the holes in it."""

    outline: Ring
    holes: tuple[Ring, ...] = ()
