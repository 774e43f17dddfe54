"""The arrays of a store: what they are called, and how one gets at them."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import zarr
import zarr.errors
from numpy.typing import NDArray

from histoslide.errors import StoreError
from histoslide.grid.cells import TileGrid
from histoslide.scoring.mode import EXTRA_TYPES, Extra
from histoslide.storage.location import Location, open_group
from histoslide.store.pyramid import level_shapes, pyramid

LABELS, LABEL = "labels", "status"
"""OME-Zarr's group of labels, and the one label that is in it."""

STATUS = f"{LABELS}/{LABEL}"
"""Group of the statuses."""


def extra_name(extra: Extra) -> str:
    """Name of the one array in the group of what only some modes leave."""
    return f"{extra}/0"


PACKED_BLOCKS = 32
"""Side in blocks of what a packed store keeps in one file: most slides have one or two a level."""

MOST_CELLS = 2**28
"""Cells that a heatmap may claim to have: a slide of two million pixels a side has as many. Arrays
of so many fit into memory, and what is claimed beyond that was never written by a run."""


def probability_name(level: int) -> str:
    """Name of the probabilities of a level, 0 is the finest."""
    return str(level)


def status_name(level: int) -> str:
    """Name of the statuses of a level."""
    return f"{STATUS}/{level}"


DAMAGED_METADATA = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    zarr.errors.BaseZarrError,
)  # fmt: skip
"""How zarr stops at a ``zarr.json`` that is none: it takes for granted what stands in it."""


class StoreArrays:
    """The arrays of a store that is laid out."""

    def __init__(self, group: zarr.Group, path: Location | None = None) -> None:
        self.group = group
        self._path = group.store_path if path is None else path

    @classmethod
    def open(cls, path: Location, mode: Literal["r", "r+"] = "r") -> Self:
        """Those of the store at a path; nothing is read yet."""
        return cls(open_group(path, mode), path)

    def probability(self, level: int = 0, grid: TileGrid | None = None) -> zarr.Array[Any]:
        """(rows, cols) of float32, or (classes, rows, cols) for more than two classes.

        Args:
            level: of the pyramid.
            grid: what the array must fit, where it was not laid out by this process.

        Raises:
            StoreError: it is lost, or claims to be another.
        """
        return self._array(probability_name(level), level, grid)

    def status(self, level: int = 0, grid: TileGrid | None = None) -> zarr.Array[Any]:
        """(rows, cols) of uint8; see ``probability``."""
        return self._array(status_name(level), level, grid)

    def extra_array(self, extra: Extra, grid: TileGrid | None = None) -> zarr.Array[Any] | None:
        """(rows, cols) of its type; None where the mode leaves none."""
        name = extra_name(extra)
        return None if name not in self.group else self._array(name, 0, grid)

    @property
    def extras(self) -> dict[Extra, zarr.Array[Any]]:
        """All that there are."""
        found = {extra: self.extra_array(extra) for extra in EXTRA_TYPES}
        return {extra: array for extra, array in found.items() if array is not None}

    def fill(self, probability: NDArray[Any], status: NDArray[Any], *, first: int = 0) -> None:
        """Write levels of the pyramid.

        Args:
            probability: of level 0, shape (..., rows, cols).
            status: of level 0, shape (rows, cols).
            first: level to begin with; the finer ones are left as they are.
        """
        for level, (values, statuses) in enumerate(pyramid(probability, status)):
            if level >= first:
                self.probability(level)[...] = values
                self.status(level)[...] = statuses

    def _array(self, name: str, level: int, grid: TileGrid | None) -> zarr.Array[Any]:
        try:
            array = self.group[name]
        except DAMAGED_METADATA:
            array = None
        if not isinstance(array, zarr.Array):
            raise StoreError(
                f"{self._path} is damaged ({name} is lost): score the slide again with --overwrite"
            )
        if grid is not None:
            self._refuse_other(array, name, level, grid)
        return array

    def _refuse_other(self, array: zarr.Array[Any], name: str, level: int, grid: TileGrid) -> None:
        """Refuse an array that is not the grid's: reading would allocate what it claims."""
        shape, side = level_shapes(grid.shape)[level], grid.block_cells
        packed = array.shards is not None and array.shards[-2:] != (side * PACKED_BLOCKS,) * 2
        if packed or math.prod(array.chunks) > MOST_CELLS:
            raise StoreError(
                f"{self._path} is damaged ({name} claims chunks of {array.shards or array.chunks}):"
                " score the slide again with --overwrite"
            )
        claimed = (array.shape[-2:], array.chunks[-2:], str(array.dtype))
        small = name.startswith(STATUS) or name == extra_name("looks")
        dtype = "uint8" if small else "float32"
        if claimed != (shape, (side, side), dtype):
            said = "{0[0]} × {0[1]} cells in chunks of {1[0]} × {1[1]} {2}".format
            raise StoreError(
                f"{self._path} is damaged ({name} claims {said(*claimed)}, not "
                f"{said(shape, (side, side), dtype)}): score the slide again with --overwrite"
            )
