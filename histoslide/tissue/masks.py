"""Where a slide holds tissue: masks from a low level, by several methods behind one protocol.

All methods see an overview of about ``MASK_UM`` micrometres a pixel. A method marks what is
stained; ``find_tissue`` then removes pen, dark artefacts and specks, the same for all, and looks
again where the glass was taken for tissue.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray, rgb2hed
from skimage.filters import gaussian, threshold_otsu
from skimage.filters.rank import entropy
from skimage.morphology import closing, disk, remove_small_objects

from histoslide import quantities
from histoslide.geometry import Size
from histoslide.grid.cells import TileGrid
from histoslide.slide import Slide, require_mpp
from histoslide.slide.resampling import read_overview
from histoslide.slide.ycbcr import looks_converted_twice, looks_like_ycbcr
from histoslide.tissue.glass import Glass, find_glass
from histoslide.tissue.hsv import Hsv, saturation_of
from histoslide.tissue.ink import find_ink

logger = logging.getLogger(__name__)

MASK_UM = 8.0
"""Micrometres per pixel of the overview that masks are made from: about one lymphocyte."""

MAX_MASK_PX = 8192
"""Longest side of the overview; only slides of more than 65 mm are seen more coarsely."""

MIN_SPECK_UM2 = 4000.0
"""Stained specks below this area are dust: a square of 63 µm, less than a tile (93 µm)."""

SATURATION_LIMITS = (0.05, 0.12)
"""Bounds on the Otsu threshold of saturation. Glass stays below 0.05 on most scanners; above 0.12
pale and fatty tissue would be lost on slides whose dense tissue pulls the threshold up. A slide
whose threshold would lie lower is faded, or empty: see ``_limited_otsu``."""

HED_LIMITS = (0.008, 0.012)
"""Bounds on the Otsu threshold of summed haematoxylin and eosin density, in scikit-image's units:
natural optical density divided by ln(10⁶)."""

ENTROPY_BITS = 4.2
"""Local grey-level entropy above which a surrounding is textured; flat glass lies near 3."""

DARK_VALUE = 0.20
"""HSV value below which a pixel is a fold, dirt or black pen rather than stained tissue."""

PEN_HUES = (0.18, 0.62)
"""HSV hues from yellow-green to blue, which haematoxylin and eosin do not make."""

PEN_SATURATION = 0.20
"""Saturation from which such a hue is ink rather than a tint of the glass."""

GLASS_MARGIN = (1.25, 0.2)
"""A faded slide's threshold lies at least this many times above what 99.9 % of its glass stay
below, and above this part of the usual lower bound."""

FADED_SATURATION = 0.12
"""HSV saturation that 99 % of the tissue stay below on faded slides; it is 0.27 or more on the
real slides of the tests."""

_COLOURED = 0.01
"""Saturation below which a pixel is grey, and its hue says nothing."""

_TINTED = 0.03
"""Saturation from which glass has a colour of its own."""

_MOSTLY = 0.5
"""Part of a slide, or of its glass, that is most of it."""

_GREY_VALUE = 0.7
"""HSV value below which an uncoloured pixel is no glass."""

_NOT_HE = (
    "this does not look like H&E: {}; probabilities from an H&E model mean nothing on other stains"
)

_WRONG_COLOURS = (
    "{}: the file says wrongly how its colours are coded; correct it and score again, the "
    "probabilities mean nothing"
)

_FADED = (
    "the stain is faint: 99 % of the tissue have a saturation below {:.2f}, fresh H&E has above "
    "0.25; check the mask, and trust neither it nor the probabilities unseen"
)

_TINTED_GLASS = (
    "the glass is tinted (RGB {:.0f}, {:.0f}, {:.0f}): tissue was sought with that colour taken "
    "out, but the model sees it"
)

_INK = (
    "marker ink on {} of the slide is left out; where a translucent pen runs over tissue, "
    "cells are scored all the same"
)

INK_SHARE = "ink"
"""Key in a mask's settings: the part of the overview, 0-1, that was taken for marker ink."""

_BAND_ROWS = 256
"""Rows whose stains are separated at once: in float64, a whole overview would need gigabytes."""

PIXEL_AREA_TOLERANCE = 1e-6
"""Slack in pixels when areas are compared, for float rounding."""


class TissueMethod(Protocol):
    """Marks stained pixels of an overview."""

    @property
    def name(self) -> str:
        """Name for ``--tissue`` and for the heatmap's metadata."""
        ...

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map RGB of shape (h, w, 3) to a mask of shape (h, w)."""
        ...


@dataclass(frozen=True)
class SaturationOtsu:
    """Otsu's threshold on HSV saturation, kept within ``SATURATION_LIMITS``.

    The default. Glass is grey whatever its brightness, stain is coloured.
    """

    name: str = "otsu"

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map RGB of shape (h, w, 3) to a mask of shape (h, w)."""
        saturation = gaussian(saturation_of(rgb), sigma=1)
        return saturation > _limited_otsu(saturation, SATURATION_LIMITS, rgb)


@dataclass(frozen=True)
class StainDensity:
    """Otsu's threshold on haematoxylin plus eosin after colour deconvolution (Ruifrok 2001).

    Better than saturation where grey dust and shadows are coloured by compression.
    """

    name: str = "hed"

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map RGB of shape (h, w, 3) to a mask of shape (h, w)."""
        density = np.empty(rgb.shape[:2], dtype=np.float32)
        for start in range(0, len(rgb), _BAND_ROWS):
            rows = slice(start, start + _BAND_ROWS)
            density[rows] = np.clip(rgb2hed(rgb[rows])[..., :2], 0, None).sum(axis=2)
        density = gaussian(density, sigma=1)
        return density > _limited_otsu(density, HED_LIMITS, rgb)


@dataclass(frozen=True)
class LocalEntropy:
    """Grey-level entropy in a disk of 5 pixels above ``ENTROPY_BITS``.

    Finds unstained and very pale tissue by its texture; also takes in dust and scratches.
    """

    name: str = "entropy"

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map RGB of shape (h, w, 3) to a mask of shape (h, w)."""
        grey = np.rint(rgb2gray(rgb) * 255).astype(np.uint8)
        mask: NDArray[np.bool_] = entropy(grey, disk(5)) > ENTROPY_BITS
        return mask


@dataclass(frozen=True)
class Everything:
    """Every pixel: for slides that are all tissue, and for tests."""

    name: str = "none"

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map RGB of shape (h, w, 3) to a mask of shape (h, w)."""
        return np.ones(rgb.shape[:2], dtype=np.bool_)


METHODS: Mapping[str, TissueMethod] = {
    method.name: method
    for method in (SaturationOtsu(), StainDensity(), LocalEntropy(), Everything())
}
"""Methods by name; a new one is one more entry."""


@dataclass(frozen=True, kw_only=True)
class TissueMask:
    """A mask over the whole slide, at any resolution."""

    mask: NDArray[np.bool_]
    """True on tissue, shape (h, w), spanning the slide exactly."""
    method: str
    """A key of ``METHODS``, or ``file`` for a mask that was given."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the method was told, for the heatmap's metadata."""
    warnings: tuple[str, ...] = ()
    """What a person should know before trusting the mask."""

    @property
    def tissue_share(self) -> float:
        """Part of the slide that is tissue, 0-1."""
        return float(self.mask.mean())

    def fractions(self, grid: TileGrid, *, side_px: int) -> NDArray[np.float64]:
        """The part of a square about each cell's centre that is tissue.

        Args:
            grid: of the slide the mask is of.
            side_px: side of the square in model pixels, for example the label footprint.

        Returns:
            Shape ``grid.shape``, 0-1. Squares are cut at the slide's edge first, so a cell at the
            edge is judged by what of it lies on the slide.
        """
        height, width = self.mask.shape
        side = side_px * grid.scale
        x_edges = _span(grid.cols, grid.cell_l0, side, grid.size_l0.width) * (
            width / grid.size_l0.width
        )
        y_edges = _span(grid.rows, grid.cell_l0, side, grid.size_l0.height) * (
            height / grid.size_l0.height
        )
        # A summed-area table read at real-valued corners gives exact areas: the bilinear
        # interpolation of sums is the sum over fractional pixels.
        # A mask from a file may be as large as the user likes, so whole numbers, and in place.
        dtype = np.int32 if self.mask.size <= np.iinfo(np.int32).max else np.int64
        table = np.zeros((height + 1, width + 1), dtype)
        np.cumsum(self.mask, axis=0, out=table[1:, 1:])
        np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
        columns = _interpolate(table, x_edges, axis=1)
        corners = _interpolate(columns, y_edges, axis=0)
        covered = np.diff(np.diff(corners, axis=1)[:, ::2], axis=0)[::2]
        area = np.diff(y_edges)[::2, None] * np.diff(x_edges)[None, ::2]
        return np.where(
            area > PIXEL_AREA_TOLERANCE, covered / np.maximum(area, PIXEL_AREA_TOLERANCE), 0.0
        ).clip(0, 1)


UNREADABLE_OVERVIEW = "unreadable_overview"
"""Key in a mask's settings: the part of the overview, 0-1, that could not be read and counts as
tissue. Another try may find it readable, and so another mask."""


def mask_size(slide: Slide) -> Size:
    """Size of the overview that a slide's mask is made from.

    Raises:
        ResolutionUnknownError: the slide's resolution is not known.
    """
    factor = require_mpp(slide).value / MASK_UM
    longest = max(slide.size_l0.width, slide.size_l0.height)
    factor = min(factor, 1.0, MAX_MASK_PX / longest)
    return Size(
        max(1, round(slide.size_l0.width * factor)), max(1, round(slide.size_l0.height * factor))
    )


def find_tissue(slide: Slide, method: TissueMethod) -> TissueMask:
    """Find a slide's tissue.

    Parts of the overview that cannot be read count as tissue, so that scoring tries them at full
    resolution instead of passing them over as background.

    Raises:
        ResolutionUnknownError: the slide's resolution is not known.
    """
    size = mask_size(slide)
    rgb, readable = read_overview(slide, size)
    um_per_px = slide.size_l0.width / size.width * require_mpp(slide).value
    settings: dict[str, Any] = {"um_per_px": round(um_per_px, 6)}
    if method.name == Everything.name:
        mask = method(rgb)
        warnings = _darkness_warnings(Hsv.of(rgb))  # of glass, which is in it, colours say nothing
    else:
        mask, warnings, ink_share = _search(slide, rgb, method, um_per_px)
        settings |= {INK_SHARE: round(ink_share, 6)} if ink_share else {}
    warnings = (*_colour_warnings(rgb), *warnings)
    for warning in warnings:
        logger.warning("%s: %s", slide.name, warning)
    if not readable.all():
        settings[UNREADABLE_OVERVIEW] = round(float(1 - readable.mean()), 6)
    return TissueMask(
        mask=mask | ~readable,
        method=method.name,
        settings=settings,
        warnings=(*slide.facts.warnings, *warnings),
    )


def _search(
    slide: Slide, rgb: NDArray[np.uint8], method: TissueMethod, um_per_px: float
) -> tuple[NDArray[np.bool_], tuple[str, ...], float]:
    """Tissue in an overview, what to know about it, and how much of the slide is marker ink."""
    hsv = Hsv.of(rgb)
    mask = clean(method(rgb), hsv, um_per_px)
    if warnings := _darkness_warnings(hsv):
        return mask, warnings, 0.0
    notes: tuple[str, ...] = ()
    if (glass := _misleading_glass(rgb, hsv, mask)) is not None:
        notes = (_TINTED_GLASS.format(*glass.colour),) if glass.tint > _TINTED else ()
        rgb = glass.taken_out_of(rgb)
        hsv = Hsv.of(rgb)
        mask = clean(method(rgb), hsv, um_per_px)
    coloured = (hsv.saturation > PEN_SATURATION) & (hsv.value > DARK_VALUE)
    ink = find_ink(slide, rgb, mask | coloured, smallest_px=_smallest_px(um_per_px))
    ink_share = float(ink.mean())
    if ink_share:
        mask = remove_small_objects(mask & ~ink, max_size=_smallest_px(um_per_px))
        notes = (*notes, _INK.format(quantities.share(ink_share, 2)))
    return mask, (*stain_warnings(hsv, mask), *notes), ink_share


def _misleading_glass(rgb: NDArray[np.uint8], hsv: Hsv, mask: NDArray[np.bool_]) -> Glass | None:
    """The glass, where it was taken for tissue or makes the stain look like another one."""
    doubts = stain_warnings(hsv, mask)
    if not doubts and mask.mean() <= _MOSTLY:
        return None
    glass = find_glass(rgb)
    if glass is None or _like_stain(glass):
        return None
    taken = float(mask[glass.where].mean()) > _MOSTLY
    return glass if taken or (doubts and glass.tint > _TINTED) else None


def _like_stain(glass: Glass) -> bool:
    """Whether what seems to be glass may as well be smooth, pale tissue."""
    hue = float(Hsv.of(np.array([[glass.colour]], dtype=np.uint8)).hue[0, 0])
    return glass.tint > _TINTED and bool(_pink_to_violet(np.float32(hue)))


def pen_ink(hsv: Hsv) -> NDArray[np.bool_]:
    """Which pixels have the colours of marker pens, which stain does not."""
    coloured = hsv.saturation > PEN_SATURATION
    found: NDArray[np.bool_] = (hsv.hue > PEN_HUES[0]) & (hsv.hue < PEN_HUES[1]) & coloured
    return found


def clean(mask: NDArray[np.bool_], hsv: Hsv, um_per_px: float) -> NDArray[np.bool_]:
    """Remove pen, dark artefacts and specks from a mask and close its pinholes.

    Args:
        mask: stained pixels, shape (h, w).
        hsv: colours of the overview.
        um_per_px: of the overview.
    """
    ink = pen_ink(hsv)
    kept = mask & ~ink & (hsv.value > DARK_VALUE)
    closed = closing(np.pad(kept, 2), disk(2))[2:-2, 2:-2] & ~ink
    cleaned: NDArray[np.bool_] = remove_small_objects(closed, max_size=_smallest_px(um_per_px))
    return cleaned


def _smallest_px(um_per_px: float) -> int:
    """Pixels of the largest speck."""
    return max(1, round(MIN_SPECK_UM2 / um_per_px**2))


def stain_warnings(hsv: Hsv, mask: NDArray[np.bool_]) -> tuple[str, ...]:
    """Reasons to doubt that an overview shows an H&E slide; empty when there are none.

    Args:
        hsv: colours of the overview.
        mask: its tissue, shape (h, w).
    """
    if warnings := _darkness_warnings(hsv):
        return warnings
    if not mask.any():
        grey = float((hsv.value < _GREY_VALUE).mean())
        if grey > 0.05:
            return (
                _NOT_HE.format(
                    f"no colour, but {quantities.share(grey, 0)} of the slide is not glass either"
                ),
            )
        return ()
    hue, saturation = hsv.hue[mask], hsv.saturation[mask]
    pink_to_violet = _pink_to_violet(hue)
    strongest = float(np.percentile(saturation, 99))
    coloured = saturation > _COLOURED
    if strongest < FADED_SATURATION and (pink_to_violet & coloured).mean() >= _MOSTLY:
        return (_FADED.format(strongest),)
    share = float((pink_to_violet & (saturation > SATURATION_LIMITS[0])).mean())
    if share < _MOSTLY:
        return (
            _NOT_HE.format(f"only {quantities.share(share, 0)} of the tissue is pink to violet"),
        )
    return ()


def _colour_warnings(rgb: NDArray[np.uint8]) -> tuple[str, ...]:
    if looks_like_ycbcr(rgb):
        return (_WRONG_COLOURS.format("the picture looks like luma and chroma shown as colours"),)
    if looks_converted_twice(rgb):
        return (_WRONG_COLOURS.format("the picture looks like colours converted once too often"),)
    return ()


def _pink_to_violet(hue: NDArray[np.float32] | np.float32) -> NDArray[np.bool_]:
    return np.asarray((hue > PEN_HUES[1]) | (hue < 0.08))


def _darkness_warnings(hsv: Hsv) -> tuple[str, ...]:
    dark = float((hsv.value < DARK_VALUE).mean())
    reason = f"{quantities.share(dark, 0)} of the slide is dark, as in fluorescence"
    return (_NOT_HE.format(reason),) if dark > 0.5 else ()


def _limited_otsu(
    values: NDArray[np.float64], limits: tuple[float, float], rgb: NDArray[np.uint8]
) -> float:
    """Otsu's threshold within limits, of which the lower follows the glass of a faded slide."""
    threshold = threshold_otsu(values) if np.ptp(values) > 0 else limits[1]
    lower, upper = limits
    if threshold < lower:
        glass = find_glass(rgb)
        if glass is not None and not _like_stain(glass):
            above, part = GLASS_MARGIN
            noise = above * float(np.percentile(values[glass.where], 99.9))
            lower = min(lower, max(noise, part * lower))
    return float(np.clip(threshold, lower, upper))


def _span(count: int, step: float, side: float, length: int) -> NDArray[np.float64]:
    """Lower and upper edge of each of ``count`` squares, interleaved, cut to 0..length."""
    centres = (np.arange(count) + 0.5) * step
    return np.stack([centres - side / 2, centres + side / 2], axis=1).ravel().clip(0, length)


def _interpolate(table: NDArray[Any], at: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    low = np.minimum(np.floor(at).astype(int), table.shape[axis] - 2)
    weight = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
    below, above = np.take(table, low, axis), np.take(table, low + 1, axis)
    result: NDArray[np.float64] = below * (1 - weight) + above * weight
    return result
