"""Sites scattered over a picture: where nuclei lie, and the cells (of tissue) around them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.field import Field


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A plane cut into cells around scattered sites (Worley 1996), over one box of the picture."""

    box: tuple[slice, slice]
    """Rows and columns of the picture."""
    sites: NDArray[np.float32]
    """(y, x) of every site in pixels of the picture, shape (n, 2)."""
    owner: NDArray[np.intp]
    """Index of the nearest site, shape of the box."""
    border: Field
    """How much farther the second site is than the first in pixels, shape of the box."""


def cut_into_cells(region: NDArray[np.bool_], spacing: float, rng: np.random.Generator) -> Cells:
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
    return Cells(
        box=box, sites=sites + corner, owner=owner, border=np.sqrt(second) - np.sqrt(nearest)
    )


def scattered_over(
    chance: NDArray[np.floating], spacing: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Sites about ``spacing`` pixels apart, kept by the chance at their pixel."""
    rows, columns = (math.ceil(side / spacing) for side in chance.shape)
    sites = _scatter(rows, columns, spacing, rng)
    row, column = pixel_of(sites, chance.shape)
    return sites[rng.uniform(size=len(sites)) < chance[row, column]]


def _scatter(rows: int, columns: int, spacing: float, rng: np.random.Generator) -> Field:
    """One site (y, x) in each square of a grid, in pixels, shape (rows · columns, 2)."""
    corners = np.indices((rows, columns)).reshape(2, -1).T
    return np.asarray((corners + rng.uniform(0.1, 0.9, corners.shape)) * spacing, np.float32)


def pixel_of(
    sites: NDArray[np.float32], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of each site, kept inside the picture."""
    row = np.clip(sites[:, 0], 0, shape[0] - 1).astype(np.intp)
    column = np.clip(sites[:, 1], 0, shape[1] - 1).astype(np.intp)
    return row, column
