"""What every labelled set of patches is, whatever its files look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from histoslide.errors import DataError


class PatchSet(Protocol):
    """Patches that can be read one at a time; picklable, so that worker processes can read too."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every patch, shape (n,)."""
        ...

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


@dataclass(frozen=True)
class ImageFiles:
    """Patches that are image files of any format Pillow reads."""

    paths: tuple[Path, ...]
    """One file a patch."""
    labels: NDArray[np.int64]
    """Class index of every patch, shape (n,)."""

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """File names without their ending."""
        return tuple(path.stem for path in self.paths)

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3).

        Raises:
            DataError: the file cannot be decoded; the message names it.
        """
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error


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

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("validation", self.valid)):
            if not len(part):
                raise DataError(f"the {name} set is empty ({self.layout} layout)")
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
