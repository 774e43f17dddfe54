"""Manners of writing: nothing is overwritten unasked, and nothing half-written looks whole."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, overload

import psutil

from histoslide.errors import OutputExistsError, StoreError
from histoslide.storage.location import Location, file_system, is_remote, object_key, storage_errors

_IDLE_S = 600
"""A small file that is not whole after so long never will be."""


def refuse_existing(path: Location, *, overwrite: bool) -> None:
    """Make sure that an output may be written.

    Raises:
        OutputExistsError: it exists and ``overwrite`` is false.
    """
    with storage_errors(path):
        exists = not overwrite and path.exists()
    if exists:
        raise OutputExistsError(f"{path} exists: pass --overwrite to replace it")


def named_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings in which an existing output differs from what is asked for; empty for none."""
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    # A hash tells a person nothing, and follows from the other settings where those differ.
    plain = [key for key in keys if "sha256" not in key]
    shown = [f"{key} was {there.get(key)}, is {here.get(key)}" for key in plain]
    return "; ".join(shown or [f"{key} differs" for key in keys])


@contextmanager
def whole_file(path: Location, *, sweep: bool = True) -> Iterator[Path]:
    """A local name to write to; it becomes ``path`` when the block ends without an error.

    Beside the file it will become; in object storage an upload is whole or nothing, so there it is
    written in a temporary folder first.

    Args:
        path: what will be written.
        sweep: first remove what killed runs left of it; off where a folder gets very many files,
            each of which would look through all.

    Raises:
        OSError: it is a folder, or cannot be written.
        StoreError: object storage refuses it or cannot be reached.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="histoslide-") as folder:
            local = Path(folder) / path.name
            yield local
            with storage_errors(path):
                file_system(path).put_file(str(local), object_key(path))
        return
    if path.is_dir():
        # As the system would say, but also of "." and before anything is written.
        raise IsADirectoryError(errno.EISDIR, "it is a folder, name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if sweep:
        _sweep(path)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed runs of this machine left of the same output."""
    start = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.iterdir():
        if left.name.startswith(start) and _is_of_dead(left):
            left.unlink(missing_ok=True)


def sweep_folder(folder: Path) -> None:
    """Remove what killed runs left of small files, of which a folder gets very many.

    Those of this machine's processes that are no more, and those that nobody has written to for
    longer than any small file takes: another machine's, such as a container that is gone.
    """
    for left in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):  # another run has removed it, or finished it
            idle_s = time.time() - left.stat().st_mtime
            ours = f".{socket.gethostname()}." in left.name
            if idle_s > _IDLE_S or (ours and _is_of_dead(left)):
                left.unlink()


def _is_of_dead(partial: Path) -> bool:
    """Whether the process of this machine that wrote a partial file is no more."""
    pid = partial.suffixes[-2].removeprefix(".") if len(partial.suffixes) > 1 else ""
    return partial.suffix == ".partial" and pid.isdecimal() and not psutil.pid_exists(int(pid))


@contextmanager
def new_file(path: Location, *, overwrite: bool) -> Iterator[Path]:
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


@overload
def swap_name(path: Path, kind: str) -> Path: ...
@overload
def swap_name(path: Location, kind: str) -> Location: ...
def swap_name(path: Location, kind: str) -> Location:
    """The hidden name beside an output for what will be, or was, in its place."""
    return path.with_name(f".{path.name}.{kind}")


def restore_swap(path: Path) -> bool:
    """Finish or undo a ``swap_folder`` that was killed, and say whether the new one is in place."""
    old = swap_name(path, "old")
    if not old.exists() and not old.is_symlink():
        return False
    if path.exists():
        _remove_folder(old)
        return True
    old.replace(path)
    return False


def swap_folder(new: Path, path: Path) -> None:
    """Put a whole new folder in the place of an old one, which is deleted last."""
    old = swap_name(path, "old")
    if old.exists() or old.is_symlink():
        _remove_folder(old)
    path.replace(old)
    new.replace(path)
    _remove_folder(old)


def _remove_folder(path: Path) -> None:
    """Remove a folder, or a link to one without what it leads to."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)
