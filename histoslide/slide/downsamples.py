"""How many level-0 pixels a pixel of each level is, and which reduced images are no levels.

A file seldom records it. Sizes alone mislead: CAMELYON16's levels are padded to whole tiles, so
that ratios of sizes say 57.15 where 64 is true, and a label may be stored like a level. What the
sizes leave open is settled by pixels: a level shows, at its true place, what a finer one shows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import SlideReadError
from histoslide.geometry import Region, Size, true_downsample

logger = logging.getLogger(__name__)

ReadPixels = Callable[[Region], NDArray[np.uint8]]
"""Reads RGB pixels of a level, counted as the file does."""

_STATED_TOLERANCE = 1e-6
"""Relative difference from which a downsample is not the ratio of sizes but stated on purpose."""

_NEAR_POWER = 0.1
"""Padding that has nothing to do with tiles makes a level larger by no more than this part."""

_SAME_ASPECT = 0.01
"""Relative difference of both axes' ratios up to which an image may still be a reduced slide."""

_MOST_FACTORS = 4
"""Powers of two that are tried for a level of a single tile, which padding explains by all."""

_PATCH_PX = 96
"""Side, in pixels of the level, of the squares that are compared."""

_MAX_FINER_PX = 1024
"""Longest side that is read of a finer level for one comparison."""

_GRID = 6
"""Squares a side out of which those with the most to see are compared."""

_COMPARED = 6
"""Squares that are compared."""

_TEXTURE = 4.0
"""Standard deviation of grey above which a square shows more than glass and its noise."""

_ALIKE = 0.6
"""Correlation of squares that show the same thing; compression and sharpening cost some of it."""

_CLEARER = 0.7
"""What the second best factor leaves unexplained must be this much more than what the best does."""


@dataclass(frozen=True, kw_only=True)
class StoredLevel:
    """An image of a file that may be a level."""

    size: Size
    """In its own pixels."""
    tile: Size | None = None
    """Of the tiles it is stored in, where it is."""
    stated: float | None = None
    """Downsample that the file or the reader of its format states, where one does."""


def stated_by(reported: float, size_l0: Size, size: Size) -> float | None:
    """A downsample that OpenSlide reports, if its format's driver knows it.

    Otherwise OpenSlide reports the mean ratio of the sizes, which says nothing new.
    """
    ratio = (size_l0.width / size.width + size_l0.height / size.height) / 2
    return reported if abs(reported / ratio - 1) > _STATED_TOLERANCE else None


def find_downsamples(
    name: str, levels: Sequence[StoredLevel], read: ReadPixels
) -> tuple[float | None, ...]:
    """The true downsample of each level; None for an image that is no level of the slide.

    What had to be decided without certainty is logged as a warning.

    Args:
        name: of the slide, for messages.
        levels: finest first.
        read: called for levels whose sizes leave it open, to compare pixels.
    """
    found: list[float | None] = [1.0]
    for index in range(1, len(levels)):
        found.append(_Doubt(name, levels, index, found, read).settled())
    return tuple(found)


class _Doubt:
    """One level, of which all finer ones are known."""

    def __init__(
        self,
        name: str,
        levels: Sequence[StoredLevel],
        index: int,
        finer: Sequence[float | None],
        read: ReadPixels,
    ) -> None:
        self._name, self._levels, self._index, self._read = name, levels, index, read
        known = [(i, downsample) for i, downsample in enumerate(finer) if downsample is not None]
        self._reference, self._reference_downsample = known[-1]
        self._size_l0, self._level = levels[0].size, levels[index]
        size = self._level.size
        self._ratios = self._size_l0.width / size.width, self._size_l0.height / size.height
        self._by_size = true_downsample(self._size_l0, size)

    def settled(self) -> float | None:
        stated, by_size = self._level.stated, self._by_size
        if stated is not None:
            agree = by_size is not None and not self._matters(stated, by_size)
            return by_size if agree else stated
        padded = self._powers_that_padding_explains()
        near = self._power_nearby()
        if by_size is not None:
            others = [p for p in dict.fromkeys([*padded, *near]) if self._matters(p, by_size)]
            if _is_power(by_size) or not others or (by_size.is_integer() and not padded):
                return by_size
            proven, _ = self._proven([by_size, *others])
            if proven is not None:
                return proven
            if not padded or by_size.is_integer():
                return by_size
            return self._assumed(padded[0], [by_size, *padded])
        mean = math.sqrt(math.prod(self._ratios))
        candidates = list(dict.fromkeys([*padded, *near, mean]))
        proven, seen = self._proven(candidates)
        if proven is not None:
            return proven
        if padded and not seen:
            return padded[0] if len(padded) == 1 else self._assumed(padded[0], padded)
        if not seen and abs(self._ratios[0] / self._ratios[1] - 1) <= _SAME_ASPECT:
            return self._assumed(mean, candidates)
        logger.warning(
            "%s: its image of %d×%d px is not used: it is no reduced copy of the slide (÷%.4g "
            "across, ÷%.4g down), perhaps its label",
            self._name, self._level.size.width, self._level.size.height, *self._ratios,
        )  # fmt: skip
        return None

    def _assumed(self, downsample: float, candidates: Sequence[float]) -> float:
        logger.warning(
            "%s: level %d of %d×%d px may be reduced by %s, and shows too little to tell: taken "
            "for %.6g",
            self._name,
            self._index,
            self._level.size.width,
            self._level.size.height,
            " or ".join(f"{candidate:.6g}" for candidate in candidates),
            downsample,
        )
        return downsample

    def _matters(self, one: float, other: float) -> bool:
        """Whether two downsamples move the far edge by a pixel of the level or more."""
        return max(self._level.size.width, self._level.size.height) * abs(one / other - 1) >= 1

    def _powers_that_padding_explains(self) -> list[float]:
        """Powers of two, beyond those of finer levels, by which whole tiles come out as they are.

        n tiles that are shrunk by f make ceil(n / f) tiles, however little of the last one is
        filled.
        """
        tile = self._level.tile
        if tile is None:
            return []
        sides = (
            (self._size_l0.width, self._level.size.width, tile.width),
            (self._size_l0.height, self._level.size.height, tile.height),
        )
        if any(side % each for _, side, each in sides):
            return []
        powers = (2.0**k for k in range(1, 31))
        explained = (
            power
            for power in powers
            if power > self._reference_downsample
            and all(
                side // each
                in (math.ceil(math.ceil(whole / each) / power), math.ceil(whole // power / each))
                for whole, side, each in sides
            )
        )
        return [power for power, _ in zip(explained, range(_MOST_FACTORS), strict=False)]

    def _power_nearby(self) -> list[float]:
        power = 2.0 ** round(math.log2(math.sqrt(math.prod(self._ratios))))
        near = all(abs(power / ratio - 1) <= _NEAR_POWER for ratio in self._ratios)
        return [power] if near and power > self._reference_downsample else []

    def _proven(self, candidates: Sequence[float]) -> tuple[float | None, bool]:
        """The factor at which the level shows what a finer one does; whether pixels can tell."""
        alike = dict.fromkeys(candidates, 0.0)
        compared = 0
        for box, finer in self._textured_squares(min(candidates)):
            compared += 1
            for candidate in candidates:
                square = self._seen_at(box, candidate)
                if square is not None:
                    alike[candidate] += _correlation(_shrunk(finer, square.shape), square)
        if not compared:
            return None, False
        best, *others = sorted(candidates, key=lambda c: alike[c], reverse=True)
        likeness = alike[best] / compared
        logger.debug("%s: level %d: %s", self._name, self._index, alike)
        if likeness < _ALIKE:
            return None, True
        clear = all(1 - likeness < _CLEARER * (1 - alike[other] / compared) for other in others)
        return (best, True) if clear else (None, False)

    def _textured_squares(
        self, downsample: float
    ) -> Iterator[tuple[tuple[int, int, int, int], NDArray[np.float32]]]:
        """Squares of the finer level with the most to see, far from the corner if possible."""
        size, finer = self._levels[self._reference].size, self._reference_downsample
        gap = downsample / finer
        side = max(8, min(int(_PATCH_PX * gap), _MAX_FINER_PX))
        width, height = min(side, size.width), min(side, size.height)
        found: list[tuple[float, tuple[int, int, int, int], NDArray[np.float32]]] = []
        xs = np.unique(np.linspace(0, size.width - width, _GRID).astype(int))
        ys = np.unique(np.linspace(0, size.height - height, _GRID).astype(int))
        for y in ys.tolist():
            for x in xs.tolist():
                try:
                    pixels = _grey(self._read(Region(self._reference, x, y, width, height)))
                except SlideReadError:
                    continue
                shape = max(1, round(height / gap)), max(1, round(width / gap))
                texture = float(_detail(_shrunk(pixels, shape)).std())
                if texture > _TEXTURE:
                    found.append((texture * (1 + max(x, y)), (x, y, width, height), pixels))
        found.sort(key=lambda each: each[0], reverse=True)
        yield from ((box, pixels) for _, box, pixels in found[:_COMPARED])

    def _seen_at(
        self, box: tuple[int, int, int, int], downsample: float
    ) -> NDArray[np.float32] | None:
        """The level's pixels where a rectangle of the finer level would lie."""
        size = self._level.size
        left, top, width, height = (side * self._reference_downsample / downsample for side in box)
        x, y = max(0, math.floor(left) - 1), max(0, math.floor(top) - 1)
        right = min(size.width, math.ceil(left + width) + 1)
        bottom = min(size.height, math.ceil(top + height) + 1)
        if left + width > right + 0.5 or top + height > bottom + 0.5:
            return None
        try:
            pixels = _grey(self._read(Region(self._index, x, y, right - x, bottom - y)))
        except SlideReadError:
            return None
        shape = max(1, round(height)), max(1, round(width))
        inner = (
            left - x,
            top - y,
            min(left + width - x, right - x),
            min(top + height - y, bottom - y),
        )
        return _resized(pixels, shape, inner)


def _is_power(downsample: float) -> bool:
    return math.log2(downsample).is_integer()


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pixels.mean(axis=2, dtype=np.float32)


def _shrunk(pixels: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return _resized(pixels, shape, (0, 0, pixels.shape[1], pixels.shape[0]))


def _resized(
    pixels: NDArray[np.float32], shape: tuple[int, ...], box: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=box))


def _detail(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left beside the plane through a picture: slopes are alike wherever they are."""
    found = pixels - pixels.mean()
    for axis, side in enumerate(pixels.shape):
        way = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        along = way[:, None] if axis == 0 else way[None, :]
        if side > 1:
            found -= along * ((found * along).mean() / (along * along).mean())
    return found


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of two pictures of one shape, -1 to 1; 0 where one of them shows nothing."""
    a, b = _detail(one), _detail(other)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
