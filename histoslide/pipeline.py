"""The story: what happens to a slide from its file to its heatmap and picture."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from histoslide.errors import HistoslideError, ResolutionUnknownError, StoreError
from histoslide.geometry import Mpp
from histoslide.grid import TileGrid
from histoslide.heatmap import (
    DEFAULT_TISSUE_THRESHOLD,
    make_grid,
    make_heatmap,
    plan_cells,
)
from histoslide.model import Model, ModelSpec
from histoslide.outputs import refuse_existing, whole_file
from histoslide.render import (
    DEFAULT_OVERLAY_PX,
    DEFAULT_THRESHOLD,
    draw_mask,
    draw_overlay,
    read_png_label,
    save_png,
)
from histoslide.scoring import Status
from histoslide.slide import Slide, open_slide
from histoslide.store import NgffVersion, store_heatmap
from histoslide.tileset import TileFormat, TileSet, extract_tiles
from histoslide.tissue import METHODS, TissueMask, find_tissue, read_mask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TissueOptions:
    """Which part of a slide is worked on."""

    method: str = "otsu"
    """A key of ``histoslide.tissue.METHODS``."""
    threshold: float = DEFAULT_TISSUE_THRESHOLD
    """Part of the label footprint that must be tissue, 0-1."""
    mask: Path | None = None
    """Mask file (PNG or GeoJSON) instead of a method."""
    roi: Path | None = None
    """Region of interest (PNG or GeoJSON); everything else is excluded."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise HistoslideError(
                f"unknown tissue method {self.method!r}: choose from {', '.join(METHODS)}"
            )
        if not 0 <= self.threshold <= 1:
            raise HistoslideError(f"the tissue threshold must lie in 0-1, not {self.threshold}")

    def find(self, slide: Slide) -> tuple[TissueMask, TissueMask | None]:
        """The slide's tissue mask and region of interest.

        Raises:
            MaskError: a file cannot be used.
            ResolutionUnknownError: the slide's resolution is not known.
        """
        roi = None if self.roi is None else read_mask(self.roi, slide)
        if self.mask is not None:
            return read_mask(self.mask, slide), roi
        return find_tissue(slide, METHODS[self.method]), roi


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How slides are scored."""

    stride_px: int | None = None
    """Side of a cell in model pixels; None for the model's label footprint."""
    tissue: TissueOptions = TissueOptions()
    """Which part of the slide."""
    ngff: NgffVersion = "0.5"
    """OME-Zarr version."""
    overlay: bool = True
    """Also draw a PNG beside the heatmap."""
    overlay_px: int = DEFAULT_OVERLAY_PX
    """Longest side of the slide in it."""
    overlay_threshold: float = DEFAULT_THRESHOLD
    """Probability that is outlined in it."""
    mask_png: bool = False
    """Also draw mask and grid, before scoring."""
    overwrite: bool = False
    """Replace outputs that exist."""
    command: str | None = None
    """Command line for the metadata, without absolute paths."""


SlideState = Literal["done", "partly unreadable", "failed"]


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """What became of one slide."""

    slide: str
    """File name."""
    state: SlideState
    """``partly unreadable``: scored where it could be read."""
    output: str | None = None
    """Name of the heat.zarr."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Cells by status."""
    positive: int | None = None
    """Cells at or above the threshold, or None where the slide failed."""
    highest: float | None = None
    """Highest probability, or None where nothing was scored."""
    warnings: tuple[str, ...] = ()
    """What a person should know before trusting the heatmap."""
    seconds: float = 0.0
    """Wall time of this run."""
    error: str | None = None
    """Why it failed."""
    resolution_unknown: bool = False
    """It failed for want of a resolution."""


Progress = Callable[[int, int, int], None]


def score_slide(
    path: Path,
    out: Path,
    model: Model,
    options: ScoreOptions,
    *,
    mpp: Mpp | None = None,
    on_block: Progress | None = None,
) -> SlideResult:
    """Score a slide into a heatmap and draw its overlay beside it.

    Running it again finishes what was begun; what is complete is left alone.

    Args:
        path: slide file.
        out: heat.zarr to write; the overlay takes its name with ``.png``.
        model: to score with.
        options: how.
        mpp: resolution that replaces what the slide records.
        on_block: called with (blocks done, blocks in all, cells scored).

    Raises:
        HistoslideError: the slide, a mask or the output cannot be used.
    """
    started = time.monotonic()
    picture, mask_picture = out.with_suffix(".png"), out.with_name(f"{out.stem}-mask.png")
    if not out.exists():  # pictures beside a heatmap are its own, any other is somebody else's
        for path_, drawn in ((picture, options.overlay), (mask_picture, options.mask_png)):
            if drawn:
                refuse_existing(path_, overwrite=options.overwrite)
    with open_slide(path, mpp=mpp) as slide:
        grid = make_grid(slide, model.spec, stride_px=options.stride_px)
        tissue, roi = options.tissue.find(slide)
        lazy = make_heatmap(
            slide,
            model,
            stride_px=options.stride_px,
            tissue=tissue,
            tissue_threshold=options.tissue.threshold,
            roi=roi,
        )
        if options.mask_png:
            drawing = draw_mask(slide, tissue, grid, lazy.plan, longest_px=options.overlay_px)
            save_png(drawing.image, mask_picture, overwrite=True)
        if not (lazy.plan == Status.PENDING).any():
            logger.warning("%s: no tissue found, nothing to score", slide.name)
        heat = store_heatmap(
            lazy,
            out,
            ngff=options.ngff,
            overwrite=options.overwrite,
            command=options.command,
            on_block=on_block,
        )
        counts = heat.metadata["counts"]
        label = f"threshold {options.overlay_threshold:g}, {options.overlay_px} px, {heat.id}"
        if options.overlay and read_png_label(picture) != label:
            overlay = draw_overlay(
                heat,
                slide,
                longest_px=options.overlay_px,
                threshold=options.overlay_threshold,
                class_name=None if heat.tumour_class else heat.classes[-1],
            )
            save_png(overlay.image, picture, overwrite=True, label=label)
    shown = heat.probability(None if heat.tumour_class else heat.classes[-1])
    scored = np.isfinite(shown)
    return SlideResult(
        slide=path.name,
        state="partly unreadable" if counts["unreadable"] else "done",
        output=out.name,
        counts=counts,
        positive=int((shown[scored] >= options.overlay_threshold).sum()),
        highest=float(shown[scored].max()) if scored.any() else None,
        warnings=tuple(heat.metadata["mask"]["warnings"]),
        seconds=time.monotonic() - started,
    )


def score_slides(
    paths: Sequence[Path],
    out: Path,
    model: Model,
    options: ScoreOptions,
    *,
    mpp: Mpp | None = None,
    mpp_by_name: Mapping[str, Mpp] | None = None,
    on_slide: Callable[[int, int, str], Progress | None] | None = None,
) -> list[SlideResult]:
    """Score several slides into a folder; every slide is tried, whatever becomes of the others.

    After each slide ``run.json`` and ``summary.csv`` in the folder tell what happened so far.

    Args:
        paths: slide files.
        out: folder for ``<slide>.zarr`` and ``<slide>.png``.
        model: to score with.
        options: how.
        mpp: resolution for slides that ``mpp_by_name`` does not name.
        mpp_by_name: resolutions by file name.
        on_slide: called before each slide with (number from 1, slides in all, name); what it
            returns is called after each block.
    """
    names = output_names(paths)
    results: list[SlideResult] = []
    for number, path in enumerate(paths, start=1):
        on_block = None if on_slide is None else on_slide(number, len(paths), path.name)
        slide_mpp = (mpp_by_name or {}).get(path.name, mpp)
        started = time.monotonic()
        try:
            result = score_slide(
                path, out / names[path], model, options, mpp=slide_mpp, on_block=on_block
            )
        except HistoslideError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message is made for the user
            result = SlideResult(
                slide=path.name,
                state="failed",
                error=str(error),
                resolution_unknown=isinstance(error, ResolutionUnknownError),
                seconds=time.monotonic() - started,
            )
        results.append(result)
        write_run(out, model.spec, results, total=len(paths))
    return results


def output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A heat.zarr name for each slide: its stem, or its whole name where stems collide.

    Raises:
        HistoslideError: two slides have the same file name.
    """
    stems = Counter(path.stem for path in paths)
    names = {p: f"{p.stem if stems[p.stem] == 1 else p.name}.zarr" for p in paths}
    if len(set(names.values())) < len(paths):
        twice = [name for name, n in Counter(p.name for p in paths).items() if n > 1]
        raise HistoslideError(f"two slides are named {twice[0]}: score them into different folders")
    return names


def write_run(out: Path, spec: ModelSpec, results: Sequence[SlideResult], *, total: int) -> None:
    """Write ``run.json`` and ``summary.csv``, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    run = {
        "model": spec.name,
        "slides_in_all": total,
        "slides": [dataclasses.asdict(result) for result in results],
    }
    columns = ["slide", "state", "output", *(s.name.lower() for s in Status if s != Status.PENDING)]
    columns += ["positive", "highest", "seconds", "error"]
    try:
        with whole_file(out / "run.json") as partial:
            partial.write_text(json.dumps(run, indent=2) + "\n")
        with whole_file(out / "summary.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            for result in results:
                row: dict[str, Any] = {**dataclasses.asdict(result), **result.counts}
                writer.writerow(row | {"seconds": f"{result.seconds:.1f}"})
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}") from error


def tile_slide(
    path: Path,
    out: Path,
    *,
    input_px: int,
    label_px: int,
    target_mpp: float,
    stride_px: int | None = None,
    tissue: TissueOptions = TissueOptions(),
    tile_format: TileFormat = "png",
    mpp: Mpp | None = None,
    overwrite: bool = False,
    on_tiles: Callable[[int, int], None] | None = None,
) -> TileSet:
    """Cut a slide's tissue into tiles on disk; see ``histoslide.tileset.extract_tiles``.

    Args:
        path: slide file.
        out: folder to write.
        input_px: side of a tile, in pixels of ``target_mpp``.
        label_px: side of its label footprint, which must be tissue.
        target_mpp: micrometres per pixel of the tiles.
        stride_px: distance between tiles; None for tiles side by side.
        tissue: which part of the slide.
        tile_format: see ``histoslide.tileset.extract_tiles``.
        mpp: resolution that replaces what the slide records.
        overwrite: replace an existing folder of tiles.
        on_tiles: called with (tiles done, tiles in all).

    Raises:
        HistoslideError: the slide, a mask or the output cannot be used.
    """
    spec = ModelSpec(
        name="tiles",
        architecture="none",
        classes=("unlabelled", "tile"),
        input_px=input_px,
        label_px=label_px,
        mpp=target_mpp,
    )
    with open_slide(path, mpp=mpp) as slide:
        grid = make_grid(slide, spec, stride_px=input_px if stride_px is None else stride_px)
        mask, roi = tissue.find(slide)
        plan = plan_cells(grid, mask, threshold=tissue.threshold, roi=roi)
        return extract_tiles(
            slide,
            grid,
            plan == Status.PENDING,
            mask.fractions(grid, side_px=label_px),
            out,
            tile_format=tile_format,
            settings=_tile_settings(slide, grid, tissue),
            overwrite=overwrite,
            on_tiles=on_tiles,
        )


def _tile_settings(slide: Slide, grid: TileGrid, tissue: TissueOptions) -> dict[str, Any]:
    return {
        "slide": slide.name,
        "quickhash": slide.properties.get("openslide.quickhash-1"),
        "slide_mpp": grid.slide_mpp.value,
        "target_mpp": grid.model_mpp,
        "input_px": grid.input_px,
        "label_px": grid.label_px,
        "stride_px": grid.stride_px,
        "tissue": tissue.method if tissue.mask is None else tissue.mask.name,
        "tissue_threshold": tissue.threshold,
        "roi": None if tissue.roi is None else tissue.roi.name,
    }
