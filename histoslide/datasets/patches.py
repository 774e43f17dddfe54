"""What every set of patches is, whatever its files look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.images import read_image
from histoslide.datasets.split import Split
from histoslide.errors import DataError


class UnlabelledPatches(Protocol):
    """Patches that can be read one at a time; picklable, so that worker processes can read too."""

    @property
    def names(self) -> Sequence[str]:
        """A name for every patch, unique within the set."""
        ...

    def __len__(self) -> int:
        """Number of patches."""
        ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3).

        Raises:
            DataError: the patch cannot be decoded; the message names it.
        """
        ...


class PatchSet(UnlabelledPatches, Protocol):
    """Patches whose classes are known, and sometimes their slides."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every patch, shape (n,)."""
        ...

    @property
    def slides(self) -> tuple[str, ...] | None:
        """The slide that each patch was cut from; None where that is unknown."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Labelled patches that are image files of any format Pillow reads."""

    paths: tuple[Path, ...]
    """One file a patch."""
    labels: NDArray[np.int64]
    """Class index of every patch, shape (n,)."""
    given_names: tuple[str, ...] | None = None
    """Names that are unique where file names are not; None takes file names."""
    slides: tuple[str, ...] | None = None
    """The slide of each patch; None where that is unknown."""
    named_by_pixels: bool = False
    """Whether each name is the SHA-1 of the raw RGB bytes, as the ids of Kaggle are."""

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """The given names, or file names without their ending."""
        return self.given_names or tuple(path.stem for path in self.paths)

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3).

        Raises:
            DataError: the file cannot be decoded; the message names it.
        """
        return read_image(self.paths[index])


UNKNOWN = -1
"""In place of the class of a patch whose class nobody says."""


@dataclass(frozen=True)
class WithoutLabels:
    """Unlabelled patches beside labelled ones."""

    source: UnlabelledPatches
    """The patches."""
    slides: tuple[str, ...] | None = None
    """Unknown."""

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.source)

    @property
    def labels(self) -> NDArray[np.int64]:
        """``UNKNOWN`` for every patch, shape (n,)."""
        return np.full(len(self.source), UNKNOWN, dtype=np.int64)

    @property
    def names(self) -> Sequence[str]:
        """Names of all patches."""
        return self.source.names

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3)."""
        return self.source.read(index)


@dataclass(frozen=True)
class Joined:
    """Several sets of the same classes, one after the other."""

    parts: tuple[PatchSet, ...]
    """The sets, in order."""

    def __len__(self) -> int:
        """Number of patches in all parts."""
        return sum(len(part) for part in self.parts)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every patch, shape (n,)."""
        return np.concatenate([part.labels for part in self.parts])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all patches."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def slides(self) -> tuple[str, ...] | None:
        """The slide of each patch; None unless every part knows its slides."""
        known = [part.slides for part in self.parts if part.slides is not None]
        if len(known) < len(self.parts):
            return None
        return tuple(slide for slides in known for slide in slides)

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3)."""
        for part in self.parts:
            if index < len(part):
                return part.read(index)
            index -= len(part)
        raise IndexError(index)


@dataclass(frozen=True)
class Subset:
    """Some patches of another set, in a given order."""

    source: PatchSet
    """The set that is read from."""
    indices: NDArray[np.int64]
    """Which of its patches, shape (n,)."""

    def __len__(self) -> int:
        """Number of patches chosen."""
        return len(self.indices)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every patch, shape (n,)."""
        return self.source.labels[self.indices]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the chosen patches."""
        names = self.source.names
        return tuple(names[i] for i in self.indices)

    @property
    def slides(self) -> tuple[str, ...] | None:
        """The slide of each chosen patch; None where that is unknown."""
        slides = self.source.slides
        return None if slides is None else tuple(slides[i] for i in self.indices)

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3)."""
        return self.source.read(int(self.indices[index]))


@dataclass(frozen=True, kw_only=True)
class PatchData:
    """A training set and a validation set of the same classes.

    Raises:
        DataError: a set is empty, only one class occurs in training, or validation lacks one.
    """

    layout: str
    """How it was recognised: ``folders``, ``kaggle`` or ``pcam-hdf5``."""
    classes: tuple[str, ...]
    """Class names in the order of their indices."""
    train: PatchSet
    """What the network learns from."""
    valid: PatchSet
    """What it is judged on."""
    test: PatchSet | None = None
    """Labelled patches that neither learning nor choosing ever sees; None where there are none."""
    split: Split | None = None
    """How training and validation came apart; None for sets put together by hand."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Names of patches in no part, with the reason: ``duplicate``, ``slide`` or ``unreadable``."""
    repeats: NDArray[np.int64] | None = None
    """How often an epoch shows each patch of ``train``, shape (n,); None for once."""
    unlabelled: PatchSet | None = None
    """Patches of which a network learns only what its teachers say, all of the class ``UNKNOWN``;
    None where there are none."""
    mined: Sequence[Mapping[str, Any]] = ()
    """Of folders of patches that heatmaps got wrong: ``histoslide.datasets.mined.mining_facts``."""

    @property
    def shown(self) -> NDArray[np.int64]:
        """Indices into the training patches, followed by the unlabelled ones, of an epoch."""
        labelled = np.arange(len(self.train))
        if self.repeats is not None:
            labelled = np.repeat(labelled, self.repeats)
        more = 0 if self.unlabelled is None else len(self.unlabelled)
        return np.concatenate([labelled, len(self.train) + np.arange(more)])

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("validation", self.valid)):
            if not len(part):
                raise DataError(
                    f"the {name} set is empty ({self.layout} layout): split the patches otherwise"
                )
        present = np.unique(self.train.labels)
        if len(present) < 2:
            raise DataError(
                f"only class {self.classes[int(present[0])]!r} occurs in the training set: "
                "a classifier needs at least two"
            )
        missing = set(present.tolist()) - set(np.unique(self.valid.labels).tolist())
        if missing:
            names = ", ".join(repr(self.classes[label]) for label in sorted(missing))
            raise DataError(
                f"the validation set ({len(self.valid)} patches) lacks class {names}: "
                "AUC means nothing without it; hold back more, or other, patches"
            )
