"""The official PatchCamelyon files: HDF5 arrays of pixels and labels, one pair a split.

``camelyonpatch_level_2_split_{train,valid,test}_x.h5`` holds ``x`` of shape (n, 96, 96, 3),
``..._y.h5`` holds ``y`` of shape (n, 1, 1, 1), and ``..._meta.csv`` names the slide of each patch.
Files that are still gzipped are unpacked into the cache. Pixels stay in the file; each thread of
each process opens its own handle, because an HDF5 handle must not cross a fork.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.patches import PatchSet, UnlabelledPatches
from histoslide.datasets.source import Source
from histoslide.datasets.unpack import unpack
from histoslide.errors import DataError, reason

logger = logging.getLogger(__name__)

PCAM_CLASSES = ("normal", "tumour")
"""Names for the labels 0 and 1 of PatchCamelyon."""

SPLITS = ("train", "valid", "test")
"""The official splits."""

OFFICIAL_MD5 = {
    "camelyonpatch_level_2_split_train_x.h5.gz": "1571f514728f59376b705fc836ff4b63",
    "camelyonpatch_level_2_split_train_y.h5.gz": "35c2d7259d906cfc8143347bb8e05be7",
    "camelyonpatch_level_2_split_valid_x.h5.gz": "d8c2d60d490dbd479f8199bdfa0cf6ec",
    "camelyonpatch_level_2_split_valid_y.h5.gz": "60a7035772fbdb7f34eb86d4420cf66a",
    "camelyonpatch_level_2_split_test_x.h5.gz": "d5b63470df7cfa627aeec8b9dc0c066e",
    "camelyonpatch_level_2_split_test_y.h5.gz": "2b85f58b927af9964a4c15b8f7e8f179",
}
"""MD5 of the files as published (github.com/basveeling/pcam); unpacked files have no sums."""


_MOST_PATCHES = 10**8
"""Patches that a file may claim to hold; the largest split of PatchCamelyon has 262,144."""

_MOST_BYTES = 2**28
"""Of one patch or one chunk of a file, unpacked: so much is allocated to read any of it."""

_MOST_PACKED = 1100
"""How many times smaller a file can be than what it holds: DEFLATE, which packs best of HDF5's own
filters, cannot do more than 1032 times."""


def split_files(root: Path, split: str) -> tuple[Path, Path]:
    """The pixel and label files of one official split, whether or not they exist."""
    stem = root / f"camelyonpatch_level_2_split_{split}"
    return Path(f"{stem}_x.h5"), Path(f"{stem}_y.h5")


def zipped_twin(path: Path) -> Path:
    """The name of a file that is still gzipped."""
    return path.with_name(f"{path.name}.gz")


def present(path: Path) -> bool:
    """Whether a file is there, gzipped or not."""
    return path.is_file() or zipped_twin(path).is_file()


def is_pcam_hdf5(root: Path) -> bool:
    """Whether ``root`` holds official pixels of any split, gzipped or not."""
    return any(present(split_files(root, split)[0]) for split in SPLITS)


def check_md5(root: Path, *, on_bytes: Callable[[int], None] | None = None) -> dict[str, bool]:
    """Whether each gzipped official file in ``root`` has the published MD5, by file name.

    Args:
        root: folder of the files.
        on_bytes: called with the number of bytes just read.
    """
    result: dict[str, bool] = {}
    for name, expected in OFFICIAL_MD5.items():
        path = root / name
        if not path.is_file():
            continue
        logger.info("comparing the MD5 of %s", name)
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
                if on_bytes is not None:
                    on_bytes(len(chunk))
        result[name] = digest.hexdigest() == expected
    return result


_DAMAGED = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError)
"""How h5py stops at a damaged file; the last two where something else goes by a dataset's name."""


class Hdf5Pixels:
    """The dataset ``x`` of a file, read patch by patch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def __getstate__(self) -> Path:
        """Pickle without open handles."""
        return self.path

    def __setstate__(self, path: Path) -> None:
        """Handles are opened anew where the copy is read."""
        self.path = path
        self._local = threading.local()

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3).

        Raises:
            DataError: the file is damaged at this patch.
        """
        local = self._local
        try:
            if getattr(local, "owner", 0) != os.getpid():
                local.handle, local.owner = h5py.File(self.path, "r"), os.getpid()
            patch: NDArray[np.uint8] = local.handle["x"][index]
        except _DAMAGED as error:
            raise DataError(f"{self.path} cannot be read at patch {index}: {error}") from error
        return patch


@dataclass(frozen=True)
class Hdf5Patches:
    """One official split, read patch by patch from its file."""

    pixels: Hdf5Pixels
    """Where the pixels are."""
    labels: NDArray[np.int64]
    """Class index of every patch, shape (n,)."""
    split: str = "train"
    """Name of the split, for the names of patches."""
    slides: tuple[str, ...] | None = None
    """The slide of each patch; None where that is unknown."""

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The split and the position in it, as ``train-123``."""
        return tuple(f"{self.split}-{i}" for i in range(len(self)))

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (96, 96, 3).

        Raises:
            DataError: the file is damaged at this patch.
        """
        return self.pixels.read(index)


@dataclass(frozen=True)
class UnlabelledHdf5:
    """The patches of a file with the dataset ``x`` of which nobody says what they show."""

    pixels: Hdf5Pixels
    """Where the pixels are."""
    count: int
    """Number of patches."""
    prefix: str
    """What names begin with."""
    names: tuple[str, ...] = field(init=False, repr=False)
    """The prefix and the position in the file, as ``test-123``."""

    def __post_init__(self) -> None:
        names = tuple(f"{self.prefix}-{i}" for i in range(self.count))
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        """Number of patches."""
        return self.count

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3).

        Raises:
            DataError: the file is damaged at this patch.
        """
        return self.pixels.read(index)


def open_pcam_hdf5(
    root: Path, *, wanted: tuple[str, ...] = SPLITS, cache: Path | None = None
) -> Source:
    """Open those of the wanted official splits that are there.

    Args:
        root: folder of the files.
        wanted: splits; others are not even unpacked.
        cache: folder for unpacked files, None for the user's.

    Raises:
        DataError: no wanted split is there, labels are missing, or a file has another shape.
    """
    parts: dict[str, PatchSet] = {}
    unlabelled: UnlabelledPatches | None = None
    for split in wanted:
        pixels, targets = split_files(root, split)
        if not present(pixels):
            if present(targets):
                raise DataError(f"{pixels} is missing: get the official file")
            continue
        if present(targets):
            parts[split] = _open_split(root, split, cache)
        elif split == "test":
            unlabelled = open_unlabelled_hdf5(pixels, cache=cache)
        else:
            raise DataError(f"{targets} is missing: get the official file")
    if not parts and unlabelled is None:
        first = split_files(root, wanted[0])[0]
        raise DataError(f"{first} is missing: get the official file")
    return Source(
        root=root, layout="pcam-hdf5", classes=PCAM_CLASSES, parts=parts, unlabelled=unlabelled
    )


def open_unlabelled_hdf5(path: Path, *, cache: Path | None = None) -> UnlabelledHdf5:
    """The patches in the dataset ``x`` of an HDF5 file, gzipped or not.

    Raises:
        DataError: it is no such file.
    """
    pixels = _unzipped(path, cache)
    shape = _pixel_shape(pixels)
    name = path.name.removesuffix(".gz").removesuffix(".h5").removesuffix(".hdf5")
    prefix = name.removeprefix("camelyonpatch_level_2_split_").removesuffix("_x")
    return UnlabelledHdf5(Hdf5Pixels(pixels), shape[0], prefix)


def _open_split(root: Path, split: str, cache: Path | None) -> Hdf5Patches:
    pixels, targets = (_unzipped(path, cache) for path in split_files(root, split))
    shape = _pixel_shape(pixels)
    try:
        with h5py.File(targets, "r") as file:
            found = file["y"]
            if found.size != shape[0]:  # before they are read
                raise DataError(f"{pixels} has pixels of shape {shape} for {found.size} labels")
            _refuse_claims(found, found.size, targets)
            labels = np.asarray(found).reshape(-1).astype(np.int64)
    except _DAMAGED as error:
        raise DataError(f"{targets} is not a PCam file of labels: {error}") from error
    if other := sorted(set(np.unique(labels).tolist()) - {0, 1}):
        raise DataError(f"{targets} has the labels {other[:5]}: expected only 0 and 1")
    meta = root / f"camelyonpatch_level_2_split_{split}_meta.csv"
    slides = _read_meta(meta, len(labels)) if meta.is_file() else None
    return Hdf5Patches(Hdf5Pixels(pixels), labels, split, slides)


def _unzipped(path: Path, cache: Path | None) -> Path:
    if path.suffix == ".gz":
        return unpack(path, cache=cache)
    return path if path.is_file() else unpack(zipped_twin(path), cache=cache)


def _pixel_shape(path: Path) -> tuple[int, ...]:
    try:
        with h5py.File(path, "r") as file:
            shape, dtype = file["x"].shape, file["x"].dtype
            if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
                raise DataError(
                    f"{path} has {dtype} pixels of shape {shape}: expected uint8 (n, h, w, 3)"
                )
            _refuse_claims(file["x"], shape[0], path)
    except _DAMAGED as error:
        raise DataError(f"{path} is not a PCam file of pixels: {error}") from error
    return tuple(shape)


def _refuse_claims(array: h5py.Dataset, count: int, path: Path) -> None:
    """Refuse an array that claims more than its file can hold, before anything is allocated.

    Raises:
        DataError: it does.
    """
    each = array.dtype.itemsize * math.prod(array.shape) // max(1, count)
    chunk = array.dtype.itemsize * math.prod(array.chunks or ())
    elsewhere = array.is_virtual or array.external is not None  # their sizes say nothing
    there = array.id.get_storage_size() * _MOST_PACKED
    if (
        count > _MOST_PATCHES
        or max(each, chunk) > _MOST_BYTES
        or (not elsewhere and array.nbytes > there)
    ):
        raise DataError(
            f"{path} claims {array.name.strip('/')} of shape {array.shape}, which is more than it "
            "holds: get the official file again"
        )


def _read_meta(path: Path, count: int) -> tuple[str, ...]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "wsi" not in (rows.fieldnames or ()):
                raise DataError(f"{path} has the columns {rows.fieldnames}: expected wsi")
            slides = tuple(row["wsi"] for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {reason(error)}") from error
    if len(slides) != count:
        raise DataError(
            f"{path} has {len(slides)} lines for {count} patches: get the official file"
        )
    if empty := sum(not slide for slide in slides):
        raise DataError(f"{path} names no slide for {empty} patches: get the official file")
    return slides
