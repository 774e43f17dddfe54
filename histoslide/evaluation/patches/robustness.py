"""How much of a model's judgement stays when the same patches look otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from histoslide.evaluation.patches.figures import judge
from histoslide.evaluation.patches.perturbations import PERTURBATIONS, Perturbation
from histoslide.evaluation.patches.predictions import (
    DEFAULT_THRESHOLD,
    Judge,
    Patches,
    Predictions,
    predict_patches,
)


@dataclass(frozen=True, kw_only=True)
class PerturbedFigures:
    """How a model did on patches that were changed."""

    change: str
    """What was done to them, as ``histoslide.evaluation.patches.perturbations`` names it."""
    auc: float | None
    """Area under the ROC curve; for more than two classes the mean of one against the rest. None
    where only one class occurs."""
    auc_difference: float | None
    """From the AUC on the patches as they are; negative where the change harms."""
    decisions_changed: float
    """Part of the patches that are now called another class, 0-1."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """A model's judgement of the same patches under every change."""

    patches: int
    """How many."""
    threshold: float | None
    """Probability from which a patch is called tumour; None where the most probable class is."""
    auc: float | None
    """On the patches as they are."""
    changes: tuple[PerturbedFigures, ...]
    """One a change."""

    @property
    def worst(self) -> PerturbedFigures | None:
        """The change that costs most AUC; None where there is no AUC."""
        known = [it for it in self.changes if it.auc_difference is not None]
        return min(known, key=lambda it: it.auc_difference or 0.0, default=None)


def measure_robustness(
    model: Judge,
    patches: Patches,
    predictions: Predictions,
    *,
    threshold: float | None = None,
    perturbations: Sequence[Perturbation] = PERTURBATIONS,
    tta: bool = False,
    workers: int | None = None,
    class_map: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Run a model once more over its patches for every change.

    Args:
        model: that made the predictions.
        patches: labelled.
        predictions: of the patches as they are, made with the same ``tta`` and ``class_map``.
        threshold: as in ``histoslide.evaluation.patches.assessment.assess``.
        perturbations: the changes.
        tta: see ``predict_patches``, also for the two that follow.
        workers: threads that decode and change patches.
        class_map: the model's class of each class of the data.
        progress: called with the patches done and in all, over all changes.

    Raises:
        DataError: the patches have no labels, or one cannot be read.
    """
    temperature, total = model.spec.temperature, len(patches) * len(perturbations)
    auc = _auc(predictions, temperature)
    called = predictions.predicted(temperature, threshold)
    rows = []
    for number, perturbation in enumerate(perturbations):

        def report(done: int, count: int, before: int = number) -> None:
            if progress is not None:
                progress(before * count + done, total)

        found = predict_patches(
            model,
            patches,
            change=perturbation.change,
            tta=tta,
            workers=workers,
            class_map=class_map,
            progress=report,
        )
        changed_auc = _auc(found, temperature)
        changed = found.predicted(temperature, threshold) != called
        figures = PerturbedFigures(
            change=perturbation.name,
            auc=changed_auc,
            auc_difference=None if auc is None or changed_auc is None else changed_auc - auc,
            decisions_changed=float(changed.mean()),
        )
        rows.append(figures)
    limit = DEFAULT_THRESHOLD if threshold is None else threshold
    return Robustness(
        patches=len(predictions),
        threshold=limit if predictions.two_way else None,
        auc=auc,
        changes=tuple(rows),
    )


def _auc(predictions: Predictions, temperature: float) -> float | None:
    """The AUC that an assessment of the predictions gives."""
    labels = torch.from_numpy(predictions.known_labels)
    logits = torch.from_numpy(predictions.logits) / temperature
    auc = judge(logits, labels, positive=predictions.tumour if predictions.two_way else None).auc
    return auc if np.isfinite(auc) else None
