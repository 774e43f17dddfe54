"""The canvas: a figure with the slide's picture in the middle and room for a title and bars."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from histoslide import look
from histoslide.geometry import Size

_DPI = 100

_SMALL = 0.85
"""Size of small print, in that of the title."""

_ALARM, _SOFT = look.hexadecimal(look.ALARM), "#444444"
"""Colours of warnings and of small print."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A rendered overlay and where the slide lies in it."""

    image: NDArray[np.uint8]
    """RGB, shape (h, w, 3), with titles and bars."""
    left: int
    """Column of the slide's left edge in the image."""
    top: int
    """Row of the slide's upper edge in the image."""
    slide_size: Size
    """Size of the slide in the image, in pixels."""


class Canvas:
    """A figure in which one slide pixel of the picture is one pixel of the image."""

    def __init__(
        self,
        size: Size,
        title: str,
        *,
        right: int = 6,
        below: int = 0,
        foot: str = "",
        warnings: Sequence[str] = (),
    ) -> None:
        """Lay out the figure.

        Args:
            size: of the slide in the picture.
            title: may have several lines, and long ones are broken.
            right: room for the colour bar, in heights of a letter.
            below: lines of a legend under the slide.
            foot: small print under that.
            warnings: what a person should know before believing the picture; stand out above the
                small print.
        """
        self.size = size
        # A narrow slide still needs room for its title.
        width = max(size.width, 420)
        self.font_px = int(np.clip(width / 60, 12, 26))
        self.left = self.font_px + (width - size.width) // 2
        self.width = width + self.font_px * (1 + right)
        letters = max(20, int(width / self.font_px * 1.7))
        wrapped = _wrapped(title, letters)
        small = int((self.width - 2 * self.font_px) / self.font_px * 1.95)
        alarm = "\n".join(_wrapped(f"Warning: {warning}", small) for warning in warnings)
        print_ = _wrapped(foot, small)
        lines = wrapped.count("\n") + 1
        self.top = round(self.font_px * (1.4 * lines + 1))
        legend = self.font_px * (1 + 1.8 * below)
        alarm_px, print_px = (_SMALL * 1.35 * self.font_px * _lines(it) for it in (alarm, print_))
        gap = 0.5 * self.font_px if alarm or print_ else 0
        self.bottom = round(legend + gap + alarm_px + print_px)
        self.height = self.top + size.height + self.bottom
        self.figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI)
        self.axes = self.figure.add_axes(self.fraction(0, 0, size.width, size.height))
        self.axes.set_axis_off()
        self.figure.text(
            self.font_px / self.width,
            1 - 0.6 * self.font_px / self.height,
            wrapped,
            fontsize=self.points,
            va="top",
            linespacing=1.3,
            parse_math=False,  # a $ in a file name is a $
        )
        for text, above, colour in (
            (alarm, alarm_px + print_px, _ALARM),
            (print_, print_px, _SOFT),
        ):
            if text:
                self.figure.text(
                    self.font_px / self.width,
                    (above + 0.4 * self.font_px) / self.height,
                    text,
                    fontsize=_SMALL * self.points,
                    color=colour,
                    va="top",
                    linespacing=1.3,
                    parse_math=False,
                )

    @property
    def points(self) -> float:
        """Font size in points."""
        return self.font_px * 72 / _DPI

    def fraction(
        self, x: float, y: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        """A rectangle in pixels from the slide's upper left corner, as figure fractions."""
        return (
            (self.left + x) / self.width,
            1 - (self.top + y + height) / self.height,
            width / self.width,
            height / self.height,
        )

    def show(self, picture: NDArray[np.uint8], size_l0: Size) -> None:
        """Put the slide's picture under everything; coordinates of the axes are level-0 pixels.

        Args:
            picture: RGB, shape (size.height, size.width, 3).
            size_l0: of the slide.
        """
        self.axes.set_xlim(0, size_l0.width)
        self.axes.set_ylim(size_l0.height, 0)
        bottom = self.height - self.top - self.size.height
        self.axes.add_artist(_Picture(picture, self.left, bottom))

    def finish(self) -> Overlay:
        """Draw everything."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        image = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        return Overlay(image=image, left=self.left, top=self.top, slide_size=self.size)


def _wrapped(text: str, letters: int) -> str:
    """A text with its long lines broken."""
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, letters))


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


class _Picture(Artist):
    """A picture put down pixel by pixel; ``imshow`` resamples it, which takes ten times as long."""

    zorder = 0

    def __init__(self, rgb: NDArray[np.uint8], left: int, bottom: int) -> None:
        super().__init__()
        self._corner = left, bottom
        opaque = np.full((*rgb.shape[:2], 1), 255, dtype=np.uint8)
        self._rgba = np.concatenate([rgb, opaque], axis=2)[::-1].copy()  # Agg begins at the bottom

    def draw(self, renderer: RendererBase) -> None:
        context = renderer.new_gc()
        renderer.draw_image(context, *self._corner, self._rgba)
        context.restore()
