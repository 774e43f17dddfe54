"""Whether a slide's file is still the one that was opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from histoslide.errors import SlideReplacedError


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """What changes when a file is replaced or written to; the same on one machine only."""

    size: int
    """Bytes."""
    mtime_ns: int
    """When it was last written to."""
    inode: int
    """Its number in the file system."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Of the file that lies there now.

        Raises:
            OSError: none does, or it cannot be asked.
        """
        found = path.stat()
        return cls(size=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino)

    def check(self, path: Path) -> None:
        """Make sure that it is still the file that lies there.

        Of a slide in several files only the one that names it is looked at.

        Raises:
            SlideReplacedError: it is not.
        """
        try:
            if FileIdentity.of(path) == self:
                return
            what = "was replaced or written to"
        except OSError as error:
            what = f"went away ({error.strerror or error})"
        raise replaced(path, what)


def replaced(path: Path, what: str = "was replaced by another slide") -> SlideReplacedError:
    """The error that says what became of a slide's file."""
    return SlideReplacedError(
        f"{path.name} {what} while it was read: nothing read since counts, run the same command "
        "again when the file is whole"
    )
