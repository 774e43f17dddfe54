"""Where two heatmaps of one slide differ, cell by cell, and in which settings.

Values of the finest level are compared, with every status. Differences are always B minus A.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, StoreError
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.storage.location import Location
from histoslide.store import Heatmap

QUANTILES = (0.95, 0.99, 0.999)
"""Of the absolute differences: what most cells keep below."""

DEFAULT_CROSSING = 0.5
"""Threshold that cells are looked at from both sides of."""

_NOT_SETTINGS = frozenset({"ngff", "slide.size_l0", "slide.quickhash"})
"""Parts of a fingerprint that say how values are stored, or must be equal to be compared."""


@dataclass(frozen=True, kw_only=True)
class ScoredCells:
    """What one run left of a slide's cells: a stored heatmap, or part of one that is not stored."""

    name: str
    """For people: of the heat.zarr, without its folder."""
    grid: TileGrid
    """Where the cells lie."""
    quickhash: str
    """Of the slide."""
    slide: str
    """Name of the slide."""
    tumour_class: str | None
    """The class that means tumour; None where no class does."""
    probability: Mapping[str, NDArray[np.float32]] = field(repr=False)
    """Of each class that is shown, shape ``grid.shape``; NaN where nothing was scored."""
    status: NDArray[np.uint8] = field(repr=False)
    """``histoslide.grid.status.Status`` of every cell, shape ``grid.shape``."""
    settings: Mapping[str, Any] = field(repr=False)
    """What decides the values: the heatmap's fingerprint."""
    origin: Mapping[str, str] = field(repr=False)
    """Where and by what it was computed: device and versions."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting, a device or a version that is not the same on both sides."""

    name: str
    """Of the setting, as the fingerprint calls it."""
    a: Any
    """In A; None where A records none."""
    b: Any
    """In B; None where B records none."""


@dataclass(frozen=True, kw_only=True)
class ClassComparison:
    """How far the probabilities of one class differ, over cells that both sides scored."""

    name: str
    """Of the class."""
    cells: int
    """Cells that both sides scored."""
    equal: int
    """Those whose probabilities are the same number."""
    within: int
    """Those that differ by no more than the tolerance."""
    largest: float | None
    """Largest absolute difference; this and the following are None where no cell was compared."""
    largest_at: tuple[int, int] | None
    """(row, col) of the first cell that differs so."""
    mean: float | None
    """Mean absolute difference."""
    quantiles: Mapping[float, float]
    """Absolute difference that at least such a share of the cells does not exceed, by
    ``QUANTILES``."""
    up: int
    """Cells below the threshold in A that are at or above it in B."""
    down: int
    """Cells at or above the threshold in A that are below it in B."""
    correlation: float | None
    """Pearson's; None where a side has fewer than two different values."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two heatmaps of one slide, side by side."""

    a: ScoredCells
    """The first."""
    b: ScoredCells
    """The second."""
    among: NDArray[np.bool_] = field(repr=False)
    """Cells that were looked at, shape ``grid.shape``."""
    threshold: float
    """Probability that ``ClassComparison.up`` and ``down`` speak of."""
    tolerance: float
    """Absolute difference up to which probabilities count as equal."""
    classes: tuple[ClassComparison, ...]
    """One for each class that is compared."""
    differences: Mapping[str, NDArray[np.float64]] = field(repr=False)
    """B minus A by class, shape ``grid.shape``; NaN where not both are scored."""
    crossings: Mapping[str, NDArray[np.bool_]] = field(repr=False)
    """By class, cells on different sides of the threshold, shape ``grid.shape``."""
    only_a: int
    """Cells that only A scored."""
    only_b: int
    """Cells that only B scored."""
    statuses: Mapping[tuple[str, str], int]
    """How many cells have these two different statuses, by (in A, in B)."""
    settings: tuple[Difference, ...]
    """Settings that differ. Values may be compared all the same."""
    origins: tuple[Difference, ...]
    """Devices and versions that differ."""

    @property
    def equal(self) -> bool:
        """Whether every status is the same and no probability differs beyond the tolerance."""
        return not self.statuses and all(entry.within == entry.cells for entry in self.classes)

    def of(self, class_name: str | None = None) -> ClassComparison:
        """The comparison of one class.

        Args:
            class_name: None for the only or the tumour class, else the one that differs most.

        Raises:
            HistoslideError: no such class.
        """
        by_name = {entry.name: entry for entry in self.classes}
        if class_name is None:
            if self.a.tumour_class in by_name:
                return by_name[str(self.a.tumour_class)]
            return max(self.classes, key=lambda entry: entry.largest or 0)
        if class_name not in by_name:
            raise HistoslideError(
                f"{class_name!r} is not compared: choose from {', '.join(by_name)}"
            )
        return by_name[class_name]


def read_cells(heat: Heatmap) -> ScoredCells:
    """What a stored heatmap holds, in memory.

    Raises:
        StoreError: the store is damaged.
    """
    return ScoredCells(
        name=heat.path.name,
        grid=heat.grid,
        quickhash=heat.record.slide.quickhash,
        slide=heat.record.slide.name,
        tumour_class=heat.tumour_class,
        probability={name: heat.probability(name) for name in heat.shown_classes},
        status=heat.status,
        settings=heat.record.fingerprint,
        origin={"device": heat.record.device, **heat.record.versions},
    )


def compare_heatmaps(
    a: Heatmap, b: Heatmap, *, threshold: float = DEFAULT_CROSSING, tolerance: float = 0.0
) -> Comparison:
    """Compare two heatmaps of one slide on one grid.

    Args:
        a: stored heatmap.
        b: stored heatmap.
        threshold: count cells that are on different sides of it.
        tolerance: absolute difference of probabilities up to which they count as equal.

    Raises:
        StoreError: they are of different slides, grids or classes, or one is damaged.
    """
    name_a, name_b = _distinct_names(a.path, b.path)
    refuse_other_grid(name_a, a.grid, name_b, b.grid)
    cells_a = dataclasses.replace(read_cells(a), name=name_a)
    cells_b = dataclasses.replace(read_cells(b), name=name_b)
    return compare_cells(cells_a, cells_b, threshold=threshold, tolerance=tolerance)


def _distinct_names(a: Location, b: Location) -> tuple[str, str]:
    """As little of the ends of two paths as tells them apart."""
    for count in range(1, 1 + max(len(a.parts), len(b.parts))):
        names = "/".join(a.parts[-count:]), "/".join(b.parts[-count:])
        if names[0] != names[1]:
            break
    return names


def compare_cells(
    a: ScoredCells,
    b: ScoredCells,
    *,
    threshold: float = DEFAULT_CROSSING,
    tolerance: float = 0.0,
    among: NDArray[np.bool_] | None = None,
) -> Comparison:
    """Compare the cells of two runs.

    Args:
        a: the first.
        b: the second.
        threshold: count cells that are on different sides of it.
        tolerance: absolute difference of probabilities up to which they count as equal.
        among: cells to look at, shape ``grid.shape``; None for all.

    Raises:
        StoreError: they are of different slides, grids or classes.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold must lie in 0-1, not {threshold}")
    if not tolerance >= 0:
        raise ValueError(f"the tolerance must not be negative, as {tolerance} is")
    refuse_other_grid(a.name, a.grid, b.name, b.grid)
    if a.quickhash != b.quickhash:
        raise StoreError(
            f"{a.name} and {b.name} are of different slides ({a.slide} and {b.slide}, by their "
            "quickhash): only heatmaps of one slide can be compared"
        )
    pairs = _class_pairs(a, b)
    among = np.ones(a.grid.shape, dtype=np.bool_) if among is None else among
    scored_a, scored_b = a.status == Status.SCORED, b.status == Status.SCORED
    both = scored_a & scored_b & among
    differences: dict[str, NDArray[np.float64]] = {}
    crossings: dict[str, NDArray[np.bool_]] = {}
    classes = []
    for name, name_b in pairs:
        first, second = a.probability[name], b.probability[name_b]
        # In float64 the difference of two float32 is exact to the last digit that matters.
        differences[name] = np.where(both, second.astype(np.float64) - first, np.nan)
        crossings[name] = both & ((first >= threshold) != (second >= threshold))
        classes.append(_compare_class(name, first[both], second[both], both, threshold, tolerance))
    return Comparison(
        a=a,
        b=b,
        among=among,
        threshold=threshold,
        tolerance=tolerance,
        classes=tuple(classes),
        differences=differences,
        crossings=crossings,
        only_a=int((scored_a & ~scored_b & among).sum()),
        only_b=int((scored_b & ~scored_a & among).sum()),
        statuses=_status_pairs(a.status[among], b.status[among]),
        settings=_differing(a.settings, b.settings, leave_out=_NOT_SETTINGS),
        origins=_differing(a.origin, b.origin),
    )


def refuse_other_grid(name_a: str, a: TileGrid, name_b: str, b: TileGrid) -> None:
    """Make sure that cells of two grids cover the same places of a slide.

    Raises:
        StoreError: they do not; the setting that differs is named.
    """
    sizes = [f"{grid.size_l0.width}×{grid.size_l0.height} px" for grid in (a, b)]
    if sizes[0] != sizes[1]:
        reason = f"their slides measure {sizes[0]} and {sizes[1]}"
        out = "only heatmaps of one slide can be compared"
    elif a.slide_mpp.value != b.slide_mpp.value:
        reason = f"--mpp: {a.slide_mpp.value:g} and {b.slide_mpp.value:g} µm/px"
        out = "score one of them again with the --mpp of the other"
    elif not math.isclose(a.cell_um, b.cell_um) or a.shape != b.shape:
        setting = "--stride" if a.model_mpp == b.model_mpp else "stride or resolution of the model"
        reason = f"{setting}: cells of {_cell(a)} and of {_cell(b)}"
        out = "score one of them again with the cells of the other"
    else:
        return
    raise StoreError(f"{name_a} and {name_b} cannot be compared ({reason}): {out}")


def _cell(grid: TileGrid) -> str:
    return f"{grid.cell_um:g} µm ({grid.stride_px} px of {grid.model_mpp:g} µm)"


def _class_pairs(a: ScoredCells, b: ScoredCells) -> list[tuple[str, str]]:
    """Names of the classes to compare, in A and in B."""
    if a.probability.keys() == b.probability.keys():
        return [(name, name) for name in a.probability]
    alone = len(a.probability) == len(b.probability) == 1
    if alone and a.tumour_class and b.tumour_class:  # two models may call it differently
        return [(a.tumour_class, b.tumour_class)]
    raise StoreError(
        f"{a.name} and {b.name} cannot be compared (classes: {', '.join(a.probability)} and "
        f"{', '.join(b.probability)}): their models must know the same classes"
    )


def _compare_class(
    name: str,
    old: NDArray[np.float32],
    new: NDArray[np.float32],
    both: NDArray[np.bool_],
    threshold: float,
    tolerance: float,
) -> ClassComparison:
    size = np.abs(new.astype(np.float64) - old)
    if not len(size):
        return ClassComparison(
            name=name, cells=0, equal=0, within=0, largest=None, largest_at=None, mean=None,
            quantiles={}, up=0, down=0, correlation=None,
        )  # fmt: skip
    rows, cols = np.nonzero(both)
    top = int(size.argmax())
    varied = np.ptp(old) > 0 and np.ptp(new) > 0
    return ClassComparison(
        name=name,
        cells=len(size),
        equal=int((size == 0).sum()),
        within=int((size <= tolerance).sum()),
        largest=float(size[top]),
        largest_at=(int(rows[top]), int(cols[top])),
        mean=float(size.mean()),
        quantiles={share: float(np.quantile(size, share, method="higher")) for share in QUANTILES},
        up=int(((old < threshold) & (new >= threshold)).sum()),
        down=int(((old >= threshold) & (new < threshold)).sum()),
        correlation=float(np.corrcoef(old.astype(np.float64), new)[0, 1]) if varied else None,
    )


def _status_pairs(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for first in Status:
        for second in Status:
            count = int(((a == first) & (b == second)).sum())
            if first != second and count:
                found[first.label, second.label] = count
    return found


def _differing(
    a: Mapping[str, Any], b: Mapping[str, Any], leave_out: frozenset[str] = frozenset()
) -> tuple[Difference, ...]:
    return tuple(
        Difference(name=name, a=a.get(name), b=b.get(name))
        for name in sorted((a.keys() | b.keys()) - leave_out)
        if a.get(name) != b.get(name)
    )
