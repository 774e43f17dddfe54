"""Slides made from nothing: real pyramidal TIFF files for tests, demonstrations and benchmarks.

Three kinds. A *fiducial* slide encodes in its colour where every pixel lies, so that a misplaced
read is seen at once. A *mosaic* lays labelled patches on a grid. A *scene* looks like a lymph node
with metastases in haematoxylin and eosin, and comes with the true outline of its tumour.

Everything follows from the arguments alone: the same call writes the same pixels.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.filters import gaussian

from histoslide.errors import OutputExistsError

_Field = NDArray[np.float32]
"""One value for each pixel, shape (height, width)."""

TILE_PX = 256
"""Side of a TIFF tile in pixels."""

JPEG_QUALITY = 90
"""What scanners commonly use."""

RAMP_FIRST, RAMP_LAST = 20.0, 235.0
"""Grey levels at the two ends of a fiducial ramp; away from 0 and 255, where dither would clip."""

_GOLDEN_STEPS = (0.7548776662466927, 0.5698402909980532)
"""Steps of the R2 sequence (Roberts 2018), the even filling of a plane used as dither."""

_BAND_ROWS = 1024
"""Rows made at once, so that temporary memory does not grow with a slide's height."""

_GLASS = 243.0
"""Grey level of the empty slide."""

_HAEMATOXYLIN = (0.650, 0.704, 0.286)
"""Optical density by R, G, B of one unit (Ruifrok and Johnston 2001, table 1)."""

_EOSIN = (0.216, 0.801, 0.558)
"""As above for eosin, with QuPath's default: Ruifrok and Johnston's (0.072, 0.990, 0.105) comes
from a section more magenta than those of today's scanners."""


# ------------------------------------------------------------------------------ writing slides


def write_slide(
    path: Path,
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
    if level0.ndim != 3 or level0.shape[2] != 3 or level0.dtype != np.uint8:
        raise ValueError(
            f"level0 must be (height, width, 3) uint8, not {level0.shape} {level0.dtype}"
        )
    height, width = level0.shape[:2]
    sizes = _level_sizes(width, height, downsamples)
    levels = (
        level0 if downsample == 1 else _shrink(level0, size, downsample)
        for downsample, size in zip((1.0, *downsamples), sizes, strict=True)
    )
    return _write_levels(
        path,
        levels,
        mpp=mpp,
        downsamples=downsamples,
        compression=compression,
        overwrite=overwrite,
    )


def _level_sizes(width: int, height: int, downsamples: Sequence[float]) -> list[tuple[int, int]]:
    """(width, height) of every level, level 0 first."""
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
    rows = max(1, int(_BAND_ROWS / downsample))
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


def _write_levels(
    path: Path,
    levels: Iterator[NDArray[np.uint8]],
    *,
    mpp: float,
    downsamples: Sequence[float],
    compression: str,
    overwrite: bool,
) -> Path:
    """Write the levels, finest first, under a temporary name and rename the whole file."""
    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp must be positive, not {mpp}")
    if compression not in ("jpeg", "deflate"):
        raise ValueError(f'compression must be "jpeg" or "deflate", not "{compression}"')
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists: pass overwrite or choose another name")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        with tifffile.TiffWriter(partial, bigtiff=False) as tiff:
            for index, (level, downsample) in enumerate(
                zip(levels, (1.0, *downsamples), strict=True)
            ):
                _write_level(tiff, level, mpp * downsample, compression, reduced=index > 0)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
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


# ------------------------------------------------------------------------------ fiducial slides


def fiducial_slide(
    path: Path,
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
    sizes = _level_sizes(width, height, downsamples)
    levels = (
        _fiducial_level(size, downsample, width, height)
        for downsample, size in zip((1.0, *downsamples), sizes, strict=True)
    )
    return _write_levels(
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
    for top in range(0, size[1], _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
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


# ------------------------------------------------------------------------------ mosaics


def mosaic_slide(
    path: Path,
    patches: NDArray[np.uint8],
    *,
    columns: int,
    mpp: float = 0.972,
    downsamples: Sequence[float] = (),
    compression: str = "deflate",
    overwrite: bool = False,
) -> Path:
    """Write patches edge to edge, row by row, as one slide; places left over are white.

    Args:
        path: where to write.
        patches: RGB pixels, shape (n, height, width, 3); patch k lies in row k // columns and
            column k % columns.
        columns: patches in a row.
        mpp: micrometres per pixel of the patches (default: PatchCamelyon's).
        downsamples: of the coarser levels, as in ``write_slide``.
        compression: "deflate" (lossless) or "jpeg".
        overwrite: replace a file that exists.

    Returns:
        ``path``.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: an argument is out of range.
    """
    if patches.ndim != 4 or len(patches) == 0 or columns < 1:
        raise ValueError(f"cannot lay patches of shape {patches.shape} in {columns} columns")
    count, height, width, channels = patches.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = patches
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return write_slide(
        path,
        grid.reshape(rows * height, columns * width, channels),
        mpp=mpp,
        downsamples=downsamples,
        compression=compression,
        overwrite=overwrite,
    )


# ------------------------------------------------------------------------------ scenes


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn lymph node and the truth about it."""

    pixels: NDArray[np.uint8]
    """RGB, shape (height, width, 3)."""
    tumour: NDArray[np.bool_]
    """True in metastatic carcinoma, shape (height, width)."""
    mpp: float
    """Micrometres per pixel."""


def scene_slide(
    path: Path,
    *,
    width: int,
    height: int,
    mpp: float,
    seed: int,
    downsamples: Sequence[float] = (4.0,),
    overwrite: bool = False,
) -> Scene:
    """Write ``scene`` as a JPEG-compressed slide and return it.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: an argument is out of range, or a level would have no pixel.
    """
    drawn = scene(width, height, mpp=mpp, seed=seed)
    write_slide(path, drawn.pixels, mpp=mpp, downsamples=downsamples, overwrite=overwrite)
    return drawn


def scene(width: int, height: int, *, mpp: float, seed: int) -> Scene:
    """Draw a lymph node with one or two metastases, as in haematoxylin and eosin.

    The organ fits itself to the picture; its cells have their true size in micrometres. Stains are
    laid down as concentrations and seen through Beer and Lambert's law. It is made to be looked at
    and to exercise a pipeline, not to measure how well a model finds tumour.

    Args:
        width: pixels, at least 64.
        height: pixels, at least 64.
        mpp: micrometres per pixel.
        seed: picks the node; the same arguments draw the same pixels.

    Raises:
        ValueError: the size or the resolution is out of range.
    """
    if min(width, height) < 64 or not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"cannot draw {width}×{height} pixels at {mpp} µm/px")
    rng = np.random.default_rng(seed)
    anatomy = _draw_anatomy(width, height, mpp, rng)
    carcinoma = _draw_carcinoma(anatomy, mpp, rng)
    haematoxylin, eosin = _stain_ground(anatomy, carcinoma, mpp, rng)
    _stain_fat(anatomy, haematoxylin, eosin, mpp, rng)
    _stain_nuclei(anatomy, carcinoma, haematoxylin, mpp, rng)
    pixels = _see(haematoxylin, eosin, mpp, rng)
    return Scene(pixels=pixels, tumour=carcinoma.mask, mpp=mpp)


@dataclass(frozen=True, kw_only=True)
class _Anatomy:
    """Where things lie; every field has shape (height, width)."""

    depth_um: _Field
    """Micrometres inside the node's surface; negative outside."""
    tangent: _Field
    """Direction of the nearest surface in radians."""
    sinus: _Field
    """1 in the lymph channels, 0 elsewhere."""
    follicle: _Field
    """1 in germinal centres, 0 elsewhere."""
    nest: _Field
    """Positive where carcinoma grows."""
    fat: _Field
    """Positive in the fat lobule."""


@dataclass(frozen=True, kw_only=True)
class _Carcinoma:
    """Metastatic cells, of which a nest takes whole ones."""

    mask: NDArray[np.bool_]
    """Pixels of carcinoma, shape (height, width)."""
    membrane_um: _Field
    """Micrometres to the nearest border between two cells, shape (height, width)."""
    sites: NDArray[np.float32]
    """Centres (y, x) of its cells in pixels, shape (n, 2)."""


def _draw_anatomy(width: int, height: int, mpp: float, rng: np.random.Generator) -> _Anatomy:
    shape, extent = (height, width), min(width, height)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    centre = (0.48 * height, 0.46 * width)
    dy, dx = (y - centre[0]) / (0.42 * height), (x - centre[1]) / (0.42 * width)
    inside = 1 - np.hypot(dy, dx) + 0.07 * _noise(shape, 0.28 * extent, rng)
    depth_um = inside * (0.42 * extent * mpp) + 2.0 * _noise(shape, 25 / mpp, rng)
    follicles = [
        _blob(
            shape,
            centre,
            rng,
            reach=0.62,
            angle=rng.uniform(0, math.tau),
            radius=rng.uniform(45, 95) / mpp,
        )
        for _ in range(4)
    ]
    first = rng.uniform(0, math.tau)
    nests = [
        _blob(
            shape,
            centre,
            rng,
            reach=rng.uniform(0.42, 0.6),
            angle=first + turn,
            radius=size * extent,
        )
        for turn, size in ((0.0, 0.14), (rng.uniform(2.0, 4.0), 0.08))
    ]
    lobule = rng.uniform(0.5, 1.1)
    fat = _blob(shape, centre, rng, reach=0.95, angle=lobule, radius=0.22 * extent)
    channels = np.abs(_noise(shape, 90 / mpp, rng)) < 0.13
    beneath = np.abs(depth_um - 24 - 5 * _noise(shape, 60 / mpp, rng)) < 7
    sinus = (channels & (depth_um > 140)) | beneath
    return _Anatomy(
        depth_um=depth_um.astype(np.float32),
        tangent=np.arctan2(dx, -dy).astype(np.float32),
        sinus=_blurred(sinus.astype(np.float32), 1.5 / mpp),
        follicle=np.clip(4 * np.maximum.reduce(follicles), 0, 1).astype(np.float32),
        nest=np.where(depth_um > 12, np.maximum.reduce(nests), -1).astype(np.float32),
        fat=np.where(depth_um < 15, fat, -1).astype(np.float32),
    )


def _blob(
    shape: tuple[int, int],
    centre: tuple[float, float],
    rng: np.random.Generator,
    *,
    reach: float,
    angle: float,
    radius: float,
) -> _Field:
    """An irregular disc, 1 at its middle and 0 on its outline, somewhere around a centre."""
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    middle_y = centre[0] + reach * 0.42 * shape[0] * math.sin(angle)
    middle_x = centre[1] + reach * 0.42 * shape[1] * math.cos(angle)
    distance = np.hypot(y - middle_y, x - middle_x) / radius
    return np.asarray(1 - distance + 0.3 * _noise(shape, 0.7 * radius, rng), np.float32)


def _noise(shape: tuple[int, int], period: float, rng: np.random.Generator) -> _Field:
    """Smooth noise of mean 0 and deviation about 1; features are about ``period`` pixels wide."""
    period = max(period, 1.0)
    rows, columns = (math.ceil(side / period) + 4 for side in shape)
    knots = rng.standard_normal((rows, columns)).astype(np.float32)
    down, across = (_spline_weights(side, period, rng) for side in shape)
    raw = down[:, :rows] @ knots @ across[:, :columns].T
    return np.asarray(raw * 2.1, np.float32)  # the spline keeps 0.48 of the knots' deviation


def _spline_weights(side: int, period: float, rng: np.random.Generator) -> _Field:
    """Cubic B-spline weight of each knot at each pixel, shape (side, knots)."""
    knots = math.ceil(side / period) + 4
    at = np.arange(side)[:, None] / period + 1 + rng.uniform()
    away = np.abs(at - np.arange(knots)[None, :])
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.clip(2 - away, 0, None) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def _blurred(field: NDArray[np.floating], sigma: float | tuple[float, ...]) -> _Field:
    """Convolved with a Gaussian of a deviation in pixels (for each axis)."""
    blurred = gaussian(field, sigma)
    return np.asarray(blurred, np.float32)


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """A plane cut into cells around scattered sites (Worley 1996), over one box of the picture."""

    box: tuple[slice, slice]
    """Rows and columns of the picture."""
    sites: NDArray[np.float32]
    """(y, x) of every site in pixels of the picture, shape (n, 2)."""
    owner: NDArray[np.intp]
    """Index of the nearest site, shape of the box."""
    border: _Field
    """How much farther the second site is than the first in pixels, shape of the box."""


def _cut_into_cells(region: NDArray[np.bool_], spacing: float, rng: np.random.Generator) -> _Cells:
    """Cells about ``spacing`` pixels wide over the box that holds a region of the picture."""
    rows = np.flatnonzero(region.any(axis=1)) if region.any() else np.zeros(1, np.intp)
    columns = np.flatnonzero(region.any(axis=0)) if region.any() else np.zeros(1, np.intp)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    size = (rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0])
    # One ring of sites beyond the box, so that every pixel has all its neighbours.
    grid_h, grid_w = (math.ceil(side / spacing) + 2 for side in size)
    sites = _scatter(grid_h, grid_w, spacing, rng) - np.float32(spacing)
    y = np.arange(size[0], dtype=np.float32)[:, None]
    x = np.arange(size[1], dtype=np.float32)[None, :]
    home = (y // spacing + 1).astype(np.intp) * grid_w + (x // spacing + 1).astype(np.intp)
    nearest = np.full(size, np.inf, np.float32)
    second, owner = nearest.copy(), home.copy()
    for step in (dy * grid_w + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
        index = home + step
        away = (sites[:, 0][index] - y) ** 2 + (sites[:, 1][index] - x) ** 2
        closer = away < nearest
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
        owner[closer] = index[closer]
    corner = np.array([rows[0], columns[0]], np.float32)
    return _Cells(
        box=box, sites=sites + corner, owner=owner, border=np.sqrt(second) - np.sqrt(nearest)
    )


def _scatter(rows: int, columns: int, spacing: float, rng: np.random.Generator) -> _Field:
    """One site (y, x) in each square of a grid, in pixels, shape (rows · columns, 2)."""
    corners = np.indices((rows, columns)).reshape(2, -1).T
    return np.asarray((corners + rng.uniform(0.1, 0.9, corners.shape)) * spacing, np.float32)


def _draw_carcinoma(anatomy: _Anatomy, mpp: float, rng: np.random.Generator) -> _Carcinoma:
    shape = anatomy.nest.shape
    cells = _cut_into_cells(anatomy.nest > -0.2, 13.0 / mpp, rng)
    row, column = _pixel_of(cells.sites, shape)
    grown = anatomy.nest[row, column] > 0
    mask = np.zeros(shape, np.bool_)
    mask[cells.box] = grown[cells.owner]
    membrane_um = np.full(shape, np.inf, np.float32)
    membrane_um[cells.box] = cells.border * mpp
    return _Carcinoma(mask=mask, membrane_um=membrane_um, sites=cells.sites[grown])


def _pixel_of(
    sites: NDArray[np.float32], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of each site, kept inside the picture."""
    row = np.clip(sites[:, 0], 0, shape[0] - 1).astype(np.intp)
    column = np.clip(sites[:, 1], 0, shape[1] - 1).astype(np.intp)
    return row, column


def _stain_ground(
    anatomy: _Anatomy, carcinoma: _Carcinoma, mpp: float, rng: np.random.Generator
) -> tuple[_Field, _Field]:
    """Concentrations of haematoxylin and eosin in everything but nuclei."""
    shape, depth_um = anatomy.depth_um.shape, anatomy.depth_um
    fine = _noise((shape[0], shape[1]), 2.4 / mpp, rng)
    patchy = _noise((shape[0], shape[1]), 8 / mpp, rng)
    coarse = _noise((shape[0], shape[1]), 35 / mpp, rng)
    fibres = np.sin(depth_um / 0.9 + 3 * coarse + patchy)
    pulp = np.clip(0.15 + 0.06 * fine + 0.05 * patchy + 0.02 * coarse, 0.02, None)
    strands = 0.03 + 0.13 * np.clip(1 - np.abs(patchy) / 0.35, 0, 1)
    eosin = pulp + (strands - pulp) * anatomy.sinus
    haematoxylin = 0.05 + 0.04 * np.clip(fine, 0, None) * (1 - anatomy.sinus)
    haematoxylin += 0.05 * anatomy.follicle
    capsule = np.clip((15 + 4 * coarse - depth_um) / 2, 0, 1)
    eosin += capsule * (0.28 + 0.08 * fibres + 0.05 * fine - eosin)
    membrane = np.clip(1.6 - carcinoma.membrane_um, 0, 1)
    body = 0.18 + 0.03 * fine + 0.035 * patchy + 0.02 * coarse + 0.07 * membrane
    eosin = np.where(carcinoma.mask, body, eosin)
    haematoxylin = np.where(carcinoma.mask, 0.11 + 0.025 * fine + 0.03 * membrane, haematoxylin)
    inside = np.clip(depth_um / (0.7 * mpp) + 0.5, 0, 1)
    return (
        np.asarray(haematoxylin * inside, np.float32),
        np.asarray(np.clip(eosin, 0, None) * inside, np.float32),
    )


def _stain_fat(
    anatomy: _Anatomy,
    haematoxylin: _Field,
    eosin: _Field,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Add thin septa around empty vacuoles, and the flat nuclei pressed against them, in place."""
    cells = _cut_into_cells(anatomy.fat > -0.3, 58.0 / mpp, rng)
    row, column = _pixel_of(cells.sites, anatomy.fat.shape)
    vacuoles = (anatomy.fat[row, column] > 0)[cells.owner] & (anatomy.depth_um[cells.box] < 0)
    rounded_um = _blurred(cells.border, 4 / mpp) * mpp
    wall = np.clip(np.maximum(2.6 - cells.border * mpp, (6.0 - rounded_um) / 2), 0, 1) * vacuoles
    eosin[cells.box] += 0.24 * wall
    haematoxylin[cells.box] += 0.04 * wall
    sites = _scattered_over(np.where(wall > 0.9, 0.25, 0.0), 14 / mpp, rng)
    sites += np.array([cells.box[0].start, cells.box[1].start], np.float32)
    stamps = _nucleus_stamps(64, mpp, rng, length_um=(5.0, 8.0), aspect=(0.25, 0.45), chromatin=0.7)
    _press(haematoxylin, stamps, sites, rng.integers(64, size=len(sites)))


def _stain_nuclei(
    anatomy: _Anatomy,
    carcinoma: _Carcinoma,
    haematoxylin: _Field,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Add the nuclei of lymphocytes, centroblasts, fibroblasts and carcinoma in place."""
    depth_um, shape = anatomy.depth_um, anatomy.depth_um.shape
    crowding = np.clip(0.86 + 0.09 * _noise((shape[0], shape[1]), 40 / mpp, rng), 0, 1)
    pulp = crowding * (1 - 0.85 * anatomy.sinus) * (1 - 0.55 * anatomy.follicle)
    room = np.where(depth_um > 17, pulp, np.where(depth_um > 5, 0.04, 0))
    lymphocytes = _scattered_over(np.where(carcinoma.mask, 0.02, room), 6.9 / mpp, rng)
    stamps = _nucleus_stamps(
        256, mpp, rng, length_um=(5.8, 7.4), aspect=(0.75, 1.0), chromatin=0.72
    )
    _press(haematoxylin, stamps, lymphocytes, rng.integers(256, size=len(lymphocytes)))

    centre = np.where(carcinoma.mask, 0, anatomy.follicle * (1 - anatomy.sinus))
    blasts = _scattered_over(0.8 * centre * (depth_um > 20), 11 / mpp, rng)
    stamps = _nucleus_stamps(
        128, mpp, rng, length_um=(7.0, 9.5), aspect=(0.7, 0.95), chromatin=0.42, vesicular=True
    )
    _press(haematoxylin, stamps, blasts, rng.integers(128, size=len(blasts)))

    capsule = (depth_um > 2) & (depth_um < 16)
    fibroblasts = _scattered_over(np.where(capsule, 0.5, 0.0), 11 / mpp, rng)
    stamps = _nucleus_stamps(
        180, mpp, rng, length_um=(9.0, 13.0), aspect=(0.16, 0.3), chromatin=0.6
    )
    row, column = _pixel_of(fibroblasts, shape)
    turn = anatomy.tangent[row, column] + rng.normal(0, 0.15, len(row))
    _press(haematoxylin, stamps, fibroblasts, (turn / math.pi * 180).astype(np.intp) % 180)

    stamps = _nucleus_stamps(
        256, mpp, rng, length_um=(10.0, 14.5), aspect=(0.6, 0.95), chromatin=0.40, vesicular=True
    )
    _press(haematoxylin, stamps, carcinoma.sites, rng.integers(256, size=len(carcinoma.sites)))


def _scattered_over(
    chance: NDArray[np.floating], spacing: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Sites about ``spacing`` pixels apart, kept by the chance at their pixel."""
    rows, columns = (math.ceil(side / spacing) for side in chance.shape)
    sites = _scatter(rows, columns, spacing, rng)
    row, column = _pixel_of(sites, chance.shape)
    return sites[rng.uniform(size=len(sites)) < chance[row, column]]


def _nucleus_stamps(
    count: int,
    mpp: float,
    rng: np.random.Generator,
    *,
    length_um: tuple[float, float],
    aspect: tuple[float, float],
    chromatin: float,
    vesicular: bool = False,
) -> NDArray[np.float32]:
    """Haematoxylin of single nuclei, shape (count, side, side); stamp k points to k/count · π.

    ``vesicular`` nuclei are pale inside, with a dark rim and one or two nucleoli.
    """
    radius = rng.uniform(*length_um, (count, 1, 1)) / (2 * mpp)
    half = math.ceil(0.65 * length_um[1] / mpp) + 1
    window = np.indices((1, 2 * half + 1, 2 * half + 1))[1:] - half
    y, x = window - rng.uniform(-0.5, 0.5, (2, count, 1, 1))
    turn = (np.arange(count) * math.pi / count)[:, None, None]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    across = across / rng.uniform(*aspect, (count, 1, 1))
    angle, distance = np.arctan2(across, along), np.hypot(along, across)
    for waves, depth in ((2, 0.05), (3, 0.06), (4, 0.04)):
        phase = rng.uniform(0, math.tau, (count, 1, 1))
        distance = distance * (
            1 + depth * rng.normal(size=(count, 1, 1)) * np.cos(waves * angle + phase)
        )
    cover = np.clip((radius - distance) / max(1.0, 0.4 / mpp) + 0.5, 0, 1)
    clumps = _blurred(rng.standard_normal(cover.shape), (0, 0.6 / mpp, 0.6 / mpp))
    clumps /= clumps.std()
    density = chromatin * rng.uniform(0.75, 1.25, (count, 1, 1)) * (1 + 0.13 * clumps)
    if vesicular:
        density = density * (0.72 + 0.55 * np.clip(distance / radius, 0, 1.1) ** 4)
        for share in (1.0, 0.4):
            density += _nucleoli(along, across, radius, share, rng)
    return np.asarray(cover * density, np.float32)


def _nucleoli(
    along: NDArray[np.float64],
    across: NDArray[np.float64],
    radius: NDArray[np.float64],
    share: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """A dark spot off the middle of a share of the nuclei."""
    count = len(radius)
    off = rng.uniform(-0.35, 0.35, (2, count, 1, 1)) * radius
    size = 0.22 * radius * rng.uniform(0.7, 1.2, (count, 1, 1))
    spot = np.exp(-((along - off[0]) ** 2 + (across - off[1]) ** 2) / (2 * size**2))
    return np.asarray(0.4 * spot * (rng.uniform(size=(count, 1, 1)) < share))


def _press(
    canvas: _Field,
    stamps: NDArray[np.float32],
    sites: NDArray[np.float32],
    kinds: NDArray[np.integer],
) -> None:
    """Lay one stamp on each site in place; where stamps overlap the darker wins."""
    side = stamps.shape[1]
    row, column = _pixel_of(sites, canvas.shape)
    padded = np.pad(canvas, side // 2)
    flat, stride = padded.reshape(-1), padded.shape[1]
    corner, first = np.unique(row * stride + column, return_index=True)
    kinds = kinds[first]
    # No two corners are equal, so one offset at a time never writes a pixel twice.
    for dy in range(side):
        for dx in range(side):
            at = corner + dy * stride + dx
            flat[at] = np.maximum(flat[at], stamps[kinds, dy, dx])
    edge = side // 2
    canvas[:] = padded[edge : edge + canvas.shape[0], edge : edge + canvas.shape[1]]


def _see(
    haematoxylin: _Field, eosin: _Field, mpp: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """RGB of the concentrations: a slight blur of the optics, Beer and Lambert's law, noise."""
    height, width = haematoxylin.shape
    uneven = 1 + 0.05 * _noise((height, width), 250 / mpp, rng)
    blur = max(0.35, 0.3 / mpp)
    blue = _blurred(haematoxylin * uneven, blur)
    pink = _blurred(eosin * uneven, blur) + 0.25 * blue  # nuclei take up some eosin, too
    pixels = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        density = _HAEMATOXYLIN[channel] * blue + _EOSIN[channel] * pink
        light = _GLASS * np.exp(-math.log(10) * density)
        light += 2.0 * rng.standard_normal((height, width), np.float32)
        pixels[..., channel] = np.clip(np.rint(light), 0, 255)
    return pixels
