"""Intervals by resampling: how much a figure would move with other patches, slides or patients.

Scores are sorted once. A resample is a row of whole-number weights, how often each patch was drawn,
and the figures of a thousand resamples are running sums over the sorted weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""Resamples by default: the ends of a 95 % interval then rest on 25 resamples each."""

FEWEST_SLIDES = 8
"""Below this many slides, resampling slides says nothing sure; patches are resampled instead."""

FEWEST_PATIENTS = 8
"""Below this many patients, resampling them says nothing sure; there are no intervals then."""

_VALUES_AT_ONCE = 300_000
"""Weights in one chunk: a few megabytes, which stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The middle 95 % of a figure's resampled values (percentile bootstrap, Efron 1979)."""

    low: float
    """2.5th percentile."""
    high: float
    """97.5th percentile."""


def interval(values: NDArray[np.float64]) -> Interval | None:
    """The middle 95 % of resampled values, or None where they cannot tell.

    That is where most of them are undefined, or where they are all the same: nine of nine right
    make every resample right, and an interval of no width would pass for certainty.

    Args:
        values: NaN for a resample in which the figure is undefined, shape (resamples,).
    """
    known = values[np.isfinite(values)]
    if 2 * len(known) < len(values) or not len(known):
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return None if low == high else Interval(low=float(low), high=float(high))


def by_slide(slides: tuple[str, ...] | None) -> bool:
    """Whether all patches have a slide, and slides are enough to be resampled."""
    return slides is not None and "" not in slides and len(set(slides)) >= FEWEST_SLIDES


def resample(
    labels: NDArray[np.int64], slides: tuple[str, ...] | None, *, resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """How often each patch is drawn, a few resamples at a time.

    Patches of one slide resemble each other, so slides are drawn whole, with replacement, where at
    least ``FEWEST_SLIDES`` are known. Else patches are drawn within their class, so that each
    resample has as many of a class as the data.

    Args:
        labels: class indices, shape (n,).
        slides: the slide of each patch, or None.
        resamples: how many in all.
        seed: of the draws.

    Yields:
        Weights, shape (some, n); their rows add up to ``resamples`` over all chunks.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _VALUES_AT_ONCE // max(1, len(labels)))
    groups: NDArray[np.intp] | None = None
    if slides is not None and by_slide(slides):
        _, groups = np.unique(np.array(slides), return_inverse=True)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        if groups is not None:
            yield draw(rng, rows, int(groups.max()) + 1)[:, groups]
            continue
        weights = np.zeros((rows, len(labels)), dtype=np.int64)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            weights[:, members] = draw(rng, rows, len(members))
        yield weights


def patient_weights(
    patients: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.int64] | None:
    """How often each slide is drawn when patients are, whole and with replacement.

    Args:
        patients: of each slide.
        resamples: how many.
        seed: of the draws.

    Returns:
        Shape (resamples, slides); None for fewer than ``FEWEST_PATIENTS``.
    """
    names, group = np.unique(np.array(patients, dtype=str), return_inverse=True)
    if len(names) < FEWEST_PATIENTS:
        return None
    weights: NDArray[np.int64] = draw(np.random.default_rng(seed), resamples, len(names))[:, group]
    return weights


def draw(rng: np.random.Generator, rows: int, count: int) -> NDArray[np.int64]:
    """How often each of ``count`` things is drawn in ``count`` draws, shape (rows, count)."""
    drawn = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Running sums of weights over patches in falling order of their score."""

    drawn: NDArray[np.int64]
    """Weight of each positive, shape (rows, positives)."""
    positives: NDArray[np.int64]
    """Sum over the first i positives, shape (rows, 1 + positives)."""
    negatives: NDArray[np.int64]
    """Sum over the first i negatives, shape (rows, 1 + negatives)."""

    @property
    def defined(self) -> NDArray[np.bool_]:
        """Whether a resample has both positives and negatives, shape (rows,)."""
        return (self.positives[:, -1] > 0) & (self.negatives[:, -1] > 0)


class Ranking:
    """Patches in falling order of one class's score, for figures under many weights."""

    def __init__(self, scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> None:
        """Sort once.

        Args:
            scores: higher means more likely positive, shape (n,).
            is_positive: truth, shape (n,).
        """
        order = np.argsort(-scores, kind="stable")
        self._positive, self._negative = order[is_positive[order]], order[~is_positive[order]]
        # Negated, so that falling scores are a rising sequence that searchsorted understands.
        self._up, self._down = -scores[self._positive], -scores[self._negative]
        # Negatives above each positive; with its ties; and positives with its ties.
        self._above = np.searchsorted(self._down, self._up, side="left")
        self._reached = np.searchsorted(self._down, self._up, side="right")
        self._ties = np.searchsorted(self._up, self._up, side="right")
        # Positives above each negative; behind the last negative, all of them.
        before = np.searchsorted(self._up, self._down, side="left")
        self._before = np.append(before, len(self._positive))

    def count(self, weights: NDArray[np.int64]) -> Counts:
        """Sum up weights, shape (rows, n)."""
        drawn = weights[:, self._positive]
        return Counts(
            drawn=drawn, positives=_running(drawn), negatives=_running(weights[:, self._negative])
        )

    def roc_area(self, counts: Counts) -> NDArray[np.float64]:
        """Area under the ROC curve of each row; ties count half."""
        negatives = counts.negatives
        below = 2 * negatives[:, -1:] - negatives[:, self._above] - negatives[:, self._reached]
        pairs = counts.positives[:, -1] * negatives[:, -1]
        return ratio((counts.drawn * below).sum(axis=1), 2 * pairs)

    def average_precision(self, counts: Counts) -> NDArray[np.float64]:
        """Mean over the positives of the precision where each is reached, of each row."""
        true = counts.positives[:, self._ties]
        called = true + counts.negatives[:, self._reached]
        precision = true / np.maximum(called, 1)
        area = ratio((counts.drawn * precision).sum(axis=1), counts.positives[:, -1])
        return np.where(counts.defined, area, np.nan)

    def sensitivity(self, counts: Counts, threshold: float) -> NDArray[np.float64]:
        """Part of the positives with a score at or above a threshold, of each row."""
        at = np.searchsorted(self._up, -threshold, side="right")
        return ratio(counts.positives[:, at], counts.positives[:, -1])

    def specificity(self, counts: Counts, threshold: float) -> NDArray[np.float64]:
        """Part of the negatives with a score below a threshold, of each row."""
        at = np.searchsorted(self._down, -threshold, side="right")
        every = counts.negatives[:, -1]
        return ratio(every - counts.negatives[:, at], every)

    def sensitivity_at(self, counts: Counts, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Highest sensitivity at false positive rates of at most ``rates``, (rows, rates)."""
        result = np.full((len(counts.drawn), len(rates)), np.nan)
        for row in np.flatnonzero(counts.defined):
            false, true = counts.negatives[row], counts.positives[row]
            # A little more than the rate: 0.07 × 100 is below 7 in binary.
            afford = np.searchsorted(false, rates * false[-1] + 1e-9, side="right") - 1
            result[row] = true[self._before[afford]] / true[-1]
        return result

    def precision_at(self, counts: Counts, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
        """Precision at the highest threshold that reaches ``recalls``, (rows, recalls)."""
        result = np.full((len(counts.drawn), len(recalls)), np.nan)
        for row in np.flatnonzero(counts.defined):
            false, true = counts.negatives[row], counts.positives[row]
            needed = np.searchsorted(true, recalls * true[-1] - 1e-9, side="left")
            # The last positive that is needed; for a recall of zero, the first that was drawn.
            first = np.searchsorted(true, 1, side="left")
            last = np.maximum(needed, first) - 1
            found = true[self._ties[last]]
            result[row] = found / (found + false[self._reached[last]])
        return result


def ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is zero."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) != 0)
    return result


def _running(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1), dtype=np.int64)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums
