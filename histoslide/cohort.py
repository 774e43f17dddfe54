"""What became of many slides: ``run.json`` for programs, ``summary.csv`` for people."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from histoslide.errors import HistoslideError, OutputExistsError, StoreError
from histoslide.outputs import whole_file
from histoslide.place import storage_errors
from histoslide.scoring import Status

SlideState = Literal["done", "partly unreadable", "failed"]

_RUN, _SUMMARY = "run.json", "summary.csv"
_COUNTS = tuple(status.name.lower() for status in Status if status != Status.PENDING)
_COLUMNS = (
    "slide", "state", "output", *_COUNTS, "shown_class", "threshold", "positive", "highest",
    "seconds", "error",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """What became of one slide."""

    slide: str
    """File name."""
    state: SlideState
    """``partly unreadable``: scored where it could be read."""
    output: str | None = None
    """Name of the heat.zarr."""
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
    seconds: float = 0.0
    """Wall time of this run."""
    error: str | None = None
    """Why it failed."""
    cause: Literal["resolution unknown", "bug"] | None = None
    """What kind of failure it was, where that changes the exit code."""


def output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A heat.zarr name for each slide: its stem, or its whole name where stems collide.

    Raises:
        HistoslideError: two slides have the same file name.
    """
    stems = Counter(path.stem for path in paths)
    names = {p: f"{p.stem if stems[p.stem] == 1 else p.name}.zarr" for p in paths}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        clash = " and ".join(str(path) for path, name in names.items() if name == twice[0])
        raise HistoslideError(f"{clash} would both be written to {twice[0]}: score them apart")
    return names


def read_run(out: Path) -> list[SlideResult]:
    """What earlier runs into a folder recorded; empty where there were none.

    Raises:
        OutputExistsError: the folder holds a ``run.json`` or ``summary.csv`` that is not ours.
    """
    run, summary = out / _RUN, out / _SUMMARY
    with storage_errors(out):
        has_run, has_summary = run.exists(), summary.exists()
    if not has_run:
        if has_summary:
            raise OutputExistsError(f"{summary} exists without a {_RUN}: choose another --out")
        return []
    try:
        slides = json.loads(run.read_text(encoding="utf-8"))["slides"]
        return [SlideResult(**slide | {"warnings": tuple(slide["warnings"])}) for slide in slides]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputExistsError(
            f"{run} was not written by histoslide: choose another --out"
        ) from error


def write_run(out: Path, model: str, results: Sequence[SlideResult], *, total: int) -> None:
    """Write ``run.json`` and ``summary.csv``, each whole or not at all.

    Args:
        out: folder.
        model: name of the model.
        results: of every slide so far, one a slide.
        total: slides of this run, done or not.

    Raises:
        StoreError: the folder cannot be written.
    """
    slides = [dataclasses.asdict(result) for result in results]
    run = {"model": model, "slides_of_last_run": total, "slides": slides}
    try:
        with whole_file(out / _RUN) as partial:
            partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        with (
            whole_file(out / _SUMMARY) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            for result in results:
                row: dict[str, Any] = {**dataclasses.asdict(result), **result.counts}
                writer.writerow(row | {"seconds": f"{result.seconds:.1f}"})
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}") from error
