"""The data set that patches of all slides make: PCam's files, or a folder per class."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide import quantities
from histoslide.datasets.pcam_hdf5 import PCAM_CLASSES, split_files
from histoslide.render import contact_sheet
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import whole_file
from histoslide.tiling.labelled.label_rule import NORMAL, TUMOUR
from histoslide.tiling.labelled.patient_split import PARTS
from histoslide.tiling.labelled.planning import NO_LESION
from histoslide.tiling.labelled.record import PatchFormat
from histoslide.tiling.labelled.sampling import fair_shares
from histoslide.tiling.labelled.shard import Shard, read_pixels
from histoslide.tiling.labelled.slide_list import Part
from histoslide.tiling.writers import Hdf5Stack, save_tile

META_COLUMNS = (
    "name", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi", "patient", "centre",
    "lesion", "row", "col", "width_l0", "label_width_l0",
)  # fmt: skip
"""``coord_y`` and ``coord_x`` are the patch's upper left corner in level-0 pixels, as in PCam."""

SHEET_PATCHES = 60
"""On each sheet of samples."""

_AT_ONCE = 256
"""Patches in memory while they are copied."""


def apart(shards: Sequence[Shard], part_of: Mapping[str, Part]) -> list[NDArray[np.bool_]]:
    """Which patches of each slide are kept, so that equal ones never lie in two parts.

    Test keeps all; validation loses what test has, and training what either has.
    """
    kept = [np.ones(len(shard.digests), np.bool_) for shard in shards]
    taken: set[str] = set()
    for part in reversed(PARTS):
        mine = [i for i, s in enumerate(shards) if part_of[s.planned.slide.owner] == part]
        for i in mine:
            kept[i] = np.array([digest not in taken for digest in shards[i].digests], np.bool_)
        for i in mine:
            taken.update(shards[i].digests[kept[i]].tolist())
    return kept


def write_outputs(
    shards: Sequence[Shard],
    kept: Sequence[NDArray[np.bool_]],
    part_of: Mapping[str, Part],
    folder: Path,
    *,
    patch_format: PatchFormat,
) -> None:
    """Write pixels, labels and ``meta.csv`` of every part, and the sheets of samples.

    Args:
        shards: patches of every slide.
        kept: which of each.
        part_of: part of every patient.
        folder: to write into; pictures of an earlier try are replaced.
        patch_format: of the files.

    Raises:
        OSError: it cannot be written.
    """
    for part in PARTS:
        mine = [
            (shard, np.flatnonzero(keep))
            for shard, keep in zip(shards, kept, strict=True)
            if part_of[shard.planned.slide.owner] == part and keep.any()
        ]
        if patch_format == "pcam-hdf5":
            _write_hdf5(mine, folder, part)
        else:
            _write_pictures(mine, folder, part, patch_format)
    if patch_format != "pcam-hdf5":
        with _table(folder / "meta.csv") as write:
            for shard, keep in zip(shards, kept, strict=True):
                write(_meta(shard, np.flatnonzero(keep)))
    for label in (NORMAL, TUMOUR):
        _write_sheet(shards, kept, folder / f"samples-{PCAM_CLASSES[label]}.png", label)


def _write_hdf5(mine: Sequence[tuple[Shard, NDArray[np.int64]]], folder: Path, part: Part) -> None:
    pixels, targets = split_files(folder, part)
    meta = pixels.with_name(pixels.name.replace("_x.h5", "_meta.csv"))
    if not mine:
        for path in (pixels, targets, meta):
            path.unlink(missing_ok=True)
        return
    with Hdf5Stack(pixels, mine[0][0].planned.grid.input_px) as stack:
        for shard, chosen in mine:
            for start in range(0, len(chosen), _AT_ONCE):
                for patch in read_pixels(shard, chosen[start : start + _AT_ONCE]):
                    stack.append(patch)
    labels = np.concatenate([shard.planned.labels[chosen] for shard, chosen in mine])
    with whole_file(targets) as partial, h5py.File(partial, "w") as file:
        file["y"] = labels.astype(np.uint8).reshape(-1, 1, 1, 1)
    with _table(meta) as write:
        for shard, chosen in mine:
            write(_meta(shard, chosen))


def _write_pictures(
    mine: Sequence[tuple[Shard, NDArray[np.int64]]],
    folder: Path,
    part: Part,
    suffix: PatchFormat,
) -> None:
    shutil.rmtree(folder / part, ignore_errors=True)
    for label in (NORMAL, TUMOUR) if mine else ():
        (folder / part / PCAM_CLASSES[label]).mkdir(parents=True)
    for shard, chosen in mine:
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE]
            for index, patch in zip(some.tolist(), read_pixels(shard, some), strict=True):
                kind = PCAM_CLASSES[shard.planned.labels[index]]
                name = f"{patch_name(shard, index)}.{suffix}"
                save_tile(patch, folder / part / kind / name)


def patch_name(shard: Shard, index: int) -> str:
    """Slide and cell of a patch, unique in the data set."""
    row, col = shard.planned.cells[index].tolist()
    return f"{shard.planned.slide.path.name}_r{row:05d}_c{col:05d}"


@contextmanager
def _table(path: Path) -> Iterator[Callable[[Iterable[Iterable[object]]], None]]:
    """Write rows of ``META_COLUMNS``."""
    with (
        whole_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = TableWriter(file, lineterminator="\n")
        table.write([META_COLUMNS])
        yield table.write


def _meta(shard: Shard, chosen: NDArray[np.int64]) -> Iterator[list[object]]:
    planned, grid = shard.planned, shard.planned.grid
    whole = planned.only(chosen).boxes_l0(grid.input_px)
    anywhere = planned.truth.tumour_in(whole) > 0
    for i, index in enumerate(chosen.tolist()):
        lesion = int(planned.lesions[index])
        row, col = planned.cells[index].tolist()
        yield [
            patch_name(shard, index),
            f"{whole[i, 1]:.2f}",
            f"{whole[i, 0]:.2f}",
            bool(anywhere[i]),
            bool(planned.labels[index] == TUMOUR),
            planned.slide.path.name,
            planned.slide.owner,
            planned.slide.centre,
            "" if lesion == NO_LESION else lesion,
            row,
            col,
            f"{grid.input_px * grid.scale:.4f}",
            f"{grid.label_px * grid.scale:.4f}",
        ]


def _write_sheet(
    shards: Sequence[Shard], kept: Sequence[NDArray[np.bool_]], path: Path, label: int
) -> None:
    """Samples of one class, spread over the slides, each with a box about its centre."""
    each = [
        np.flatnonzero(keep & (shard.planned.labels == label))
        for shard, keep in zip(shards, kept, strict=True)
    ]
    path.unlink(missing_ok=True)
    samples: list[NDArray[np.uint8]] = []
    shares = fair_shares([len(some) for some in each], SHEET_PATCHES)
    for shard, some, share in zip(shards, each, shares, strict=True):
        if share:
            spread = np.unique(np.linspace(0, len(some) - 1, share).round().astype(np.int64))
            samples += list(read_pixels(shard, some[spread]))
    if samples:
        grid = shards[0].planned.grid
        count, slides = sum(map(len, each)), sum(share > 0 for share in shares)
        title = (
            f"{PCAM_CLASSES[label]}: {len(samples)} of {count:,} patches, from {slides:,} slides, "
            f"{quantities.resolution(grid.model_mpp)}\n"
            f"The box is the centre {grid.label_px} px that the label speaks of."
        )
        sheet = contact_sheet(samples, label_px=grid.label_px, title=title, mpp=grid.model_mpp)
        with whole_file(path) as partial:
            Image.fromarray(sheet).save(partial, "PNG")
