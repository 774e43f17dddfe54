"""A review as values: outlines with a class, some of which are foci that a heatmap showed."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import shapely

Outline = shapely.Polygon | shapely.MultiPolygon

TUMOUR, NORMAL, IGNORED = "Tumor", "Normal", "Ignore*"
"""Classes on offer, as QuPath and the annotations of CAMELYON call them. QuPath leaves out of its
measurements what ends with an asterisk."""

CLASS_COLOURS: Mapping[str, tuple[int, int, int]] = {
    TUMOUR: (200, 0, 0),
    NORMAL: (0, 110, 200),
    IGNORED: (120, 120, 120),
}
"""RGB of outlines; of Tumor and Ignore* as in QuPath."""

_NAMESPACE = uuid.UUID("0d3f4a0e-6f0a-4a2e-9a61-6b1f4f0f3c77")
"""Of ids of foci, so that a focus that is found again is the same one."""


@dataclass(frozen=True, kw_only=True)
class ReviewedSlide:
    """The slide that a review speaks of."""

    name: str
    """File name."""
    quickhash: str
    """Tells slides apart."""
    size_l0: tuple[int, int]
    """Width and height in level-0 pixels."""
    corner_l0: tuple[float, float] = (0.0, 0.0)
    """Where QuPath counts from: the corner of the scanned part, in level-0 pixels."""


@dataclass(frozen=True, kw_only=True)
class FocusOrigin:
    """Where a focus was shown when it was judged."""

    number: int | None = None
    """In the list of foci, from 1."""
    heatmap_id: str | None = None
    """Of the heatmap."""
    model_sha256: str | None = None
    """Of the weights that scored it."""


@dataclass(frozen=True, kw_only=True)
class ReviewObject:
    """An outline that a person gave a class."""

    id: str
    """Tells it from others of the same slide."""
    class_name: str | None
    """None where the file gives none."""
    outline_l0: Outline = field(repr=False)
    """In level-0 pixels of the slide."""
    origin: FocusOrigin | None = None
    """Of a focus: where it was shown; None of what was drawn."""
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All else that the file says of it, kept as it is."""

    @property
    def is_focus(self) -> bool:
        """Whether a heatmap showed it, and nobody drew it."""
        return self.origin is not None

    @property
    def version(self) -> str:
        """Changes with whatever of it can be changed."""
        text = json.dumps([self.class_name, polygons_of(self.outline_l0)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Review:
    """All that was said of one slide."""

    version: str
    """Changes with the file; empty while there is none."""
    objects: tuple[ReviewObject, ...] = ()
    """In the order of the file."""
    others: tuple[Any, ...] = field(default=(), repr=False)
    """Features that are no outlines, such as points, kept as they are."""


def decision_classes(class_name: str, tumour_class: str | None) -> tuple[str, str]:
    """What a focus of a class of a model is called once it is accepted, and once it is rejected.

    Args:
        class_name: of the model.
        tumour_class: the model's, or None.
    """
    if class_name == tumour_class:
        return TUMOUR, NORMAL
    return class_name, f"Not {class_name}"


def class_colour(name: str | None) -> tuple[int, int, int]:
    """RGB of a class: the same in every file."""
    if name is None:
        return (90, 90, 90)
    if name in CLASS_COLOURS:
        return CLASS_COLOURS[name]
    mixed = zlib.crc32(name.encode())
    return (60 + mixed % 120, 60 + (mixed >> 8) % 120, 60 + (mixed >> 16) % 120)


def focus_id(quickhash: str, outline_l0: Outline) -> str:
    """Names a focus by its slide and its outline: by whatever settings or run it is found again.

    Args:
        quickhash: of the slide.
        outline_l0: in level-0 pixels.
    """
    text = json.dumps(polygons_of(outline_l0))
    return str(uuid.uuid5(_NAMESPACE, f"{quickhash} {text}"))


def polygons_of(outline: Outline) -> list[list[list[tuple[float, float]]]]:
    """Polygons of rings of points, the outer ring first, none closed by its first point again."""
    parts: Sequence[shapely.Polygon] = getattr(outline, "geoms", [outline])
    return [
        [[(x, y) for x, y in ring.coords[:-1]] for ring in (part.exterior, *part.interiors)]
        for part in parts
    ]


def outline_of(polygons: Sequence[Sequence[Sequence[Sequence[float]]]]) -> Outline:
    """The outline that ``polygons_of`` made these of.

    Raises:
        ValueError: a ring has fewer than three points, or one that is no place.
    """
    numbers = (part for rings in polygons for ring in rings for point in ring for part in point)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a ring must be of finite points")
    parts = [shapely.Polygon(rings[0], rings[1:]) for rings in polygons if rings]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
