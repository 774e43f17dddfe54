"""A pyramidal OME-TIFF, which QuPath, Fiji and whatever reads Bio-Formats open."""

from __future__ import annotations

import hashlib
import uuid

import numpy as np
import tifffile

from histoslide.errors import HistoslideError
from histoslide.lesions import NOTICE
from histoslide.storage.location import Location, as_location
from histoslide.storage.writing import new_file
from histoslide.store import Heatmap, halve_probability, level_shapes

_TILE_PX = 256
"""Side of a TIFF tile."""


def write_ome_tiff(heatmap: Heatmap, path: Location | str, *, overwrite: bool = False) -> None:
    """Write the probabilities, one pixel a cell, with their size in micrometres.

    float32, NaN where nothing was scored; a channel a class for more than two. Coarser levels are
    the heatmap's own: the maximum that ignores NaN. Equal heatmaps make equal files.

    Args:
        heatmap: stored.
        path: file to write, ending in ``.ome.tif`` or ``.ome.tiff``, by which readers know it.
        overwrite: replace an existing file.

    Raises:
        HistoslideError: ``path`` has another ending.
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: it cannot be written, or the heatmap is damaged.
    """
    path = as_location(path)
    if not path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        raise HistoslideError(
            f"{path.name} must end in .ome.tif, or viewers do not know what it is"
        )
    channels, um = heatmap.shown_classes, heatmap.grid.cell_um
    values = np.stack([heatmap.probability(name) for name in channels])
    levels = len(level_shapes(heatmap.grid.shape))
    metadata = {
        "axes": "CYX",
        "Name": heatmap.record.slide.name,
        "Description": f"P({', '.join(channels)}) by {heatmap.judged_by}. {NOTICE}",
        "PhysicalSizeX": um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": list(channels)},
    }
    # Without one, tifffile makes it of the time: equal heatmaps should be equal files.
    content = hashlib.sha256(values.tobytes() + repr(metadata).encode())
    metadata["UUID"] = str(uuid.uuid5(uuid.NAMESPACE_OID, content.hexdigest()))
    with (
        new_file(path, overwrite=overwrite) as partial,
        tifffile.TiffWriter(partial, ome=True) as tiff,
    ):
        for level in range(levels):
            values = halve_probability(values) if level else values
            per_cm = 1e4 / (um * 2**level)
            tiff.write(
                values,
                photometric="minisblack",
                tile=(_TILE_PX, _TILE_PX),
                compression="adobe_deflate",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                subifds=0 if level else levels - 1,
                metadata=None if level else metadata,
            )
