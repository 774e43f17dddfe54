"""The report's page: one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files

from histoslide import look, quantities
from histoslide.errors import HistoslideError, StoreError
from histoslide.lesions import NOTICE, LesionSettings
from histoslide.report.contents import MOST_LESIONS, SlideReport, gather
from histoslide.report.pictures import colours
from histoslide.storage.location import Location, as_location, without_folder
from histoslide.storage.pages import page_templates
from histoslide.storage.writing import refuse_existing, whole_file
from histoslide.store import doubts_of
from histoslide.viewer.catalogue import Catalogue

logger = logging.getLogger(__name__)

DEFAULT_PICTURE_PX = 1000
"""Longest side of a slide's picture."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A slide that there is nothing to say of."""

    name: str
    """Of the slide or the heatmap."""
    reason: str
    """Why."""


def write_report(
    catalogue: Catalogue,
    out: Location | str,
    *,
    settings: LesionSettings | None = None,
    picture_px: int = DEFAULT_PICTURE_PX,
    overwrite: bool = False,
    on_slide: Callable[[int, int], None] | None = None,
) -> tuple[list[SlideReport], list[Failed]]:
    """Write a report of all heatmaps of a catalogue.

    Every heatmap is tried; what is said of one that cannot be read is why.

    Args:
        catalogue: heatmaps and slides.
        out: HTML file to write.
        settings: how lesions are found; None for the defaults.
        picture_px: longest side of each slide's picture.
        overwrite: replace an existing file.
        on_slide: called with the heatmaps done and in all.

    Returns:
        What was reported, and what could not be.

    Raises:
        OutputExistsError: ``out`` exists and ``overwrite`` is false.
        StoreError: there is no heatmap that can be reported, or ``out`` cannot be written.
    """
    out = as_location(out)
    refuse_existing(out, overwrite=overwrite)
    results = catalogue.results()
    slides: list[SlideReport] = []
    there = {entry.path for entry in catalogue.entries()}
    failed = [
        Failed(name=result.slide, reason=str(result.error))
        for key, result in results.items()
        if result.state == "failed" and key not in there
    ]
    for failure in failed:
        logger.warning("%s is left out, since scoring it failed: %s", failure.name, failure.reason)
    entries = catalogue.entries()
    for number, entry in enumerate(entries, start=1):
        try:
            heat = catalogue.source(entry.key).heat
            if not heat.complete:
                raise StoreError(f"{entry.path.name} is incomplete: finish its run first")
            warning = catalogue.slide_warning(entry.key)
            result = results.get(entry.path)
            notes = [warning] if warning else []
            if result is not None:  # what the run said, but not twice
                notes += [w for w in result.warnings if w not in doubts_of(heat)]
            slide = catalogue.slide(entry.key)
            slides.append(
                gather(
                    heat,
                    slide,
                    settings or LesionSettings(),
                    anchor=f"s{number}",
                    picture_px=picture_px,
                    notes=notes,
                )
            )
        except HistoslideError as error:
            reason = without_folder(error, entry.path)
            failed.append(Failed(name=entry.path.name, reason=reason))
            logger.warning("%s is left out: %s", entry.path.name, error)
        if on_slide is not None:
            on_slide(number, len(entries))
    if not slides:
        reason = failed[0].reason if failed else "there is no heatmap"
        raise StoreError(f"nothing to report: {reason}")
    try:
        with whole_file(out) as partial:
            partial.write_text(render(slides, failed), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}") from error
    return slides, failed


def render(slides: Sequence[SlideReport], failed: Sequence[Failed]) -> str:
    """The page as text; everything that comes from files is escaped."""
    folder = files("histoslide.report").joinpath("templates")
    return (
        page_templates("histoslide.report")
        .get_template("report.html")
        .render(
            slides=slides,
            failed=failed,
            notice=NOTICE,
            most_lesions=MOST_LESIONS,
            colours=colours(),
            say=quantities,
            opacity=look.OPACITY,
            version=version("histoslide"),
            style=folder.joinpath("report.css").read_text(encoding="utf-8"),
            script=folder.joinpath("report.js").read_text(encoding="utf-8"),
        )
    )
