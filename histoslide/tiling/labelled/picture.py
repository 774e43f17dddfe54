"""A picture of a slide with its annotations and the places where patches were taken."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from histoslide.datasets.pcam_hdf5 import PCAM_CLASSES
from histoslide.render import draw_patches
from histoslide.render.png import DEFAULT_OVERLAY_PX
from histoslide.slide.access import SlideAccess
from histoslide.storage.writing import whole_file
from histoslide.tiling.labelled.shard import Shard


def write_picture(shard: Shard, path: Path, access: SlideAccess) -> None:
    """Draw the centres of a slide's patches, by class, over its thumbnail and its annotations.

    Args:
        shard: the patches.
        path: PNG to write.
        access: how the slide is opened.

    Raises:
        HistoslideError: the slide cannot be read.
        OSError: the file cannot be written.
    """
    planned = shard.planned
    grid, name = planned.grid, planned.slide.path.name
    boxes = planned.boxes_l0(grid.label_px)
    by_class = {kind: boxes[planned.labels == label] for label, kind in enumerate(PCAM_CLASSES)}
    title = (
        f"{name}\neach square is the centre of a patch, {grid.label_px} px of {grid.model_mpp:g} µm"
    )
    with access.open(planned.slide.path, mpp=planned.slide.mpp) as slide:
        image = draw_patches(
            slide, grid.size_l0, grid.slide_mpp.value, by_class, planned.truth.lesions(),
            title=title, longest_px=DEFAULT_OVERLAY_PX,
        )  # fmt: skip
    with whole_file(path) as partial:
        Image.fromarray(image).save(partial, "PNG", compress_level=1)
