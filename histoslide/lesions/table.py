"""Tables of lesions: a CSV with one row a lesion, a JSON with everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histoslide.errors import HistoslideError, StoreError
from histoslide.lesions.lesion import Lesion
from histoslide.lesions.report import LesionReport
from histoslide.lesions.settings import LesionSettings
from histoslide.lesions.source import LesionSource
from histoslide.lesions.summary import LesionSummary
from histoslide.storage.location import Location, as_location, read_bytes
from histoslide.storage.records import from_json, to_builtins, to_json
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import whole_file

NOTICE = "Research use only. Not a medical device; not for diagnosis."
"""Stands in every output."""

_DECIMALS = 6
"""Of numbers in tables: a picometre, and no noise of the last bit."""

_COLUMNS = (
    "lesion", "class", "longest_diameter_um", "area_mm2", "perimeter_um", "cells",
    "peak_probability", "mean_probability", "cut_off",
    "centroid_x_l0", "centroid_y_l0", "peak_x_l0", "peak_y_l0", "centroid_x_um", "centroid_y_um",
    "box_x_l0", "box_y_l0", "box_width_l0", "box_height_l0",
    "box_x_um", "box_y_um", "box_width_um", "box_height_um",
)  # fmt: skip
"""Of ``lesion_row``, for a table without lesions."""


Row = dict[str, int | float | str | bool]
"""A lesion's measures by column; column names carry the units."""


@dataclass(frozen=True, kw_only=True)
class LesionDocument:
    """A report of lesions as it lies in a file."""

    notice: str
    """That it is for research only."""
    source: LesionSource
    """What the lesions were found in."""
    settings: LesionSettings
    """How."""
    summary: LesionSummary
    """The slide in a few numbers."""
    lesions: tuple[Row, ...]
    """One row a lesion."""


@dataclass(frozen=True, kw_only=True)
class _OriginSource:
    heatmap_id: str


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """As much of a document of any release as tells whose it is."""

    notice: str
    source: _OriginSource


@dataclass(frozen=True, kw_only=True)
class _Found(_Origin):
    settings: LesionSettings


def lesion_row(lesion: Lesion) -> Row:
    """A lesion's measures as one flat row."""
    row: Row = {
        "lesion": lesion.number,
        "class": lesion.kind.value,
        "longest_diameter_um": lesion.longest_diameter_um,
        "area_mm2": lesion.area_mm2,
        "perimeter_um": lesion.perimeter_um,
        "cells": lesion.cells,
        "peak_probability": lesion.peak_probability,
        "mean_probability": lesion.mean_probability,
        "cut_off": lesion.cut_off,
    }
    for name in ("centroid", "peak"):
        row |= dict(
            zip((f"{name}_x_l0", f"{name}_y_l0"), getattr(lesion, f"{name}_l0"), strict=True)
        )
    row |= dict(zip(("centroid_x_um", "centroid_y_um"), lesion.centroid_um, strict=True))
    for frame in ("l0", "um"):
        box = getattr(lesion, f"box_{frame}")
        row |= {
            f"{part}_{frame}": value
            for part, value in (
                ("box_x", box.x), ("box_y", box.y), ("box_width", box.width),
                ("box_height", box.height),
            )
        }  # fmt: skip
    return {k: round(v, _DECIMALS) if isinstance(v, float) else v for k, v in row.items()}


def lesion_document(report: LesionReport) -> LesionDocument:
    """A report as it is written."""
    rounded: dict[str, Any] = {
        key: round(value, _DECIMALS)
        for key, value in vars(report.summary).items()
        if isinstance(value, float)
    }
    return LesionDocument(
        notice=NOTICE,
        source=report.source,
        settings=report.settings,
        summary=dataclasses.replace(report.summary, **rounded),
        lesions=tuple(lesion_row(lesion) for lesion in report.lesions),
    )


def write_lesions(
    report: LesionReport, csv_path: Location | str, json_path: Location | str
) -> None:
    """Write the table as CSV and everything as JSON, each whole or not at all.

    Every row of the CSV names slide, heatmap, class and settings, so that tables of several slides
    can be put together.

    Args:
        report: from ``find_lesions``.
        csv_path: one row a lesion; only a header where there is none.
        json_path: with the summary.

    Raises:
        StoreError: a file cannot be written.
    """
    csv_path = as_location(csv_path)
    json_path = as_location(json_path)
    settings: Mapping[str, object] = to_builtins(report.settings)
    before = {"slide": report.source.slide, "heatmap_id": report.source.heatmap_id}
    after = {key: value for key, value in settings.items() if key != "score_cells"}
    after |= {"model": report.source.model, "notice": NOTICE}
    rows = [before | lesion_row(lesion) | after for lesion in report.lesions]
    try:
        with (
            whole_file(csv_path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = TableWriter(file, lineterminator="\n")
            table.write_named([*before, *_COLUMNS, *after], rows)
        with whole_file(json_path) as partial:
            partial.write_text(to_json(lesion_document(report)), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{csv_path.parent} cannot be written: {error.strerror}") from error


def are_lesion_files(csv_path: Location, json_path: Location) -> bool:
    """Whether ``write_lesions`` wrote these files, so that they may be written anew."""
    try:
        if read_bytes(json_path) is None:
            return read_bytes(csv_path) is None
    except OSError:
        return False
    return heatmap_of_lesions(json_path) is not None


def heatmap_of_lesions(json_path: Location) -> str | None:
    """Id of the heatmap that ``write_lesions`` wrote this file of; None where it did not."""
    try:
        origin = from_json(read_bytes(json_path) or b"", _Origin, source=json_path)
    except (OSError, HistoslideError):
        return None
    return origin.source.heatmap_id if origin.notice == NOTICE else None


def settings_of_lesions(json_path: Location, heatmap_id: str) -> LesionSettings | None:
    """How ``write_lesions`` was told to find the lesions of a heatmap; None where it did not."""
    try:
        found = from_json(read_bytes(json_path) or b"", _Found, source=json_path)
    except (OSError, HistoslideError):
        return None
    ours = found.notice == NOTICE and found.source.heatmap_id == heatmap_id
    return found.settings if ours else None
