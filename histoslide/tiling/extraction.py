"""Tissue tiles of a slide as files: pictures or PCam's HDF5 layout, with a manifest.

A folder holds ``tiles.json`` (settings, and ``complete`` once all is there), ``manifest.csv``,
``contact-sheet.png`` and the tiles. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import HistoslideError, SettingsDifferError, StoreError
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_windows
from histoslide.render import contact_sheet
from histoslide.slide import Slide
from histoslide.storage.records import Absent, from_json, to_builtins, to_json
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import named_difference, restore_swap, swap_folder, whole_file
from histoslide.tiling.record import TileSettings, TilesRecord
from histoslide.tiling.writers import TileWriter, tile_writer

CONTACT_TILES = 100
"""Tiles on the contact sheet, spread evenly over the slide."""

_RECORD = "tiles.json"


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
    settings: TileSettings,
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
        settings: what decides which tiles there are; a folder begun with others is refused. Of its
            formats, ``pcam-hdf5`` is one file with the dataset ``x`` of shape (n, input_px,
            input_px, 3), in the order of the manifest.
        overwrite: build a new set beside the old one and replace it when it is whole.
        on_tiles: called with (tiles done, tiles in all).

    Raises:
        SettingsDifferError: the folder was begun with other settings and ``overwrite`` is false.
        StoreError: the folder holds something else or cannot be written.
    """
    if not folder.name:  # "." has none to put another beside
        folder = folder.absolute()
    target = folder
    restore_swap(folder)
    if folder.exists() and not _is_empty(folder):
        there = _read_record(folder)
        unfinished = there.settings == settings and not there.complete
        if overwrite and not unfinished:
            target = folder.with_name(f".{folder.name}.new")
            if target.exists() and not _is_begun(target, settings):
                shutil.rmtree(target)
        elif there.settings != settings:
            difference = named_difference(to_builtins(there.settings), to_builtins(settings))
            raise SettingsDifferError(
                f"{folder} was made with other settings ({difference}): "
                "choose another --out or pass --overwrite"
            )
        elif there.complete:
            return _tile_set(folder, there)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write_record(target, TilesRecord(settings=settings, complete=False))
        writer = tile_writer(target, slide, grid, settings.format)
        tiles, unreadable = _write(slide, grid, wanted, tissue_fraction, target, writer, on_tiles)
        done = TilesRecord(settings=settings, complete=True, tiles=tiles, unreadable=unreadable)
        _write_record(target, done)
        if target != folder:
            swap_folder(target, folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error
    return _tile_set(folder, done)


def _tile_set(folder: Path, record: TilesRecord) -> TileSet:
    """What a record says of its folder, which is complete."""
    assert not isinstance(record.tiles, Absent)
    assert not isinstance(record.unreadable, Absent)
    return TileSet(folder=folder, tiles=record.tiles, unreadable=record.unreadable)


def _write(
    slide: Slide,
    grid: TileGrid,
    wanted: NDArray[np.bool_],
    tissue_fraction: NDArray[np.float64],
    folder: Path,
    writer: TileWriter,
    on_tiles: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    """Write tiles, manifest and contact sheet; how many tiles there are, and how many are not."""
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
            um = grid.input_px * grid.model_mpp
            title = (
                f"{slide.name}\n{len(samples):,} of {len(rows):,} tiles of {grid.input_px} px "
                f"({um:.0f} µm) at {grid.model_mpp:g} µm/px; slide {grid.slide_mpp.value:.4g} "
                f"µm/px ({grid.slide_mpp.source}). The box is the part whose tissue decides."
            )
            sheet = contact_sheet(samples, label_px=grid.label_px, title=title, mpp=grid.model_mpp)
            Image.fromarray(sheet).save(partial, "PNG")
    return len(rows), unreadable


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
                if window.pixels is not None and not window.unreadable[i, j]:
                    top, left = i * stride, j * stride
                    tile = window.pixels[top : top + side, left : left + side]
                yield cells.row + i, cells.col + j, tile


def _read_record(folder: Path) -> TilesRecord:
    try:
        raw = (folder / _RECORD).read_bytes()
        record = from_json(raw, TilesRecord, source=folder / _RECORD, exact=True)
    except (OSError, HistoslideError):
        record = None
    if record is None or (
        record.complete and Absent in map(type, (record.tiles, record.unreadable))
    ):
        raise StoreError(
            f"{folder} exists and is not a tile folder made by histoslide: choose another --out"
        )
    return record


def _is_empty(folder: Path) -> bool:
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}") from error


def _is_begun(folder: Path, settings: TileSettings) -> bool:
    try:
        return _read_record(folder).settings == settings
    except StoreError:
        return False  # killed before its settings were written


def _write_record(folder: Path, record: TilesRecord) -> None:
    with whole_file(folder / _RECORD) as partial:
        partial.write_text(to_json(record, ascii_only=True), encoding="utf-8")
