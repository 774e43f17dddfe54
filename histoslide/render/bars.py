"""The bars of a picture: how long a length is, and what a colour means."""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle

from histoslide import quantities
from histoslide.geometry import Size
from histoslide.render.canvas import Canvas


def scale_bar_um(width_um: float) -> float:
    """A round length, 1, 2 or 5 times a power of ten, of about a fifth of a picture's width."""
    target = width_um / 5
    power = 10.0 ** np.floor(np.log10(target))
    return float(max((s * power for s in (1, 2, 5) if s * power <= target), default=power / 2))


def scale_bar(canvas: Canvas, size_l0: Size, mpp: float) -> None:
    """A bar of a round length in the slide's lower left corner, with its length."""
    length_um = scale_bar_um(size_l0.width * mpp)
    per_px = size_l0.width / canvas.size.width
    length, height = length_um / mpp, canvas.font_px * 0.4 * per_px
    x, y = 1.2 * canvas.font_px * per_px, size_l0.height - 1.2 * canvas.font_px * per_px
    label = quantities.scale(length_um)
    pad = 0.5 * canvas.font_px * per_px
    text_height = 1.5 * canvas.font_px * per_px
    canvas.axes.add_patch(
        Rectangle(
            (x - pad, y - text_height - pad),
            max(length, 4 * canvas.font_px * per_px) + 2 * pad,
            text_height + height + 2 * pad,
            facecolor=(1, 1, 1, 0.8),
            linewidth=0,
        )
    )
    canvas.axes.add_patch(Rectangle((x, y), length, height, facecolor="black", linewidth=0))
    canvas.axes.text(
        x, y - 0.2 * canvas.font_px * per_px, label, fontsize=canvas.points, va="bottom"
    )


def colour_bar(
    canvas: Canvas,
    mappable: ScalarMappable,
    label: str,
    ticks: list[float],
    *,
    extend: Literal["neither", "both"] = "neither",
) -> Axes:
    """A colour bar right of the slide."""
    size = canvas.size
    length = min(size.height, canvas.font_px * 22)
    rectangle = canvas.fraction(
        size.width + canvas.font_px, (size.height - length) / 2, canvas.font_px, length
    )
    axes = canvas.figure.add_axes(rectangle)
    bar = canvas.figure.colorbar(mappable, cax=axes, ticks=ticks, extend=extend)
    bar.ax.tick_params(labelsize=canvas.points * 0.8)
    bar.set_label(label, fontsize=canvas.points * 0.9, parse_math=False)
    return bar.ax
