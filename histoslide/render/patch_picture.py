"""The picture of where labelled patches were taken from a slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal as PathNormal
from matplotlib.patheffects import Stroke as PathStroke
from numpy.typing import NDArray

from histoslide import look
from histoslide.geometry import Size
from histoslide.render.bars import scale_bar
from histoslide.render.canvas import Canvas
from histoslide.slide import Slide
from histoslide.slide.resampling import fit_size, read_overview


def draw_patches(
    slide: Slide,
    size_l0: Size,
    mpp: float,
    boxes: Mapping[str, NDArray[np.float64]],
    outlines: Sequence[shapely.Geometry],
    *,
    title: str,
    longest_px: int,
) -> NDArray[np.uint8]:
    """Draw annotations and the centres of patches over a slide.

    Args:
        slide: to show.
        size_l0: of it.
        mpp: micrometres per level-0 pixel.
        boxes: by class (``normal``, ``tumour``): left, top, right, bottom in level-0 pixels, shape
            (n, 4).
        outlines: of tumour, in level-0 pixels.
        title: above the picture.
        longest_px: longest side of the slide in the picture.

    Returns:
        RGB, shape (h, w, 3).

    Raises:
        SlideReadError: the slide cannot be read.
    """
    size = fit_size(slide, longest_px)
    thumbnail, _ = read_overview(slide, size)
    canvas = Canvas(size, title)
    canvas.show(thumbnail, size_l0)
    handles = []
    for name, of_class in look.PATCHES.items():
        colour = look.hexadecimal(of_class)
        corners = boxes[name][:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2)
        lines = LineCollection(list(corners), colors=colour, linewidths=0.7)
        canvas.axes.add_collection(lines, autolim=False)
        handles.append(Line2D([], [], color=colour, label=f"{len(corners):,} {name}"))
    rings = [
        shapely.get_coordinates(ring)
        for outline in outlines
        for ring in shapely.get_rings(shapely.get_parts(outline))
    ]
    white = look.hexadecimal(look.ANNOTATED)
    rim = [PathStroke(linewidth=2.4, foreground=look.hexadecimal(look.RIM)), PathNormal()]
    canvas.axes.add_collection(
        LineCollection(rings, colors=white, linewidths=1.2, path_effects=rim), autolim=False
    )
    lesions = f"{len(outlines):,} annotated lesions"
    handles.append(Line2D([], [], color=white, path_effects=rim, label=lesions))
    canvas.axes.legend(handles=handles, loc="lower right", fontsize=canvas.points * 0.8)
    canvas.axes.set_xlim(0, size_l0.width)
    canvas.axes.set_ylim(size_l0.height, 0)
    scale_bar(canvas, size_l0, mpp)
    return canvas.finish().image
