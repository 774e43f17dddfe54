"""A stored heatmap once more, in another version of OME-Zarr."""

from __future__ import annotations

import dataclasses

import numpy as np

from histoslide.errors import StoreError
from histoslide.storage.location import Location, as_location, is_remote, open_group, storage_errors
from histoslide.storage.lock import hold
from histoslide.storage.writing import refuse_existing, swap_name
from histoslide.storage.zarr_folder import is_there, put_in_place, remove
from histoslide.store.arrays import StoreArrays
from histoslide.store.layout import NgffVersion, lay_out, zarr_format
from histoslide.store.metadata import read_attribute, write_record
from histoslide.store.stored import Heatmap, open_heatmap
from histoslide.store.target import restore


def convert_heatmap(
    heat: Heatmap,
    path: Location | str,
    *,
    ngff: NgffVersion,
    overwrite: bool = False,
    packed: bool = False,
) -> Heatmap:
    """Write a heatmap once more, in another version of OME-Zarr. Nothing is scored.

    Args:
        heat: complete.
        path: of the new store.
        ngff: OME-Zarr version; 0.5 is Zarr v3, 0.4 is Zarr v2.
        overwrite: replace an existing heatmap; anything else is left alone.
        packed: few files instead of one a chunk (Zarr's sharding, which 0.4 does not have).

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: the heatmap is incomplete or damaged, ``path`` is something else than a
            heatmap, is the heatmap itself, or cannot be written.
    """
    path = as_location(path)
    if not heat.complete:
        raise StoreError(f"{heat.path} is incomplete: finish it before it is converted")
    if packed and ngff == "0.4":
        raise StoreError(f"{path}: OME-Zarr 0.4 cannot be packed: pass --ngff 0.5")
    try:
        with storage_errors(path), hold(path):
            restore(path)
            if is_there(path):
                refuse_existing(path, overwrite=overwrite)
                read_attribute(path)  # raises where it is not ours to replace
                if _same_place(path, heat.path):
                    raise StoreError(f"{path} is the heatmap itself: choose another --out")
            partial = swap_name(path, "partial")
            try:
                remove(partial)
                _copy(heat, partial, ngff, packed=packed)
                put_in_place(partial, path)
            finally:
                remove(partial)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    return open_heatmap(path)


def _same_place(path: Location, other: Location) -> bool:
    if is_remote(path) or is_remote(other):
        return str(path) == str(other)
    return path.samefile(other)


def _copy(heat: Heatmap, path: Location, ngff: NgffVersion, *, packed: bool) -> None:
    channels = heat.shown_classes
    for name in channels:
        heat.probability(name)  # raises where the store is damaged
    extras = {extra: heat.extra_array(extra) for extra in heat.record.mode.value.extras}
    root = open_group(path, "w", zarr_format=zarr_format(ngff))
    lay_out(
        root,
        heat.grid,
        channels,
        heat.record.slide.name,
        ngff,
        extras=tuple(extras),
        packed=packed,
    )
    arrays = StoreArrays(root)
    for extra, copied in arrays.extras.items():
        values = extras[extra]
        assert values is not None
        copied[...] = values
    arrays.fill(np.asarray(heat.array), heat.status)
    fingerprint = {**heat.record.fingerprint, "ngff": ngff}
    write_record(root, dataclasses.replace(heat.record, fingerprint=fingerprint))
