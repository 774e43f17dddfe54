"""Slides told apart by one score each: the ROC curve, and sensitivity at chosen specificities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from histoslide.evaluation.bootstrap import Interval, Ranking, interval

RATES = np.linspace(0, 1, 101)
"""False positive rates at which the band around the curve is computed."""

SPECIFICITIES = (0.8, 0.9, 0.95)
"""At which the sensitivity is told by default."""


@dataclass(frozen=True, kw_only=True)
class SensitivityAt:
    """The highest sensitivity at a specificity of at least some value."""

    specificity: float
    """That value."""
    sensitivity: float
    """Part of the slides with tumour that are called so."""
    sensitivity_interval: Interval | None
    """Over patients."""


@dataclass(frozen=True, kw_only=True)
class SlideLevel:
    """How well the slide score tells slides with tumour from those without."""

    positive: int
    """Slides with tumour."""
    negative: int
    """Slides without."""
    auc: float
    """Area under the ROC curve; ties count half."""
    auc_interval: Interval | None
    """Over patients."""
    sensitivities: tuple[SensitivityAt, ...]
    """At the specificities asked for."""
    false_rate: NDArray[np.float64] = field(repr=False)
    """Of the curve's points, rising."""
    true_rate: NDArray[np.float64] = field(repr=False)
    """Likewise."""
    band: NDArray[np.float64] | None = field(repr=False)
    """2.5th and 97.5th percentile of the true positive rate at ``RATES``, shape (2, 101)."""


def slide_level(
    scores: Sequence[float],
    tumour: Sequence[bool],
    *,
    weights: NDArray[np.int64] | None,
    specificities: Sequence[float] = SPECIFICITIES,
) -> SlideLevel | None:
    """Judge slide scores; None where there are not both kinds of slides.

    Args:
        scores: of the slides, higher for tumour.
        tumour: whether each has any.
        weights: resamples of the slides, shape (resamples, slides); None leaves intervals out.
        specificities: at which sensitivity is told.
    """
    truth, values = np.array(tumour, dtype=np.bool_), np.array(scores, dtype=np.float64)
    if truth.all() or not truth.any():
        return None
    ranking, wanted = Ranking(values, truth), 1 - np.array(specificities, dtype=np.float64)
    once = ranking.count(np.ones((1, len(values)), dtype=np.int64))
    counts = None if weights is None else ranking.count(weights)
    at = ranking.sensitivity_at(once, wanted)[0]
    spread = None if counts is None else ranking.sensitivity_at(counts, wanted)
    false_rate, true_rate, _ = roc_curve(truth, values, drop_intermediate=False)
    return SlideLevel(
        positive=int(truth.sum()),
        negative=int((~truth).sum()),
        auc=float(ranking.roc_area(once)[0]),
        auc_interval=None if counts is None else interval(ranking.roc_area(counts)),
        sensitivities=tuple(
            SensitivityAt(
                specificity=specificity,
                sensitivity=float(at[i]),
                sensitivity_interval=None if spread is None else interval(spread[:, i]),
            )
            for i, specificity in enumerate(specificities)
        ),
        false_rate=false_rate,
        true_rate=true_rate,
        band=None if counts is None else band(ranking.sensitivity_at(counts, RATES)),
    )


def band(curves: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """2.5th and 97.5th percentile of resampled curves, shape (2, points); None where none is known.

    Args:
        curves: NaN in a row for a resample without one, shape (resamples, points).
    """
    known = curves[np.isfinite(curves).all(axis=1)]
    return np.percentile(known, (2.5, 97.5), axis=0) if 2 * len(known) >= len(curves) else None
