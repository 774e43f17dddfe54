"""What a training run says of itself: one record an epoch, one pair of numbers a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histoslide.errors import HistoslideError
from histoslide.storage.records import to_json
from histoslide.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to; one line of the log."""

    stage: int
    """Counted from 1."""
    epoch: int
    """Counted from 1 through all stages."""
    train_loss: float
    """fastai's running mean over the last steps, natural logarithm."""
    valid_loss: float
    """Mean over the validation set, natural logarithm."""
    accuracy: float
    """Part of the validation set whose most probable class is right."""
    auc: float
    """Area under the ROC curve of the validation set; for more than two classes the mean of one
    against the rest."""
    seconds: float
    """Time that the epoch took."""
    patches_per_second: float
    """Rate of its training part, on all devices together."""


def is_better(record: EpochRecord, other: EpochRecord | None, recipe: Recipe) -> bool:
    """Whether a record beats another by what the recipe monitors, then by its validation loss."""
    if other is None:
        return True
    new, old = getattr(record, recipe.monitor), getattr(other, recipe.monitor)
    if new == old:
        return record.valid_loss < other.valid_loss
    return bool(new < old if recipe.monitor == "valid_loss" else new > old)


def best_record(records: Sequence[EpochRecord], stage: int, recipe: Recipe) -> EpochRecord | None:
    """The best epoch of a stage, the first of equals; None where the stage has none."""
    best = None
    for record in records:
        if record.stage == stage and is_better(record, best, recipe):
            best = record
    return best


def out_of_patience(records: Sequence[EpochRecord], stage: int, recipe: Recipe) -> bool:
    """Whether a stage has gone the recipe's patience without a better epoch."""
    best = best_record(records, stage, recipe)
    if recipe.patience is None or best is None:
        return False
    return records[-1].epoch - best.epoch >= recipe.patience


def write_log(records: Sequence[EpochRecord], path: Path) -> None:
    """Write one JSON object a line.

    Raises:
        HistoslideError: the file cannot be written.
    """
    lines = [to_json(record, indent=None) + "\n" for record in records]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise HistoslideError(f"{path} cannot be written: {error.strerror}") from error
