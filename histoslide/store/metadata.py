"""``attributes.histoslide`` read and written, and whether what it says can be believed."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import zarr

from histoslide.errors import SettingsDifferError, StoreError, reason
from histoslide.grid.cells import TileGrid
from histoslide.scoring.lazy import LazyHeatmap
from histoslide.scoring.record import ModeRecord
from histoslide.storage.location import Location, is_remote, open_group
from histoslide.storage.records import from_builtins, to_builtins
from histoslide.storage.writing import named_difference
from histoslide.storage.zarr_folder import is_there
from histoslide.store.arrays import DAMAGED_METADATA, MOST_CELLS
from histoslide.store.layout import NgffVersion
from histoslide.store.record import SCHEMA_VERSION, GridRecord, HeatmapRecord

_ATTRIBUTE = "histoslide"
"""Under which the record lies among the attributes of the root."""

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
"""Distributions whose versions every heatmap records; OpenVINO's too where it computes."""


def metadata_schema() -> dict[str, Any]:
    """The JSON Schema of ``attributes.histoslide``."""
    text = files("histoslide.store").joinpath(f"heatmap-{SCHEMA_VERSION}.json").read_text()
    return dict(json.loads(text))


def first_record(lazy: LazyHeatmap, ngff: NgffVersion, command: str | None) -> HeatmapRecord:
    """What a store says of itself before anything is computed.

    Args:
        lazy: the heatmap.
        ngff: OME-Zarr version of the store.
        command: command line, without absolute paths.
    """
    computing = ("openvino",) if lazy.engine.backend == "openvino" else ()
    return HeatmapRecord(
        schema_version=SCHEMA_VERSION,
        complete=False,
        fingerprint=lazy.fingerprint | {"ngff": ngff},
        slide=lazy.slide,
        grid=GridRecord.of(lazy.grid),
        mask=lazy.mask,
        model=lazy.model,
        engine=str(lazy.engine),
        mode=ModeRecord.of(lazy.mode),
        device=lazy.device,
        command=command,
        versions={name: version(name) for name in (*_RECORDED_PACKAGES, *computing)},
        counts=None,
        seconds=0.0,
    )


def write_record(root: zarr.Group, record: HeatmapRecord) -> None:
    """Put the record of a heatmap into its store, in the place of one that is there."""
    root.attrs[_ATTRIBUTE] = to_builtins(record)


def read_record(path: Location) -> HeatmapRecord:
    """The record of a heatmap, checked.

    Raises:
        StoreError: it is not a heatmap, is of another schema version, or what it says is damaged.
    """
    found = read_attribute(path)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has heatmap schema {found.get('schema_version')}, this histoslide reads "
            f"{SCHEMA_VERSION}: score the slide again or use the release that wrote it"
        )
    return from_builtins(
        found,
        HeatmapRecord,
        source=f"{path} has damaged metadata and",
        error=StoreError,
        exact=True,
    )


def read_attribute(path: Location) -> dict[str, Any]:
    """The attribute as it lies there, of whatever version.

    Raises:
        StoreError: nothing is there, it cannot be read, or it is not a heatmap.
    """
    if not is_there(path):
        raise StoreError(f"{path} does not exist")
    try:
        found = dict(open_group(path, "r").attrs)[_ATTRIBUTE]
    except FileNotFoundError:  # zarr's, where there is no group
        found = None
    except PermissionError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    except OSError as error:
        if is_remote(path):
            raise StoreError(f"{path} cannot be read: {reason(error)}") from error
        found = None
    except DAMAGED_METADATA:
        found = None
    if not isinstance(found, dict):
        raise StoreError(f"{path} is not a heatmap made by histoslide{_way_out(path)}")
    return found


def _way_out(path: Location) -> str:
    """What was probably meant where something else than a heatmap was given."""
    if is_remote(path):
        return ""
    if path.is_file():
        return ": make one of a slide with histoslide score"
    inside = sorted(inner.name for inner in path.glob("*.zarr"))
    return f": it is a folder of heatmaps, pass {path / inside[0]}" if inside else ""


def refuse_contradictions(path: Location, record: HeatmapRecord, grid: TileGrid) -> None:
    """Make sure that no fact was altered since: places and sizes would silently be wrong."""
    slide, model, stored = record.slide, record.model, record.grid
    if grid.rows * grid.cols > MOST_CELLS:
        raise StoreError(
            f"{path} claims {grid.rows:,} × {grid.cols:,} cells, which no slide has: it is "
            "damaged, score the slide again"
        )
    facts: dict[str, object] = {
        "grid.stride_px": stored.stride_px,
        "grid.block_cells": stored.block_cells,
        "slide.size_l0": list(slide.size_l0),
        "slide.quickhash": slide.quickhash,
        "slide.mpp": slide.mpp,
        "model.name": model.name,
        "model.sha256": model.sha256,
    }
    expected = {name: record.fingerprint.get(name) for name in facts}
    for name in ("rows", "cols", "cell_um", "cell_l0"):
        facts[f"grid.{name}"], expected[f"grid.{name}"] = getattr(stored, name), getattr(grid, name)
    for name, value in facts.items():
        if value != expected[name]:
            raise StoreError(
                f"{path} contradicts itself ({name} is {value}, not {expected[name]}): "
                "score the slide again"
            )


def refuse_other_settings(lazy: LazyHeatmap, path: Location, ngff: NgffVersion) -> None:
    """Make sure that a store, if there is one, was begun with the same settings.

    Raises:
        SettingsDifferError: it was begun with others, which are named.
        StoreError: it is not a heatmap.
    """
    if is_there(path) and (found := difference(lazy, path, ngff)):
        raise SettingsDifferError(
            f"{path} was made with other settings ({found}): "
            "choose another --out or pass --overwrite"
        )


def difference(lazy: LazyHeatmap, path: Location, ngff: NgffVersion) -> str:
    """The settings in which a store differs from what is asked for; empty if there are none."""
    here = lazy.fingerprint | {"ngff": ngff}
    return named_difference(read_record(path).fingerprint, here)


def is_ours(lazy: LazyHeatmap, path: Location, ngff: NgffVersion) -> bool:
    """Whether a store is what is asked for, whole or begun, so that it may be gone on with.

    Raises:
        StoreError: it is not a heatmap of any version, so it must not be overwritten.
    """
    same_schema = read_attribute(path).get("schema_version") == SCHEMA_VERSION
    return same_schema and not difference(lazy, path, ngff)
