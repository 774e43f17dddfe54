"""Which image of a TIFF holds which level of a slide, as OpenSlide chooses them.

A level that is not matched for certain has no segments here; it is then read through OpenSlide.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import tifffile

from histoslide.geometry import Size
from histoslide.slide.tiff.segments import TiffSegments, UnsupportedSegmentsError

logger = logging.getLogger(__name__)

_REDUCED_IMAGE = 1
"""Bit of the TIFF tag NewSubfileType that marks a coarser copy of another image."""


def direct_levels(
    path: Path, vendor: str, sizes: Sequence[Size]
) -> tuple[TiffSegments | None, ...]:
    """The segments of every level whose image in the file is known and understood.

    Args:
        path: of the slide.
        vendor: what OpenSlide calls the format.
        sizes: of the levels in their own pixels, finest first.

    Returns:
        For each level its segments, or None where they are not known for certain.
    """
    nothing = (None,) * len(sizes)
    if vendor not in _PAGES:
        return nothing
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = _PAGES[vendor](tiff)
            if len(pages) != len(sizes):
                logger.debug("%s: %d images for %d levels", path, len(pages), len(sizes))
                return nothing
            if vendor == "aperio" and not all(all(page.databytecounts) for page in pages):
                # OpenSlide draws them from the next finer level, in the coarser levels as well.
                logger.debug("%s: segments are missing", path)
                return nothing
            found = [_described(path, page, size) for page, size in zip(pages, sizes, strict=True)]
    except Exception:  # tifffile meets files that it does not foresee, and fails in any way
        logger.debug("%s: its directory is not understood", path, exc_info=True)
        return nothing
    return tuple(found)


def _described(path: Path, page: tifffile.TiffPage, size: Size) -> TiffSegments | None:
    try:
        segments = TiffSegments.of_page(page)
    except UnsupportedSegmentsError as error:
        logger.debug("%s: page %d: %s", path, page.index, error)
        return None
    if segments.size != size:
        logger.debug("%s: page %d is %s, not %s", path, page.index, segments.size, size)
        return None
    return segments


def _tiled_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Tiled pages in the order of the file."""
    pages = [page.aspage() for page in tiff.pages]
    return [page for page in pages if page.is_tiled]


def _generic_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The first page and its reductions, widest first; none where two are equally wide."""
    pages = [
        page
        for page in _tiled_pages(tiff)
        if page.index == 0 or int(page.subfiletype) & _REDUCED_IMAGE
    ]
    pages.sort(key=lambda page: -int(page.imagewidth))
    widths = {page.imagewidth for page in pages}
    return pages if len(widths) == len(pages) else []


_PAGES = {"generic-tiff": _generic_pages, "aperio": _tiled_pages, "philips": _tiled_pages}
"""The pages that hold the levels, finest first, by OpenSlide's name of the format."""
