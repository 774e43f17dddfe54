"""What a slide's picture says about how far its heatmap can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from histoslide import quantities
from histoslide.errors import SlideReadError
from histoslide.geometry import CellRange
from histoslide.grid.status import Status
from histoslide.grid.windows import read_window
from histoslide.slide import Slide
from histoslide.slide.resampling import fit_size, read_overview
from histoslide.store import Heatmap
from histoslide.tissue.hsv import Hsv
from histoslide.tissue.masks import pen_ink

OVERVIEW_PX = 1000
"""Longest side of the overview that is looked at for pen."""

MUCH_PEN = 0.002
"""Part of the slide in the colours of marker pens from which it is worth a warning."""

FOCUS_TILES = 60
"""Tiles that sharpness is measured on, spread evenly over the scored cells."""

BLURRED = 0.15
"""Sharpness of a tile below which it counts as blurred. Tiles of an H&E node at 0.97 µm/px lie at
0.30-0.58, PatchCamelyon's at 0.34-0.65 (5th to 95th percentile); blurred by a Gaussian of 1.5 px,
half of the node's tiles fall below, by one of 2 px all of them."""

MUCH_BLUR = 0.2
"""Part of the tiles that are blurred from which it is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Measures of a slide's picture."""

    pen_share: float
    """Part of the slide in the colours of marker pens."""
    blurred_share: float | None
    """Part of the sampled tiles that are blurred, or None where none could be read."""
    tiles: int
    """Tiles that sharpness was measured on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know."""
        found = []
        if self.pen_share >= MUCH_PEN:
            found.append(
                f"{quantities.share(self.pen_share)} of the slide has the colours of marker pens: "
                "what lies beneath was not scored"
            )
        if self.blurred_share is not None and self.blurred_share >= MUCH_BLUR:
            found.append(
                f"{quantities.share(self.blurred_share, 0)} of {self.tiles} sampled tiles look out "
                "of focus: probabilities there mean little"
            )
        return tuple(found)


def measure_quality(heat: Heatmap, slide: Slide) -> Quality:
    """Look at a slide's overview and at a sample of its scored tiles."""
    overview, _ = read_overview(slide, fit_size(slide, OVERVIEW_PX))
    found = [sharpness(tile) for tile in _sample(heat, slide)]
    return Quality(
        pen_share=pen_share(overview),
        blurred_share=float(np.mean(np.array(found) < BLURRED)) if found else None,
        tiles=len(found),
    )


def pen_share(overview: NDArray[np.uint8]) -> float:
    """Part of a picture in the colours of marker pens, as tissue detection leaves them out.

    Args:
        overview: RGB, shape (h, w, 3).
    """
    return float(pen_ink(Hsv.of(overview)).mean())


def sharpness(tile: NDArray[np.uint8]) -> float:
    """Part of a tile's contrast that lies in details of about a pixel, 0-1.

    The standard deviation of what a Gaussian of one pixel takes away, over that of the tile.

    Args:
        tile: RGB, shape (h, w, 3).
    """
    grey = tile.astype(np.float64).mean(axis=2)
    contrast = float(grey.std())
    if contrast < 1:
        return 0.0
    return min(1.0, float((grey - gaussian_filter(grey, 1.0)).std()) / contrast)


def _sample(heat: Heatmap, slide: Slide) -> list[NDArray[np.uint8]]:
    cells = np.argwhere(heat.status == Status.SCORED)
    picked = cells[np.linspace(0, len(cells) - 1, min(FOCUS_TILES, len(cells))).astype(int)]
    tiles = []
    for row, col in picked:
        try:
            tiles.append(read_window(slide, heat.grid, CellRange(int(row), int(col), 1, 1)))
        except SlideReadError:
            continue  # the heatmap's status tells of it
    return tiles
