"""The picture of where two heatmaps differ."""

from __future__ import annotations

from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from histoslide.comparison.cells import Comparison
from histoslide.geometry import Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.render.bars import colour_bar, scale_bar
from histoslide.render.canvas import Canvas, Overlay
from histoslide.render.cell_pixels import cells_to_pixels
from histoslide.render.outlines import outline_cells
from histoslide.render.paper import size_on_paper
from histoslide.render.png import DEFAULT_OVERLAY_PX

DIFFERENCE_MAP = "coolwarm"
"""Blue to red over a grey that is darker than the white of cells nobody scored; told apart by
readers who do not see red and green."""

ONLY_COLOURS = ("#1b7837", "#e8a800")
"""Cells that only the first, only the second heatmap scored: unlike any colour of the map."""


def draw_difference(
    comparison: Comparison,
    *,
    class_name: str | None = None,
    longest_px: int = DEFAULT_OVERLAY_PX,
    limit: float | None = None,
) -> Overlay:
    """Draw where two heatmaps differ: B minus A over the grid, with colour bar and scale bar.

    Where pixels are larger than cells, the largest difference in a pixel is shown, so that no
    cell vanishes. Cells that change sides of the comparison's threshold are outlined.

    Args:
        comparison: of two heatmaps.
        class_name: see ``Comparison.of``.
        longest_px: longest side of the slide in the picture.
        limit: difference at the ends of the colour map, which is centred at 0; None for a round
            number at or above the largest difference.

    Raises:
        HistoslideError: no such class.
    """
    shown = comparison.of(class_name)
    limit = round_limit(shown.largest or 0) if limit is None else limit
    grid, difference = comparison.a.grid, comparison.differences[shown.name]
    size = size_on_paper(grid.size_l0, longest_px)
    colours = ScalarMappable(Normalize(-limit, limit), mpl.colormaps[DIFFERENCE_MAP])
    value = _largest_of_either_sign(difference.astype(np.float32), grid, size)
    picture = np.full((size.height, size.width, 3), 255, dtype=np.uint8)
    compared = np.isfinite(value)
    picture[compared] = colours.to_rgba(value[compared], bytes=True)[:, :3]
    title = f"{comparison.a.slide}\nP({shown.name}): {comparison.b.name} minus {comparison.a.name}"
    title += " · none differs" if not shown.largest else f" · largest {shown.largest:.2g}"
    legend = _paint_alone(picture, comparison, size)
    crossing = comparison.crossings[shown.name]
    if crossing.any():
        label = f"changes sides of {comparison.threshold:g}"
        legend.append(Patch(fill=False, edgecolor="black", label=label))
    canvas = Canvas(size, title, right=8, below=len(legend))
    canvas.show(picture, grid.size_l0)
    outline_cells(canvas, grid, crossing)
    if legend:  # under the slide, where it hides nothing
        canvas.axes.legend(
            handles=legend,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            borderaxespad=0.4,
            frameon=False,
            fontsize=canvas.points * 0.9,
        )
    _frame(canvas, grid.size_l0)
    scale_bar(canvas, grid.size_l0, grid.slide_mpp.value)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    beyond: Literal["both", "neither"] = "both" if (shown.largest or 0) > limit else "neither"
    colour_bar(canvas, colours, f"difference of P({shown.name})", ticks, extend=beyond)
    return canvas.finish()


def _paint_alone(picture: NDArray[np.uint8], comparison: Comparison, size: Size) -> list[Patch]:
    """Colour the cells that one side alone scored; returns what the legend says of them."""
    a, b = comparison.a, comparison.b
    in_a, in_b = (comparison.among & (side.status == Status.SCORED) for side in (a, b))
    legend = []
    for side, only, colour in (
        (a, in_a & ~in_b, ONLY_COLOURS[0]),
        (b, in_b & ~in_a, ONLY_COLOURS[1]),
    ):
        if only.any():
            alone = cells_to_pixels(np.where(only, 1, np.nan).astype(np.float32), a.grid, size)
            picture[np.isfinite(alone)] = np.rint(np.array(to_rgb(colour)) * 255)
            name = side.name.replace("$", r"\$")  # a $ in a file name is a $
            legend.append(Patch(color=colour, label=f"scored only in {name}"))
    return legend


def round_limit(largest: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten at or above a difference; 1 at most."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(largest))
    # A hair of slack, or 0.5 that became 0.5000000001 would be shown on a scale to 1.
    return float(min(1, *(s * power for s in (1, 2, 5, 10) if s * power >= largest * (1 - 1e-6))))


def _largest_of_either_sign(
    values: NDArray[np.float32], grid: TileGrid, size: Size
) -> NDArray[np.float32]:
    above, below = cells_to_pixels(values, grid, size), -cells_to_pixels(-values, grid, size)
    return np.where(np.abs(below) > np.abs(above), below, above)


def _frame(canvas: Canvas, size_l0: Size) -> None:
    """The slide's edge, where its picture is as white as the paper."""
    box = Rectangle(
        (0, 0), size_l0.width, size_l0.height, fill=False, edgecolor="0.6", clip_on=False
    )
    canvas.axes.add_patch(box)
