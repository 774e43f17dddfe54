"""Where on a slide patches may lie, and what each would be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.annotations.boxes import Boxes
from histoslide.annotations.class_map import DEFAULT_CLASSES, ClassMap
from histoslide.annotations.truth import SlideTruth, find_truth, read_truth
from histoslide.errors import AnnotationError, HistoslideError
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.grid.windows import MAX_WINDOW_PX
from histoslide.pipeline.options import DEFAULT_TISSUE, TissueOptions
from histoslide.scoring.lazy import make_grid, plan_cells
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.tiling.labelled.label_rule import NORMAL, TUMOUR, LabelRule
from histoslide.tiling.labelled.sampling import spread
from histoslide.tiling.labelled.slide_list import LabelledSlide
from histoslide.tiling.planned import tile_spec

NO_LESION = -1
"""In place of a lesion's number where there is none."""


@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """How patches are cut."""

    input_px: int = 96
    """Side of a patch, in pixels of ``target_mpp``, like the two that follow."""
    label_px: int = 32
    """Side of the centre that its label speaks of."""
    stride_px: int = 32
    """Distance between the places where a patch may lie."""
    target_mpp: float = 0.972
    """Micrometres per pixel of the patches."""
    tissue: TissueOptions = DEFAULT_TISSUE
    """Which part of the slides."""
    classes: ClassMap = DEFAULT_CLASSES
    """Roles of the classes of annotations."""
    rule: LabelRule = LabelRule()  # noqa: RUF009 - frozen
    """Which label a patch gets."""
    per_slide: int | None = 1000
    """Most patches of each class of a slide; None for all."""
    balance: float | None = None
    """Most normal patches for each of tumour, in every part; None for no limit."""
    seed: int = 0
    """Of all that is drawn."""
    unannotated_normal: bool = False
    """Take slides without a file of annotations for free of tumour; else they are errors."""
    access: SlideAccess = DEFAULT_ACCESS
    """How slides are opened."""

    def __post_init__(self) -> None:
        if self.input_px < 1 or not 0 < self.label_px <= self.input_px:
            raise HistoslideError(
                f"--label-size {self.label_px} must lie in 1..--size ({self.input_px})"
            )
        if self.stride_px < 1:
            raise HistoslideError(f"--stride must be at least 1 px, not {self.stride_px}")
        if self.per_slide is not None and self.per_slide < 1:
            raise HistoslideError(f"--per-slide must be at least 1, not {self.per_slide}")
        if self.balance is not None and not self.balance > 0:
            raise HistoslideError(f"--balance must be above 0, not {self.balance:g}")


@dataclass(frozen=True, kw_only=True)
class PlannedPatches:
    """A slide and the patches that are to be cut of it."""

    slide: LabelledSlide
    """The slide."""
    quickhash: str
    """Tells slides apart."""
    grid: TileGrid
    """Where its cells and patches lie."""
    truth: SlideTruth
    """What is tumour on it."""
    annotations_sha256: str | None
    """Of the file; None where there is none."""
    cells: NDArray[np.int64]
    """Row and column of each patch, in reading order, shape (n, 2)."""
    labels: NDArray[np.int8]
    """``TUMOUR`` or ``NORMAL``, shape (n,)."""
    lesions: NDArray[np.int64]
    """Number of the lesion, or ``NO_LESION``, shape (n,)."""
    possible: tuple[int, int]
    """Normal and tumour patches that there would have been."""

    @property
    def counts(self) -> tuple[int, int]:
        """Normal and tumour patches."""
        return int((self.labels == NORMAL).sum()), int((self.labels == TUMOUR).sum())

    def boxes_l0(self, side_px: int) -> Boxes:
        """A square about the centre of each patch, shape (n, 4)."""
        return centred(self.grid, self.cells, side_px)

    def fewer_normal(self, most: int, rng: np.random.Generator) -> PlannedPatches:
        """The same with at most so many normal patches."""
        normal = np.flatnonzero(self.labels == NORMAL)
        if len(normal) <= most:
            return self
        keep = np.union1d(np.flatnonzero(self.labels == TUMOUR), rng.permutation(normal)[:most])
        return self.only(keep)

    def only(self, keep: NDArray[np.int64]) -> PlannedPatches:
        """The same with some of the patches."""
        return replace(
            self, cells=self.cells[keep], labels=self.labels[keep], lesions=self.lesions[keep]
        )


def plan_patches(slide: LabelledSlide, where: Path, options: CutOptions) -> PlannedPatches:
    """Open a slide and its annotations, find its tissue, and choose patches.

    Args:
        slide: the slide.
        where: annotations of all slides, for those whose list names no file.
        options: how patches are cut.

    Raises:
        HistoslideError: the slide, its annotations or a mask cannot be used.
    """
    spec = tile_spec(input_px=options.input_px, label_px=options.label_px, mpp=options.target_mpp)
    file = _annotations(slide, where, options)
    with options.access.open(slide.path, mpp=slide.mpp) as opened:
        window_cells = max(1, (MAX_WINDOW_PX - spec.input_px) // options.stride_px + 1)
        grid = make_grid(opened, spec, stride_px=options.stride_px, block_cells=window_cells)
        truth = SlideTruth.nothing(grid.size_l0)
        if file is not None:
            truth = read_truth(file, grid.size_l0, classes=options.classes)
            _refuse_contradiction(slide, truth, file)
        tissue = options.tissue.with_files(mask=slide.mask, roi=slide.roi)
        mask, roi = tissue.find(opened)
        plan = plan_cells(grid, mask, threshold=tissue.threshold, roi=roi)
        quickhash = opened.quickhash
    cells = np.argwhere(plan == Status.PENDING)
    cells = cells[_on_slide(grid, centred(grid, cells, options.input_px))]
    centres = centred(grid, cells, options.label_px)
    labels = options.rule.labels(truth, centres, exhaustive=slide.exhaustive)
    lesions = _lesions_of(truth, centres, labels)
    rng = np.random.default_rng((options.seed, *quickhash.encode()))
    step = -(-options.input_px // options.stride_px)
    chosen = []
    for label in (NORMAL, TUMOUR):
        mine = np.flatnonzero(labels == label)
        taken = spread(cells[mine], lesions[mine], most=options.per_slide, step=step, rng=rng)
        chosen.append(mine[taken])
    keep = np.sort(np.concatenate(chosen))
    return PlannedPatches(
        slide=slide,
        quickhash=quickhash,
        grid=grid,
        truth=truth,
        annotations_sha256=None if file is None else hashlib.sha256(file.read_bytes()).hexdigest(),
        cells=cells[keep],
        labels=labels[keep],
        lesions=lesions[keep],
        possible=(int((labels == NORMAL).sum()), int((labels == TUMOUR).sum())),
    )


def centred(grid: TileGrid, cells: NDArray[np.int64], side_px: int) -> Boxes:
    """The square of some side about the centre of each cell, as ``TileGrid`` has it, (n, 4)."""
    middle = (cells[:, ::-1] + 0.5) * grid.cell_l0
    half = side_px * grid.scale / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def _on_slide(grid: TileGrid, boxes: Boxes) -> NDArray[np.bool_]:
    """Whether all of each patch is on the slide: the white beyond would tell of its class."""
    edges = np.array([grid.size_l0.width, grid.size_l0.height])
    slack = 0.5 * grid.scale  # half a pixel of the patch
    inside = (boxes[:, :2] > -slack) & (boxes[:, 2:] < edges + slack)
    return np.asarray(inside.all(axis=1))


def _annotations(slide: LabelledSlide, where: Path, options: CutOptions) -> Path | None:
    """The file of a slide; None where it has no tumour."""
    name = slide.path.name
    if slide.tumour is False and slide.annotations is None:
        return None
    masks = [file for file in (slide.mask, slide.roi) if file is not None]
    file = find_truth(slide.annotations or where, name, passing_over=masks)
    if file is None and slide.tumour:
        raise AnnotationError(
            f"{name} is listed with tumour, and {where} has no annotations of it: draw them, or "
            "leave the slide out"
        )
    if file is None and not options.unannotated_normal:
        raise AnnotationError(
            f"{name}: {where} has no annotations of it: if it has no tumour, pass --unannotated "
            "normal, or list it with 'none' in the column annotations"
        )
    return file


def _refuse_contradiction(slide: LabelledSlide, truth: SlideTruth, file: Path) -> None:
    """What is drawn decides labels, so that a list must not say otherwise."""
    drawn = bool(truth.lesions())
    if slide.tumour is False and drawn:
        raise AnnotationError(
            f"{slide.path.name} is listed with no tumour, and {file.name} has some"
        )
    if slide.tumour and not drawn and slide.exhaustive:
        raise AnnotationError(f"{slide.path.name} is listed with tumour, and {file.name} has none")


def _lesions_of(truth: SlideTruth, centres: Boxes, labels: NDArray[np.int8]) -> NDArray[np.int64]:
    """The lesion that covers most of each tumour patch's centre."""
    import shapely  # noqa: PLC0415 - slow

    found = np.full(len(labels), NO_LESION, np.int64)
    mine = np.flatnonzero(labels == TUMOUR)
    lesions = np.array(truth.lesions(), dtype=object)
    if not len(mine) or not len(lesions):
        return found
    boxes: Any = shapely.box(*centres[mine].T)
    box, lesion = shapely.STRtree(lesions).query(boxes, predicate="intersects")
    overlap = np.zeros(len(box))
    several = np.isin(box, np.flatnonzero(np.bincount(box, minlength=len(boxes)) > 1))
    overlap[several] = shapely.area(
        shapely.intersection(boxes[box[several]], lesions[lesion[several]])
    )
    best = np.lexsort((-lesion, overlap))  # of equals the larger lesion, which is written last
    found[mine[box[best]]] = lesion[best]
    return found
