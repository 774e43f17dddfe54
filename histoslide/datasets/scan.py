"""Every patch read once: what its pixels hash to, how large it is, and whether it can be read."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.images import UnlabelledFiles
from histoslide.datasets.patches import ImageFiles, Joined, UnlabelledPatches, WithoutLabels
from histoslide.datasets.pcam_hdf5 import Hdf5Patches, UnlabelledHdf5
from histoslide.errors import DataError
from histoslide.machine.cache_folder import cache_folder, key_of
from histoslide.machine.processors import usable_processors
from histoslide.storage.writing import whole_file

logger = logging.getLogger(__name__)

OnPatches = Callable[[int, int], None]
"""Called with (patches read, patches in all)."""

_TASK_PATCHES = 64
_MOST_THREADS = 16
_DIGEST_BYTES = 20  # SHA-1


@dataclass(frozen=True)
class Scan:
    """What reading all patches of a set has shown."""

    digests: NDArray[np.uint8]
    """SHA-1 of the raw RGB bytes of each patch, shape (n, 20); zeros where it is unreadable."""
    sizes_px: NDArray[np.int64]
    """Height and width of each patch, shape (n, 2); zeros where it is unreadable."""

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Which patches could be decoded, shape (n,)."""
        return self.sizes_px[:, 0] > 0


def scan_patches(
    patches: UnlabelledPatches,
    *,
    cache: Path | None = None,
    fresh: bool = False,
    on_patches: OnPatches | None = None,
) -> Scan:
    """Read every patch with a pool of threads, or recall what reading the same files has shown.

    What was unreadable is tried again each time.

    Args:
        patches: any set.
        cache: folder that keeps the result, by the names, sizes and times of change of the files;
            None for the user's.
        fresh: read even what is kept.
        on_patches: called while reading.
    """
    if isinstance(patches, Joined):
        return _scan_joined(patches, cache=cache, fresh=fresh, on_patches=on_patches)
    kept = None if (key := _key(patches)) is None else cache_folder(cache) / "scans" / f"{key}.npz"
    scan = None if kept is None or fresh else _recall(kept, len(patches))
    if scan is None:
        scan = Scan(
            np.zeros((len(patches), _DIGEST_BYTES), np.uint8), np.zeros((len(patches), 2), np.int64)
        )
    unread = np.flatnonzero(~scan.readable)
    if len(unread):
        logger.info("reading %d patches to see what each holds", len(unread))
        _read(patches, unread, scan, on_patches)
        if kept is not None:
            _keep(kept, scan)
    return scan


def pixel_digests(
    patches: UnlabelledPatches,
    *,
    cache: Path | None = None,
    on_patches: OnPatches | None = None,
) -> NDArray[np.uint8]:
    """SHA-1 of the pixels of each patch, shape (n, 20), taken from its name where that is it."""
    if isinstance(patches, Joined):
        done, total, found = 0, len(patches), []
        for part in patches.parts:
            step = _shifted(on_patches, done, total)
            found.append(pixel_digests(part, cache=cache, on_patches=step))
            done += len(part)
        return np.concatenate(found)
    if names_are_digests(patches):
        raw = bytes.fromhex("".join(patches.names))
        return np.frombuffer(raw, np.uint8).reshape(-1, _DIGEST_BYTES)
    return scan_patches(patches, cache=cache, on_patches=on_patches).digests


def names_are_digests(patches: UnlabelledPatches) -> bool:
    """Whether the names of all patches are the SHA-1 of their pixels, as the ids of Kaggle are."""
    return isinstance(patches, ImageFiles | UnlabelledFiles) and patches.named_by_pixels


def group_equal(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """A number for each patch that patches of equal pixels share, shape (n,)."""
    rows = np.ascontiguousarray(digests).view(f"S{_DIGEST_BYTES}").reshape(-1)
    return np.unique(rows, return_inverse=True)[1].astype(np.int64)


def _scan_joined(
    patches: Joined, *, cache: Path | None, fresh: bool, on_patches: OnPatches | None
) -> Scan:
    done, total, scans = 0, len(patches), []
    for part in patches.parts:
        step = _shifted(on_patches, done, total)
        scans.append(scan_patches(part, cache=cache, fresh=fresh, on_patches=step))
        done += len(part)
    return Scan(
        np.concatenate([scan.digests for scan in scans]),
        np.concatenate([scan.sizes_px for scan in scans]),
    )


def _shifted(on_patches: OnPatches | None, done: int, total: int) -> OnPatches | None:
    if on_patches is None:
        return None
    return lambda here, _: on_patches(done + here, total)


def _read(
    patches: UnlabelledPatches,
    indices: NDArray[np.int64],
    scan: Scan,
    on_patches: OnPatches | None,
) -> None:
    def read(task: NDArray[np.int64]) -> int:
        for index in task.tolist():
            try:
                pixels = patches.read(index)
            except DataError as error:
                logger.debug("%s", error)
                continue
            digest = hashlib.sha1(pixels.tobytes(), usedforsecurity=False).digest()
            scan.digests[index] = np.frombuffer(digest, np.uint8)
            scan.sizes_px[index] = pixels.shape[:2]
        return len(task)

    tasks = [indices[i : i + _TASK_PATCHES] for i in range(0, len(indices), _TASK_PATCHES)]
    pool = ThreadPoolExecutor(min(_MOST_THREADS, usable_processors()))
    done = len(patches) - len(indices)
    try:
        for count in pool.map(read, tasks):
            done += count
            if on_patches is not None:
                on_patches(done, len(patches))
    finally:
        pool.shutdown(cancel_futures=True)


def _key(patches: UnlabelledPatches) -> str | None:
    match patches:
        case WithoutLabels():
            return _key(patches.source)
        case ImageFiles() | UnlabelledFiles():
            paths = patches.paths
        case Hdf5Patches() | UnlabelledHdf5():
            paths = (patches.pixels.path,)
        case _:
            return None
    facts: list[str] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            return None  # reading names it
        facts += [os.path.abspath(path), str(stat.st_size), str(stat.st_mtime_ns)]  # noqa: PTH100
    return key_of(*facts)


def _recall(path: Path, count: int) -> Scan | None:
    try:
        with np.load(path) as kept:
            scan = Scan(kept["digests"], kept["sizes_px"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
    fits = scan.digests.shape == (count, _DIGEST_BYTES) and scan.sizes_px.shape == (count, 2)
    return scan if fits else None


def _keep(path: Path, scan: Scan) -> None:
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, digests=scan.digests, sizes_px=scan.sizes_px)
    except OSError as error:
        # Nothing is lost but time: the patches are read again next time.
        logger.warning("%s cannot be kept (%s): choose --cache", path, error.strerror or error)
