"""Slides in object storage, as files of this machine.

Slide libraries want files, and read them here and there: a slide is downloaded whole, once, into a
cache of limited size. What is in it is known by its URL, size and ETag, so a slide that was
replaced in storage is downloaded anew. A copy appears under its name only when it is whole, and is
not removed while any process reads it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from histoslide.errors import SlideOpenError
from histoslide.machine.cache_folder import cache_folder, key_of
from histoslide.storage.location import Location, file_system, is_remote, object_key, storage_errors

if TYPE_CHECKING:
    from upath import UPath

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

DEFAULT_LIMIT_GB = 100.0
"""Slides kept, in 10⁹ bytes; one of a whole lymph node has 1 to 4."""

_SEVERAL_FILES = {".vms", ".vmu", ".dcm"}
"""Slides of several files that the name of one does not tell; MIRAX's folder has the same name."""

_FOLDER = "slides"


@dataclass(frozen=True, kw_only=True)
class SlideCache:
    """Where copies of remote slides are kept, and how many."""

    folder: Path | None = None
    """None for ``$HISTOSLIDE_CACHE``, else the user's cache folder."""
    limit_gb: float = DEFAULT_LIMIT_GB
    """10⁹ bytes in all; those used longest ago go first."""


DEFAULT_CACHE = SlideCache()


@dataclass(frozen=True)
class _Part:
    """One of the objects that make a slide."""

    key: str
    name: str
    """Within the copy's folder."""
    size: int
    tag: str


@contextmanager
def local_copy(path: Location, cache: SlideCache = DEFAULT_CACHE) -> Iterator[Path]:
    """A slide as a file of this machine, which stays there while the block runs.

    Args:
        path: a file, which is given back as it is, or a remote path.
        cache: where to keep copies.

    Raises:
        SlideOpenError: there is no such object, it does not fit, or it changed meanwhile.
        StoreError: object storage refuses it or cannot be reached.
    """
    if not is_remote(path):
        yield path
        return
    parts = _parts(path)
    folder = cache_folder(cache.folder) / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SlideOpenError(f"{folder} cannot be written: {error.strerror}") from error
    key = key_of(str(path), *(f"{part.name} {part.size} {part.tag}" for part in parts))
    copy = folder / key
    with _lock_path(copy).open("a+b") as lock:
        _lock(lock, exclusive=False)
        # Between a lock for all and one for us alone others may come in: whoever holds it looks.
        while not copy.is_dir():
            _lock(lock, exclusive=True)
            if not copy.is_dir():
                _fetch(path, parts, copy, cache)
            _lock(lock, exclusive=False)
        os.utime(_lock_path(copy))  # when it was last used
        yield copy / path.name


def _parts(path: UPath) -> list[_Part]:
    suffix = path.suffix.lower()
    if suffix in _SEVERAL_FILES:
        raise SlideOpenError(f"{path} is one of several files: copy its folder to this machine")
    fs, key = file_system(path), object_key(path)
    with storage_errors(path):
        try:
            found = {path.name: fs.info(key, refresh=True)}
        except FileNotFoundError:
            raise SlideOpenError(f"{path} does not exist") from None
        if found[path.name]["type"] != "file":
            raise SlideOpenError(f"{path} is a folder: name the slides in it")
        if suffix == ".mrxs":
            beside = key.removesuffix(path.suffix)
            for other, facts in fs.find(beside, detail=True).items():
                found[other.removeprefix(beside.removesuffix(path.stem))] = facts
    return [_Part(_key_of(i, key), name, i["size"], i["ETag"]) for name, i in found.items()]


def _key_of(facts: dict[str, Any], default: str) -> str:
    return str(facts.get("name", default))


def _fetch(path: UPath, parts: list[_Part], copy: Path, cache: SlideCache) -> None:
    size = sum(part.size for part in parts)
    _make_room(path, copy.parent, size, cache)
    logger.info("%s: fetching %.2f GB", path, size / 1e9)
    partial = copy.with_name(f".{copy.name}.partial")
    try:
        for part in parts:
            file = partial / part.name
            file.parent.mkdir(parents=True, exist_ok=True)
            with storage_errors(path):
                file_system(path).get_file(part.key, str(file))
                now = file_system(path).info(part.key, refresh=True)
            if now["ETag"] != part.tag or file.stat().st_size != part.size:
                raise SlideOpenError(f"{path} changed while it was fetched: try again")
        partial.replace(copy)
    except OSError as error:
        raise SlideOpenError(
            f"{path} cannot be copied to {copy.parent} ({error.strerror or error}): choose another "
            "--cache-dir"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_room(path: Location, folder: Path, size: int, cache: SlideCache) -> None:
    """Remove copies used longest ago, and halves that killed runs left, until there is room."""
    limit = cache.limit_gb * 1e9
    if size > limit:
        raise SlideOpenError(
            f"{path} has {size / 1e9:.2f} GB, the cache may have {cache.limit_gb:g}: "
            "pass a larger --cache-size"
        )
    for partial in folder.glob(".*.partial"):
        _remove_unused(folder / partial.name[1:].removesuffix(".partial"), partial)
    sizes = {inside: _size(inside) for inside in folder.iterdir() if inside.is_dir()}
    total = sum(sizes.values())
    copies = [copy for copy in sizes if not copy.name.startswith(".")]  # others' downloads count
    for copy in sorted(copies, key=_last_used):
        if total + size <= limit and shutil.disk_usage(folder).free > size:
            return
        if _remove_unused(copy, copy):
            logger.debug("%s: removed, to make room", copy)
            total -= sizes[copy]
    if total + size > limit:
        logger.warning("%s: slides in use fill the cache: it grows beyond its limit", folder)
    if shutil.disk_usage(folder).free <= size:
        raise SlideOpenError(
            f"{path} has {size / 1e9:.2f} GB, more than is free at {folder}: choose another "
            "--cache-dir"
        )


def _remove_unused(copy: Path, what: Path) -> bool:
    """Remove a copy, or half of one, unless a process uses or is fetching it."""
    with _lock_path(copy).open("a+b") as lock:
        if not _lock(lock, exclusive=True, wait=False):
            return False
        gone = what.with_name(f".{copy.name}.partial")  # if we are killed now, the next run removes
        if what != gone:
            what.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return True


def _lock_path(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.lock")


def _lock(file: BinaryIO, *, exclusive: bool, wait: bool = True) -> bool:
    """Lock a file until it is closed, or its process ends, or it is locked in another way."""
    if sys.platform == "win32":  # there, files that are open cannot be removed
        return True
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(file.fileno(), kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_used(copy: Path) -> float:
    try:
        return _lock_path(copy).stat().st_mtime
    except OSError:
        return 0.0


def _size(copy: Path) -> int:
    try:
        return sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
    except FileNotFoundError:  # another process has just put it in place, or removed it
        return 0
