"""A lock that is a file."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from histoslide.errors import LockedError
from histoslide.lock.holder import Found, Holder, lock_text

if sys.platform != "win32":
    import fcntl

_TOKEN_LENGTH = 32


class LockFile:
    """A lock in a file system; its heartbeat is the time the file was last changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def create(self, holder: Holder) -> bool:
        """Give a file that is whole already the lock's name, unless something has it."""
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

    def read(self) -> Found | None:
        """The lock as it is."""
        # Opening it asks a file server anew; asking for the times alone may be answered from here.
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                text = file.read()
        except FileNotFoundError:
            return None
        return Found(
            holder=Holder.read(text.decode(errors="replace")),
            stamp=(found.st_dev, found.st_ino, found.st_mtime_ns),
            age_s=time.time() - found.st_mtime,
        )

    def replace(self, found: Found, holder: Holder) -> bool:
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
        """Change the file's time."""
        os.utime(self._file if os.utime in os.supports_fd else self._path)
        return self._is_ours()

    def remove(self) -> None:
        """Remove the lock if it is ours, and not while another takes it over."""
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
            os.write(self._file, lock_text(holder))
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
        os.write(self._file, lock_text(holder))
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
