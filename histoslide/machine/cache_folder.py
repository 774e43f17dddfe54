"""Where things that can be made again are kept between runs; never beside the input."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "HISTOSLIDE_CACHE"
"""Environment variable that names the cache folder, for machines with a small home."""


def cache_folder(chosen: Path | None = None) -> Path:
    """The chosen folder, else that of ``$HISTOSLIDE_CACHE``, else the user's cache folder."""
    if chosen is not None:
        return chosen
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(platformdirs.user_cache_path("histoslide", appauthor=False))


def key_of(*parts: str) -> str:
    """A short name that is the same for the same parts, and for no others."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]
