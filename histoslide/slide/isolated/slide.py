"""A slide whose reads are handed to worker processes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideCrashError, SlideReadError
from histoslide.geometry import Mpp, Region
from histoslide.machine.processors import usable_processors
from histoslide.slide.base import Slide
from histoslide.slide.facts import SlideFacts
from histoslide.slide.file_identity import FileIdentity, replaced
from histoslide.slide.isolated.process import Naming, Opening, Reading
from histoslide.slide.isolated.time_limit import TimeLimit
from histoslide.slide.isolated.worker import Worker, WorkerDiedError
from histoslide.slide.openslide_slide import DEFAULT_CACHE_BYTES

logger = logging.getLogger(__name__)

DEFAULT_OPENER = "histoslide.slide:open_slide"
"""What workers open slides with."""

READ_SECONDS = 120.0
"""A read or an opening that takes longer hangs: a block takes seconds, also from a slow disk."""

MAX_CRASHES = 500
"""Workers that may die on a slide before it is given up. To single out the 144 cells around one bad
tile of 512 pixels takes about 320 deaths of a third of a second each."""

MAX_CRASHES_AT_FIRST = 20
"""The same for a slide of which nothing has been read yet."""

MAX_HANGS = 20
"""Workers that may hang on a slide before it is given up: each costs ``READ_SECONDS``."""

MOST_WORKERS = 8
"""Bound on the workers of a slide, also where there are more processors; each takes about 60 MB,
and a part of the cache of decoded tiles."""

_START_SECONDS = 60.0
"""Added to the time for opening, because it begins with starting an interpreter."""

_LONGEST_S = 1e6
"""In place of no limit at all, for calls that want a number."""


class IsolatedSlide(Slide):
    """A slide read by worker processes; picklable, and usable from any thread or process.

    As many threads may read at once as there are workers; one more waits. Workers start when they
    are needed.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: Mpp | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        opener: str = DEFAULT_OPENER,
        workers: int | None = None,
        read_seconds: float = READ_SECONDS,
        limit: TimeLimit | None = None,
    ) -> None:
        """Open a slide.

        Args:
            path: slide file.
            mpp: resolution that replaces what the slide records.
            cache_bytes: bound on decoded tiles kept by all workers together.
            opener: ``module:function`` that takes a path, ``mpp`` and ``cache_bytes`` and returns a
                ``Slide``; it is imported by the workers.
            workers: most processes at a time; None for one a processor, at most ``MOST_WORKERS``.
            read_seconds: a read that takes longer counts as a crash.
            limit: clock of the slide; once its time is up, reads fail, also one that hangs.

        Raises:
            SlideOpenError: missing, a folder, empty, or in no format that can be read.
            ResolutionError: x and y resolutions differ by more than 1 % (unless ``mpp`` is given).
            SlideCrashError: the slide library crashes or hangs at opening.
            SlideTimeoutError: the time is up.
        """
        path = Path(path)
        self._path, self._given_mpp, self._opener = path, mpp, opener
        self._bound = min(MOST_WORKERS, usable_processors()) if workers is None else workers
        self._cache_bytes = cache_bytes // self._bound
        self._read_seconds = read_seconds
        self._limit = TimeLimit(path.name) if limit is None else limit
        self._start()
        first = self._open_first()
        super().__init__(first.facts)
        self._idle.append(first)

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``Slide.read``.

        Raises:
            SlideReadError: the pixels cannot be read; two workers died of it, or one of it and two
                of a region around it.
            SlideCrashError: too many workers died of this slide.
            SlideReplacedError: the file is no longer the one that was opened.
            SlideTimeoutError: the time of the slide is up.
        """
        with self._state:
            known_to_kill = any(dead.holds(region) for dead in self._deadly)
        reason = ""
        for _ in range(1 if known_to_kill else 2):
            try:
                shape, pixels = self._ask(
                    lambda seconds: Reading(region=region, shrink=shrink, seconds=seconds)
                )
                return pixels.reshape(shape)
            except WorkerDiedError as death:
                reason = str(death)
                self._count(death, str(region))
        with self._state:
            self._deadly.append(region)
        raise SlideReadError(f"{self.name}: {region} cannot be read: the reader died ({reason})")

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see.

        Raises:
            SlideCrashError: the worker died of looking for it.
        """
        try:
            found, _ = self._ask(lambda seconds: Naming(seconds=seconds))
        except WorkerDiedError as death:
            raise SlideCrashError(
                f"{self.name}: the slide library died at looking at its levels ({death}): the "
                "file is damaged or in a format that the library cannot cope with"
            ) from None
        return tuple(found)

    def close(self) -> None:
        """End the workers; new ones start when the slide is read again.

        A worker that is reading ends when its read does.
        """
        with self._state:
            idle = self._idle.copy()
            self._idle.clear()
            self._generation += 1
        for worker in idle:
            worker.end()

    def __getstate__(self) -> dict[str, object]:
        mine = ("_path", "_given_mpp", "_opener", "_bound", "_cache_bytes", "_read_seconds")
        return {name: self.__dict__[name] for name in (*mine, "_limit", "_facts")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._state = threading.Condition()
        self._idle: list[Worker] = []
        self._working = 0
        self._generation = 0
        self._crashes = self._hangs = 0
        self._read_some = False
        self._deadly: list[Region] = []
        self._process = os.getpid()
        self._file: FileIdentity | None = None

    def _open_first(self) -> Worker:
        reason = ""
        for _ in range(2):
            try:
                return self._new_worker(silent=False)
            except WorkerDiedError as death:
                reason = str(death)
                self._count(death, "opening it")
        raise SlideCrashError(
            f"{self._path.name}: the slide library died at opening it, twice ({reason}): the file "
            "is damaged or in a format that the library cannot cope with"
        )

    def _new_worker(self, *, silent: bool = True) -> Worker:
        """One more worker; what the first one said at opening need not be said again.

        Raises:
            SlideReplacedError: it opened another slide than the first one.
        """
        self._limit.check()
        with suppress(OSError):  # the slide's reader says it better
            self._file = self._file or FileIdentity.of(self._path)
        opening = Opening(
            path=self._path,
            mpp=self._given_mpp,
            cache_bytes=self._cache_bytes,
            opener=self._opener,
            log_level=logging.getLogger("histoslide").getEffectiveLevel(),
            seconds=self._patience(_START_SECONDS),
        )
        worker = Worker(opening, silent=silent)
        try:
            self._refuse_replaced()
            known: SlideFacts | None = getattr(self, "_facts", None)  # not while it opens first
            if known is not None and worker.facts.quickhash != known.quickhash:
                raise replaced(self._path)
        except BaseException:
            worker.end()
            raise
        return worker

    def _refuse_replaced(self) -> None:
        """Slide libraries open a file again and again by its name: it must stay the same."""
        if self._file is not None:
            self._file.check(self._path)

    def _patience(self, more: float = 0.0) -> float:
        return min(self._read_seconds + more, max(0.0, self._limit.left), _LONGEST_S)

    def _ask(self, message: Callable[[float], Reading | Naming]) -> tuple[Any, NDArray[np.uint8]]:
        """Have a worker answer a message that is made for the seconds that it may take."""
        if self._process != os.getpid():
            self._start()  # forked: the parent's workers are not ours to talk to
        self._limit.check()
        worker, generation = self._borrow()
        healthy = False
        try:
            seconds = self._patience()
            try:
                answer = worker.ask(message(seconds), seconds)
            finally:  # pixels of another file count as little as its errors
                self._refuse_replaced()
        except SlideReadError:
            healthy = True  # the worker lives, it only could not read
            raise
        else:
            healthy = self._read_some = True
            return answer
        finally:
            self._give_back(worker if healthy else None, generation)
            if not healthy:
                worker.end()

    def _borrow(self) -> tuple[Worker, int]:
        """A worker of our own for one read, the one used last if there is a choice."""
        with self._state:
            while not self._idle and self._working >= self._bound:
                self._state.wait()
            self._working += 1
            generation = self._generation
            if self._idle:
                return self._idle.pop(), generation
        try:
            return self._new_worker(), generation
        except BaseException:
            self._give_back(None, generation)
            raise

    def _give_back(self, worker: Worker | None, generation: int) -> None:
        with self._state:
            self._working -= 1
            self._state.notify()
            if worker is not None and generation == self._generation:
                self._idle.append(worker)
                return
        if worker is not None:
            worker.end()

    def _count(self, death: WorkerDiedError, what: str) -> None:
        """Note a death; give the slide up when there were too many.

        Raises:
            SlideCrashError: there were.
            SlideTimeoutError: the worker was killed because the time of the slide is up.
        """
        self._limit.check()
        with self._state:
            self._crashes += not death.hung
            self._hangs += death.hung
            first = self._crashes + self._hangs == 1
            most = MAX_CRASHES if self._read_some else MAX_CRASHES_AT_FIRST
            hopeless = self._crashes >= most or self._hangs >= MAX_HANGS
        said = f"{self._path.name}: the slide library died at {what} ({death})"
        if hopeless:
            raise SlideCrashError(
                f"{said}, as it did {self._crashes + self._hangs} times on this slide: it is "
                "given up; check the file"
            )
        # One line a slide: what is lost in the end is counted in the heatmap.
        logger.log(logging.WARNING if first else logging.DEBUG, "%s: trying again", said)
