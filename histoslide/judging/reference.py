"""What is known of the slides: a table, or a folder of annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from histoslide.annotations.truth import find_truth
from histoslide.errors import AnnotationError, DataError
from histoslide.evaluation.slides.stages import NodeClass, Stage
from histoslide.slide.slide_table import (
    TRAINING,
    ListedSlide,
    by_slide,
    column_name,
    read_slide_table,
    slide_key,
)
from histoslide.storage.tables import TableRow, read_table

_NODES = {it.value: it for it in NodeClass} | {
    "isolated tumour cells": NodeClass.ITC,
    "micrometastasis": NodeClass.MICRO,
    "macrometastasis": NodeClass.MACRO,
}
T = TypeVar("T")

_STAGES = {it.value.casefold(): it for it in Stage}


@dataclass(frozen=True, kw_only=True)
class ReferenceSlide:
    """What is known of a slide."""

    name: str
    """File name, or that without its ending."""
    tumour: bool | None = None
    """Whether it holds any; None where the annotation is to say so."""
    patient: str | None = None
    """Whose it is; None where nobody said."""
    centre: str | None = None
    """Where it is from."""
    scanner: str | None = None
    """What scanned it."""
    annotation: Path | None = None
    """File of annotations; None where there is none."""
    exhaustive: bool = True
    """Whether all tumour is annotated. Else lesions are not judged on it."""
    node: NodeClass | None = None
    """What the lymph node on it is called."""
    for_training: bool = False
    """Whether it is marked as one that models learn from."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is known of a cohort."""

    source: Path
    """The table or folder."""
    slides: Mapping[str, ReferenceSlide]
    """By ``slide_key`` of its name; empty for a folder."""
    stages: Mapping[str, Stage]
    """Of patients, where they are told apart from their nodes."""
    others_negative: bool = False
    """Whether slides that are not annotated in a folder hold no tumour."""

    def of(self, slide: str) -> ReferenceSlide:
        """What is known of a slide.

        Args:
            slide: file name.

        Raises:
            DataError: nothing is, or no annotation is found.
            AnnotationError: two files may be meant.
        """
        if self.source.is_dir():
            annotation = find_truth(self.source, slide)
            if annotation is None and not self.others_negative:
                raise DataError(
                    f"{self.source} holds no annotation of {slide}: pass --others-negative if "
                    "slides without one hold no tumour, or a CSV that says which do"
                )
            tumour = None if annotation is not None else False
            return ReferenceSlide(name=slide, tumour=tumour, annotation=annotation)
        found = self.slides.get(slide_key(slide))
        if found is None:
            raise DataError(f"{self.source} says nothing of {slide}: add a line for it")
        return found


def read_reference(path: Path, *, others_negative: bool = False) -> Reference:
    """A table of slides, CAMELYON17's ``patient,stage``, or a folder of annotations.

    Args:
        path: of it. Paths in a table are relative to the table.
        others_negative: slides that a folder has no annotation of hold no tumour.

    Raises:
        SlideListError: see ``histoslide.slide.slide_table``.
        DataError: it cannot be read, or does not say what it must.
    """
    if path.is_dir():
        return Reference(source=path, slides={}, stages={}, others_negative=others_negative)
    if others_negative:
        raise DataError("--others-negative is for a folder of annotations: a CSV says it itself")
    columns, rows = read_table(path, error=DataError)
    if [column_name(name) for name in columns] == ["patient", "stage"]:
        return _camelyon17(path, rows)
    return _table(path)


def _table(path: Path) -> Reference:
    slides: dict[str, ReferenceSlide] = {}
    stages: dict[str, Stage] = {}
    for key, listed in by_slide(read_slide_table(path)).items():
        slides[key] = slide = _slide(listed)
        if not listed.text("stage"):
            continue
        stage = _one_of(listed.text("stage"), _STAGES, "stage", listed.where)
        if slide.patient is None:
            raise DataError(f"{listed.where}: a stage is a patient's, whom it does not name")
        if stages.setdefault(slide.patient, stage) != stage:
            raise DataError(f"{listed.where}: {slide.patient} has two stages")
    return Reference(source=path, slides=slides, stages=stages)


def _slide(listed: ListedSlide) -> ReferenceSlide:
    where, name = listed.where, listed.name
    annotation = None
    if listed.annotations is not None:
        try:
            annotation = find_truth(listed.annotations, name, passing_over=listed.masks)
        except AnnotationError as error:
            raise DataError(f"{where}: {error}") from error
    if listed.tumour is None and annotation is None:
        raise DataError(
            f"{where}: nothing says whether {name} holds tumour: give a label, a node class or an "
            "annotation"
        )
    node = listed.text("node")
    return ReferenceSlide(
        name=name,
        tumour=listed.tumour,
        patient=listed.text("patient") or None,
        centre=listed.text("centre") or None,
        scanner=listed.text("scanner") or None,
        annotation=annotation,
        exhaustive=listed.exhaustive is not False,
        node=_one_of(node, _NODES, "node", where) if node else None,
        for_training=listed.text("part").casefold() in TRAINING,
    )


def _camelyon17(path: Path, rows: list[TableRow]) -> Reference:
    """Its list has a line of ``patient_004.zip`` with the stage, and one for each of the nodes."""
    slides: dict[str, ReferenceSlide] = {}
    stages: dict[str, Stage] = {}
    for row in rows:
        cells = {column_name(name): cell for name, cell in row.cells.items()}
        where, name = f"{path}, line {row.line}", cells.get("patient", "")
        if name.casefold().endswith(".zip"):
            stages[name[: -len(".zip")]] = _one_of(cells.get("stage", ""), _STAGES, "stage", where)
            continue
        patient, found, _ = name.partition("_node_")
        if not found:
            raise DataError(f"{where}: {name!r} is no patient_NNN_node_N.tif of CAMELYON17")
        node = _one_of(cells.get("stage", ""), _NODES, "node", where)
        slide = ReferenceSlide(
            name=name, tumour=node != NodeClass.NEGATIVE, patient=patient, node=node
        )
        if slides.setdefault(slide_key(name), slide) is not slide:
            raise DataError(f"{where}: {name} is listed twice")
    if not slides:
        raise DataError(f"{path} lists no slide")
    return Reference(source=path, slides=slides, stages=stages)


def _one_of(text: str, known: Mapping[str, T], column: str, where: str) -> T:
    found = known.get(text.casefold())
    if found is None:
        raise DataError(f"{where}: {column} {text!r} is none of {', '.join(known)}")
    return found
