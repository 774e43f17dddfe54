"""A slide read in this process, whose file must stay the one that was opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Region
from histoslide.slide.base import Slide
from histoslide.slide.file_identity import FileIdentity, replaced


class SameFileSlide(Slide):
    """Hands every read on, and looks whether the file was replaced meanwhile; picklable.

    Where it is unpickled, which may be on another machine, the slide's hash must be the same.
    """

    _slide: Slide | None

    def __init__(self, path: Path, open_file: Callable[[Path], Slide]) -> None:
        """Open a slide.

        Args:
            path: slide file.
            open_file: opens it; picklable.

        Raises:
            HistoslideError: it cannot be opened.
        """
        self._path, self._open_file = path, open_file
        self._file = FileIdentity.of(path) if path.is_file() else None
        self._slide = open_file(path)
        super().__init__(self._slide.facts)

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return self._opened().readers

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``Slide.read``.

        Raises:
            SlideReplacedError: the file is no longer the one that was opened.
        """
        try:
            return self._opened().read(region, shrink)
        finally:  # pixels of another file count as little as its errors
            if self._file is not None:
                self._file.check(self._path)

    def close(self) -> None:
        """Let go of handles; reading again takes new ones."""
        if self._slide is not None:
            self._slide.close()

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in ("_path", "_open_file", "_facts")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._slide = self._file = None

    def _opened(self) -> Slide:
        if self._slide is None:
            file, slide = FileIdentity.of(self._path), self._open_file(self._path)
            if slide.quickhash != self.quickhash:
                raise replaced(self._path)
            self._file, self._slide = file, slide
        return self._slide
