"""Who holds a lock, and what a lock needs of what it is written in."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol

import psutil

from histoslide.errors import HistoslideError
from histoslide.storage.lock.process import started_when, this_machine
from histoslide.storage.records import from_json, to_json

BEAT_S = 10.0
"""Seconds between the heartbeats of a holder."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock."""

    host: str
    """Name of the machine, for people."""
    machine: str
    """What tells apart machines, their starts, and containers that do not see each other's
    processes: only where it is equal does ``pid`` mean anything."""
    pid: int
    """Number of the process."""
    started: str
    """When the process started, in the machine's own count: numbers of processes are used again."""
    since: str
    """When the lock was taken, ISO 8601 in UTC."""
    token: str
    """Differs each time a lock is taken."""
    beat_s: float
    """Seconds between its heartbeats."""

    @classmethod
    def here(cls, *, beat_s: float = BEAT_S) -> Holder:
        """This process, now."""
        return cls(
            host=socket.gethostname(),
            machine=this_machine(),
            pid=os.getpid(),
            started=started_when(os.getpid()) or "",
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
            beat_s=beat_s,
        )

    @classmethod
    def read(cls, text: str) -> Holder | None:
        """What a lock says; None where it says nothing that can be understood."""
        try:
            return from_json(text, cls, source="a lock")
        except HistoslideError:
            return None

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended; asked only on its own machine."""
        if not psutil.pid_exists(self.pid):
            return True
        started = started_when(self.pid)
        return started is None or (bool(started and self.started) and started != self.started)

    def __str__(self) -> str:
        since = self.since.replace("T", " ").replace("+00:00", " UTC")
        return f"process {self.pid} on {self.host} since {since}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A lock as it was seen."""

    holder: Holder | None
    stamp: tuple[object, ...]
    """Changes with every heartbeat."""
    age_s: float
    """Seconds since the last heartbeat, by our clock."""


class LockMedium(Protocol):
    """What a lock needs of what holds it, a file or an object of a store."""

    def create(self, holder: Holder) -> bool:
        """Write the lock if there is none."""

    def read(self) -> Found | None:
        """The lock as it is."""

    def replace(self, found: Found, holder: Holder) -> bool:
        """Write the lock if it still is as it was found."""

    def beat(self) -> bool:
        """Give a sign of life; False if the lock is no longer ours."""

    def remove(self) -> None:
        """Remove the lock if it is ours."""


def lock_text(holder: Holder, **more: str) -> bytes:
    """What a lock says, for ``Holder.read``; further facts are left alone by that."""
    return to_json(asdict(holder) | more, indent=None, ascii_only=True).encode()
