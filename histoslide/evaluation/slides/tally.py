"""The FROC of a cohort slide by slide, keeping no more than the curve is read from.

What many settings find on many slides does not fit into memory. The curve is read up to a number
of false positives a slide: what is falser than that only has to be counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histoslide.evaluation.slides.froc import FrocCurve, curve_of
from histoslide.evaluation.slides.hits import SlideHits
from histoslide.evaluation.slides.rules import Over


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What was hit on some slides."""

    most: int
    """False positives whose scores are kept: the highest, with all equals of the last of them, and
    those of the next score."""
    scores: NDArray[np.float64] = field(repr=False)
    """Scores of false positives that are counted, each once, falling, shape (n,)."""
    counts: NDArray[np.int64] = field(repr=False)
    """How many have each, shape (n,)."""
    best: NDArray[np.float64] = field(repr=False)
    """Highest score that hit each lesion, 0 for none; shape (lesions,)."""
    required: int
    """Lesions that are to be found."""
    slides: int
    """How many."""
    averaged: int
    """Of them those that false positives are counted on."""
    false: int
    """False positives of all."""
    negative_slides: int
    """Slides without tumour."""
    negative_false: int
    """False positives of those."""

    @classmethod
    def of(cls, hits: SlideHits, *, over: Over, most: int) -> Tally:
        """That of one slide."""
        counted = over == "all" or hits.negative
        every = hits.false.score if counted else np.zeros(0)
        scores, counts = _highest(every, np.ones(len(every), np.int64), most)
        return cls(
            most=most,
            scores=scores,
            counts=counts,
            best=hits.best,
            required=hits.required,
            slides=1,
            averaged=int(counted),
            false=len(hits.false),
            negative_slides=int(hits.negative),
            negative_false=len(hits.false) if hits.negative else 0,
        )

    @classmethod
    def sum(cls, parts: Sequence[Tally]) -> Tally:
        """That of all slides of some, one or more, which keep as many."""
        most = parts[0].most
        scores, counts = _highest(
            np.concatenate([it.scores for it in parts]),
            np.concatenate([it.counts for it in parts]),
            most,
        )
        return cls(
            most=most,
            scores=scores,
            counts=counts,
            best=np.concatenate([it.best for it in parts]),
            required=sum(it.required for it in parts),
            slides=sum(it.slides for it in parts),
            averaged=sum(it.averaged for it in parts),
            false=sum(it.false for it in parts),
            negative_slides=sum(it.negative_slides for it in parts),
            negative_false=sum(it.negative_false for it in parts),
        )

    def curve(self, at: tuple[float, ...]) -> FrocCurve | None:
        """As ``Froc`` has it, right up to the number of false positives that is kept.

        Args:
            at: where it is read off; see ``most_read``.
        """
        values = np.concatenate([self.scores, self.best])
        thresholds, index = np.unique(-values, return_inverse=True)
        false_at, best_at = np.split(index, [len(self.scores)])
        return curve_of(
            np.bincount(false_at, self.counts, minlength=len(thresholds)),
            np.bincount(best_at, minlength=len(thresholds)),
            averaged=self.averaged,
            lesions=self.required,
            at=at,
        )


def most_read(at: tuple[float, ...], slides: int) -> int:
    """False positives of a cohort that decide what is read off its curve."""
    return math.floor(max(at) * slides) + 1


def _highest(
    scores: NDArray[np.float64], counts: NDArray[np.int64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores once each, falling, with how many have them, as far as ``Tally.most`` says."""
    negative, index = np.unique(-scores, return_inverse=True)
    each = np.bincount(index, counts, minlength=len(negative)).astype(np.int64)
    # The lowest of all scores is no threshold, so that the next one has to be there too.
    stop = int(np.searchsorted(np.cumsum(each), most)) + 2
    return -negative[:stop], each[:stop]
