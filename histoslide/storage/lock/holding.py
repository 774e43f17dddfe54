"""Taking a lock, keeping it alive, and letting it go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from histoslide.errors import LockedError, LockLostError
from histoslide.storage.location import Location, is_remote
from histoslide.storage.lock.holder import BEAT_S, Found, Holder, LockMedium
from histoslide.storage.lock.lock_file import LockFile
from histoslide.storage.lock.lock_object import LockObject
from histoslide.storage.lock.process import is_suspended

logger = logging.getLogger(__name__)

STALE_S = 120.0
"""A holder elsewhere is taken for dead after this many seconds without a heartbeat."""

_WATCHED_BEATS = 2.5
"""How long a silent lock is watched before it is taken over, in heartbeats of its holder."""

_TRIES = 50
"""A lock changes hands between two looks at most a few times; more means that something is off."""


@dataclass(frozen=True, kw_only=True)
class LockGuard:
    """What a process needs that writes for the holder of a lock; picklable."""

    path: Location
    """Of the store."""
    token: str
    """Of the holder."""

    def check(self) -> None:
        """Make sure that nobody else has taken the store since.

        A lock that is not there is no proof: file servers show new files late.

        Raises:
            LockLostError: another run holds the lock.
        """
        found = _medium_of(lock_path(self.path)).read()
        if found is not None and found.holder is not None and found.holder.token != self.token:
            raise LockLostError(
                f"{self.path} is being written by {found.holder}: what was scored for another run "
                "is not written into it"
            )


class StoreLock:
    """A lock that this process holds."""

    def __init__(
        self, path: Location, where: LockMedium, holder: Holder, *, stale_s: float
    ) -> None:
        self._path, self._where, self._holder, self._stale_s = path, where, holder, stale_s
        self._lost = False
        self._stop = threading.Event()
        self._beats = threading.Lock()
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._beat_on, name="store lock", daemon=True)

    def check(self) -> None:
        """Make sure that the lock is still ours; cheap, to be called before what matters.

        Raises:
            LockLostError: it was taken over while this process was suspended or cut off.
        """
        # The clock runs on while a process is suspended, the heartbeat does not.
        if not self._lost and time.monotonic() - self._last > self._stale_s / 2:
            self._beat()
        if self._lost:
            raise LockLostError(
                f"{self._path} was taken over by another run while this one gave no sign of life "
                "for too long: this one stops, nothing is lost"
            )

    @property
    def guard(self) -> LockGuard:
        """Watches over the lock where it cannot be held: in a worker on another machine."""
        return LockGuard(path=self._path, token=self._holder.token)

    def _take(self) -> None:
        for _ in range(_TRIES):
            if self._where.create(self._holder):
                break
            found = self._where.read()
            if found is None:  # let go in between
                continue
            reason = self._why_stale(found)
            if self._where.replace(found, self._holder):
                who = found.holder or "an unknown process"
                logger.warning("%s: the lock of %s is taken over: %s", self._path, who, reason)
                break
            time.sleep(0.01)
        else:
            raise LockedError(f"{self._path}: its lock changes hands all the time: try again")
        self._last = time.monotonic()
        self._thread.start()

    def _why_stale(self, found: Found) -> str:
        """Why a lock may be taken over.

        Raises:
            LockedError: it may not.
        """
        holder = found.holder
        if holder is not None and holder.machine == self._holder.machine:
            if holder.is_gone:
                return "that process has ended"
            hint = "wait for it or end it"
            if is_suspended(holder.pid):
                hint = f"it is suspended, continue it (kill -CONT {holder.pid}) or end it"
            raise LockedError(f"{self._path} is being written by {holder}: {hint}")
        if found.age_s >= self._stale_s:
            beat_s = BEAT_S if holder is None else holder.beat_s
            if self._stands_still(found, _WATCHED_BEATS * beat_s):
                return f"no sign of life for {max(0.0, found.age_s):.0f} s"
        # From a clock so far ahead of ours, or before ours was put back, the age says nothing.
        elif found.age_s <= -self._stale_s and self._stands_still(found, self._stale_s):
            return f"no sign of life for {self._stale_s:.0f} s"
        raise LockedError(
            f"{self._path} is being written by {holder or 'an unknown process'}: wait for it or "
            f"end it (last sign of life {max(0.0, found.age_s):.0f} s ago; after "
            f"{self._stale_s:.0f} s without one it is taken for dead)"
        )

    def _stands_still(self, found: Found, seconds: float) -> bool:
        who = found.holder or "an unknown process"
        logger.info("%s: watching whether %s is alive", self._path, who)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 5))
            now = self._where.read()
            if now is None or now.stamp != found.stamp:
                return now is None
        return True

    def _beat_on(self) -> None:
        while not self._stop.wait(self._holder.beat_s) and not self._lost:
            self._beat()

    def _beat(self) -> None:
        with self._beats:
            try:
                if not self._where.beat():
                    self._lost = True
                self._last = time.monotonic()
            except Exception:
                logger.debug("%s: no heartbeat", self._path, exc_info=True)

    def _let_go(self) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._where.remove()
        except Exception as error:  # noqa: BLE001 - what was written is whole: a lock goes stale
            logger.warning("%s: its lock cannot be removed: %s", self._path, error)


@contextmanager
def hold(
    path: Location, *, stale_s: float = STALE_S, holder: Holder | None = None
) -> Iterator[StoreLock]:
    """Hold the lock of a store while the block runs.

    Args:
        path: of the store, which need not exist.
        stale_s: after how long without a heartbeat a holder elsewhere is taken for dead.
        holder: who takes it; None for this process.

    Raises:
        LockedError: another run holds it.
        OSError: the lock cannot be written.
    """
    where = _medium_of(lock_path(path))
    lock = StoreLock(path, where, holder or Holder.here(), stale_s=stale_s)
    lock._take()  # noqa: SLF001 - only this function takes and lets go
    try:
        yield lock
    finally:
        lock._let_go()  # noqa: SLF001


@overload
def lock_path(path: Path) -> Path: ...
@overload
def lock_path(path: Location) -> Location: ...
def lock_path(path: Location) -> Location:
    """Where the lock of a store lies."""
    return path.with_name(f".{path.name}.lock")


def _medium_of(file: Location) -> LockMedium:
    return LockObject(file) if is_remote(file) else LockFile(file)
