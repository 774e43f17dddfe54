"""What any reader of slides offers: the slide's facts, and pixels of its levels."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import ResolutionUnknownError
from histoslide.geometry import Box, Mpp, Region, Size
from histoslide.slide.facts import SlideFacts

logger = logging.getLogger(__name__)


class Slide(ABC):
    """A whole-slide image; a reader derives from it, hands it the facts and writes ``read``."""

    def __init__(self, facts: SlideFacts) -> None:
        """Keep what the slide says of itself.

        Args:
            facts: of the slide.
        """
        self._facts = facts

    @property
    def facts(self) -> SlideFacts:
        """What the slide says of itself."""
        return self._facts

    @abstractmethod
    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; called from several threads.

        Args:
            region: which lies wholly inside the level.
            shrink: side, a power of two, of the squares of pixels whose means are wanted; the
                region's corner and size are multiples of it.

        Returns:
            Shape (region.height / shrink, region.width / shrink, 3).

        Raises:
            SlideReadError: the pixels cannot be read.
        """

    def close(self) -> None:  # noqa: B027 - a reader that holds nothing has nothing to write
        """Let go of handles or processes, where a reader has any; reading again takes new ones."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def warn(self, warning: str) -> None:
        """Log, and keep in the facts, what a person should know before trusting the slide."""
        logger.warning("%s: %s", self.name, warning)
        self._facts = replace(self._facts, warnings=(*self._facts.warnings, warning))

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return (type(self).__name__,) * len(self.level_sizes)

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self.facts.name

    @property
    def size_l0(self) -> Size:
        """Size of the finest level, in level-0 pixels."""
        return self.facts.level_sizes[0]

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of every level in its own pixels, finest first."""
        return self.facts.level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level."""
        return self.facts.level_downsamples

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, or None where it is not known."""
        return self.facts.mpp

    @property
    def bounds_l0(self) -> Box | None:
        """The part that holds all scanned tissue, in level-0 pixels, where the slide records it."""
        return self.facts.bounds_l0

    @property
    def quickhash(self) -> str:
        """Tells slides apart: OpenSlide's quickhash, or a hash of the file's size and ends."""
        return self.facts.quickhash

    @property
    def properties(self) -> Mapping[str, str]:
        """The reader's own metadata, for people to read."""
        return self.facts.properties


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
