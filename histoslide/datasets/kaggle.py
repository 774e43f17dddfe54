"""The layout of the Kaggle competition "histopathologic-cancer-detection".

``train/<id>.tif``, ``train_labels.csv`` with the columns ``id,label``, and ``test/`` without
labels. The ids of the competition are the SHA-1 of the raw RGB bytes of each patch.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from histoslide.datasets.images import flat_folder, image_files, named_by_pixels
from histoslide.datasets.patches import ImageFiles
from histoslide.datasets.source import Source
from histoslide.errors import DataError, reason

KAGGLE_CLASSES = ("normal", "tumour")
"""Names for the labels 0 and 1 of the competition."""


def is_kaggle(root: Path) -> bool:
    """Whether ``root`` holds ``train_labels.csv`` and ``train/``."""
    return (root / "train_labels.csv").is_file() and (root / "train").is_dir()


def open_kaggle(root: Path, *, skip_bad: bool = False) -> Source:
    """Open the Kaggle layout, in the order of its table.

    Args:
        root: holds ``train_labels.csv`` and ``train/``.
        skip_bad: leave out labels without an image and images without a label.

    Raises:
        DataError: the table or the folder is missing or malformed, a label is neither 0 nor 1, or
            labels and images do not go together and ``skip_bad`` is false.
    """
    table, folder = root / "train_labels.csv", root / "train"
    if not is_kaggle(root):
        raise DataError(f"{root} has no Kaggle layout: expected train_labels.csv beside train/")
    labels = _read_labels(table)
    files = image_files(folder)
    problems = _strangers(table, folder, labels, files)
    if problems and not skip_bad:
        raise DataError(f"{problems[0]}; pass --skip-bad to leave them out")
    names = tuple(name for name in labels if name in files)
    test = root / "test"
    return Source(
        root=root,
        layout="kaggle",
        classes=KAGGLE_CLASSES,
        parts={
            "all": ImageFiles(
                tuple(folder / files[name] for name in names),
                np.array([labels[name] for name in names], dtype=np.int64),
                given_names=names,
                named_by_pixels=named_by_pixels(names),
            )
        },
        unlabelled=flat_folder(test) if test.is_dir() else None,
        problems=problems,
    )


def _read_labels(table: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"id", "label"} <= set(rows.fieldnames):
                raise DataError(f"{table} has the columns {rows.fieldnames}: expected id,label")
            for row in rows:
                name, label = row["id"], row["label"]
                if label not in ("0", "1"):
                    raise DataError(f"{table} gives {name} the label {label!r}, not 0 or 1")
                if name in labels:
                    raise DataError(f"{table} lists {name} twice: keep one of its lines")
                labels[name] = int(label)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV file: {reason(error)}") from error
    return labels


def _strangers(
    table: Path, folder: Path, labels: dict[str, int], files: dict[str, str]
) -> tuple[str, ...]:
    problems = []
    if missing := [name for name in labels if name not in files]:
        problems.append(
            f"{len(missing)} of {len(labels)} images that {table} lists are missing from "
            f"{folder}, the first is {missing[0]}.tif"
        )
    if unknown := [file for name, file in files.items() if name not in labels]:
        problems.append(
            f"{len(unknown)} of {len(files)} images in {folder} have no label in {table.name}, "
            f"the first is {unknown[0]}"
        )
    return tuple(problems)
