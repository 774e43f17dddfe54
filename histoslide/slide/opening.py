"""Open a slide with the best reader that can."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import openslide
import tifffile

from histoslide.errors import ResolutionError, SlideOpenError
from histoslide.geometry import Mpp
from histoslide.slide.base import Slide
from histoslide.slide.openslide_slide import (
    DEFAULT_CACHE_BYTES,
    OpenSlideSlide,
    recorded_by_openslide,
)
from histoslide.slide.tiff.directory import TiffDirectory
from histoslide.slide.tiff.kinds import refuse_unreadable, words_for
from histoslide.slide.tiff.ome import OmeImage
from histoslide.slide.tiff.own import OwnTiff, recorded_mpp, square_mpp
from histoslide.slide.tiff.salvaged import SalvagedTiff
from histoslide.slide.tiff.slide import TiffSlide
from histoslide.storage.location import readable_name

logger = logging.getLogger(__name__)

Reader = Literal["auto", "openslide"]
"""``auto`` takes the tiles of a TIFF directly where it can, ``openslide`` never does."""

OVERRULED = 0.1
"""Relative difference from what a slide records above which a resolution that replaces it is said
to do so."""


def open_slide(
    path: Path | str,
    *,
    mpp: Mpp | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    reader: Reader = "auto",
) -> Slide:
    """Open a slide; see ``OpenSlideSlide`` for the other arguments and errors.

    A tiled TIFF that OpenSlide refuses because its end is missing is opened as far as it goes; one
    that is whole and that OpenSlide does not read, or not rightly, is read by its own tiles or
    refused with the reason. A resolution that no microscope slide has is logged as a warning, not
    refused.

    Args:
        path: slide file.
        mpp: resolution that replaces what the slide records.
        cache_bytes: bound on decoded tiles kept for all threads together.
        reader: ``openslide`` to read every pixel through OpenSlide.
    """
    path = Path(path)
    directory = TiffDirectory.of(path)
    slide: Slide
    if directory is None or not directory.pages:
        slide = _kind(reader)(path, mpp=mpp, cache_bytes=cache_bytes)
    else:
        slide = _open_tiff(path, directory, mpp=mpp, cache_bytes=cache_bytes, reader=reader)
    if slide.mpp is not None and not slide.mpp.plausible:
        logger.warning(
            "%s: %g µm/px (%s) is implausible for a slide scan: check it%s",
            slide.name,
            slide.mpp.value,
            slide.mpp.source,
            ", or pass --mpp" if mpp is None else "; is it in micrometres per pixel of level 0?",
        )
    if mpp is not None:
        _say_what_is_overruled(slide, mpp, _recorded_mpp(path, slide, directory))
    return slide


def _say_what_is_overruled(slide: Slide, given: Mpp, recorded: Mpp | None) -> None:
    if recorded is not None and abs(given.value / recorded.value - 1) > OVERRULED:
        slide.warn(
            f"{given.value:g} µm/px ({given.source}) overrules the {recorded.value:.4g} µm/px that "
            "the slide records"
        )


def _recorded_mpp(path: Path, slide: Slide, directory: TiffDirectory | None) -> Mpp | None:
    """What a slide itself records, where that can be used."""
    try:
        if directory is not None and directory.pages and (ome := _ome_mpp(slide.name, directory)):
            return ome
        if isinstance(slide, OpenSlideSlide):
            return recorded_by_openslide(slide.name, slide.properties)
        with tifffile.TiffFile(path) as tiff:
            return recorded_mpp(tiff.pages.first)
    except ResolutionError:
        return None


def _kind(reader: Reader) -> type[OpenSlideSlide]:
    return TiffSlide if reader == "auto" else OpenSlideSlide


def _open_tiff(
    path: Path, directory: TiffDirectory, *, mpp: Mpp | None, cache_bytes: int, reader: Reader
) -> Slide:
    name = readable_name(path)
    refuse_unreadable(name, directory)
    own = OwnTiff.open(path, mpp=mpp) if _misread(path, directory) else None
    if own is not None:
        return own
    if mpp is None:
        mpp = _ome_mpp(name, directory)
    try:
        return _kind(reader)(path, mpp=mpp, cache_bytes=cache_bytes)
    except SlideOpenError as error:
        return _left_by_openslide(path, directory, error, mpp=mpp)


def _misread(path: Path, directory: TiffDirectory) -> bool:
    """Whether OpenSlide opens a generic TIFF, but not as it is meant."""
    first = directory.pages[0]
    below = bool(first.sub_pages) and OmeImage.of(first.description) is not None
    # OpenSlide takes a fourth sample for transparency, also where the file says that it is none.
    meaningless = first.samples == 4 and first.further_sample == 0
    return (below or meaningless) and openslide.OpenSlide.detect_format(path) == "generic-tiff"


def _ome_mpp(name: str, directory: TiffDirectory) -> Mpp | None:
    ome = OmeImage.of(directory.pages[0].description)
    if ome is None or ome.um_x is None or ome.um_y is None:
        return None
    return square_mpp(name, ome.um_x, ome.um_y)


def _left_by_openslide(
    path: Path, directory: TiffDirectory, error: SlideOpenError, *, mpp: Mpp | None
) -> Slide:
    """A TIFF that OpenSlide refuses: cut off, or of a kind that can be read all the same.

    Raises:
        SlideOpenError: neither.
    """
    rest = SalvagedTiff.open(path, mpp=mpp)
    if rest is not None:
        logger.warning(
            "%s; it is a damaged TIFF: what is left of it is read, %d of %d tiles",
            error,
            rest.segments_left,
            rest.segments_in_all,
        )
        return rest
    reason = str(error.__cause__ or error)
    if "compression" in reason.lower() and (own := OwnTiff.open(path, mpp=mpp)) is not None:
        return own
    raise SlideOpenError(f"{path} cannot be read: it is {words_for(directory, reason)}") from error
