"""Peaks of lesions under many settings: what settings have in common is computed once.

Smoothing is the same for all settings of one width, the connected cells for all of one extend
probability, and the distances between foci for all gaps; a seed probability only says which of
the foci count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histoslide.grid.cells import TileGrid
from histoslide.lesions.foci import Pairs, label_foci, near_pairs, outlines_of, smoothed
from histoslide.lesions.peaks import Peaks, peaks_at
from histoslide.lesions.settings import LesionSettings


def peaks_under(
    grid: TileGrid, probability: NDArray[np.float32], settings: Sequence[LesionSettings]
) -> list[Peaks]:
    """What ``lesion_peaks`` gives for each of the settings.

    Args:
        grid: of the cells.
        probability: shape ``grid.shape``, NaN where nothing was scored.
        settings: how lesions are found, in any order.
    """
    found: dict[int, Peaks] = {}
    around = _scored(probability)
    part = probability[around]
    corner = np.array([it.start for it in around], dtype=np.intp)
    for smoothing, alike in _groups(range(len(settings)), lambda i: settings[i].smoothing_um):
        values = smoothed(part, smoothing / grid.cell_um)
        for _, members in _groups(alike, lambda i: settings[i].extend_probability):
            foci = _Foci.of(part, values, grid.cell_um, [settings[i] for i in members])
            for i in members:
                cells = foci.tops(settings[i], grid.cell_um)
                found[i] = peaks_at(grid, probability, cells + corner)
    return [found[i] for i in range(len(settings))]


def _groups(
    numbers: Sequence[int], by: Callable[[int], float]
) -> Iterator[tuple[float, list[int]]]:
    for value, members in groupby(sorted(numbers, key=by), key=by):
        yield value, list(members)


def _scored(probability: NDArray[np.float32]) -> tuple[slice, slice]:
    """The smallest box with all cells that were scored; of a slide without any, one cell."""
    known = np.isfinite(probability)
    rows, cols = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


@dataclass(frozen=True, kw_only=True)
class _Foci:
    """Connected cells at an extend probability, numbered in reading order."""

    seed: NDArray[np.float64]
    """Highest smoothed value of each, shape (n,)."""
    top: NDArray[np.intp]
    """Row and column of its highest cell, of equal ones the first in reading order, (n, 2)."""
    score: NDArray[np.float32]
    """Probability there, shape (n,)."""
    size: NDArray[np.intp]
    """Cells, shape (n,)."""
    near: Pairs
    """Those that any gap may join, with their distances in cells."""

    @classmethod
    def of(
        cls,
        probability: NDArray[np.float32],
        values: NDArray[np.float64],
        cell_um: float,
        settings: Sequence[LesionSettings],
    ) -> _Foci:
        """Those that any of the settings, which differ in seed and gap alone, may count."""
        lowest = min(it.seed_probability for it in settings)
        foci = label_foci(values, replace(settings[0], seed_probability=lowest))
        cells = np.argwhere(foci)
        at = tuple(cells.T)
        order = np.lexsort((-probability[at], foci[at]))  # stable: reading order among equals
        first = order[np.unique(foci[at][order], return_index=True)[1]]
        count = len(first)
        gap = max(it.join_gap_um for it in settings) / cell_um
        return cls(
            seed=np.asarray(ndimage.maximum(values, foci, np.arange(1, count + 1)), np.float64),
            top=cells[first],
            score=probability[tuple(cells[first].T)],
            size=np.bincount(foci[at], minlength=count + 1)[1:],
            near=near_pairs(outlines_of(foci) if gap > 0 else [], gap),
        )

    def tops(self, settings: LesionSettings, cell_um: float) -> NDArray[np.intp]:
        """The highest cell of every lesion, shape (lesions, 2)."""
        kept = np.flatnonzero(self.seed >= np.float32(settings.seed_probability))
        if not len(kept):
            return np.zeros((0, 2), np.intp)
        gap = settings.join_gap_um / cell_um
        lesion = self.near.within(gap).among(kept, len(self.seed)).lesions(len(kept))
        large = np.bincount(lesion, self.size[kept]) >= settings.min_cells
        # Of equal ones the first in reading order: a focus of a higher number may reach up further.
        row, col = self.top[kept].T
        order = np.lexsort((col, row, -self.score[kept], lesion))
        first = order[np.unique(lesion[order], return_index=True)[1]]
        return self.top[kept][first[large]]
