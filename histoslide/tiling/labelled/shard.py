"""The patches of one slide on disk, before they are put together with those of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from histoslide.errors import HistoslideError
from histoslide.machine.processors import usable_processors
from histoslide.slide.access import SlideAccess
from histoslide.slide.isolated.slide import MOST_WORKERS
from histoslide.storage.records import Count, from_json, to_json
from histoslide.storage.writing import whole_file
from histoslide.tiling.labelled.planning import PlannedPatches
from histoslide.tiling.planned import PlannedSlide
from histoslide.tiling.reading_ahead import WindowPlace, read_ahead
from histoslide.tiling.writers import Hdf5Stack


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What is said beside the pixels of a slide."""

    fingerprint: str
    """Of what was asked for."""
    indices: tuple[int, ...]
    """Which of the planned patches could be read, in the order of the pixels."""
    digests: tuple[str, ...]
    """SHA-1 of the raw RGB bytes of each."""
    unreadable: Count
    """How many could not."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The patches of one slide that could be read."""

    planned: PlannedPatches
    """Which they are; only those that could be read."""
    pixels: Path
    """HDF5 with the dataset ``x``, shape (n, input_px, input_px, 3)."""
    digests: NDArray[np.str_]
    """SHA-1 of the raw RGB bytes of each, shape (n,)."""
    unreadable: int
    """How many could not be read."""


def cut_shard(
    planned: PlannedPatches,
    folder: Path,
    access: SlideAccess,
    *,
    on_patches: Callable[[int], None] | None = None,
) -> Shard:
    """Read the patches of a slide, unless an earlier run has; each window is read once.

    Args:
        planned: the slide and its patches.
        folder: to keep them in.
        access: how the slide is opened.
        on_patches: called with how many were just read, or found unreadable.

    Raises:
        HistoslideError: the slide cannot be opened.
        OSError: the folder cannot be written.
    """
    name = planned.slide.path.name
    pixels, beside = folder / f"{name}_x.h5", folder / f"{name}.json"
    fingerprint = _fingerprint(planned)
    record = _there(pixels, beside, fingerprint)
    if record is None:
        beside.unlink(missing_ok=True)
        record = _read(planned, pixels, access, fingerprint, on_patches)
        with whole_file(beside) as partial:
            partial.write_text(to_json(record, indent=None), encoding="utf-8")
    elif on_patches is not None:
        on_patches(len(planned.cells))
    return Shard(
        planned=planned.only(np.array(record.indices, dtype=np.int64)),
        pixels=pixels,
        digests=np.array(record.digests, dtype=np.str_),
        unreadable=record.unreadable,
    )


def _there(pixels: Path, beside: Path, fingerprint: str) -> ShardRecord | None:
    try:
        record = from_json(beside.read_bytes(), ShardRecord, source=beside)
    except (OSError, HistoslideError):
        return None
    return record if record.fingerprint == fingerprint and pixels.exists() else None


def _read(
    planned: PlannedPatches,
    pixels: Path,
    access: SlideAccess,
    fingerprint: str,
    on_patches: Callable[[int], None] | None,
) -> ShardRecord:
    wanted = np.zeros(planned.grid.shape, np.bool_)
    wanted[tuple(planned.cells.T)] = True
    slide = PlannedSlide(
        path=planned.slide.path, mpp=planned.slide.mpp, grid=planned.grid, wanted=wanted
    )
    index_of = {(row, col): i for i, (row, col) in enumerate(planned.cells.tolist())}
    places = [WindowPlace(slide=0, cells=cells) for cells in slide.windows]
    threads = min(MOST_WORKERS, usable_processors())
    indices: list[int] = []
    digests: list[str] = []
    unreadable = 0
    with ExitStack() as stack:
        writer = stack.enter_context(Hdf5Stack(pixels, planned.grid.input_px))
        windows = read_ahead([slide], places, access, threads=threads)
        for window in windows:
            for tile in window.tiles:
                patch = np.ascontiguousarray(tile.pixels.transpose(1, 2, 0))
                writer.append(patch)
                indices.append(index_of[tile.row, tile.col])
                digests.append(hashlib.sha1(patch.tobytes(), usedforsecurity=False).hexdigest())
            unreadable += window.unreadable
            if on_patches is not None:
                on_patches(len(window.tiles) + window.unreadable)
    return ShardRecord(
        fingerprint=fingerprint,
        indices=tuple(indices),
        digests=tuple(digests),
        unreadable=unreadable,
    )


def _fingerprint(planned: PlannedPatches) -> str:
    """Of all that decides the pixels and their labels."""
    grid = planned.grid
    digest = hashlib.sha256()
    digest.update(
        repr(
            (
                planned.quickhash, grid.slide_mpp.value, grid.model_mpp, grid.input_px,
                grid.label_px, grid.stride_px, planned.annotations_sha256,
            )
        ).encode()
    )  # fmt: skip
    for array in (planned.cells, planned.labels, planned.lesions):
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_pixels(shard: Shard, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some patches of a shard, shape (k, input_px, input_px, 3); ``chosen`` ascends."""
    with h5py.File(shard.pixels, "r") as file:
        return np.asarray(file["x"][chosen])
