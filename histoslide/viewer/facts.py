"""What the page is told about heatmaps."""

from __future__ import annotations

import dataclasses
import io

import matplotlib as mpl
import numpy as np
from PIL import Image

from histoslide.errors import HistoslideError, StoreError
from histoslide.pipeline.result import SlideResult
from histoslide.render import COLOUR_MAP, blend, slide_picture
from histoslide.slide import Slide
from histoslide.storage.records import ABSENT, Absent
from histoslide.store import Heatmap, doubts_of, level_shapes
from histoslide.viewer.catalogue import Catalogue, Entry
from histoslide.viewer.cells import TILE_CELLS
from histoslide.viewer.deepzoom import DeepZoom
from histoslide.viewer.foci import recorded_settings
from histoslide.viewer.messages import (
    CohortMessage,
    ComparableMessage,
    GridMessage,
    HeatmapMessage,
    HeatmapRow,
    SlideMessage,
)
from histoslide.viewer.reviews import Reviews

COLOUR_MAPS = (COLOUR_MAP, "magma", "cividis", "turbo")
"""Offered in the page, the usual one first."""

THUMBNAIL_PX = 320
"""Longest side of a thumbnail."""


def colour_maps() -> dict[str, list[list[int]]]:
    """256 RGB triples of each colour map on offer."""
    values = np.linspace(0, 1, 256)
    return {
        name: np.rint(mpl.colormaps[name](values)[:, :3] * 255).astype(int).tolist()
        for name in COLOUR_MAPS
    }


def describe_cohort(catalogue: Catalogue, reviews: Reviews | None = None) -> CohortMessage:
    """All heatmaps, and the slides for which there is none."""
    results = catalogue.results()
    rows = [
        _row(catalogue, entry, results.pop(entry.path, None), reviews)
        for entry in catalogue.entries()
    ]
    rows += [
        HeatmapRow(key=None, slide=result.slide, state=result.state, error=result.error)
        for result in results.values()
        if result.state == "failed"
    ]
    return CohortMessage(heatmaps=tuple(rows))


def _row(
    catalogue: Catalogue, entry: Entry, result: SlideResult | None, reviews: Reviews | None
) -> HeatmapRow:
    key, name = entry.key, entry.path.name
    try:
        heat = catalogue.source(key).heat
        record = heat.record
        judged: int | Absent = ABSENT if reviews is None else reviews.judged(heat)
        state = catalogue.source(key).state()
        highest = catalogue.source(key).highest()
    except HistoslideError as error:
        return HeatmapRow(
            key=key, name=name, slide=entry.path.stem, state="unreadable", error=str(error)
        )
    row = HeatmapRow(
        key=key,
        name=name,
        slide=record.slide.name,
        state="complete" if state.complete else "running",
        share_done=state.decided / state.cells,
        model=record.model.name,
        scored=None if record.counts is None else record.counts.scored,
        highest=highest,
        unreadable=None if record.counts is None else record.counts.unreadable,
        warnings=record.mask.warnings,
        judged=judged,
    )
    # A later run that failed or stopped before this slide tells nothing of the heatmap.
    if result is None or result.state not in {"done", "partly unreadable"}:
        return row
    return dataclasses.replace(
        row,
        highest=result.highest,
        longest_um=result.largest_lesion_um,
        longest_class=result.largest_lesion_class,
        slide_score=result.slide_score,
        positive=result.positive,
        threshold=result.threshold,
        warnings=result.warnings,
    )


def describe_heatmap(
    catalogue: Catalogue, key: str, reviews: Reviews | None = None
) -> HeatmapMessage:
    """Everything the page needs to show one heatmap.

    Raises:
        KeyError: no such heatmap.
        StoreError: it cannot be read.
    """
    source = catalogue.source(key)
    state = source.state()
    heat, grid = source.heat, source.grid
    record, look = heat.record, heat.record.mode.value.first_look
    return HeatmapMessage(
        key=key,
        name=heat.path.name,
        classes=heat.shown_classes,
        main_class=heat.main_class,
        model=record.model.name,
        model_sha256=record.model.sha256,
        first_look=None if look is None else look.name,
        first_look_weight=0 if look is None else look.say,
        slide=_describe_slide(catalogue, key, heat),
        grid=GridMessage(
            rows=grid.rows,
            cols=grid.cols,
            cell_l0=grid.cell_l0,
            cell_um=grid.cell_um,
            tile_cells=TILE_CELLS,
            levels=tuple(level_shapes(grid.shape)),
        ),
        tissue_share=record.mask.tissue_share,
        counts=record.counts,
        warnings=_doubts(heat),
        threshold=recorded_settings(heat, heat.main_class)[0].extend_probability,
        state=state,
        comparable=_comparable(catalogue, key, heat),
        review=None if reviews is None else reviews.name(heat),
    )


def _doubts(heat: Heatmap) -> tuple[str, ...]:
    """What speaks against a heatmap, as far as it can be read."""
    try:
        return doubts_of(heat)
    except StoreError:  # its damage is told by its cells
        return heat.record.mask.warnings


def _describe_slide(catalogue: Catalogue, key: str, heat: Heatmap) -> SlideMessage:
    slide, recorded = catalogue.slide(key), heat.record.slide
    size = heat.grid.size_l0 if slide is None else slide.size_l0
    zoom = DeepZoom(size_l0=size)
    return SlideMessage(
        name=recorded.name,
        present=slide is not None,
        warning=catalogue.slide_warning(key),
        version=None if slide is None else slide.quickhash[:16],
        size_l0=(size.width, size.height),
        mpp=recorded.mpp,
        mpp_source=recorded.mpp_source,
        bounds_l0=recorded.bounds_l0,
        tile_px=zoom.tile_px,
        overlap_px=zoom.overlap_px,
        max_level=zoom.max_level,
    )


def _comparable(catalogue: Catalogue, key: str, heat: Heatmap) -> tuple[ComparableMessage, ...]:
    """Other heatmaps of the same slide and the same classes."""
    found = []
    for entry in catalogue.entries():
        if entry.key == key:
            continue
        try:
            other = catalogue.source(entry.key).heat
        except HistoslideError:
            continue
        mine, its = heat.record.slide, other.record.slide
        same_slide = (mine.quickhash, mine.size_l0) == (its.quickhash, its.size_l0)
        if same_slide and _same_classes(heat, other):
            found.append(
                ComparableMessage(
                    key=entry.key, name=entry.path.name, model=other.record.model.name
                )
            )
    return tuple(found)


def _same_classes(heat: Heatmap, other: Heatmap) -> bool:
    """Whether two heatmaps can be shown side by side: for each class of one the other has it."""
    mine, its = heat.shown_classes, other.shown_classes
    return set(mine) == set(its) or len(mine) == len(its) == 1


def thumbnail(heat: Heatmap, slide: Slide | None) -> bytes:
    """A small PNG of a slide with its heatmap; grey tissue where the slide is not at hand.

    Raises:
        StoreError: the heatmap cannot be read.
        SlideReadError: the slide cannot be read.
    """
    picture = slide_picture(heat, slide, THUMBNAIL_PX)
    blended = blend(
        picture,
        heat.grid,
        heat.probability(heat.main_class),
        recorded_settings(heat, heat.main_class)[0].extend_probability,
    )
    buffer = io.BytesIO()
    Image.fromarray(blended).save(buffer, "PNG")
    return buffer.getvalue()
