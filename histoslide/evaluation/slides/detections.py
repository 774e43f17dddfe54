"""Detections: points of a slide, each with a score."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import DataError
from histoslide.geometry import Size

_COLUMNS = ("probability", "x", "y")


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Where something was found on a slide, and how sure that is."""

    score: NDArray[np.float64] = field(repr=False)
    """Higher is surer, shape (n,)."""
    x_l0: NDArray[np.float64] = field(repr=False)
    """Level-0 pixels, shape (n,)."""
    y_l0: NDArray[np.float64] = field(repr=False)
    """Likewise."""

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def of(cls, rows: list[tuple[float, float, float]]) -> Detections:
        """Those of (score, x, y)."""
        score, x, y = np.array(rows, dtype=np.float64).reshape(-1, 3).T
        return cls(score=score, x_l0=x, y_l0=y)


def read_detections(path: Path, size_l0: Size) -> Detections:
    """Detections out of a CSV of ``probability,x,y``, with these names above them or without.

    Coordinates are level-0 pixels, as CAMELYON16 takes them.

    Args:
        path: of the file.
        size_l0: of the slide, which all points must lie on.

    Raises:
        DataError: it cannot be read, a value is no number, or a point lies beside the slide.
    """
    found: list[tuple[float, float, float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, skipinitialspace=True)
            for row in rows:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if not found and rows.line_num == 1 and _is_header(cells):
                    continue
                found.append(_point(cells, size_l0, f"{path}, line {rows.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return Detections.of(found)


def _is_header(cells: list[str]) -> bool:
    """Other names, or these in another order, are refused as what is no number."""
    return tuple(cell.casefold() for cell in cells) == _COLUMNS


def _point(cells: list[str], size_l0: Size, where: str) -> tuple[float, float, float]:
    try:
        probability, x, y = (float(cell) for cell in cells)
    except ValueError:
        raise DataError(
            f"{where}: {','.join(cells)[:80]!r} is not probability,x,y in level-0 pixels"
        ) from None
    if not all(map(math.isfinite, (probability, x, y))) or probability < 0:
        raise DataError(f"{where}: a probability from 0 on and a finite point are needed")
    if not (0 <= x < size_l0.width and 0 <= y < size_l0.height):
        raise DataError(
            f"{where}: the point ({x:g}, {y:g}) is not on the slide of "
            f"{size_l0.width}×{size_l0.height} px: give level-0 pixels"
        )
    return probability, x, y
