"""Labelled patches as people have them, recognised by their layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from histoslide.datasets.folders import is_folders, open_folders
from histoslide.datasets.kaggle import is_kaggle, open_kaggle
from histoslide.datasets.patches import ImageFiles, Joined, PatchData, PatchSet, Subset
from histoslide.datasets.pcam_hdf5 import is_pcam_hdf5, open_pcam_hdf5
from histoslide.errors import DataError

__all__ = [
    "ImageFiles",
    "Joined",
    "PatchData",
    "PatchSet",
    "Subset",
    "open_part",
    "open_patches",
    "open_unlabelled",
]


def open_part(
    root: Path,
    part: str | None = None,
    *,
    layout: str | None = None,
    slides: Path | None = None,
    skip_bad: bool = False,
    patch_px: int | None = None,
) -> tuple[PatchSet, tuple[str, ...]]:
    """Labelled patches to judge a model on, and the names of their classes.

    Raises:
        DataError: no such layout or part.
    """
    if skip_bad:
        raise DataError(f"patches of {patch_px} px cannot be looked for here yet")
    data = open_patches(root, valid_fraction=0.5)
    if layout not in (None, data.layout):
        raise DataError(f"{root} is not of the layout {layout}")
    if part == "test":
        raise DataError(f"{root} has no labelled part test")
    own = data.layout == "pcam-hdf5" or any(
        (root / name).is_dir() for name in ("valid", "val", "validation")
    )
    if part in ("train", "valid"):
        patches = data.train if part == "train" else data.valid
    else:
        patches = data.valid if part is None and own else Joined((data.train, data.valid))
    return (patches if slides is None else _WithSlides(patches, slides)), data.classes


class _WithSlides:
    def __init__(self, patches: PatchSet, table: Path) -> None:
        with table.open(newline="") as file:
            by_name = {row["name"]: row["slide"] for row in csv.DictReader(file)}
        self.labels, self.names, self.read = patches.labels, patches.names, patches.read
        self.slides = tuple(by_name[name] for name in patches.names)

    def __len__(self) -> int:
        return len(self.names)


def open_unlabelled(path: Path) -> ImageFiles:
    """Patches to predict, whatever is known of them.

    Raises:
        DataError: there are none.
    """
    folder = path / "test" if is_kaggle(path) else path
    suffixes = (".png", ".tif", ".jpg")
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise DataError(f"{path} holds no images")
    return ImageFiles(tuple(files), np.zeros(len(files), dtype=np.int64))


def open_patches(
    root: Path, *, extra: tuple[Path, ...] = (), valid_fraction: float = 0.05, seed: int = 42
) -> PatchData:
    """Recognise the layout of ``root`` and open it.

    Args:
        root: official PCam HDF5 files, the Kaggle layout, or a folder per class.
        extra: further folders per class, added to the training set (folder layout only).
        valid_fraction: part held back where the data bring no validation set of their own.
        seed: of a random split.

    Raises:
        DataError: not a folder, or no layout is recognised.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder of patches")
    if not 0 < valid_fraction < 1:
        raise DataError(f"the validation fraction must lie between 0 and 1, not {valid_fraction}")
    folders = not (is_pcam_hdf5(root) or is_kaggle(root))
    if extra and not folders:
        raise DataError(f"extra training folders need a folder per class, which {root} is not")
    if is_pcam_hdf5(root):
        return open_pcam_hdf5(root)
    if is_kaggle(root):
        return open_kaggle(root, valid_fraction=valid_fraction)
    if is_folders(root):
        return open_folders(root, extra=extra, valid_fraction=valid_fraction, seed=seed)
    raise DataError(
        f"{root} holds no known layout: expected camelyonpatch_level_2_split_*.h5, "
        "train_labels.csv beside train/, or one folder per class"
    )
