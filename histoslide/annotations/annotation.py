"""What was drawn on a slide, as its file has it: polygons, each with the name of a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from histoslide.annotations.polygons import Polygon, Ring

UNCLASSIFIED = "Unclassified"
"""How a class is called where a file gives none; QuPath calls it so."""


@dataclass(frozen=True)
class Annotation:
    """One polygon and what its file calls it."""

    polygon: Polygon
    """In level-0 pixels."""
    class_name: str
    """As the file has it: ASAP's group, QuPath's class; empty where there is none."""
    name: str = ""
    """Of this one polygon; empty where it has none."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """All polygons of a file."""

    source: Path
    """The file."""
    items: tuple[Annotation, ...]
    """In the order of the file; empty where nothing was drawn."""
    mended: Mapping[str, int] = field(default_factory=dict)
    """What was mended or left out, in words for people, and how often."""

    def __len__(self) -> int:
        """Number of polygons."""
        return len(self.items)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes, each once, in the order of the file."""
        return tuple(dict.fromkeys(item.class_name or UNCLASSIFIED for item in self.items))

    @classmethod
    def tidied(
        cls, source: Path, drawn: Iterable[Annotation], mended: Mapping[str, int] | None = None
    ) -> Annotations:
        """Those that have an area, each once.

        Args:
            source: the file.
            drawn: as the file has them.
            mended: what the file's reader has mended already.
        """
        counts = Counter(mended or {})
        kept: dict[tuple[object, ...], Annotation] = {}
        for item in drawn:
            if not has_area(item.polygon.outline):
                counts["polygons without an area left out"] += 1
                continue
            holes = tuple(hole for hole in item.polygon.holes if has_area(hole))
            counts["holes without an area left out"] += len(item.polygon.holes) - len(holes)
            polygon = Polygon(item.polygon.outline, holes)
            key = (item.class_name, *(ring.tobytes() for ring in (polygon.outline, *holes)))
            if key in kept:
                counts["polygons drawn twice left out"] += 1
            kept.setdefault(key, Annotation(polygon, item.class_name, item.name))
        found = {what: count for what, count in counts.items() if count}
        return cls(source=source, items=tuple(kept.values()), mended=found)


def as_ring(vertices: Sequence[Sequence[float]]) -> Ring:
    """Vertices as an array of shape (n, 2); what they have beyond x and y is passed over.

    Raises:
        ValueError: they are not pairs of finite numbers.
    """
    ring = np.array([vertex[:2] for vertex in vertices], dtype=np.float64).reshape(-1, 2)
    if len(ring) != len(vertices) or not np.isfinite(ring).all():
        raise ValueError(f"a ring must be finite (x, y), not {str(vertices)[:60]}")
    return ring


def has_area(ring: Ring) -> bool:
    """Whether a ring has three vertices that do not lie in a line."""
    if len(ring) < 3:
        return False
    sides = ring - ring[0]
    return bool(np.linalg.matrix_rank(sides) == 2)
