"""Where a heatmap is written: in its place, or beside the one that it is to replace."""

from __future__ import annotations

from histoslide.scoring.lazy import LazyHeatmap
from histoslide.storage.location import Location, is_remote
from histoslide.storage.writing import restore_swap, swap_name
from histoslide.storage.zarr_folder import has_root, is_there, put_in_place, remove
from histoslide.store.layout import NgffVersion
from histoslide.store.metadata import (
    difference,
    is_ours,
    read_attribute,
    read_record,
    refuse_other_settings,
)


def choose_target(
    lazy: LazyHeatmap, path: Location, ngff: NgffVersion, *, overwrite: bool
) -> Location:
    """Where to write: the store itself, or beside it where one is to be replaced."""
    replaced = restore(path)
    if not is_there(path):
        return path
    if replaced and not difference(lazy, path, ngff):
        return path  # killed after the new one had taken the old one's place
    if not overwrite:
        refuse_other_settings(lazy, path, ngff)
        return path
    if is_ours(lazy, path, ngff) and not read_record(path).complete:
        return path
    new = swap_name(path, "new")
    if is_there(new) and not is_ours(lazy, new, ngff):
        remove(new)
    return new


def restore(path: Location) -> bool:
    """Finish or undo a replacement that was killed, and say whether the new one is in place."""
    if not is_remote(path):
        return restore_swap(path)
    replaced = False
    for new in (swap_name(path, "new"), swap_name(path, "partial")):
        if not has_root(new):
            remove(new)
        elif not has_root(path) and read_attribute(new).get("complete") is True:
            put_in_place(new, path)
            replaced = True
    return replaced
