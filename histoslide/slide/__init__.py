"""Slides: what any reader offers, the reader over OpenSlide, and one that is faster on TIFF."""

from histoslide.slide.base import Slide, require_mpp
from histoslide.slide.facts import SlideFacts
from histoslide.slide.finding import (
    SLIDE_SUFFIXES,
    find_slides,
    is_slide_file,
    refuse_what_is_no_slide,
)
from histoslide.slide.opening import Reader, open_slide
from histoslide.slide.openslide_slide import (
    DEFAULT_CACHE_BYTES,
    MAX_AXIS_DIFFERENCE,
    OpenSlideSlide,
)
from histoslide.slide.resolutions import match_names, read_mpp_csv
from histoslide.slide.tiff.slide import MAX_CHANNEL_DIFFERENCE, TiffSlide

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "MAX_AXIS_DIFFERENCE",
    "MAX_CHANNEL_DIFFERENCE",
    "SLIDE_SUFFIXES",
    "OpenSlideSlide",
    "Reader",
    "Slide",
    "SlideFacts",
    "TiffSlide",
    "find_slides",
    "is_slide_file",
    "match_names",
    "open_slide",
    "read_mpp_csv",
    "refuse_what_is_no_slide",
    "require_mpp",
]
