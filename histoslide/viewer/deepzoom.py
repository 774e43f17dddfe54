"""The slide as Deep Zoom tiles, read through the same door as the tiles that were scored.

Deep Zoom levels halve from the full slide down to one pixel; the highest number is the finest.
Source of the layout: Microsoft's Deep Zoom file format overview, as OpenSeadragon reads it.
"""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import SlideReadError
from histoslide.geometry import Box, Size
from histoslide.slide import Slide
from histoslide.slide.resampling import WHITE, read_box

logger = logging.getLogger(__name__)

TILE_PX = 510
"""Side of a tile without its overlap; with it, 512."""

OVERLAP_PX = 1
"""Pixels that a tile shares with each neighbour, so that no seam shows between them."""

JPEG_QUALITY = 90
"""With full chroma, so that nothing is seen of the slide being compressed a second time."""

_HATCH_PX = 16
_PAPER = (246, 246, 246)
_RED = (192, 28, 40)


@dataclass(frozen=True, kw_only=True)
class DeepZoom:
    """Where the tiles of a slide lie."""

    size_l0: Size
    """Of the slide."""
    tile_px: int = TILE_PX
    """Side of a tile without its overlap."""
    overlap_px: int = OVERLAP_PX
    """Pixels shared with each neighbour."""

    @property
    def max_level(self) -> int:
        """Number of the finest level."""
        return math.ceil(math.log2(max(self.size_l0.width, self.size_l0.height, 1)))

    def downsample(self, level: int) -> int:
        """Level-0 pixels a pixel of a level."""
        return 1 << (self.max_level - level)

    def level_size(self, level: int) -> Size:
        """Size of a level in its own pixels."""
        downsample = self.downsample(level)
        return Size(
            math.ceil(self.size_l0.width / downsample), math.ceil(self.size_l0.height / downsample)
        )

    def tile(self, level: int, col: int, row: int) -> tuple[Box, Size]:
        """The rectangle that a tile shows, in level-0 pixels, and its size in pixels.

        Raises:
            IndexError: there is no such tile.
        """
        if not 0 <= level <= self.max_level or col < 0 or row < 0:
            raise IndexError(f"no tile {level}/{col}_{row}")
        size = self.level_size(level)
        left, right = self._span(col, size.width)
        top, bottom = self._span(row, size.height)
        box = Box(left, top, right - left, bottom - top).scaled(self.downsample(level))
        return box, Size(right - left, bottom - top)

    def _span(self, index: int, length: int) -> tuple[int, int]:
        start = index * self.tile_px
        if start >= length:
            raise IndexError(f"no tile {index} along {length} px")
        return max(0, start - self.overlap_px), min(length, start + self.tile_px + self.overlap_px)


def slide_tile(slide: Slide, zoom: DeepZoom, level: int, col: int, row: int) -> bytes:
    """A tile of a slide as JPEG, hatched in red where the slide cannot be read.

    Raises:
        IndexError: there is no such tile.
    """
    box, size = zoom.tile(level, col, row)
    try:
        pixels = read_box(slide, box, size)
    except SlideReadError as error:
        logger.debug("tile %d/%d_%d: %s", level, col, row, error)
        pixels = _hatched(size)
    return _jpeg(pixels)


def blank_tile(zoom: DeepZoom, level: int, col: int, row: int) -> bytes:
    """What stands in for a tile where the slide is not at hand: white.

    Raises:
        IndexError: there is no such tile.
    """
    _, size = zoom.tile(level, col, row)
    return _jpeg(np.full((size.height, size.width, 3), WHITE, dtype=np.uint8))


def _hatched(size: Size) -> NDArray[np.uint8]:
    rows, cols = np.indices((size.height, size.width))
    line = (rows + cols) % _HATCH_PX < 2
    return np.where(line[..., None], _RED, _PAPER).astype(np.uint8)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
