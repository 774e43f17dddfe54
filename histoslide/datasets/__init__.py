"""Labelled patches as people have them, recognised by their layout."""

from __future__ import annotations

from pathlib import Path

from histoslide.datasets.folders import is_folders, open_folders
from histoslide.datasets.kaggle import is_kaggle, open_kaggle
from histoslide.datasets.patches import ImageFiles, Joined, PatchData, PatchSet, Subset
from histoslide.datasets.pcam_hdf5 import is_pcam_hdf5, open_pcam_hdf5
from histoslide.errors import DataError

__all__ = ["ImageFiles", "Joined", "PatchData", "PatchSet", "Subset", "open_patches"]


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
