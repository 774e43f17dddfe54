"""What a heatmap is drawn on: its slide, or paper where that is not at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Size
from histoslide.grid.status import Status
from histoslide.render.cell_pixels import cell_index
from histoslide.slide import Slide
from histoslide.slide.resampling import read_overview
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


def slide_picture(heat: Heatmap, slide: Slide | None, longest_px: int) -> NDArray[np.uint8]:
    """The slide, or its scored cells in grey where it is not at hand; spans it exactly.

    Args:
        heat: stored heatmap.
        slide: it was scored on.
        longest_px: longest side of the picture.

    Returns:
        RGB, shape (rows, cols, 3).

    Raises:
        SlideOpenError: the slide has gone.
        SlideReadError: the slide cannot be read.
    """
    size = size_on_paper(heat.grid.size_l0, longest_px)
    return paper_picture(heat, size) if slide is None else read_overview(slide, size)[0]
