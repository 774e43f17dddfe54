"""heat.zarr: writing a heatmap block by block, resuming it, completing it, reading it.

Level 0 holds the probabilities, ``labels/status/0`` what happened to each cell. A block's
probabilities are written before its status, so a block whose status is there is done, whatever
moment a run was killed at. Pyramid levels and ``complete: true`` come last.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import jsonschema
import numpy as np
import zarr
import zarr.errors
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from histoslide.errors import LockedError, LockLostError, SettingsDifferError, StoreError
from histoslide.geometry import CellRange, Mpp, Size
from histoslide.grid import TileGrid
from histoslide.heatmap import LazyHeatmap
from histoslide.lock import StoreLock, hold, lock_path
from histoslide.model import ModelSpec
from histoslide.ngff import image_metadata, label_metadata
from histoslide.outputs import (
    named_difference,
    refuse_existing,
    restore_swap,
    swap_name,
)
from histoslide.place import is_remote, open_group, storage_errors
from histoslide.runners import BlockIndex, Runner, ThreadRunner
from histoslide.scoring import Status
from histoslide.store_folder import has_root, is_there, put_in_place, remove, write_objects

if TYPE_CHECKING:
    import xarray as xr

DISPLAY_GROUP = "histoslide.heatmap_html"
"""Entry points that turn a ``Heatmap`` into HTML for notebooks; see ``histoslide.notebook``."""

SCHEMA_VERSION = 1
"""Version of ``attributes.histoslide``; described by ``histoslide/schemas/heatmap-1.json``."""

NgffVersion = Literal["0.5", "0.4"]

_RECORDED_PACKAGES = (
    "histoslide",
    "torch",
    "torchvision",
    "numpy",
    "zarr",
    "dask",
    "openslide-python",
    "openslide-bin",
)

_PACKED_BLOCKS = 32
"""Side in blocks of what a packed store keeps in one file: most slides have one or two a level."""

_COARSEST_PX = 64
"""The pyramid ends at the first level whose longer side is at most this."""

_STATUS_RANK = np.array([0, 1, 3, 4, 2], dtype=np.uint8)
"""Which status a coarser level shows, by status: unreadable over scored over excluded over
background over pending, so that zooming out never hides a failed read."""


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

    path: Path
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
    def shown_classes(self) -> tuple[str, ...]:
        """The classes of ``array``: the tumour class (or else the second) of two, else all."""
        if len(self.classes) > 2:
            return self.classes
        return (self.tumour_class if self.tumour_class is not None else self.classes[1],)

    @property
    def array(self) -> da.Array:
        """Level 0 as a Dask array: (rows, cols), or (classes, rows, cols) for more than two."""
        return da.from_zarr(self._level("0"))

    @property
    def status(self) -> NDArray[np.uint8]:
        """``histoslide.scoring.Status`` of every cell, shape ``grid.shape``."""
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
        """
        import xarray as xr  # noqa: PLC0415 - a second to import, and scoring does not need it

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
        if len(self.shown_classes) > 1:
            values = self._read("0", np.s_[self.classes.index(name)])
        else:
            values = self._read("0", np.s_[:])
            values = values if (name,) == self.shown_classes else 1 - values
        self._check(values)
        return values

    def _check(self, values: NDArray[np.float32]) -> None:
        """Refuse values that a run cannot have written: files were lost or altered since."""
        status, finite = self.status, np.isfinite(values)
        problem = None
        if values.shape != self.grid.shape or status.shape != self.grid.shape:
            problem = f"arrays of {values.shape} and {status.shape} for a grid of {self.grid.shape}"
        elif outside := int(((values[finite] < 0) | (values[finite] > 1)).sum()):
            problem = f"{outside:,} probabilities outside 0-1"
        elif lost := int(((status == Status.SCORED) & ~finite).sum()):
            problem = f"{lost:,} cells that were scored but have no probability"
        if problem:
            raise StoreError(f"{self.path} is damaged ({problem}): score the slide again")

    @property
    def stored_classes(self) -> tuple[str, ...]:
        """Classes that the store has a layer for: one of two, which sum to one, else all."""
        return stored_classes(self.classes, self.tumour_class)

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
def readable(path: Path) -> Iterator[None]:
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


def open_heatmap(path: Path, *, allow_incomplete: bool = False) -> Heatmap:
    """Open a heat.zarr.

    Args:
        path: of the store.
        allow_incomplete: also open one whose run has not finished.

    Raises:
        StoreError: missing, not a heatmap, of an unknown schema version, or incomplete.
    """
    with storage_errors(path):
        metadata = _read_metadata(path)
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
    _refuse_contradictions(path, metadata, grid)
    return Heatmap(path=path, metadata=metadata, grid=grid)


def _refuse_contradictions(path: Path, metadata: Mapping[str, Any], grid: TileGrid) -> None:
    """Make sure that no fact was altered since: places and sizes would silently be wrong."""
    stored = metadata["grid"]
    facts = {f"grid.{name}": stored[name] for name in ("stride_px", "block_cells")}
    facts |= {f"slide.{name}": metadata["slide"][name] for name in ("size_l0", "quickhash", "mpp")}
    facts |= {f"model.{name}": metadata["model"][name] for name in ("name", "sha256")}
    expected = {name: metadata["fingerprint"].get(name) for name in facts}
    for name in ("rows", "cols", "cell_um", "cell_l0"):
        facts[f"grid.{name}"], expected[f"grid.{name}"] = stored[name], getattr(grid, name)
    for name, value in facts.items():
        if value != expected[name]:
            raise StoreError(
                f"{path} contradicts itself ({name} is {value}, not {expected[name]}): "
                "score the slide again"
            )


def store_heatmap(
    lazy: LazyHeatmap,
    path: Path,
    *,
    ngff: NgffVersion = "0.5",
    overwrite: bool = False,
    retry_unreadable: bool = False,
    command: str | None = None,
    on_block: Callable[[int, int, int], None] | None = None,
    runner: Runner | None = None,
) -> Heatmap:
    """Compute a heatmap into a store, or finish one that was begun with the same settings.

    A complete store of the same settings is returned as it is. With ``overwrite`` the new store
    is built beside the old one, which is replaced only when the new one is whole.

    Args:
        lazy: from ``histoslide.heatmap.make_heatmap``.
        path: of the store, conventionally ending in ``.zarr``.
        ngff: OME-Zarr version; 0.5 is Zarr v3, 0.4 is Zarr v2.
        overwrite: replace a store made with other settings.
        retry_unreadable: score the blocks again in which cells could not be read.
        command: command line for the metadata, without absolute paths.
        on_block: called after each block with (blocks done, blocks in all, cells scored so far).
        runner: computes the blocks; None for threads of this process.

    Raises:
        SettingsDifferError: the store was begun with other settings and ``overwrite`` is false.
        LockedError: another run is writing it.
        StoreError: ``path`` is something else, or cannot be written (read-only, disk full).
    """
    try:
        with storage_errors(path):
            heat = None if overwrite else _finished(lazy, path, ngff)
        if heat is not None and not (retry_unreadable and heat.metadata["counts"]["unreadable"]):
            return heat
        with storage_errors(path), hold(path) as lock:
            target = _choose_target(lazy, path, ngff, overwrite=overwrite)
            if not is_there(target):
                _create(lazy, target, ngff, command)
            elif retry_unreadable:
                _reopen(target)
            if not _read_metadata(target)["complete"]:
                chosen = runner or ThreadRunner.fitted(lazy.device)
                _run(lazy, target, _checking(lock, on_block), chosen)
                lock.check()
                _complete(lazy, target)
            if target != path:
                lock.check()
                put_in_place(target, path)
    except OSError as error:
        if error.errno is None:
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise StoreError(
            f"{path} cannot be written: {reason}; blocks already written are kept, run the same "
            "command again when that is mended"
        ) from error
    return open_heatmap(path)


def _finished(lazy: LazyHeatmap, path: Path, ngff: NgffVersion) -> Heatmap | None:
    """A store that needs nothing more; looked at without the lock, which needs leave to write."""
    if not is_there(path) or swap_name(path, "old").exists():
        return None
    refuse_other_settings(lazy, path, ngff)
    heat = open_heatmap(path, allow_incomplete=True)
    if not heat.complete:
        return None
    if lock_path(path).exists():  # of a run killed at its very end, or of one that replaces this
        with suppress(LockedError, OSError), hold(path):
            pass
    return heat


def reopened(status: NDArray[np.uint8], block_cells: int) -> NDArray[np.uint8]:
    """Status of cells of which all blocks with unreadable ones are to be scored again.

    Args:
        status: of each cell, shape (rows, cols).
        block_cells: cells along the side of a block.
    """
    status = status.copy()
    unreadable = np.argwhere(status == Status.UNREADABLE) // block_cells * block_cells
    for row, col in np.unique(unreadable, axis=0):
        status[row : row + block_cells, col : col + block_cells] = Status.PENDING
    return status


def _reopen(path: Path) -> None:
    """Make the blocks of a store pending that hold unreadable cells.

    Raises:
        StoreError: the store is packed, and blocks cannot be written one by one.
    """
    group = open_group(path, "r+")
    stored: Any = group["labels/status/0"]
    status = np.asarray(stored[:])
    if not (status == Status.UNREADABLE).any():
        return
    if stored.shards is not None:
        raise StoreError(f"{path} is packed and cannot be changed: score into another --out")
    metadata = _read_metadata(path)
    # First: a run that is killed from here on has left a heatmap that is to be finished.
    group.attrs["histoslide"] = metadata | {"complete": False, "counts": None}
    stored[...] = reopened(status, metadata["grid"]["block_cells"])


def _choose_target(lazy: LazyHeatmap, path: Path, ngff: NgffVersion, *, overwrite: bool) -> Path:
    """Where to write: the store itself, or beside it where one is to be replaced."""
    replaced = _restore(path)
    if not is_there(path):
        return path
    if replaced and not _difference(lazy, path, ngff):
        return path  # killed after the new one had taken the old one's place
    if not overwrite:
        refuse_other_settings(lazy, path, ngff)
        return path
    if _is_ours(lazy, path, ngff) and not _read_metadata(path)["complete"]:
        return path
    new = swap_name(path, "new")
    if is_there(new) and not _is_ours(lazy, new, ngff):
        remove(new)
    return new


def _restore(path: Path) -> bool:
    """Finish or undo a replacement that was killed, and say whether the new one is in place."""
    if not is_remote(path):
        return restore_swap(path)
    replaced = False
    for new in (swap_name(path, "new"), swap_name(path, "partial")):
        if not has_root(new):
            remove(new)
        elif not has_root(path) and _read_attribute(new).get("complete") is True:
            put_in_place(new, path)
            replaced = True
    return replaced


def _checking(
    lock: StoreLock, on_block: Callable[[int, int, int], None] | None
) -> Callable[[int, int, int], None]:
    """Stop a run that has lost its lock after the block it was at."""

    def report(done: int, total: int, scored: int) -> None:
        lock.check()
        if on_block is not None:
            on_block(done, total, scored)

    return report


def convert_heatmap(
    heat: Heatmap,
    path: Path,
    *,
    ngff: NgffVersion,
    overwrite: bool = False,
    packed: bool = False,
) -> Heatmap:
    """Write a heatmap once more, in another version of OME-Zarr. Nothing is scored.

    Args:
        heat: complete.
        path: of the new store.
        ngff: OME-Zarr version; 0.5 is Zarr v3, 0.4 is Zarr v2.
        overwrite: replace an existing heatmap; anything else is left alone.
        packed: few files instead of one a chunk (Zarr's sharding, which 0.4 does not have).

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: the heatmap is incomplete or damaged, ``path`` is something else than a
            heatmap, is the heatmap itself, or cannot be written.
    """
    if not heat.complete:
        raise StoreError(f"{heat.path} is incomplete: finish it before it is converted")
    if packed and ngff == "0.4":
        raise StoreError(f"{path}: OME-Zarr 0.4 cannot be packed: pass --ngff 0.5")
    try:
        with storage_errors(path), hold(path):
            _restore(path)
            if is_there(path):
                refuse_existing(path, overwrite=overwrite)
                _read_attribute(path)  # raises where it is not ours to replace
                if _same_place(path, heat.path):
                    raise StoreError(f"{path} is the heatmap itself: choose another --out")
            partial = swap_name(path, "partial")
            try:
                remove(partial)
                _copy(heat, partial, ngff, packed=packed)
                put_in_place(partial, path)
            finally:
                remove(partial)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    return open_heatmap(path)


def _same_place(path: Path, other: Path) -> bool:
    if is_remote(path) or is_remote(other):
        return str(path) == str(other)
    return path.samefile(other)


def _copy(heat: Heatmap, path: Path, ngff: NgffVersion, *, packed: bool) -> None:
    channels = heat.shown_classes
    for name in channels:
        heat.probability(name)  # raises where the store is damaged
    disagreement = heat.disagreement
    root = open_group(path, "w", zarr_format=_zarr_format(ngff))
    _lay_out(
        root,
        heat.grid,
        channels,
        heat.metadata["slide"]["name"],
        ngff,
        disagreement=disagreement is not None,
        packed=packed,
    )
    if disagreement is not None:
        root["disagreement/0"][...] = disagreement  # type: ignore[index]
    values, status = np.asarray(heat.array), heat.status
    for level in range(len(level_shapes(heat.grid.shape))):
        if level:
            values, status = halve_probability(values), halve_status(status)
        root[str(level)][...] = values  # type: ignore[index]
        root[f"labels/status/{level}"][...] = status  # type: ignore[index]
    fingerprint = {**heat.metadata["fingerprint"], "ngff": ngff}
    root.attrs["histoslide"] = {**heat.metadata, "fingerprint": fingerprint}


def metadata_schema() -> dict[str, Any]:
    """The JSON Schema of ``attributes.histoslide``."""
    text = files("histoslide").joinpath(f"schemas/heatmap-{SCHEMA_VERSION}.json").read_text()
    return dict(json.loads(text))


class BlockTarget:
    """What Dask stores blocks into: probabilities first, status last."""

    def __init__(self, path: Path, tumour_index: int | None) -> None:
        group = open_group(path, "r+")
        self._probability: Any = group["0"]
        self._status: Any = group["labels/status/0"]
        self._disagreement: Any = group.get("disagreement/0")
        # Two classes sum to one: the heatmap shows the tumour class, or else the second.
        self._shown = 1 if tumour_index is None else tumour_index
        self._opened = path, tumour_index

    def __reduce__(self) -> tuple[object, ...]:
        return BlockTarget, self._opened

    def __setitem__(self, where: tuple[slice, slice], block: NDArray[np.void]) -> None:
        probability = block["probability"]
        if self._probability.ndim == 2:
            self._probability[where] = probability[..., self._shown]
        else:
            self._probability[(slice(None), *where)] = np.moveaxis(probability, -1, 0)
        if self._disagreement is not None:
            self._disagreement[where] = block["disagreement"]
        self._status[where] = block["status"]


def refuse_other_settings(lazy: LazyHeatmap, path: Path, ngff: NgffVersion) -> None:
    """Make sure that a store, if there is one, was begun with the same settings.

    Raises:
        SettingsDifferError: it was begun with others, which are named.
        StoreError: it is not a heatmap.
    """
    if is_there(path) and (difference := _difference(lazy, path, ngff)):
        raise SettingsDifferError(
            f"{path} was made with other settings ({difference}): "
            "choose another --out or pass --overwrite"
        )


def _difference(lazy: LazyHeatmap, path: Path, ngff: NgffVersion) -> str:
    """The settings in which a store differs from what is asked for; empty if there are none."""
    there = _read_metadata(path)["fingerprint"]
    here = lazy.fingerprint | {"ngff": ngff}
    return named_difference(there, here)


def _is_ours(lazy: LazyHeatmap, path: Path, ngff: NgffVersion) -> bool:
    """Whether a store is what is asked for, whole or begun, so that it may be gone on with.

    Raises:
        StoreError: it is not a heatmap of any version, so it must not be overwritten.
    """
    same_schema = _read_attribute(path).get("schema_version") == SCHEMA_VERSION
    return same_schema and not _difference(lazy, path, ngff)


def _read_metadata(path: Path) -> dict[str, Any]:
    metadata = _read_attribute(path)
    if metadata.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has heatmap schema {metadata.get('schema_version')}, this histoslide reads "
            f"{SCHEMA_VERSION}: score the slide again or use the release that wrote it"
        )
    try:
        jsonschema.validate(metadata, metadata_schema())
    except jsonschema.ValidationError as error:
        raise StoreError(f"{path} has damaged metadata: {error.message}") from error
    return metadata


def _read_attribute(path: Path) -> dict[str, Any]:
    if not is_there(path):
        raise StoreError(f"{path} does not exist")
    try:
        found = dict(open_group(path, "r").attrs)["histoslide"]
    except FileNotFoundError:  # zarr's, where there is no group
        found = None
    except PermissionError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    except OSError as error:
        if is_remote(path):
            raise StoreError(f"{path} cannot be read: {error}") from error
        found = None
    except (KeyError, TypeError, ValueError, AttributeError, zarr.errors.BaseZarrError):
        found = None
    if not isinstance(found, dict):
        raise StoreError(f"{path} is not a heatmap made by histoslide")
    return found


def _create(lazy: LazyHeatmap, path: Path, ngff: NgffVersion, command: str | None) -> None:
    """Lay out an empty store; it appears under its name only once its metadata are whole."""
    if is_remote(path):
        objects: dict[str, Buffer] = {}
        _begin(lazy, MemoryStore(objects), ngff, command)
        write_objects(path, {key: value.to_bytes() for key, value in objects.items()})
        return
    partial = swap_name(path, "partial")
    remove(partial)
    _begin(lazy, LocalStore(partial), ngff, command)
    partial.replace(path)


def _begin(lazy: LazyHeatmap, store: Store, ngff: NgffVersion, command: str | None) -> None:
    root = zarr.open_group(store, mode="w", zarr_format=_zarr_format(ngff))
    _lay_out(
        root,
        lazy.grid,
        _channels(lazy.spec),
        lazy.slide["name"],
        ngff,
        disagreement=lazy.mode.tta,
    )
    root.attrs["histoslide"] = {
        "schema_version": SCHEMA_VERSION,
        "complete": False,
        "fingerprint": lazy.fingerprint | {"ngff": ngff},
        "slide": dict(lazy.slide),
        "grid": {
            "rows": lazy.grid.rows,
            "cols": lazy.grid.cols,
            "stride_px": lazy.grid.stride_px,
            "block_cells": lazy.grid.block_cells,
            "cell_um": lazy.grid.cell_um,
            "cell_l0": lazy.grid.cell_l0,
        },
        "mask": dict(lazy.mask),
        "model": dict(lazy.model),
        "engine": lazy.engine,
        "mode": lazy.mode.settings,
        "device": lazy.device,
        "command": command,
        "versions": {name: version(name) for name in _RECORDED_PACKAGES},
        "counts": None,
        "seconds": 0.0,
    }


def _zarr_format(ngff: NgffVersion) -> Literal[2, 3]:
    return 3 if ngff == "0.5" else 2


def _lay_out(
    root: zarr.Group,
    grid: TileGrid,
    channels: tuple[str, ...],
    name: str,
    ngff: NgffVersion,
    *,
    disagreement: bool,
    packed: bool = False,
) -> None:
    """Make the arrays of a store, all pending, and what OME-Zarr wants to know of them."""
    shapes = level_shapes(grid.shape)
    for level, shape in enumerate(shapes):
        lead = (len(channels),) if len(channels) > 1 else ()
        _create_array(root, str(level), (*lead, *shape), grid.block_cells, math.nan, packed=packed)
        status = f"labels/status/{level}"
        _create_array(root, status, shape, grid.block_cells, int(Status.PENDING), packed=packed)
    root.attrs.update(image_metadata(name, grid.cell_um, len(shapes), channels, ngff))
    if disagreement:
        _create_array(root, "disagreement/0", grid.shape, grid.block_cells, math.nan, packed=packed)
        root["disagreement"].attrs.update(
            image_metadata(f"{name} disagreement", grid.cell_um, 1, ("disagreement",), ngff)
        )
    labels = root["labels"]
    labels.attrs.update(
        {"ome": {"version": ngff, "labels": ["status"]}}
        if ngff == "0.5"
        else {"labels": ["status"]}
    )
    colours = {status.value: status.name.lower() for status in Status}
    root["labels/status"].attrs.update(label_metadata(grid.cell_um, len(shapes), colours, ngff))


def _create_array(
    root: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    block_cells: int,
    fill: float,
    *,
    packed: bool,
) -> None:
    """An array of one chunk a block: float32 where the fill is NaN, else uint8."""
    packed_cells = block_cells * _PACKED_BLOCKS
    v3 = root.metadata.zarr_format == 3
    root.create_array(
        name,
        shape=shape,
        chunks=(*shape[:-2], block_cells, block_cells),
        shards=(*shape[:-2], packed_cells, packed_cells) if packed else None,
        dtype="float32" if math.isnan(fill) else "uint8",
        fill_value=fill,
        dimension_names=["c", "y", "x"][-len(shape) :] if v3 else None,
        chunk_key_encoding={"name": "default", "separator": "/"}
        if v3
        else {"name": "v2", "separator": "/"},
    )


def _channels(spec: ModelSpec) -> tuple[str, ...]:
    return stored_classes(spec.classes, spec.tumour_class)


def stored_classes(classes: tuple[str, ...], tumour_class: str | None) -> tuple[str, ...]:
    """Names of the stored channels: one for two classes, which sum to one, else all."""
    if len(classes) > 2:
        return classes
    return (tumour_class if tumour_class is not None else classes[1],)


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes of the pyramid's levels; each halves the one before, rounding up."""
    shapes = [shape]
    while max(shapes[-1]) > _COARSEST_PX:
        rows, cols = shapes[-1]
        shapes.append((-(-rows // 2), -(-cols // 2)))
    return shapes


def _run(
    lazy: LazyHeatmap,
    path: Path,
    on_block: Callable[[int, int, int], None],
    runner: Runner,
) -> None:
    group = open_group(path, "r+")
    status = np.asarray(group["labels/status/0"][:])  # type: ignore[index]
    _settle_untouched(lazy, group, status)
    total, done = lazy.grid.block_shape[0] * lazy.grid.block_shape[1], 0
    blocks: list[BlockIndex] = []
    for block, cells in lazy.grid.numbered_blocks():
        if (status[cells.slices] == Status.PENDING).any():
            blocks.append(block)
        else:
            done += 1
    if not blocks:
        return
    scored = int((status == Status.SCORED).sum())
    target = BlockTarget(path, lazy.spec.tumour_index)

    def task(block: BlockIndex) -> Delayed:
        values = lazy.blocks.blocks[block].to_delayed().item()
        return delayed(_write_block, pure=False)(target, lazy.grid.block(*block), values)

    started, ours = time.monotonic(), True
    try:
        with closing(runner.run(blocks, task)) as results:
            for result in results:
                done, scored = done + 1, scored + result
                on_block(done, total, scored)
    except LockLostError:
        ours = False
        raise
    finally:
        if ours:
            metadata = _read_metadata(path)
            metadata["seconds"] += time.monotonic() - started
            group.attrs["histoslide"] = metadata


def _settle_untouched(lazy: LazyHeatmap, group: zarr.Group, status: NDArray[np.uint8]) -> None:
    """Write the status of blocks in which nothing is to be scored, many at a time.

    Most of a slide is glass: a task for each of its blocks would cost more than all else.

    Args:
        lazy: the heatmap.
        group: its store.
        status: as stored; updated in place.
    """
    stored: Any = group["labels/status/0"]
    side = lazy.grid.block_cells
    for top in range(0, lazy.grid.rows, side):
        band = np.s_[top : top + side]
        lefts = range(0, lazy.grid.cols, side)
        idle = [
            (status[band, left : left + side] == Status.PENDING).any()
            and (lazy.plan[band, left : left + side] != Status.PENDING).all()
            for left in lefts
        ]
        for found, run in itertools.groupby(range(len(lefts)), key=idle.__getitem__):
            if found:
                columns = list(run)
                where = np.s_[top : top + side, columns[0] * side : (columns[-1] + 1) * side]
                status[where] = lazy.plan[where]
                stored[where] = lazy.plan[where]


def _write_block(target: BlockTarget, cells: CellRange, block: NDArray[np.void]) -> int:
    """Write a block, and return how many of its cells were scored."""
    target[cells.slices] = block
    return int((block["status"] == Status.SCORED).sum())


def _complete(lazy: LazyHeatmap, path: Path) -> None:
    if not is_remote(path):
        for partial in path.rglob("*.partial"):  # what a killed run was writing
            partial.unlink(missing_ok=True)
    group = open_group(path, "r+")
    values = np.asarray(group["0"][:])  # type: ignore[index]
    status = np.asarray(group["labels/status/0"][:])  # type: ignore[index]
    counts = {s.name.lower(): int((status == s).sum()) for s in Status}
    for level in range(1, len(level_shapes(lazy.grid.shape))):
        values, status = halve_probability(values), halve_status(status)
        group[str(level)][...] = values  # type: ignore[index]
        group[f"labels/status/{level}"][...] = status  # type: ignore[index]
    metadata = _read_metadata(path)
    group.attrs["histoslide"] = metadata | {"counts": counts, "complete": True}


def halve_probability(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next coarser level: the maximum of each 2×2 cells, ignoring NaN unless all are NaN.

    Args:
        values: shape (..., rows, cols).

    Returns:
        Shape (..., ceil(rows / 2), ceil(cols / 2)).
    """
    # fmax ignores NaN and, unlike nanmax, does not warn where all are NaN.
    halved: NDArray[np.float32] = np.fmax.reduce(_quarters(values, math.nan), axis=0)
    return halved


def halve_status(status: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The next coarser level of a status array; see the module's ranking of statuses."""
    quarters = _quarters(status, int(Status.PENDING))
    best = _STATUS_RANK[quarters].argmax(axis=0)
    return np.take_along_axis(quarters, best[None], axis=0)[0]


def _quarters(values: NDArray[Any], fill: float) -> NDArray[Any]:
    """The four cells under each coarser cell, shape (4, ..., ceil(rows / 2), ceil(cols / 2))."""
    rows, cols = values.shape[-2:]
    padding = [(0, 0)] * (values.ndim - 2) + [(0, rows % 2), (0, cols % 2)]
    even = np.pad(values, padding, constant_values=fill)
    return np.stack([even[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
