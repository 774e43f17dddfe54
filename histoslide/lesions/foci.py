"""Foci: the connected cells of a heatmap, their outlines, and which of them are one lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.filters import gaussian
from skimage.measure import label

from histoslide.lesions.lesion import TOLERANCE
from histoslide.lesions.settings import LesionSettings


def smoothed(probability: NDArray[np.float32], sigma_cells: float) -> NDArray[np.float64]:
    """Normalised convolution (Knutsson and Westin 1993): cells that were not scored weigh nothing.

    Cells that were not scored stay NaN, and do not draw their neighbours down.
    """
    values = probability.astype(np.float64)
    scored = np.isfinite(values)
    if sigma_cells == 0 or not scored.any():
        return values
    total = gaussian(np.where(scored, values, 0.0), sigma_cells, mode="constant")
    weight = gaussian(scored.astype(np.float64), sigma_cells, mode="constant")
    return np.where(scored, total / np.where(scored, weight, 1.0), np.nan)


def label_foci(values: NDArray[np.float64], settings: LesionSettings) -> NDArray[np.intp]:
    """Number of the focus that each cell belongs to, from 1 in reading order; 0 for none.

    skimage's ``apply_hysteresis_threshold`` does not count cells that touch at a corner as
    connected.
    """
    # A heatmap holds float32; 0.7 as a float64 would leave out cells that are shown as 0.7.
    candidates = label(values >= np.float32(settings.extend_probability), connectivity=2)
    seeded = np.zeros(candidates.max() + 1, dtype=np.bool_)
    seeded[candidates[values >= np.float32(settings.seed_probability)]] = True
    seeded[0] = False
    number = np.where(seeded, seeded.cumsum(), 0)
    return np.asarray(number[candidates])


def outlines_of(foci: NDArray[np.intp]) -> list[shapely.Geometry]:
    """The union of each focus's cells as a polygon whose unit is a cell: exact, in integers."""
    left = np.pad(foci, ((0, 0), (1, 1)))
    rows, starts = np.nonzero((left[:, 1:] != left[:, :-1]) & (left[:, 1:] > 0))
    _, stops = np.nonzero((left[:, 1:] != left[:, :-1]) & (left[:, :-1] > 0))
    owner = foci[rows, starts]
    order = np.argsort(owner, kind="stable")
    runs = shapely.box(starts, rows, stops, rows + 1)[order]
    ends = np.cumsum(np.bincount(owner, minlength=foci.max() + 1)[1:])
    return [shapely.union_all(part) for part in np.split(runs, ends[:-1])] if len(ends) else []


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Foci that are near each other."""

    one: NDArray[np.intp]
    """Number of a focus, shape (n,)."""
    other: NDArray[np.intp]
    """Number of the one that it is near to, a higher one, shape (n,)."""
    distance: NDArray[np.float64]
    """Between their outlines, in cells, shape (n,)."""

    def only(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Some of them."""
        return Pairs(one=self.one[chosen], other=self.other[chosen], distance=self.distance[chosen])

    def within(self, gap: float) -> Pairs:
        """Those that are nearer than ``gap`` cells."""
        return self.only(self.distance < gap * (1 - TOLERANCE))

    def among(self, kept: NDArray[np.intp], count: int) -> Pairs:
        """Those of which both are kept of ``count`` foci, numbered as they then are."""
        number = np.full(count, -1, np.intp)
        number[kept] = np.arange(len(kept))
        one, other = number[self.one], number[self.other]
        both = (one >= 0) & (other >= 0)
        return Pairs(one=one[both], other=other[both], distance=self.distance[both])

    def lesions(self, count: int) -> NDArray[np.intp]:
        """The lesion that each of ``count`` foci belongs to: pairs share one."""
        if not len(self.one):
            return np.arange(count)
        # Imported here: they bring SciPy's solvers, a tenth of a second that each start would wait
        # for.
        from scipy.sparse import coo_array  # noqa: PLC0415
        from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

        linked = np.ones(len(self.one), dtype=np.int8)
        links = coo_array((linked, (self.one, self.other)), shape=(count, count))
        return np.asarray(connected_components(links, directed=False)[1], dtype=np.intp)


def near_pairs(outlines: Sequence[shapely.Geometry], gap: float) -> Pairs:
    """Foci that are at most ``gap`` cells apart."""
    none = np.zeros(0, np.intp)
    if not len(outlines) or gap == 0:
        return Pairs(one=none, other=none, distance=np.zeros(0))
    one, other = shapely.STRtree(outlines).query(outlines, predicate="dwithin", distance=gap)
    pairs = one < other  # the other way round is the same, and with itself it costs most
    one, other, parts = one[pairs], other[pairs], np.asarray(outlines)
    return Pairs(one=one, other=other, distance=shapely.distance(parts[one], parts[other]))


def joined(outlines: Sequence[shapely.Geometry], gap: float) -> NDArray[np.intp]:
    """The lesion that each focus belongs to: those nearer than ``gap`` share one."""
    return near_pairs(outlines, gap).within(gap).lesions(len(outlines))


def cells_of_lesions(
    foci: NDArray[np.intp], lesion_of_focus: NDArray[np.intp]
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each lesion its foci, as indices of outlines, and (row, col) of its cells."""
    if not len(lesion_of_focus):
        return []
    cells = np.argwhere(foci)
    owner = lesion_of_focus[foci[tuple(cells.T)] - 1]
    count = int(lesion_of_focus.max()) + 1
    split = np.cumsum(np.bincount(owner, minlength=count))[:-1]
    parts = np.split(cells[np.argsort(owner, kind="stable")], split)
    split = np.cumsum(np.bincount(lesion_of_focus, minlength=count))[:-1]
    members = np.split(np.argsort(lesion_of_focus, kind="stable"), split)
    return list(zip(members, parts, strict=True))


def joined_foci(
    probability: NDArray[np.float32], cell_um: float, settings: LesionSettings
) -> list[tuple[list[shapely.Geometry], NDArray[np.intp]]]:
    """Each lesion's outlines, in cells, and (row, col) of its cells; those that are too small not.

    Args:
        probability: shape (rows, cols), NaN where nothing was scored.
        cell_um: side of a cell in micrometres.
        settings: how.
    """
    foci = label_foci(smoothed(probability, settings.smoothing_um / cell_um), settings)
    outlines = outlines_of(foci)
    lesion_of_focus = joined(outlines, settings.join_gap_um / cell_um)
    return [
        ([outlines[i] for i in part_of], cells)
        for part_of, cells in cells_of_lesions(foci, lesion_of_focus)
        if len(cells) >= settings.min_cells
    ]
