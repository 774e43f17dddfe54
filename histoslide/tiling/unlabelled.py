"""Slides among the patches without labels: cut into tiles first."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from histoslide.errors import DataError
from histoslide.pipeline.options import DEFAULT_TISSUE, TissueOptions
from histoslide.slide import is_slide_file
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.tiling.slide import tile_slide

Watch = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]
"""Shows how one slide is gone through."""


def _unwatched(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def cut_slides(
    paths: Sequence[Path],
    out: Path,
    *,
    input_px: int,
    label_px: int,
    mpp: float,
    tissue: TissueOptions = DEFAULT_TISSUE,
    access: SlideAccess = DEFAULT_ACCESS,
    watch: Watch = _unwatched,
) -> tuple[Path, ...]:
    """Cut the slides among some paths into tiles side by side; what was cut before is kept.

    Args:
        paths: slide files, and anything else, which is passed on as it is.
        out: folder that gets one folder of tiles a slide, as ``histoslide tile`` writes it.
        input_px: side of a tile, in pixels of ``mpp``.
        label_px: side of its centre, which must be tissue.
        mpp: micrometres per pixel of the tiles.
        tissue: which part of the slides.
        access: how slides are opened.
        watch: makes of a slide's name a context of what is called with (tiles done, in all).

    Returns:
        The paths with the folder of tiles in place of each slide.

    Raises:
        HistoslideError: a slide cannot be read, records no resolution, or has no tissue; or two of
            the slides have one name; or several processes would cut the same slide.
    """
    slides = [path for path in paths if path.is_file() and is_slide_file(path)]
    if slides and os.environ.get("WORLD_SIZE", "1") != "1":
        raise DataError(
            f"{slides[0]} is a slide, which each of the processes would cut: cut it with "
            "histoslide tile, and pass the folder"
        )
    folders = {path: out / path.stem for path in slides}
    for path, folder in folders.items():
        if list(folders.values()).count(folder) > 1:
            raise DataError(f"two slides are called {path.stem}: cut them with histoslide tile")
        with watch(path.name) as on_tiles:
            tiles = tile_slide(
                path,
                folder,
                input_px=input_px,
                label_px=label_px,
                target_mpp=mpp,
                tissue=tissue,
                access=access,
                on_tiles=on_tiles,
            )
        if not tiles.tiles:
            raise DataError(f"{path.name} has no tissue to cut tiles from: leave it out")
    return tuple(folders.get(path, path) for path in paths)
