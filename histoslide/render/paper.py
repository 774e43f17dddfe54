"""What a heatmap is drawn on where its slide is not at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Size
from histoslide.render.cell_pixels import cell_index
from histoslide.scoring import Status
from histoslide.store import Heatmap


def size_on_paper(size_l0: Size, longest_px: int) -> Size:
    """A slide's size shrunk or enlarged to so many pixels on its longer side."""
    factor = longest_px / max(size_l0.width, size_l0.height)
    return Size(max(1, round(size_l0.width * factor)), max(1, round(size_l0.height * factor)))


def paper_picture(heat: Heatmap, size: Size) -> NDArray[np.uint8]:
    """The scored cells of a heatmap in grey on lighter grey.

    Args:
        heat: stored heatmap.
        size: of the picture, which spans the slide.

    Returns:
        RGB, shape (size.height, size.width, 3).
    """
    scored = (heat.status == Status.SCORED)[np.ix_(*cell_index(heat.grid, size))]
    return np.where(scored[..., None], 225, 250).astype(np.uint8).repeat(3, axis=2)
