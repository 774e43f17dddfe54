"""Which label a patch gets from what its centre holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.annotations.boxes import Boxes
from histoslide.annotations.truth import SlideTruth
from histoslide.errors import HistoslideError

TUMOUR, NORMAL, UNKNOWN = 1, 0, -1
"""Labels; patches of unknown ones are not cut."""


@dataclass(frozen=True)
class LabelRule:
    """A patch is tumour where so much of its centre is, and normal where less certainly is."""

    share: float | None = None
    """Part of the centre, above 0 and up to 1; None for any tumour at all, as PatchCamelyon."""

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise HistoslideError(
                f"a label rule is 'any' or a share above 0 and up to 1, not {self.share}"
            )

    @classmethod
    def parse(cls, text: str) -> LabelRule:
        """A rule from what a user types: ``any``, or a share.

        Raises:
            HistoslideError: neither.
        """
        if text.strip().lower() == "any":
            return cls()
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        return cls(share)

    def __str__(self) -> str:
        return "any" if self.share is None else f"{self.share:g}"

    def labels(self, truth: SlideTruth, centres_l0: Boxes, *, exhaustive: bool) -> NDArray[np.int8]:
        """The label of each patch: ``TUMOUR``, ``NORMAL``, or ``UNKNOWN`` where it may be either.

        What is excluded, and on a slide that is not exhaustively annotated what nobody marked,
        may be tumour or not. A label that holds either way is given; else none is.

        Args:
            truth: of the slide.
            centres_l0: the centres that labels speak of, shape (n, 4).
            exhaustive: whether all tumour of the slide is drawn.
        """
        tumour = truth.tumour_in(centres_l0)
        unknown = truth.unknown_in(centres_l0, exhaustive=exhaustive)
        found = np.full(len(centres_l0), UNKNOWN, np.int8)
        if self.share is None:
            found[(tumour == 0) & (unknown == 0)] = NORMAL
            found[tumour > 0] = TUMOUR
        else:
            enough = self.share - 1e-9  # float rounding of areas
            found[tumour + unknown < enough] = NORMAL
            found[tumour >= enough] = TUMOUR
        return found
