"""Where outputs and slides lie: a folder of this machine, or a URL of object storage.

Both are locations to the rest of the library. A URL becomes a ``UPath``, which answers to most of
what ``pathlib.Path`` answers to; ``is_remote`` tells the two apart where it matters, which is where
files are renamed, locked or handed to a library that wants a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from histoslide.errors import HistoslideError, StoreError

if TYPE_CHECKING:
    import zarr
    from typing_extensions import TypeIs
    from upath import UPath
    from zarr.storage import FsspecStore

Location: TypeAlias = "Path | UPath"
"""Where an output or a slide lies: a path of this machine, or one in object storage."""

S3 = "s3://"


def parse_location(text: str) -> Location:
    """A path, or the URL of an object store as something that behaves like one.

    Args:
        text: a path, or ``s3://bucket/key``. Keys, endpoint and region come from the environment
            or the files in ``~/.aws``, never from the URL.

    Raises:
        HistoslideError: a URL of another kind, without a bucket, or with credentials in it; or
            what is needed for object storage is not installed.
    """
    if "://" not in text:
        return Path(text)
    kind, _, rest = text.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket or "?" in rest:
        raise HistoslideError(
            f"a URL in {kind}://… carries credentials or a query: give them by the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or ~/.aws instead"
        )
    if kind.lower() != "s3":
        raise HistoslideError(f"{text} is not on S3: give a path or s3://bucket/key")
    if not bucket or not key.strip("/"):
        raise HistoslideError(f"{text} names no object: give s3://bucket/key")
    try:
        import s3fs  # noqa: F401, PLC0415 - an extra
        from upath import UPath  # noqa: PLC0415
    except ImportError as error:
        raise HistoslideError(
            f"{text} needs what is not installed: pip install 'histoslide[s3]'"
        ) from error
    # Listings are not cached: another process may be writing what we wait for.
    return UPath(f"{S3}{bucket}/{key.strip('/')}", use_listings_cache=False)


def as_location(path: Location | str) -> Location:
    """A location of whatever somebody calls one; for the errors see ``parse_location``."""
    return parse_location(path) if isinstance(path, str) else path


def is_remote(path: Location) -> TypeIs[UPath]:
    """Whether a location is in object storage."""
    return not isinstance(path, Path)


def file_system(path: UPath) -> Any:
    """The fsspec file system of a remote path."""
    return path.fs


def object_key(path: UPath) -> str:
    """``bucket/key`` of a remote path, as its file system wants it."""
    return str(path).removeprefix(S3)


def open_group(path: Location, mode: Literal["r", "r+", "w"], **options: Any) -> zarr.Group:
    """``zarr.open_group`` for both kinds of locations."""
    import zarr  # noqa: PLC0415 - what only handles paths should not pay for it

    if is_remote(path):  # one request less each time
        return zarr.open_group(_zarr_store(path), mode=mode, use_consolidated=False, **options)
    return zarr.open_group(path, mode=mode, **options)


def _zarr_store(path: UPath) -> FsspecStore:
    from zarr.storage import FsspecStore  # noqa: PLC0415

    options = dict(path.storage_options)
    return FsspecStore.from_url(str(path), storage_options=options)


def read_bytes(path: Location) -> bytes | None:
    """What a file or object holds; None where there is none.

    Raises:
        OSError: a file cannot be read.
        StoreError: object storage refuses it or cannot be reached.
    """
    with storage_errors(path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


@contextmanager
def storage_errors(path: Location) -> Iterator[None]:
    """Turn what goes wrong between here and object storage into one line; a file's errors pass.

    Raises:
        StoreError: refused, not reached, or anything else that is not "there is no such object".
    """
    if not is_remote(path):
        yield
        return
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} is not there: {_line(error)}") from error
    except PermissionError as error:
        raise StoreError(
            f"{path} is refused ({_line(error)}): check the credentials and what they may do"
        ) from error
    except (OSError, BotoCoreError) as error:
        raise StoreError(
            f"{path} cannot be reached ({_line(error)}): what was written is kept, run the same "
            "command again"
        ) from error


def _line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def readable_name(path: Location) -> str:
    """The name of a file for people and for text files, also where it is no UTF-8."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


def without_folder(error: HistoslideError, path: Location) -> str:
    """What an error says, for records that travel: of a file's path only its name."""
    return str(error).replace(str(path), path.name)
