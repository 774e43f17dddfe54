"""Lengths and boxes whose frame is in their name: level-0 or level pixels, model pixels, cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

from histoslide.errors import ResolutionError

PLAUSIBLE_MPP = (0.05, 5.0)
"""Micrometres per pixel of a light-microscope slide scan: 100× oil is about 0.1, 2× about 5."""


@dataclass(frozen=True, kw_only=True)
class Mpp:
    """A resolution in micrometres per pixel and where it comes from.

    Raises:
        ResolutionError: not a positive number.
    """

    value: float
    """Micrometres per pixel."""
    source: str
    """``slide metadata``, ``--mpp`` or ``--mpp-csv``, or what a caller of the library says."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise ResolutionError(
                f"a resolution must be a positive number of µm/px, not {self.value} ({self.source})"
            )

    @property
    def plausible(self) -> bool:
        """Whether a microscope slide could have been scanned at this resolution."""
        low, high = PLAUSIBLE_MPP
        return low <= self.value <= high


@dataclass(frozen=True)
class Size:
    """Width and height in pixels of a frame that the holder names."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a size must be positive, not {self.width}×{self.height}")


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle with real-valued corners, x to the right and y down."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """X of the right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Y of the lower edge."""
        return self.y + self.height

    def scaled(self, factor: float) -> Box:
        """The same rectangle in a frame whose pixels are ``1 / factor`` times as large."""
        return Box(self.x * factor, self.y * factor, self.width * factor, self.height * factor)


@dataclass(frozen=True)
class Region:
    """A rectangle of whole pixels of one level of a slide, in pixels of that level."""

    level: int
    """Index, 0 is the finest."""
    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """X beyond the last column."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """Y beyond the last row."""
        return self.y + self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """The region as indices (row, col) of an array that holds the whole level."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    def holds(self, other: Region) -> bool:
        """Whether the other region lies in this one."""
        return (
            self.level == other.level
            and self.x <= other.x
            and self.y <= other.y
            and other.right <= self.right
            and other.bottom <= self.bottom
        )

    def __str__(self) -> str:
        return f"level {self.level} at ({self.x}, {self.y}), {self.width}×{self.height} px"


@dataclass(frozen=True)
class CellRange:
    """A rectangle of cells: rows ``row`` to ``row + rows``, columns ``col`` to ``col + cols``."""

    row: int
    col: int
    rows: int
    cols: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The range as array indices (row, col)."""
        return slice(self.row, self.row + self.rows), slice(self.col, self.col + self.cols)


def true_downsample(size_l0: Size, size: Size) -> float | None:
    """The downsample that a level was made with, from sizes that were rounded to whole pixels.

    A level of a 9000 px slide at a downsample of 16 is 562 px wide. The ratio of the sizes,
    16.014, which OpenSlide reports, would shift the far edge by half a pixel of the level, and by
    a whole one for other sizes. The truth lies between the ratios that rounding either way allows,
    in both axes; the shortest decimal in there is taken, which makes 16 of the example.

    Args:
        size_l0: size of level 0.
        size: size of the level.

    Returns:
        None where no single factor explains both axes: the level was padded, or is none.
    """
    pairs = ((size_l0.width, size.width), (size_l0.height, size.height))
    ratio = math.sqrt(math.prod(whole / part for whole, part in pairs))
    low = max(whole / (part + 1) for whole, part in pairs)
    high = min(whole / max(part - 1, 0.5) for whole, part in pairs)
    if low >= high:
        return None
    inside = ratio if low < ratio < high else (low + high) / 2
    return next(
        (short for digits in range(9) if low < (short := round(inside, digits)) < high), inside
    )
