"""A heatmap as a few points with scores: the peaks of its lesions, or its local maxima."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from histoslide.errors import HistoslideError
from histoslide.grid.cells import TileGrid
from histoslide.lesions.foci import joined_foci, smoothed
from histoslide.lesions.settings import LesionSettings

DEFAULT_MAXIMA_ABOVE = 0.5
"""Lower cells are no maximum that is told of."""

DEFAULT_MAXIMA_RADIUS_UM = 200.0
"""No two maxima are nearer than this: the size up to which tumour is isolated cells."""


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Points of a slide, the highest first."""

    score: NDArray[np.float64] = field(repr=False)
    """Probability there, shape (n,)."""
    x_l0: NDArray[np.float64] = field(repr=False)
    """Centre of the cell in level-0 pixels, shape (n,)."""
    y_l0: NDArray[np.float64] = field(repr=False)
    """Likewise."""

    def __len__(self) -> int:
        return len(self.score)


def lesion_peaks(
    grid: TileGrid, probability: NDArray[np.float32], settings: LesionSettings
) -> Peaks:
    """The highest cell of every lesion that ``find_lesions`` finds.

    Args:
        grid: of the cells.
        probability: shape ``grid.shape``, NaN where nothing was scored.
        settings: how lesions are found.
    """
    tops = []
    for _, cells in joined_foci(probability, grid.cell_um, settings):
        tops.append(cells[probability[tuple(cells.T)].argmax()])
    return peaks_at(grid, probability, np.array(tops, dtype=np.intp).reshape(-1, 2))


def local_maxima(
    grid: TileGrid,
    probability: NDArray[np.float32],
    *,
    above: float = DEFAULT_MAXIMA_ABOVE,
    radius_um: float = DEFAULT_MAXIMA_RADIUS_UM,
    smoothing_um: float = 0.0,
) -> Peaks:
    """Cells that are higher than all others near them; of equal ones the first in reading order.

    Args:
        grid: of the cells.
        probability: shape ``grid.shape``, NaN where nothing was scored.
        above: lowest value that counts.
        radius_um: how near the others are, between centres.
        smoothing_um: standard deviation of a Gaussian before; scores are the smoothed values.

    Raises:
        HistoslideError: a value is out of range.
    """
    if not 0 <= above <= 1:
        raise HistoslideError(f"--maxima-above must lie in 0-1, not {above:g}")
    if not 0 <= radius_um < float("inf"):
        raise HistoslideError(f"--maxima-radius must be 0 µm or more, not {radius_um:g}")
    values = smoothed(probability, smoothing_um / grid.cell_um)
    known = np.where(np.isfinite(values), values, -1.0)
    reach = radius_um / grid.cell_um
    side = np.arange(-int(reach), int(reach) + 1)
    disc = np.hypot(side[:, None], side[None, :]) <= reach
    # One that is not the highest of its disc cannot be a maximum; the rest are tried in turn.
    few = np.argwhere(
        (known >= np.float32(above)) & (known >= maximum_filter(known, footprint=disc))
    )
    few = few[np.argsort(-known[tuple(few.T)], kind="stable")]
    free, kept = np.ones(len(few), dtype=np.bool_), []
    tree = cKDTree(few) if len(few) else None
    for i, cell in enumerate(few):
        if free[i] and tree is not None:
            kept.append(cell)
            free[tree.query_ball_point(cell, reach)] = False
    return peaks_at(grid, values, np.array(kept, dtype=np.intp).reshape(-1, 2))


def peaks_at(grid: TileGrid, values: NDArray[np.floating], cells: NDArray[np.intp]) -> Peaks:
    """Peaks at cells, shape (n, 2), with the values there; of equal ones in the order given."""
    score = values[tuple(cells.T)].astype(np.float64)
    order = np.argsort(-score, kind="stable")
    row, col = cells[order].T
    # The cell may reach beyond the slide's edge; its point lies on the slide.
    return Peaks(
        score=score[order],
        x_l0=np.minimum((col + 0.5) * grid.cell_l0, grid.size_l0.width - 1.0),
        y_l0=np.minimum((row + 0.5) * grid.cell_l0, grid.size_l0.height - 1.0),
    )
