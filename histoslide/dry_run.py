"""What a run would do, and about how long it would take. Nothing is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from histoslide.errors import HistoslideError, ResolutionUnknownError
from histoslide.model import Model
from histoslide.pipeline import ScoreOptions, prepare_slide
from histoslide.scoring import Status
from histoslide.slide_list import SlideJob

logger = logging.getLogger(__name__)

MEASURED_SECONDS = 3.0
"""How long the network is timed: about forty batches on a CPU, more on an accelerator."""

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
    out: Path,
    model: Model,
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


def _plan(job: SlideJob, out: Path, model: Model, options: ScoreOptions) -> SlidePlan:
    began = time.monotonic()
    try:
        with prepare_slide(job.path, out / job.heatmap, model, options, mpp=job.mpp) as prepared:
            lazy, grid = prepared.lazy, prepared.lazy.grid
            down, across = grid.block_shape
            blocks = sum(
                bool((lazy.plan[grid.block(i, j).slices] == Status.PENDING).any())
                for i in range(down)
                for j in range(across)
            )
            begun = prepared.out.exists() and not options.overwrite
            return SlidePlan(
                slide=job.path.name,
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
            slide=job.path.name,
            output=job.heatmap,
            state="failed",
            error=str(error),
            resolution_unknown=isinstance(error, ResolutionUnknownError),
        )


def tiles_per_second(model: Model, *, seconds: float = MEASURED_SECONDS) -> float:
    """How fast a model is on this machine now: noise in, probabilities out.

    Reading goes on beside the network, so that a run is about as fast where slides can be read
    faster than that.
    """
    batches = _batches(model)
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    began, tiles = time.monotonic(), 0
    while (took := time.monotonic() - began) < seconds:
        tiles += next(batches)
    return tiles / took


def _batches(model: Model) -> Iterator[int]:
    side, count = model.spec.input_px, model.batch_size
    noise = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8).to(model.device)
    while True:
        model.probabilities(noise).cpu()  # which waits for the device
        yield count
