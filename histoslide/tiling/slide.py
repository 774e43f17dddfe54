"""A slide's tissue cut into tiles on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Mpp
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.pipeline.options import DEFAULT_TISSUE, TissueOptions
from histoslide.scoring.lazy import make_grid, plan_cells
from histoslide.slide import Slide
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.storage.location import Location, as_location
from histoslide.tiling.extraction import TileSet, extract_tiles
from histoslide.tiling.planned import tile_spec
from histoslide.tiling.record import TileSettings
from histoslide.tiling.writers import TileFormat


def tile_slide(
    path: Location | str,
    out: Path | str,
    *,
    input_px: int,
    label_px: int,
    target_mpp: float,
    stride_px: int | None = None,
    tissue: TissueOptions = DEFAULT_TISSUE,
    tile_format: TileFormat = "png",
    mpp: Mpp | None = None,
    overwrite: bool = False,
    access: SlideAccess = DEFAULT_ACCESS,
    on_tiles: Callable[[int, int], None] | None = None,
) -> TileSet:
    """Cut a slide's tissue into tiles on disk; see ``histoslide.tiling.extraction.extract_tiles``.

    Args:
        path: slide file.
        out: folder to write.
        input_px: side of a tile, in pixels of ``target_mpp``.
        label_px: side of its label footprint, which must be tissue.
        target_mpp: micrometres per pixel of the tiles.
        stride_px: distance between tiles; None for tiles side by side.
        tissue: which part of the slide.
        tile_format: see ``histoslide.tiling.extraction.extract_tiles``.
        mpp: resolution that replaces what the slide records.
        overwrite: replace an existing folder of tiles.
        access: how the slide is opened.
        on_tiles: called with (tiles done, tiles in all).

    Raises:
        HistoslideError: the slide, a mask or the output cannot be used.
    """
    path = as_location(path)
    out = Path(out)
    spec = tile_spec(input_px=input_px, label_px=label_px, mpp=target_mpp)
    with access.open(path, mpp=mpp) as slide:
        grid = make_grid(slide, spec, stride_px=input_px if stride_px is None else stride_px)
        mask, roi = tissue.find(slide)
        plan = plan_cells(grid, mask, threshold=tissue.threshold, roi=roi)
        wanted = plan == Status.PENDING
        return extract_tiles(
            slide,
            grid,
            wanted,
            mask.fractions(grid, side_px=label_px),
            out,
            settings=_settings(slide, grid, tissue, wanted, tile_format),
            overwrite=overwrite,
            on_tiles=on_tiles,
        )


def _settings(
    slide: Slide,
    grid: TileGrid,
    tissue: TissueOptions,
    wanted: NDArray[np.bool_],
    tile_format: TileFormat,
) -> TileSettings:
    return TileSettings(
        slide=slide.name,
        quickhash=slide.quickhash,
        slide_mpp=grid.slide_mpp.value,
        target_mpp=grid.model_mpp,
        input_px=grid.input_px,
        label_px=grid.label_px,
        stride_px=grid.stride_px,
        tissue=tissue.method if tissue.mask is None else tissue.mask.name,
        tissue_threshold=tissue.threshold,
        roi=None if tissue.roi is None else tissue.roi.name,
        format=tile_format,
        cells_sha256=hashlib.sha256(wanted.tobytes()).hexdigest(),
    )
