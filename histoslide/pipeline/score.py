"""What happens to a slide from its file to its heatmap, overlay and lesions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from importlib import import_module

import numpy as np

from histoslide.geometry import Mpp
from histoslide.lesions import find_lesions, write_lesions
from histoslide.machine.background import begin
from histoslide.pipeline.options import ScoreOptions
from histoslide.pipeline.preparation import PreparedSlide, prepare_slide
from histoslide.pipeline.result import SlideResult
from histoslide.render.png import read_png_label, save_png
from histoslide.scoring.lazy import BlockModel
from histoslide.storage.location import Location, as_location, readable_name
from histoslide.storage.records import to_builtins
from histoslide.store import Heatmap, doubts_of, store_heatmap

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, int], None]


def score_slide(
    path: Location | str,
    out: Location | str,
    model: BlockModel,
    options: ScoreOptions,
    *,
    mpp: Mpp | None = None,
    on_block: Progress | None = None,
) -> SlideResult:
    """Score a slide into a heatmap; draw its overlay and list its lesions beside it.

    Running it again finishes what was begun; what is complete is left alone.

    Args:
        path: slide file, or a remote one (``histoslide.storage.location``).
        out: heat.zarr to write, which may be remote too; the overlay takes its name with ``.png``,
            the tables of lesions with ``-lesions.csv`` and ``-lesions.json``.
        model: to score with.
        options: how.
        mpp: resolution that replaces what the slide records.
        on_block: called with (blocks done, blocks in all, cells scored).

    Raises:
        HistoslideError: the slide, a mask or the output cannot be used, or time is up.
    """
    path = as_location(path)
    out = as_location(out)
    import_ahead(options)
    with prepare_slide(path, out, model, options, mpp=mpp) as prepared:
        heat, seconds = store_slide(prepared, options, on_block=on_block)
        return finish_slide(prepared, heat, options, scoring_seconds=seconds)


def store_slide(
    prepared: PreparedSlide, options: ScoreOptions, *, on_block: Progress | None = None
) -> tuple[Heatmap, float]:
    """Score a prepared slide into its heatmap.

    The arguments and errors are those of ``score_slide``.

    Returns:
        The heatmap, and how many seconds that took.
    """
    kept = prepared.tiles - prepared.tiles_left
    if kept and prepared.tiles_left:
        logger.info(
            "%s: %d of %d tiles are kept from an earlier run",
            prepared.slide.name,
            kept,
            prepared.tiles,
        )
    with prepared.limit.running():
        before = prepared.limit.spent
        if options.mask_png:
            from histoslide.render import draw_mask  # noqa: PLC0415 - see import_ahead

            drawing = draw_mask(
                prepared.slide,
                prepared.tissue,
                prepared.lazy.grid,
                prepared.lazy.plan,
                longest_px=options.overlay_px,
            )
            label = prepared.beside.mask_label(prepared.lazy.fingerprint)
            save_png(drawing.image, prepared.beside.mask_picture, overwrite=True, label=label)

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

    What an earlier run left here of a heatmap that was replaced goes.

    Args:
        prepared: the slide.
        heat: its whole heatmap.
        options: how.
        scoring_seconds: what scoring took.

    Raises:
        HistoslideError: an output cannot be written, or time is up.
    """
    shown_class = heat.main_class
    with prepared.limit.running():
        if options.overlay:
            _draw_overlay(prepared, heat, shown_class, options)
        lesions = None
        if options.lesions and (options.lesions.class_name or heat.tumour_class):
            report = find_lesions(heat, options.lesions)
            write_lesions(report, prepared.beside.lesions_csv, prepared.beside.lesions_json)
            lesions = report.summary
        reread = options.retry_unreadable and prepared.tiles_left > 0
        prepared.beside.remove_others(heat, tables=reread and lesions is None)
    shown = heat.probability(shown_class)
    scored = np.isfinite(shown)
    result = SlideResult(
        slide=readable_name(prepared.path),
        state="done",
        output=prepared.out.name,
        counts=to_builtins(heat.counts),
        shown_class=shown_class,
        threshold=options.overlay_threshold,
        positive=int((shown[scored] >= options.overlay_threshold).sum()),
        highest=float(shown[scored].max()) if scored.any() else None,
        lesions=None if lesions is None else lesions.lesions,
        largest_lesion_um=None if lesions is None else lesions.largest_diameter_um,
        largest_lesion_class=None if lesions is None else lesions.largest_kind,
        tumour_area_mm2=None if lesions is None else lesions.tumour_area_mm2,
        slide_score=None if lesions is None else lesions.slide_score,
        warnings=doubts_of(heat, shown if heat.tumour_class else None),
        mpp=heat.record.slide.mpp,
        mpp_source=heat.record.slide.mpp_source,
        seconds=prepared.limit.spent,
        tiles_per_second=prepared.tiles_left / scoring_seconds if prepared.tiles_left else None,
    )
    for doubt in result.warnings:
        if doubt not in heat.record.mask.warnings:  # which were said when they were found
            logger.warning("%s: %s", result.slide, doubt)
    return _judged(result)


def import_ahead(options: ScoreOptions) -> None:
    """Import what only the last step needs, in the background, while a slide is prepared.

    What draws takes half a second with Matplotlib, in which a mask is found somewhat later; once
    there is a network at work, it would take the processors from that.
    """

    def import_them() -> None:
        if options.lesions:
            import_module("scipy.sparse.csgraph")
            import_module("scipy.spatial.distance")
        if options.overlay:
            import_module("histoslide.render.overlay")

    begin(import_them)


def _draw_overlay(
    prepared: PreparedSlide, heat: Heatmap, shown_class: str, options: ScoreOptions
) -> None:
    """Draw the overlay unless it is there and shows the same."""
    label = prepared.beside.overlay_label(heat, shown_class, options)
    if read_png_label(prepared.beside.picture) == label:
        return
    from histoslide.render import draw_overlay  # noqa: PLC0415 - see import_ahead

    overlay = draw_overlay(
        heat,
        prepared.slide,
        longest_px=options.overlay_px,
        threshold=options.overlay_threshold,
        class_name=shown_class,
    )
    save_png(overlay.image, prepared.beside.picture, overwrite=True, label=label)


def _judged(result: SlideResult) -> SlideResult:
    """Set a slide's state by its counts."""
    unreadable, scored = result.counts["unreadable"], result.counts["scored"]
    if not unreadable:
        return result
    if not scored:
        error = f"{result.slide}: none of its {unreadable:,} tissue cells could be read"
        logger.error("%s", error)
        return dataclasses.replace(result, state="failed", error=error)
    note = f"{unreadable:,} of {unreadable + scored:,} cells could not be read"
    logger.warning("%s: %s", result.slide, note)
    return dataclasses.replace(result, state="partly unreadable", warnings=(*result.warnings, note))
