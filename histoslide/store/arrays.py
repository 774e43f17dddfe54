"""The arrays of a store: what they are called, and how one gets at them."""

from __future__ import annotations

from typing import Any, Literal, Self

import zarr
from numpy.typing import NDArray

from histoslide.storage.location import Location, open_group
from histoslide.store.pyramid import pyramid

LABELS, LABEL = "labels", "status"
"""OME-Zarr's group of labels, and the one label that is in it."""

STATUS = f"{LABELS}/{LABEL}"
"""Group of the statuses."""

DISAGREEMENT = "disagreement"
"""Group of what only test-time augmentation leaves."""

DISAGREEMENT_NAME = f"{DISAGREEMENT}/0"
"""The one array in it."""


def probability_name(level: int) -> str:
    """Name of the probabilities of a level, 0 is the finest."""
    return str(level)


def status_name(level: int) -> str:
    """Name of the statuses of a level."""
    return f"{STATUS}/{level}"


class StoreArrays:
    """The arrays of a store that is laid out."""

    def __init__(self, group: zarr.Group) -> None:
        self.group = group

    @classmethod
    def open(cls, path: Location, mode: Literal["r", "r+"] = "r") -> Self:
        """Those of the store at a path; nothing is read yet."""
        return cls(open_group(path, mode))

    def probability(self, level: int = 0) -> zarr.Array[Any]:
        """(rows, cols) of float32, or (classes, rows, cols) for more than two classes."""
        return self._array(probability_name(level))

    def status(self, level: int = 0) -> zarr.Array[Any]:
        """(rows, cols) of uint8."""
        return self._array(status_name(level))

    @property
    def disagreement(self) -> zarr.Array[Any] | None:
        """(rows, cols) of float32; None where every tile was scored in one orientation."""
        found = self.group.get(DISAGREEMENT_NAME)
        return found if isinstance(found, zarr.Array) else None

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

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return array
