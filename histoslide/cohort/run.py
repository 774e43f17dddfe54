"""Many slides: each is tried, one is prepared while another is scored, and all is recorded.

A slide goes through three steps (``histoslide.pipeline``): prepared (opened, masked, planned),
stored (scored), finished (overlay, lesions). Only the second needs the network, so only it is
counted: ``SLIDES_AT_ONCE`` slides are in it (more on a cluster), and one more is being prepared or
finished meanwhile. Memory stays flat, because no more slides than that are open.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from histoslide.cohort.jobs import SlideJob, SlideOrder, collect_jobs, order_jobs
from histoslide.cohort.records import RunRecord
from histoslide.errors import (
    HistoslideError,
    ResolutionUnknownError,
    SlideCrashError,
    SlideTimeoutError,
    StalledError,
)
from histoslide.geometry import Mpp
from histoslide.pipeline import (
    PreparedSlide,
    Progress,
    ScoreOptions,
    finish_slide,
    import_ahead,
    prepare_slide,
    store_slide,
)
from histoslide.pipeline.result import FailureCause, SlideResult, utc_now
from histoslide.scoring.lazy import BlockModel
from histoslide.storage.location import Location, as_location, readable_name, without_folder

logger = logging.getLogger(__name__)

SLIDES_AT_ONCE = 2
"""Slides in the network of this process at a time: the blocks of the next slide fill the batches
that the last ones of this leave unfilled, so that the device never waits between slides."""

_CAUSES: Mapping[type[HistoslideError], FailureCause] = {
    ResolutionUnknownError: "resolution unknown",
    SlideTimeoutError: "timed out",
    SlideCrashError: "crashed",
}


@dataclass(frozen=True, kw_only=True)
class CohortProgress:
    """How far a run is."""

    slides_done: int
    """Slides that are through, also those that failed."""
    slides: int
    """Slides in all."""
    tiles_done: int
    """Tiles that this run has scored."""
    tiles: int
    """Tiles that this run has to score: counted where a slide has been opened, else estimated from
    the sizes of files."""
    scoring: tuple[str, ...]
    """Names of the slides that are being scored."""


def score_slides(
    slides: Sequence[Location | str | SlideJob],
    out: Location | str,
    model: BlockModel,
    options: ScoreOptions,
    *,
    mpp: Mpp | None = None,
    mpp_by_name: Mapping[str, Mpp] | None = None,
    order: SlideOrder = "largest",
    at_most: int | None = None,
    recursive: bool | None = None,
    fail_fast: bool = False,
    on_progress: Callable[[CohortProgress], None] | None = None,
) -> list[SlideResult]:
    """Score several slides into a folder; every slide is tried, whatever becomes of the others.

    All the while, ``run.json`` and ``summary.csv`` in the folder tell what has happened so far,
    also to slides of earlier runs into the same folder.

    Args:
        slides: slide files, folders, lists (``.csv``), or jobs.
        out: folder for ``<slide>.zarr`` and what goes with it.
        model: to score with.
        options: how.
        mpp: resolution for slides that neither a job nor ``mpp_by_name`` gives one.
        mpp_by_name: resolutions by file name.
        order: which slides go first, by size of file.
        at_most: take only so many, the first as given; None for all.
        recursive: whether folders below folders are searched; see ``histoslide.slide.find_slides``.
        fail_fast: stop at the first slide that fails. What others have scored is kept.
        on_progress: called as the run goes on, by one thread at a time.

    Returns:
        One result a slide, in the order given; ``pending`` where the run stopped before.

    Raises:
        HistoslideError: two slides would be written to one name, the folder holds a summary that
            is not ours, or cannot be written.
    """
    out = as_location(out)
    jobs = collect_jobs(slides, mpp=mpp, mpp_by_name=mpp_by_name, recursive=recursive)[:at_most]
    run = _CohortRun(
        jobs, out, model, options, order=order, fail_fast=fail_fast, on_progress=on_progress
    )
    return run.go()


class _StoppedError(Exception):
    """The run ends before this slide is through."""


class _CohortRun:
    """One run. Its threads take slides one after the other until there are none."""

    def __init__(
        self,
        jobs: Sequence[SlideJob],
        out: Location,
        model: BlockModel,
        options: ScoreOptions,
        *,
        order: SlideOrder,
        fail_fast: bool,
        on_progress: Callable[[CohortProgress], None] | None,
    ) -> None:
        self._out, self._model, self._options = out, model, options
        self._fail_fast = fail_fast
        self._results = {
            job.heatmap: SlideResult(
                slide=readable_name(job.path), state="pending", output=job.heatmap
            )
            for job in jobs
        }
        self._record = RunRecord(out, model.spec.name, list(self._results.values()))
        self._tally = _Tally(jobs, on_progress)
        self._waiting = iter(enumerate(order_jobs(jobs, order), start=1))
        self._lock = threading.Lock()
        runner = options.runner
        self._at_once = SLIDES_AT_ONCE if runner is None else runner.slides_at_once
        self._in_network = threading.Semaphore(self._at_once)
        self._stop = threading.Event()

    def go(self) -> list[SlideResult]:
        """Run to the end; the results in the order of the jobs."""
        self._record.begin()
        import_ahead(self._options)
        pool = ThreadPoolExecutor(self._at_once + 1, thread_name_prefix="slide")
        interrupted = False
        try:
            threads = [pool.submit(self._work) for _ in range(self._at_once + 1)]
            done, _ = wait(threads, return_when=FIRST_EXCEPTION)
            for thread in done:
                thread.result()
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            # After Ctrl-C nobody wants to wait for a block. The threads end with theirs.
            self._stop.set()
            pool.shutdown(wait=not interrupted)
            with self._lock:
                for key, result in self._results.items():
                    if result.state == "running":
                        self._results[key] = dataclasses.replace(result, state="pending")
                final = list(self._results.values())
            self._record.finish(final)
        return final

    def _work(self) -> None:
        """What each thread does."""
        try:
            while not self._stop.is_set():
                with self._lock:
                    number, job = next(self._waiting, (0, None))
                if job is None:
                    return
                self._take_through(number, job)
        except BaseException:
            self._stop.set()
            raise

    def _take_through(self, number: int, job: SlideJob) -> None:
        """Score one slide, and record and say what became of it."""
        started = utc_now()
        result = self._try(job, started)
        self._note(dataclasses.replace(result, output=job.heatmap, started=started))
        self._tally.finished(job)
        if result.state != "pending":
            _say(number, len(self._results), result)
        if result.state == "failed" and self._fail_fast:
            self._stop.set()

    def _try(self, job: SlideJob, started: str) -> SlideResult:
        """Take a slide through all steps; the result tells where that ended."""
        begun, cause = time.monotonic(), None
        options = job.options(self._options)
        try:
            with prepare_slide(
                job.path, self._out / job.heatmap, self._model, options, mpp=job.mpp
            ) as prepared:
                self._tally.planned(job, prepared)
                waits = time.monotonic()
                with self._in_network:
                    begun += time.monotonic() - waits
                    self._go_on()
                    running = self._results[job.heatmap]
                    self._note(dataclasses.replace(running, state="running", started=started))
                    heat, seconds = store_slide(
                        prepared, options, on_block=self._reporter(job, prepared)
                    )
                result = finish_slide(prepared, heat, options, scoring_seconds=seconds)
            return dataclasses.replace(result, ended=utc_now())
        except StalledError:
            raise  # no slide after this one would fare better
        except _StoppedError:
            return dataclasses.replace(self._results[job.heatmap], state="pending")
        except HistoslideError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message is made for the user
            cause, text = _CAUSES.get(type(error)), without_folder(error, job.path)
        except Exception as error:  # one slide must not stop the others, not even by a bug
            logger.exception("%s: unexpected error", readable_name(job.path))
            cause, text = "bug", f"bug: {error!r}"
        return SlideResult(
            slide=readable_name(job.path),
            state="failed",
            error=text,
            cause=cause,
            seconds=time.monotonic() - begun,
            ended=utc_now(),
        )

    def _reporter(self, job: SlideJob, prepared: PreparedSlide) -> Progress:
        already = prepared.tiles - prepared.tiles_left

        def report(_done: int, _total: int, scored: int) -> None:
            self._tally.scored(job, max(0, scored - already))
            self._record.refresh()
            self._go_on()

        return report

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _note(self, result: SlideResult) -> None:
        """Keep a result; a slide that was stopped is pending again."""
        if result.state == "running" and self._stop.is_set():
            result = dataclasses.replace(result, state="pending")
        with self._lock:
            self._results[result.key] = result
        self._record.report(result, waited_for=result.state == "failed")


class _Tally:
    """Counts slides and tiles, and foresees how many are still to come."""

    def __init__(
        self, jobs: Sequence[SlideJob], on_progress: Callable[[CohortProgress], None] | None
    ) -> None:
        self._on_progress = on_progress
        self._bytes = {job.heatmap: job.size_bytes for job in jobs}
        self._unopened = dict(self._bytes)
        self._slides, self._slides_done = len(jobs), 0
        self._planned: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._scoring: dict[str, str] = {}
        self._seen_tiles = self._seen_bytes = 0
        self._lock = threading.Lock()

    def planned(self, job: SlideJob, prepared: PreparedSlide) -> None:
        """A slide is open, and its tiles are counted."""
        with self._lock:
            self._unopened.pop(job.heatmap, None)
            self._planned[job.heatmap] = prepared.tiles_left
            self._seen_tiles += prepared.tiles
            self._seen_bytes += self._bytes[job.heatmap]
            self._report_progress()

    def scored(self, job: SlideJob, tiles: int) -> None:
        """Some tiles of a slide are scored, so many in all in this run."""
        with self._lock:
            self._scoring[job.heatmap] = job.path.name
            self._done[job.heatmap] = min(tiles, self._planned[job.heatmap])
            self._report_progress()

    def finished(self, job: SlideJob) -> None:
        """A slide is done, or has failed: nothing more is expected of it."""
        with self._lock:
            self._unopened.pop(job.heatmap, None)
            self._scoring.pop(job.heatmap, None)
            self._planned[job.heatmap] = self._done.get(job.heatmap, 0)
            self._slides_done += 1
            self._report_progress()

    def _report_progress(self) -> None:
        """To be called with the lock held."""
        if self._on_progress is None:
            return
        tiles_a_byte = self._seen_tiles / self._seen_bytes if self._seen_bytes else 0.0
        to_come = round(tiles_a_byte * sum(self._unopened.values()))
        self._on_progress(
            CohortProgress(
                slides_done=self._slides_done,
                slides=self._slides,
                tiles_done=sum(self._done.values()),
                tiles=sum(self._planned.values()) + to_come,
                scoring=tuple(self._scoring.values()),
            )
        )


def _say(number: int, total: int, result: SlideResult) -> None:
    """One line a slide that is through; its failure has been said."""
    if result.state == "failed":
        return
    text = f"{result.counts['scored']:,} tiles"
    if result.tiles_per_second is None:
        text += ", complete from an earlier run" if result.counts["scored"] else ""
    else:
        text += f", {result.tiles_per_second:,.0f} a second"
    text += f", {result.seconds:.0f} s"
    logger.info("[%d/%d] %s: %s, %s", number, total, result.slide, result.state, text)
