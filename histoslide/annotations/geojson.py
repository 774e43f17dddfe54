"""Polygons of GeoJSON as QuPath writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from histoslide.annotations.polygons import Polygon
from histoslide.errors import MaskError


def read_geojson(path: Path) -> list[Polygon]:
    """Polygons of a GeoJSON file as QuPath writes it, with coordinates in level-0 pixels.

    Raises:
        MaskError: unreadable, not GeoJSON, or without any polygon.
    """
    try:
        polygons = _polygons(json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise MaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MaskError(f"{path} cannot be read as GeoJSON: {error}") from error
    except RecursionError:
        raise MaskError(f"{path} is not valid GeoJSON: it is nested too deeply") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise MaskError(f"{path} is not valid GeoJSON: {error!r}") from error
    if not polygons:
        raise MaskError(f"{path} holds no Polygon or MultiPolygon")
    return polygons


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
