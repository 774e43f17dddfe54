"""A NumPy file: arrays with the coordinates of their cells, for scripts without histoslide."""

from __future__ import annotations

import numpy as np

from histoslide.lesions import NOTICE
from histoslide.storage.location import Location, as_location
from histoslide.storage.records import to_builtins, to_json
from histoslide.storage.writing import new_file
from histoslide.store import Heatmap


def write_npz(heatmap: Heatmap, path: Location | str, *, overwrite: bool = False) -> None:
    """Write a compressed ``.npz`` that ``numpy.load`` opens without pickle.

    It holds ``probability`` (classes, rows, cols) float32, ``classes``, ``status`` (rows, cols)
    uint8, ``x_l0`` (cols + 1) and ``y_l0`` (rows + 1), the edges of cells in level-0 pixels,
    ``mpp`` of level 0, ``cell_um``, and ``metadata``, JSON text of what the heatmap records.

    Args:
        heatmap: stored.
        path: file to write.
        overwrite: replace an existing file.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: it cannot be written, or the heatmap is damaged.
    """
    path = as_location(path)
    grid = heatmap.grid
    x_l0, y_l0 = grid.edges_l0()
    record = to_builtins(heatmap.record) | {"notice": NOTICE}
    with new_file(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            probability=np.stack([heatmap.probability(name) for name in heatmap.classes]),
            classes=np.array(heatmap.classes),
            status=heatmap.status,
            x_l0=x_l0,
            y_l0=y_l0,
            mpp=np.float64(grid.slide_mpp.value),
            cell_um=np.float64(grid.cell_um),
            metadata=np.array(to_json(record, indent=None, ascii_only=True)),
        )
