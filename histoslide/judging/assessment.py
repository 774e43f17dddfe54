"""Figures of a judged cohort: lesions, slides and patients, and all of it by centre and scanner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histoslide.evaluation.bootstrap import Interval, interval, patient_weights, ratio
from histoslide.evaluation.slides.froc import Froc, FrocCurve
from histoslide.evaluation.slides.rules import FrocRules
from histoslide.evaluation.slides.slide_level import SlideLevel, band, slide_level
from histoslide.evaluation.slides.stages import Stage, confusion, stage_of, weighted_kappa
from histoslide.judging.cohort import JudgedCohort
from histoslide.judging.options import JudgeOptions
from histoslide.judging.reference import Reference
from histoslide.judging.slide import JudgedSlide
from histoslide.lesions import LesionClass

FALSE_GRID = np.geomspace(1 / 8, 16, 57)
"""Mean false positives a slide at which the band around the FROC curve is computed."""


@dataclass(frozen=True, kw_only=True)
class LesionLevel:
    """How well lesions are found."""

    slides: int
    """Slides on which lesions are judged."""
    negative: int
    """Those of them without tumour."""
    lesions: int
    """That are to be found."""
    isolated: int
    """Isolated cells, which are not."""
    found: int
    """Lesions with any detection in them."""
    false_per_slide: float
    """All false detections over all these slides."""
    false_per_negative: float | None
    """Those on slides without tumour over these; None where there is none."""
    curve: FrocCurve
    """Of the FROC."""
    score: float
    """Mean sensitivity at ``curve.at``."""
    score_interval: Interval | None
    """Over patients."""
    intervals: tuple[Interval | None, ...]
    """Of each of ``curve.sensitivities``."""
    band: NDArray[np.float64] | None = field(repr=False)
    """2.5th and 97.5th percentile of the sensitivity at ``FALSE_GRID``, shape (2, 57)."""


@dataclass(frozen=True, kw_only=True)
class SizeFigures:
    """How many lesions of a size are found."""

    kind: LesionClass
    """By the longest diameter of what was annotated."""
    lesions: int
    """To be found."""
    found: int
    """Of them."""
    interval: Interval | None
    """Of the part that is found, over patients."""

    @property
    def sensitivity(self) -> float:
        """Part that is found."""
        return self.found / self.lesions if self.lesions else float("nan")


@dataclass(frozen=True, kw_only=True)
class PatientStage:
    """A patient's stage as it is and as the heatmaps have it."""

    patient: str
    """Name."""
    nodes: int
    """Slides."""
    truth: Stage
    """Listed, or of the listed node classes."""
    said: Stage
    """Of the largest lesion of each heatmap."""


@dataclass(frozen=True, kw_only=True)
class PatientLevel:
    """How well patients are staged."""

    patients: tuple[PatientStage, ...]
    """Those that could be."""
    left_out: tuple[str, ...]
    """Those of whom a node has no heatmap or no class."""
    confusion: NDArray[np.int64] = field(repr=False)
    """By true (row) and predicted (column) stage."""
    kappa: float
    """Quadratic weighted; NaN where all are of one stage."""
    kappa_interval: Interval | None
    """Over patients."""


@dataclass(frozen=True, kw_only=True)
class GroupFigures:
    """The slides of one centre, or one scanner."""

    name: str
    """Of it."""
    slides: int
    """How many."""
    patients: int
    """How many."""
    lesions: LesionLevel | None
    """None where there is nothing to find."""
    slide_level: SlideLevel | None
    """None where there are not both kinds of slides."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """All figures of a cohort."""

    slides: int
    """How many were judged."""
    patients: int
    """How many they are of."""
    patients_known: bool
    """Whether the reference names the patient of every slide."""
    resamples: int
    """Of patients; 0 where there are too few, or none were asked for."""
    lesions: LesionLevel | None
    """None where there is no lesion to find."""
    by_size: tuple[SizeFigures, ...]
    """Macro-, micrometastases, and what is smaller but not isolated by the rules."""
    slide_level: SlideLevel | None
    """None where there are not both kinds of slides."""
    patient_level: PatientLevel | None
    """None where no node classes are listed."""
    by_centre: tuple[GroupFigures, ...]
    """Where the reference names centres."""
    by_scanner: tuple[GroupFigures, ...]
    """Where the reference names scanners."""


def assess(cohort: JudgedCohort, reference: Reference, options: JudgeOptions) -> Assessment:
    """Figures of a judged cohort.

    Args:
        cohort: what became of each slide.
        reference: what is known.
        options: how.
    """
    slides = cohort.slides
    weights = _weights(slides, options)
    return Assessment(
        slides=len(slides),
        patients=len({it.patient for it in slides}),
        patients_known=all(it.reference.patient is not None for it in slides),
        resamples=0 if weights is None else len(weights),
        lesions=_lesion_level(slides, options),
        by_size=_by_size(slides, options),
        slide_level=_slide_level(slides, options),
        patient_level=None if options.foreign else _patient_level(slides, reference, options),
        by_centre=_by_group(slides, [it.reference.centre for it in slides], options),
        by_scanner=_by_group(slides, [it.reference.scanner for it in slides], options),
    )


def _weights(slides: Sequence[JudgedSlide], options: JudgeOptions) -> NDArray[np.int64] | None:
    if not options.resamples:
        return None
    patients = [it.patient for it in slides]
    return patient_weights(patients, resamples=options.resamples, seed=options.seed)


def lesion_curve(slides: Sequence[JudgedSlide], rules: FrocRules) -> FrocCurve | None:
    """The FROC curve of slides on which lesions are judged."""
    hits = [it.hits for it in slides if it.hits is not None]
    return Froc(hits, over=rules.over, at=rules.at).curve()


def _lesion_level(slides: Sequence[JudgedSlide], options: JudgeOptions) -> LesionLevel | None:
    judged = [it for it in slides if it.hits is not None]
    hits = [it.hits for it in judged if it.hits is not None]
    froc = Froc(hits, over=options.rules.over, at=options.rules.at)
    curve, weights = froc.curve(), _weights(judged, options) if judged else None
    if curve is None:
        return None
    negative = [len(it.false) for it in hits if it.negative]
    at, score, bands = [], [], []
    for row in () if weights is None else weights:
        drawn = froc.curve(row)
        nothing = np.full(len(FALSE_GRID), np.nan)
        at.append(nothing[: len(curve.at)] if drawn is None else drawn.sensitivities)
        score.append(np.nan if drawn is None else drawn.score)
        bands.append(nothing if drawn is None else sensitivity_at(drawn, FALSE_GRID))
    told = np.array(at) if at else None
    return LesionLevel(
        slides=len(judged),
        negative=len(negative),
        lesions=sum(it.required for it in hits),
        isolated=sum(lesion.isolated for it in judged for lesion in it.lesions),
        found=sum(int((it.best > 0).sum()) for it in hits),
        false_per_slide=sum(len(it.false) for it in hits) / len(hits),
        false_per_negative=sum(negative) / len(negative) if negative else None,
        curve=curve,
        score=curve.score,
        score_interval=None if told is None else interval(np.array(score)),
        intervals=tuple(
            None if told is None else interval(told[:, i]) for i in range(len(curve.at))
        ),
        band=None if told is None else band(np.array(bands)),
    )


def sensitivity_at(curve: FrocCurve, false_per_slide: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sensitivity of a curve, interpolated; beyond its end it stays as high as it came."""
    return np.interp(false_per_slide, curve.false_per_slide[::-1], curve.sensitivity[::-1])


def _by_size(slides: Sequence[JudgedSlide], options: JudgeOptions) -> tuple[SizeFigures, ...]:
    judged = [it for it in slides if it.hits is not None]
    weights = _weights(judged, options) if judged else None
    figures = []
    for kind in reversed(LesionClass):
        of = [[it for it in s.lesions if it.kind == kind and not it.isolated] for s in judged]
        lesions = np.array([len(it) for it in of], dtype=np.int64)
        found = np.array([sum(lesion.found for lesion in it) for it in of], dtype=np.int64)
        if not lesions.sum():
            continue
        resampled = None if weights is None else ratio(weights @ found, weights @ lesions)
        figures.append(
            SizeFigures(
                kind=kind,
                lesions=int(lesions.sum()),
                found=int(found.sum()),
                interval=None if resampled is None else interval(resampled),
            )
        )
    return tuple(figures)


def _slide_level(slides: Sequence[JudgedSlide], options: JudgeOptions) -> SlideLevel | None:
    return slide_level(
        [it.score for it in slides],
        [it.tumour for it in slides],
        weights=_weights(slides, options),
        specificities=options.specificities,
    )


def _patient_level(
    slides: Sequence[JudgedSlide], reference: Reference, options: JudgeOptions
) -> PatientLevel | None:
    listed = Counter(it.patient for it in reference.slides.values() if it.patient)
    by_patient: dict[str, list[JudgedSlide]] = {}
    for slide in slides:
        if slide.reference.patient and slide.node is not None:
            by_patient.setdefault(slide.reference.patient, []).append(slide)
    stages, left_out = [], []
    for patient, nodes in listed.items():
        known = by_patient.get(patient, [])
        if not known:
            continue
        if len(known) < nodes:
            left_out.append(patient)
            continue
        classes = [it.reference.node for it in known if it.reference.node is not None]
        stages.append(
            PatientStage(
                patient=patient,
                nodes=nodes,
                truth=reference.stages.get(patient) or stage_of(classes),
                said=stage_of(it.node for it in known if it.node is not None),
            )
        )
    if not stages:
        return None
    truth, said = [it.truth for it in stages], [it.said for it in stages]
    counts = confusion(truth, said)
    weights = None
    if options.resamples:
        names = [it.patient for it in stages]
        weights = patient_weights(names, resamples=options.resamples, seed=options.seed)
    kappas = None if weights is None else np.array([_kappa(truth, said, row) for row in weights])
    return PatientLevel(
        patients=tuple(stages),
        left_out=tuple(left_out),
        confusion=counts,
        kappa=weighted_kappa(counts),
        kappa_interval=None if kappas is None else interval(kappas),
    )


def _kappa(truth: Sequence[Stage], said: Sequence[Stage], drawn: NDArray[np.int64]) -> float:
    which = np.repeat(np.arange(len(truth)), drawn).tolist()
    return weighted_kappa(confusion([truth[i] for i in which], [said[i] for i in which]))


def _by_group(
    slides: Sequence[JudgedSlide], names: Sequence[str | None], options: JudgeOptions
) -> tuple[GroupFigures, ...]:
    groups: Mapping[str, list[JudgedSlide]] = {
        name: [slide for slide, of in zip(slides, names, strict=True) if of == name]
        for name in sorted({name for name in names if name is not None})
    }
    return tuple(
        GroupFigures(
            name=name,
            slides=len(members),
            patients=len({it.patient for it in members}),
            lesions=_lesion_level(members, options),
            slide_level=_slide_level(members, options),
        )
        for name, members in groups.items()
    )
