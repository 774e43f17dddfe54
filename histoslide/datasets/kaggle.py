"""The layout of the Kaggle competition "histopathologic-cancer-detection".

``train/<id>.tif``, ``train_labels.csv`` with the columns ``id,label``, and ``test/`` without
labels. The last part of the list is held back for validation, as the notebook does.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from histoslide.datasets.patches import ImageFiles, PatchData, Subset
from histoslide.errors import DataError

KAGGLE_CLASSES = ("normal", "tumour")
"""Names for the labels 0 and 1 of the competition."""


def is_kaggle(root: Path) -> bool:
    """Whether ``root`` holds ``train_labels.csv`` and ``train/``."""
    return (root / "train_labels.csv").is_file() and (root / "train").is_dir()


def open_kaggle(root: Path, *, valid_fraction: float) -> PatchData:
    """Open the Kaggle layout; the last ``valid_fraction`` of the list becomes the validation set.

    Raises:
        DataError: a label other than 0 or 1, or a label whose image is missing.
    """
    table = root / "train_labels.csv"
    paths: list[Path] = []
    labels: list[int] = []
    with table.open(newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or not {"id", "label"} <= set(rows.fieldnames):
            raise DataError(f"{table} has the columns {rows.fieldnames}: expected id,label")
        for row in rows:
            if row["label"] not in ("0", "1"):
                raise DataError(f"{table} gives {row['id']} the label {row['label']!r}, not 0 or 1")
            paths.append(root / "train" / f"{row['id']}.tif")
            labels.append(int(row["label"]))
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(
            f"{len(missing)} of {len(paths)} images that {table} lists are missing from "
            f"{root / 'train'}, the first is {missing[0]}"
        )
    everything = ImageFiles(tuple(paths), np.array(labels, dtype=np.int64))
    held = round(valid_fraction * len(everything))
    indices = np.arange(len(everything))
    return PatchData(
        layout="kaggle",
        classes=KAGGLE_CLASSES,
        train=Subset(everything, indices[: len(everything) - held]),
        valid=Subset(everything, indices[len(everything) - held :]),
    )
