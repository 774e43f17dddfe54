"""A slide in memory: the second reader, which proves that the protocol is enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideReadError
from histoslide.geometry import Box, Mpp, Size
from histoslide.slide.shrinking import average_squares


@dataclass
class FakeSlide:
    """Levels as arrays; reads that touch `rotten` (pixels of the level) fail."""

    levels: Sequence[NDArray[np.uint8]]
    level_downsamples: tuple[float, ...] = (1.0,)
    mpp: Mpp | None = None
    name: str = "fake"
    bounds_l0: Box | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    quickhash: str = "fake"
    rotten: Box | None = None
    read: list[tuple[int, int, int]] = field(default_factory=list)
    """(level, width, height) of every read."""

    @property
    def size_l0(self) -> Size:
        return self.level_sizes[0]

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return tuple(Size(level.shape[1], level.shape[0]) for level in self.levels)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int, shrink: int = 1
    ) -> NDArray[np.uint8]:
        size = self.level_sizes[level]
        assert x >= 0
        assert y >= 0
        assert x + width <= size.width, "the protocol promises regions inside the level"
        assert y + height <= size.height, "the protocol promises regions inside the level"
        self.read.append((level, width, height))
        bad = self.rotten
        if bad and x < bad.right and x + width > bad.x and y < bad.bottom and y + height > bad.y:
            raise SlideReadError(f"{self.name}: rotten at ({x}, {y})")
        return average_squares(self.levels[level][y : y + height, x : x + width], shrink)
