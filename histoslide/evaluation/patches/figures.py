"""Temperature scaling and the figures that a model card reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor
from torch.nn import functional

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How a classifier did on a labelled set."""

    patches: int
    """Number of patches judged."""
    accuracy: float
    """Part whose most probable class is right."""
    auc: float
    """Area under the ROC curve; for more than two classes the mean of one against the rest. NaN
    where only one class occurs."""
    average_precision: float
    """Area under the precision-recall curve as a sum of steps; for more than two classes the mean
    of one against the rest. NaN where only one class occurs."""
    loss: float
    """Mean negative log likelihood, natural logarithm."""
    calibration_error: float
    """Expected calibration error of the most probable class, 0-1."""
    sensitivity_at_95_specificity: float | None
    """Highest true positive rate at a false positive rate of at most 0.05; two classes only."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the likelihood loss of ``logits / temperature``.

    Args:
        logits: shape (n, classes).
        labels: class indices, shape (n,).
    """
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")
    logits = logits.double()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    # A set that is separated without error has its optimum at zero; stay within what float32 holds.
    return float(log_temperature.detach().exp().clamp(0.05, 20))


def judge(logits: Tensor, labels: Tensor, *, positive: int | None) -> Figures:
    """Compute the figures of a classifier from its logits.

    Args:
        logits: shape (n, classes), already divided by the temperature.
        labels: class indices, shape (n,).
        positive: index of the tumour class of a two-class model, else None.
    """
    probabilities = functional.softmax(logits.double(), dim=1).numpy()
    truth = labels.numpy()
    guess = probabilities.argmax(axis=1)
    sensitivity = None
    ranked = range(logits.shape[1])
    if logits.shape[1] == 2:
        ranked = range(1, 2) if positive is None else range(positive, positive + 1)
    areas = [rank_areas(probabilities[:, k], truth == k) for k in ranked]
    # A class that does not occur says nothing, and does not spoil the mean of those that do.
    known = [area for area in areas if area is not None]
    auc, precision = np.mean(known, axis=0) if known else (np.nan, np.nan)
    if positive is not None and logits.shape[1] == 2 and known:
        # All thresholds: the default drops the inner points of straight parts, and with them the
        # one that sits at the limit.
        false_rate, true_rate, _ = roc_curve(
            truth == positive, probabilities[:, positive], drop_intermediate=False
        )
        sensitivity = float(true_rate[false_rate <= 0.05].max())
    return Figures(
        patches=len(truth),
        accuracy=float((guess == truth).mean()),
        auc=float(auc),
        average_precision=float(precision),
        loss=float(functional.cross_entropy(logits.double(), labels)),
        calibration_error=_calibration_error(probabilities.max(axis=1), guess == truth),
        sensitivity_at_95_specificity=sensitivity,
    )


def rank_areas(
    scores: NDArray[np.float64], is_positive: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Area under the ROC curve and average precision, or None where only one class occurs.

    Args:
        scores: higher means more likely positive, shape (n,).
        is_positive: truth, shape (n,).
    """
    if is_positive.all() or not is_positive.any():
        return None
    auc = float(roc_auc_score(is_positive, scores))
    return auc, float(average_precision_score(is_positive, scores))


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    gap = np.bincount(bins, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gap[count > 0]).sum() / len(confidence))
