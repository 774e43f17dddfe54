"""What is known of the slides: a table, or a folder of annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TypeVar

from histoslide.annotations.truth import find_truth
from histoslide.errors import AnnotationError, DataError
from histoslide.evaluation.slides.stages import NodeClass, Stage
from histoslide.storage.tables import read_table

COLUMNS = (
    "slide", "label", "patient", "centre", "scanner", "annotation", "exhaustive", "node", "stage",
)  # fmt: skip
"""Of a table; all but the first may be missing."""

_OTHER_NAMES = {
    "annotations": "annotation", "center": "centre", "class": "label", "image": "slide",
    "node_class": "node",
}  # fmt: skip

_FOR_OTHERS = {"mpp", "output", "part"}
"""Columns that the same table has for ``score`` and ``tile``."""

_NOTHING_DRAWN = "none"
"""In the place of a file: there is no tumour to draw, as ``tile`` has it."""

_YES = {"tumour", "tumor", "positive", "metastasis", "1", "yes", "true"}
_NO = {"normal", "negative", "0", "no", "false"}

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


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is known of a cohort."""

    source: Path
    """The table or folder."""
    slides: Mapping[str, ReferenceSlide]
    """By name without ending and case; empty for a folder."""
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
        found = self.slides.get(_key(slide))
        if found is None:
            raise DataError(f"{self.source} says nothing of {slide}: add a line for it")
        return found


def read_reference(path: Path, *, others_negative: bool = False) -> Reference:
    """A table of slides, CAMELYON17's ``patient,stage``, or a folder of annotations.

    Args:
        path: of it. Paths in a table are relative to the table.
        others_negative: slides that a folder has no annotation of hold no tumour.

    Raises:
        DataError: it cannot be read, or does not say what it must.
    """
    if path.is_dir():
        return Reference(source=path, slides={}, stages={}, others_negative=others_negative)
    if others_negative:
        raise DataError("--others-negative is for a folder of annotations: a CSV says it itself")
    columns, rows = read_table(path, error=DataError)
    names = [_column(name) for name in columns]
    lines = [(row.line, {_column(k): cell for k, cell in row.cells.items()}) for row in rows]
    if names == ["patient", "stage"]:
        return _camelyon17(path, lines)
    unknown = [name for name in names if name not in {*COLUMNS, *_FOR_OTHERS}]
    if "slide" not in names or unknown or len(set(names)) < len(names):
        raise DataError(
            f"{path} has the columns {','.join(names)[:200] or '(none)'}: need slide and may have "
            f"{', '.join(COLUMNS[1:])}, each once"
        )
    return _table(path, lines)


def _column(name: str) -> str:
    plain = name.strip().casefold()
    return _OTHER_NAMES.get(plain, plain)


def _key(slide: str) -> str:
    """Names that can be meant by each other: without folder, ending and case."""
    name = PureWindowsPath(slide).name
    return Path(name).stem.casefold() if Path(name).suffix[1:2].isalpha() else name.casefold()


def _table(path: Path, lines: list[tuple[int, dict[str, str]]]) -> Reference:
    slides: dict[str, ReferenceSlide] = {}
    stages: dict[str, Stage] = {}
    for number, row in lines:
        where = f"{path}, line {number}"
        slide = _slide(path, row, where)
        if slides.setdefault(_key(slide.name), slide) is not slide:
            raise DataError(f"{where}: {slide.name} is listed twice")
        if row.get("stage"):
            stage = _one_of(row["stage"], _STAGES, "stage", where)
            patient = slide.patient
            if patient is None:
                raise DataError(f"{where}: a stage is a patient's, whom it does not name")
            if stages.setdefault(patient, stage) != stage:
                raise DataError(f"{where}: {patient} has two stages")
    if not slides:
        raise DataError(f"{path} lists no slide")
    return Reference(source=path, slides=slides, stages=stages)


def _slide(path: Path, row: Mapping[str, str], where: str) -> ReferenceSlide:
    name = row.get("slide", "")
    if not name:
        raise DataError(f"{where}: names no slide")
    node = _one_of(row["node"], _NODES, "node", where) if row.get("node") else None
    tumour = _yes_or_no(row["label"], "label", where) if row.get("label") else None
    if node is not None:
        if tumour is not None and tumour != (node != NodeClass.NEGATIVE):
            raise DataError(f"{where}: label {row['label']} and node {row['node']} contradict")
        tumour = node != NodeClass.NEGATIVE
    annotation = None
    if row.get("annotation", "").casefold() == _NOTHING_DRAWN:
        tumour = False if tumour is None else tumour
    elif row.get("annotation"):
        try:
            annotation = find_truth(path.parent / row["annotation"], PureWindowsPath(name).name)
        except AnnotationError as error:
            raise DataError(f"{where}: {error}") from error
    if tumour is None and annotation is None:
        raise DataError(
            f"{where}: nothing says whether {name} holds tumour: give a label, a node class or an "
            "annotation"
        )
    return ReferenceSlide(
        name=PureWindowsPath(name).name,
        tumour=tumour,
        patient=row.get("patient") or None,
        centre=row.get("centre") or None,
        scanner=row.get("scanner") or None,
        annotation=annotation,
        exhaustive=_yes_or_no(row.get("exhaustive") or "yes", "exhaustive", where),
        node=node,
    )


def _camelyon17(path: Path, lines: list[tuple[int, dict[str, str]]]) -> Reference:
    """Its list has a line of ``patient_004.zip`` with the stage, and one for each of the nodes."""
    slides: dict[str, ReferenceSlide] = {}
    stages: dict[str, Stage] = {}
    for number, row in lines:
        where, name = f"{path}, line {number}", row.get("patient", "")
        if name.casefold().endswith(".zip"):
            stages[name[: -len(".zip")]] = _one_of(row.get("stage", ""), _STAGES, "stage", where)
            continue
        patient, found, _ = name.partition("_node_")
        if not found:
            raise DataError(f"{where}: {name!r} is no patient_NNN_node_N.tif of CAMELYON17")
        node = _one_of(row.get("stage", ""), _NODES, "node", where)
        slide = ReferenceSlide(
            name=name, tumour=node != NodeClass.NEGATIVE, patient=patient, node=node
        )
        if slides.setdefault(_key(name), slide) is not slide:
            raise DataError(f"{where}: {name} is listed twice")
    if not slides:
        raise DataError(f"{path} lists no slide")
    return Reference(source=path, slides=slides, stages=stages)


def _yes_or_no(text: str, column: str, where: str) -> bool:
    word = text.casefold()
    if word in _YES | _NO:
        return word in _YES
    raise DataError(f"{where}: {column} {text!r} is neither tumour/yes/1 nor normal/no/0")


def _one_of(text: str, known: Mapping[str, T], column: str, where: str) -> T:
    found = known.get(text.casefold())
    if found is None:
        raise DataError(f"{where}: {column} {text!r} is none of {', '.join(known)}")
    return found
