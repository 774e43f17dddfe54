"""The cells of a heatmap that are not as they should be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from histoslide.annotations.truth import SlideTruth
from histoslide.errors import HistoslideError
from histoslide.store import Heatmap
from histoslide.tiling.labelled.label_rule import NORMAL, TUMOUR, LabelRule
from histoslide.tiling.labelled.planning import centred


@dataclass(frozen=True, kw_only=True)
class WrongCells:
    """Cells of one kind, the most wrong first."""

    cells: NDArray[np.int64]
    """Row and column, shape (n, 2)."""
    probability: NDArray[np.float32]
    """Of tumour, shape (n,)."""
    focus: NDArray[np.intp]
    """Number of the connected group of such cells, from 1, shape (n,)."""

    def __len__(self) -> int:
        return len(self.cells)

    def among(self, most: int, *, per_focus: int) -> WrongCells:
        """Some of them, of every focus the most wrong, so that no large one leaves others out."""
        order = np.argsort(self.focus, kind="stable")  # of a focus still the most wrong first
        _, first, count = np.unique(self.focus[order], return_index=True, return_counts=True)
        rank = np.empty(len(order), dtype=np.intp)
        rank[order] = np.arange(len(order)) - np.repeat(first, count)
        keep = np.flatnonzero(rank < per_focus)
        keep = keep[np.argsort(rank[keep], kind="stable")][:most]
        return self.only(np.sort(keep))

    def only(self, keep: NDArray[np.intp]) -> WrongCells:
        """Those of some indices."""
        return WrongCells(
            cells=self.cells[keep], probability=self.probability[keep], focus=self.focus[keep]
        )


def wrong_cells(
    heat: Heatmap,
    truth: SlideTruth,
    *,
    exhaustive: bool,
    rule: LabelRule,
    above: float,
    below: float,
) -> tuple[WrongCells, WrongCells]:
    """False positives and misses of a heatmap.

    Of what nobody knows there is neither.

    Args:
        heat: stored, of two classes.
        truth: of its slide.
        exhaustive: whether all tumour of the slide is drawn.
        rule: what of a cell's label footprint makes it tumour.
        above: a cell without tumour is a false positive from this probability on.
        below: a cell with tumour is a miss under this probability.

    Raises:
        HistoslideError: the model has no tumour class.
    """
    if heat.tumour_class is None:
        raise HistoslideError(
            f"{heat.path.name}: its model has no tumour class, so nothing of it is right or wrong"
        )
    probability = heat.probability(heat.tumour_class)
    cells = np.argwhere(np.isfinite(probability))
    found = rule.labels(truth, centred(heat.grid, cells, heat.grid.label_px), exhaustive=exhaustive)
    values = probability[tuple(cells.T)]
    hot = cells[(found == NORMAL) & (values >= np.float32(above))]
    missed = cells[(found == TUMOUR) & (values < np.float32(below))]
    return (
        _grouped(hot, probability, heat.grid.shape, highest_first=True),
        _grouped(missed, probability, heat.grid.shape, highest_first=False),
    )


def _grouped(
    cells: NDArray[np.int64],
    probability: NDArray[np.float32],
    shape: tuple[int, int],
    *,
    highest_first: bool,
) -> WrongCells:
    where = np.zeros(shape, dtype=np.bool_)
    where[tuple(cells.T)] = True
    focus = np.asarray(label(where, connectivity=2), dtype=np.intp)[tuple(cells.T)]
    values = probability[tuple(cells.T)]
    order = np.argsort(-values if highest_first else values, kind="stable")
    return WrongCells(cells=cells[order], probability=values[order], focus=focus[order])
