"""How commands open slides: from files or object storage, in worker processes or here."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from histoslide.geometry import Mpp
from histoslide.machine.processors import usable_processors
from histoslide.slide.base import Slide
from histoslide.slide.fetched import FetchedSlide
from histoslide.slide.isolated.process import find_opener
from histoslide.slide.isolated.slide import DEFAULT_OPENER, IsolatedSlide
from histoslide.slide.isolated.time_limit import TimeLimit
from histoslide.slide.isolated.worker import processes_ahead
from histoslide.slide.openslide_slide import DEFAULT_CACHE_BYTES
from histoslide.slide.same_file import SameFileSlide
from histoslide.storage.location import Location, is_remote
from histoslide.storage.slide_copies import DEFAULT_CACHE, SlideCache

_AHEAD = 2
"""Most processes that are started before a slide is opened: of more, the first reads are done
before the last is up."""


@dataclass(frozen=True, kw_only=True)
class SlideAccess:
    """How slides are opened."""

    cache: SlideCache = DEFAULT_CACHE
    """Where copies of slides from object storage are kept; without a folder of its own, in each
    machine's own."""
    isolate: bool = True
    """Read in worker processes, where the system allows it; see ``histoslide.slide.isolated``."""
    opener: str = DEFAULT_OPENER
    """``module:function`` that opens slides; see ``IsolatedSlide``."""
    workers: int | None = None
    """Most processes that read a slide at a time; see ``IsolatedSlide``."""

    def open(
        self, path: Location, *, mpp: Mpp | None = None, limit: TimeLimit | None = None
    ) -> Slide:
        """Open a slide, from a file or from object storage.

        Args:
            path: slide file, or a remote one (``histoslide.storage.location``).
            mpp: resolution that replaces what the slide records.
            limit: clock of the slide; once its time is up, reads in workers fail. In this process
                a read that hangs cannot be ended.

        Raises:
            HistoslideError: it cannot be fetched or opened; see ``IsolatedSlide``.
        """
        open_file = partial(self._open_file, mpp=mpp, limit=limit)
        return (
            FetchedSlide(path, open_file, cache=self.cache) if is_remote(path) else open_file(path)
        )

    def begin(self) -> AbstractContextManager[None]:
        """Start processes that will read the next slide, before it is known which.

        Nothing is done where slides are read in this process.

        Returns:
            A context; processes that no slide has taken when it is left end.
        """
        if not self._in_workers:
            return nullcontext()
        return processes_ahead(min(_AHEAD, self.workers or usable_processors()))

    def _open_file(self, path: Path, *, mpp: Mpp | None, limit: TimeLimit | None) -> Slide:
        if self._in_workers:
            return IsolatedSlide(
                path, mpp=mpp, opener=self.opener, workers=self.workers, limit=limit
            )
        return SameFileSlide(path, partial(_open_here, mpp=mpp, opener=self.opener))

    @property
    def _in_workers(self) -> bool:
        """Not on Windows: sockets cannot be handed on so there."""
        return self.isolate and os.name == "posix"


def _open_here(path: Path, *, mpp: Mpp | None, opener: str) -> Slide:
    slide: Slide = find_opener(opener)(path, mpp=mpp, cache_bytes=DEFAULT_CACHE_BYTES)
    return slide


DEFAULT_ACCESS = SlideAccess()
"""How slides are opened where nothing else is asked for."""
