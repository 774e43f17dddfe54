"""Masks and regions of interest from files: pictures that span the slide, or polygons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.annotations.annotation import Annotations
from histoslide.annotations.class_map import DEFAULT_ROLES, Role
from histoslide.annotations.polygons import Polygon
from histoslide.annotations.rasterise import rasterise
from histoslide.annotations.reading import holds_text, read_annotations
from histoslide.errors import AnnotationError, MaskError
from histoslide.slide import Slide
from histoslide.storage.pictures import DAMAGED_PICTURE, open_picture
from histoslide.tissue.masks import TissueMask, mask_size

logger = logging.getLogger(__name__)

_LEFT_OUT = frozenset(
    name
    for name, role in DEFAULT_ROLES.items()
    if role == Role.EXCLUDED or (role == Role.NORMAL and name != "normal")
)
"""Classes in lower case whose areas are cut out. Normal tissue is tissue; the other names of
``Role.NORMAL`` are those of holes."""

_NOT_DRAWN = frozenset(name for name, role in DEFAULT_ROLES.items() if role == Role.NOTHING)
"""Classes in lower case that are passed over."""

_DEGREES = 360
"""Coordinates within which all of a drawing lies that is not in pixels."""


def read_mask(path: Path | str, slide: Slide) -> TissueMask:
    """A mask from a file, recognised by its content.

    A picture spans the slide, and non-zero is tissue. Of polygons, in any format of
    ``read_annotations``, all that is drawn is tissue, less what is drawn in classes that say that
    it shall be left out (``Ignore*``, ``excluded``, ``Exclusion``, ``_2``, ``negative``). One that
    marks nothing, as polygons of another slide do, is logged as a warning.

    Args:
        path: of the file.
        slide: open.

    Raises:
        MaskError: unreadable, without polygons, or a picture whose sides are not in proportion to
            the slide.
        ResolutionUnknownError: polygons for a slide of unknown resolution.
    """
    path = Path(path)
    settings: dict[str, Any] = {"file": path.name}
    why = ""
    try:
        if holds_text(path):
            drawn = read_annotations(path)
            mask, why, classes = _rasterised(drawn, slide)
            settings |= classes
        else:
            mask = _read_picture(path, slide)
    except AnnotationError as error:
        raise MaskError(str(error)) from error
    warnings = slide.facts.warnings
    if not mask.any():
        logger.warning("%s marks nothing on %s%s", path.name, slide.name, why)
        warnings = (*warnings, f"{path.name} marks nothing{why}")
    return TissueMask(mask=mask, method="file", settings=settings, warnings=warnings)


def _rasterised(
    drawn: Annotations, slide: Slide
) -> tuple[NDArray[np.bool_], str, dict[str, list[str]]]:
    """The mask of polygons, why it may mark nothing, and which classes went into it, if several."""
    name = drawn.source.name
    if drawn.mended:
        mended = "; ".join(f"{count} {what}" for what, count in drawn.mended.items())
        logger.warning("%s: %s", name, mended)
    if not drawn.items:
        empty = any(what.startswith("polygons") for what in drawn.mended)
        what = "with an area" if empty else "at all"
        raise MaskError(f"{drawn.source} holds no polygon {what}")
    left_out = [it.polygon for it in drawn.items if it.class_name.lower() in _LEFT_OUT]
    taken = [it.polygon for it in drawn.items if _is_taken(it.class_name)]
    size = mask_size(slide)
    mask = rasterise(taken, slide.size_l0, size)
    if left_out:
        mask &= ~rasterise(left_out, slide.size_l0, size)
    classes: dict[str, list[str]] = {}
    if len(drawn.classes) > 1 or left_out:
        classes["classes"] = [it for it in drawn.classes if _is_taken(it)]
        classes["left_out"] = [it for it in drawn.classes if it.lower() in _LEFT_OUT]
        without = f", without {', '.join(classes['left_out'])}" if left_out else ""
        logger.info("%s: takes %s%s", name, ", ".join(classes["classes"]) or "nothing", without)
    return mask, _why_nothing(taken, slide), classes


def _is_taken(class_name: str) -> bool:
    return class_name.lower() not in _LEFT_OUT | _NOT_DRAWN


def _why_nothing(polygons: Sequence[Polygon], slide: Slide) -> str:
    """Why polygons that mark nothing may do so."""
    if not polygons:
        return ": all that is drawn is of classes that are left out"
    points = np.concatenate([polygon.outline for polygon in polygons])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    width, height = slide.size_l0.width, slide.size_l0.height
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        return (
            f": it reaches from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}), and the "
            f"slide has {width} × {height} px; is it of another slide?"
        )
    if np.abs(points).max() <= _DEGREES:
        return (
            f": its coordinates all lie within ±{np.abs(points).max():.3g}, as degrees, "
            "millimetres or parts of the slide do; level-0 pixels are needed"
        )
    return ""


def _read_picture(path: Path, slide: Slide) -> NDArray[np.bool_]:
    """A mask from a picture that spans the slide."""
    try:
        with open_picture(path) as image:
            pixels = _marked(image)
    except (*DAMAGED_PICTURE, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MaskError(
            f"{path} is neither a picture that can be read nor polygons (GeoJSON, ASAP's XML, "
            f"NCRF's JSON): {reason}"
        ) from error
    height, width = pixels.shape
    expected = slide.size_l0.width / slide.size_l0.height * height
    # Either side of a shrunk mask may have been rounded by up to a pixel.
    if abs(width - expected) > 1 + slide.size_l0.width / slide.size_l0.height:
        raise MaskError(
            f"{path} is {width}×{height} px, which is not in proportion to {slide.name} "
            f"({slide.size_l0.width}×{slide.size_l0.height}): a mask must span the whole slide"
        )
    return pixels


def _marked(image: Image.Image) -> NDArray[np.bool_]:
    """Pixels of a mask picture that are not zero: by index, or in any channel and not clear."""
    if image.mode in ("1", "L", "P", "I", "I;16", "F"):
        return np.asarray(image) > 0
    rgba = np.asarray(image.convert("RGBA"))
    return (rgba[..., :3] > 0).any(axis=2) & (rgba[..., 3] > 0)
