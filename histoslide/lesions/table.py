"""Tables of lesions: a CSV with one row a lesion, a JSON with everything."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from histoslide.errors import StoreError
from histoslide.lesions.lesion import Lesion
from histoslide.lesions.report import LesionReport
from histoslide.storage.location import read_bytes
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


def lesion_row(lesion: Lesion) -> dict[str, int | float | str | bool]:
    """A lesion's measures as one flat row whose column names carry the units."""
    row: dict[str, int | float | str | bool] = {
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


def lesion_document(report: LesionReport) -> dict[str, Any]:
    """A report as plain data for JSON: notice, source, settings, summary, lesions."""
    summary = {
        key: round(value, _DECIMALS) if isinstance(value, float) else value
        for key, value in asdict(report.summary).items()
    }
    return {
        "notice": NOTICE,
        "source": dict(report.source),
        "settings": asdict(report.settings),
        "summary": summary,
        "lesions": [lesion_row(lesion) for lesion in report.lesions],
    }


def write_lesions(report: LesionReport, csv_path: Path, json_path: Path) -> None:
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
    settings = {
        key: value for key, value in asdict(report.settings).items() if key != "score_cells"
    }
    before = {"slide": report.source["slide"], "heatmap_id": report.source["heatmap_id"]}
    after = settings | {"model": report.source["model"], "notice": NOTICE}
    rows = [before | lesion_row(lesion) | after for lesion in report.lesions]
    try:
        with (
            whole_file(csv_path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = TableWriter(file, lineterminator="\n")
            table.write_named([*before, *_COLUMNS, *after], rows)
        with whole_file(json_path) as partial:
            text = json.dumps(lesion_document(report), indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{csv_path.parent} cannot be written: {error.strerror}") from error


def are_lesion_files(csv_path: Path, json_path: Path) -> bool:
    """Whether ``write_lesions`` wrote these files, so that they may be written anew."""
    try:
        if read_bytes(json_path) is None:
            return read_bytes(csv_path) is None
    except OSError:
        return False
    return heatmap_of_lesions(json_path) is not None


def heatmap_of_lesions(json_path: Path) -> str | None:
    """Id of the heatmap that ``write_lesions`` wrote this file of; None where it did not."""
    try:
        document = json.loads(read_bytes(json_path) or b"")
        return str(document["source"]["heatmap_id"]) if document["notice"] == NOTICE else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
