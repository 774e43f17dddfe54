"""What tells slides apart that no library names: a hash of a file's size and ends."""

from __future__ import annotations

import hashlib
from pathlib import Path

from histoslide.errors import SlideOpenError, reason

_HASHED_BYTES = 2**20


def file_hash(path: Path) -> str:
    """SHA-256 of a file's size and its first and last mebibyte.

    Raises:
        SlideOpenError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(f"{size}|".encode() + file.read(_HASHED_BYTES))
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
    except OSError as error:
        raise SlideOpenError(f"{path} cannot be read: {reason(error)}") from error
    return digest.hexdigest()
