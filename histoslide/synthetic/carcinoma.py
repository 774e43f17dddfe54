"""The carcinoma in a lymph node: which cells of it are metastatic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.anatomy import Anatomy
from histoslide.synthetic.field import Field
from histoslide.synthetic.sites import cut_into_cells, pixel_of


@dataclass(frozen=True, kw_only=True)
class Carcinoma:
    """Metastatic cells, of which a nest takes whole ones."""

    mask: NDArray[np.bool_]
    """Pixels of carcinoma, shape (height, width)."""
    membrane_um: Field
    """Micrometres to the nearest border between two cells, shape (height, width)."""
    sites: NDArray[np.float32]
    """Centres (y, x) of its cells in pixels, shape (n, 2)."""


def draw_carcinoma(anatomy: Anatomy, mpp: float, rng: np.random.Generator) -> Carcinoma:
    """Cells that are metastatic where their middle lies in a nest of the anatomy."""
    shape = anatomy.nest.shape
    cells = cut_into_cells(anatomy.nest > -0.2, 13.0 / mpp, rng)
    row, column = pixel_of(cells.sites, shape)
    grown = anatomy.nest[row, column] > 0
    mask = np.zeros(shape, np.bool_)
    mask[cells.box] = grown[cells.owner]
    membrane_um = np.full(shape, np.inf, np.float32)
    membrane_um[cells.box] = cells.border * mpp
    return Carcinoma(mask=mask, membrane_um=membrane_um, sites=cells.sites[grown])
