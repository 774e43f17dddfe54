"""How a training went, step by step and epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import DataError
from histoslide.storage.records import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class _RateRecord:
    """A search as its file has it."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """What a learning-rate finder saw: the loss while the rate grew."""

    lrs: NDArray[np.float64]
    """Learning rate of every step, shape (n,)."""
    losses: NDArray[np.float64]
    """Smoothed training loss of every step, shape (n,)."""
    suggestion: float | None = None
    """The rate that was suggested."""

    def __post_init__(self) -> None:
        if self.lrs.shape != self.losses.shape or self.lrs.ndim != 1:
            raise DataError(
                f"a rate search needs one loss a rate, not {self.losses.shape} for {self.lrs.shape}"
            )

    def to_json(self) -> str:
        """The search as one line of JSON."""
        record = _RateRecord(
            lrs=tuple(self.lrs.tolist()),
            losses=tuple(self.losses.tolist()),
            suggestion=self.suggestion,
        )
        return to_json(record, indent=None) + "\n"

    @classmethod
    def from_json(cls, raw: bytes, *, source: object) -> RateSearch:
        """What ``to_json`` gave.

        Raises:
            DataError: it is something else; ``source`` is named.
        """
        record = from_json(raw, _RateRecord, source=source, error=DataError)
        return cls(
            lrs=np.array(record.lrs, dtype=np.float64),
            losses=np.array(record.losses, dtype=np.float64),
            suggestion=record.suggestion,
        )


@dataclass(frozen=True, kw_only=True)
class History:
    """Losses and learning rates of a training.

    Raises:
        DataError: shapes that do not fit each other.
    """

    loss: NDArray[np.float64]
    """Training loss of every step, shape (steps,); may be empty."""
    lr: NDArray[np.float64]
    """Learning rate of every step and parameter group, shape (steps, groups)."""
    finder: RateSearch | None = None
    """What the learning-rate finder saw, where it was run."""
    epochs: tuple[Mapping[str, Any], ...] = ()
    """A record an epoch: epoch, stage, train_loss, valid_loss, accuracy, auc, seconds."""

    def __post_init__(self) -> None:
        if self.loss.ndim != 1 or self.lr.ndim != 2 or len(self.loss) != len(self.lr):
            raise DataError(
                "a history needs one loss and one row of learning rates a step, not "
                f"{self.loss.shape} and {self.lr.shape}"
            )

    @classmethod
    def of_epochs(cls, epochs: tuple[Mapping[str, Any], ...]) -> History:
        """What is left of a training whose single steps were not kept."""
        return cls(loss=np.empty(0), lr=np.empty((0, 1)), epochs=epochs)
