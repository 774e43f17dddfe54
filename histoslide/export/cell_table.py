"""CSV with WSInfer's columns, one row a scored cell."""

from __future__ import annotations

import numpy as np

from histoslide.storage.location import Location, as_location
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import new_file
from histoslide.store import Heatmap


def write_csv(heatmap: Heatmap, path: Location | str, *, overwrite: bool = False) -> None:
    """Write ``minx, miny, width, height, prob_<class>…`` in level-0 pixels.

    Rows are in reading order. Numbers are written so that reading them gives the same float64 (of
    places) and float32 (of probabilities) back. Cells that were not scored have no row.

    Args:
        heatmap: stored.
        path: file to write.
        overwrite: replace an existing file.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: it cannot be written, or the heatmap is damaged.
    """
    path = as_location(path)
    by_class = [heatmap.probability(name) for name in heatmap.classes]
    with (
        new_file(path, overwrite=overwrite) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = TableWriter(file, lineterminator="\n")
        table.write([["minx", "miny", "width", "height", *(f"prob_{n}" for n in heatmap.classes)]])
        for row, col in np.argwhere(np.isfinite(by_class[0])).tolist():
            box = heatmap.grid.cell_box_l0(row, col)
            place = [_plain(value) for value in (box.x, box.y, box.width, box.height)]
            table.write([[*place, *(str(p[row, col]) for p in by_class)]])


def _plain(value: float) -> str:
    """The shortest text that reads as the same number, whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")
