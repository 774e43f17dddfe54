"""Tissue tiles of a slide as files: pictures or PCam's HDF5 layout, with a manifest.

A folder holds ``tiles.json`` (settings, and ``complete`` once all is there), ``manifest.csv``,
``contact-sheet.png`` and the tiles. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import SettingsDifferError, StoreError
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_windows
from histoslide.render import contact_sheet
from histoslide.slide import Slide
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import named_difference, restore_swap, swap_folder, whole_file
from histoslide.tiling.writers import TileFormat, TileWriter, tile_writer

CONTACT_TILES = 100
"""Tiles on the contact sheet, spread evenly over the slide."""

_SETTINGS = "tiles.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """Tiles that lie on disk."""

    folder: Path
    """Where."""
    tiles: int
    """How many were written in all runs together."""
    unreadable: int
    """How many could not be read and are missing."""


def extract_tiles(
    slide: Slide,
    grid: TileGrid,
    wanted: NDArray[np.bool_],
    tissue_fraction: NDArray[np.float64],
    folder: Path,
    *,
    tile_format: TileFormat = "png",
    settings: dict[str, Any],
    overwrite: bool = False,
    on_tiles: Callable[[int, int], None] | None = None,
) -> TileSet:
    """Write the tiles of the wanted cells.

    Args:
        slide: to read from.
        grid: of the slide; usually with a stride of a whole tile.
        wanted: shape ``grid.shape``.
        tissue_fraction: for the manifest, shape ``grid.shape``.
        folder: to create or to continue.
        tile_format: ``png``, ``jpg``, or ``pcam-hdf5``: one file with the dataset ``x`` of shape
            (n, input_px, input_px, 3), in the order of the manifest.
        settings: what decides which tiles there are, JSON-ready; a folder begun with others is
            refused.
        overwrite: build a new set beside the old one and replace it when it is whole.
        on_tiles: called with (tiles done, tiles in all).

    Raises:
        SettingsDifferError: the folder was begun with other settings and ``overwrite`` is false.
        StoreError: the folder holds something else or cannot be written.
    """
    settings = settings | {
        "format": tile_format,
        "schema_version": _SCHEMA_VERSION,
        "cells_sha256": hashlib.sha256(wanted.tobytes()).hexdigest(),
    }
    if not folder.name:  # "." has none to put another beside
        folder = folder.absolute()
    target = folder
    restore_swap(folder)
    if folder.exists() and not _is_empty(folder):
        there = _read_settings(folder)
        unfinished = there["settings"] == settings and not there["complete"]
        if overwrite and not unfinished:
            target = folder.with_name(f".{folder.name}.new")
            if target.exists() and not _is_begun(target, settings):
                shutil.rmtree(target)
        elif there["settings"] != settings:
            raise SettingsDifferError(
                f"{folder} was made with other settings "
                f"({named_difference(there['settings'], settings)}): "
                "choose another --out or pass --overwrite"
            )
        elif there["complete"]:
            return TileSet(folder=folder, tiles=there["tiles"], unreadable=there["unreadable"])
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write_settings(target, {"settings": settings, "complete": False})
        writer = tile_writer(target, slide, grid, tile_format)
        result = _write(slide, grid, wanted, tissue_fraction, target, writer, on_tiles)
        if target != folder:
            swap_folder(target, folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error
    return TileSet(folder=folder, tiles=result.tiles, unreadable=result.unreadable)


def _write(
    slide: Slide,
    grid: TileGrid,
    wanted: NDArray[np.bool_],
    tissue_fraction: NDArray[np.float64],
    folder: Path,
    writer: TileWriter,
    on_tiles: Callable[[int, int], None] | None,
) -> TileSet:
    total = int(wanted.sum())
    shown = set(np.linspace(0, total - 1, min(total, CONTACT_TILES)).round().astype(int).tolist())
    rows: list[list[object]] = []
    samples: list[NDArray[np.uint8]] = []
    unreadable = 0
    with writer:
        for number, (row, col, pixels) in enumerate(_tiles(slide, grid, wanted)):
            if pixels is None:
                unreadable += 1
                if on_tiles is not None:
                    on_tiles(number + 1, total)
                continue
            box = grid.tile_box_l0(row, col)
            corners = (f"{v:.4f}" for v in (box.x, box.y, box.width, box.height))
            name = writer.add(row, col, pixels)
            rows.append([slide.name, row, col, *corners, f"{tissue_fraction[row, col]:.4f}", name])
            if number in shown:
                samples.append(pixels.copy())  # not a view that keeps its whole window
            if on_tiles is not None:
                on_tiles(number + 1, total)
    columns = ("slide", "row", "col", "x_l0", "y_l0", "width_l0", "height_l0", "tissue_fraction")
    with (
        whole_file(folder / "manifest.csv") as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        TableWriter(file).write([[*columns, writer.column], *rows])
    if samples:
        with whole_file(folder / "contact-sheet.png") as partial:
            sheet = contact_sheet(samples, label_px=grid.label_px)
            Image.fromarray(sheet).save(partial, "PNG")
    done = {"complete": True, "tiles": len(rows), "unreadable": unreadable}
    _write_settings(folder, _read_settings(folder) | done)
    return TileSet(folder=folder, tiles=len(rows), unreadable=unreadable)


def _tiles(
    slide: Slide, grid: TileGrid, wanted: NDArray[np.bool_]
) -> Iterator[tuple[int, int, NDArray[np.uint8] | None]]:
    side, stride = grid.input_px, grid.stride_px
    for block in grid.blocks():
        inside = wanted[block.slices]
        if not inside.any():
            continue
        for window in read_windows(slide, grid, block, inside):
            cells = window.cells
            for i, j in np.argwhere(wanted[cells.slices]).tolist():
                tile = None
                if window.pixels is not None:
                    top, left = i * stride, j * stride
                    tile = window.pixels[top : top + side, left : left + side]
                yield cells.row + i, cells.col + j, tile


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _SETTINGS).read_text())
        if not isinstance(found["settings"], dict) or not isinstance(found["complete"], bool):
            raise KeyError
        if found["complete"]:
            int(found["tiles"]), int(found["unreadable"])
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{folder} exists and is not a tile folder made by histoslide: choose another --out"
        ) from None
    return found


def _is_empty(folder: Path) -> bool:
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}") from error


def _is_begun(folder: Path, settings: dict[str, Any]) -> bool:
    try:
        return bool(_read_settings(folder)["settings"] == settings)
    except StoreError:
        return False  # killed before its settings were written


def _write_settings(folder: Path, value: dict[str, Any]) -> None:
    with whole_file(folder / _SETTINGS) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
