"""Polygons in level-0 pixels, read from GeoJSON and turned into masks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import MaskError
from histoslide.geometry import Size

Ring = NDArray[np.float64]
"""Vertices (x, y) in level-0 pixels, shape (n, 2)."""


@dataclass(frozen=True)
class Polygon:
    """An outline and the holes in it."""

    outline: Ring
    holes: tuple[Ring, ...] = ()


def read_geojson(path: Path) -> list[Polygon]:
    """Polygons of a GeoJSON file as QuPath writes it, with coordinates in level-0 pixels.

    Raises:
        MaskError: unreadable, not GeoJSON, or without any polygon.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MaskError(f"{path} cannot be read as GeoJSON: {error}") from error
    try:
        polygons = _polygons(document)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise MaskError(f"{path} is not valid GeoJSON: {error!r}") from error
    if not polygons:
        raise MaskError(f"{path} holds no Polygon or MultiPolygon")
    return polygons


def rasterise(polygons: list[Polygon], size_l0: Size, size: Size) -> NDArray[np.bool_]:
    """A mask of the whole slide that is true inside the polygons.

    Args:
        polygons: in level-0 pixels.
        size_l0: of the slide.
        size: of the mask in pixels.

    Returns:
        Shape (size.height, size.width); a pixel counts by its centre.
    """
    factor = np.array([size.width / size_l0.width, size.height / size_l0.height])
    canvas = np.zeros((size.height, size.width), dtype=np.bool_)
    for polygon in polygons:
        outline = polygon.outline * factor
        # Of thousands of polygons each covers little: only its own part is looked at.
        low, high = np.floor(outline.min(axis=0)), np.ceil(outline.max(axis=0))
        left, top = np.clip(low, 0, (size.width, size.height)).astype(int)
        right, bottom = np.clip(high, 0, (size.width, size.height)).astype(int)
        shape, corner = (int(bottom - top), int(right - left)), (left, top)
        inside = _fill(outline - corner, shape)
        for hole in polygon.holes:
            inside &= ~_fill(hole * factor - corner, shape)
        canvas[top:bottom, left:right] |= inside
    return canvas


def _fill(ring: Ring, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a ring by the even-odd rule; `ring` is in pixels.

    Pillow's polygons would not do: they truncate vertices to whole pixels and paint the outline.
    """
    height, width = shape
    crossings = np.zeros((height, width + 1), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        upper, lower = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        rows = np.arange(upper, lower)  # an edge crosses at most once in a row of pixel centres
        if len(rows):
            x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
    return inside


def _polygons(node: Any) -> list[Polygon]:
    if isinstance(node, list):  # older QuPath exports are a bare list of features
        return [polygon for part in node for polygon in _polygons(part)]
    kind = node["type"]
    if kind == "FeatureCollection":
        return _polygons(node["features"])
    if kind == "Feature":
        return _polygons(node["geometry"]) if node["geometry"] else []
    if kind == "GeometryCollection":
        return _polygons(node["geometries"])
    if kind == "Polygon":
        return [_polygon(node["coordinates"])]
    if kind == "MultiPolygon":
        return [_polygon(rings) for rings in node["coordinates"]]
    return []


def _polygon(rings: list[list[list[float]]]) -> Polygon:
    outline, *holes = (np.array(ring, dtype=np.float64)[:, :2] for ring in rings)
    for ring in (outline, *holes):
        if len(ring) < 3 or ring.shape[1] != 2 or not np.isfinite(ring).all():
            raise ValueError(f"a ring must be three or more finite (x, y), not {ring.tolist()}")
    return Polygon(outline, tuple(holes))
