"""Reviews as GeoJSON that QuPath (0.4 and later) opens, and writes again.

Coordinates are level-0 pixels from where QuPath counts, which is the corner of the scanned part.
What QuPath adds, measurements and objects of other kinds, stays.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from histoslide.annotations.geojson import corner_l0
from histoslide.errors import HistoslideError, ReviewError
from histoslide.review.objects import (
    FocusOrigin,
    Outline,
    Review,
    ReviewedSlide,
    ReviewObject,
    class_colour,
    outline_of,
)
from histoslide.storage.records import builtins_from_json, to_builtins

NOTICE = "Research use only. Not a medical device; not for diagnosis."

FOCUS, HEATMAP, MODEL = "Review of focus", "Heatmap id", "Model sha256"
"""Names in a focus's ``metadata``, which QuPath keeps; the first makes it one. What was decided is
its class."""

_NAMESPACE = uuid.UUID("b5b7f0f4-8f8e-4b07-9f6e-2c1f0f3d1a55")
_OUTLINES = ("Polygon", "MultiPolygon")


def read_review(path: Path, slide: ReviewedSlide | None = None) -> Review:
    """A review as it lies in a file.

    Args:
        path: of the file.
        slide: the slide that it should speak of; None for any, whose coordinates then stay as the
            file says where it does not say where they count from.

    Raises:
        ReviewError: there is no such file, it cannot be read, or speaks of another slide.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ReviewError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_review(raw, slide, source=path, version="")


def is_review(path: Path) -> bool:
    """Whether a file is a review, and no other annotations: by what it says, or by its foci.

    QuPath drops the one and keeps the other.

    Raises:
        ReviewError: it cannot be read.
    """
    if path.suffix.lower() not in {".geojson", ".json"}:
        return False  # masks may have gigabytes
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ReviewError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        document = builtins_from_json(raw.removeprefix(b"\xef\xbb\xbf"), source=path)
        features = _features(document, path)
    except HistoslideError:
        return False  # whoever reads annotations says what is wrong with it
    facts = document.get("histoslide") if isinstance(document, dict) else None
    if isinstance(facts, dict) and "review" in facts:
        return True
    properties = (feature.get("properties") for feature in features)
    return any(_origin(it) is not None for it in properties if isinstance(it, dict))


def parse_review(raw: bytes, slide: ReviewedSlide | None, *, source: Path, version: str) -> Review:
    """A review from the text of a file.

    Raises:
        ReviewError: it is no GeoJSON, or speaks of another slide.
    """
    document = builtins_from_json(
        raw.removeprefix(b"\xef\xbb\xbf"), source=source, error=ReviewError
    )
    try:
        _text(document)
    except (ValueError, RecursionError):
        raise ReviewError(f"{source} is not GeoJSON: it holds numbers that are none") from None
    facts = document.get("histoslide") if isinstance(document, dict) else None
    corner = _corner(facts if isinstance(facts, dict) else {}, slide, source)
    objects: list[ReviewObject] = []
    others: list[Any] = []
    for number, feature in enumerate(_features(document, source), start=1):
        kept = _object(feature, corner, f"{source}: feature {number}")
        objects += [kept] if kept else []
        others += [] if kept else [feature]
    return Review(version=version, objects=tuple(_told_apart(objects)), others=tuple(others))


def _told_apart(objects: Sequence[ReviewObject]) -> Iterator[ReviewObject]:
    """The same with other ids for those that are there twice."""
    seen: Counter[str] = Counter()
    for kept in objects:
        again = seen[kept.id]
        seen[kept.id] += 1
        yield replace(kept, id=str(uuid.uuid5(_NAMESPACE, f"{kept.id} {again}"))) if again else kept


def review_text(review: Review, slide: ReviewedSlide) -> Iterator[str]:
    """A review as the pieces of a file, one feature a line."""
    facts = {"notice": NOTICE, "review": to_builtins(slide)}
    yield '{"type": "FeatureCollection",\n"histoslide": ' + _text(facts) + ',\n"features": ['
    separator = "\n"
    for feature in (*(_feature(it, slide) for it in review.objects), *review.others):
        yield separator + _text(feature)
        separator = ",\n"
    yield "\n]}\n"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _corner(
    facts: Mapping[str, Any], slide: ReviewedSlide | None, source: Path
) -> tuple[float, float]:
    """Where a file counts from.

    Raises:
        ReviewError: it says that it speaks of another slide.
    """
    recorded = facts.get("review")
    recorded = recorded if isinstance(recorded, dict) else {}
    name, quickhash = recorded.get("name"), recorded.get("quickhash")
    if slide is not None and quickhash is not None and quickhash != slide.quickhash:
        raise ReviewError(
            f"{source} is the review of {name}, not of {slide.name}: name another file"
        )
    if slide is not None:
        return slide.corner_l0
    try:
        x, y = corner_l0({"histoslide": dict(facts)}).tolist()
    except (TypeError, ValueError, OverflowError):
        raise ReviewError(f"{source} cannot be read: its corner_l0 is no place") from None
    return x, y


def _features(document: Any, source: Path) -> list[Any]:
    found = document
    if isinstance(document, dict):
        found = [document] if document.get("type") == "Feature" else document.get("features")
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise ReviewError(f"{source} is not GeoJSON: it holds no list of features")
    return found


def _object(
    feature: Mapping[str, Any], corner: tuple[float, float], where: str
) -> ReviewObject | None:
    """An annotation; None for whatever else QuPath keeps.

    Raises:
        ReviewError: its outline is none.
    """
    geometry, properties = feature.get("geometry"), feature.get("properties") or {}
    if not isinstance(geometry, dict) or geometry.get("type") not in _OUTLINES:
        return None
    if not isinstance(properties, dict):
        raise ReviewError(f"{where} cannot be read: its properties are no object")
    # QuPath 0.2 wrote object_type, and ids of features that only told their kind.
    if properties.get("objectType", "annotation") != "annotation":
        return None
    try:
        outline = _outline(geometry, corner)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise ReviewError(f"{where} cannot be read: its outline is none") from None
    return ReviewObject(
        id=_id(feature),
        class_name=_class_name(properties),
        outline_l0=outline,
        origin=_origin(properties),
        properties=properties,
    )


def _outline(geometry: Mapping[str, Any], corner: tuple[float, float]) -> Outline:
    """The outline of a feature, whether or not its rings are closed.

    Raises:
        ValueError: it is none.
    """
    polygons = geometry["coordinates"]
    polygons = [polygons] if geometry["type"] == "Polygon" else polygons
    # Only x and y: other programs add heights.
    outline = outline_of(
        [
            [[(float(x) + corner[0], float(y) + corner[1]) for x, y, *_ in ring] for ring in rings]
            for rings in polygons
        ]
    )
    if outline.is_empty:
        raise ValueError("it is empty")
    return outline


def _id(feature: Mapping[str, Any]) -> str:
    known = feature.get("id")
    if isinstance(known, str) and len(known) >= 30:  # older QuPath wrote the kind of object there
        return known
    return str(uuid.uuid5(_NAMESPACE, json.dumps(feature, sort_keys=True)))


def _class_name(properties: Mapping[str, Any]) -> str | None:
    known = properties.get("classification")
    if isinstance(known, dict):
        names = known.get("names")  # of derived classes since QuPath 0.4
        known = known.get("name") or (": ".join(map(str, names)) if names else None)
    return known if isinstance(known, str) and known else None


def _origin(properties: Mapping[str, Any]) -> FocusOrigin | None:
    metadata = properties.get("metadata")
    if not isinstance(metadata, dict) or FOCUS not in metadata:
        return None
    number, heatmap, model = (str(metadata.get(name, "")) for name in (FOCUS, HEATMAP, MODEL))
    return FocusOrigin(
        number=int(number) if re.fullmatch("[0-9]{1,9}", number) else None,
        heatmap_id=heatmap or None,
        model_sha256=model or None,
    )


def _feature(kept: ReviewObject, slide: ReviewedSlide) -> dict[str, Any]:
    properties = {"objectType": "annotation"} | dict(kept.properties)
    properties.pop("classification", None)
    if kept.class_name is not None:
        colour = list(class_colour(kept.class_name))
        properties["classification"] = {"name": kept.class_name, "color": colour}
    if kept.origin is not None:
        origin = kept.origin
        number = "" if origin.number is None else str(origin.number)
        properties.setdefault("name", f"Focus {number}".strip())
        said = {FOCUS: number, HEATMAP: origin.heatmap_id, MODEL: origin.model_sha256}
        before = properties.get("metadata")
        properties["metadata"] = (before if isinstance(before, dict) else {}) | {
            name: text for name, text in said.items() if text is not None
        }
    return {
        "type": "Feature",
        "id": kept.id,
        "geometry": _geometry(kept.outline_l0, slide.corner_l0),
        "properties": properties,
    }


def _geometry(outline: Outline, corner: tuple[float, float]) -> dict[str, Any]:
    moved: Any = outline
    if any(corner):
        moved = shapely.transform(outline, lambda points: points - np.array(corner))
    assert math.isfinite(moved.area)
    return dict(shapely.geometry.mapping(moved))
