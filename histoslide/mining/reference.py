"""What is known of slides: what is tumour on them, and which must not be learnt from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely

from histoslide.annotations.class_map import DEFAULT_CLASSES, ClassMap, Role
from histoslide.annotations.polygon_areas import PolygonAreas
from histoslide.annotations.polygons import Polygon
from histoslide.annotations.truth import SlideTruth, find_truth, read_truth
from histoslide.datasets.mined import Kind
from histoslide.errors import DataError
from histoslide.geometry import Size
from histoslide.review import ReviewedSlide, ReviewObject, is_review, read_review
from histoslide.slide.slide_table import (
    TRAINING,
    ListedSlide,
    by_slide,
    read_slide_table,
    slide_key,
)
from histoslide.storage.tables import read_table

EVERYTHING = "all"
"""For ``negative``: no slide has any tumour."""


@dataclass(frozen=True, kw_only=True)
class KnownTruth:
    """What is true of one slide, and who says so."""

    truth: SlideTruth
    """Tumour, normal, excluded."""
    kind: Kind
    """Who says so."""
    exhaustive: bool
    """Whether all that is not drawn is normal."""
    file: Path | None = None
    """Where it stands; None of a slide that only is known to be negative."""

    @property
    def sha256(self) -> str | None:
        """Of the file."""
        return None if self.file is None else hashlib.sha256(self.file.read_bytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is known of all slides."""

    folder: Path | None = None
    """Where files of annotations and reviews are looked for; or one file, for one slide."""
    listed: Mapping[str, ListedSlide] = field(default_factory=dict)
    """What a table says of slides, by ``slide_key`` of their names."""
    negative: frozenset[str] = frozenset()
    """Names of slides without tumour, with or without their endings, or ``EVERYTHING``."""
    split: Mapping[str, str] = field(default_factory=dict)
    """Part of slides and patients that a file of a split names."""
    classes: ClassMap = DEFAULT_CLASSES
    """Roles of classes."""
    exhaustive: bool = True
    """Of annotations of which no list tells."""

    def refusal(self, slide: str) -> str | None:
        """Why a slide must not be learnt from; None where it may."""
        listed = self.listed.get(slide_key(slide))
        if listed is not None and not _may_be_learnt(listed.text("part")):
            return f"{listed.table.name} marks it as {listed.text('part')}"
        patient = "" if listed is None else listed.text("patient")
        for name in (slide, Path(slide).stem, patient):
            if not _may_be_learnt(self.split.get(name, "")):
                return f"the split has {name} in {self.split[name]}"
        return None

    def find(self, slide: ReviewedSlide) -> KnownTruth | None:
        """What is known of a slide; None where nothing is.

        Raises:
            HistoslideError: its file cannot be used, or tells of tumour on a negative slide.
        """
        size, name = Size(*slide.size_l0), slide.name
        listed = self.listed.get(slide_key(name))
        negative = bool({EVERYTHING, name, Path(name).stem} & self.negative)
        tumour = told = None
        if listed is not None:
            tumour, told = listed.tumour, listed.exhaustive
        if negative and tumour:
            raise DataError(f"{name} is said to be negative, but is listed with tumour")
        negative |= tumour is False
        file = self._file(name, listed)
        if file is None:
            nothing = SlideTruth.nothing(size)
            return KnownTruth(truth=nothing, kind="negative", exhaustive=True) if negative else None
        kind: Kind = "annotations"
        if is_review(file):
            kind = "review"
            truth = _reviewed(file, slide, self.classes)
        else:
            truth = read_truth(file, size, classes=self.classes)
        if negative and truth.lesions():
            raise DataError(f"{name} is said to be negative, but {file.name} shows tumour on it")
        exhaustive = kind != "review" and self.exhaustive if told is None else told
        return KnownTruth(truth=truth, kind=kind, exhaustive=negative or exhaustive, file=file)

    def _file(self, slide: str, listed: ListedSlide | None) -> Path | None:
        named = None if listed is None else listed.annotations
        where = named or self.folder
        masks = () if listed is None else listed.masks
        return None if where is None else find_truth(where, slide, passing_over=masks)


def read_reference(
    path: Path | None,
    *,
    negative: Iterable[str] = (),
    split: Path | None = None,
    classes: ClassMap = DEFAULT_CLASSES,
    exhaustive: bool = True,
) -> Reference:
    """Look at what is known.

    Args:
        path: a folder of annotations and reviews, a file of one slide, or a table of slides
            (``histoslide.slide.slide_table``), of which ``annotations``, ``exhaustive``, ``label``,
            ``node``, ``patient`` and ``part`` are used.
        negative: names of slides without tumour, or ``all``.
        split: CSV with the columns ``part`` and ``slide`` or ``patient``.
        classes: roles of classes.
        exhaustive: whether all tumour is drawn, of annotations of which no list tells; a review
            never is.

    Raises:
        SlideListError: the table cannot be used.
        DataError: the split cannot be used, or there is nothing at all to go by.
    """
    listed = path is not None and path.suffix.lower() == ".csv"
    if path is not None and not path.exists():
        raise DataError(f"--reference {path} does not exist")
    names = frozenset(negative)
    if path is None and not names:
        raise DataError(
            "nothing is known of the slides: pass --reference, or --negative NAME or all"
        )
    parts: dict[str, str] = {}
    if split is not None:
        for row in _split_rows(split):
            part = row.get("part", "")
            parts |= {row[name]: part for name in ("slide", "patient") if row.get(name)}
    return Reference(
        folder=None if path is None else path.parent if listed else path,
        listed=by_slide(read_slide_table(path)) if path is not None and listed else {},
        negative=names,
        split=parts,
        classes=classes,
        exhaustive=exhaustive,
    )


def _may_be_learnt(part: str) -> bool:
    return not part or part.casefold() in TRAINING


def _split_rows(path: Path) -> list[Mapping[str, str]]:
    columns, rows = read_table(path, error=DataError)
    if not rows or "part" not in columns:
        raise DataError(f"{path} needs a column part and a line below it")
    return [row.cells for row in rows]


def _reviewed(file: Path, slide: ReviewedSlide, classes: ClassMap) -> SlideTruth:
    """What a review says. What was drawn as tumour stays so within a focus that was rejected."""
    objects = [it for it in read_review(file, slide).objects if it.class_name is not None]
    roles = classes.roles(dict.fromkeys(it.class_name or "" for it in objects), source=file)
    role_of = {it.id: roles[it.class_name or ""] for it in objects}
    drawn = shapely.union_all(
        [it.outline_l0 for it in objects if not it.is_focus and role_of[it.id] == Role.TUMOUR]
    )

    def outline(kept: ReviewObject) -> shapely.Geometry:
        if kept.is_focus and role_of[kept.id] == Role.NORMAL and not drawn.is_empty:
            return kept.outline_l0.difference(drawn)
        return kept.outline_l0

    meant = [
        (Polygon(_ring(part.exterior), tuple(map(_ring, part.interiors))), role_of[kept.id])
        for kept in objects
        if role_of[kept.id] != Role.NOTHING
        for part in shapely.get_parts(outline(kept))
        if isinstance(part, shapely.Polygon) and part.area > 0
    ]
    size = Size(*slide.size_l0)
    areas, mended = PolygonAreas.of(meant, size)
    return SlideTruth(size_l0=size, areas=areas, source=file, mended=mended, classes=roles)


def _ring(ring: shapely.LinearRing) -> Any:
    return shapely.get_coordinates(ring)[:-1]
