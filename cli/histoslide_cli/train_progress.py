"""What a training run shows while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from histoslide_cli.console import Progress

if TYPE_CHECKING:
    from histoslide.datasets.scan import OnPatches
    from histoslide.training.recipe import Recipe
    from histoslide.training.records import EpochRecord

logger = logging.getLogger("histoslide.cli")


class TrainProgress:
    """A bar an epoch with the running loss and the last figures; one line when it is done."""

    def __init__(self, recipe: Recipe, *, quiet: bool) -> None:
        self._recipe, self._quiet = recipe, quiet
        self._bar: Progress | None = None
        self._last = ""

    def __enter__(self) -> TrainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextmanager
    def watch(self, label: str) -> Iterator[OnPatches]:
        """Show how patches are gone through."""
        with Progress(label, unit="patch", quiet=self._quiet) as progress:
            yield progress.update

    def step(self, epoch: int, done: int, total: int, loss: float, rate: float) -> None:
        """A training step is done."""
        if self._bar is None:
            label = f"epoch {epoch}/{self._recipe.epochs}"
            self._bar = Progress(label, unit="step", quiet=self._quiet)
        note = f"{rate:.0f} patches/s, train loss {loss:.4f}{self._last}"
        self._bar.update(done, total, note)

    def finish_epoch(self, record: EpochRecord) -> None:
        """An epoch is validated."""
        self._close()
        figures = (
            f"valid loss {record.valid_loss:.4f}, accuracy {record.accuracy:.4f}, "
            f"AUC {record.auc:.4f}"
        )
        self._last = f", {figures}"
        if not self._quiet:
            logger.info(
                "epoch %d/%d: train loss %.4f, %s, %.0f s, %.0f patches/s",
                record.epoch, self._recipe.epochs, record.train_loss, figures, record.seconds,
                record.patches_per_second,
            )  # fmt: skip

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None
