"""Which detections hit which lesions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histoslide.evaluation.slides.detections import Detections
from histoslide.evaluation.slides.lesion_truth import LesionTruth


@dataclass(frozen=True, kw_only=True)
class SlideHits:
    """What the detections of a slide hit, as CAMELYON16 counts it."""

    best: NDArray[np.float64] = field(repr=False)
    """Highest score that hit each lesion, in their order; 0 for none, and for isolated cells."""
    required: int
    """Lesions that are to be found."""
    false: Detections
    """Those that hit no lesion, and no isolated cells."""
    negative: bool
    """Whether the slide holds no tumour at all."""


def match(detections: Detections, truth: LesionTruth | None) -> SlideHits:
    """Compare the detections of a slide with its lesions.

    The highest hit counts a lesion, all further ones nothing; a hit of isolated tumour cells
    counts neither way; what hits nothing is a false positive.

    Args:
        detections: of the slide.
        truth: None for a slide without tumour, on which every detection is false.
    """
    if truth is None:
        return SlideHits(best=np.zeros(0), required=0, false=detections, negative=True)
    hit = truth.at(detections.x_l0, detections.y_l0)
    best = np.zeros(1 + len(truth.lesions))
    np.maximum.at(best, hit, detections.score)
    for lesion in truth.lesions:
        if lesion.isolated:
            best[lesion.number] = 0.0
    missed = hit == 0
    false = Detections(
        score=detections.score[missed],
        x_l0=detections.x_l0[missed],
        y_l0=detections.y_l0[missed],
    )
    return SlideHits(best=best[1:], required=truth.required, false=false, negative=False)
