"""A heatmap that lies in a heat.zarr: opening and reading it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, StoreError
from histoslide.geometry import Mpp, Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.storage.location import Location, open_group, storage_errors
from histoslide.store.layout import stored_classes
from histoslide.store.metadata import read_metadata, refuse_contradictions
from histoslide.store.pyramid import level_shapes

if TYPE_CHECKING:
    import xarray as xr

DISPLAY_GROUP = "histoslide.heatmap_html"
"""Entry points that turn a ``Heatmap`` into HTML; see ``histoslide.render.notebook``."""


@dataclass(frozen=True, kw_only=True)
class PyramidLevel:
    """One level of a stored heatmap; nothing is read until it is indexed."""

    probability: zarr.Array[Any]
    """(rows, cols) of float32, or (classes, rows, cols) for more than two classes."""
    status: zarr.Array[Any]
    """(rows, cols) of uint8."""


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A stored heatmap."""

    path: Location
    """The heat.zarr."""
    grid: TileGrid
    """Where its cells lie on the slide."""
    metadata: Mapping[str, Any] = field(repr=False)
    """``attributes.histoslide`` as stored."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model, in the order of its outputs."""
        return tuple(self.metadata["model"]["spec"]["classes"])

    @property
    def tumour_class(self) -> str | None:
        """The class that a two-class heatmap shows."""
        name: str | None = self.metadata["model"]["spec"]["tumour_class"]
        return name

    @property
    def main_class(self) -> str:
        """The class to show where there is room for one: the tumour, or else the last."""
        return self.tumour_class or self.classes[-1]

    @property
    def shown_classes(self) -> tuple[str, ...]:
        """The classes that ``array`` holds: one of two, which sum to one, else all."""
        return stored_classes(self.classes, self.tumour_class)

    @property
    def array(self) -> da.Array:
        """Level 0 as a Dask array: (rows, cols), or (classes, rows, cols) for more than two."""
        return da.from_zarr(self._level("0"))

    @property
    def status(self) -> NDArray[np.uint8]:
        """``histoslide.grid.status.Status`` of every cell, shape ``grid.shape``."""
        return self._read("labels/status/0", np.s_[:])

    @property
    def disagreement(self) -> NDArray[np.float32] | None:
        """How far the eight orientations of each tile differ, shape ``grid.shape``.

        The standard deviation of the probability, NaN where nothing was scored; None for a heatmap
        that was made without test-time augmentation.
        """
        stored = open_group(self.path, "r").get("disagreement/0")
        with readable(self.path):
            return None if stored is None else np.asarray(stored[:])  # type: ignore[index]

    @property
    def id(self) -> str:
        """A hash of everything that decides the values; equal heatmaps have equal ones."""
        text = json.dumps(self.metadata["fingerprint"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def complete(self) -> bool:
        """Whether every cell has been decided and the pyramid is whole."""
        return bool(self.metadata["complete"])

    def to_xarray(self) -> xr.DataArray:
        """Level 0, lazy, with the middles of cells in micrometres as coordinates.

        Returns:
            float32 with dimensions (y, x), or (class, y, x) for more than two classes; ``y`` and
            ``x`` are µm from the slide's upper left corner, ``status`` (y, x) is a coordinate too.

        Raises:
            HistoslideError: xarray is not installed.
        """
        try:
            # An extra, since Dask imports it wherever it is there: a second more for each command.
            import xarray as xr  # noqa: PLC0415
        except ImportError as error:
            raise HistoslideError(
                "to_xarray needs xarray: pip install 'histoslide[xarray]'"
            ) from error

        um, grid = self.grid.cell_um, self.grid
        middle = {
            "units": "µm",
            "long_name": "from the slide's upper left corner to the cell's middle",
        }
        coordinates: dict[str, Any] = {
            "y": ("y", (np.arange(grid.rows) + 0.5) * um, middle),
            "x": ("x", (np.arange(grid.cols) + 0.5) * um, middle),
            "status": (("y", "x"), self.status),
        }
        dims: tuple[str, ...] = ("y", "x")
        if self.array.ndim == 3:
            dims = ("class", "y", "x")
            coordinates["class"] = list(self.shown_classes)
        return xr.DataArray(
            self.array,
            dims=dims,
            coords=coordinates,
            name="probability",
            attrs={
                "long_name": f"P({', '.join(self.shown_classes)})",
                "slide": self.metadata["slide"]["name"],
                "model": self.metadata["model"]["name"],
                "mpp": grid.slide_mpp.value,
            },
        )

    def _repr_html_(self) -> str | None:
        """What Jupyter shows. The store draws nothing: it asks who has registered for it."""
        for display in entry_points(group=DISPLAY_GROUP):
            return str(display.load()(self))
        return None

    def probability(self, class_name: str | None = None) -> NDArray[np.float32]:
        """Probabilities of one class, shape ``grid.shape``, NaN where nothing was scored.

        Args:
            class_name: None for the tumour class of a two-class heatmap.

        Raises:
            StoreError: no such class, or none was named and the model has no tumour class; or
                what is stored cannot be what was written.
        """
        name = class_name if class_name is not None else self.tumour_class
        if name is None or name not in self.classes:
            raise StoreError(
                f"{self.path} has no class {name!r}: choose from {', '.join(self.classes)}"
            )
        # Before the probabilities, which a run writes first: none that counts as scored is missed.
        status = self.status
        if len(self.shown_classes) > 1:
            values = self._read("0", np.s_[self.classes.index(name)])
        else:
            values = self._read("0", np.s_[:])
            values = values if (name,) == self.shown_classes else 1 - values
        self._check(values, status)
        return values

    def _check(self, values: NDArray[np.float32], status: NDArray[np.uint8]) -> None:
        """Refuse values that a run cannot have written: files were lost or altered since."""
        finite = np.isfinite(values)
        problem = None
        if values.shape != self.grid.shape or status.shape != self.grid.shape:
            problem = f"arrays of {values.shape} and {status.shape} for a grid of {self.grid.shape}"
        elif outside := int(((values[finite] < 0) | (values[finite] > 1)).sum()):
            problem = f"{outside:,} probabilities outside 0-1"
        elif lost := int(((status == Status.SCORED) & ~finite).sum()):
            problem = f"{lost:,} cells that were scored but have no probability"
        if problem:
            raise StoreError(f"{self.path} is damaged ({problem}): score the slide again")

    def levels(self) -> tuple[PyramidLevel, ...]:
        """All levels, finest first; those above level 0 are empty until the store is complete."""
        count = len(level_shapes(self.grid.shape))
        return tuple(
            PyramidLevel(
                probability=self._level(str(level)), status=self._level(f"labels/status/{level}")
            )
            for level in range(count)
        )

    def _read(self, name: str, where: Any) -> NDArray[Any]:
        """A level in memory."""
        level = self._level(name)
        with readable(self.path):
            return np.asarray(level[where])

    def _level(self, name: str) -> zarr.Array[Any]:
        with storage_errors(self.path):
            array = open_group(self.path, "r")[name]
        assert isinstance(array, zarr.Array)
        return array


@contextmanager
def readable(path: Location) -> Iterator[None]:
    """What goes wrong when chunks are read or decoded is the store's damage, not ours.

    Raises:
        StoreError: something did.
    """
    try:
        with storage_errors(path):
            yield
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    except (RuntimeError, ValueError, zlib.error) as error:  # as the codecs have it
        raise StoreError(f"{path} is damaged ({error}): score the slide again") from error


def open_heatmap(path: Location, *, allow_incomplete: bool = False) -> Heatmap:
    """Open a heat.zarr.

    Args:
        path: of the store.
        allow_incomplete: also open one whose run has not finished.

    Raises:
        StoreError: missing, not a heatmap, of an unknown schema version, or incomplete.
    """
    with storage_errors(path):
        metadata = read_metadata(path)
    if not metadata["complete"] and not allow_incomplete:
        raise StoreError(f"{path} is incomplete: run the same score command again to finish it")
    slide, stored, spec = metadata["slide"], metadata["grid"], metadata["model"]["spec"]
    grid = TileGrid(
        size_l0=Size(*slide["size_l0"]),
        slide_mpp=Mpp(value=slide["mpp"], source=slide["mpp_source"]),
        model_mpp=spec["mpp"],
        input_px=spec["input_px"],
        label_px=spec["label_px"],
        stride_px=stored["stride_px"],
        block_cells=stored["block_cells"],
    )
    refuse_contradictions(path, metadata, grid)
    return Heatmap(path=path, metadata=metadata, grid=grid)
