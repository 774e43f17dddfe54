"""A comparison as ``histoslide diff --json`` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from histoslide.comparison.cells import ClassComparison, Comparison, Difference


@dataclass(frozen=True, kw_only=True)
class StatusPair:
    """Cells that have one status in A and another in B."""

    a: str
    """In A."""
    b: str
    """In B."""
    cells: int
    """How many."""


@dataclass(frozen=True, kw_only=True)
class ClassRecord:
    """How far one class differs; see ``ClassComparison``."""

    name: str
    """Of the class."""
    cells: int
    """Cells that both sides scored."""
    equal: int
    """Those whose probabilities are the same number."""
    within_tolerance: int
    """Those that differ by no more than the tolerance."""
    largest: float | None
    """Largest absolute difference; None, as what follows, where no cell was compared."""
    largest_at: tuple[int, int] | None
    """(row, col) of the first cell that differs so."""
    mean: float | None
    """Mean absolute difference."""
    quantiles: Mapping[str, float]
    """Absolute differences by share of the cells."""
    up: int
    """Cells that are at or above the threshold only in B."""
    down: int
    """Cells that are at or above the threshold only in A."""
    correlation: float | None
    """Pearson's."""

    @classmethod
    def of(cls, entry: ClassComparison) -> ClassRecord:
        """What is said of a class."""
        return cls(
            name=entry.name,
            cells=entry.cells,
            equal=entry.equal,
            within_tolerance=entry.within,
            largest=entry.largest,
            largest_at=entry.largest_at,
            mean=entry.mean,
            quantiles={f"{share:g}": value for share, value in entry.quantiles.items()},
            up=entry.up,
            down=entry.down,
            correlation=entry.correlation,
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """A comparison without its arrays; see ``Comparison``."""

    a: str
    """Name of the first heatmap."""
    b: str
    """Name of the second."""
    slide: str
    """Name of their slide."""
    equal: bool
    """Whether nothing differs beyond the tolerance."""
    tolerance: float
    """Absolute difference up to which probabilities count as equal."""
    threshold: float
    """Probability that ``up`` and ``down`` speak of."""
    cells: int
    """Cells that were looked at."""
    only_a: int
    """Cells that only A scored."""
    only_b: int
    """Cells that only B scored."""
    statuses: tuple[StatusPair, ...]
    """How many cells have which two different statuses."""
    classes: tuple[ClassRecord, ...]
    """One for each class that is compared."""
    settings: tuple[Difference, ...]
    """Settings that differ."""
    origins: tuple[Difference, ...]
    """Devices and versions that differ."""

    @classmethod
    def of(cls, comparison: Comparison) -> ComparisonRecord:
        """What is said of a comparison."""
        return cls(
            a=comparison.a.name,
            b=comparison.b.name,
            slide=comparison.a.slide,
            equal=comparison.equal,
            tolerance=comparison.tolerance,
            threshold=comparison.threshold,
            cells=int(comparison.among.sum()),
            only_a=comparison.only_a,
            only_b=comparison.only_b,
            statuses=tuple(
                StatusPair(a=a, b=b, cells=n) for (a, b), n in comparison.statuses.items()
            ),
            classes=tuple(ClassRecord.of(entry) for entry in comparison.classes),
            settings=comparison.settings,
            origins=comparison.origins,
        )
