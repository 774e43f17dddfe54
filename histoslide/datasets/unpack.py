"""Gzipped files, unpacked once into the cache folder and reused while their source is the same."""

from __future__ import annotations

import gzip
import logging
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from histoslide.errors import DataError, HistoslideError
from histoslide.machine.cache_folder import cache_folder, key_of
from histoslide.storage.records import from_json, to_json
from histoslide.storage.writing import whole_file

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The gzipped file that a copy was made of."""

    size: int
    mtime_ns: int


def unpack(zipped: Path, *, cache: Path | None = None) -> Path:
    """The unpacked twin of ``zipped`` (``….gz``) in the cache folder.

    It is made on first use, whole or not at all, and made again when size or time of change of
    the source differ.

    Raises:
        DataError: too little space is free, the file is damaged, or the cache cannot be written.
    """
    stat = zipped.stat()
    source = _Source(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    folder = cache_folder(cache) / "unpacked" / key_of(str(zipped.resolve()))
    target, note = folder / zipped.stem, folder / f"{zipped.stem}.source.json"
    if target.is_file() and _read_note(note) == source:
        logger.info("%s: using the unpacked copy %s", zipped.name, target)
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without its note a file counts for nothing, so what lies here is never half of each.
        note.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        _check_space(zipped, folder)
        logger.info("unpacking %s to %s, once", zipped.name, target)
        with whole_file(target) as partial:
            _gunzip(zipped, partial)
        with whole_file(note) as partial:
            partial.write_text(to_json(source, indent=None), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{zipped} cannot be unpacked to {folder}: {error.strerror or error}; "
            "choose another folder with --cache"
        ) from error
    return target


def _gunzip(zipped: Path, target: Path) -> None:
    # A damaged source is told apart from a full disk: only reading can raise these.
    with zipped.open("rb") as raw, gzip.open(raw) as source, target.open("wb") as out:
        while True:
            try:
                chunk = source.read(_CHUNK_BYTES)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(
                    f"{zipped} is damaged ({error}): get the official file again"
                ) from error
            if not chunk:
                return
            out.write(chunk)


def _check_space(zipped: Path, folder: Path) -> None:
    needed, free = unpacked_bytes(zipped), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{zipped.name} needs {needed / 1e9:.1f} GB unpacked, {folder} has {free / 1e9:.1f} GB "
            "free: choose another folder with --cache"
        )


def unpacked_bytes(zipped: Path) -> int:
    """At least how large a gzipped file is unpacked.

    Its last four bytes hold that size modulo 2³² (RFC 1952); the smallest size that is not below
    the zipped one is taken.
    """
    size = zipped.stat().st_size
    if size < 18:  # header and trailer alone
        return 0
    with zipped.open("rb") as file:
        file.seek(-4, 2)
        modulo = int.from_bytes(file.read(4), "little")
    # Stored blocks make incompressible data a little larger zipped than they are.
    wraps = max(0, -(-(int(size * 0.999) - 64 - modulo) // 2**32))
    return modulo + wraps * 2**32


def _read_note(path: Path) -> _Source | None:
    try:
        return from_json(path.read_bytes(), _Source, source=path)
    except (OSError, HistoslideError):
        return None
