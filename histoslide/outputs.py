"""Manners of writing: nothing is overwritten unasked, and nothing half-written looks whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histoslide.errors import OutputExistsError


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Make sure that an output may be written.

    Raises:
        OutputExistsError: it exists and ``overwrite`` is false.
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists: pass --overwrite to replace it")


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
