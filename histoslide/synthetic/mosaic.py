"""Mosaics: labelled patches laid on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.pyramid import write_slide


def mosaic_slide(
    path: Path | str,
    patches: NDArray[np.uint8],
    *,
    columns: int,
    mpp: float = 0.972,
    downsamples: Sequence[float] = (),
    compression: str = "deflate",
    overwrite: bool = False,
) -> Path:
    """Write patches edge to edge, row by row, as one slide; places left over are white.

    Args:
        path: where to write.
        patches: RGB pixels, shape (n, height, width, 3); patch k lies in row k // columns and
            column k % columns.
        columns: patches in a row.
        mpp: micrometres per pixel of the patches (default: PatchCamelyon's).
        downsamples: of the coarser levels, as in ``write_slide``.
        compression: "deflate" (lossless) or "jpeg".
        overwrite: replace a file that exists.

    Returns:
        ``path``.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: an argument is out of range.
    """
    path = Path(path)
    if patches.ndim != 4 or len(patches) == 0 or columns < 1:
        raise ValueError(f"cannot lay patches of shape {patches.shape} in {columns} columns")
    count, height, width, channels = patches.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = patches
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return write_slide(
        path,
        grid.reshape(rows * height, columns * width, channels),
        mpp=mpp,
        downsamples=downsamples,
        compression=compression,
        overwrite=overwrite,
    )
