"""How long one slide may be in work."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from histoslide.errors import SlideTimeoutError


class TimeLimit:
    """A clock that only runs while the slide is in work, and tells when its time is up.

    Picklable: what is left travels along, since another machine's clock says something else.
    """

    def __init__(self, name: str, seconds: float | None = None) -> None:
        """Make a clock that stands still.

        Args:
            name: of the slide, for the error.
            seconds: how long it may run; None for ever.
        """
        self._name, self._seconds = name, seconds
        self._spent = 0.0
        self._since: float | None = None
        self._start()

    @property
    def spent(self) -> float:
        """Seconds that it has run."""
        with self._lock:
            running = 0.0 if self._since is None else time.monotonic() - self._since
            return self._spent + running

    @property
    def left(self) -> float:
        """Seconds until the time is up, below zero afterwards; infinite without a limit."""
        return math.inf if self._seconds is None else self._seconds - self.spent

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clock run in a ``with`` block."""
        with self._lock:
            self._since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._spent += time.monotonic() - self._since
                self._since = None

    def check(self) -> None:
        """Go on only while there is time.

        Raises:
            SlideTimeoutError: the time is up.
        """
        if self.left <= 0:
            raise SlideTimeoutError(
                f"{self._name}: timed out after {self._seconds:g} s; what was scored is kept, run "
                "the same command again to continue"
            )

    def __getstate__(self) -> dict[str, object]:
        running = self._since is not None
        return {"name": self._name, "seconds": self._seconds, "spent": self.spent, "run": running}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._name, self._seconds = str(state["name"]), state["seconds"]  # type: ignore[assignment]
        self._spent = state["spent"]  # type: ignore[assignment]
        self._since = time.monotonic() if state["run"] else None
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
