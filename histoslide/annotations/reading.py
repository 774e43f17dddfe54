"""Annotations of any format, recognised by content: the file's name says nothing."""

from __future__ import annotations

from pathlib import Path

from histoslide.annotations.annotation import Annotations
from histoslide.annotations.asap import is_asap, read_asap
from histoslide.annotations.geojson import geojson_annotations, parse_json
from histoslide.annotations.positive_negative import is_positive_negative, read_positive_negative
from histoslide.errors import AnnotationError

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How PNG and TIFF files begin."""


_LOOKED_AT, _BEFORE = 4096, b"\xef\xbb\xbf \t\r\n"
"""Bytes that are looked at, and those that may come before XML and JSON."""


def is_picture(path: Path) -> bool:
    """Whether a file is a mask picture (PNG or TIFF).

    Raises:
        AnnotationError: it cannot be read.
    """
    return _beginning(path).startswith(_PICTURES)


def holds_text(path: Path) -> bool:
    """Whether a file begins as XML or JSON do, and not as a picture or what else is in bytes.

    Raises:
        AnnotationError: it cannot be read.
    """
    return _beginning(path).lstrip(_BEFORE).startswith((b"<", b"{", b"["))


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LOOKED_AT)
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from error


def read_annotations(path: Path) -> Annotations:
    """The polygons of a file: ASAP's XML, GeoJSON, or NCRF's JSON of positives and negatives.

    Raises:
        AnnotationError: it cannot be read, or is none of them.
    """
    if is_picture(path):
        raise AnnotationError(f"{path} is a picture, which has no polygons")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from error
    if is_asap(raw):
        return read_asap(raw, path)
    document = parse_json(raw, path)
    if is_positive_negative(document):
        return read_positive_negative(document, path)
    return geojson_annotations(document, path)
