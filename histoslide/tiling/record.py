"""``tiles.json``: what a folder of tiles says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from histoslide.storage.records import ABSENT, Absent, Count, Number
from histoslide.tiling.writers import TileFormat

SCHEMA_VERSION = 1
"""Of the record."""


@dataclass(frozen=True, kw_only=True)
class TileSettings:
    """What decides which tiles there are; a folder begun with others is refused."""

    slide: str
    """File name."""
    quickhash: str
    """Tells slides apart."""
    slide_mpp: Number
    """Micrometres per level-0 pixel."""
    target_mpp: Number
    """Micrometres per pixel of the tiles."""
    input_px: int
    """Side of a tile, in pixels of ``target_mpp``, like the two that follow."""
    label_px: int
    """Side of its label footprint."""
    stride_px: int
    """Distance between tiles."""
    tissue: str
    """Method that found the tissue, or name of the mask file."""
    tissue_threshold: Number
    """Part of the label footprint that must be tissue, 0-1."""
    roi: str | None
    """Name of the file with the region of interest."""
    format: TileFormat
    """Of the files."""
    schema_version: int = SCHEMA_VERSION
    """Of the record."""
    cells_sha256: str
    """Of which cells are wanted."""


@dataclass(frozen=True, kw_only=True)
class TilesRecord:
    """What a folder of tiles says of itself."""

    settings: TileSettings
    """What was asked for."""
    complete: bool
    """Whether all is there."""
    tiles: Count | Absent = ABSENT
    """How many were written, once it is complete."""
    unreadable: Count | Absent = ABSENT
    """How many could not be read, likewise."""
