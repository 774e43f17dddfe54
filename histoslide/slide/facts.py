"""What a slide says of itself, apart from its pixels: for readers that are elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from histoslide.geometry import Box, Mpp, Size
from histoslide.slide.protocol import Slide


@dataclass(frozen=True, kw_only=True)
class SlideFacts:
    """What a slide says of itself; see ``histoslide.slide.Slide``."""

    name: str
    """File name."""
    level_sizes: tuple[Size, ...]
    """Size of every level, finest first."""
    level_downsamples: tuple[float, ...]
    """Level-0 pixels a pixel of each level."""
    mpp: Mpp | None
    """Resolution of level 0."""
    bounds_l0: Box | None
    """The part that was scanned."""
    quickhash: str
    """Tells slides apart."""
    properties: Mapping[str, str]
    """The reader's own metadata."""

    @classmethod
    def of(cls, slide: Slide) -> SlideFacts:
        """Those of a slide."""
        return cls(
            name=slide.name,
            level_sizes=tuple(slide.level_sizes),
            level_downsamples=tuple(slide.level_downsamples),
            mpp=slide.mpp,
            bounds_l0=slide.bounds_l0,
            quickhash=slide.quickhash,
            properties=dict(slide.properties),
        )


class SpokenFor(ABC):
    """The facts of a slide that something else knows; ``read_level`` is the subclass's own."""

    @property
    @abstractmethod
    def _known(self) -> SlideFacts | Slide:
        """Who knows them."""

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self._known.name

    @property
    def size_l0(self) -> Size:
        """Size of the finest level, in level-0 pixels."""
        return self._known.level_sizes[0]

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of every level in its own pixels, finest first."""
        return self._known.level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level."""
        return self._known.level_downsamples

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, or None where it is not known."""
        return self._known.mpp

    @property
    def bounds_l0(self) -> Box | None:
        """The part that holds all scanned tissue, in level-0 pixels, where the slide records it."""
        return self._known.bounds_l0

    @property
    def quickhash(self) -> str:
        """Tells slides apart; see ``histoslide.slide.Slide``."""
        return self._known.quickhash

    @property
    def properties(self) -> Mapping[str, str]:
        """The reader's own metadata."""
        return self._known.properties
