"""The foci of a heatmap as the page lists them, found with whatever settings it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from histoslide.errors import HistoslideError
from histoslide.lesions import Lesion, LesionSettings, find_lesions, lesion_row, settings_of_lesions
from histoslide.pipeline.outputs_beside import OutputsBeside
from histoslide.review import focus_id, polygons_of
from histoslide.store import Heatmap
from histoslide.viewer.messages import FociMessage, FociSettings

MOST_FOCI = 1000
"""Foci that are listed, the longest; a page with more answers slowly."""

_MOST: dict[str, float] = {"smoothing_um": 500.0, "join_gap_um": 500.0, "min_cells": 10_000}
"""The most that the page may ask for: beyond, finding foci takes long and says nothing."""


class FociSettingsError(HistoslideError):
    """What the page asks for is no way to find foci."""


def recorded_settings(heat: Heatmap, class_name: str) -> tuple[LesionSettings, str | None]:
    """How the foci of a class were found when their tables were written, and the tables' name.

    Without tables of this heatmap and class beside it: as ``histoslide lesions`` finds them, and
    None.
    """
    beside = OutputsBeside.of(heat.path)
    found = settings_of_lesions(beside.lesions_json, heat.id)
    if found is None or found.class_name != class_name:
        return LesionSettings(class_name=class_name), None
    return found, beside.lesions_csv.name


def asked_settings(recorded: LesionSettings, asked: Sequence[tuple[str, str]]) -> LesionSettings:
    """The settings of an address: those recorded, but for what it names.

    Where it names no seed, the recorded one is raised to what foci extend to, if that is more.

    Args:
        recorded: see ``recorded_settings``.
        asked: names of fields of ``FociSettings``, and values as text.

    Raises:
        FociSettingsError: an unknown or repeated name, or a value that is none.
    """
    given: dict[str, Any] = {}
    for name, text in asked:
        if name not in FociSettings.__dataclass_fields__ or name in given:
            raise FociSettingsError(f"{name[:40]!r} is no setting of foci, or is given twice")
        try:
            given[name] = int(text) if name == "min_cells" else float(text)
        except ValueError:
            raise FociSettingsError(f"{name} must be a number, not {text[:40]!r}") from None
        if given[name] > _MOST.get(name, 1.0):
            raise FociSettingsError(f"{name} must be {_MOST.get(name, 1):g} at most")
    if "seed_probability" not in given and "extend_probability" in given:
        extend = given["extend_probability"]
        given["seed_probability"] = max(recorded.seed_probability, extend)
    try:
        return replace(recorded, **given)
    except HistoslideError as error:
        raise FociSettingsError(str(error)) from None


def describe_foci(
    heat: Heatmap, settings: LesionSettings, recorded: LesionSettings, tables: str | None
) -> FociMessage:
    """The foci of a heatmap as ``histoslide lesions`` finds them, with their outlines.

    Args:
        heat: in which they are sought.
        settings: how, with the class.
        recorded: how those of the tables were found.
        tables: name of the tables beside the heatmap; None where there are none.

    Raises:
        StoreError: the heatmap cannot be read.
    """
    report = find_lesions(heat, settings)
    count = len(report.lesions)
    notes = [f"{note[0].upper()}{note[1:]}." for note in report.summary.notes]
    if count > MOST_FOCI:
        notes.insert(0, f"Only the {MOST_FOCI:,} longest of {count:,} are listed and outlined.")
    return FociMessage(
        notes=tuple(notes),
        settings=_plain(settings),
        recorded=_plain(recorded),
        tables=tables,
        lesions=tuple(_focus(heat, lesion) for lesion in report.lesions[:MOST_FOCI]),
    )


def _plain(settings: LesionSettings) -> FociSettings:
    return FociSettings(**{n: getattr(settings, n) for n in FociSettings.__dataclass_fields__})


def _focus(heat: Heatmap, lesion: Lesion) -> dict[str, Any]:
    box = lesion.box_l0
    return lesion_row(lesion) | {
        "number": lesion.number,
        "id": focus_id(heat.record.slide.quickhash, lesion.polygon_l0),
        "box_l0": [box.x, box.y, box.width, box.height],
        "polygons_l0": polygons_of(lesion.polygon_l0),
    }
