"""The story: what happens to a slide from its file to its heatmap and picture."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoslide.cohort import SlideResult, SlideState, output_names, read_run, write_run
from histoslide.errors import HistoslideError, ResolutionUnknownError
from histoslide.geometry import Mpp
from histoslide.grid import TileGrid
from histoslide.heatmap import (
    DEFAULT_TISSUE_THRESHOLD,
    make_grid,
    make_heatmap,
    plan_cells,
)
from histoslide.lesions import LesionSettings, are_lesion_files, find_lesions, write_lesions
from histoslide.model import Model, ModelSpec
from histoslide.outputs import refuse_existing
from histoslide.remote import DEFAULT_CACHE, SlideCache, local_copy
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
from histoslide.store import NgffVersion, refuse_other_settings, store_heatmap
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
    lesions: LesionSettings | None = dataclasses.field(default_factory=LesionSettings)
    """How lesions are found for the tables beside the heatmap; None for no tables."""
    mask_png: bool = False
    """Also draw mask and grid, before scoring."""
    overwrite: bool = False
    """Replace outputs that exist."""
    cache: SlideCache = DEFAULT_CACHE
    """Where slides from object storage are kept."""
    command: str | None = None
    """Command line for the metadata, without absolute paths."""


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
    """Score a slide into a heatmap; draw its overlay and list its lesions beside it.

    Running it again finishes what was begun; what is complete is left alone.

    Args:
        path: slide file, or a remote one (``histoslide.place``).
        out: heat.zarr to write, which may be remote too; the overlay takes its name with ``.png``,
            the tables of lesions with ``-lesions.csv`` and ``-lesions.json``.
        model: to score with.
        options: how.
        mpp: resolution that replaces what the slide records.
        on_block: called with (blocks done, blocks in all, cells scored).

    Raises:
        HistoslideError: the slide, a mask or the output cannot be used.
    """
    started = time.monotonic()
    picture, mask_picture = out.with_suffix(".png"), out.with_name(f"{out.stem}-mask.png")
    for path_, drawn in ((picture, options.overlay), (mask_picture, options.mask_png)):
        if drawn and not read_png_label(path_):  # without our label it is somebody else's
            refuse_existing(path_, overwrite=options.overwrite)
    tables = [out.with_name(f"{out.stem}-lesions.{kind}") for kind in ("csv", "json")]
    if options.lesions and not are_lesion_files(*tables):
        for table in tables:
            refuse_existing(table, overwrite=options.overwrite)
    with local_copy(path, options.cache) as file, open_slide(file, mpp=mpp) as slide:
        tissue, roi = options.tissue.find(slide)
        lazy = make_heatmap(
            slide,
            model,
            stride_px=options.stride_px,
            tissue=tissue,
            tissue_threshold=options.tissue.threshold,
            roi=roi,
        )
        if not options.overwrite:
            refuse_other_settings(lazy, out, options.ngff)
        if options.mask_png:
            drawing = draw_mask(slide, tissue, lazy.grid, lazy.plan, longest_px=options.overlay_px)
            save_png(drawing.image, mask_picture, overwrite=True, label="mask")
        heat = store_heatmap(
            lazy,
            out,
            ngff=options.ngff,
            overwrite=options.overwrite,
            command=options.command,
            on_block=on_block,
        )
        shown_class = heat.tumour_class or heat.classes[-1]
        label = (
            f"P({shown_class}), threshold {options.overlay_threshold:g}, {options.overlay_px} px, "
            f"{heat.id}, {heat.metadata['seconds']} s"
        )
        if options.overlay and read_png_label(picture) != label:
            overlay = draw_overlay(
                heat,
                slide,
                longest_px=options.overlay_px,
                threshold=options.overlay_threshold,
                class_name=shown_class,
            )
            save_png(overlay.image, picture, overwrite=True, label=label)
    if options.lesions and (options.lesions.class_name or heat.tumour_class):
        write_lesions(find_lesions(heat, options.lesions), *tables)
    shown = heat.probability(shown_class)
    scored = np.isfinite(shown)
    result = SlideResult(
        slide=path.name,
        state="done",
        output=out.name,
        counts=heat.metadata["counts"],
        shown_class=shown_class,
        threshold=options.overlay_threshold,
        positive=int((shown[scored] >= options.overlay_threshold).sum()),
        highest=float(shown[scored].max()) if scored.any() else None,
        warnings=tuple(heat.metadata["mask"]["warnings"]),
        seconds=time.monotonic() - started,
    )
    return _judged(result)


def _judged(result: SlideResult) -> SlideResult:
    """Say what is unusual about a slide's counts, and set its state by them."""
    counts = result.counts
    unreadable, scored = counts["unreadable"], counts["scored"]
    if unreadable and not scored:
        error = f"{result.slide}: none of its {unreadable:,} tissue cells could be read"
        logger.error("%s", error)
        return dataclasses.replace(result, state="failed", error=error)
    notes: tuple[str, ...] = ()
    if unreadable:
        notes = (f"{unreadable:,} of {unreadable + scored:,} cells could not be read",)
    elif not scored:
        why = "the region of interest excludes everything"
        if counts["background"]:
            why = "no tissue found"
        notes = (f"{why}, nothing to score",)
    for note in notes:
        logger.warning("%s: %s", result.slide, note)
    state: SlideState = "partly unreadable" if unreadable else "done"
    return dataclasses.replace(result, state=state, warnings=(*result.warnings, *notes))


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

    After each slide ``run.json`` and ``summary.csv`` in the folder tell what happened so far, also
    to slides of earlier runs into the same folder.

    Args:
        paths: slide files.
        out: folder for ``<slide>.zarr`` and ``<slide>.png``.
        model: to score with.
        options: how.
        mpp: resolution for slides that ``mpp_by_name`` does not name.
        mpp_by_name: resolutions by file name.
        on_slide: called before each slide with (number from 1, slides in all, name); what it
            returns is called after each block.

    Raises:
        HistoslideError: two slides would be written to one name, or the folder holds a summary
            that is not ours.
    """
    names = output_names(paths)
    earlier = {result.slide: result for result in read_run(out)}
    results: dict[str, SlideResult] = {}
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
            unknown = isinstance(error, ResolutionUnknownError)
            result = SlideResult(
                slide=path.name,
                state="failed",
                error=str(error),
                cause="resolution unknown" if unknown else None,
                seconds=time.monotonic() - started,
            )
        except Exception as error:  # one slide must not stop the others, not even by a bug
            logger.exception("%s: unexpected error", path.name)
            result = SlideResult(
                slide=path.name,
                state="failed",
                error=f"bug: {error!r}",
                cause="bug",
                seconds=time.monotonic() - started,
            )
        results[path.name] = result
        write_run(out, model.spec.name, list((earlier | results).values()), total=len(paths))
    return list(results.values())


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
    cache: SlideCache = DEFAULT_CACHE,
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
        cache: where slides from object storage are kept.
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
    with local_copy(path, cache) as file, open_slide(file, mpp=mpp) as slide:
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
        "quickhash": slide.quickhash,
        "slide_mpp": grid.slide_mpp.value,
        "target_mpp": grid.model_mpp,
        "input_px": grid.input_px,
        "label_px": grid.label_px,
        "stride_px": grid.stride_px,
        "tissue": tissue.method if tissue.mask is None else tissue.mask.name,
        "tissue_threshold": tissue.threshold,
        "roi": None if tissue.roi is None else tissue.roi.name,
    }
