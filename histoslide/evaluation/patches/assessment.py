"""Everything that is said of a model's predictions on labelled patches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from histoslide.errors import DataError
from histoslide.evaluation.bootstrap import (
    FEWEST_SLIDES,
    RESAMPLES,
    Interval,
    Ranking,
    by_slide,
    interval,
    ratio,
    resample,
)
from histoslide.evaluation.numbers import plain_value
from histoslide.evaluation.patches.figures import Figures, judge, rank_areas
from histoslide.evaluation.patches.predictions import DEFAULT_THRESHOLD, Predictions

GRID = np.linspace(0, 1, 101)
"""False positive rates, and recalls, at which the bands around the curves are computed."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """ROC and precision-recall curve of one class against the rest.

    The points run from the highest threshold, above all scores, to the lowest.
    """

    name: str
    """Of the class."""
    auc: float
    """Area under the ROC curve."""
    average_precision: float
    """Area under the precision-recall curve, as a sum of steps."""
    share: float
    """Part of the patches that are of this class: the precision of guessing."""
    false_rate: NDArray[np.float64]
    """False positive rate (1 - specificity) of each point of the ROC curve."""
    true_rate: NDArray[np.float64]
    """True positive rate (sensitivity) of each point of the ROC curve."""
    recall: NDArray[np.float64]
    """Recall (sensitivity) of each point of the precision-recall curve."""
    precision: NDArray[np.float64]
    """Precision of each point; that of the first, where nothing is called, is 1."""
    roc_band: NDArray[np.float64] | None = None
    """2.5th and 97.5th percentile of the true positive rate at each rate of ``GRID``, (2, 101)."""
    precision_band: NDArray[np.float64] | None = None
    """2.5th and 97.5th percentile of the precision at each recall of ``GRID``, (2, 101)."""


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How one class did against the rest."""

    name: str
    """Of the class."""
    patches: int
    """Patches that are of this class."""
    called: int
    """Patches that were called this class."""
    precision: float
    """Part of the called that are of this class; NaN where none was called."""
    recall: float
    """Part of this class that was called so; NaN where there is none."""
    auc: float
    """Area under the ROC curve against the rest; NaN where only one of the two occurs."""
    auc_interval: Interval | None
    """By resampling."""
    average_precision: float
    """Average precision against the rest; NaN as above."""


@dataclass(frozen=True, kw_only=True)
class SlideFigures:
    """How the patches of one slide did."""

    name: str
    """Of the slide."""
    patches: int
    """Patches of this slide."""
    positive: int | None
    """Tumour patches among them, for a model of two classes."""
    auc: float | None
    """Area under the ROC curve within the slide; None where only one class occurs in it, or for a
    model without a tumour class."""
    accuracy: float
    """Part that is called rightly."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Figures, curves and counts of a model on one labelled set."""

    classes: tuple[str, ...]
    """Names in the order of the outputs."""
    tumour: int | None
    """Index of the tumour class among two, else None."""
    temperature: float
    """What the logits were divided by."""
    figures: Figures
    """After temperature scaling."""
    uncalibrated: Figures
    """Before temperature scaling."""
    threshold: float | None
    """Probability from which a patch is called tumour; None where the most probable class is."""
    confusion: NDArray[np.int64]
    """Patches by actual (row) and called (column) class, at the threshold."""
    sensitivity: float | None
    """Part of tumour patches that were called tumour, at the threshold."""
    specificity: float | None
    """Part of normal patches that were called normal, at the threshold."""
    youden_threshold: float | None
    """Where sensitivity + specificity is highest on these very patches: for information, and too
    good to be reported as found."""
    intervals: Mapping[str, Interval | None]
    """95 % intervals of auc, average_precision, accuracy, sensitivity and specificity."""
    resampled: str
    """What was resampled: ``patches`` or ``slides``."""
    resamples: int
    """How many resamples the intervals rest on."""
    by_class: tuple[ClassFigures, ...]
    """One for every class."""
    by_slide: tuple[SlideFigures, ...]
    """One for every slide, where slides are known, by name."""
    curves: tuple[Curve, ...]
    """Of the tumour class, or of every class that occurs."""

    @property
    def accuracy(self) -> float:
        """Part of the patches that was called rightly, at the threshold."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def most_confused(self) -> tuple[tuple[str, str, int], ...]:
        """Actual class, called class, and how often, of all confusions, the most frequent first."""
        off = [
            (self.classes[row], self.classes[col], int(count))
            for (row, col), count in np.ndenumerate(self.confusion)
            if row != col and count
        ]
        return tuple(sorted(off, key=lambda item: -item[2]))

    def as_dict(self) -> dict[str, Any]:
        """All but the curves, ready for JSON: what is undefined is None."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "curves"
        }
        fields["accuracy"] = self.accuracy
        return {name: plain_value(value) for name, value in fields.items()}


def assess(
    predictions: Predictions,
    *,
    temperature: float = 1.0,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Assessment:
    """Compare predictions with labels.

    Args:
        predictions: of labelled patches.
        temperature: of the model.
        threshold: calibrated probability from which a patch is called tumour, for models of two
            classes; None for ``DEFAULT_THRESHOLD``.
        resamples: of the bootstrap; 0 leaves the intervals out.
        seed: of the bootstrap.

    Raises:
        DataError: no patches, no labels, or a threshold out of range or without a tumour class.
    """
    labels = predictions.known_labels
    if not len(labels):
        raise DataError("there are no patches to judge")
    check_threshold(threshold, predictions.classes, predictions.tumour)
    limit = (DEFAULT_THRESHOLD if threshold is None else threshold) if predictions.two_way else None
    called = predictions.predicted(temperature, limit)
    count = len(predictions.classes)
    confusion = np.bincount(labels * count + called, minlength=count**2).reshape(count, count)
    positive = predictions.tumour if predictions.two_way else None
    logits, truth = torch.from_numpy(predictions.logits), torch.from_numpy(labels)
    resampled = _Resampled(
        predictions, temperature, called == labels, limit, resamples=resamples, seed=seed
    )
    return Assessment(
        classes=predictions.classes,
        tumour=positive,
        temperature=temperature,
        figures=judge(logits / temperature, truth, positive=positive),
        uncalibrated=judge(logits, truth, positive=positive),
        threshold=limit,
        confusion=confusion,
        sensitivity=None if positive is None else _rate(confusion, positive),
        specificity=None if positive is None else _rate(confusion, 1 - positive),
        youden_threshold=resampled.youden_threshold,
        intervals=resampled.intervals,
        resampled="slides" if by_slide(predictions.slides) else "patches",
        resamples=resamples,
        by_class=_class_figures(predictions, temperature, confusion, resampled.class_intervals),
        by_slide=_slide_figures(predictions, temperature, called),
        curves=resampled.curves,
    )


def check_threshold(threshold: float | None, classes: tuple[str, ...], tumour: int | None) -> None:
    """Refuse a threshold that means nothing for a model.

    Raises:
        DataError: it lies outside 0-1, or the model has not two classes of which one is the tumour.
    """
    if threshold is None:
        return
    if tumour is None or len(classes) != 2:
        raise DataError(
            f"a threshold ({threshold:g}) needs a model of two classes, one of them the tumour: "
            f"this one has {', '.join(classes)}"
        )
    if not 0 <= threshold <= 1:
        raise DataError(f"the threshold must lie in 0-1, not {threshold:g}")


def resampling_note(assessment: Assessment) -> str:
    """How the intervals came to be, in one sentence."""
    how = f"95 % intervals from {assessment.resamples:,} bootstrap resamples"
    if assessment.resampled == "slides":
        return f"{how} of whole slides."
    if assessment.by_slide:
        return (
            f"{how} of patches: with fewer than {FEWEST_SLIDES} slides, slides cannot be "
            "resampled. Patches of one slide resemble each other, so the intervals are too narrow."
        )
    return (
        f"{how} of patches within their class. They take patches as independent: where several are "
        "from one slide, the intervals are too narrow."
    )


class _Resampled:
    """Curves of the data themselves, and the spread of their figures over resamples."""

    def __init__(
        self,
        predictions: Predictions,
        temperature: float,
        right: NDArray[np.bool_],
        threshold: float | None,
        *,
        resamples: int,
        seed: int,
    ) -> None:
        labels = predictions.known_labels
        probabilities = predictions.probabilities(temperature)
        shown = range(len(predictions.classes))
        if predictions.two_way and predictions.tumour is not None:
            shown = range(predictions.tumour, predictions.tumour + 1)
        self._shown = [k for k in shown if 0 < np.count_nonzero(labels == k) < len(labels)]
        self._rankings = {k: Ranking(probabilities[:, k], labels == k) for k in self._shown}
        self._threshold = threshold
        draws = [
            self._figures(weights, right)
            for weights in resample(labels, predictions.slides, resamples=resamples, seed=seed)
        ]
        keys = draws[0].keys() if draws else ()
        spread = {key: np.concatenate([draw[key] for draw in draws]) for key in keys}
        self.curves = tuple(
            _curve(predictions.classes[k], probabilities[:, k], labels == k, spread, k)
            for k in self._shown
        )
        names = ("auc", "average_precision", "accuracy", "sensitivity", "specificity")
        self.intervals = {name: interval(spread[name]) for name in names if name in spread}
        self.class_intervals = {
            predictions.classes[k]: interval(spread[f"auc {k}"])
            for k in self._shown
            if f"auc {k}" in spread
        }
        self.youden_threshold = None
        if threshold is not None and self._shown:
            (k,) = self._shown
            false, true, thresholds = roc_curve(labels == k, probabilities[:, k])
            best = max(1, int(np.argmax(true - false)))  # the first threshold calls nothing
            self.youden_threshold = float(thresholds[best])

    def _figures(
        self, weights: NDArray[np.int64], right: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float64]]:
        """Every figure of some resamples, each of shape (rows, …)."""
        result = {"accuracy": ratio(weights @ right.astype(np.int64), weights.sum(axis=1))}
        areas, precisions = [], []
        for k, ranking in self._rankings.items():
            counts = ranking.count(weights)
            areas.append(ranking.roc_area(counts))
            precisions.append(ranking.average_precision(counts))
            result[f"auc {k}"] = areas[-1]
            result[f"roc {k}"] = ranking.sensitivity_at(counts, GRID)
            result[f"precision {k}"] = ranking.precision_at(counts, GRID)
            if self._threshold is not None:
                result["sensitivity"] = ranking.sensitivity(counts, self._threshold)
                result["specificity"] = ranking.specificity(counts, self._threshold)
        if areas:
            result["auc"] = np.mean(areas, axis=0)
            result["average_precision"] = np.mean(precisions, axis=0)
        return result


def _curve(
    name: str,
    scores: NDArray[np.float64],
    is_positive: NDArray[np.bool_],
    spread: Mapping[str, NDArray[np.float64]],
    k: int,
) -> Curve:
    false, true, _ = roc_curve(is_positive, scores)
    precision, recall, _ = precision_recall_curve(is_positive, scores)
    auc, area = rank_areas(is_positive=is_positive, scores=scores) or (math.nan, math.nan)
    return Curve(
        name=name,
        auc=auc,
        average_precision=area,
        share=float(is_positive.mean()),
        true_rate=true,
        false_rate=false,
        recall=recall[::-1],
        precision=precision[::-1],
        roc_band=_band(spread.get(f"roc {k}")),
        precision_band=_band(spread.get(f"precision {k}")),
    )


def _band(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    if values is None:
        return None
    known = values[np.isfinite(values[:, -1])]
    return np.nanpercentile(known, (2.5, 97.5), axis=0) if len(known) else None


def _rate(confusion: NDArray[np.int64], label: int) -> float:
    return float(ratio(confusion[label, label], confusion[label].sum()))


def _class_figures(
    predictions: Predictions,
    temperature: float,
    confusion: NDArray[np.int64],
    intervals: Mapping[str, Interval | None],
) -> tuple[ClassFigures, ...]:
    labels, probabilities = predictions.known_labels, predictions.probabilities(temperature)
    result = []
    for k, name in enumerate(predictions.classes):
        auc, precision = rank_areas(probabilities[:, k], labels == k) or (math.nan, math.nan)
        figures = ClassFigures(
            name=name,
            patches=int(confusion[k].sum()),
            called=int(confusion[:, k].sum()),
            precision=float(ratio(confusion[k, k], confusion[:, k].sum())),
            recall=_rate(confusion, k),
            auc=auc,
            auc_interval=intervals.get(name),
            average_precision=precision,
        )
        result.append(figures)
    return tuple(result)


def _slide_figures(
    predictions: Predictions, temperature: float, called: NDArray[np.int64]
) -> tuple[SlideFigures, ...]:
    if predictions.slides is None:
        return ()
    names, index = np.unique(np.array(predictions.slides), return_inverse=True)
    labels, result = predictions.known_labels, []
    tumour = predictions.tumour if predictions.two_way else None
    scores = predictions.probabilities(temperature)[:, tumour or 0]
    for i, name in enumerate(names):
        if not name:  # patches of unknown slide are no slide
            continue
        here = index == i
        areas = None if tumour is None else rank_areas(scores[here], labels[here] == tumour)
        figures = SlideFigures(
            name=str(name),
            patches=int(here.sum()),
            positive=None if tumour is None else int((labels[here] == tumour).sum()),
            auc=None if areas is None else areas[0],
            accuracy=float((called == labels)[here].mean()),
        )
        result.append(figures)
    return tuple(result)
