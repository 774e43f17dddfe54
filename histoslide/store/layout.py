"""The arrays of a heat.zarr, and what OME-Zarr wants to know of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import zarr

from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.scoring.mode import EXTRA_TYPES, Extra
from histoslide.store.arrays import (
    LABEL,
    LABELS,
    PACKED_BLOCKS,
    STATUS,
    extra_name,
    probability_name,
    status_name,
)
from histoslide.store.ngff import image_metadata, label_metadata, labels_metadata
from histoslide.store.pyramid import level_shapes

NgffVersion = Literal["0.5", "0.4"]


def zarr_format(ngff: NgffVersion) -> Literal[2, 3]:
    """The version of Zarr that a version of OME-Zarr is written in."""
    return 3 if ngff == "0.5" else 2


def stored_classes(classes: tuple[str, ...], tumour_class: str | None) -> tuple[str, ...]:
    """The classes that are stored: the tumour class (or else the second) of two, else all."""
    if len(classes) > 2:
        return classes
    return (tumour_class if tumour_class is not None else classes[1],)


def array_names(levels: int, extras: Sequence[Extra] = ()) -> list[str]:
    """Names of all arrays of a store."""
    names = [name(level) for level in range(levels) for name in (probability_name, status_name)]
    return names + [extra_name(extra) for extra in extras]


def metadata_name(node: str, *, array: bool, v3: bool) -> str:
    """Name of the file that says what an array or group is.

    Args:
        node: name of the array or group; empty for the root.
        array: whether it is an array.
        v3: version of Zarr; otherwise 2.
    """
    kind = ".zarray" if array else ".zgroup"
    return f"{node}/{'zarr.json' if v3 else kind}".removeprefix("/")


def chunk_name(array: str, chunk: tuple[int, ...], *, v3: bool) -> str:
    """Name of the file of a chunk, or in a packed store of a shard."""
    return "/".join([array, *(["c"] if v3 else []), *map(str, chunk)])


def lay_out(
    root: zarr.Group,
    grid: TileGrid,
    channels: tuple[str, ...],
    name: str,
    ngff: NgffVersion,
    *,
    extras: Sequence[Extra] = (),
    packed: bool = False,
) -> None:
    """Make the arrays of a store, all pending, and what OME-Zarr wants to know of them."""
    shapes = level_shapes(grid.shape)
    for level, shape in enumerate(shapes):
        lead = (len(channels),) if len(channels) > 1 else ()
        _create_array(
            root,
            probability_name(level),
            (*lead, *shape),
            grid.block_cells,
            math.nan,
            packed=packed,
        )
        _create_array(
            root,
            status_name(level),
            shape,
            grid.block_cells,
            int(Status.PENDING),
            packed=packed,
        )
    root.attrs.update(image_metadata(name, grid.cell_um, len(shapes), channels, ngff))
    for extra in extras:
        fill = math.nan if EXTRA_TYPES[extra].kind == "f" else 0
        _create_array(root, extra_name(extra), grid.shape, grid.block_cells, fill, packed=packed)
        root[extra].attrs.update(image_metadata(f"{name} {extra}", grid.cell_um, 1, (extra,), ngff))
    root[LABELS].attrs.update(labels_metadata((LABEL,), ngff))
    root[STATUS].attrs.update(label_metadata(LABEL, grid.cell_um, len(shapes), ngff))


def _create_array(
    root: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    block_cells: int,
    fill: float,
    *,
    packed: bool,
) -> None:
    """An array of one chunk a block: float32 where the fill is NaN, else uint8."""
    packed_cells = block_cells * PACKED_BLOCKS
    v3 = root.metadata.zarr_format == 3
    root.create_array(
        name,
        shape=shape,
        chunks=(*shape[:-2], block_cells, block_cells),
        shards=(*shape[:-2], packed_cells, packed_cells) if packed else None,
        dtype="float32" if math.isnan(fill) else "uint8",
        fill_value=fill,
        dimension_names=["c", "y", "x"][-len(shape) :] if v3 else None,
        chunk_key_encoding={"name": "default", "separator": "/"}
        if v3
        else {"name": "v2", "separator": "/"},
    )
