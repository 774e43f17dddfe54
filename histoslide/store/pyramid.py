"""The coarser levels of a heatmap: what is seen of it from afar."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.grid.status import Status

_COARSEST_PX = 64
"""The pyramid ends at the first level whose longer side is at most this."""

_RANK = np.array([status.rank for status in Status], dtype=np.uint8)
"""By status, whose values count from 0."""


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes of the pyramid's levels; each halves the one before, rounding up."""
    shapes = [shape]
    while max(shapes[-1]) > _COARSEST_PX:
        rows, cols = shapes[-1]
        shapes.append((-(-rows // 2), -(-cols // 2)))
    return shapes


def pyramid(
    probability: NDArray[np.float32], status: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Probabilities and statuses of every level, finest first.

    Args:
        probability: of level 0, shape (..., rows, cols).
        status: of level 0, shape (rows, cols).
    """
    rows, cols = status.shape
    yield probability, status
    for _ in level_shapes((rows, cols))[1:]:
        probability, status = halve_probability(probability), halve_status(status)
        yield probability, status


def halve_probability(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next coarser level: the maximum of each 2×2 cells, ignoring NaN unless all are NaN.

    Args:
        values: shape (..., rows, cols).

    Returns:
        Shape (..., ceil(rows / 2), ceil(cols / 2)).
    """
    # fmax ignores NaN and, unlike nanmax, does not warn where all are NaN.
    halved: NDArray[np.float32] = np.fmax.reduce(_quarters(values, math.nan), axis=0)
    return halved


def halve_status(status: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The next coarser level of a status array: the status of the highest ``Status.rank``."""
    quarters = _quarters(status, int(Status.PENDING))
    best = _RANK[quarters].argmax(axis=0)
    return np.take_along_axis(quarters, best[None], axis=0)[0]


def _quarters(values: NDArray[Any], fill: float) -> NDArray[Any]:
    """The four cells under each coarser cell, shape (4, ..., ceil(rows / 2), ceil(cols / 2))."""
    rows, cols = values.shape[-2:]
    padding = [(0, 0)] * (values.ndim - 2) + [(0, rows % 2), (0, cols % 2)]
    even = np.pad(values, padding, constant_values=fill)
    return np.stack([even[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
