"""Opening a slide for scoring: in worker processes, where that can be."""

from __future__ import annotations

import os
from pathlib import Path

from histoslide.geometry import Mpp
from histoslide.isolation.isolated_slide import DEFAULT_OPENER, IsolatedSlide
from histoslide.isolation_worker import find_opener
from histoslide.slide import DEFAULT_CACHE_BYTES, ClosableSlide
from histoslide.time_limit import TimeLimit


def open_for_scoring(
    path: Path,
    *,
    mpp: Mpp | None = None,
    isolate: bool = True,
    opener: str = DEFAULT_OPENER,
    limit: TimeLimit | None = None,
) -> ClosableSlide:
    """Open a slide in worker processes, or in this one.

    Args:
        path: slide file.
        mpp: resolution that replaces what the slide records.
        isolate: read in workers. Not done on Windows, where sockets cannot be handed on so.
        opener: see ``IsolatedSlide``.
        limit: see ``IsolatedSlide``; in this process a read that hangs cannot be ended.

    Raises:
        HistoslideError: the slide cannot be opened; see ``IsolatedSlide``.
    """
    if isolate and os.name == "posix":
        return IsolatedSlide(path, mpp=mpp, opener=opener, limit=limit)
    slide: ClosableSlide = find_opener(opener)(path, mpp=mpp, cache_bytes=DEFAULT_CACHE_BYTES)
    return slide
