"""What became of many slides: ``run.json`` for programs, ``summary.csv`` for people."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from histoslide.errors import HistoslideError, OutputExistsError, StoreError, reason
from histoslide.grid.status import Status
from histoslide.pipeline.result import SlideResult, utc_now
from histoslide.storage.location import Location, storage_errors
from histoslide.storage.records import from_json, to_builtins, to_json
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import whole_file

_RUN, _SUMMARY = "run.json", "summary.csv"
_COUNTS = tuple(status.label for status in Status if status != Status.PENDING)

_COLUMNS = (
    "slide", "state", "output", "mpp", "mpp_source", *_COUNTS, "shown_class", "threshold",
    "positive", "highest", "lesions", "largest_lesion_um", "largest_lesion_class",
    "tumour_area_mm2", "slide_score", "seconds", "tiles_per_second", "warnings", "error",
)  # fmt: skip

_DECIMALS = {
    "largest_lesion_um": 1, "tumour_area_mm2": 6, "seconds": 1, "tiles_per_second": 1,
}  # fmt: skip
"""Of measured values in the summary; the records keep all."""

_WRITE_INTERVAL_S = 1.0
"""Least time between two writes of the records that nobody waits for."""

_WRITE_SHARE = 0.05
"""Largest part of the time that may go into writing records of a very long list."""


@dataclass(frozen=True, kw_only=True)
class CohortRecord:
    """What ``run.json`` holds."""

    model: str
    """Name of the model."""
    started: str | None
    """When the last run began: ISO 8601, UTC."""
    ended: str | None
    """When it ended; None while it goes on, or where it was killed."""
    slides_of_last_run: int
    """Slides that it was to take, done or not."""
    slides: tuple[SlideResult, ...]
    """Of all runs into the folder."""


def output_names(paths: Sequence[Location]) -> dict[Location, str]:
    """A heat.zarr name for each slide: its stem, or its whole name where stems collide.

    Slides of one name from several folders have as many of these before it as tell them apart.

    Raises:
        HistoslideError: two slides have the same name all the same.
    """
    kinds: dict[str, set[str]] = {}
    alike: dict[str, list[Location]] = {}
    for path in dict.fromkeys(paths):
        kinds.setdefault(path.stem, set()).add(path.suffix)
        alike.setdefault(path.name, []).append(path)
    names = {}
    for same in alike.values():
        for path, folders in _telling_folders(same).items():
            name = path.stem if len(kinds[path.stem]) == 1 else path.name
            names[path] = f"{'-'.join([*folders, name])}.zarr"
    names = {path: names[path] for path in paths}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        clash = " and ".join(str(path) for path, name in names.items() if name == twice[0])
        raise HistoslideError(f"{clash} would both be written to {twice[0]}: score them apart")
    return names


def _telling_folders(alike: Sequence[Location]) -> dict[Location, Sequence[str]]:
    """The innermost folders, as few as tell each slide from the others of its name."""
    left = list(alike)
    told: dict[Location, Sequence[str]] = {}
    for count in range(max(len(path.parts) for path in alike)):
        ends = {path: path.parent.parts[len(path.parent.parts) - count :] for path in left}
        often = Counter(ends.values())
        told |= {path: end for path, end in ends.items() if often[end] == 1}
        left = [path for path in left if path not in told]
    return told | dict.fromkeys(left, ())


def read_run(out: Location) -> list[SlideResult]:
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
        return list(from_json(run.read_bytes(), CohortRecord, source=run, exact=True).slides)
    except (OSError, HistoslideError) as error:
        raise OutputExistsError(
            f"{run} was not written by histoslide: choose another --out"
        ) from error


class RunRecord:
    """The records of a run while it goes on; threads may report at once."""

    def __init__(self, out: Location, model: str, results: Sequence[SlideResult]) -> None:
        """Begin a run into a folder.

        Args:
            out: folder.
            model: name of the model.
            results: of this run's slides, as they stand at its beginning.

        Raises:
            OutputExistsError: the folder holds a record that is not ours.
        """
        self._out, self._model = out, model
        self._total = len(results)
        names = {result.slide for result in results}
        earlier = {r.key: r for r in read_run(out) if r.output or r.slide not in names}
        self._done = {
            key: r for key, r in earlier.items() if r.state in {"done", "partly unreadable"}
        }
        self._results = earlier
        for result in results:
            self._keep(result)
        self._started = utc_now()
        self._lock = threading.Lock()
        self._written, self._took, self._unwritten = -math.inf, 0.0, False
        self._finished = False

    def begin(self) -> None:
        """Write that the run has begun.

        Raises:
            StoreError: the folder cannot be written.
        """
        with self._lock:
            self._write(ended=None)

    def report(self, result: SlideResult, *, waited_for: bool = False) -> None:
        """Note what became of a slide.

        Args:
            result: of the slide.
            waited_for: write at once; else when the last time is a second or so ago, or with the
                next ``refresh`` after that.

        Raises:
            StoreError: the folder cannot be written.
        """
        with self._lock:
            if self._finished:  # a thread that was not waited for after Ctrl-C
                return
            self._keep(result)
            self._unwritten = True
            if waited_for or self._is_due():
                self._write(ended=None)

    def refresh(self) -> None:
        """Write what was reported but not written yet, if it is time.

        Raises:
            StoreError: the folder cannot be written.
        """
        with self._lock:
            if self._unwritten and not self._finished and self._is_due():
                self._write(ended=None)

    def finish(self, results: Sequence[SlideResult]) -> None:
        """Write the last word on a run: what became of its slides.

        Raises:
            StoreError: the folder cannot be written.
        """
        with self._lock:
            for result in results:
                self._keep(result)
            self._finished = True
            self._write(ended=utc_now())

    def _is_due(self) -> bool:
        pause = max(_WRITE_INTERVAL_S, self._took / _WRITE_SHARE)
        return time.monotonic() - self._written > pause

    def _keep(self, result: SlideResult) -> None:
        """A slide that this run did not get to is what an earlier run made of it."""
        earlier = self._done.get(result.key) if result.state == "pending" else None
        self._results[result.key] = result if earlier is None else earlier

    def _write(self, ended: str | None) -> None:
        began = time.monotonic()
        write_run(
            self._out,
            self._model,
            list(self._results.values()),
            total=self._total,
            started=self._started,
            ended=ended,
        )
        self._written = time.monotonic()
        self._took = self._written - began
        self._unwritten = False


def write_run(
    out: Location,
    model: str,
    results: Sequence[SlideResult],
    *,
    total: int,
    started: str | None = None,
    ended: str | None = None,
) -> None:
    """Write ``run.json`` and ``summary.csv``, each whole or not at all.

    Args:
        out: folder.
        model: name of the model.
        results: of every slide so far, one a slide.
        total: slides of this run, done or not.
        started: when the run began, ISO 8601.
        ended: when it ended; None while it goes on.

    Raises:
        StoreError: the folder cannot be written.
    """
    run = CohortRecord(
        model=model,
        started=started,
        ended=ended,
        slides_of_last_run=total,
        slides=tuple(results),
    )
    try:
        with whole_file(out / _RUN) as partial:
            partial.write_text(to_json(run, ascii_only=True), encoding="utf-8")
        with (
            whole_file(out / _SUMMARY) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            rows = []
            for result in results:
                row: dict[str, Any] = {**to_builtins(result), **result.counts}
                row["warnings"] = "; ".join(result.warnings)
                for name, digits in _DECIMALS.items():
                    row[name] = None if row[name] is None else f"{row[name]:.{digits}f}"
                rows.append(row)
            TableWriter(file).write_named(_COLUMNS, rows)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {reason(error)}") from error
