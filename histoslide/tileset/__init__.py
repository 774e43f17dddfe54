"""Tissue tiles of a slide as files: pictures or PCam's HDF5 layout, with a manifest."""

from histoslide.tileset.extraction import TileSet, extract_tiles
from histoslide.tileset.writers import TileFormat

__all__ = ["TileFormat", "TileSet", "extract_tiles"]
