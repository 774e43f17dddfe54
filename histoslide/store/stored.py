"""A heatmap that lies in a heat.zarr: opening and reading it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from histoslide.errors import BundleError, HistoslideError, StoreError
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.model import ModelSpec
from histoslide.scoring.mode import Extra
from histoslide.storage.location import Location, as_location, storage_errors
from histoslide.storage.records import from_builtins
from histoslide.store.arrays import StoreArrays
from histoslide.store.layout import stored_classes
from histoslide.store.losses import refuse_losses
from histoslide.store.metadata import read_record, refuse_contradictions
from histoslide.store.pyramid import level_shapes
from histoslide.store.record import CellCounts, HeatmapRecord

if TYPE_CHECKING:
    import dask.array as da
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
    """A stored heatmap: nothing is left to compute, only to read.

    It is not ``histoslide.scoring.lazy.LazyHeatmap`` with a path, and says there why.
    """

    path: Location
    """The heat.zarr."""
    grid: TileGrid
    """Where its cells lie on the slide."""
    spec: ModelSpec = field(repr=False)
    """Of the model that scored it."""
    record: HeatmapRecord = field(repr=False)
    """Everything that is recorded of it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model, in the order of its outputs."""
        return self.spec.classes

    @property
    def tumour_class(self) -> str | None:
        """The class that a two-class heatmap shows."""
        return self.spec.tumour_class

    @property
    def judged_by(self) -> str:
        """Who says what stands in it: the model, and the one that looked first, for titles."""
        look, name = self.record.mode.value.first_look, self.record.model.name
        return name if look is None else f"{name} and {look.name}"

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
        import dask.array as da  # noqa: PLC0415 - half a second, where the rest needs none of it

        return da.from_zarr(self._probability())

    @property
    def status(self) -> NDArray[np.uint8]:
        """``histoslide.grid.status.Status`` of every cell, shape ``grid.shape``."""
        return self._read(self._status(), np.s_[:])

    @property
    def disagreement(self) -> NDArray[np.float32] | None:
        """How far the eight orientations of each tile differ, shape ``grid.shape``.

        The standard deviation of the probability, NaN where nothing was scored; None for a heatmap
        that was made without test-time augmentation.
        """
        return self.extra_array("disagreement")

    @property
    def looks(self) -> NDArray[np.uint8] | None:
        """How many networks have seen each cell, shape ``grid.shape``.

        1 where only the first look has, 2 where the model itself has too, 0 where nothing was
        scored; None for a heatmap that was made without a first look.
        """
        return self.extra_array("looks")

    def extra_array(self, extra: Extra) -> NDArray[Any] | None:
        """What some modes leave of every cell, shape ``grid.shape``; None where this one's did not.

        Raises:
            StoreError: it is damaged.
        """
        with storage_errors(self.path):
            stored = StoreArrays.open(self.path).extra_array(extra, self.grid)
        return None if stored is None else self._read(stored, np.s_[:])

    @property
    def id(self) -> str:
        """A hash of everything that decides the values; equal heatmaps have equal ones."""
        text = json.dumps(self.record.fingerprint, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def counts(self) -> CellCounts:
        """Cells by status; of an incomplete heatmap as they are now."""
        return self.record.counts or CellCounts.of(self.status)

    @property
    def complete(self) -> bool:
        """Whether every cell has been decided and the pyramid is whole."""
        return self.record.complete

    def to_xarray(self) -> xr.DataArray:
        """Level 0, lazy, with the middles of cells in micrometres as coordinates.

        Returns:
            float32 with dimensions (y, x), or (class, y, x) for more than two classes; ``y`` and
            ``x`` are µm from the slide's upper left corner, ``status`` (y, x) is a coordinate too.
            Its ``plot()`` is upright.

        Raises:
            HistoslideError: xarray is not installed.
        """
        try:
            # An extra, since Dask imports it wherever it is there: a second more for each command.
            import xarray  # noqa: F401, PLC0415
        except ImportError as error:
            raise HistoslideError(
                "to_xarray needs xarray: pip install 'histoslide[xarray]'"
            ) from error

        from histoslide.store.upright import UprightArray  # noqa: PLC0415

        um, grid = self.grid.cell_um, self.grid
        middle = {"units": "µm", "comment": "from the slide's upper left corner to cell middles"}
        coordinates: dict[str, Any] = {
            "y": ("y", (np.arange(grid.rows) + 0.5) * um, middle | {"long_name": "y"}),
            "x": ("x", (np.arange(grid.cols) + 0.5) * um, middle | {"long_name": "x"}),
            "status": (("y", "x"), self.status),
        }
        dims: tuple[str, ...] = ("y", "x")
        if self.array.ndim == 3:
            dims = ("class", "y", "x")
            coordinates["class"] = list(self.shown_classes)
        return UprightArray(
            self.array,
            dims=dims,
            coords=coordinates,
            name="probability",
            attrs={
                "long_name": f"P({', '.join(self.shown_classes)})",
                "slide": self.record.slide.name,
                "model": self.record.model.name,
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
        return self.cells(class_name)[0]

    def cells(self, class_name: str | None = None) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """``probability`` and ``status`` of every cell, each read once.

        Raises:
            StoreError: see ``probability``.
        """
        name = class_name if class_name is not None else self.tumour_class
        if name is None or name not in self.classes:
            raise StoreError(
                f"{self.path} has no class {name!r}: choose from {', '.join(self.classes)}"
            )
        # Before the probabilities, which a run writes first: none that counts as scored is missed.
        status = self.status
        stored = self._probability()
        if len(self.shown_classes) > 1:
            values = self._read(stored, np.s_[self.classes.index(name)])
        else:
            values = self._read(stored, np.s_[:])
            values = values if (name,) == self.shown_classes else 1 - values
        self._check(values, status)
        return values, status

    def _check(self, values: NDArray[np.float32], status: NDArray[np.uint8]) -> None:
        """Refuse values that a run cannot have written: files were lost or altered since."""
        finite = np.isfinite(values)
        problem = None
        if outside := int(((values[finite] < 0) | (values[finite] > 1)).sum()):
            problem = f"{outside:,} probabilities outside 0-1"
        elif lost := int(((status == Status.SCORED) & ~finite).sum()):
            problem = f"{lost:,} cells that were scored but have no probability"
        elif self.complete and CellCounts.of(status) != self.record.counts:
            pending = int((status == Status.PENDING).sum())
            problem = f"its cells are not those that it counted, {pending:,} are undecided"
        if problem:
            raise StoreError(f"{self.path} is damaged ({problem}): score the slide again")

    def levels(self) -> tuple[PyramidLevel, ...]:
        """All levels, finest first; those above level 0 are empty until the store is complete."""
        return tuple(
            PyramidLevel(probability=self._probability(level), status=self._status(level))
            for level in range(len(level_shapes(self.grid.shape)))
        )

    def _read(self, array: zarr.Array[Any], where: Any) -> NDArray[Any]:
        """Part of an array in memory."""
        with readable(self.path):
            return np.asarray(array[where])

    def _probability(self, level: int = 0) -> zarr.Array[Any]:
        with storage_errors(self.path):
            return StoreArrays.open(self.path).probability(level, self.grid)

    def _status(self, level: int = 0) -> zarr.Array[Any]:
        with storage_errors(self.path):
            return StoreArrays.open(self.path).status(level, self.grid)


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


def open_heatmap(
    path: Location | str, *, allow_incomplete: bool = False, allow_damaged: bool = False
) -> Heatmap:
    """Open a heat.zarr.

    Args:
        path: of the store.
        allow_incomplete: also open one whose run has not finished.
        allow_damaged: also open one that lost blocks, to show what is left of it; ``probability``
            refuses it still.

    Raises:
        StoreError: missing, not a heatmap, of an unknown schema version, incomplete, or damaged:
            files are lost, or cells are not those that it counted.
    """
    path = as_location(path)
    with storage_errors(path):
        record = read_record(path)
    if not record.complete and not allow_incomplete:
        raise StoreError(f"{path} is incomplete: run the same score command again to finish it")
    spec = _spec_of(record, path)
    grid = TileGrid(
        size_l0=record.slide.size,
        slide_mpp=record.slide.resolution,
        model_mpp=spec.mpp,
        input_px=spec.input_px,
        label_px=spec.label_px,
        stride_px=record.grid.stride_px,
        block_cells=record.grid.block_cells,
    )
    refuse_contradictions(path, record, grid)
    channels = len(stored_classes(spec.classes, spec.tumour_class))
    with readable(path):
        refuse_losses(path, record, grid, channels, allow_damaged=allow_damaged)
    return Heatmap(path=path, record=record, grid=grid, spec=spec)


def _spec_of(record: HeatmapRecord, path: Location) -> ModelSpec:
    """The recorded spec of the model as a value; what another release knows of it is left out.

    Raises:
        StoreError: it is damaged.
    """
    damaged = f"{path} has damaged metadata"
    try:
        return from_builtins(
            record.model.spec, ModelSpec, source=f"{damaged}: the model's spec", error=StoreError
        )
    except BundleError as error:
        raise StoreError(f"{damaged}: {error}") from error
