"""The overlay: a heatmap over its slide."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray

from histoslide import look, quantities
from histoslide.comparison.same_slide import check_same_slide
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.lesions import NOTICE, LesionReport
from histoslide.render.bars import colour_bar, scale_bar
from histoslide.render.blending import blend, colours_on_tissue
from histoslide.render.canvas import Canvas, Overlay
from histoslide.render.outlines import hatch_cells, hatching, outline_cells, outline_lesions
from histoslide.render.paper import paper_picture, size_on_paper
from histoslide.render.png import DEFAULT_OVERLAY_PX
from histoslide.scoring.lazy import DEFAULT_THRESHOLD
from histoslide.slide import Slide
from histoslide.slide.resampling import fit_size, read_overview
from histoslide.store import Heatmap, doubts_of


def draw_overlay(
    heat: Heatmap,
    slide: Slide | None,
    *,
    longest_px: int = DEFAULT_OVERLAY_PX,
    threshold: float = DEFAULT_THRESHOLD,
    class_name: str | None = None,
    lesions: LesionReport | None = None,
) -> Overlay:
    """Draw a heatmap over its slide with colour bar, scale bar and title.

    Args:
        heat: stored heatmap.
        slide: it was scored on; None draws it over plain grey tissue.
        longest_px: longest side of the slide in the picture.
        threshold: cells at or above it are coloured and outlined; it stands in the title.
        class_name: None for the tumour class.
        lesions: outlined and numbered instead of the cells above the threshold; they decide the
            class, too.

    Raises:
        StoreError: no such class, or the slide is not the one that was scored.
        SlideReadError: the slide cannot be read.
    """
    grid = heat.grid
    if slide is not None:
        check_same_slide(heat, slide)
        size = fit_size(slide, longest_px)
        thumbnail, _ = read_overview(slide, size)
    else:
        size = size_on_paper(grid.size_l0, longest_px)
        thumbnail = paper_picture(heat, size)
    if lesions is not None:
        class_name, threshold = lesions.settings.class_name, lesions.settings.extend_probability
    probability = heat.probability(class_name)
    picture = blend(thumbnail, grid, probability, threshold)
    shown = class_name or heat.main_class
    title = f"{heat.record.slide.name}\n{heat.judged_by} · coloured: "
    title += f"P({shown}) ≥ {quantities.threshold(threshold)}"
    if lesions is not None:
        title += f", with a seed ≥ {quantities.threshold(lesions.settings.seed_probability)}"
    canvas = Canvas(size, title, foot=_foot(heat), warnings=doubts_of(heat))
    canvas.show(picture, grid.size_l0)
    if lesions is None:
        outline_cells(canvas, grid, probability >= threshold)
    else:
        outline_lesions(canvas, grid.size_l0, lesions.lesions)
    _hatch(canvas, grid, heat.status == Status.UNREADABLE)
    scale_bar(canvas, grid.size_l0, grid.slide_mpp.value)
    _probability_bar(canvas, f"P({shown})", threshold)
    return canvas.finish()


def _foot(heat: Heatmap) -> str:
    slide = heat.record.slide
    return (
        f"{quantities.resolution(slide.mpp)} ({slide.mpp_source}), "
        f"{quantities.cell(heat.grid.cell_um)} a cell. {NOTICE}"
    )


def _hatch(canvas: Canvas, grid: TileGrid, unreadable: NDArray[np.bool_]) -> None:
    """Hatch cells that could not be read, and say so in a legend."""
    if not unreadable.any():
        return
    hatch_cells(canvas, grid, unreadable, look.UNREADABLE, "////")
    patch = Patch(**hatching(look.UNREADABLE, "////"), label="could not be read")
    if legend := canvas.axes.get_legend():
        canvas.axes.add_artist(legend)  # the next one would take its place
    canvas.axes.legend(handles=[patch], loc="lower right", fontsize=canvas.points * 0.8)


def _probability_bar(canvas: Canvas, label: str, threshold: float) -> None:
    mappable = ScalarMappable(Normalize(0, 1), ListedColormap(colours_on_tissue(threshold)))
    axes = colour_bar(canvas, mappable, label, [0, 0.25, 0.5, 0.75, 1])
    axes.axhline(threshold, color="black", linewidth=1.2)
