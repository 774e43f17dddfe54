"""One folder per class, with ``train/`` and ``valid/`` above them or a random split made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoslide.datasets.patches import ImageFiles, PatchData, Subset
from histoslide.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""File endings taken for patches; anything else in a class folder is left alone."""

TRAIN_NAMES = ("train", "training")
VALID_NAMES = ("valid", "val", "validation")


def class_folders(root: Path) -> list[Path]:
    """Subfolders of ``root`` that directly hold images, in order of name."""
    return [
        folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and any(_is_image(path) for path in folder.iterdir())
    ]


def is_folders(root: Path) -> bool:
    """Whether ``root`` is a folder per class, or holds ``train/`` with a folder per class."""
    train = _part(root, TRAIN_NAMES)
    return bool(class_folders(train if train is not None else root))


def open_folders(
    root: Path, *, extra: tuple[Path, ...] = (), valid_fraction: float, seed: int
) -> PatchData:
    """Open a folder per class.

    Args:
        root: holds ``train/CLASS/*`` and ``valid/CLASS/*``, or ``CLASS/*`` alone.
        extra: further folders of the same classes, added to the training set.
        valid_fraction: part held back at random where there is no ``valid/``.
        seed: of that random choice.

    Raises:
        DataError: no images, or classes that differ between the parts.
    """
    train_root, valid_root = _part(root, TRAIN_NAMES), _part(root, VALID_NAMES)
    classes = tuple(folder.name for folder in class_folders(train_root or root))
    if not classes:
        raise DataError(f"{root} holds no folder of images: expected one folder per class")
    train = _read_classes((train_root or root, *extra), classes)
    if valid_root is not None:
        valid = _read_classes((valid_root,), classes)
        return PatchData(layout="folders", classes=classes, train=train, valid=valid)
    order = np.random.default_rng(seed).permutation(len(train))
    held = round(valid_fraction * len(train))
    return PatchData(
        layout="folders",
        classes=classes,
        train=Subset(train, np.sort(order[held:])),
        valid=Subset(train, np.sort(order[:held])),
    )


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _read_classes(roots: tuple[Path, ...], classes: tuple[str, ...]) -> ImageFiles:
    paths: list[Path] = []
    labels: list[int] = []
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder")
        found = {folder.name for folder in class_folders(root)}
        if unknown := sorted(found - set(classes)):
            raise DataError(f"{root} has classes {unknown} that the training set lacks")
        for label, name in enumerate(classes):
            folder = root / name
            files = sorted(filter(_is_image, folder.iterdir())) if folder.is_dir() else []
            paths += files
            labels += [label] * len(files)
    return ImageFiles(tuple(paths), np.array(labels, dtype=np.int64))
