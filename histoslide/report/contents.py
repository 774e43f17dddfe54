"""What a report says of one slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from histoslide import quantities
from histoslide.errors import SlideReadError
from histoslide.lesions import Lesion, LesionReport, LesionSettings, find_lesions
from histoslide.model.words import in_words
from histoslide.render import blend, slide_picture
from histoslide.render.bars import scale_bar_um
from histoslide.report.pictures import (
    embedded_values,
    histogram,
    jpeg,
    tile_picture,
)
from histoslide.report.quality import measure_quality
from histoslide.slide import Slide
from histoslide.store import Heatmap, doubts_of

THUMBNAIL_PX = 220
TILES = 10
"""Tiles of each kind that are shown."""

MOST_LESIONS = 200
"""Lesions that are listed; the command ``lesions`` writes all of them."""

MOST_NUMBERS = 20
"""Lesions whose numbers stand in the picture, so that a print can be read."""

_EMBEDDED_CELLS = 600
"""Cells along the longer side of the overlay."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A line of a table."""

    name: str
    """What."""
    value: str
    """How much."""


@dataclass(frozen=True, kw_only=True)
class TileShown:
    """A tile and what was said of it."""

    picture: str
    """Data address."""
    probability: float
    """Of the class shown."""
    x_l0: int
    """Centre in level-0 pixels."""
    y_l0: int
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class SlideReport:
    """Everything that the page shows of one heatmap."""

    anchor: str
    """Names its part of the page."""
    heatmap: str
    """File name of the store."""
    name: str
    """File name of the slide."""
    class_name: str
    """The class that probabilities speak of."""
    width_l0: int
    """Of the slide, in level-0 pixels."""
    height_l0: int
    """Likewise."""
    facts: tuple[Fact, ...]
    """About the slide."""
    made: tuple[Fact, ...]
    """How the heatmap was made."""
    warnings: tuple[str, ...]
    """What to know before trusting it."""
    report: LesionReport
    """The lesions."""
    lesions: tuple[tuple[Lesion, str], ...]
    """Each with its outline as an SVG path in level-0 pixels."""
    numbers: tuple[tuple[int, float, float], ...]
    """Of each piece of the longest lesions: number, and a point (x, y) of the upper edge in
    level-0 pixels."""
    scale_um: float
    """Length of the picture's scale bar."""
    mpp: float
    """Micrometres per level-0 pixel."""
    picture: str
    """The slide, data address."""
    thumbnail: str
    """The overlay in small, data address."""
    histogram: str
    """Data address, for white paper."""
    histogram_dark: str
    """The same for a dark page."""
    values: dict[str, Any]
    """For the overlay of the page."""
    highest: Sequence[TileShown]
    """Tiles of the highest probability; empty without the slide."""
    doubtful: Sequence[TileShown]
    """Tiles nearest to a probability of one half; empty without the slide."""


def gather(
    heat: Heatmap,
    slide: Slide | None,
    settings: LesionSettings,
    *,
    anchor: str,
    picture_px: int,
    notes: Sequence[str] = (),
) -> SlideReport:
    """Gather what a report says of a heatmap.

    Args:
        heat: complete.
        slide: it was made from; None leaves out what needs its pixels.
        settings: how lesions are found.
        anchor: see ``SlideReport``.
        picture_px: longest side of the slide's picture.
        notes: further warnings.

    Raises:
        StoreError: the heatmap has no such class, or is damaged.
        SlideOpenError: the slide has gone.
    """
    report = find_lesions(heat, settings)
    found = report.settings
    class_name = str(found.class_name)
    probability = heat.probability(class_name)
    picture = slide_picture(heat, slide, picture_px)
    small = slide_picture(heat, slide, THUMBNAIL_PX)
    quality = None if slide is None else measure_quality(heat, slide)
    warnings = [*notes, *doubts_of(heat)]
    if quality is not None:
        warnings += quality.warnings
    warnings += [f"{note[0].upper()}{note[1:]}" for note in report.summary.notes]
    lines = (found.extend_probability, found.seed_probability)
    return SlideReport(
        anchor=anchor,
        heatmap=heat.path.name,
        name=heat.record.slide.name,
        class_name=class_name,
        width_l0=heat.grid.size_l0.width,
        height_l0=heat.grid.size_l0.height,
        facts=_facts(heat, None if quality is None else (quality.pen_share, quality.blurred_share)),
        made=_made(heat, report),
        warnings=tuple(warnings),
        report=report,
        lesions=tuple((lesion, svg_path(lesion)) for lesion in report.lesions[:MOST_LESIONS]),
        numbers=tuple(
            (it.number, *upper_edge(part))
            for it in report.lesions[:MOST_NUMBERS]
            for part in _parts(it)
        ),
        scale_um=scale_bar_um(heat.grid.size_l0.width * heat.grid.slide_mpp.value),
        mpp=heat.grid.slide_mpp.value,
        picture=jpeg(picture),
        thumbnail=jpeg(blend(small, heat.grid, probability, found.extend_probability)),
        histogram=histogram(probability, lines, ink="#1d1b22"),
        histogram_dark=histogram(probability, lines, ink="#e6e3ee"),
        values=embedded_values(probability, heat.grid, _EMBEDDED_CELLS),
        highest=_tiles(heat, slide, -probability, probability),
        doubtful=_tiles(heat, slide, np.abs(probability - 0.5), probability),
    )


def svg_path(lesion: Lesion) -> str:
    """A lesion's outline as the ``d`` of an SVG path, in level-0 pixels."""
    parts = _parts(lesion)
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return "".join(
        "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in ring.coords[:-1]) + "Z" for ring in rings
    )


def _parts(lesion: Lesion) -> Sequence[shapely.Polygon]:
    """The pieces of a lesion."""
    return list(getattr(lesion.polygon_l0, "geoms", [lesion.polygon_l0]))


def upper_edge(part: shapely.Polygon) -> tuple[float, float]:
    """The middle (x, y) of the highest edge of a piece of a lesion, in level-0 pixels."""
    points = np.asarray(part.exterior.coords)
    y = points[:, 1].min()
    left, right = np.sort(np.unique(points[points[:, 1] == y, 0]))[:2]  # cells have flat tops
    return float((left + right) / 2), float(y)


def _tiles(
    heat: Heatmap,
    slide: Slide | None,
    order: NDArray[np.float32],
    probability: NDArray[np.float32],
) -> tuple[TileShown, ...]:
    """The first tiles in an order; NaN comes last and is left out."""
    if slide is None:
        return ()
    shown: list[TileShown] = []
    for index in np.argsort(order, axis=None, kind="stable"):
        row, col = (int(i) for i in np.unravel_index(index, order.shape))
        if len(shown) == TILES or not np.isfinite(order[row, col]):
            break
        try:
            picture = tile_picture(slide, heat.grid, row, col)
        except SlideReadError:
            continue  # the slide was scored from a better copy
        box = heat.grid.cell_box_l0(row, col)
        shown.append(
            TileShown(
                picture=picture,
                probability=float(probability[row, col]),
                x_l0=round(box.x + box.width / 2),
                y_l0=round(box.y + box.height / 2),
            )
        )
    return tuple(shown)


def _facts(heat: Heatmap, quality: tuple[float, float | None] | None) -> tuple[Fact, ...]:
    record, grid, counts = heat.record, heat.grid, heat.counts
    mpp, size = grid.slide_mpp, grid.size_l0
    extent = quantities.extent(size.width * mpp.value, size.height * mpp.value)
    tissue = quantities.share(record.mask.tissue_share)
    rows = {
        "Size": f"{size.width:,} × {size.height:,} px, {extent}",
        "Resolution": f"{quantities.resolution(mpp.value)} ({mpp.source})",
        "Format": record.slide.vendor or "not recorded",
        "Fingerprint": record.slide.quickhash[:16],
        "Tissue": f"{tissue} of the slide, found by {record.mask.method}",
        "Cells scored": f"{counts.scored:,} of {quantities.cell(grid.cell_um)}",
        "Cells of background": f"{counts.background:,}",
        "Cells excluded": f"{counts.excluded:,}",
        "Cells unreadable": f"{counts.unreadable:,}",
    }
    if quality is None:
        rows["Focus and pen"] = "not judged: the slide was not at hand"
    else:
        pen, blurred = quality
        rows["Pen"] = f"{quantities.share(pen)} of the slide in colours of marker pens"
        rows["Focus"] = (
            "no tile"
            if blurred is None
            else f"{quantities.share(blurred, 0)} of sampled tiles blurred"
        )
    return tuple(Fact(name=name, value=value) for name, value in rows.items())


def _made(heat: Heatmap, report: LesionReport) -> tuple[Fact, ...]:
    record, spec = heat.record, heat.spec
    rows = {
        "Model": f"{record.model.name} ({spec.architecture})",
        "Model's SHA-256": record.model.sha256,
        "Tile": f"{spec.input_px} px at {spec.mpp:g} µm/px, of which the label speaks of the "
        f"centre {spec.label_px} px",
        "Classes": ", ".join(spec.classes),
        "Calibration temperature": f"{spec.temperature:.3f}",
        "Weights' licence": spec.licence or "not recorded",
        "Tiles looked at": _looked_at(heat),
        "Foci": _settings(report.settings),
        "Scored by": f"{record.engine} on {record.device}, {_mode(heat)}",
        "Time": f"{record.seconds:.0f} s",
        "Command": record.command or "not recorded",
        "Versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
        "Heatmap": f"{heat.path.name}, {heat.id}",
    }
    rows |= _training(spec.training)
    return tuple(Fact(name=name, value=str(value)) for name, value in rows.items())


def _looked_at(heat: Heatmap) -> str:
    mask, grid = heat.record.mask, heat.grid
    roi = "" if mask.roi is None else ", inside the region of interest"
    return (
        f"one every {grid.stride_px} px ({quantities.cell(grid.cell_um)}), where tissue makes up "
        f"{quantities.share(mask.threshold, 0)} or more{roi}"
    )


def _mode(heat: Heatmap) -> str:
    mode = heat.record.mode.value
    if mode.first_look is not None:
        first, looks = mode.first_look, heat.looks
        seen = 0 if looks is None else int((looks > 0).sum())
        twice = 0 if looks is None else int((looks > 1).sum())
        again = (
            f"the mean of both ({first.say:g} of it the first's) stands in"
            if first.say
            else "the model saw"
        )
        sure = "" if first.enough is None else f" and from {first.enough:g} on"
        return (
            f"after a first look by {first.name} ({first.engine}): its probabilities, brought to "
            f"the same scale, stand below {mode.cascade_threshold:g}{sure}; {again} the other "
            f"{twice:,} of {seen:,} cells"
        )
    again = f", from {mode.cascade_threshold:g} on again as a tile"
    turned = ", mean of the eight turned and mirrored" if mode.tta else ""
    return f"mode {mode.mode}{again if mode.mode == 'cascade' else ''}{turned}"


def _training(training: Mapping[str, Any]) -> dict[str, str]:
    """What a bundle says of how its model was made and how well it did."""
    data, validation = training.get("data") or {}, training.get("validation") or {}
    rows = {}
    if isinstance(data.get("train_patches"), int):
        rows["Trained on"] = f"{data['train_patches']:,} patches"
    figures = {k: v for k, v in validation.items() if isinstance(v, float)}
    if figures:
        patches = validation.get("patches")
        name = f"On {patches:,} validation patches" if isinstance(patches, int) else "On validation"
        rows[name] = ", ".join(f"{in_words(k)} {v:.3f}" for k, v in figures.items())
    return rows


def _settings(settings: LesionSettings) -> str:
    cells = "cell" if settings.min_cells == 1 else "cells"
    parts = (
        f"connected cells from {quantities.threshold(settings.extend_probability)} on",
        f"one of them from {quantities.threshold(settings.seed_probability)} on",
        f"joined when nearer than {settings.join_gap_um:g} µm",
        f"smoothed by {settings.smoothing_um:g} µm" if settings.smoothing_um else "not smoothed",
        f"of at least {settings.min_cells} {cells}",
    )
    return "; ".join(parts)
