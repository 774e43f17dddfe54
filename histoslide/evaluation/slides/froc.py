"""FROC: the part of lesions that is found against false positives a slide (Bunch et al. 1978)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.evaluation.slides.hits import SlideHits
from histoslide.evaluation.slides.rules import FALSE_POSITIVES_AT, Over


@dataclass(frozen=True, kw_only=True)
class FrocCurve:
    """Points from the lowest threshold to above all scores."""

    false_per_slide: NDArray[np.float64]
    """Mean false positives a slide, falling."""
    sensitivity: NDArray[np.float64]
    """Part of the required lesions that is found."""
    at: tuple[float, ...]
    """Mean false positives a slide at which it is read off."""

    @property
    def sensitivities(self) -> NDArray[np.float64]:
        """Interpolated at ``at``."""
        return np.interp(self.at, self.false_per_slide[::-1], self.sensitivity[::-1])

    @property
    def score(self) -> float:
        """Mean of them: the number that CAMELYON16 ranked by."""
        return float(self.sensitivities.mean())


class Froc:
    """The detections of a cohort in falling order, for curves under many weights of its slides."""

    def __init__(
        self,
        slides: Sequence[SlideHits],
        *,
        over: Over = "all",
        at: tuple[float, ...] = FALSE_POSITIVES_AT,
    ) -> None:
        """Sort once.

        Args:
            slides: what was hit on each.
            over: slides that false positives are counted on and averaged over.
            at: where sensitivities are read off.
        """
        self.at = at
        self._required = np.array([slide.required for slide in slides], dtype=np.int64)
        self._counts = np.array([over == "all" or slide.negative for slide in slides])
        pairs = zip(slides, self._counts, strict=True)
        false = [it.false.score if counts else np.zeros(0) for it, counts in pairs]
        best = [slide.best for slide in slides]
        numbers = np.arange(len(slides))
        self._false_of = np.repeat(numbers, [len(it) for it in false])
        self._best_of = np.repeat(numbers, [len(it) for it in best])
        scores = np.concatenate([*false, *best, np.zeros(0)])
        self._thresholds, index = np.unique(-scores, return_inverse=True)  # falling scores
        self._false_at, self._best_at = np.split(index, [len(self._false_of)])

    def curve(self, weights: NDArray[np.int64] | None = None) -> FrocCurve | None:
        """The curve; None where there is no lesion to find, or no slide to average over.

        Args:
            weights: how often each slide counts, shape (slides,); None for once.
        """
        drawn = np.ones(len(self._required), np.int64) if weights is None else weights
        count = len(self._thresholds)
        of_false, of_best = drawn[self._false_of], drawn[self._best_of]
        return curve_of(
            np.bincount(self._false_at, of_false, minlength=count),
            np.bincount(self._best_at, of_best, minlength=count),
            averaged=int(drawn @ self._counts),
            lesions=int(drawn @ self._required),
            at=self.at,
        )


def curve_of(
    false: NDArray[np.number],
    best: NDArray[np.number],
    *,
    averaged: int,
    lesions: int,
    at: tuple[float, ...],
) -> FrocCurve | None:
    """The curve; None where there is no lesion to find, or no slide to average over.

    As CAMELYON16's ``computeFROC`` does, the lowest of all scores is no threshold, where a lesion
    that was not hit, and isolated cells, have the score 0.

    Args:
        false: how many false positives have each score, from the highest on, shape (scores,).
        best: how many lesions have it as their highest, likewise.
        averaged: slides that false positives are averaged over.
        lesions: that are to be found.
        at: where sensitivities are read off.
    """
    if not lesions or not averaged:
        return None
    lowest = int(np.flatnonzero(false + best)[-1])  # with a lesion to find there is a score
    return FrocCurve(
        false_per_slide=_falling(false[:lowest]) / averaged,
        sensitivity=_falling(best[:lowest]) / lesions,
        at=at,
    )


def _falling(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Running sums from the highest threshold on, the largest first, and a zero at the end."""
    return np.append(np.cumsum(counts)[::-1], 0.0)
