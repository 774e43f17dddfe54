"""One run at a time: the lock beside a store that is being written.

The lock of ``heat.zarr`` is ``.heat.zarr.lock`` beside it: a file, or an object in object storage,
that is there only while somebody writes. It says who: host, process, since when. Whoever comes
second is refused. A lock that nobody holds any more is taken over with a warning:

- on the same machine, when the process is gone, or another process has got its number;
- from another machine (or another container, which cannot see the process), when its heartbeat has
  been still for ``STALE_S`` by the clock, and then still does not move while we look on. Looking on
  is what makes clocks that differ harmless.

A holder that was suspended so long that it was taken over finds out before it writes on: see
``StoreLock.check``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil

from histoslide.errors import LockedError, LockLostError
from histoslide.place import file_system, is_remote, object_key

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

BEAT_S = 10.0
"""Seconds between the heartbeats of a holder."""

STALE_S = 120.0
"""A holder elsewhere is taken for dead after this many seconds without a heartbeat."""

_WATCHED_BEATS = 2.5
"""How long a silent lock is watched before it is taken over, in heartbeats of its holder."""

_TRIES = 50
"""A lock changes hands between two looks at most a few times; more means that something is off."""

_TOKEN_LENGTH = 32

_SETTLE_S = 2.0
"""Where object storage cannot write on a condition: who still stands after this holds the lock."""


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
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
            beat_s=beat_s,
        )

    @classmethod
    def read(cls, text: str) -> Holder | None:
        """What a lock says; None where it says nothing that can be understood."""
        try:
            values = json.loads(text)
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended; asked only on its own machine."""
        if not psutil.pid_exists(self.pid):
            return True
        started = _started(self.pid)
        return started is None or (bool(started and self.started) and started != self.started)

    def __str__(self) -> str:
        since = self.since.replace("T", " ").replace("+00:00", " UTC")
        return f"process {self.pid} on {self.host} since {since}"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A lock as it was seen."""

    holder: Holder | None
    stamp: tuple[object, ...]
    """Changes with every heartbeat."""
    age_s: float
    """Seconds since the last heartbeat, by our clock."""


class _Place(Protocol):
    """What a lock needs of the place it lies in."""

    def create(self, holder: Holder) -> bool:
        """Write the lock if there is none."""

    def read(self) -> _Found | None:
        """The lock as it is."""

    def replace(self, found: _Found, holder: Holder) -> bool:
        """Write the lock if it still is as it was found."""

    def beat(self) -> bool:
        """Give a sign of life; False if the lock is no longer ours."""

    def remove(self) -> None:
        """Remove the lock if it is ours."""


class StoreLock:
    """A lock that this process holds."""

    def __init__(self, path: Path, where: _Place, holder: Holder, *, stale_s: float) -> None:
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

    def _why_stale(self, found: _Found) -> str:
        """Why a lock may be taken over.

        Raises:
            LockedError: it may not.
        """
        holder = found.holder
        if holder is not None and holder.machine == self._holder.machine:
            if holder.is_gone:
                return "that process has ended"
            hint = "wait for it or end it"
            if _is_suspended(holder.pid):
                hint = f"it is suspended, continue it (kill -CONT {holder.pid}) or end it"
            raise LockedError(f"{self._path} is being written by {holder}: {hint}")
        if found.age_s >= self._stale_s and self._stands_still(found):
            return f"no sign of life for {max(0.0, found.age_s):.0f} s"
        raise LockedError(
            f"{self._path} is being written by {holder or 'an unknown process'}: wait for it or "
            f"end it (last sign of life {max(0.0, found.age_s):.0f} s ago; after "
            f"{self._stale_s:.0f} s without one it is taken for dead)"
        )

    def _stands_still(self, found: _Found) -> bool:
        beat_s = found.holder.beat_s if found.holder is not None else BEAT_S
        who = found.holder or "an unknown process"
        logger.info("%s: watching whether %s is alive", self._path, who)
        until = time.monotonic() + _WATCHED_BEATS * beat_s
        while time.monotonic() < until:
            time.sleep(min(1.0, beat_s / 2))
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
    path: Path, *, stale_s: float = STALE_S, holder: Holder | None = None
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
    file = lock_path(path)
    where: _Place = _LockObject(file) if is_remote(path) else _LockFile(file)
    lock = StoreLock(path, where, holder or Holder.here(), stale_s=stale_s)
    lock._take()  # noqa: SLF001 - only this function takes and lets go
    try:
        yield lock
    finally:
        lock._let_go()  # noqa: SLF001


def lock_path(path: Path) -> Path:
    """Where the lock of a store lies."""
    return path.with_name(f".{path.name}.lock")


class _LockFile:
    """A lock in a file system; its heartbeat is the time the file was last changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def create(self, holder: Holder) -> bool:
        temporary = self._write(holder)
        try:
            os.link(temporary, self._path)
        except (FileExistsError, FileNotFoundError):
            # Over NFS an answer may be lost and the call sent again: then it is there, and ours.
            # Or our file was swept away by one who holds the lock.
            return self._is_ours()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            return self._create_unlinked(holder)
        finally:
            temporary.unlink(missing_ok=True)
            if not self._is_ours():
                self._close()
        self._sweep()
        return True

    def read(self) -> _Found | None:
        # Opening it asks a file server anew; asking for the times alone may be answered from here.
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                text = file.read()
        except FileNotFoundError:
            return None
        return _Found(
            holder=Holder.read(text.decode(errors="replace")),
            stamp=(found.st_dev, found.st_ino, found.st_mtime_ns),
            age_s=time.time() - found.st_mtime,
        )

    def replace(self, found: _Found, holder: Holder) -> bool:
        """Two that find the same dead lock must not both replace it.

        Each first locks the dead file itself, which the system undoes should it die meanwhile;
        the second then sees that another file has the name.
        """
        try:
            file = self._path.open("r+b")
        except FileNotFoundError:
            return False
        with file:
            if not self._lock_file(file.fileno()):
                return False
            now = self.read()
            if now is None or now.stamp != found.stamp:
                return False
            try:
                self._write(holder).replace(self._path)
            except FileNotFoundError:  # swept away
                return False
        self._sweep()
        return True

    def beat(self) -> bool:
        os.utime(self._file if os.utime in os.supports_fd else self._path)
        return self._is_ours()

    def remove(self) -> None:
        with suppress(FileNotFoundError), self._path.open("r+b") as file:
            if sys.platform != "win32":
                with suppress(OSError):
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if self._is_ours():
                self._path.unlink()
        self._close()

    def _write(self, holder: Holder) -> Path:
        """A file of our own beside the lock, whole; it stays open."""
        self._close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{holder.token}")
        self._file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            os.write(self._file, _text(holder))
        except BaseException:
            temporary.unlink()
            raise
        return temporary

    def _create_unlinked(self, holder: Holder) -> bool:
        """Where a file cannot have two names: for a moment the lock is empty."""
        self._close()
        try:
            self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            return False
        os.write(self._file, _text(holder))
        return True

    def _lock_file(self, file: int) -> bool:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                pass
            else:
                return True
        raise LockedError(
            f"{self._path} is of a run that has ended, but this file system has no locks to take "
            "it over safely: remove it if no run writes there"
        )

    def _is_ours(self) -> bool:
        try:
            return self._file >= 0 and os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _sweep(self) -> None:
        """Remove what takers killed in the middle left; one who is at it now simply tries again."""
        for path in self._path.parent.iterdir():
            name, _, token = path.name.rpartition(".")
            if name == self._path.name and len(token) == _TOKEN_LENGTH:
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _LockObject:
    """A lock in object storage; its heartbeat writes it anew.

    Writes are conditional (``If-None-Match``, ``If-Match``), so that of two at once one fails.
    Storage that does not know conditions leaves the lock advisory, which is said once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fs = file_system(path)
        self._bucket, _, self._key = object_key(path).partition("/")
        self._holder: Holder | None = None
        self._tag = ""
        self._advisory = False

    def create(self, holder: Holder) -> bool:
        self._holder = holder
        if self.read() is not None:
            return False
        if not self._put(IfNoneMatch="*"):
            return self._is_ours()  # an answer may have been lost and the request sent again
        if not self._advisory and self._put(IfNoneMatch="*"):  # ours is there: this must fail
            self._advisory = True
        if self._advisory:
            logger.warning(
                "%s: this object storage cannot write on a condition: two runs that start within "
                "%.0f s of each other may not notice",
                self._path,
                _SETTLE_S,
            )
            time.sleep(_SETTLE_S)
        return self._is_ours()

    def read(self) -> _Found | None:
        try:
            facts = self._fs.info(object_key(self._path), refresh=True)
            text = self._fs.cat_file(object_key(self._path))
        except FileNotFoundError:
            return None
        return _Found(
            holder=Holder.read(text.decode(errors="replace")),
            stamp=(facts["ETag"],),
            age_s=(datetime.now(UTC) - facts["LastModified"]).total_seconds(),
        )

    def replace(self, found: _Found, holder: Holder) -> bool:
        self._holder = holder
        if not self._put(IfMatch=found.stamp[0]):
            return self._is_ours()
        if self._advisory:
            time.sleep(_SETTLE_S)
        return self._is_ours()

    def beat(self) -> bool:
        if self._advisory:
            return self._is_ours() and self._put()
        return self._put(IfMatch=self._tag) or self._is_ours()

    def remove(self) -> None:
        if self._is_ours():
            self._fs.call_s3("delete_object", Bucket=self._bucket, Key=self._key)

    def _put(self, **condition: object) -> bool:
        assert self._holder is not None
        # The time is there so that every heartbeat has another ETag.
        body = _text(self._holder, beat=datetime.now(UTC).isoformat())
        options = {} if self._advisory else condition
        try:
            answer = self._fs.call_s3(
                "put_object", Bucket=self._bucket, Key=self._key, Body=body, **options
            )
        except OSError as error:
            code = _error_code(error)
            if code == "NotImplemented" and not self._advisory:
                self._advisory = True
                return self._put()
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return False
            raise
        self._tag = answer["ETag"]
        return True

    def _is_ours(self) -> bool:
        found = self.read()
        assert self._holder is not None
        if found is None or found.holder is None or found.holder.token != self._holder.token:
            return False
        self._tag = str(found.stamp[0])
        return True


def _text(holder: Holder, **more: str) -> bytes:
    return json.dumps(asdict(holder) | more).encode()


def _error_code(error: OSError) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return None if response is None else str(response.get("Error", {}).get("Code"))


def _machine() -> str:
    """This start of this machine, as far as its processes see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x} {psutil.boot_time():.0f}"


def _started(pid: int) -> str | None:
    """When a process started; None where it has ended, empty where that cannot be known.

    On Linux in ticks since the machine started, which no change of the clock moves.
    """
    if not sys.platform.startswith("linux"):
        return _started_by_clock(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # of another user, where those are hidden; or it has just ended
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    # A zombie has ended, only nobody has asked how.
    return None if state in ("Z", "X") else fields[18]


def _started_by_clock(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return ""


def _is_suspended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
