"""Polygons of ASAP's XML, in which CAMELYON's annotations are published.

A file has ``<Annotation PartOfGroup="Tumor" Type="Polygon">`` with ``<Coordinate Order X Y>`` in
level-0 pixels (github.com/computationalpathologygroup/ASAP). The group is the class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from histoslide.annotations.annotation import Annotation, Annotations, as_ring
from histoslide.annotations.polygons import Polygon
from histoslide.errors import AnnotationError

_WITH_AREA = ("polygon", "spline", "rectangle")
"""Types that surround something; a spline is taken by the points it was drawn through."""


def is_asap(raw: bytes) -> bool:
    """Whether content is XML at all: no other XML is read."""
    return raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def read_asap(raw: bytes, path: Path) -> Annotations:
    """Read the content of a file.

    Args:
        raw: content.
        path: of the file, for messages.

    Raises:
        AnnotationError: it is no XML of ASAP's, or a coordinate is no number.
    """
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise AnnotationError(f"{path} is not ASAP's XML: it declares entities, which ASAP has not")
    try:
        root = ElementTree.fromstring(raw)  # noqa: S314 - no entities in it
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # also of odd encodings
        raise AnnotationError(f"{path} is not valid XML: {error}") from error
    if root.tag != "ASAP_Annotations":
        raise AnnotationError(
            f"{path} is not ASAP's XML: its first element is <{root.tag[:60]}>, not "
            "<ASAP_Annotations>"
        )
    counts: Counter[str] = Counter()
    return Annotations.tidied(path, list(_drawn(root, path, counts)), counts)


def _drawn(root: ElementTree.Element, path: Path, counts: Counter[str]) -> Iterator[Annotation]:
    for element in root.iterfind("./Annotations/Annotation"):
        name = element.get("Name", "")
        if element.get("Type", "Polygon").lower() not in _WITH_AREA:
            counts["dots and measures left out"] += 1
            continue
        vertices: list[tuple[int, list[float]]] = []
        for point in element.iterfind("./Coordinates/Coordinate"):
            try:
                order = int(point.get("Order", len(vertices)))
                pair = [_number(point.get(axis, ""), counts) for axis in ("X", "Y")]
            except ValueError as error:
                raise AnnotationError(
                    f"{path} cannot be read: a coordinate of {name!r} is no number: {error}"
                ) from None
            vertices.append((order, pair))
        vertices.sort(key=lambda vertex: vertex[0])
        try:
            ring = as_ring([pair for _, pair in vertices])
        except ValueError as error:
            raise AnnotationError(f"{path} cannot be read: {name!r}: {error}") from None
        yield Annotation(Polygon(ring), element.get("PartOfGroup", ""), name)


def _number(text: str, counts: Counter[str]) -> float:
    """A number, also as German Windows writes it."""
    if "," in text:
        counts["decimal commas taken for points"] += 1
    return float(text.replace(",", "."))
