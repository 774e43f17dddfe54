"""All heatmaps of a cohort compared with what is known, a few at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from histoslide.errors import DataError, HistoslideError
from histoslide.judging.options import JudgeOptions
from histoslide.judging.reference import Reference, ReferenceSlide
from histoslide.judging.slide import JudgedSlide, judge_slide
from histoslide.machine.processors import usable_processors
from histoslide.storage.location import Location
from histoslide.store.metadata import read_record

T = TypeVar("T")

_FEW = 4
"""Up to so many heatmaps, starting processes takes longer than they save."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A heatmap to be judged."""

    path: Location
    """The heat.zarr."""
    slide: str
    """File name of its slide."""
    quickhash: str
    """Of the slide."""
    reference: ReferenceSlide
    """What is known of it."""


@dataclass(frozen=True, kw_only=True)
class NotJudged:
    """A heatmap, or a slide of the reference, that could not be judged."""

    name: str
    """Of the slide or the heatmap."""
    reason: str
    """Why."""


@dataclass(frozen=True, kw_only=True)
class JudgedCohort:
    """What became of all."""

    slides: tuple[JudgedSlide, ...]
    """Those that could be judged, in the order of the heatmaps."""
    failed: tuple[NotJudged, ...]
    """Those that could not."""
    missing: tuple[str, ...]
    """Slides of the reference without a heatmap."""


def cases_of(paths: Sequence[Location], reference: Reference) -> tuple[list[Case], list[NotJudged]]:
    """Find out which slide each heatmap is of, and what is known of it.

    Raises:
        DataError: nothing is known of a slide, or two heatmaps are of one.
    """
    cases: dict[str, Case] = {}
    failed = []
    for path in paths:
        try:
            slide = read_record(path).slide
        except HistoslideError as error:
            failed.append(NotJudged(name=path.name, reason=str(error)))
            continue
        case = Case(
            path=path,
            slide=slide.name,
            quickhash=slide.quickhash,
            reference=reference.of(slide.name),
        )
        other = cases.setdefault(case.reference.name.casefold(), case)
        if other is not case:
            raise DataError(
                f"{other.path.name} and {path.name} are both of {slide.name}: judge one at a time"
            )
    return list(cases.values()), failed


def judge_cohort(
    paths: Sequence[Location],
    reference: Reference,
    options: JudgeOptions,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> JudgedCohort:
    """Compare heatmaps with what is known of their slides.

    Every heatmap is tried. What is kept of each are its detections and lesions, so memory does not
    grow with the heatmaps.

    Args:
        paths: of the stores.
        reference: what is known.
        options: how.
        workers: processes; None for one a processor, 1 for none beside this one.
        progress: called with how many are done, and of how many.

    Raises:
        DataError: nothing is known of a slide, two heatmaps are of one, or none can be judged.
    """
    cases, failed = cases_of(paths, reference)
    if options.foreign and options.detections_of_one and len(cases) > 1:
        raise DataError(
            f"--detections {options.detections} is one file, and there are {len(cases)} heatmaps: "
            "name a folder with a CSV a slide"
        )
    work = partial(_judge, options=options)
    slides = dict(each_done(work, cases, failed, workers=workers, progress=progress))
    if not slides:
        reason = failed[0].reason if failed else "there is no heatmap"
        raise DataError(f"nothing can be judged: {reason}")
    names = {case.reference.name for case in cases}
    return JudgedCohort(
        slides=tuple(slides[i] for i in sorted(slides)),
        failed=tuple(failed),
        missing=tuple(it.name for it in reference.slides.values() if it.name not in names),
    )


def _judge(case: Case, options: JudgeOptions) -> JudgedSlide:
    return judge_slide(case.path, case.reference, options)


def each_done(
    work: Callable[[Case], T],
    cases: Sequence[Case],
    failed: list[NotJudged],
    *,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, T]]:
    """What some work makes of cases, with their places, as they are done.

    Args:
        work: something that can be sent to another process.
        cases: what it is done on.
        failed: gets those of which it makes nothing.
        workers: processes; None for one a processor where there are more than a few cases.
        progress: called with how many are done, and of how many.
    """
    for count, (i, outcome) in enumerate(_each(work, cases, workers=workers), start=1):
        if isinstance(outcome, HistoslideError):
            failed.append(NotJudged(name=cases[i].slide, reason=str(outcome)))
        else:
            yield i, outcome
        if progress is not None:
            progress(count, len(cases))


def _each(
    work: Callable[[Case], T], cases: Sequence[Case], *, workers: int | None
) -> Iterator[tuple[int, T | HistoslideError]]:
    """What becomes of each case, or why it failed, as they are done."""
    count = min(usable_processors() if workers is None else workers, len(cases))
    if count <= 1 or (workers is None and len(cases) <= _FEW):
        for i, case in enumerate(cases):
            yield i, _tried(work, case)
        return
    # Started afresh: this process has threads, which a fork would lose.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        futures: dict[Future[T | HistoslideError], int] = {
            pool.submit(_tried, work, case): i for i, case in enumerate(cases)
        }
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise HistoslideError(
                "a process that judged heatmaps was killed, perhaps for memory: pass --workers 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _tried(work: Callable[[Case], T], case: Case) -> T | HistoslideError:
    try:
        return work(case)
    except HistoslideError as error:
        return error
