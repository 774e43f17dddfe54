"""How figures are drawn: one look for all, without any global state of matplotlib.

Colours are those of Okabe and Ito (2008), which people of all kinds of colour vision tell apart;
what matters is told apart by line style or text as well.
"""

from __future__ import annotations

import io
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#007A5A", "#6b6b6b"

COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#000000", "#56B4E9", "#B8860B", "#7B5EA7")
"""One a class, used again with another line style where there are more."""

Place = Literal["best", "upper left", "lower left", "lower right"]
STYLES = ("-", "--", ":", "-.")
_DPI = 130


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(text: str, limit: int = 28) -> str:
    """Text that matplotlib does not take for a formula, cut in the middle to a length."""
    if len(text) > limit:
        text = f"{text[: limit - limit // 2 - 1]}…{text[len(text) - limit // 2 :]}"
    return text.replace("$", r"\$")


def square() -> tuple[Figure, Axes]:
    """An empty square figure whose axes both go from 0 to 1."""
    figure = new_figure(5.4, 5.2)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return figure, axes


def look(i: int) -> tuple[str, str]:
    """Colour and line style of the i-th of several curves."""
    return COLOURS[i % len(COLOURS)], STYLES[(i // len(COLOURS) + i) % 4]


def tidy(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def finish(axes: Axes, *, legend: bool = True, loc: Place = "best") -> None:
    """Tidy, and a legend where there is something to tell apart."""
    tidy(axes)
    if axes.get_xscale() == "log":
        axes.xaxis.set_minor_formatter(NullFormatter())
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc=loc, fontsize=8.5, framealpha=0.9)


def finish_curves(figure: Figure, axes: Axes, count: int, *, loc: Place) -> None:
    """A legend of several curves goes below: wherever it lay, it would hide some of them."""
    if count == 1:
        finish(axes, loc=loc)
        return
    finish(axes, legend=False)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.25 * (count // 2 + 1) + 0.4)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
