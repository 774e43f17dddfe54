"""A store as a whole: whether it is there, how it appears, is replaced, and goes.

In a file system all of this is renaming a folder. Object storage has no folders and renames
nothing, so there the root metadata decide: objects without them are not a store. They are written
last when a store appears and removed first when it goes, one object each, which is whole or absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from histoslide.storage.location import Location, file_system, is_remote, object_key, storage_errors
from histoslide.storage.writing import swap_folder

if TYPE_CHECKING:
    from upath import UPath

_ROOTS = (".zattrs", ".zgroup", "zarr.json")
"""Root metadata of either version of Zarr, in the order they are written: the last ones count."""

_METADATA = {".zarray", *_ROOTS}

_AT_ONCE = 16
"""Requests at a time."""

_DELETED_AT_ONCE = 1000
"""Object storage deletes so many with one request."""


def is_there(path: Location) -> bool:
    """Whether a store, or anything else that must not be lost, lies under a name.

    In object storage, metadata of arrays without those of a root are the beginning of a store
    whose run was killed: nothing.
    """
    if not is_remote(path):
        return path.exists()
    return has_root(path) or any(PurePosixPath(key).name not in _METADATA for key in _keys(path))


def has_root(path: Location) -> bool:
    """Whether a path is a Zarr group, of either version."""
    with storage_errors(path):
        return any((path / name).exists() for name in _ROOTS[1:])


def write_objects(path: UPath, objects: Mapping[str, bytes]) -> None:
    """Lay a store out in object storage, its root last; what a killed run laid out there goes.

    Args:
        path: of the store.
        objects: contents by key within the store.
    """
    fs, start = file_system(path), object_key(path)
    with storage_errors(path):
        _delete(path, set(_keys(path)) - {f"{start}/{key}" for key in objects})
        _in_order(objects, lambda key: fs.pipe_file(f"{start}/{key}", objects[key]))


def put_in_place(new: Location, path: Location) -> None:
    """Let a whole new store take the place of an old one, if there is one.

    The old one is whole until the new one is. In object storage it then goes, root first, and the
    new one is copied, root last: a reader sees one, none, or the other, never a mixture; what was
    killed in between is finished by calling this again.
    """
    if not is_remote(path):
        assert not is_remote(new), "it lies beside the old one"
        if path.exists():
            swap_folder(new, path)
        else:
            new.replace(path)
        return
    assert is_remote(new), "it lies beside the old one"
    fs, old_start, new_start = file_system(path), object_key(path), object_key(new)
    with storage_errors(path):
        remove(path)
        keys = [key.removeprefix(f"{new_start}/") for key in _keys(new)]
        _in_order(keys, lambda key: fs.cp_file(f"{new_start}/{key}", f"{old_start}/{key}"))
        remove(new)


def remove(path: Location) -> None:
    """Delete a store; in object storage it is none from the first moment on."""
    if not is_remote(path):
        if path.exists():
            shutil.rmtree(path)
        return
    start = object_key(path)
    roots = [f"{start}/{name}" for name in reversed(_ROOTS)]
    with storage_errors(path):
        _delete(path, roots)
        _delete(path, _keys(path))


def _keys(path: UPath) -> list[str]:
    with storage_errors(path):
        found: list[str] = file_system(path).find(object_key(path))
        return found


def _in_order(keys: Iterable[str], act: Callable[[str], Any]) -> None:
    """Act on all keys at once but those of the root, which come one after the other, last."""
    names = set(keys)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(act, sorted(names.difference(_ROOTS))):
            pass
    for name in _ROOTS:
        if name in names:
            act(name)


def _delete(path: UPath, keys: Iterable[str]) -> None:
    """Delete objects by their exact keys; that of one that is not there is no error."""
    bucket, _, _ = object_key(path).partition("/")
    left = [{"Key": key.removeprefix(f"{bucket}/")} for key in keys]
    for first in range(0, len(left), _DELETED_AT_ONCE):
        answer = file_system(path).call_s3(
            "delete_objects",
            Bucket=bucket,
            Delete={"Objects": left[first : first + _DELETED_AT_ONCE], "Quiet": True},
        )
        if errors := answer.get("Errors"):
            raise PermissionError(f"{errors[0]['Key']} is not deleted: {errors[0]['Message']}")
