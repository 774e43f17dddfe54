"""A heatmap as a Dask array whose blocks know how to score themselves."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, ResolutionError
from histoslide.grid.cells import DEFAULT_BLOCK_CELLS, TileGrid
from histoslide.grid.status import Status
from histoslide.model import ModelSpec
from histoslide.model.engine import Engine
from histoslide.model.first_look import FirstLook
from histoslide.model.work import Work
from histoslide.scoring.block import Scorer, block_dtype, score_block
from histoslide.scoring.cascade import mode_of
from histoslide.scoring.mode import ScoreMode
from histoslide.scoring.record import MaskRecord, ModelRecord, ModeRecord, SlideRecord
from histoslide.slide import Slide, require_mpp
from histoslide.storage.records import Absent, to_builtins
from histoslide.tissue.masks import METHODS, TissueMask, find_tissue

if TYPE_CHECKING:
    import dask.array as da

    from histoslide.scoring.runners import BlockIndex

READER_VERSION = 5
"""Counts changes of what a tile's pixels are (levels, resampling, colours), so that a heatmap is
never finished by a release that reads otherwise than the one that began it."""

DEFAULT_TISSUE_THRESHOLD = 0.1
"""Part of the label footprint that must be tissue. Low, because a label speaks of any tumour in
the footprint: a nest at the rim of the tissue must not be passed over."""

DEFAULT_THRESHOLD = 0.5
"""Probability from which a cell is positive: it is counted, and outlined in pictures."""


class BlockModel(Protocol):
    """A model as a heatmap is laid out with it: its facts here, its network where it is used."""

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        ...

    @property
    def sha256(self) -> str:
        """Identifies the weights."""
        ...

    @property
    def engine(self) -> Engine:
        """What computes and how precisely."""
        ...

    @property
    def ranges_sha256(self) -> str | None:
        """Tells the ranges apart that int8 rounds by; None for other precisions."""
        ...

    @property
    def device(self) -> str:
        """Where; for people to read."""
        ...

    def check(self, work: Work) -> None:
        """Make sure, as far as it can be told here, that the network can do a kind of work.

        Raises:
            HistoslideError: it cannot, and why.
        """
        ...

    @property
    def first_look(self) -> FirstLook | None:
        """Of a cascade of two models, what is recorded of the one that looks first."""
        ...

    def here(self) -> Scorer:
        """The model in the process that computes, loaded once."""
        ...

    def share(self, slide: Slide) -> Slide:
        """The slide as blocks should carry it to where they are computed."""
        ...


class BlockScorer(Protocol):
    """Computes a block, here or on a cluster."""

    def __call__(self, part: NDArray[np.uint8], block_id: tuple[int, int]) -> NDArray[np.void]:
        """The block's values, as of ``score_block``.

        Args:
            part: of the plan.
            block_id: row and column of the block; Dask goes by the name.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    """Scores with a model from a slide; picklable where these are."""

    slide: Slide
    grid: TileGrid
    model: BlockModel
    mode: ScoreMode

    def __call__(self, part: NDArray[np.uint8], block_id: tuple[int, int]) -> NDArray[np.void]:
        cells = self.grid.block(*block_id)
        return score_block(self.slide, self.grid, cells, part, self.model.here(), self.mode)


@dataclass(frozen=True, kw_only=True)
class LazyHeatmap:
    """A heatmap before it is computed. Storing it is running it (``histoslide.store``).

    What is stored is another type, ``histoslide.store.Heatmap``, and in a room above: this one has
    a slide, a network and a graph in it and nothing to read; that one has a folder and nothing to
    compute with, so that whoever looks at heatmaps needs neither slide nor bundle. What both know
    (grid, spec, and the records of slide, mask, model and mode) are the same values.
    """

    scorer: BlockScorer
    """Computes its blocks."""
    plan: NDArray[np.uint8]
    """Status of every cell before scoring, shape ``grid.shape``."""
    grid: TileGrid
    """Where the cells lie."""
    spec: ModelSpec
    """The model that scores them."""
    slide: SlideRecord
    """What will be recorded of the slide."""
    mask: MaskRecord
    """What will be recorded of how the plan was made."""
    model: ModelRecord
    """What will be recorded of the model."""
    mode: ScoreMode
    """How the cells come by their probabilities."""
    engine: Engine
    """What computes them and how precisely."""
    device: str
    """Where they will be computed."""

    def __repr__(self) -> str:
        to_score = int((self.plan == Status.PENDING).sum())
        return (
            f"LazyHeatmap({self.slide.name!r}, {self.grid.rows} × {self.grid.cols} cells of "
            f"{self.grid.cell_um:.1f} µm, {to_score:,} to score by {self.model.name!r})"
        )

    def score(self, block: BlockIndex) -> NDArray[np.void]:
        """Compute a block in this thread: what computing that block of ``blocks`` gives."""
        return self.scorer(self.plan[self.grid.block(*block).slices], block)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Of the values of a block; see ``histoslide.scoring.block.block_dtype``."""
        return block_dtype(len(self.spec.classes), self.mode.extras)

    @cached_property
    def blocks(self) -> da.Array:
        """Structured array of shape ``grid.shape``, one chunk a block, of ``dtype``."""
        import dask.array as da  # noqa: PLC0415 - half a second, and threads need none of it

        side = self.grid.block_cells
        return da.map_blocks(
            self.scorer,
            da.from_array(self.plan, chunks=(side, side), name=False),
            dtype=self.dtype,
            meta=np.empty((0, 0), dtype=self.dtype),
            name=f"score-{uuid.uuid4().hex}",
        )

    @property
    def probability(self) -> da.Array:
        """Lazy probabilities, shape (rows, cols, classes); NaN where nothing is scored."""
        return self.blocks["probability"]

    @property
    def _ranges(self) -> dict[str, Any]:
        found = self.model.ranges_sha256
        return {} if isinstance(found, Absent) else {"model.ranges_sha256": found}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the values of the heatmap, JSON-ready."""
        grid = self.grid
        return {
            "reader": READER_VERSION,
            "slide.size_l0": [grid.size_l0.width, grid.size_l0.height],
            "slide.quickhash": self.slide.quickhash,
            "slide.mpp": grid.slide_mpp.value,
            "grid.stride_px": grid.stride_px,
            "grid.block_cells": grid.block_cells,
            "mask.method": self.mask.method,
            "mask.threshold": self.mask.threshold,
            "mask.roi": self.mask.roi,
            "mask.plan_sha256": hashlib.sha256(self.plan.tobytes()).hexdigest(),
            "model.name": self.model.name,
            "model.sha256": self.model.sha256,
            **self._ranges,
            "engine": str(self.engine),
            **_flat(to_builtins(ModeRecord.of(self.mode))),
        }


def _flat(mode: dict[str, Any]) -> dict[str, Any]:
    """A mode's record with names of settings as the fingerprint has them, one a value."""
    first = mode.pop("first_look", {})
    return mode | {f"first_look.{name}": value for name, value in first.items()}


def make_grid(
    slide: Slide,
    spec: ModelSpec,
    *,
    stride_px: int | None = None,
    block_cells: int = DEFAULT_BLOCK_CELLS,
) -> TileGrid:
    """The grid on which a model scores a slide; the stride defaults to the label footprint.

    Raises:
        ResolutionUnknownError: the slide's resolution is not known.
        ResolutionError: the slide is much coarser than the model.
    """
    mpp = require_mpp(slide)
    try:
        return TileGrid(
            size_l0=slide.size_l0,
            slide_mpp=mpp,
            model_mpp=spec.mpp,
            input_px=spec.input_px,
            label_px=spec.label_px,
            stride_px=spec.label_px if stride_px is None else stride_px,
            block_cells=block_cells,
        )
    except ResolutionError as error:
        raise ResolutionError(f"{slide.name}: {error}") from error


def plan_cells(
    grid: TileGrid,
    tissue: TissueMask,
    *,
    threshold: float = DEFAULT_TISSUE_THRESHOLD,
    roi: TissueMask | None = None,
) -> NDArray[np.uint8]:
    """Decide which cells to score.

    Args:
        grid: of the slide.
        tissue: mask of the slide.
        threshold: part of the label footprint that must be tissue, 0-1; at 0, every cell counts.
        roi: region of interest; cells with less than half of their footprint in it are excluded.

    Returns:
        ``PENDING``, ``BACKGROUND`` or ``EXCLUDED`` for each cell, shape ``grid.shape``.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"the tissue threshold must lie in 0-1, not {threshold}")
    share = tissue.fractions(grid, side_px=grid.label_px)
    # A bare comparison would lose footprints that are all tissue to float rounding at 1.0.
    enough = share >= threshold - 1e-9
    plan = np.where(enough, Status.PENDING, Status.BACKGROUND).astype(np.uint8)
    if roi is not None:
        plan[roi.fractions(grid, side_px=grid.label_px) < 0.5] = Status.EXCLUDED
    return plan


def make_heatmap(
    slide: Slide,
    model: BlockModel,
    *,
    stride_px: int | None = None,
    tissue: TissueMask | None = None,
    tissue_threshold: float = DEFAULT_TISSUE_THRESHOLD,
    roi: TissueMask | None = None,
    plan: NDArray[np.uint8] | None = None,
    block_cells: int = DEFAULT_BLOCK_CELLS,
    mode: ScoreMode | None = None,
) -> LazyHeatmap:
    """Lay out a slide's heatmap; pixels are read and scored only when it is stored.

    Args:
        slide: with a known resolution.
        model: to score with.
        stride_px: side of a cell in model pixels; None for the model's label footprint.
        tissue: mask; None finds it with the default method.
        tissue_threshold: see ``plan_cells``.
        roi: see ``plan_cells``.
        plan: from ``plan_cells``, where it is not to be made from mask and region once more.
        block_cells: side of a block in cells.
        mode: how cells come by their probabilities; None for exact tiles, after a first look where
            the model is a cascade.

    Raises:
        ResolutionUnknownError: the slide's resolution is not known.
        ResolutionError: the slide is much coarser than the model.
        HistoslideError: the model cannot be used in this mode.
    """
    mode = mode_of(model) if mode is None else mode
    grid = make_grid(slide, model.spec, stride_px=stride_px, block_cells=block_cells)
    mode.check(model.spec, stride_px=grid.stride_px)
    if mode.first_look is not None and mode.first_look != model.first_look:
        raise HistoslideError(
            f"the mode takes a first look by {mode.first_look.name}, which the model does not have "
            "with it: score with histoslide.scoring.cascade.Cascade and its mode"
        )
    for work in mode.works(grid.stride_px):
        model.check(work)
    tissue = find_tissue(slide, METHODS["otsu"]) if tissue is None else tissue
    if plan is None:
        plan = plan_cells(grid, tissue, threshold=tissue_threshold, roi=roi)

    return LazyHeatmap(
        scorer=_Scorer(slide=model.share(slide), grid=grid, model=model, mode=mode),
        plan=plan,
        grid=grid,
        spec=model.spec,
        slide=SlideRecord.of(slide, grid.slide_mpp),
        mask=MaskRecord.of(tissue, roi, threshold=tissue_threshold),
        model=ModelRecord.of(model.spec, sha256=model.sha256, ranges_sha256=model.ranges_sha256),
        mode=mode,
        engine=model.engine,
        device=model.device,
    )
