"""Temperature scaling and the figures that a model card reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
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
    """Area under the ROC curve; for more than two classes the mean of one against the rest."""
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
    if positive is not None and logits.shape[1] == 2:
        is_positive = truth == positive
        auc = float(roc_auc_score(is_positive, probabilities[:, positive]))
        # All thresholds: the default drops the inner points of straight parts, and with them the
        # one that sits at the limit.
        false_rate, true_rate, _ = roc_curve(
            is_positive, probabilities[:, positive], drop_intermediate=False
        )
        sensitivity = float(true_rate[false_rate <= 0.05].max())
    elif logits.shape[1] == 2:
        auc = float(roc_auc_score(truth, probabilities[:, 1]))
    else:
        auc = float(roc_auc_score(truth, probabilities, multi_class="ovr"))
    return Figures(
        patches=len(truth),
        accuracy=float((guess == truth).mean()),
        auc=auc,
        loss=float(functional.cross_entropy(logits.double(), labels)),
        calibration_error=_calibration_error(probabilities.max(axis=1), guess == truth),
        sensitivity_at_95_specificity=sensitivity,
    )


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    gap = np.bincount(bins, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gap[count > 0]).sum() / len(confidence))
