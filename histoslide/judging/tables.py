"""Tables of a judged cohort as CSV: a row a lesion, a slide, a false detection, a patient."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from histoslide.judging.assessment import Assessment
from histoslide.judging.choice import Choice
from histoslide.judging.cohort import JudgedCohort
from histoslide.storage.tables import TableWriter

LESIONS_NAME, SLIDES_NAME = "lesions.csv", "slides.csv"
FALSE_NAME, PATIENTS_NAME = "false-detections.csv", "patients.csv"
CHOICE_NAME = "choice.csv"

_LESION_COLUMNS = (
    "slide", "patient", "lesion", "class", "isolated", "longest_diameter_um", "major_axis_um",
    "area_mm2", "centre_x_l0", "centre_y_l0", "found", "score", "highest_probability",
    "unreadable_share", "outside_mask_share", "judged",
)  # fmt: skip
_SLIDE_COLUMNS = (
    "slide", "patient", "centre", "scanner", "tumour", "slide_score", "lesions", "found",
    "false_detections", "detections", "node", "node_said", "unreadable_cells", "lesions_not_judged",
)  # fmt: skip
_FALSE_COLUMNS = ("slide", "tumour", "score", "x_l0", "y_l0")
_PATIENT_COLUMNS = ("patient", "nodes", "stage", "stage_said")
_CHOICE_COLUMNS = (
    "seed_probability", "extend_probability", "smoothing_um", "join_gap_um", "min_cells",
    "froc_score", "sensitivity", "false_per_slide", "false_per_negative_slide",
)  # fmt: skip


def lesion_table(cohort: JudgedCohort) -> str:
    """A row a lesion; isolated cells, and lesions that are not judged, too."""
    return _table(
        _LESION_COLUMNS,
        (
            {
                "slide": slide.slide,
                "patient": slide.reference.patient,
                "lesion": lesion.number,
                "class": lesion.kind.value,
                "isolated": lesion.isolated,
                "longest_diameter_um": round(lesion.longest_um, 1),
                "major_axis_um": round(lesion.major_axis_um, 1),
                "area_mm2": round(lesion.area_mm2, 6),
                "centre_x_l0": lesion.centre_l0[0],
                "centre_y_l0": lesion.centre_l0[1],
                "found": lesion.found,
                "score": lesion.score,
                "highest_probability": lesion.highest_probability,
                "unreadable_share": round(lesion.unreadable_share, 4),
                "outside_mask_share": round(lesion.outside_share, 4),
                "judged": slide.hits is not None and not lesion.isolated,
            }
            for slide in cohort.slides
            for lesion in slide.lesions
        ),
    )


def slide_table(cohort: JudgedCohort) -> str:
    """A row a slide."""
    return _table(
        _SLIDE_COLUMNS,
        (
            {
                "slide": slide.slide,
                "patient": slide.reference.patient,
                "centre": slide.reference.centre,
                "scanner": slide.reference.scanner,
                "tumour": slide.tumour,
                "slide_score": slide.score,
                "lesions": None if slide.hits is None else slide.hits.required,
                "found": None if slide.hits is None else int((slide.hits.best > 0).sum()),
                "false_detections": None if slide.hits is None else len(slide.hits.false),
                "detections": slide.detections,
                "node": slide.reference.node,
                "node_said": slide.node,
                "unreadable_cells": slide.unreadable_cells,
                "lesions_not_judged": slide.not_judged,
            }
            for slide in cohort.slides
        ),
    )


def false_table(cohort: JudgedCohort) -> str:
    """A row a false detection, the highest of each slide."""
    return _table(
        _FALSE_COLUMNS,
        (
            {
                "slide": slide.slide,
                "tumour": slide.tumour,
                "score": it.score,
                "x_l0": it.x_l0,
                "y_l0": it.y_l0,
            }
            for slide in cohort.slides
            for it in slide.highest_false
        ),
    )


def patient_table(assessment: Assessment) -> str:
    """A row a patient that could be staged."""
    level = assessment.patient_level
    return _table(
        _PATIENT_COLUMNS,
        (
            {
                "patient": it.patient,
                "nodes": it.nodes,
                "stage": it.truth.value,
                "stage_said": it.said.value,
            }
            for it in (() if level is None else level.patients)
        ),
    )


def choice_table(choice: Choice) -> str:
    """A row a setting that was tried, the best first."""
    return _table(
        _CHOICE_COLUMNS,
        (
            {
                "seed_probability": it.settings.seed_probability,
                "extend_probability": it.settings.extend_probability,
                "smoothing_um": it.settings.smoothing_um,
                "join_gap_um": it.settings.join_gap_um,
                "min_cells": it.settings.min_cells,
                "froc_score": round(it.score, 6),
                "sensitivity": round(it.sensitivity, 6),
                "false_per_slide": round(it.false_per_slide, 6),
                "false_per_negative_slide": it.false_per_negative,
            }
            for it in choice.tried
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    with io.StringIO() as file:
        TableWriter(file, lineterminator="\n").write_named(columns, rows)
        return file.getvalue()
