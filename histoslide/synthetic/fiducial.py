"""Fiducial slides: the colour of a pixel says where it lies, so that a misplaced read is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.pyramid import BAND_ROWS, level_sizes, write_levels

RAMP_FIRST, RAMP_LAST = 20.0, 235.0
"""Grey levels at the two ends of a fiducial ramp; away from 0 and 255, where dither would clip."""

_GOLDEN_STEPS = (0.7548776662466927, 0.5698402909980532)
"""Steps of the R2 sequence (Roberts 2018), the even filling of a plane used as dither."""


def fiducial_slide(
    path: Path | str,
    *,
    width: int,
    height: int,
    mpp: float,
    downsamples: Sequence[float] = (),
    overwrite: bool = False,
) -> Path:
    """Write a lossless slide whose colour says where it is, for ``decode_fiducial``.

    Red rises with x and green with y, linearly from edge to edge; blue is constant and makes it
    pass for tissue. The mean colour of any box is therefore the code of the box's centre. Each
    level is drawn anew, dithered so that rounding to 8 bits cancels in means: over 32 by 32 pixels
    it leaves about 0.01 grey level, which is 1/20 000 of the slide's width.

    Args:
        path: where to write.
        width: level-0 pixels.
        height: level-0 pixels.
        mpp: micrometres per level-0 pixel.
        downsamples: of the coarser levels, as in ``write_slide``.
        overwrite: replace a file that exists.

    Returns:
        ``path``.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: an argument is out of range, or a level would have no pixel.
    """
    path = Path(path)
    sizes = level_sizes(width, height, downsamples)
    levels = (
        _fiducial_level(size, downsample, width, height)
        for downsample, size in zip((1.0, *downsamples), sizes, strict=True)
    )
    return write_levels(
        path,
        levels,
        mpp=mpp,
        downsamples=downsamples,
        compression="deflate",
        overwrite=overwrite,
    )


def _fiducial_level(
    size: tuple[int, int], downsample: float, width_l0: int, height_l0: int
) -> NDArray[np.uint8]:
    columns, rows = np.arange(size[0]), np.arange(size[1])
    red = _ramp((columns + 0.5) * downsample / width_l0)
    green = _ramp((rows + 0.5) * downsample / height_l0)
    step_x, step_y = _GOLDEN_STEPS
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    for top in range(0, size[1], BAND_ROWS):
        band = slice(top, top + BAND_ROWS)
        dither = (columns * step_x + rows[band, None] * step_y) % 1
        pixels[band, :, 0] = np.floor(red + dither)
        pixels[band, :, 1] = np.floor(green[band, None] + dither)
    return pixels


def _ramp(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    return RAMP_FIRST + (RAMP_LAST - RAMP_FIRST) * fraction


def decode_fiducial(
    rgb_mean: NDArray[np.float64], *, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centre of boxes of a fiducial slide, from their mean colours.

    Args:
        rgb_mean: mean red, green and blue of 0 to 255, shape (..., 3).
        width: of the slide in level-0 pixels.
        height: of the slide in level-0 pixels.

    Returns:
        x_l0 and y_l0, each of shape (...), in level-0 pixels from the slide's top left corner (the
        centre of the first pixel is 0.5).
    """
    fraction = (np.asarray(rgb_mean, np.float64) - RAMP_FIRST) / (RAMP_LAST - RAMP_FIRST)
    return fraction[..., 0] * width, fraction[..., 1] * height
