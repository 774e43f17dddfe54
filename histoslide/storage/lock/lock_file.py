"""A lock that is a file."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from histoslide.errors import LockedError
from histoslide.storage.lock.holder import Found, Holder, lock_text

if sys.platform != "win32":
    import fcntl

_TOKEN_LENGTH = 32


class LockFile:
    """A lock in a file system; its heartbeat is the time the file was last changed.

    Nothing is kept open: Windows removes no file that is, and what a file server has removed can
    only be complained about. Whose lock it is stands in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""

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
        if not self._is_ours():
            return False
        with suppress(FileNotFoundError):  # the next look tells
            os.utime(self._path)
        return True

    def remove(self) -> None:
        """Remove the lock if it is ours, and not while another takes it over."""
        if sys.platform == "win32":  # nobody takes over there
            if self._is_ours():
                self._path.unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError), self._path.open("r+b") as file:
            with suppress(OSError):
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if self._is_ours():
                self._path.unlink()

    def _write(self, holder: Holder) -> Path:
        """A file of our own beside the lock, whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{holder.token}")
        self._token = holder.token
        try:
            with temporary.open("xb") as file:
                file.write(lock_text(holder))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _create_unlinked(self, holder: Holder) -> bool:
        """Where a file cannot have two names: for a moment the lock is empty."""
        try:
            with self._path.open("xb") as file:
                file.write(lock_text(holder))
        except FileExistsError:
            return False
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
        found = self.read()
        return found is not None and found.holder is not None and found.holder.token == self._token

    def _sweep(self) -> None:
        """Remove what takers killed in the middle left; one who is at it now simply tries again."""
        for path in self._path.parent.iterdir():
            name, _, token = path.name.rpartition(".")
            if name == self._path.name and len(token) == _TOKEN_LENGTH:
                path.unlink(missing_ok=True)
