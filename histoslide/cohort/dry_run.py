"""What a run would do, and about how long it would take. Nothing is written."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from histoslide.cohort.jobs import SlideJob
from histoslide.errors import HistoslideError, ResolutionUnknownError
from histoslide.grid.status import Status
from histoslide.model.prediction import TILES
from histoslide.model.work import Work
from histoslide.pipeline import ScoreOptions, prepare_slide
from histoslide.scoring.block import Scorer
from histoslide.scoring.lazy import BlockModel
from histoslide.scoring.mode import ScoreMode
from histoslide.storage.location import Location, readable_name

logger = logging.getLogger(__name__)

MEASURED_SECONDS = 3.0
"""How long a network is timed: about forty batches on a CPU, more on an accelerator."""

_WARM_UP_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """What would be done with one slide."""

    slide: str
    """File name."""
    output: str
    """Name of the heatmap."""
    state: Literal["to score", "begun", "complete", "failed"]
    """``begun``: an earlier run has scored some of it."""
    cells: int = 0
    """Cells of the grid."""
    tiles: int = 0
    """Tiles in tissue."""
    tiles_left: int = 0
    """Those that have not been scored yet."""
    blocks: int = 0
    """Blocks of the grid that hold such tiles; each is read once."""
    seconds: float = 0.0
    """For opening the slide and finding its tissue, as just measured."""
    error: str | None = None
    """Why it would fail."""
    resolution_unknown: bool = False
    """Whether that is the reason."""


def plan_slides(
    jobs: Sequence[SlideJob],
    out: Location,
    model: BlockModel,
    options: ScoreOptions,
    *,
    on_slide: Callable[[int, int], None] | None = None,
) -> list[SlidePlan]:
    """Open and mask every slide and count what is to be scored.

    Args:
        jobs: with their outputs named.
        out: folder of the outputs.
        model: that would score.
        options: how.
        on_slide: called with (slides done, slides in all).
    """
    plans = []
    for number, job in enumerate(jobs, start=1):
        plans.append(_plan(job, out, model, options))
        if on_slide is not None:
            on_slide(number, len(jobs))
    return plans


def _plan(job: SlideJob, out: Location, model: BlockModel, options: ScoreOptions) -> SlidePlan:
    began = time.monotonic()
    try:
        own = job.options(options)
        with prepare_slide(job.path, out / job.heatmap, model, own, mpp=job.mpp) as prepared:
            lazy, grid = prepared.lazy, prepared.lazy.grid
            blocks = sum(
                bool((lazy.plan[cells.slices] == Status.PENDING).any()) for cells in grid.blocks()
            )
            begun = prepared.out.exists() and not options.overwrite
            return SlidePlan(
                slide=readable_name(job.path),
                output=job.heatmap,
                state=("begun" if prepared.tiles_left else "complete") if begun else "to score",
                cells=grid.rows * grid.cols,
                tiles=prepared.tiles,
                tiles_left=prepared.tiles_left,
                blocks=blocks,
                seconds=time.monotonic() - began,
            )
    except HistoslideError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is made for the user
        return SlidePlan(
            slide=readable_name(job.path),
            output=job.heatmap,
            state="failed",
            error=str(error),
            resolution_unknown=isinstance(error, ResolutionUnknownError),
        )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Cells a second through the network."""

    at_best: float
    """Where nothing is looked at again."""
    at_worst: float
    """Where everything is; the same in modes that look once."""


def network_speed(model: Scorer, mode: ScoreMode, stride_px: int | None = None) -> Speed:
    """How fast a model scores on this machine now.

    How much of a slide a cascade looks at again, nobody knows beforehand.

    Args:
        model: to measure.
        mode: that it is used in.
        stride_px: side of a cell in model pixels; None for the label footprint.
    """
    works = mode.works(stride_px or model.spec.label_px)
    first, *again = (tiles_per_second(model, work) for work in works)
    both = 1 / (1 / first + sum(1 / rate for rate in again)) if again else first
    return Speed(at_best=first, at_worst=both)


def tiles_per_second(
    model: Scorer, work: Work = TILES, *, seconds: float = MEASURED_SECONDS
) -> float:
    """How many cells a model scores a second on this machine now: noise in, probabilities out.

    Reading goes on beside the network, so that a run is about as fast where slides can be read
    faster than that.

    Args:
        model: to measure.
        work: that is measured.
        seconds: to measure for.
    """
    batches, side = model.batches(work), work.side_px(model.spec)
    pixels = np.random.default_rng(0).integers(0, 256, (batches.size, 3, side, side), np.uint8)
    noise = batches.memory.hold(pixels)
    began, cells = time.monotonic(), 0
    for round_ in itertools.count():
        if round_ == _WARM_UP_BATCHES:
            began, cells = time.monotonic(), 0
        if round_ > _WARM_UP_BATCHES and time.monotonic() - began >= seconds:
            break
        with batches.reader():
            batches.wait([batches.put(noise.__getitem__, len(noise))])
        cells += work.across**2 * batches.size
    return cells / (time.monotonic() - began)
