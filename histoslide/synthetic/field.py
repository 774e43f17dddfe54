"""Fields: one value for each pixel, as smooth noise or blurred."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian

Field = NDArray[np.float32]
"""One value for each pixel, shape (height, width)."""


def noise(shape: tuple[int, int], period: float, rng: np.random.Generator) -> Field:
    """Smooth noise of mean 0 and deviation about 1; features are about ``period`` pixels wide."""
    period = max(period, 1.0)
    rows, columns = (math.ceil(side / period) + 4 for side in shape)
    knots = rng.standard_normal((rows, columns)).astype(np.float32)
    down, across = (_spline_weights(side, period, rng) for side in shape)
    raw = down[:, :rows] @ knots @ across[:, :columns].T
    return np.asarray(raw * 2.1, np.float32)  # the spline keeps 0.48 of the knots' deviation


def _spline_weights(side: int, period: float, rng: np.random.Generator) -> Field:
    """Cubic B-spline weight of each knot at each pixel, shape (side, knots)."""
    knots = math.ceil(side / period) + 4
    at = np.arange(side)[:, None] / period + 1 + rng.uniform()
    away = np.abs(at - np.arange(knots)[None, :])
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.clip(2 - away, 0, None) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def blurred(field: NDArray[np.floating], sigma: float | tuple[float, ...]) -> Field:
    """Convolved with a Gaussian of a deviation in pixels (for each axis)."""
    return np.asarray(gaussian(field, sigma), np.float32)
