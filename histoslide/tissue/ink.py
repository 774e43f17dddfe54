"""Marker ink of any colour: told from stained tissue by having no texture.

Hue alone shows green, cyan and black pens (``masks.clean``); red, purple and royal blue ones have
hues of eosin and haematoxylin. But ink lies on the cover slip, outside the focus: at 1 µm per pixel
nothing in it is sharp, whereas nuclei and fibres are. That is looked at only where the overview is
smooth already, so a slide without ink costs a few small reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_dilation,
    find_objects,
    gaussian_filter,
    label,
    minimum_position,
    sobel,
    uniform_filter,
)

from histoslide.errors import SlideReadError
from histoslide.geometry import Box, Size
from histoslide.machine.threads import side_by_side
from histoslide.slide import Slide
from histoslide.slide.resampling import read_box
from histoslide.tissue.glass import GREY

FINE_UM = 1.0
"""Micrometres per pixel at which texture is measured."""

SMOOTH = 0.045
"""Texture below which a square of the overview is ink: root mean square of the detail finer than
about 4 µm, over mean optical density. Of 19,126 PatchCamelyon patches with stain in their middle,
35 lie below: dark borders, out-of-focus ink, and lumina; blurred tissue begins at 0.047, tissue in
focus at 0.09."""

_COARSEST_FINE_UM = 2.0
"""Slides whose finest level is coarser show no nuclei: there, nobody can tell."""

_CANDIDATE = 0.05
"""Change along its calmest direction, over optical density, below which a pixel of the overview is
worth a closer look; of real tissue, 0.4 to 15 % lies below."""

_CANDIDATE_PX = 16
"""Fewest such pixels in a piece."""

_FIRST_LOOKS = 16
"""Smoothest pieces that are read on every slide; only if one of them is ink, all others are."""

_FEWEST_PX = 9
"""Smooth pixels in those from which the others are read."""

_BLOCK = 32
"""Side of what is read at once, in pixels of the overview."""

_FAINTEST = 0.35
"""Natural optical density, summed over red, green and blue, below which ink is no concern."""

_REACH = 3
"""Pixels of the overview about ink that are its blurred rim."""

_MOST_INKS = 6
"""More colours than this are a test card, not pens."""

_HUES = 36
"""Sectors of the colour circle in which inks are told apart."""

_SAME_INK = 0.8
"""Part of an ink's density, in red, green and blue, that its strokes have at least where they cross
tissue, whose own density comes on top."""

_RARE = (0.1, 0.02)
"""Parts of the tissue up to which what is so dense beside ink, and elsewhere, is rare enough to be
that ink, and not tissue."""

_EIGHT = np.ones((3, 3), dtype=np.bool_)
"""Neighbours across corners count."""

Plane = NDArray[np.float32]


def find_ink(
    slide: Slide, rgb: NDArray[np.uint8], mask: NDArray[np.bool_], *, smallest_px: int
) -> NDArray[np.bool_]:
    """Which pixels of an overview are marker ink, with a rim of three pixels.

    Found are strokes that lie on glass, wholly or in part, and of them what runs on over tissue if
    no tissue is as dense. A translucent stroke over tissue cannot be told from tissue.

    Args:
        slide: to read from; unreadable places count as tissue.
        rgb: its overview, shape (h, w, 3).
        mask: where to look: tissue and other coloured pixels, shape (h, w).
        smallest_px: fewest pixels of a stroke.
    """
    look = _Looks(slide=slide, mask=mask)
    pieces = _Candidates.of(rgb, mask) if look.sees_nuclei else None
    if pieces is None or look.at(pieces.blocks(_FIRST_LOOKS)).sum() < _FEWEST_PX:
        return np.zeros_like(mask)
    smooth = look.at(pieces.blocks(None))
    strokes = _large(binary_dilation(smooth, _EIGHT) & mask, smallest_px)
    density = _density(rgb)
    if not strokes.any() or _hues(density[strokes]) > _MOST_INKS:
        return np.zeros_like(mask)
    across = _across_tissue(strokes, density, mask, smallest_px)
    rim: NDArray[np.bool_] = binary_dilation(strokes | across, _EIGHT, iterations=_REACH)
    return rim


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Pieces of the mask that are smooth in the overview, the smoothest first."""

    pieces: NDArray[np.int32]
    """Number of each pixel's piece, 0 for none."""
    order: tuple[int, ...]
    """Numbers of the pieces that are large enough."""
    calmest: dict[int, tuple[int, int]]
    """Their smoothest pixel."""

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> _Candidates:
        change = np.full(mask.shape, np.inf, dtype=np.float32)

        def look(block: tuple[slice, slice]) -> None:
            padded = tuple(slice(max(0, s.start - 8), s.stop + 8) for s in block)
            inner = tuple(
                slice(s.start - p.start, s.stop - p.start)
                for s, p in zip(block, padded, strict=True)
            )
            change[block] = _calmest_change(rgb[padded])[inner]

        side_by_side(look, _blocks_of(mask))
        found, count = label(mask & (change < _CANDIDATE), _EIGHT)
        pieces: NDArray[np.int32] = np.asarray(found, dtype=np.int32)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        large = [int(i) for i in np.flatnonzero(sizes >= _CANDIDATE_PX) if i > 0]
        places: Any = minimum_position(change, pieces, large) if large else []
        calmest = {i: (int(y), int(x)) for i, (y, x) in zip(large, places, strict=True)}
        order = sorted(large, key=lambda i: float(change[calmest[i]]))
        return cls(pieces=pieces, order=tuple(order), calmest=calmest)

    def blocks(self, first: int | None) -> set[tuple[int, int]]:
        """Blocks of the middles of the first pieces, or all blocks of all pieces."""
        if first is not None:
            chosen = (self.calmest[i] for i in self.order[:first])
            return {(y // _BLOCK, x // _BLOCK) for y, x in chosen}
        rows, cols = np.nonzero(np.isin(self.pieces, self.order))
        return set(zip((rows // _BLOCK).tolist(), (cols // _BLOCK).tolist(), strict=True))


class _Looks:
    """Closer looks at blocks of the overview, each taken once."""

    def __init__(self, *, slide: Slide, mask: NDArray[np.bool_]) -> None:
        self._slide, self._mask = slide, mask
        height, width = mask.shape
        self._l0_per_px = (slide.size_l0.width / width, slide.size_l0.height / height)
        mpp = slide.mpp.value if slide.mpp is not None else np.inf
        fine = max(FINE_UM, mpp)
        self.sees_nuclei = fine <= _COARSEST_FINE_UM
        self._per_px = max(1, round(self._l0_per_px[0] * mpp / fine)) if self.sees_nuclei else 1
        self._smooth = np.zeros_like(mask)
        self._seen: set[tuple[int, int]] = set()

    def at(self, blocks: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
        """What is smooth in all blocks seen so far; smooth pieces are followed beyond the given."""
        waiting = deque(sorted(blocks))
        while waiting:
            block = waiting.popleft()
            if block in self._seen:
                continue
            self._seen.add(block)
            rows, cols = (slice(i * _BLOCK, (i + 1) * _BLOCK) for i in block)
            if not self._mask[rows, cols].any():
                continue
            found = self._look(rows, cols) & self._mask[rows, cols]
            self._smooth[rows, cols] = found
            waiting.extend(_beyond(block, found))
        return self._smooth

    def _look(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Which pixels of a block have a smooth, coloured square of three pixels about them."""
        height, width = self._mask.shape
        top, left = max(0, rows.start - 2), max(0, cols.start - 2)
        bottom, right = min(height, rows.stop + 2), min(width, cols.stop + 2)
        x, y = self._l0_per_px
        box = Box(left * x, top * y, (right - left) * x, (bottom - top) * y)
        per = self._per_px
        try:
            rgb = read_box(self._slide, box, Size((right - left) * per, (bottom - top) * per))
        except SlideReadError:  # scoring will meet and record it
            return np.zeros(self._mask[rows, cols].shape, dtype=np.bool_)
        density = _density(rgb).sum(axis=2)
        detail = density - gaussian_filter(density, 2.0)
        squares = (bottom - top, per, right - left, per)
        energy = uniform_filter((detail**2).reshape(squares).mean(axis=(1, 3)), 3)
        amount = uniform_filter(density.reshape(squares).mean(axis=(1, 3)), 3)
        smooth = (energy < (SMOOTH * amount) ** 2) & (amount > _FAINTEST)
        inner: NDArray[np.bool_] = smooth[
            rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
        ]
        return inner


def _beyond(block: tuple[int, int], found: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The neighbours of a block that what was found in it runs into."""
    row, col = block
    sides = ((found[0], -1, 0), (found[-1], 1, 0), (found[:, 0], 0, -1), (found[:, -1], 0, 1))
    return [
        (row + down, col + across)
        for side, down, across in sides
        if side.any() and row + down >= 0 and col + across >= 0
    ]


def _across_tissue(
    strokes: NDArray[np.bool_], density: Plane, mask: NDArray[np.bool_], smallest_px: int
) -> NDArray[np.bool_]:
    """Where strokes run on over tissue: as dense as the ink, in every colour, and beside it."""
    found = np.zeros_like(mask)
    numbers, count = label(strokes, _EIGHT)
    near = binary_dilation(strokes, _EIGHT, iterations=_REACH)
    for number, place in zip(range(1, count + 1), find_objects(numbers), strict=True):
        own = numbers[place] == number
        ink = np.median(density[place][own], axis=0)
        dense = (density >= _SAME_INK * ink).all(axis=2) & mask & ~near
        pieces, _ = label(dense | (near & mask), _EIGHT)
        touching = np.unique(pieces[numbers == number])
        beside = dense & np.isin(pieces, touching[touching > 0])
        rare = np.array([beside.sum(), dense.sum() - beside.sum()]) <= np.array(_RARE) * mask.sum()
        if rare.all():
            found |= beside
    return _large(found, smallest_px)


def _calmest_change(rgb: NDArray[np.uint8]) -> Plane:
    """Change of density along the direction in which it changes least, over density.

    The root of the smaller eigenvalue of the structure tensor: a straight edge has none, so the
    rims of strokes are as calm as their middle.
    """
    density = _density(rgb).sum(axis=2)
    down, across = sobel(density, 0) / 8, sobel(density, 1) / 8
    yy, xx, xy = (gaussian_filter(a, 1.5) for a in (down * down, across * across, down * across))
    smaller = (yy + xx) / 2 - np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    amount = np.maximum(gaussian_filter(density, 1.5), _FAINTEST / 2)
    change = np.sqrt(np.maximum(smaller, 0)) / amount
    return change.astype(np.float32, copy=False)


def _density(rgb: NDArray[np.uint8]) -> Plane:
    """Natural optical density against grey glass (Beer and Lambert), shape as before."""
    table = np.maximum(-np.log(np.maximum(np.arange(256), 1) / GREY), 0).astype(np.float32)
    density: Plane = table[rgb]
    return density


def _hues(density: Plane) -> int:
    """How many sectors of the colour circle hold nine tenths of some densities of shape (n, 3)."""
    red, green, blue = density.T
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    sectors = ((angle / (2 * np.pi) + 0.5) * _HUES).astype(int) % _HUES
    counts = np.sort(np.bincount(sectors, minlength=_HUES))[::-1]
    return int(np.searchsorted(np.cumsum(counts), 0.9 * len(density)) + 1)


def _large(mask: NDArray[np.bool_], smallest_px: int) -> NDArray[np.bool_]:
    """Pieces of at least so many pixels."""
    pieces, count = label(mask, _EIGHT)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= smallest_px)[pieces]
    return kept


def _blocks_of(mask: NDArray[np.bool_]) -> list[tuple[slice, slice]]:
    """Large blocks that hold any of a mask: most of a slide is glass and not looked at."""
    step = 16 * _BLOCK
    found = [
        (slice(y, min(y + step, mask.shape[0])), slice(x, min(x + step, mask.shape[1])))
        for y in range(0, mask.shape[0], step)
        for x in range(0, mask.shape[1], step)
    ]
    return [place for place in found if mask[place].any()]
