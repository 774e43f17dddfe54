"""What any reader of slides must offer."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import ResolutionUnknownError
from histoslide.geometry import Box, Mpp, Size


class Slide(Protocol):
    """A whole-slide image; every reader offers exactly this."""

    @property
    def name(self) -> str:
        """File name without its folder."""
        ...

    @property
    def size_l0(self) -> Size:
        """Size of the finest level, in level-0 pixels."""
        ...

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of every level in its own pixels, finest first."""
        ...

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level."""
        ...

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, or None where it is not known."""
        ...

    @property
    def bounds_l0(self) -> Box | None:
        """The part that holds all scanned tissue, in level-0 pixels, where the slide records it."""
        ...

    @property
    def quickhash(self) -> str:
        """Tells slides apart: OpenSlide's quickhash, or a hash of the file's size and ends."""
        ...

    @property
    def properties(self) -> Mapping[str, str]:
        """The reader's own metadata, for people to read."""
        ...

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1
    ) -> NDArray[np.uint8]:
        """Read RGB pixels of one level.

        Args:
            level: index, 0 is the finest.
            x: left edge in pixels of that level.
            y: upper edge in pixels of that level.
            width: of the region, which lies wholly inside the level.
            height: likewise.
            shrink: side, a power of two, of the squares of pixels whose means are wanted; the other
                numbers are multiples of it.

        Returns:
            Shape (height / shrink, width / shrink, 3).

        Raises:
            SlideReadError: the pixels cannot be read.
        """
        ...


class Closable(Protocol):
    """Holds something that it lets go of; whoever derives from it writes ``close`` alone."""

    def close(self) -> None:
        """Let go."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ClosableSlide(Slide, Closable, Protocol):
    """A slide that lets go of its handles or processes at the end of a ``with`` block."""


def require_mpp(slide: Slide) -> Mpp:
    """The slide's resolution.

    Raises:
        ResolutionUnknownError: the slide records none and none was given.
    """
    if slide.mpp is None:
        raise ResolutionUnknownError(
            f"{slide.name} records no resolution: pass --mpp (micrometres per pixel) "
            "or --mpp-csv FILE with the columns slide,mpp"
        )
    return slide.mpp
