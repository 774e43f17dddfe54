"""How lesions and detections are compared: CAMELYON16's rules, and which of them were changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from histoslide.errors import HistoslideError

GROW_UM = 37.5
"""CAMELYON16 compares the distance to annotated tumour with half of 75 µm ("the equivalent size of
5 tumor cells"), so that two regions up to 75 µm apart become one (its ``Evaluation_FROC.py``)."""

ISOLATED_AXIS_UM = 275.0
"""Regions whose major axis, after growing, is shorter are isolated tumour cells (same source: 200
µm and 75 µm)."""

MASK_UM = 0.243 * 32
"""Micrometres a pixel of the evaluation mask (same source: level 5 of slides of 0.243 µm/px)."""

FALSE_POSITIVES_AT = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Mean false positives a slide at which the sensitivity is read off (same source)."""

Over = Literal["all", "negative"]
"""Slides that false positives are counted on and averaged over."""


@dataclass(frozen=True, kw_only=True)
class FrocRules:
    """How lesions and detections are compared. The defaults are CAMELYON16's.

    Raises:
        HistoslideError: a value is out of range.
    """

    grow_um: float = GROW_UM
    """What lies nearer to annotated tumour than this belongs to the lesion."""
    isolated_um: float = ISOLATED_AXIS_UM
    """Major axis below which a region is neither required nor counted against."""
    mask_um: float = MASK_UM
    """Micrometres a pixel of the evaluation mask, as near as halving the slide's pixels gives."""
    assumed_mpp: float | None = None
    """Micrometres a level-0 pixel, for lengths, instead of each slide's own."""
    over: Over = "all"
    """Slides that false positives are counted on and averaged over."""
    at: tuple[float, ...] = FALSE_POSITIVES_AT
    """Mean false positives a slide at which the sensitivity is read off."""

    def __post_init__(self) -> None:
        checks = (
            ("--grow", self.grow_um, self.grow_um >= 0),
            ("--isolated", self.isolated_um, self.isolated_um >= 0),
            ("--mask-um", self.mask_um, self.mask_um > 0),
            ("--assume-mpp", self.assumed_mpp, self.assumed_mpp is None or self.assumed_mpp > 0),
        )
        for name, value, good in checks:
            if not good or value == float("inf"):
                raise HistoslideError(f"{name} must be a length in µm, not {value}")
        if not self.at or not all(0 < value < float("inf") for value in self.at):
            raise HistoslideError(
                "--froc-at must be numbers of false positives a slide above 0, not "
                f"{', '.join(f'{value:g}' for value in self.at) or 'nothing'}"
            )

    def downsample(self, mpp: float) -> int:
        """Level-0 pixels a pixel of the evaluation mask: the power of two that comes nearest.

        Args:
            mpp: micrometres a level-0 pixel.
        """
        factor = 1
        while self.mask_um / (mpp * factor) > 2**0.5:
            factor *= 2
        return factor

    def variants(self) -> Iterator[str]:
        """What differs from CAMELYON16, for a reader."""
        usual = FrocRules()
        if self.grow_um != usual.grow_um:
            yield f"annotations are grown by {self.grow_um:g} µm, not {usual.grow_um:g} µm"
        if self.isolated_um != usual.isolated_um:
            yield (
                f"regions under {self.isolated_um:g} µm are isolated cells, not those under "
                f"{usual.isolated_um:g} µm"
            )
        if self.mask_um != usual.mask_um:
            yield f"the evaluation mask has about {self.mask_um:g} µm/px, not {usual.mask_um:g}"
        if self.assumed_mpp is not None:
            yield f"lengths take every slide for {self.assumed_mpp:g} µm/px"
        if self.over != usual.over:
            yield "false positives are counted on, and averaged over, slides without tumour only"
        if self.at != usual.at:
            listed = ", ".join(f"{value:g}" for value in self.at)
            yield f"sensitivity is read off at {listed} false positives a slide"
