"""The first step: a slide is opened, masked and planned, and nothing is written."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Self

from histoslide.geometry import Mpp
from histoslide.grid.status import Status
from histoslide.pipeline.options import ScoreOptions
from histoslide.pipeline.outputs_beside import OutputsBeside
from histoslide.scoring.lazy import BlockModel, LazyHeatmap, make_heatmap
from histoslide.slide import Slide
from histoslide.slide.isolated.time_limit import TimeLimit
from histoslide.storage.location import Location
from histoslide.storage.zarr_folder import is_there
from histoslide.store import open_heatmap, plan_begun_with, refuse_other_settings, reopened
from histoslide.tissue.masks import TissueMask


@dataclass(frozen=True, kw_only=True)
class PreparedSlide:
    """A slide that is open and planned; leave its ``with`` block to close it."""

    path: Location
    """Slide file."""
    out: Location
    """Its heat.zarr, there already or not."""
    slide: Slide
    """Open."""
    tissue: TissueMask
    """Where it holds tissue."""
    lazy: LazyHeatmap
    """What is to be computed."""
    tiles: int
    """Tiles that the plan wants scored."""
    tiles_left: int
    """Those of them that no earlier run has scored."""
    limit: TimeLimit
    """Its clock; stands still until the next step."""
    beside: OutputsBeside
    """Files that go with the heatmap."""
    held: ExitStack
    """Closes the slide, and lets go of its local copy."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the slide."""
        self.held.close()


def prepare_slide(
    path: Location,
    out: Location,
    model: BlockModel,
    options: ScoreOptions,
    *,
    mpp: Mpp | None = None,
) -> PreparedSlide:
    """Open a slide, find its tissue and plan its heatmap. Writes nothing.

    The arguments and errors are those of ``score_slide``.
    """
    beside = OutputsBeside.of(out)
    beside.refuse_others(options)
    limit = TimeLimit(path.name, options.timeout_s)
    with ExitStack() as stack, limit.running():
        slide = stack.enter_context(options.access.open(path, mpp=mpp, limit=limit))
        tissue, roi = options.tissue.find(slide, ask_nuclei=options.timeout_s is None)
        lay_out = partial(
            make_heatmap,
            slide,
            model,
            stride_px=options.stride_px,
            tissue=tissue,
            tissue_threshold=options.tissue.threshold,
            roi=roi,
            mode=options.mode,
        )
        lazy = lay_out()
        begun = not options.overwrite and is_there(out)
        if begun and (plan := plan_begun_with(lazy, out)) is not None:
            lazy = lay_out(plan=plan)
        left = wanted = lazy.plan == Status.PENDING
        if begun:
            refuse_other_settings(lazy, out, options.ngff)
            status = open_heatmap(out, allow_incomplete=True).status
            if options.retry_unreadable:
                status = reopened(status, lazy.grid.block_cells)
            left = wanted & (status == Status.PENDING)
        return PreparedSlide(
            held=stack.pop_all(),  # whoever takes the slide closes it
            path=path,
            out=out,
            slide=slide,
            tissue=tissue,
            lazy=lazy,
            tiles=int(wanted.sum()),
            tiles_left=int(left.sum()),
            limit=limit,
            beside=beside,
        )
