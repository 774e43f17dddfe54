"""One folder per class, below ``train/``, ``valid/`` and ``test/`` or without such parts."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histoslide.datasets.images import is_image
from histoslide.datasets.patches import ImageFiles
from histoslide.datasets.source import Source
from histoslide.errors import DataError

logger = logging.getLogger(__name__)

PART_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}
"""Names of the folders of a part, in any case."""


@dataclass(frozen=True, kw_only=True)
class _Folder:
    part: str
    root: Path
    files: dict[str, list[str]]
    """File names of every class."""


def is_folders(root: Path) -> bool:
    """Whether ``root`` has folders of images, itself or below one of its parts."""
    return any(list_classes(folder) for folder in (root, *_parts(root).values()))


def open_folders(
    root: Path,
    *,
    skip_bad: bool = False,
) -> Source:
    """Open a folder per class.

    Args:
        root: holds ``train/CLASS/*``, ``valid/CLASS/*`` and ``test/CLASS/*``, or some of them, or
            ``CLASS/*`` alone, which makes the part ``all`` (``train`` beside a ``valid/``).
        skip_bad: leave out images that lie beside the classes, in none of them.

    Raises:
        DataError: no images, classes that differ between the parts, or images in no class while
            ``skip_bad`` is false.
    """
    parts = _parts(root)
    folders = [
        _Folder(part=part, root=folder, files=files)
        for part, folder in parts.items()
        if (files := list_classes(folder))
    ]
    own = list_classes(root)
    if own and "train" not in {folder.part for folder in folders}:
        part = "train" if any(folder.part == "valid" for folder in folders) else "all"
        folders.insert(0, _Folder(part=part, root=root, files=own))
    elif own:
        logger.warning(
            "%s has folders of images beside its parts, they are left alone: %s",
            root,
            ", ".join(own),
        )
    if not folders:
        raise DataError(f"{root} holds no folder of images: expected one folder per class")
    classes = tuple(folders[0].files)
    for folder in folders:
        if unknown := sorted(set(folder.files) - set(classes)):
            raise DataError(
                f"{folder.root} has classes {unknown} that the training set lacks: it has "
                f"{list(classes)}"
            )
    problems = tuple(filter(None, (loose_images(folder.root) for folder in folders)))
    if problems and not skip_bad:
        raise DataError(f"{problems[0]}; pass --skip-bad to leave them out")
    return Source(
        root=root,
        layout="folders",
        classes=classes,
        parts=_read(folders, classes),
        problems=problems,
    )


def _parts(root: Path) -> dict[str, Path]:
    """The folder of each part that is there.

    Raises:
        DataError: two folders with images of classes are both named as the same part.
    """
    with os.scandir(root) as entries:
        folders = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    parts: dict[str, Path] = {}
    for part, names in PART_NAMES.items():
        named = [folder for folder in folders if folder.name.lower() in names]
        full = [folder for folder in named if list_classes(folder)] if len(named) > 1 else named
        if len(full) > 1:
            raise DataError(
                f"{root} has the folders {full[0].name} and {full[1].name}, both of which are "
                f"{part} patches: put all of them into one, or move one away"
            )
        if named:
            parts[part] = (full or named)[0]
    return parts


def list_classes(root: Path) -> dict[str, list[str]]:
    """Names of images by subfolder, both in order; subfolders without images are left out."""
    taken = {name for names in PART_NAMES.values() for name in names}
    with os.scandir(root) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in taken
        )
    classes: dict[str, list[str]] = {}
    for name in names:
        with os.scandir(root / name) as entries:
            files = sorted(entry.name for entry in entries if is_image(entry.name))
        if files:
            classes[name] = files
    return classes


def loose_images(root: Path) -> str | None:
    """What there is to say of images that lie beside the classes; None where none do."""
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if is_image(e.name) and e.is_file())
    if not names:
        return None
    return f"{len(names)} images in {root} lie in no class folder, the first is {names[0]}"


def _read(folders: list[_Folder], classes: tuple[str, ...]) -> dict[str, ImageFiles]:
    # (part, root, class, file) of every patch, in the order of parts, roots, classes and files.
    rows = [
        (folder.part, folder.root, name, file)
        for part in ("train", "all", "valid", "test")
        for folder in folders
        if folder.part == part
        for name in classes
        for file in folder.files.get(name, ())
    ]
    names = unique_names(rows)
    indices: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        indices.setdefault(row[0], []).append(index)
    label_of = {name: label for label, name in enumerate(classes)}
    return {
        part: ImageFiles(
            tuple(rows[i][1] / rows[i][2] / rows[i][3] for i in chosen),
            np.array([label_of[rows[i][2]] for i in chosen], dtype=np.int64),
            given_names=tuple(names[i] for i in chosen),
        )
        for part, chosen in indices.items()
    }


def unique_names(rows: list[tuple[str, Path, str, str]], taken: Collection[str] = ()) -> list[str]:
    """The shortest way of naming that tells all patches apart, and from those that are taken.

    Args:
        rows: part, folder, class and file of each.
        taken: names of other patches.
    """
    stems = [file.rpartition(".")[0] for _, _, _, file in rows]
    in_class = [f"{row[2]}/{stem}" for row, stem in zip(rows, stems, strict=True)]
    in_part = [f"{row[1].name}/{name}" for row, name in zip(rows, in_class, strict=True)]
    with_ending = [f"{root.name}/{name}/{file}" for _, root, name, file in rows]
    for names in (stems, in_class, in_part, with_ending):
        if len({*names, *taken}) == len(names) + len(taken):
            return names
    return [(root / name / file).as_posix() for _, root, name, file in rows]
