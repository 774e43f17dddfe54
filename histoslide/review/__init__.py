"""What a person said of a slide's foci, and drew: kept in GeoJSON that QuPath opens.

``objects`` are the values, ``geojson`` reads and writes them, ``file`` owns the file while it is
changed.
"""

from __future__ import annotations

from histoslide.review.file import ReviewFile
from histoslide.review.geojson import is_review, read_review
from histoslide.review.objects import (
    CLASS_COLOURS,
    IGNORED,
    NORMAL,
    TUMOUR,
    FocusOrigin,
    Review,
    ReviewedSlide,
    ReviewObject,
    class_colour,
    decision_classes,
    focus_id,
    outline_of,
    polygons_of,
)

__all__ = [
    "CLASS_COLOURS",
    "IGNORED",
    "NORMAL",
    "TUMOUR",
    "FocusOrigin",
    "Review",
    "ReviewFile",
    "ReviewObject",
    "ReviewedSlide",
    "class_colour",
    "decision_classes",
    "focus_id",
    "is_review",
    "outline_of",
    "polygons_of",
    "read_review",
]
