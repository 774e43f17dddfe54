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
    reached: NDArray[np.float64] = field(repr=False)
    """The same with isolated cells: what there is to tell of them."""
    required: int
    """Lesions that are to be found."""
    false: Detections
    """Those that hit no lesion, and no isolated cells."""
    negative: bool
    """Whether the slide holds no tumour at all."""


def match(
    detections: Detections,
    truth: LesionTruth | None,
    *,
    excused: NDArray[np.bool_] | None = None,
) -> SlideHits:
    """Compare the detections of a slide with its lesions.

    The highest hit counts a lesion, all further ones nothing; a hit of isolated tumour cells
    counts neither way; what hits nothing is a false positive.

    Args:
        detections: of the slide.
        truth: None for a slide without tumour, on which every detection is false.
        excused: detections that are not false even if they hit nothing, as they lie where nobody
            knows; shape (n,). None for none.
    """
    count = len(detections)
    hit = np.zeros(count, np.intp)
    isolated = np.zeros(0, np.bool_)
    if truth is not None:
        hit = truth.at(detections.x_l0, detections.y_l0)
        isolated = np.array([lesion.isolated for lesion in truth.lesions], dtype=np.bool_)
    reached = np.zeros(1 + len(isolated))
    np.maximum.at(reached, hit, detections.score)
    wrong = (hit == 0) if excused is None else (hit == 0) & ~excused
    return SlideHits(
        best=np.where(isolated, 0.0, reached[1:]),
        reached=reached[1:],
        required=0 if truth is None else truth.required,
        false=Detections(
            score=detections.score[wrong],
            x_l0=detections.x_l0[wrong],
            y_l0=detections.y_l0[wrong],
        ),
        negative=truth is None,
    )
