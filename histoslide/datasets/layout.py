"""The layouts of patches that are known, told apart by their files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from histoslide.datasets.folders import is_folders
from histoslide.datasets.kaggle import is_kaggle
from histoslide.datasets.pcam_hdf5 import is_pcam_hdf5
from histoslide.errors import DataError

Layout = Literal["pcam-hdf5", "kaggle", "folders"]


def recognise(root: Path) -> Layout:
    """The layout of a folder, by its files.

    Raises:
        DataError: no layout is recognised.
    """
    if is_pcam_hdf5(root):
        return "pcam-hdf5"
    if is_kaggle(root):
        return "kaggle"
    if is_folders(root):
        return "folders"
    raise DataError(
        f"{root} holds no known layout: expected camelyonpatch_level_2_split_*.h5, "
        "train_labels.csv beside train/, or one folder per class"
    )
