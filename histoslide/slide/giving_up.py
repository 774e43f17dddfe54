"""When a level of a slide is given up, because nothing of it can be read.

Every read that fails opens the file again and again, and blocks are halved down to single cells:
a large slide of which nothing is left would cost hours. A level is given up only where nothing of
it has ever been read and places spread over all of it cannot be read either, so that a hole in a
slide, wherever it lies, costs no more than itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideGivenUpError, SlideReadError
from histoslide.geometry import Region, Size

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 32
"""Reads of a level that fail before any succeeded, until places spread over it are tried."""

_PROBES = 8
"""Places a side that are then tried."""

_PROBE_PX = 16
"""Side of such a place."""


class GivingUp:
    """Counts the failures of one slide, for all threads."""

    def __init__(self, name: str) -> None:
        """Begin with no failure.

        Args:
            name: of the slide, for messages.
        """
        self._name = name
        self._lock = threading.Lock()
        self._failed: dict[int, int] = {}
        self._read_some: set[int] = set()
        self._given_up: dict[int, str] = {}

    def read(
        self, region: Region, size: Size, read: Callable[[Region], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """Read a region, unless its level has been given up.

        Args:
            region: to read.
            size: of its level.
            read: of the slide.

        Raises:
            SlideGivenUpError: nothing of the level can be read.
            SlideReadError: this region cannot.
        """
        reason = self._given_up.get(region.level)
        if reason is not None:
            raise SlideGivenUpError(reason)
        try:
            pixels = read(region)
        except SlideReadError as error:
            self._count(region.level, size, read, error)
            raise
        self._read_some.add(region.level)
        return pixels

    def _count(
        self,
        level: int,
        size: Size,
        read: Callable[[Region], NDArray[np.uint8]],
        error: SlideReadError,
    ) -> None:
        with self._lock:
            self._failed[level] = self._failed.get(level, 0) + 1
            if self._failed[level] != FAILURES_IN_A_ROW or level in self._read_some:
                return
        for probe in _spread(level, size):
            try:
                read(probe)
            except SlideReadError:
                continue
            self._read_some.add(level)
            return
        reason = (
            f"{self._name}: level {level} is given up, because {FAILURES_IN_A_ROW} reads in a row "
            f"failed and so did {_PROBES**2} spread over it; the last: {error}"
        )
        logger.warning("%s", reason)
        self._given_up[level] = reason


def _spread(level: int, size: Size) -> Iterator[Region]:
    width, height = min(_PROBE_PX, size.width), min(_PROBE_PX, size.height)
    for row in range(_PROBES):
        for col in range(_PROBES):
            x = (size.width - width) * (2 * col + 1) // (2 * _PROBES)
            y = (size.height - height) * (2 * row + 1) // (2 * _PROBES)
            yield Region(level, x, y, width, height)
