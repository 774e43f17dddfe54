"""Storing a heatmap: begun, gone on with after any interruption, and completed."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from histoslide.errors import LockedError, StoreError
from histoslide.grid.status import Status
from histoslide.scoring.lazy import LazyHeatmap
from histoslide.scoring.runners import Runner, ThreadRunner
from histoslide.storage.location import Location, as_location, is_remote, storage_errors
from histoslide.storage.lock import StoreLock, hold, lock_path
from histoslide.storage.writing import swap_name
from histoslide.storage.zarr_folder import is_there, put_in_place, remove, write_objects
from histoslide.store.arrays import StoreArrays
from histoslide.store.blocks import reopened, run_blocks
from histoslide.store.layout import NgffVersion, lay_out, stored_classes, zarr_format
from histoslide.store.metadata import (
    first_record,
    read_record,
    refuse_other_settings,
    write_record,
)
from histoslide.store.record import CellCounts
from histoslide.store.stored import Heatmap, open_heatmap
from histoslide.store.target import choose_target
from histoslide.tissue.masks import UNREADABLE_OVERVIEW


def store_heatmap(
    lazy: LazyHeatmap,
    path: Location | str,
    *,
    ngff: NgffVersion = "0.5",
    overwrite: bool = False,
    retry_unreadable: bool = False,
    command: str | None = None,
    on_block: Callable[[int, int, int], None] | None = None,
    runner: Runner | None = None,
) -> Heatmap:
    """Compute a heatmap into a store, or finish one that was begun with the same settings.

    A complete store of the same settings is returned as it is. With ``overwrite`` the new store
    is built beside the old one, which is replaced only when the new one is whole.

    Args:
        lazy: from ``histoslide.scoring.lazy.make_heatmap``.
        path: of the store, conventionally ending in ``.zarr``.
        ngff: OME-Zarr version; 0.5 is Zarr v3, 0.4 is Zarr v2.
        overwrite: replace a store made with other settings.
        retry_unreadable: score the blocks again in which cells could not be read.
        command: command line for the metadata, without absolute paths.
        on_block: called after each block with (blocks done, blocks in all, cells scored so far).
        runner: computes the blocks; None for threads of this process.

    Raises:
        SettingsDifferError: the store was begun with other settings and ``overwrite`` is false.
        LockedError: another run is writing it.
        StoreError: ``path`` is something else, or cannot be written (read-only, disk full).
    """
    path = as_location(path)
    target: Location | None = None
    try:
        with storage_errors(path):
            heat = None if overwrite else _finished(lazy, path, ngff)
        counts = None if heat is None else heat.record.counts
        if heat is not None and not (retry_unreadable and counts and counts.unreadable):
            return heat
        with storage_errors(path), hold(path) as lock:
            target = choose_target(lazy, path, ngff, overwrite=overwrite)
            if not is_there(target):
                _create(lazy, target, ngff, command)
            elif retry_unreadable:
                _reopen(target)
            if not read_record(target).complete:
                chosen = runner or ThreadRunner.fitted(lazy.device)
                run_blocks(lazy, target, _checking(lock, on_block), chosen, lock.guard)
                lock.check()
                _complete(target)
            if target != path:
                lock.check()
                put_in_place(target, path)
    except OSError as error:
        if error.errno is None:
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        kept = "; blocks already written are kept, run the same command again when that is mended"
        begun = target is not None and is_there(target)
        raise StoreError(f"{path} cannot be written: {reason}{kept if begun else ''}") from error
    return open_heatmap(path)


def plan_begun_with(lazy: LazyHeatmap, path: Location) -> NDArray[np.uint8] | None:
    """The plan that a store was begun with, where another is no other wish; else None.

    Parts of a slide's overview that cannot be read count as tissue. When they can be read another
    time, or cannot, the mask differs without anybody having asked for another.

    Args:
        lazy: as it is planned now.
        path: of the store, which is there.

    Returns:
        For ``make_heatmap``: ``PENDING``, ``BACKGROUND`` or ``EXCLUDED``, shape ``grid.shape``.

    Raises:
        StoreError: what is there is not a heatmap.
    """
    masks = (lazy.mask, read_record(path).mask)
    if not any(UNREADABLE_OVERVIEW in mask.settings for mask in masks):
        return None
    status = open_heatmap(path, allow_incomplete=True).status
    if status.shape != lazy.plan.shape:
        return None
    tried = (status == Status.SCORED) | (status == Status.UNREADABLE)
    return np.where(tried, Status.PENDING, status).astype(np.uint8)


def _finished(lazy: LazyHeatmap, path: Location, ngff: NgffVersion) -> Heatmap | None:
    """A store that needs nothing more; looked at without the lock, which needs leave to write."""
    if not is_there(path) or swap_name(path, "old").exists():
        return None
    refuse_other_settings(lazy, path, ngff)
    heat = open_heatmap(path, allow_incomplete=True)
    if not heat.complete:
        return None
    if lock_path(path).exists():  # of a run killed at its very end, or of one that replaces this
        with suppress(LockedError, OSError), hold(path):
            pass
    return heat


def _reopen(path: Location) -> None:
    """Make the blocks of a store pending that hold unreadable cells.

    Raises:
        StoreError: the store is packed, and blocks cannot be written one by one.
    """
    arrays = StoreArrays.open(path, "r+")
    stored = arrays.status()
    status = np.asarray(stored[:])
    if not (status == Status.UNREADABLE).any():
        return
    if stored.shards is not None:
        raise StoreError(f"{path} is packed and cannot be changed: score into another --out")
    record = read_record(path)
    # First: a run that is killed from here on has left a heatmap that is to be finished.
    write_record(arrays.group, dataclasses.replace(record, complete=False, counts=None))
    stored[...] = reopened(status, record.grid.block_cells)


def _checking(
    lock: StoreLock, on_block: Callable[[int, int, int], None] | None
) -> Callable[[int, int, int], None]:
    """Stop a run that has lost its lock after the block it was at."""

    def report(done: int, total: int, scored: int) -> None:
        lock.check()
        if on_block is not None:
            on_block(done, total, scored)

    return report


def _create(lazy: LazyHeatmap, path: Location, ngff: NgffVersion, command: str | None) -> None:
    """Lay out an empty store; it appears under its name only once its metadata are whole."""
    if is_remote(path):
        objects: dict[str, Buffer] = {}
        _begin(lazy, MemoryStore(objects), ngff, command)
        write_objects(path, {key: value.to_bytes() for key, value in objects.items()})
        return
    partial = swap_name(path, "partial")
    remove(partial)
    _begin(lazy, LocalStore(partial), ngff, command)
    partial.replace(path)


def _begin(lazy: LazyHeatmap, store: Store, ngff: NgffVersion, command: str | None) -> None:
    root = zarr.open_group(store, mode="w", zarr_format=zarr_format(ngff))
    lay_out(
        root,
        lazy.grid,
        stored_classes(lazy.spec.classes, lazy.spec.tumour_class),
        lazy.slide.name,
        ngff,
        extras=lazy.mode.extras,
    )
    write_record(root, first_record(lazy, ngff, command))


def _complete(path: Location) -> None:
    if not is_remote(path):
        for partial in path.rglob("*.partial"):  # what a killed run was writing
            partial.unlink(missing_ok=True)
    arrays = StoreArrays.open(path, "r+")
    status = np.asarray(arrays.status()[:])
    arrays.fill(np.asarray(arrays.probability()[:]), status, first=1)
    done = dataclasses.replace(read_record(path), counts=CellCounts.of(status), complete=True)
    write_record(arrays.group, done)
