"""Reading a rectangle of a slide at any resolution, at exact positions."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import SlideGivenUpError, SlideReadError
from histoslide.geometry import Box, Region, Size
from histoslide.machine.threads import side_by_side
from histoslide.slide.base import Slide
from histoslide.slide.shrinking import average_squares

logger = logging.getLogger(__name__)

LEVEL_TOLERANCE = 0.005
"""A level this much coarser than wanted still counts as fine enough: recorded downsamples carry
rounding, for example 4.0012 for 4."""

_FILTER = Image.Resampling.BICUBIC

_FILTER_SUPPORT = 2
"""Reach of the bicubic kernel in output pixels."""

_SLACK = 1e-6
"""A reduction by 3.9999999 is one by 4: downsamples are quotients."""

_BAND_ROWS = 128
"""Rows that are resampled at once: 2 MB of a window of 4400 px."""

_MAX_READ_PX = 6000 * 6000
"""Most pixels of a level in one read, about 250 MB with its copies; larger boxes are halved."""

_OVERVIEW_READ_PX = 2048
"""Side of the pieces in which an overview is read, in pixels of the level that is read."""

Squares = tuple[int, int, int, int]
"""Left, top, right, bottom of a rectangle of squares of pixels, counted from the slide's corner."""

SquaresReader = Callable[[Slide, int, Squares, int], NDArray[np.uint8]]
"""Takes slide, level, squares and the side of one in pixels, as ``read_padded`` does."""

WHITE = 255
"""Value of regions beyond the slide."""


def best_level(slide: Slide, downsample: float) -> int:
    """The coarsest level that is at least as fine as ``downsample`` level-0 pixels a pixel."""
    limit = downsample * (1 + LEVEL_TOLERANCE)
    fine = [i for i, d in enumerate(slide.level_downsamples) if d <= limit]
    return max(fine, key=lambda i: slide.level_downsamples[i], default=0)


def read_box(
    slide: Slide, box_l0: Box, size: Size, *, read: SquaresReader | None = None
) -> NDArray[np.uint8]:
    """Read a real-valued rectangle of a slide into an image of the given size.

    The coarsest level that is fine enough is read. If it is at least twice too fine, squares of its
    pixels, of 2, 4, 8 … a side, are averaged first, as the levels of a slide are made: always the
    same squares, counted from the slide's corner, as if the slide had such a level. The rest is
    resampled with a bicubic filter, widened for reduction so that nothing aliases. Pixels around
    the rectangle take part in the filter, so neighbouring rectangles join without a seam.

    Args:
        slide: to read from.
        box_l0: rectangle in level-0 pixels; it may reach beyond the slide, which is white there.
        size: of the result in pixels.
        read: gets the pixels that are resampled; None for ``read_padded``.

    Returns:
        RGB, shape (size.height, size.width, 3).

    Raises:
        SlideReadError: the slide cannot be read there.
    """
    level = best_level(slide, min(box_l0.width / size.width, box_l0.height / size.height))
    downsample = slide.level_downsamples[level]
    box = box_l0.scaled(1 / downsample)
    if box.width * box.height > _MAX_READ_PX:
        if max(size.width, size.height) > 1:
            return _read_in_halves(slide, box_l0, size, read)
        return _read_one_pixel(slide, box_l0, read)
    # No level is made that would have to be magnified again.
    finer = min(box.width / size.width, box.height / size.height)
    shrink = 2 ** max(0, math.floor(math.log2(finer) + _SLACK))
    box = box.scaled(1 / shrink)
    reach_x, reach_y = _reach(box.width / size.width), _reach(box.height / size.height)
    left, top, _, _ = squares = squares_for(box, size)
    pixels = (read or read_padded)(slide, level, squares, shrink)
    inner = (box.x - left, box.y - top, box.right - left, box.bottom - top)
    whole = (
        float(reach_x),
        float(reach_y),
        float(reach_x + size.width),
        float(reach_y + size.height),
    )
    if inner == whole:  # no resampling: exactly the pixels of the level
        return pixels[reach_y : reach_y + size.height, reach_x : reach_x + size.width]
    return _resample(pixels, size, inner)


def squares_for(box: Box, size: Size) -> Squares:
    """The squares that take part where a rectangle is resampled.

    Args:
        box: rectangle, counted in squares.
        size: of the result in pixels.
    """
    reach_x, reach_y = _reach(box.width / size.width), _reach(box.height / size.height)
    left, top = math.floor(box.x) - reach_x, math.floor(box.y) - reach_y
    return left, top, math.ceil(box.right) + reach_x, math.ceil(box.bottom) + reach_y


def _reach(scale: float) -> int:
    """How many squares beyond a rectangle the filter reaches, at so many of them a pixel."""
    return math.ceil(_FILTER_SUPPORT * max(1.0, scale))


def _resample(
    pixels: NDArray[np.uint8], size: Size, box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    """What Pillow's resize makes of a box (left, top, right, bottom), in less time and memory.

    Where Pillow filters along the rows first, each row stands for itself and can be done in bands
    that fit the processor's cache; the whole is then never held again in Pillow's own layout.
    """
    if not _rows_come_first(pixels, size, box):
        image = Image.fromarray(pixels).resize((size.width, size.height), _FILTER, box=box)
        return np.asarray(image)
    left, top, right, bottom = box
    across = Image.new("RGB", (size.width, len(pixels)))
    for start in range(0, len(pixels), _BAND_ROWS):
        band = Image.fromarray(pixels[start : start + _BAND_ROWS])
        part = (left, 0.0, right, float(band.height))
        across.paste(band.resize((size.width, band.height), _FILTER, box=part), (0, start))
    whole = (0.0, top, float(size.width), bottom)
    return np.asarray(across.resize((size.width, size.height), _FILTER, box=whole))


def _rows_come_first(
    pixels: NDArray[np.uint8], size: Size, box: tuple[float, float, float, float]
) -> bool:
    """Whether it is certain that Pillow filters along the rows first, and worth the bands.

    Pillow rounds after each pass and picks the order by the image's shape. For reductions by one
    factor in both axes and shapes that are not far from square it has always been this one, but
    where hardly anything is reduced and both orders cost the same (seen up to a factor of 1.05); a
    test compares it with the Pillow at hand.
    """
    height, width = pixels.shape[:2]
    scale_x, scale_y = (box[2] - box[0]) / size.width, (box[3] - box[1]) / size.height
    return (
        height > 2 * _BAND_ROWS
        and scale_x >= 1.2
        and abs(scale_x / scale_y - 1) < 0.01
        and 2 / 3 < width / height < 2
    )


def _read_in_halves(
    slide: Slide, box_l0: Box, size: Size, read: SquaresReader | None
) -> NDArray[np.uint8]:
    if size.width >= size.height:
        left = size.width // 2
        split = box_l0.width * left / size.width
        first = Box(box_l0.x, box_l0.y, split, box_l0.height)
        second = Box(box_l0.x + split, box_l0.y, box_l0.width - split, box_l0.height)
        sizes, axis = (Size(left, size.height), Size(size.width - left, size.height)), 1
    else:
        top = size.height // 2
        split = box_l0.height * top / size.height
        first = Box(box_l0.x, box_l0.y, box_l0.width, split)
        second = Box(box_l0.x, box_l0.y + split, box_l0.width, box_l0.height - split)
        sizes, axis = (Size(size.width, top), Size(size.width, size.height - top)), 0
    parts = [
        read_box(slide, half, part, read=read)
        for half, part in zip((first, second), sizes, strict=True)
    ]
    return np.concatenate(parts, axis=axis)


def _read_one_pixel(slide: Slide, box_l0: Box, read: SquaresReader | None) -> NDArray[np.uint8]:
    """One pixel of a rectangle that is too large to be read at once: the mean of its halves."""
    longer = 2 if box_l0.width >= box_l0.height else 1
    half = Size(longer, 3 - longer)
    both = read_box(slide, box_l0, half, read=read)
    return np.rint(both.mean(axis=(0, 1), keepdims=True)).astype(np.uint8)


def read_overview(slide: Slide, size: Size) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The whole slide as an image of the given size, read in pieces so that memory stays bounded.

    Returns:
        RGB of shape (size.height, size.width, 3), white where a piece could not be read, and a
        mask of shape (size.height, size.width) that is true where it could.
    """
    factor_x = slide.size_l0.width / size.width
    factor_y = slide.size_l0.height / size.height
    downsample = slide.level_downsamples[best_level(slide, min(factor_x, factor_y))]
    step = max(1, int(_OVERVIEW_READ_PX * downsample / max(factor_x, factor_y)))
    pixels = np.full((size.height, size.width, 3), WHITE, dtype=np.uint8)
    readable = np.ones((size.height, size.width), dtype=np.bool_)
    given_up = threading.Event()

    def read(corner: tuple[int, int]) -> None:
        x, y = corner
        part = Size(min(step, size.width - x), min(step, size.height - y))
        box = Box(x * factor_x, y * factor_y, part.width * factor_x, part.height * factor_y)
        where = np.s_[y : y + part.height, x : x + part.width]
        if given_up.is_set():
            readable[where] = False
            return
        try:
            pixels[where] = read_box(slide, box, part)
        except SlideReadError as error:
            readable[where] = False
            if isinstance(error, SlideGivenUpError):
                if given_up.is_set():
                    return
                given_up.set()
            logger.warning("%s", error)

    corners = [(x, y) for y in range(0, size.height, step) for x in range(0, size.width, step)]
    side_by_side(read, corners)
    return pixels, readable


def fit_size(slide: Slide, longest_px: int) -> Size:
    """Size of the whole slide shrunk to a longer side of at most ``longest_px``, never enlarged."""
    width, height = slide.size_l0.width, slide.size_l0.height
    factor = min(1.0, longest_px / max(width, height))
    return Size(max(1, round(width * factor)), max(1, round(height * factor)))


def read_padded(slide: Slide, level: int, squares: Squares, shrink: int) -> NDArray[np.uint8]:
    """Means of squares of a level's pixels, white beyond the level."""
    left, top, right, bottom = squares
    size = slide.level_sizes[level]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(right, -(-size.width // shrink)), min(bottom, -(-size.height // shrink))
    if (x0, y0, x1, y1) == squares:
        return _read_squares(slide, level, squares, shrink)
    canvas = np.full((bottom - top, right - left, 3), WHITE, dtype=np.uint8)
    if x0 < x1 and y0 < y1:
        part = _read_squares(slide, level, (x0, y0, x1, y1), shrink)
        canvas[y0 - top : y1 - top, x0 - left : x1 - left] = part
    return canvas


def _read_squares(slide: Slide, level: int, squares: Squares, shrink: int) -> NDArray[np.uint8]:
    """Means of squares of a level's pixels; those that its edge cuts are filled up with white."""
    left, top, right, bottom = squares
    size = slide.level_sizes[level]
    whole_x, whole_y = min(right, size.width // shrink), min(bottom, size.height // shrink)
    width, height = max(0, whole_x - left) * shrink, max(0, whole_y - top) * shrink
    whole = Region(level, left * shrink, top * shrink, width, height)
    if (whole_x, whole_y) == (right, bottom):
        return slide.read(whole, shrink)
    found = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
    if width and height:
        found[: whole_y - top, : whole_x - left] = slide.read(whole, shrink)
    for x0, y0, x1, y1 in ((whole_x, top, right, bottom), (left, whole_y, whole_x, bottom)):
        if x0 < x1 and y0 < y1:
            pixels = np.full(((y1 - y0) * shrink, (x1 - x0) * shrink, 3), WHITE, dtype=np.uint8)
            x, y = x0 * shrink, y0 * shrink
            width, height = min(x1 * shrink, size.width) - x, min(y1 * shrink, size.height) - y
            pixels[:height, :width] = slide.read(Region(level, x, y, width, height))
            found[y0 - top : y1 - top, x0 - left : x1 - left] = average_squares(pixels, shrink)
    return found
