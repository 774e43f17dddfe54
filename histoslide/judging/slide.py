"""One heatmap compared with what is known of its slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histoslide import quantities
from histoslide.annotations.truth import SlideTruth, read_truth
from histoslide.errors import DataError
from histoslide.evaluation.slides.detections import Detections, read_detections
from histoslide.evaluation.slides.hits import SlideHits, match
from histoslide.evaluation.slides.lesion_truth import LesionTruth, TrueLesion, lesion_truth
from histoslide.evaluation.slides.stages import NodeClass
from histoslide.geometry import Size
from histoslide.grid.status import Status
from histoslide.judging.options import JudgeOptions
from histoslide.judging.reference import ReferenceSlide
from histoslide.lesions import Lesion, LesionClass, kind_of, slide_score
from histoslide.lesions.peaks import lesion_peaks, local_maxima
from histoslide.lesions.report import lesions_of
from histoslide.storage.location import Location
from histoslide.store import Heatmap, open_heatmap

MOST_FALSE = 20
"""False detections a slide that are kept with their place."""

NODE_OF = {
    None: NodeClass.NEGATIVE,
    LesionClass.ISOLATED_TUMOUR_CELLS: NodeClass.ITC,
    LesionClass.MICROMETASTASIS: NodeClass.MICRO,
    LesionClass.MACROMETASTASIS: NodeClass.MACRO,
}


@dataclass(frozen=True, kw_only=True)
class JudgedLesion:
    """A lesion and what became of it."""

    number: int
    """On its slide, from 1."""
    kind: LesionClass
    """By the longest diameter of what was annotated."""
    isolated: bool
    """Isolated cells by the rules of the FROC: neither required nor counted against."""
    longest_um: float
    """Longest diameter of what was annotated."""
    major_axis_um: float
    """Of the grown region."""
    area_mm2: float
    """Annotated."""
    centre_l0: tuple[float, float]
    """(x, y) in level-0 pixels."""
    score: float | None
    """Highest score of a detection in it; None where it was missed."""
    highest_probability: float | None
    """Of a cell that lies on what was annotated; None where none was scored."""
    unreadable_share: float
    """Part of its cells that could not be read."""
    outside_share: float
    """Part of its cells that were not looked at: outside the tissue mask or the region."""

    @property
    def found(self) -> bool:
        """Whether any detection lies in it."""
        return self.score is not None

    @property
    def remark(self) -> str:
        """What a reader should know of a lesion that was not wholly looked at."""
        parts = []
        if self.unreadable_share:
            parts.append(f"{quantities.share(self.unreadable_share, 0)} unreadable")
        if self.outside_share:
            parts.append(f"{quantities.share(self.outside_share, 0)} outside the tissue mask")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class FalseFinding:
    """A detection where there is no lesion."""

    score: float
    """Of the detection."""
    x_l0: float
    """Level-0 pixels."""
    y_l0: float
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class JudgedSlide:
    """A heatmap and what it got right."""

    path: Location = field(repr=False)
    """The heat.zarr."""
    slide: str
    """File name."""
    quickhash: str
    """Of the slide."""
    model_sha256: str
    """Of the weights that scored it."""
    size_l0: Size
    """Of the slide."""
    mpp: float
    """Micrometres a level-0 pixel."""
    reference: ReferenceSlide
    """What is known."""
    tumour: bool
    """Whether the slide holds any, by label or annotation."""
    score: float
    """Of the slide; 0 where nothing was scored."""
    scored: bool
    """Whether any cell was."""
    node: NodeClass | None
    """What the largest lesion of the heatmap makes of the node; None where it was not asked for."""
    detections: int
    """How many there are."""
    hits: SlideHits | None
    """None where lesions are not known."""
    not_judged: str
    """Why lesions are not judged here; empty where they are."""
    lesions: tuple[JudgedLesion, ...]
    """Those that are known, isolated cells too."""
    highest_false: tuple[FalseFinding, ...]
    """False detections, the highest first, at most ``MOST_FALSE``."""
    unreadable_cells: int
    """Cells of tissue that could not be read."""

    @property
    def patient(self) -> str:
        """Whose it is; a slide of nobody known is taken for a patient of its own."""
        return self.reference.patient or f"slide {self.slide}"


def judge_slide(path: Location, reference: ReferenceSlide, options: JudgeOptions) -> JudgedSlide:
    """Compare a heatmap with what is known of its slide.

    Raises:
        StoreError: the heatmap is incomplete or damaged, or has no such class.
        AnnotationError: the annotation cannot be read or does not fit the slide.
        DataError: what is known contradicts itself, or foreign detections cannot be read.
    """
    heat = opened(path)
    record, settings = heat.record, options.settings
    probability, status = heat.cells(settings.class_name)
    lesions: Sequence[Lesion] | None = None
    if reference.node is not None and not options.foreign:
        lesions = lesions_of(heat.grid, probability, status, settings)
    detections = detect(heat, probability, options)
    drawn, truth = slide_truth(heat, reference, options)
    tumour = reference.tumour if reference.tumour is not None else truth is not None
    not_judged = ""
    if tumour and truth is None:
        not_judged = "its tumour is not annotated"
    elif not reference.exhaustive:
        not_judged = "not all of its tumour is annotated"
    compared = match(detections, truth, excused=in_excluded(drawn, detections))
    hits = None if not_judged else compared
    told = () if truth is None else _lesions(heat, probability, status, truth, compared)
    return JudgedSlide(
        path=path,
        slide=record.slide.name,
        quickhash=record.slide.quickhash,
        model_sha256=record.model.sha256,
        size_l0=heat.grid.size_l0,
        mpp=heat.grid.slide_mpp.value,
        reference=reference,
        tumour=tumour,
        score=_slide_score(probability, detections, options),
        scored=bool(np.isfinite(probability).any()),
        node=None if lesions is None else NODE_OF[lesions[0].kind if lesions else None],
        detections=len(detections),
        hits=hits,
        not_judged=not_judged,
        lesions=told,
        highest_false=() if hits is None else _highest(hits.false),
        unreadable_cells=int((status == Status.UNREADABLE).sum()),
    )


def opened(path: Location) -> Heatmap:
    """A complete heatmap, whose damage is noticed when its cells are read, not twice.

    Raises:
        StoreError: it is incomplete, or is none.
    """
    return open_heatmap(path, allow_damaged=True)


def detect(heat: Heatmap, probability: NDArray[np.float32], options: JudgeOptions) -> Detections:
    """The detections of a slide.

    Raises:
        DataError: foreign ones cannot be read.
    """
    if options.foreign:
        slide = heat.record.slide.name
        return read_detections(options.detections_of(slide), heat.grid.size_l0)
    if options.detections == "maxima":
        peaks = local_maxima(
            heat.grid,
            probability,
            above=options.maxima_above,
            radius_um=options.maxima_radius_um,
            smoothing_um=options.settings.smoothing_um,
        )
    else:
        peaks = lesion_peaks(heat.grid, probability, options.settings)
    return Detections(score=peaks.score, x_l0=peaks.x_l0, y_l0=peaks.y_l0)


def slide_truth(
    heat: Heatmap, reference: ReferenceSlide, options: JudgeOptions
) -> tuple[SlideTruth | None, LesionTruth | None]:
    """What was drawn on a slide, and its lesions; None for lesions where no tumour was drawn.

    Raises:
        AnnotationError: the annotation cannot be read or does not fit the slide.
        DataError: it contradicts the label.
    """
    if reference.annotation is None:
        return None, None
    size_l0, rules = heat.grid.size_l0, options.rules
    drawn = read_truth(reference.annotation, size_l0, classes=options.classes)
    factor = rules.downsample(heat.grid.slide_mpp.value)
    size = Size(-(-size_l0.width // factor), -(-size_l0.height // factor))
    mask = drawn.tumour_mask(size)
    there = bool(mask.any())
    if reference.tumour is not None and reference.tumour != there:
        says, has = ("tumour", "none") if reference.tumour else ("no tumour", "some")
        raise DataError(
            f"{reference.name} is listed with {says}, and {reference.annotation.name} has {has} "
            f"at {factor * heat.grid.slide_mpp.value:.3g} µm/px: correct one of the two"
        )
    if not there:
        return drawn, None
    mpp = rules.assumed_mpp or heat.grid.slide_mpp.value
    return drawn, lesion_truth(mask, downsample=factor, mpp=mpp, rules=rules)


def in_excluded(drawn: SlideTruth | None, detections: Detections) -> NDArray[np.bool_] | None:
    """Which detections lie in regions that were excluded; None where there are none."""
    if drawn is None or not len(detections):
        return None
    x, y = np.floor(detections.x_l0), np.floor(detections.y_l0)
    return drawn.touches_excluded(np.stack([x, y, x + 1, y + 1], axis=1))


def _lesions(
    heat: Heatmap,
    probability: NDArray[np.float32],
    status: NDArray[np.uint8],
    truth: LesionTruth,
    hits: SlideHits,
) -> tuple[JudgedLesion, ...]:
    told = []
    for lesion, score in zip(truth.lesions, hits.reached, strict=True):
        cells = cells_of(heat, lesion, truth.downsample)
        values, states = probability[cells], status[cells]
        known = np.isfinite(values)
        told.append(
            JudgedLesion(
                number=lesion.number,
                kind=kind_of(lesion.longest_um),
                isolated=lesion.isolated,
                longest_um=lesion.longest_um,
                major_axis_um=lesion.major_axis_um,
                area_mm2=lesion.area_mm2,
                centre_l0=lesion.centre_l0,
                score=float(score) or None,
                highest_probability=float(values[known].max()) if known.any() else None,
                unreadable_share=float((states == Status.UNREADABLE).mean()),
                outside_share=float(np.isin(states, (Status.BACKGROUND, Status.EXCLUDED)).mean()),
            )
        )
    return tuple(told)


def cells_of(
    heat: Heatmap, lesion: TrueLesion, downsample: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the cells that the middles of a lesion's annotated pixels lie in."""
    pixels = np.argwhere(lesion.annotated) + [side.start for side in lesion.window]
    cells = ((pixels + 0.5) * downsample / heat.grid.cell_l0).astype(np.intp)
    row, col = np.minimum(cells, np.array(heat.grid.shape) - 1).T
    row, col = np.divmod(np.unique(row * heat.grid.cols + col), heat.grid.cols)
    return row, col


def _slide_score(
    probability: NDArray[np.float32], detections: Detections, options: JudgeOptions
) -> float:
    if options.slide_score == "detection":
        return float(detections.score.max()) if len(detections) else 0.0
    if options.slide_score == "group":
        return slide_score(probability, options.settings.score_cells) or 0.0
    known = probability[np.isfinite(probability)]
    return float(known.max()) if known.size else 0.0


def _highest(false: Detections) -> tuple[FalseFinding, ...]:
    order = np.argsort(-false.score, kind="stable")[:MOST_FALSE]
    return tuple(
        FalseFinding(
            score=float(false.score[i]), x_l0=float(false.x_l0[i]), y_l0=float(false.y_l0[i])
        )
        for i in order
    )
