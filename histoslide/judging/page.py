"""The report of a judged cohort: one HTML page, and tables and pictures beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from histoslide.errors import StoreError
from histoslide.evaluation.bootstrap import FEWEST_PATIENTS
from histoslide.evaluation.drawing import to_png
from histoslide.evaluation.numbers import number, percent, plain_value, spread
from histoslide.judging import plots, tables
from histoslide.judging.assessment import Assessment
from histoslide.judging.cohort import JudgedCohort
from histoslide.judging.gallery import missed_lesions, show_false, show_missed
from histoslide.judging.links import ViewerLinks
from histoslide.judging.options import SCORE_KINDS, JudgeOptions
from histoslide.judging.reference import Reference
from histoslide.lesions import NOTICE
from histoslide.lesions.settings_file import ChosenSettings
from histoslide.storage.pages import page_templates
from histoslide.storage.records import to_json
from histoslide.storage.writing import refuse_existing, whole_file
from histoslide.viewer.catalogue import Catalogue

REPORT_NAME, FIGURES_NAME = "report.html", "figures.json"

_PICTURES = ("froc", "roc", "stages")

MOST_ROWS = 200
"""Lesions that the page lists; the CSV has all."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the page."""

    name: str
    """Of its PNG file, without the ending."""
    caption: str
    """What it shows; also its text for those who do not see it."""
    png: bytes
    """The file."""

    @property
    def uri(self) -> str:
        """The picture as a data address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def report_files() -> tuple[str, ...]:
    """Names of all files that a report may have."""
    csv = (tables.LESIONS_NAME, tables.SLIDES_NAME, tables.FALSE_NAME, tables.PATIENTS_NAME)
    return (REPORT_NAME, FIGURES_NAME, *csv, *(f"{name}.png" for name in _PICTURES))


def refuse_report(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a report may be written.

    Raises:
        OutputExistsError: something lies there under a name that it may take.
    """
    for name in report_files():
        refuse_existing(folder / name, overwrite=overwrite)


def write_report(
    folder: Path,
    *,
    cohort: JudgedCohort,
    assessment: Assessment,
    reference: Reference,
    options: JudgeOptions,
    catalogue: Catalogue,
    links: ViewerLinks,
    chosen: ChosenSettings | None,
    warnings: Sequence[str],
    overwrite: bool = False,
) -> Path:
    """Write page, pictures and tables into a folder; the page last.

    Args:
        folder: made where it is missing; other files in it are left alone.
        cohort: what became of each slide.
        assessment: its figures.
        reference: what is known.
        options: how it was judged.
        catalogue: of the heatmaps and slides.
        links: into a viewer.
        chosen: where lesion settings come from; None where they were given.
        warnings: from ``warnings_of``.
        overwrite: replace an earlier report.

    Returns:
        Path of the page.

    Raises:
        OutputExistsError: there is a report, and ``overwrite`` is false.
        StoreError: the folder cannot be written, or a heatmap has changed since.
    """
    refuse_report(folder, overwrite=overwrite)
    pictures = {picture.name: picture for picture in _pictures(assessment)}
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=f"{len(cohort.slides)} heatmaps against {reference.source.resolve().name}",
            style=files("histoslide.evaluation").joinpath("page.css").read_text(encoding="utf-8"),
            own_style=files("histoslide.judging")
            .joinpath("templates")
            .joinpath("report.css")
            .read_text(encoding="utf-8"),
            notice=NOTICE,
            warnings=warnings,
            assessment=assessment,
            cohort=cohort,
            options=options,
            pictures=pictures,
            note=resampling_note(assessment, options),
            variants=list(options.rules.variants()),
            slide_score=SCORE_KINDS[options.slide_score].format(cells=options.settings.score_cells),
            lesions=_lesion_rows(cohort),
            missed=missed_lesions(cohort.slides),
            missed_shown=show_missed(cohort.slides, catalogue, links, options),
            false_shown=show_false(cohort.slides, catalogue, links, options),
            links=links,
            keys={entry.path: entry.key for entry in catalogue.entries()},
            chosen=chosen,
            most_rows=MOST_ROWS,
            version=version("histoslide"),
            date=datetime.now().astimezone().date().isoformat(),
        )
    )
    content: dict[str, str | bytes] = {
        tables.LESIONS_NAME: tables.lesion_table(cohort),
        tables.SLIDES_NAME: tables.slide_table(cohort),
        tables.FALSE_NAME: tables.false_table(cohort),
        FIGURES_NAME: to_json(figures(assessment, cohort, options, warnings)),
    }
    if assessment.patient_level is not None:
        content[tables.PATIENTS_NAME] = tables.patient_table(assessment)
    content |= {f"{picture.name}.png": picture.png for picture in pictures.values()}
    _write(folder, content | {REPORT_NAME: page})
    return folder / REPORT_NAME


def _write(folder: Path, content: dict[str, str | bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in report_files():  # of an earlier report, which had others
            if name not in content:
                (folder / name).unlink(missing_ok=True)
        for name, body in content.items():
            with whole_file(folder / name) as partial:
                partial.write_bytes(body.encode() if isinstance(body, str) else body)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error


def figures(
    assessment: Assessment, cohort: JudgedCohort, options: JudgeOptions, warnings: Sequence[str]
) -> dict[str, Any]:
    """All figures, ready for JSON: what is undefined is None."""
    variants = list(options.rules.variants())
    found: dict[str, Any] = plain_value(assessment)
    level = assessment.lesions
    if level is not None:
        found["lesions"]["sensitivities"] = plain_value(level.curve.sensitivities)
    return {
        "detections": options.described,
        "rules": variants or "CAMELYON16",
        "slide_score": options.slide_score,
        "warnings": list(warnings),
        "failed": [plain_value(it) for it in cohort.failed],
        "missing": list(cohort.missing),
    } | found


def resampling_note(assessment: Assessment, options: JudgeOptions) -> str:
    """How the intervals came to be, in a sentence or two."""
    if assessment.resamples:
        note = (
            f"95 % intervals from {assessment.resamples:,} bootstrap resamples of whole patients. "
            "Where all resamples agree, or most of them leave a figure undefined, there is none."
        )
    elif options.resamples:
        note = (
            f"There are no intervals: {assessment.patients} patients are too few to be resampled "
            f"({FEWEST_PATIENTS} are needed)."
        )
    else:
        note = "Intervals were not asked for."
    if not assessment.patients_known and assessment.slides > 1:
        note += (
            " The reference does not name the patient of every slide: such a slide is taken for a "
            "patient of its own, and where a patient has several, intervals are too narrow."
        )
    return note


def _pictures(assessment: Assessment) -> Iterator[Picture]:
    level = assessment.lesions
    if level is not None:
        band = (
            " The band holds the middle 95 % of the resampled curves."
            if level.band is not None
            else ""
        )
        yield _picture(
            "froc",
            plots.froc_curve(level),
            "The part of lesions that is found against mean false positives a slide, over all "
            f"thresholds. The points are where the FROC score is read off.{band}",
        )
    if assessment.slide_level is not None:
        band = (
            " The band holds the middle 95 % of the resampled curves."
            if assessment.slide_level.band is not None
            else ""
        )
        yield _picture(
            "roc",
            plots.roc_curve(assessment.slide_level),
            "Slides with tumour against slides without, over all thresholds of the slide score. "
            "The area under it (AUC) is the chance that one with tumour scores above one without."
            f"{band}",
        )
    if assessment.patient_level is not None:
        yield _picture(
            "stages",
            plots.stage_matrix(assessment.patient_level),
            "Patients by actual stage (row) and by that of their heatmaps (column). Colour is the "
            "part of the row.",
        )


def _picture(name: str, figure: Figure, caption: str) -> Picture:
    assert name in _PICTURES, "refuse_report knows all names"
    return Picture(name=name, caption=caption, png=to_png(figure))


def warnings_of(
    cohort: JudgedCohort,
    assessment: Assessment,
    chosen: ChosenSettings | None,
    same: Sequence[str],
) -> list[str]:
    """What to know before believing a figure.

    Args:
        cohort: what became of each slide.
        assessment: its figures.
        chosen: where lesion settings come from; None where they were given.
        same: slides that they were chosen on.
    """
    return list(_warnings(cohort, assessment, chosen, same))


def _warnings(
    cohort: JudgedCohort,
    assessment: Assessment,
    chosen: ChosenSettings | None,
    same: Sequence[str],
) -> Iterator[str]:
    if same:
        yield (
            f"The lesion settings were chosen on {len(same)} of these slides or on their patients "
            f"({_listed(same)}): what is said of lesions is too good to be reported."
        )
    elif chosen is not None and chosen.models:
        others = sorted({it.model_sha256 for it in cohort.slides} - set(chosen.models))
        if others:
            yield "The lesion settings were chosen on heatmaps of another model than these."
    if learnt := [it.slide for it in cohort.slides if it.reference.for_training]:
        yield (
            f"{len(learnt)} of these slides are marked for training: {_listed(learnt)}. Of a model "
            "that has learnt from them the figures say nothing."
        )
    if cohort.failed:
        names = _listed([it.name for it in cohort.failed])
        yield f"{len(cohort.failed)} could not be judged and are in no figure: {names}."
    if cohort.missing:
        yield (
            f"{len(cohort.missing)} slides of the reference have no heatmap and are in no figure: "
            f"{_listed(cohort.missing)}."
        )
    left_out = [it for it in cohort.slides if it.not_judged]
    for reason in sorted({it.not_judged for it in left_out}):
        names = _listed([it.slide for it in left_out if it.not_judged == reason])
        yield f"Lesions are not judged where {reason}: {names}."
    unscored = [it.slide for it in cohort.slides if not it.scored]
    if unscored:
        yield f"Nothing was scored, and the slide score is 0, on {_listed(unscored)}."
    unseen = [
        f"{slide.slide} lesion {lesion.number}"
        for slide in cohort.slides
        for lesion in slide.lesions
        if not lesion.found and lesion.unreadable_share
    ]
    if unseen:
        yield f"Missed, and in part or wholly unreadable: {_listed(unseen)}."
    if len({it.model_sha256 for it in cohort.slides}) > 1:
        yield "The heatmaps are of several models."
    level = assessment.patient_level
    if level is not None and level.left_out:
        yield (f"Not staged, since a node has no heatmap or no class: {_listed(level.left_out)}.")


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"


def _lesion_rows(cohort: JudgedCohort) -> list[tuple[Any, Any]]:
    """Lesions to list: the missed first, then the longest."""
    rows = [(slide, lesion) for slide in cohort.slides for lesion in slide.lesions]
    return sorted(rows, key=lambda it: (it[1].isolated, it[1].found, -it[1].longest_um))


def _environment() -> Environment:
    environment = page_templates("histoslide.judging")
    environment.filters |= {"number": number, "spread": spread, "percent": percent}
    return environment
