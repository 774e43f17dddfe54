"""The canvas: a figure with the slide's picture in the middle and room for a title and bars."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from histoslide.geometry import Size

_DPI = 100


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

    def __init__(self, size: Size, title: str, *, right: int = 6, below: int = 0) -> None:
        """Lay out the figure.

        Args:
            size: of the slide in the picture.
            title: may have several lines, and long ones are broken.
            right: room for the colour bar, in heights of a letter.
            below: lines of a legend under the slide.
        """
        self.size = size
        # A narrow slide still needs room for its title.
        width = max(size.width, 420)
        self.font_px = int(np.clip(width / 60, 12, 26))
        self.left = self.font_px + (width - size.width) // 2
        self.bottom = round(self.font_px * (1 + 1.8 * below))
        wrapped = "\n".join(
            part
            for line in title.splitlines()
            for part in textwrap.wrap(line, max(20, int(width / self.font_px * 1.7)))
        )
        lines = wrapped.count("\n") + 1
        self.top = round(self.font_px * (1.4 * lines + 1))
        self.width = width + self.font_px * (1 + right)
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
