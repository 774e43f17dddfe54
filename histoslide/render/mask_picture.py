"""The picture of tissue mask and grid, to be checked before hours of scoring."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal as PathNormal
from matplotlib.patheffects import Stroke as PathStroke
from numpy.typing import NDArray
from PIL import Image

from histoslide import look, quantities
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.lesions import NOTICE
from histoslide.render.bars import scale_bar
from histoslide.render.canvas import Canvas, Overlay
from histoslide.render.outlines import hatch_cells, hatching, outline_cells
from histoslide.slide import Slide
from histoslide.slide.resampling import fit_size, read_overview
from histoslide.tissue.masks import TissueMask

_GREY, _GREEN = (0.62, 0.62, 0.62), look.hexadecimal(look.TO_SCORE)

_EXCLUDED = (look.EXCLUDED, "\\\\\\\\")
"""Colour and hatching of what lies outside the region of interest."""


def draw_mask(
    slide: Slide, tissue: TissueMask, grid: TileGrid, plan: NDArray[np.uint8], *, longest_px: int
) -> Overlay:
    """Draw mask and grid over the slide, to be checked before hours of scoring.

    Args:
        slide: to show.
        tissue: its mask; what is not tissue is greyed out.
        grid: of the heatmap.
        plan: status of each cell before scoring; cells to be scored are outlined together, and
            those that a region of interest excludes are hatched.
        longest_px: longest side of the slide in the picture.

    Raises:
        SlideReadError: the slide cannot be read.
    """
    size = fit_size(slide, longest_px)
    thumbnail, _ = read_overview(slide, size)
    mask = np.asarray(
        Image.fromarray(tissue.mask).resize((size.width, size.height), Image.Resampling.NEAREST)
    )
    picture = thumbnail.copy()
    picture[~mask] = (picture[~mask] * 0.35 + 255 * 0.65 * np.array(_GREY)).astype(np.uint8)
    count = int((plan == Status.PENDING).sum())
    share = quantities.share(tissue.tissue_share)
    title = (
        f"{slide.name}\ntissue by {tissue.method}: {share} of the slide · "
        f"{count:,} of {plan.size:,} cells to score"
    )
    mpp = grid.slide_mpp
    foot = (
        f"{quantities.resolution(mpp.value)} ({mpp.source}), "
        f"{quantities.cell(grid.cell_um)} a cell. {NOTICE}"
    )
    canvas = Canvas(size, title, foot=foot, warnings=tissue.warnings)
    canvas.show(picture, grid.size_l0)
    excluded = plan == Status.EXCLUDED
    hatch_cells(canvas, grid, excluded, *_EXCLUDED)
    outline_cells(canvas, grid, plan == Status.PENDING, colour=_GREEN, halo="white")
    _tile_example(canvas, grid, plan)
    _explain(canvas, has_region=bool(excluded.any()))
    scale_bar(canvas, grid.size_l0, grid.slide_mpp.value)
    return canvas.finish()


def _tile_example(canvas: Canvas, grid: TileGrid, plan: NDArray[np.uint8]) -> None:
    """Show one tile and its label footprint, to scale, in the middle of what is scored."""
    pending = np.argwhere(plan == Status.PENDING)
    if not len(pending):
        return
    row, col = pending[len(pending) // 2]
    for box, colour, label in (
        (grid.tile_box_l0(row, col), "black", f"a tile, {grid.input_px} px"),
        (
            grid.label_box_l0(row, col),
            look.hexadecimal(look.FOOTPRINT),
            f"its label footprint, {grid.label_px} px",
        ),
    ):
        outline = Rectangle((box.x, box.y), box.width, box.height, fill=False, linewidth=1.5)
        outline.set(edgecolor=colour, label=label)
        if colour != "black":
            rim = PathStroke(linewidth=3.2, foreground=look.hexadecimal(look.RIM))
            outline.set_path_effects([rim, PathNormal()])
        canvas.axes.add_patch(outline)


def _explain(canvas: Canvas, *, has_region: bool) -> None:
    shown = canvas.axes.get_legend_handles_labels()[0]
    lines = [
        Line2D([], [], color=_GREEN, label="around the cells to score"),
        Patch(facecolor=_GREY, label="under grey: not tissue"),
    ]
    if has_region:
        lines.append(Patch(**hatching(*_EXCLUDED), label="outside the region of interest"))
    canvas.axes.legend(handles=[*lines, *shown], loc="lower right", fontsize=canvas.points * 0.8)
