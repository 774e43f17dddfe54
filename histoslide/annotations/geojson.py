"""Polygons of GeoJSON as QuPath writes it, with the class of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.annotations.annotation import Annotation, Annotations, as_ring
from histoslide.annotations.polygons import Polygon
from histoslide.errors import AnnotationError

_DEEPEST = 100
"""Most collections within each other; QuPath nests two."""


def parse_json(raw: bytes, path: Path) -> Any:
    """The content of a file of GeoJSON or other JSON with polygons.

    Raises:
        AnnotationError: it is no JSON.
    """
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise AnnotationError(f"{path} is not valid GeoJSON: it is nested too deeply") from None
    except ValueError as reason:  # of encoding, of JSON, or a number of thousands of digits
        raise AnnotationError(f"{path} cannot be read as GeoJSON: {reason}") from reason


def geojson_annotations(document: Any, path: Path) -> Annotations:
    """Polygons of parsed GeoJSON: of collections, features, geometries, and bare lists of them.

    QuPath crops a slide to its bounds and counts from their corner; files that ``export`` and
    ``view --review`` write for it say which corner that is, and it is added again.

    Args:
        document: content of the file.
        path: of the file, for messages.

    Raises:
        AnnotationError: it is not GeoJSON.
    """
    try:
        corner = corner_l0(document)
        drawn = [_moved(item, corner) for item in _drawn(document)]
    except RecursionError:
        raise AnnotationError(f"{path} is not valid GeoJSON: it is nested too deeply") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as reason:
        raise AnnotationError(f"{path} is not valid GeoJSON: {reason!r}") from reason
    return Annotations.tidied(path, drawn)


def corner_l0(document: Any) -> NDArray[np.float64]:
    """Where on the slide a file of ours counts from, (x, y); others count from its corner.

    Raises:
        TypeError, ValueError, OverflowError: what it says is no place.
    """
    facts = document.get("histoslide") if isinstance(document, dict) else None
    if not isinstance(facts, dict):
        return np.zeros(2)
    review = facts.get("review")
    place = facts if "corner_l0" in facts or not isinstance(review, dict) else review
    x, y = place.get("corner_l0", (0.0, 0.0))
    corner = np.array([float(x), float(y)])
    if not np.isfinite(corner).all():
        raise ValueError(f"corner_l0 is {x}, {y}")
    return corner


def _moved(item: Annotation, by: NDArray[np.float64]) -> Annotation:
    if not by.any():
        return item
    polygon = item.polygon
    moved = Polygon(polygon.outline + by, tuple(hole + by for hole in polygon.holes))
    return replace(item, polygon=moved)


def _drawn(node: Any, class_name: str = "", name: str = "", depth: int = 0) -> Iterator[Annotation]:
    """All polygons of a part; what it says of class and name holds for all that is in it."""
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(node, list):  # older QuPath exports are a bare list of features
        parts = node
    elif (kind := node["type"]) == "FeatureCollection":
        parts = node["features"]
    elif kind == "Feature":
        parts = [node["geometry"]] if node["geometry"] else []
        properties = node.get("properties") or {}
        class_name = _class_of(properties) or class_name
        name = str(properties.get("name") or name)
    elif kind == "GeometryCollection":
        parts = node["geometries"]
    else:
        polygons = node["coordinates"] if kind in ("Polygon", "MultiPolygon") else []
        for rings in [polygons] if kind == "Polygon" else polygons:
            outline, *holes = [as_ring(ring) for ring in rings] or [as_ring([])]
            yield Annotation(Polygon(outline, tuple(holes)), class_name, name)
        return
    for part in parts:
        yield from _drawn(part, class_name, name, depth + 1)


def _class_of(properties: Any) -> str:
    """The class as QuPath writes it, or as its versions before 0.3 and other programs do."""
    given = properties.get("classification")
    if isinstance(given, dict):
        given = given.get("name") or ": ".join(map(str, given.get("names") or ()))
    return str(given or "")
