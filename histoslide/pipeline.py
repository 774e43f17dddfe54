"""The story: what happens to a slide from its file to its heatmap and picture.

Many slides are the work of ``histoslide.cohort_run``, which takes the same steps.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from histoslide.cohort import SlideResult, SlideState
from histoslide.errors import HistoslideError
from histoslide.geometry import Mpp
from histoslide.grid import TileGrid
from histoslide.heatmap import (
    DEFAULT_TISSUE_THRESHOLD,
    BlockModel,
    LazyHeatmap,
    make_grid,
    make_heatmap,
    plan_cells,
)
from histoslide.isolation import DEFAULT_OPENER, ClosableSlide, open_for_scoring
from histoslide.lesions import LesionSettings, are_lesion_files, find_lesions, write_lesions
from histoslide.model import ModelSpec
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
from histoslide.runners import Runner
from histoslide.scoring import EXACT, ScoreMode, Status
from histoslide.slide import Slide, open_slide
from histoslide.store import (
    Heatmap,
    NgffVersion,
    open_heatmap,
    refuse_other_settings,
    reopened,
    store_heatmap,
)
from histoslide.store_folder import is_there
from histoslide.tileset import TileFormat, TileSet, extract_tiles
from histoslide.time_limit import TimeLimit
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
    mode: ScoreMode = EXACT
    """How cells come by their probabilities."""
    runner: Runner | None = None
    """Computes the blocks; None for threads of this process."""
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
    retry_unreadable: bool = False
    """Score the blocks of heatmaps again in which cells could not be read."""
    cache: SlideCache = DEFAULT_CACHE
    """Where slides from object storage are kept."""
    command: str | None = None
    """Command line for the metadata, without absolute paths."""
    timeout_s: float | None = None
    """Seconds that a slide may be in work, not counting its wait for others; None for ever."""
    isolate: bool = True
    """Read slides in worker processes; see ``histoslide.isolation``."""
    opener: str = DEFAULT_OPENER
    """``module:function`` that opens slides; see ``histoslide.isolation.IsolatedSlide``."""


Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, kw_only=True)
class PreparedSlide:
    """A slide that is open and planned; leave its ``with`` block to close it."""

    path: Path
    """Slide file."""
    out: Path
    """Its heat.zarr, there already or not."""
    slide: ClosableSlide
    """Open."""
    tissue: TissueMask
    """Where it holds tissue."""
    lazy: LazyHeatmap
    """What is to be computed."""
    tiles: int
    """Tiles that the plan wants scored."""
    tiles_left: int
    """Those of them that no earlier run has scored."""
    limit: TimeLimit
    """Its clock; stands still until the next step."""
    beside: OutputsBeside
    """Files that go with the heatmap."""
    held: ExitStack
    """Closes the slide, and lets go of its local copy."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held.__exit__(kind, error, trace)


@dataclass(frozen=True, kw_only=True)
class OutputsBeside:
    """Files that go with a heatmap and take its name."""

    picture: Path
    """The overlay."""
    mask_picture: Path
    """Mask and grid."""
    lesions_csv: Path
    """Table of lesions."""
    lesions_json: Path
    """The same for programs."""

    @classmethod
    def of(cls, out: Path) -> OutputsBeside:
        """Those of a heat.zarr."""
        return cls(
            picture=out.with_suffix(".png"),
            mask_picture=out.with_name(f"{out.stem}-mask.png"),
            lesions_csv=out.with_name(f"{out.stem}-lesions.csv"),
            lesions_json=out.with_name(f"{out.stem}-lesions.json"),
        )

    def refuse_others(self, options: ScoreOptions) -> None:
        """Make sure that nothing of somebody else's is in the way.

        Raises:
            OutputExistsError: a file of that name is not ours, and overwriting was not asked for.
        """
        for path, drawn in (
            (self.picture, options.overlay),
            (self.mask_picture, options.mask_png),
        ):
            if drawn and not read_png_label(path):  # without our label it is somebody else's
                refuse_existing(path, overwrite=options.overwrite)
        tables = (self.lesions_csv, self.lesions_json)
        if options.lesions and not are_lesion_files(*tables):
            for table in tables:
                refuse_existing(table, overwrite=options.overwrite)


def score_slide(
    path: Path,
    out: Path,
    model: BlockModel,
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
        HistoslideError: the slide, a mask or the output cannot be used, or time is up.
    """
    with prepare_slide(path, out, model, options, mpp=mpp) as prepared:
        heat, seconds = store_slide(prepared, options, on_block=on_block)
        return finish_slide(prepared, heat, options, scoring_seconds=seconds)


def prepare_slide(
    path: Path, out: Path, model: BlockModel, options: ScoreOptions, *, mpp: Mpp | None = None
) -> PreparedSlide:
    """Open a slide, find its tissue and plan its heatmap. Writes nothing.

    The arguments and errors are those of ``score_slide``.
    """
    beside = OutputsBeside.of(out)
    beside.refuse_others(options)
    limit = TimeLimit(path.name, options.timeout_s)
    with ExitStack() as stack, limit.running():
        file = stack.enter_context(local_copy(path, options.cache))
        slide = stack.enter_context(
            open_for_scoring(
                file, mpp=mpp, isolate=options.isolate, opener=options.opener, limit=limit
            )
        )
        tissue, roi = options.tissue.find(slide)
        lazy = make_heatmap(
            slide,
            model,
            stride_px=options.stride_px,
            tissue=tissue,
            tissue_threshold=options.tissue.threshold,
            roi=roi,
            mode=options.mode,
        )
        wanted = lazy.plan == Status.PENDING
        left = wanted
        if not options.overwrite and is_there(out):
            refuse_other_settings(lazy, out, options.ngff)
            status = open_heatmap(out, allow_incomplete=True).status
            if options.retry_unreadable:
                status = reopened(status, lazy.grid.block_cells)
            left = wanted & (status == Status.PENDING)
        return PreparedSlide(
            held=stack.pop_all(),  # whoever takes the slide closes it
            path=path,
            out=out,
            slide=slide,
            tissue=tissue,
            lazy=lazy,
            tiles=int(wanted.sum()),
            tiles_left=int(left.sum()),
            limit=limit,
            beside=beside,
        )


def store_slide(
    prepared: PreparedSlide, options: ScoreOptions, *, on_block: Progress | None = None
) -> tuple[Heatmap, float]:
    """Score a prepared slide into its heatmap.

    The arguments and errors are those of ``score_slide``.

    Returns:
        The heatmap, and how many seconds that took.
    """
    with prepared.limit.running():
        before = prepared.limit.spent
        if options.mask_png:
            drawing = draw_mask(
                prepared.slide,
                prepared.tissue,
                prepared.lazy.grid,
                prepared.lazy.plan,
                longest_px=options.overlay_px,
            )
            save_png(drawing.image, prepared.beside.mask_picture, overwrite=True, label="mask")

        def after_block(done: int, total: int, scored: int) -> None:
            if on_block is not None:
                on_block(done, total, scored)
            if done < total:  # an error here ends the run in order: the block is stored
                prepared.limit.check()

        heat = store_heatmap(
            prepared.lazy,
            prepared.out,
            ngff=options.ngff,
            overwrite=options.overwrite,
            retry_unreadable=options.retry_unreadable,
            command=options.command,
            on_block=after_block,
            runner=options.runner,
        )
        return heat, prepared.limit.spent - before


def finish_slide(
    prepared: PreparedSlide, heat: Heatmap, options: ScoreOptions, *, scoring_seconds: float
) -> SlideResult:
    """Draw the overlay, list the lesions, and say what became of the slide.

    Args:
        prepared: the slide.
        heat: its whole heatmap.
        options: how.
        scoring_seconds: what scoring took.

    Raises:
        HistoslideError: an output cannot be written, or time is up.
    """
    shown_class = heat.tumour_class or heat.classes[-1]
    with prepared.limit.running():
        if options.overlay:
            _draw_overlay(prepared, heat, shown_class, options)
        lesions = None
        if options.lesions and (options.lesions.class_name or heat.tumour_class):
            report = find_lesions(heat, options.lesions)
            write_lesions(report, prepared.beside.lesions_csv, prepared.beside.lesions_json)
            lesions = report.summary
    shown = heat.probability(shown_class)
    scored = np.isfinite(shown)
    result = SlideResult(
        slide=prepared.path.name,
        state="done",
        output=prepared.out.name,
        counts=heat.metadata["counts"],
        shown_class=shown_class,
        threshold=options.overlay_threshold,
        positive=int((shown[scored] >= options.overlay_threshold).sum()),
        highest=float(shown[scored].max()) if scored.any() else None,
        lesions=None if lesions is None else lesions.lesions,
        largest_lesion_um=None if lesions is None else lesions.largest_diameter_um,
        largest_lesion_class=None if lesions is None else lesions.largest_kind,
        tumour_area_mm2=None if lesions is None else lesions.tumour_area_mm2,
        warnings=tuple(heat.metadata["mask"]["warnings"]),
        seconds=prepared.limit.spent,
        tiles_per_second=prepared.tiles_left / scoring_seconds if prepared.tiles_left else None,
    )
    return _judged(result)


def _draw_overlay(
    prepared: PreparedSlide, heat: Heatmap, shown_class: str, options: ScoreOptions
) -> None:
    """Draw the overlay unless it is there and shows the same."""
    label = (
        f"P({shown_class}), threshold {options.overlay_threshold:g}, {options.overlay_px} px, "
        f"{heat.id}, {heat.metadata['seconds']} s"
    )
    if read_png_label(prepared.beside.picture) == label:
        return
    overlay = draw_overlay(
        heat,
        prepared.slide,
        longest_px=options.overlay_px,
        threshold=options.overlay_threshold,
        class_name=shown_class,
    )
    save_png(overlay.image, prepared.beside.picture, overwrite=True, label=label)


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
