"""Polygons as NCRF has them, a JSON of CAMELYON16's lesions.

``{"positive": [{"name": "_0", "vertices": [[x, y], …]}, …], "negative": […]}`` in level-0 pixels
(github.com/baidu-research/NCRF). The two keys are the classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histoslide.annotations.annotation import Annotation, Annotations, as_ring
from histoslide.annotations.polygons import Polygon
from histoslide.errors import AnnotationError

_KEYS = ("positive", "negative")


def is_positive_negative(document: Any) -> bool:
    """Whether parsed JSON is of this kind."""
    return isinstance(document, dict) and "type" not in document and bool({*_KEYS} & {*document})


def read_positive_negative(document: Any, path: Path) -> Annotations:
    """Read parsed JSON.

    Args:
        document: content of the file.
        path: of the file, for messages.

    Raises:
        AnnotationError: a polygon is none.
    """
    drawn = []
    for key in _KEYS:
        try:
            for part in document.get(key) or ():
                ring = as_ring(part["vertices"])
                drawn.append(Annotation(Polygon(ring), key, str(part.get("name", ""))))
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise AnnotationError(
                f"{path} cannot be read: the polygons of {key!r}: {error!r}"
            ) from error
    return Annotations.tidied(path, drawn)
