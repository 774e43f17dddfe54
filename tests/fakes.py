"""A slide in memory: the second reader, which proves that the base class is enough."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideReadError
from histoslide.geometry import Box, Mpp, Region, Size
from histoslide.slide import Slide, SlideFacts
from histoslide.slide.shrinking import average_squares


class FakeSlide(Slide):
    """Levels as arrays; reads that touch `rotten` (pixels of the level) fail."""

    def __init__(
        self,
        levels: Sequence[NDArray[np.uint8]],
        level_downsamples: tuple[float, ...] = (1.0,),
        mpp: Mpp | None = None,
        properties: Mapping[str, str] | None = None,
        rotten: Box | None = None,
    ) -> None:
        super().__init__(
            SlideFacts(
                name="fake",
                level_sizes=tuple(Size(level.shape[1], level.shape[0]) for level in levels),
                level_downsamples=level_downsamples,
                mpp=mpp,
                quickhash="fake",
                properties=properties or {},
            )
        )
        self.levels, self.rotten = levels, rotten
        self.reads: list[Region] = []

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        size, bad = self.level_sizes[region.level], self.rotten
        assert region.x >= 0
        assert region.y >= 0
        assert region.right <= size.width, "the base promises regions inside the level"
        assert region.bottom <= size.height, "the base promises regions inside the level"
        self.reads.append(region)
        if (
            bad
            and region.x < bad.right
            and region.right > bad.x
            and region.y < bad.bottom
            and region.bottom > bad.y
        ):
            raise SlideReadError(f"{self.name}: rotten at ({region.x}, {region.y})")
        return average_squares(self.levels[region.level][region.slices], shrink)


def noise_slide(height: int, width: int, rotten: Box | None = None) -> FakeSlide:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return FakeSlide([pixels], mpp=Mpp(value=0.972, source="test"), rotten=rotten)
