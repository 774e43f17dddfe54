"""The official PatchCamelyon files: HDF5 arrays of pixels and labels, one pair a split.

``camelyonpatch_level_2_split_{train,valid,test}_x.h5`` holds ``x`` of shape (n, 96, 96, 3) and
``..._y.h5`` holds ``y`` of shape (n, 1, 1, 1). Pixels stay in the file; each process opens its own
handle, because an HDF5 handle must not cross a fork.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.patches import PatchData
from histoslide.errors import DataError

PCAM_CLASSES = ("normal", "tumour")
"""Names for the labels 0 and 1 of PatchCamelyon."""


def split_files(root: Path, split: str) -> tuple[Path, Path]:
    """The pixel and label files of one official split, whether or not they exist."""
    stem = root / f"camelyonpatch_level_2_split_{split}"
    return Path(f"{stem}_x.h5"), Path(f"{stem}_y.h5")


def is_pcam_hdf5(root: Path) -> bool:
    """Whether ``root`` holds the official training pixels, gzipped or not."""
    pixels, _ = split_files(root, "train")
    return pixels.is_file() or pixels.with_suffix(".h5.gz").is_file()


@dataclass
class Hdf5Patches:
    """One official split, read patch by patch from its file."""

    pixels: Path
    """File with the dataset ``x``."""
    labels: NDArray[np.int64]
    """Class index of every patch, shape (n,)."""
    _handle: h5py.File | None = field(default=None, repr=False)
    _owner: int = field(default=0, repr=False)

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The position of every patch in its file."""
        return tuple(str(i) for i in range(len(self)))

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the open handle."""
        return {"pixels": self.pixels, "labels": self.labels, "_handle": None, "_owner": 0}

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (96, 96, 3).

        Raises:
            DataError: the file is damaged at this patch.
        """
        try:
            if self._handle is None or self._owner != os.getpid():
                self._handle, self._owner = h5py.File(self.pixels, "r"), os.getpid()
            patch: NDArray[np.uint8] = self._handle["x"][index]
        except OSError as error:
            raise DataError(f"{self.pixels} cannot be read at patch {index}: {error}") from error
        return patch


def open_pcam_hdf5(root: Path) -> PatchData:
    """Open the official training and validation splits.

    Raises:
        DataError: a file is missing, still gzipped, or of another shape.
    """
    return PatchData(
        layout="pcam-hdf5",
        classes=PCAM_CLASSES,
        train=_open_split(root, "train"),
        valid=_open_split(root, "valid"),
    )


def _open_split(root: Path, split: str) -> Hdf5Patches:
    pixels, targets = split_files(root, split)
    for path in (pixels, targets):
        if not path.is_file():
            zipped = path.with_suffix(".h5.gz")
            way_out = f"run gunzip {zipped}" if zipped.is_file() else "get the official file"
            raise DataError(f"{path} is missing: {way_out}")
    try:
        with h5py.File(targets, "r") as file:
            labels = np.asarray(file["y"]).reshape(-1).astype(np.int64)
        with h5py.File(pixels, "r") as file:
            shape = file["x"].shape
    except (OSError, KeyError) as error:
        raise DataError(f"{pixels.name} or {targets.name} is not a PCam file: {error}") from error
    if len(shape) != 4 or shape[3] != 3 or shape[0] != len(labels):
        raise DataError(
            f"{pixels} has pixels of shape {shape} for {len(labels)} labels: expected (n, h, w, 3)"
        )
    if other := sorted(set(np.unique(labels).tolist()) - {0, 1}):
        raise DataError(f"{targets} has the labels {other[:5]}: expected only 0 and 1")
    return Hdf5Patches(pixels, labels)
