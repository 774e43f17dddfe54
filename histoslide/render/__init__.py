"""Pictures for people: heatmap overlays, mask checks, differences and contact sheets.

``overlay``, ``mask_picture``, ``difference`` and ``tile_sheet`` draw one picture each, which
``png`` writes. They lay ``outlines`` and ``bars`` on a ``canvas``; ``blending`` and ``cell_pixels``
turn cells into colours and pixels, ``paper`` takes the place of a slide that is not at hand, and
``notebook`` shows a heatmap in Jupyter.
"""

from __future__ import annotations

from histoslide.comparison.same_slide import check_same_slide
from histoslide.render.bars import scale_bar_um
from histoslide.render.blending import COLOUR_MAP, blend
from histoslide.render.canvas import Overlay
from histoslide.render.cell_pixels import cell_index, cells_to_pixels
from histoslide.render.difference import (
    DIFFERENCE_MAP,
    ONLY_COLOURS,
    draw_difference,
    round_limit,
)
from histoslide.render.mask_picture import draw_mask
from histoslide.render.overlay import draw_overlay
from histoslide.render.paper import paper_picture, size_on_paper, slide_picture
from histoslide.render.tile_sheet import contact_sheet

__all__ = [
    "COLOUR_MAP",
    "DIFFERENCE_MAP",
    "ONLY_COLOURS",
    "Overlay",
    "blend",
    "cell_index",
    "cells_to_pixels",
    "check_same_slide",
    "contact_sheet",
    "draw_difference",
    "draw_mask",
    "draw_overlay",
    "paper_picture",
    "round_limit",
    "scale_bar_um",
    "size_on_paper",
    "slide_picture",
]
