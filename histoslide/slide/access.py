"""Opening a slide for scoring: in worker processes, where that can be."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from histoslide.geometry import Mpp
from histoslide.slide.base import Slide
from histoslide.slide.isolated.process import find_opener
from histoslide.slide.isolated.slide import DEFAULT_OPENER, IsolatedSlide
from histoslide.slide.isolated.time_limit import TimeLimit
from histoslide.slide.isolated.worker import process_ahead
from histoslide.slide.openslide_slide import DEFAULT_CACHE_BYTES


def begin_to_open(*, isolate: bool = True) -> AbstractContextManager[None]:
    """Start the process that will read the next slide, before it is known which.

    Args:
        isolate: as for ``open_for_scoring``; nothing is done where slides are read in this process.

    Returns:
        A context; if no slide has been opened when it is left, the process ends.
    """
    return process_ahead() if _in_workers(isolate=isolate) else nullcontext()


def _in_workers(*, isolate: bool) -> bool:
    """Whether slides are read in workers. Not on Windows: sockets cannot be handed on so there."""
    return isolate and os.name == "posix"


def open_for_scoring(
    path: Path,
    *,
    mpp: Mpp | None = None,
    isolate: bool = True,
    opener: str = DEFAULT_OPENER,
    limit: TimeLimit | None = None,
) -> Slide:
    """Open a slide in worker processes, or in this one.

    Args:
        path: slide file.
        mpp: resolution that replaces what the slide records.
        isolate: read in workers, where the system allows it.
        opener: see ``IsolatedSlide``.
        limit: see ``IsolatedSlide``; in this process a read that hangs cannot be ended.

    Raises:
        HistoslideError: the slide cannot be opened; see ``IsolatedSlide``.
    """
    if _in_workers(isolate=isolate):
        return IsolatedSlide(path, mpp=mpp, opener=opener, limit=limit)
    slide: Slide = find_opener(opener)(path, mpp=mpp, cache_bytes=DEFAULT_CACHE_BYTES)
    return slide
