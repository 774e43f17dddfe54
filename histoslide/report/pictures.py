"""Pictures of a report, each as a data address, so that the file stands alone."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from histoslide import look
from histoslide.geometry import CellRange
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_window
from histoslide.render import COLOUR_MAP
from histoslide.slide import Slide
from histoslide.store import halve_probability

_BINS = 50
_TILE_PX = 192
"""Side of a tile in the report: twice what the network sees, to look at cells."""


def data_address(body: bytes, media_type: str) -> str:
    """A data: address."""
    return f"data:{media_type};base64,{base64.b64encode(body).decode()}"


def jpeg(pixels: NDArray[np.uint8], quality: int = 88) -> str:
    """RGB pixels as a data address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return data_address(buffer.getvalue(), "image/jpeg")


def tile_picture(slide: Slide, grid: TileGrid, row: int, col: int) -> str:
    """A tile as the network saw it, enlarged, with a box around its label footprint.

    Raises:
        SlideReadError: the slide cannot be read there.
    """
    pixels = read_window(slide, grid, CellRange(row, col, 1, 1))
    image = Image.fromarray(pixels).resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)
    margin = (grid.input_px - grid.label_px) / 2 / grid.input_px * _TILE_PX
    draw = ImageDraw.Draw(image)
    for outset, colour in ((3, look.RIM), (2, look.FOOTPRINT), (1, look.FOOTPRINT)):
        low, high = margin - outset, _TILE_PX - margin + outset - 1
        draw.rectangle((low, low, high, high), outline=colour)
    return jpeg(np.asarray(image))


def histogram(
    probability: NDArray[np.float32], thresholds: tuple[float, float], *, ink: str
) -> str:
    """How often each probability occurs, on a logarithmic scale, as SVG.

    Args:
        probability: of all cells; NaN is left out.
        thresholds: extend and seed probability of the foci, marked by lines.
        ink: colour of text and lines, on nothing.
    """
    values = probability[np.isfinite(probability)]
    with mpl.rc_context(_drawn_in(ink)):
        figure = Figure(figsize=(6.4, 2.4), layout="constrained", facecolor="none")
        axes = figure.add_subplot()
        counts, edges = np.histogram(values, bins=_BINS, range=(0, 1))
        centres = (edges[:-1] + edges[1:]) / 2
        axes.bar(centres, counts, 1 / _BINS, color=mpl.colormaps[COLOUR_MAP](centres))
        for threshold, style in zip(thresholds, ("--", "-"), strict=True):
            axes.axvline(threshold, color=ink, linewidth=1, linestyle=style)
        axes.set_facecolor("none")
        axes.set_xlim(0, 1)
        if values.size:
            axes.set_yscale("log")
            axes.set_ylim(0.8, None)
        axes.set_xlabel("probability")
        axes.set_ylabel("cells")
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return data_address(buffer.getvalue(), "image/svg+xml")


def _drawn_in(ink: str) -> dict[Any, Any]:
    """Settings of Matplotlib's for a chart whose text and lines have one colour."""
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings = {"svg.hashsalt": "histoslide", "svg.fonttype": "path", "font.size": 9}
    return settings | dict.fromkeys(parts, ink)


def embedded_values(
    probability: NDArray[np.float32], grid: TileGrid, longest: int
) -> dict[str, object]:
    """Probabilities for the page's own overlay, as text.

    Each cell is a 16-bit number, little-endian: 0-65534 is the probability, 65535 none. Where the
    heatmap has more than ``longest`` cells along a side, each number is the maximum of several.

    Returns:
        ``rows``, ``cols``, ``cell_l0`` (side in level-0 pixels) and ``values`` (base64).
    """
    values, cell_l0 = probability, grid.cell_l0
    while max(values.shape) > longest:
        values, cell_l0 = halve_probability(values), cell_l0 * 2
    # Rounded down: what is shown as 0.70 or more is.
    numbers = np.where(np.isfinite(values), np.floor(np.nan_to_num(values) * 65534), 65535)
    return {
        "rows": values.shape[0],
        "cols": values.shape[1],
        "cell_l0": cell_l0,
        "values": base64.b64encode(numbers.astype("<u2").tobytes()).decode(),
    }


def colours() -> list[list[int]]:
    """256 RGB triples of the usual colour map."""
    table = mpl.colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3]
    return np.rint(table * 255).astype(int).tolist()
