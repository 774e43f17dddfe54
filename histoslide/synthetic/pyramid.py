"""Pyramidal TIFF files that OpenSlide reads, written from pixels or level by level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histoslide.errors import OutputExistsError
from histoslide.storage.writing import whole_file

TILE_PX = 256
"""Side of a TIFF tile in pixels."""

JPEG_QUALITY = 90
"""What scanners commonly use."""

BAND_ROWS = 1024
"""Rows made at once, so that temporary memory does not grow with a slide's height."""


def write_slide(
    path: Path | str,
    level0: NDArray[np.uint8],
    *,
    mpp: float,
    downsamples: Sequence[float] = (4.0,),
    compression: str = "jpeg",
    overwrite: bool = False,
) -> Path:
    """Write a pyramidal, tiled TIFF that OpenSlide opens.

    Pixel (i, j) of a level with downsample ``d`` is the area mean of the level-0 box from
    (i·d, j·d) to ((i+1)·d, (j+1)·d), rounded once; a level is ``floor(width / d)`` by
    ``floor(height / d)`` pixels. OpenSlide reports the ratio of the sizes as the downsample, which
    differs from ``d`` where ``d`` does not divide the size.

    Args:
        path: where to write; only a whole file ever bears this name.
        level0: RGB pixels, shape (height, width, 3).
        mpp: micrometres per level-0 pixel, recorded as the TIFF resolution.
        downsamples: of the coarser levels, ascending, each above 1.
        compression: "jpeg" (quality 90) or "deflate" (lossless).
        overwrite: replace a file that exists.

    Returns:
        ``path``.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: an argument is out of range, or a level would have no pixel.
    """
    path = Path(path)
    if level0.ndim != 3 or level0.shape[2] != 3 or level0.dtype != np.uint8:
        raise ValueError(
            f"level0 must be (height, width, 3) uint8, not {level0.shape} {level0.dtype}"
        )
    height, width = level0.shape[:2]
    sizes = level_sizes(width, height, downsamples)
    levels = (
        level0 if downsample == 1 else _shrink(level0, size, downsample)
        for downsample, size in zip((1.0, *downsamples), sizes, strict=True)
    )
    return write_levels(
        path,
        levels,
        mpp=mpp,
        downsamples=downsamples,
        compression=compression,
        overwrite=overwrite,
    )


def level_sizes(width: int, height: int, downsamples: Sequence[float]) -> list[tuple[int, int]]:
    """(width, height) of every level, level 0 first.

    Raises:
        ValueError: the downsamples do not ascend, or a level would have no pixel.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a slide needs at least one pixel, not {width}×{height}")
    if any(fine >= coarse for fine, coarse in zip((1.0, *downsamples), downsamples, strict=False)):
        raise ValueError(f"downsamples must ascend from above 1, not {tuple(downsamples)}")
    sizes = [(width, height)] + [(int(width // d), int(height // d)) for d in downsamples]
    if min(sizes[-1]) < 1:
        raise ValueError(f"downsample {downsamples[-1]:g} leaves no pixel of {width}×{height}")
    return sizes


def _shrink(
    pixels: NDArray[np.uint8], size: tuple[int, int], downsample: float
) -> NDArray[np.uint8]:
    """Exact area means, shape (size[1], size[0], 3)."""
    width, height = size
    shrunk = np.empty((height, width, 3), np.uint8)
    rows = max(1, int(BAND_ROWS / downsample))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        means = _box_means(pixels, top, bottom, downsample)
        across = _box_means(means.swapaxes(0, 1), 0, width, downsample).swapaxes(0, 1)
        shrunk[top:bottom] = np.rint(across)
    return shrunk


def _box_means(
    values: NDArray[np.uint8] | NDArray[np.float64], first: int, last: int, step: float
) -> NDArray[np.float64]:
    """Means of the intervals [i·step, (i+1)·step) of the first axis, i from first to last."""
    edges = np.minimum(np.arange(first, last + 1) * step, len(values))
    start = int(edges[0])
    part = values[start : math.ceil(edges[-1])].astype(np.float64)
    totals = np.concatenate([np.zeros_like(part[:1]), part.cumsum(axis=0)])
    whole = np.minimum((edges - start).astype(np.intp), len(part) - 1)
    remainder = (edges - start - whole)[:, None, None]
    upto_edge = totals[whole] + remainder * part[whole]
    return np.asarray(np.diff(upto_edge, axis=0) / step)


def write_levels(
    path: Path,
    levels: Iterator[NDArray[np.uint8]],
    *,
    mpp: float,
    downsamples: Sequence[float],
    compression: str,
    overwrite: bool,
) -> Path:
    """Write the levels of a slide, finest first, each made only when it is its turn.

    Args:
        path: where to write; only a whole file ever bears this name.
        levels: RGB pixels, shape (height, width, 3), of ``level_sizes``.
        mpp: micrometres per level-0 pixel, recorded as the TIFF resolution.
        downsamples: of the levels but the first.
        compression: "jpeg" or "deflate".
        overwrite: replace a file that exists.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: ``mpp`` or ``compression`` is out of range.
    """
    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp must be positive, not {mpp}")
    if compression not in ("jpeg", "deflate"):
        raise ValueError(f'compression must be "jpeg" or "deflate", not "{compression}"')
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists: pass overwrite or choose another name")
    with whole_file(path) as partial, tifffile.TiffWriter(partial, bigtiff=False) as tiff:
        for index, (level, downsample) in enumerate(zip(levels, (1.0, *downsamples), strict=True)):
            _write_level(tiff, level, mpp * downsample, compression, reduced=index > 0)
    return path


def _write_level(
    tiff: tifffile.TiffWriter,
    pixels: NDArray[np.uint8],
    mpp: float,
    compression: str,
    *,
    reduced: bool,
) -> None:
    resolution = _tiff_rational(1e4 / mpp)  # pixels per centimetre
    tiff.write(
        pixels,
        photometric="rgb",
        tile=(TILE_PX, TILE_PX),
        compression="jpeg" if compression == "jpeg" else "adobe_deflate",
        compressionargs={"level": JPEG_QUALITY} if compression == "jpeg" else None,
        subfiletype=1 if reduced else 0,
        resolution=(resolution, resolution),
        resolutionunit="CENTIMETER",
        metadata=None,
    )


def _tiff_rational(value: float) -> tuple[int, int]:
    """Numerator and denominator nearest to a value, both of which must fit in 32 bits."""
    limit = max(1, int((2**32 - 1) / max(value, 1.0)))
    ratio = Fraction(value).limit_denominator(limit)
    return ratio.numerator, ratio.denominator
