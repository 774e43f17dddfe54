"""A slide in object storage, which each machine that reads it fetches for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideOpenError
from histoslide.geometry import Region
from histoslide.slide.base import Slide
from histoslide.storage.slide_copies import DEFAULT_CACHE, SlideCache, local_copy

if TYPE_CHECKING:
    from upath import UPath


class FetchedSlide(Slide):
    """A remote slide, read from the copy in the cache of this machine; picklable.

    Where it is unpickled, which may be on another machine, the first read fetches the slide into
    the cache there. Copies are kept from removal until the slide is closed or forgotten.
    """

    _slide: Slide | None

    def __init__(
        self,
        path: UPath,
        open_copy: Callable[[Path], Slide],
        *,
        cache: SlideCache = DEFAULT_CACHE,
    ) -> None:
        """Fetch and open a slide.

        Args:
            path: remote path (``histoslide.storage.location``).
            open_copy: opens the copy; picklable.
            cache: where copies are kept; without a folder of its own, in each machine's own.

        Raises:
            HistoslideError: it cannot be fetched or opened.
        """
        self._path, self._open_copy, self._cache = path, open_copy, cache
        self._start()
        self._slide = self._open()
        super().__init__(self._slide.facts)

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``histoslide.slide.Slide.read``.

        Raises:
            HistoslideError: also where the slide cannot be fetched or opened again.
        """
        return self._opened().read(region, shrink)

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return self._opened().readers

    def close(self) -> None:
        """Let go of the slide and of its copy; they are had again when the slide is read again."""
        with self._lock:
            self._slide = None
            self._held.close()

    def __getstate__(self) -> dict[str, object]:
        mine = ("_path", "_open_copy", "_cache", "_facts")
        return {name: self.__dict__[name] for name in mine}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._slide = None

    def _opened(self) -> Slide:
        with self._lock:
            if self._slide is None:
                slide = self._open()
                if slide.quickhash != self.quickhash:
                    self._held.close()
                    raise SlideOpenError(
                        f"{self._path} was replaced while it was read: run the same command again"
                    )
                self._slide = slide
            return self._slide

    def _open(self) -> Slide:
        with ExitStack() as stack:
            file = stack.enter_context(local_copy(self._path, self._cache))
            slide = stack.enter_context(self._open_copy(file))
            self._held = stack.pop_all()
            return slide
