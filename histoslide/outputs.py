"""Manners of writing: nothing is overwritten unasked, and nothing half-written looks whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histoslide.errors import OutputExistsError, StoreError


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Make sure that an output may be written.

    Raises:
        OutputExistsError: it exists and ``overwrite`` is false.
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists: pass --overwrite to replace it")


def named_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings in which an existing output differs from what is asked for; empty for none."""
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    # A hash tells a person nothing, and follows from the other settings where those differ.
    plain = [key for key in keys if "sha256" not in key]
    shown = [f"{key} was {there.get(key)}, is {here.get(key)}" for key in plain]
    return "; ".join(shown or [f"{key} differs" for key in keys])


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """``whole_file`` with the manners of an output that a user asked for.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: it cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    try:
        with whole_file(path) as partial:
            yield partial
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def restore_swap(path: Path) -> None:
    """Undo the first half of a ``swap_folder`` that was killed between its two renames."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.replace(path)


def swap_folder(new: Path, path: Path) -> None:
    """Put a whole new folder in the place of an old one, which is deleted last."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.replace(old)
    new.replace(path)
    shutil.rmtree(old)
