"""What became of one slide."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

SlideState = Literal["pending", "running", "done", "partly unreadable", "failed"]

FailureCause = Literal["resolution unknown", "timed out", "crashed", "bug"]


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """What became of one slide."""

    slide: str
    """File name."""
    state: SlideState
    """``partly unreadable``: scored where it could be read. ``running`` in the records of a run
    that was killed: continued by the next one, as ``pending``."""
    output: str | None = None
    """Name of the heat.zarr, which a slide that failed may not have, or only in part."""
    mpp: float | None = None
    """Micrometres per level-0 pixel that it was scored at, or None where it failed."""
    mpp_source: str | None = None
    """Where that comes from."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Cells by status."""
    shown_class: str | None = None
    """The class that ``positive`` and ``highest`` speak of."""
    threshold: float | None = None
    """Probability from which a cell counts as positive."""
    positive: int | None = None
    """Cells at or above the threshold, or None where the slide failed."""
    highest: float | None = None
    """Highest probability, or None where nothing was scored."""
    warnings: tuple[str, ...] = ()
    """What a person should know before trusting the heatmap."""
    lesions: int | None = None
    """How many lesions were found, or None where they were not looked for."""
    largest_lesion_um: float | None = None
    """Longest diameter of the longest of them."""
    largest_lesion_class: str | None = None
    """What it is called, see ``histoslide.lesions.LesionClass``."""
    tumour_area_mm2: float | None = None
    """Area of all of them."""
    slide_score: float | None = None
    """Highest probability that a connected group of cells reaches in common, or None where lesions
    were not looked for."""
    seconds: float = 0.0
    """Time in work in this run, without waiting for other slides."""
    tiles_per_second: float | None = None
    """Tiles scored in this run by the time that scoring took, or None where there were none."""
    started: str | None = None
    """When this run began with it: ISO 8601, UTC."""
    ended: str | None = None
    """When this run was through with it, likewise."""
    error: str | None = None
    """Why it failed."""
    cause: FailureCause | None = None
    """What kind of failure it was, where programs may want to know."""

    @property
    def key(self) -> str:
        """Tells slides of a run apart, also two of one name from different folders."""
        return self.slide if self.output is None else self.output


def utc_now() -> str:
    """The time: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
