"""Polygons of GeoJSON as QuPath writes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histoslide.annotations.polygons import Polygon, Ring
from histoslide.errors import MaskError

logger = logging.getLogger(__name__)

_DEEPEST = 100
"""Most collections within each other; QuPath nests two."""


def read_geojson(path: Path) -> list[Polygon]:
    """Polygons of a GeoJSON file as QuPath writes it, with coordinates in level-0 pixels.

    Those without an area, as a slip of the pen leaves them, are skipped with a warning.

    Raises:
        MaskError: unreadable, not GeoJSON, or without any polygon.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError:
        raise MaskError(f"{path} is not valid GeoJSON: it is nested too deeply") from None
    except ValueError as error:  # of encoding, of JSON, or a number of thousands of digits
        raise MaskError(f"{path} cannot be read as GeoJSON: {error}") from error
    try:
        outlines = [_rings(rings) for rings in _polygons(document)]
    except RecursionError:
        raise MaskError(f"{path} is not valid GeoJSON: it is nested too deeply") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise MaskError(f"{path} is not valid GeoJSON: {error!r}") from error
    polygons = [
        Polygon(rings[0], tuple(hole for hole in rings[1:] if _has_area(hole)))
        for rings in outlines
        if rings and _has_area(rings[0])
    ]
    if not polygons:
        what = "with an area" if outlines else "at all"
        raise MaskError(f"{path} holds no Polygon or MultiPolygon {what}")
    if len(polygons) < len(outlines):
        logger.warning(
            "%s: %d of %d polygons have no area and are skipped",
            path.name,
            len(outlines) - len(polygons),
            len(outlines),
        )
    return polygons


def _polygons(node: Any, depth: int = 0) -> Iterator[Any]:
    """The coordinates of all polygons."""
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(node, list):  # older QuPath exports are a bare list of features
        parts = node
    elif (kind := node["type"]) == "FeatureCollection":
        parts = node["features"]
    elif kind == "Feature":
        parts = [node["geometry"]] if node["geometry"] else []
    elif kind == "GeometryCollection":
        parts = node["geometries"]
    else:
        if kind == "Polygon":
            yield node["coordinates"]
        elif kind == "MultiPolygon":
            yield from node["coordinates"]
        return
    for part in parts:
        yield from _polygons(part, depth + 1)


def _rings(coordinates: list[list[list[float]]]) -> list[Ring]:
    """The rings of a polygon, outline first; those that are empty have shape (0, 2)."""
    rings = []
    for ring in coordinates:
        vertices = np.array([vertex[:2] for vertex in ring], dtype=np.float64).reshape(-1, 2)
        if len(vertices) != len(ring) or not np.isfinite(vertices).all():
            raise ValueError(f"a ring must be finite (x, y), not {str(ring)[:60]}")
        rings.append(vertices)
    return rings


def _has_area(ring: Ring) -> bool:
    """Whether a ring has three vertices that do not lie in a line."""
    if len(ring) < 3:
        return False
    sides = ring - ring[0]
    return bool(np.linalg.matrix_rank(sides) == 2)
