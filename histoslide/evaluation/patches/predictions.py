"""What a model says of every patch of a set, and how that is kept."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from histoslide.errors import DataError, reason
from histoslide.evaluation.patches.perturbations import Change
from histoslide.machine.processors import usable_processors
from histoslide.model import ModelSpec
from histoslide.storage.tables import TableWriter, original_cell
from histoslide.storage.writing import whole_file

DEFAULT_THRESHOLD = 0.5
"""Calibrated probability of tumour from which a patch is called tumour."""


class Patches(Protocol):
    """Patches with names; sets that know ``labels`` or ``slides`` have those attributes too."""

    @property
    def names(self) -> Sequence[str]:
        """A name for every patch."""
        ...

    def __len__(self) -> int:
        """Number of patches."""
        ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3)."""
        ...


class Judge(Protocol):
    """What says something of tiles: a ``histoslide.model.Model``, or two of them (``TwoLooks``)."""

    @property
    def spec(self) -> ModelSpec:
        """Of the model."""
        ...

    @property
    def batch_size(self) -> int:
        """How many tiles to hand over at a time."""
        ...

    def logits(self, tiles: Any) -> NDArray[np.float32]:
        """Outputs of shape (n, classes), of which a softmax at the spec's temperature is taken."""
        ...

    def logits_of_views(self, tiles: Any) -> NDArray[np.float32]:
        """The same of the eight symmetries, shape (8, n, classes)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Outputs of a network for a set of patches.

    Raises:
        DataError: arrays that do not fit each other.
    """

    logits: NDArray[np.float32]
    """Outputs of the network before temperature scaling, shape (n, classes)."""
    labels: NDArray[np.int64] | None = None
    """Actual class indices, shape (n,); None for unlabelled patches."""
    names: tuple[str, ...]
    """A name for every patch."""
    slides: tuple[str, ...] | None = None
    """The slide that every patch is from, where it is known."""
    classes: tuple[str, ...]
    """Class names in the order of the outputs."""
    tumour: int | None = None
    """Index of the tumour class, or None for a model without one."""

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.logits.shape != (count, len(self.classes)):
            raise DataError(
                f"{count} patches of {len(self.classes)} classes need logits of that shape, "
                f"not {self.logits.shape}"
            )
        if self.labels is not None and (
            self.labels.shape != (count,)
            or (count and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes))
        ):
            raise DataError(f"{count} patches need a label of 0..{len(self.classes) - 1} each")
        if self.slides is not None and len(self.slides) != count:
            raise DataError(f"{count} patches need a slide each, not {len(self.slides)}")
        if not np.isfinite(self.logits).all():
            first = int(np.flatnonzero(~np.isfinite(self.logits).all(axis=1))[0])
            raise DataError(f"the model puts out no number for patch {self.names[first]}")

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.names)

    @property
    def two_way(self) -> bool:
        """Whether this is tumour against the rest: two classes, one of which is the tumour."""
        return self.tumour is not None and len(self.classes) == 2

    @property
    def known_labels(self) -> NDArray[np.int64]:
        """The labels.

        Raises:
            DataError: the patches have none.
        """
        if self.labels is None:
            raise DataError("the patches have no labels to compare with: use --predict instead")
        return self.labels

    def probabilities(self, temperature: float) -> NDArray[np.float64]:
        """Softmax of ``logits / temperature``, shape (n, classes)."""
        return np.asarray(softmax(self.logits.astype(np.float64) / temperature, axis=1))

    def losses(self, temperature: float) -> NDArray[np.float64]:
        """Negative log likelihood of the actual class of every patch, shape (n,)."""
        labels = self.known_labels
        scaled = log_softmax(self.logits.astype(np.float64) / temperature, axis=1)
        return -np.asarray(scaled[np.arange(len(labels)), labels])

    def predicted(self, temperature: float, threshold: float | None = None) -> NDArray[np.int64]:
        """The class each patch is called, shape (n,).

        Args:
            temperature: of the model.
            threshold: of the calibrated probability of tumour; None for ``DEFAULT_THRESHOLD``.
                Without a tumour class, or with more than two, the most probable class is taken.
        """
        probabilities = self.probabilities(temperature)
        if not self.two_way or self.tumour is None:
            return probabilities.argmax(axis=1)
        limit = DEFAULT_THRESHOLD if threshold is None else threshold
        is_tumour = probabilities[:, self.tumour] >= limit
        return np.where(is_tumour, self.tumour, 1 - self.tumour)

    def save(self, path: Path, *, temperature: float, threshold: float | None = None) -> None:
        """Write a table with one row a patch; ``load`` reads it back without loss.

        The columns are name, slide, label, predicted, loss, and for every class its calibrated
        probability ``p_<class>`` and its uncalibrated output ``logit_<class>``.

        Raises:
            DataError: the folder cannot be written.
        """
        probabilities = self.probabilities(temperature)
        predicted = self.predicted(temperature, threshold)
        losses = None if self.labels is None else self.losses(temperature)
        header = ["name", "slide", "label", "predicted", "loss"]
        header += [f"p_{name}" for name in self.classes]
        header += [f"logit_{name}" for name in self.classes]

        def rows() -> Iterator[list[str]]:
            for i, name in enumerate(self.names):
                slide = "" if self.slides is None else self.slides[i]
                label = "" if self.labels is None else self.classes[self.labels[i]]
                loss = "" if losses is None else f"{losses[i]:.6g}"
                row = [name, slide, label, self.classes[predicted[i]], loss]
                row += [f"{value:.6g}" for value in probabilities[i]]
                yield row + [f"{value:.9g}" for value in self.logits[i]]

        _write_table(path, header, rows())

    def save_submission(self, path: Path, *, temperature: float) -> None:
        """Write the submission format of the Kaggle competition.

        The columns are ``id,label``, label being the calibrated probability of tumour. A model
        without a tumour class, or of more than two classes, gets ``id`` and one column a class.

        Raises:
            DataError: the folder cannot be written.
        """
        probabilities = self.probabilities(temperature)
        header = ["id", *self.classes]
        if self.two_way and self.tumour is not None:
            header = ["id", "label"]
            probabilities = probabilities[:, self.tumour, None]
        rows = (
            [name, *(f"{value:.6g}" for value in values)]
            for name, values in zip(self.names, probabilities, strict=True)
        )
        _write_table(path, header, rows)

    @classmethod
    def load(cls, path: Path, *, tumour_class: str | None = None) -> Predictions:
        """Read what ``save`` wrote.

        Args:
            path: the table.
            tumour_class: which class means tumour; the table does not say.

        Raises:
            DataError: not such a table.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                columns = reader.fieldnames or ()
            classes = tuple(c.removeprefix("logit_") for c in columns if c.startswith("logit_"))
            index = {name: i for i, name in enumerate(classes)}
            logits = [[float(row[f"logit_{name}"]) for name in classes] for row in rows]
            labelled = any(row["label"] for row in rows)
            labels = [index[row["label"]] for row in rows] if labelled else None
            return cls(
                logits=np.array(logits, dtype=np.float32).reshape(len(rows), len(classes)),
                labels=None if labels is None else np.array(labels, dtype=np.int64),
                names=tuple(original_cell(row["name"]) for row in rows),
                slides=tuple(original_cell(row["slide"]) for row in rows)
                if any(row["slide"] for row in rows)
                else None,
                classes=classes,
                tumour=None if tumour_class is None else index[tumour_class],
            )
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise DataError(f"{path} is not a table of predictions: {error}") from error


def predict_patches(
    model: Judge,
    patches: Patches,
    *,
    tta: bool = False,
    change: Change | None = None,
    workers: int | None = None,
    class_map: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Run a model over a set of patches, decoding ahead of the network in threads.

    No more batches wait than there are threads, so memory does not grow with the set.

    Args:
        model: any size of input; the patches must be of that size.
        patches: labelled or not.
        tta: test-time augmentation: the mean of the logits of all eight symmetries of the patch.
            The mean is taken of logits, not of probabilities, so that temperature scaling applies
            to it as to any other output. It takes eight times as long.
        change: made to patches before the model sees them; None for none.
        workers: threads that decode; None for one a core, at most eight.
        class_map: the model's class index of every label of the data; see ``match_classes``.
        progress: called with the patches done and in all.

    Raises:
        DataError: there are no patches, one cannot be read, or one is of another size.
    """
    total = len(patches)
    if not total:
        raise DataError("there are no patches to predict on")
    logits = np.empty((total, len(model.spec.classes)), dtype=np.float32)
    done = 0
    for tiles in read_batches(patches, model, workers, change=change):
        stop = done + len(tiles)
        logits[done:stop] = (
            model.logits_of_views(tiles).mean(axis=0) if tta else model.logits(tiles)
        )
        done = stop
        if progress is not None:
            progress(done, total)
    labels: NDArray[np.int64] | None = getattr(patches, "labels", None)
    slides: Sequence[str] | None = getattr(patches, "slides", None)
    if labels is not None and class_map is not None:
        labels = class_map[labels]
    return Predictions(
        logits=logits,
        labels=labels,
        names=tuple(patches.names),
        slides=None if slides is None else tuple(slides),
        classes=model.spec.classes,
        tumour=model.spec.tumour_index,
    )


def read_batches(
    patches: Patches, model: Judge, workers: int | None = None, *, change: Change | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Patches as a model takes them, decoded ahead in threads.

    Args:
        patches: labelled or not.
        model: gives the size of batches and of patches.
        workers: threads that decode; None for one a core, at most eight.
        change: made to patches after they are decoded, in the same threads; None for none.

    Yields:
        Batches in order, uint8, shape (n, 3, input_px, input_px).

    Raises:
        DataError: a patch cannot be read, or is of another size.
    """
    workers = workers or min(8, usable_processors())
    size = model.batch_size
    starts = range(0, len(patches), size)

    def load(start: int) -> NDArray[np.uint8]:
        stop = min(start + size, len(patches))
        tiles = np.stack([_read_one(patches, i, model) for i in range(start, stop)])
        return (tiles if change is None else change(tiles)).transpose(0, 3, 1, 2)

    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for start in starts:
            waiting.append(pool.submit(load, start))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_one(patches: Patches, index: int, model: Judge) -> NDArray[np.uint8]:
    patch = patches.read(index)
    side = model.spec.input_px
    if patch.shape != (side, side, 3):
        raise DataError(
            f"patch {patches.names[index]} is {patch.shape[1]}×{patch.shape[0]} px, the model "
            f"{model.spec.name} sees {side}×{side}: pass another --model or other patches"
        )
    return patch


def _write_table(path: Path, header: list[str], rows: Iterator[list[str]]) -> None:
    try:
        with (
            whole_file(path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = TableWriter(file)
            table.write([header])
            table.write(rows)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {reason(error)}") from error
