"""What a slide says of itself, apart from its pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from histoslide.geometry import Box, Mpp, Size


@dataclass(frozen=True, kw_only=True)
class SlideFacts:
    """What a slide says of itself; picklable, so that other processes may know it."""

    name: str
    """File name without its folder."""
    level_sizes: tuple[Size, ...]
    """Size of every level in its own pixels, finest first."""
    level_downsamples: tuple[float, ...]
    """Level-0 pixels a pixel of each level."""
    mpp: Mpp | None
    """Resolution of level 0, or None where it is not known."""
    quickhash: str
    """Tells slides apart: OpenSlide's quickhash, or any text that differs where the pixels do."""
    bounds_l0: Box | None = None
    """The part that holds all scanned tissue, in level-0 pixels, where the slide records it."""
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The reader's own metadata, for people to read."""

    warnings: tuple[str, ...] = ()
    """What a person should know before trusting the slide; logged when the slide was opened."""

    def __post_init__(self) -> None:
        if not self.level_sizes:
            raise ValueError(f"{self.name} has no level")
        if len(self.level_sizes) != len(self.level_downsamples):
            raise ValueError(
                f"{self.name} has {len(self.level_sizes)} levels but "
                f"{len(self.level_downsamples)} downsamples"
            )
