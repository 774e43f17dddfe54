"""A split as a CSV file: the part of every patch by name, to be repeated, compared or changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.patches import PatchData, PatchSet
from histoslide.datasets.table import read_columns
from histoslide.errors import DataError
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import refuse_existing, whole_file

PARTS = ("train", "valid", "test")
"""Parts that a patch can be used in."""

REASONS = ("duplicate", "slide", "unreadable")
"""What stands in place of a part for a patch that is left out."""


def save_split(data: PatchData, path: Path, *, overwrite: bool = False) -> None:
    """Write ``name,part`` of every patch, and ``slide`` where slides are known.

    ``part`` is ``train``, ``valid`` or ``test``; a patch that was left out has the reason there:
    ``duplicate`` or ``slide`` (validation or test has the same pixels, or the same slide), or
    ``unreadable``.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is false.
        DataError: it cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    parts: list[tuple[str, PatchSet]] = [("train", data.train), ("valid", data.valid)]
    if data.test is not None:
        parts.append(("test", data.test))
    with_slides = all(patches.slides is not None for _, patches in parts)
    rows: list[tuple[str, ...]] = []
    for part, patches in parts:
        if with_slides:
            rows += [
                (name, part, slide)
                for name, slide in zip(patches.names, patches.slides or (), strict=True)
            ]
        else:
            rows += [(name, part) for name in patches.names]
    empty = ("",) if with_slides else ()
    rows += [(name, reason, *empty) for name, reason in data.left_out.items()]
    try:
        with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            table = TableWriter(file, lineterminator="\n")
            table.write([("name", "part", "slide") if with_slides else ("name", "part")])
            table.write(rows)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def read_split(path: Path, names: tuple[str, ...]) -> NDArray[np.str_]:
    """The part of every named patch, or why it is left out, shape (n,).

    Raises:
        DataError: the file is no split, or names other patches than these.
    """
    parts = read_columns(path, (("name", "id"), ("part", "split")))
    known = set(names)
    if unknown := [name for name in parts if name not in known]:
        raise DataError(
            f"{path} names {len(unknown)} patches that the data lack, the first is {unknown[0]}: "
            "give the data, --extra and --layout that it was saved with"
        )
    if missing := [name for name in names if name not in parts]:
        raise DataError(
            f"{path} lacks {len(missing)} of {len(names)} patches, the first is {missing[0]}: "
            "add them, or save a new split"
        )
    for name, part in parts.items():
        if part not in PARTS + REASONS:
            raise DataError(
                f"{path} gives {name} the part {part!r}: expected {', '.join(PARTS + REASONS)}"
            )
    return np.array([parts[name] for name in names])
