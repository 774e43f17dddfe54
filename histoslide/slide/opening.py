"""Open a slide with the best reader that can."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from histoslide.errors import SlideOpenError
from histoslide.geometry import Mpp
from histoslide.slide.base import Slide
from histoslide.slide.openslide_slide import DEFAULT_CACHE_BYTES, OpenSlideSlide
from histoslide.slide.tiff.salvaged import SalvagedTiff
from histoslide.slide.tiff.slide import TiffSlide

logger = logging.getLogger(__name__)

Reader = Literal["auto", "openslide"]
"""``auto`` takes the tiles of a TIFF directly where it can, ``openslide`` never does."""


def open_slide(
    path: Path,
    *,
    mpp: Mpp | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    reader: Reader = "auto",
) -> Slide:
    """Open a slide; see ``OpenSlideSlide`` for the other arguments and errors.

    A tiled TIFF that OpenSlide refuses because its end is missing is opened as far as it goes. A
    resolution that no microscope slide has is logged as a warning, not refused.

    Args:
        path: slide file.
        mpp: resolution that replaces what the slide records.
        cache_bytes: bound on decoded tiles kept for all threads together.
        reader: ``openslide`` to read every pixel through OpenSlide.
    """
    slide: Slide
    kind = TiffSlide if reader == "auto" else OpenSlideSlide
    try:
        slide = kind(path, mpp=mpp, cache_bytes=cache_bytes)
    except SlideOpenError as error:
        rest = SalvagedTiff.open(path, mpp=mpp)
        if rest is None:
            raise
        logger.warning(
            "%s; it is a damaged TIFF: what is left of it is read, %d of %d tiles",
            error,
            rest.segments_left,
            rest.segments_in_all,
        )
        slide = rest
    if slide.mpp is not None and not slide.mpp.plausible:
        logger.warning(
            "%s: %g µm/px (%s) is implausible for a slide scan: check it, or pass --mpp",
            slide.name,
            slide.mpp.value,
            slide.mpp.source,
        )
    return slide
