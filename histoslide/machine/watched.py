"""Work of a library that may hang: done in threads that nobody has to wait for in the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from histoslide.errors import StalledError

T = TypeVar("T")

STALL_S = 600.0
"""Seconds after which work is given up. One batch of a large network on a busy laptop takes a
minute, converting a network about as long."""

_LOOKS = 20
"""Waits into which that time is cut: a process that was stopped and goes on has missed one of
them, and is not taken for one that hangs."""

_IDLE_S = 10.0
"""Seconds without work after which a thread ends."""


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who raises it again
            self.error = error

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class WatchedThreads:
    """Does what callers ask in threads of its own, as many as there are callers at a time.

    Whoever asks waits; but not for ever, and an interpreter that ends waits for none of the
    threads. What a library holds that hangs is lost: after one job that hung none is begun.
    """

    def __init__(self, what: str, *, way_out: str, limit_s: float | None = None) -> None:
        """Have no thread yet.

        Args:
            what: does the work, for the message.
            way_out: what to do where it hangs, for the message.
            limit_s: seconds after which a job is given up; None for ``STALL_S``.
        """
        self._what, self._way_out = what, way_out
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Job]] = []
        self._stalled: str | None = None

    def run(self, work: Callable[[], T], *, times: int = 1) -> T:
        """Do some work, and return what it returns.

        Args:
            work: is called in another thread.
            times: may take so many times longer than others.

        Raises:
            StalledError: it hangs, or another did before.
            BaseException: what the work raised.
        """
        if self._stalled is not None:
            raise StalledError(self._stalled)
        job = _Job(work)
        self._hand_over(job)
        limit_s = (STALL_S if self._limit_s is None else self._limit_s) * times
        try:
            if not any(job.done.wait(limit_s / _LOOKS) for _ in range(_LOOKS)):
                self._stalled = (
                    f"{self._what} has computed nothing for {limit_s:,.0f} s while work waits for "
                    f"it: it hangs, so this run ends; {self._way_out}"
                )
                raise StalledError(self._stalled)
            result: T = job.outcome()
            return result
        finally:
            del job  # an error holds this frame: it must not hold the work, too

    def _hand_over(self, job: _Job) -> None:
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
                return
        jobs: SimpleQueue[_Job] = SimpleQueue()
        jobs.put(job)
        # Not joined at the interpreter's end, unlike a pool's: one that hangs would hold it up.
        threading.Thread(target=self._serve, args=(jobs,), name="network", daemon=True).start()

    def _serve(self, jobs: SimpleQueue[_Job]) -> None:
        while True:
            try:
                job = jobs.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if jobs in self._idle:
                        self._idle.remove(jobs)
                        return
                continue  # it was handed over just now
            job.run()
            with self._lock:
                self._idle.append(jobs)  # before the caller goes on, who may come back at once
            job.done.set()
            del job  # and with it what it holds, while this thread waits
