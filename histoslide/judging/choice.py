"""Lesion settings chosen on a cohort, for a stated aim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histoslide.annotations.truth import SlideTruth
from histoslide.errors import DataError, HistoslideError
from histoslide.evaluation.slides.detections import Detections
from histoslide.evaluation.slides.hits import match
from histoslide.evaluation.slides.tally import Tally, most_read
from histoslide.judging.cohort import Case, NotJudged, cases_of, each_done
from histoslide.judging.options import JudgeOptions
from histoslide.judging.reference import Reference
from histoslide.judging.slide import JudgedSlide, in_excluded, opened, slide_truth
from histoslide.lesions import DEFAULT_EXTEND, DEFAULT_GAP_UM, DEFAULT_SEED, LesionSettings
from histoslide.lesions.many_settings import peaks_under
from histoslide.lesions.settings_file import ChosenOn, ChosenSettings
from histoslide.storage.location import Location

SEEDS = (0.5, 0.6, 0.7, 0.8, 0.84, 0.9, 0.95, 0.98, 0.99)
EXTENDS = (0.3, 0.5, 0.7, 0.9)
GAPS_UM = (0.0, 75.0, 150.0)
SMOOTHINGS_UM = (0.0, 30.0, 60.0)
"""Values that are tried with each other, where the user has not set one."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What settings are chosen for.

    Raises:
        HistoslideError: a number that is none.
    """

    kind: Literal["froc", "false"]
    """Best mean sensitivity of the FROC; or most lesions found at a number of false ones."""
    false_per_negative: float = 0.0
    """Most false lesions a slide without tumour, in the mean."""

    @classmethod
    def parse(cls, text: str) -> Aim:
        """An aim from what a user types: ``froc`` or ``false=1``.

        Raises:
            HistoslideError: it is neither.
        """
        name, equals, number = text.partition("=")
        if text == "froc":
            return cls(kind="froc")
        try:
            limit = float(number)
        except ValueError:
            limit = -1.0
        if name != "false" or not equals or not 0 <= limit < float("inf"):
            raise HistoslideError(
                f"--choose {text}: the aim is froc, or false=N for at most N false lesions a "
                "slide without tumour"
            )
        return cls(kind="false", false_per_negative=limit)

    def __str__(self) -> str:
        if self.kind == "froc":
            return "best FROC"
        return f"at most {self.false_per_negative:g} false lesions a slide without tumour"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What some settings reach."""

    settings: LesionSettings
    """Which."""
    score: float
    """Of the FROC."""
    sensitivity: float
    """Part of the lesions that any detection lies in."""
    false_per_slide: float
    """Mean over all slides on which lesions are judged."""
    false_per_negative: float | None
    """Mean over those without tumour; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings that were chosen."""

    aim: Aim
    """For what."""
    best: Tried
    """Those."""
    tried: tuple[Tried, ...]
    """All, the best first."""
    file: ChosenSettings
    """As it is written."""
    failed: tuple[NotJudged, ...]
    """Heatmaps that could not be read."""


def candidates(base: LesionSettings, fixed: Sequence[str]) -> list[LesionSettings]:
    """Settings to be tried.

    Args:
        base: what is not varied.
        fixed: names of settings that are as in ``base``.
    """
    values = {
        "smoothing_um": SMOOTHINGS_UM,
        "extend_probability": EXTENDS,
        "join_gap_um": GAPS_UM,
        "seed_probability": SEEDS,
    }
    varied = {name: of for name, of in values.items() if name not in fixed}

    def settings() -> Iterator[LesionSettings]:
        for each_of in product(*varied.values()):
            changed: dict[str, Any] = dict(zip(varied, each_of, strict=True))
            seed = changed.get("seed_probability", base.seed_probability)
            if changed.get("extend_probability", base.extend_probability) <= seed:
                yield replace(base, **changed)

    found = list(settings())
    if not found:
        raise HistoslideError(f"--seed {base.seed_probability:g} leaves nothing to try")
    return found


def choose(
    paths: Sequence[Location],
    reference: Reference,
    options: JudgeOptions,
    aim: Aim,
    tried: Sequence[LesionSettings],
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Find the settings that serve an aim best on a cohort.

    What is kept of a slide is added to what is kept of those before, so memory hardly grows with
    the cohort: by the lesions, and by the false positives that its FROC is read up to.

    Args:
        paths: of the heatmaps.
        reference: what is known of their slides.
        options: how they are judged; detections are lesions.
        aim: what for.
        tried: settings that are compared.
        workers: processes; see ``cohort.judge_cohort``.
        progress: called with how many heatmaps are done, and of how many.

    Raises:
        DataError: there is no lesion to find, no slide without tumour where the aim needs one, or
            no settings reach the aim.
    """
    cases, failed = cases_of(paths, reference)
    work = partial(
        _tries,
        options=options,
        tried=tuple(tried),
        most=most_read(options.rules.at, len(cases)),
    )
    models: dict[int, str] = {}
    tallies: tuple[Tally, ...] = ()
    for i, case in each_done(work, cases, failed, workers=workers, progress=progress):
        models[i] = case.model_sha256
        if case.tallies and tallies:
            pairs = zip(tallies, case.tallies, strict=True)
            tallies = tuple(Tally.sum(pair) for pair in pairs)
        else:
            tallies = tallies or case.tallies
    rows = [_row(settings, tally, options) for settings, tally in zip(tried, tallies, strict=False)]
    known = [row for row in rows if row is not None]
    if not known:
        reason = f" ({failed[0].reason})" if failed else ""
        raise DataError(f"there is no annotated lesion to choose settings by{reason}")
    ranked = sorted(known, key=partial(_rank, aim=aim))
    best = ranked[0]
    _refuse_missed(aim, best, known)
    return Choice(
        aim=aim,
        best=best,
        tried=tuple(ranked),
        file=ChosenSettings(
            settings=best.settings,
            aim=str(aim),
            reached={
                "froc_score": best.score,
                "sensitivity": best.sensitivity,
                "false_per_slide": best.false_per_slide,
                "false_per_negative_slide": best.false_per_negative,
            },
            tried=len(known),
            models=tuple(sorted(set(models.values()))),
            chosen_on=tuple(
                ChosenOn(
                    slide=cases[i].slide,
                    quickhash=cases[i].quickhash,
                    patient=cases[i].reference.patient,
                )
                for i in sorted(models)
            ),
            histoslide=version("histoslide"),
        ),
        failed=tuple(failed),
    )


@dataclass(frozen=True, kw_only=True)
class _Tries:
    """What all settings come to on a slide."""

    tallies: tuple[Tally, ...]
    """In their order; empty where lesions are not known."""
    model_sha256: str
    """Of what scored it."""


def _tries(
    case: Case, options: JudgeOptions, tried: tuple[LesionSettings, ...], most: int
) -> _Tries:
    heat = opened(case.path)
    model = heat.record.model.sha256
    drawn, truth = slide_truth(heat, case.reference, options)
    if not case.reference.exhaustive or (case.reference.tumour and truth is None):
        return _Tries(tallies=(), model_sha256=model)
    probability, _ = heat.cells(options.settings.class_name)
    found = [
        Detections(score=it.score, x_l0=it.x_l0, y_l0=it.y_l0)
        for it in peaks_under(heat.grid, probability, tried)
    ]
    pairs = zip(found, _excused(drawn, found), strict=True)
    tallies = tuple(
        Tally.of(match(it, truth, excused=excused), over=options.rules.over, most=most)
        for it, excused in pairs
    )
    return _Tries(tallies=tallies, model_sha256=model)


def _excused(
    drawn: SlideTruth | None, found: Sequence[Detections]
) -> list[NDArray[np.bool_] | None]:
    """``in_excluded`` of each; a point that many settings find is looked at once."""
    points = np.concatenate([np.stack([it.x_l0, it.y_l0], axis=1) for it in found])
    once, index = np.unique(points, axis=0, return_inverse=True)
    each = Detections(score=np.zeros(len(once)), x_l0=once[:, 0], y_l0=once[:, 1])
    excluded = in_excluded(drawn, each)
    if excluded is None:
        return [None] * len(found)
    ends = np.cumsum([len(it) for it in found])[:-1]
    return list(np.split(excluded[index.reshape(-1)], ends))


def _row(settings: LesionSettings, tally: Tally, options: JudgeOptions) -> Tried | None:
    curve = tally.curve(options.rules.at)
    if curve is None:
        return None
    negatives = tally.negative_slides
    return Tried(
        settings=settings,
        score=curve.score,
        sensitivity=int((tally.best > 0).sum()) / tally.required,
        false_per_slide=tally.false / tally.slides,
        false_per_negative=tally.negative_false / negatives if negatives else None,
    )


def _rank(row: Tried, aim: Aim) -> tuple[float, ...]:
    """What comes first is better; of equals, fewer false lesions, then the usual settings."""
    it = row.settings
    usual = (
        row.false_per_slide,
        it.smoothing_um,
        abs(it.join_gap_um - DEFAULT_GAP_UM),
        abs(it.extend_probability - DEFAULT_EXTEND),
        abs(it.seed_probability - DEFAULT_SEED),
    )
    if aim.kind == "froc":
        return (-row.score, *usual)
    false = float("inf") if row.false_per_negative is None else row.false_per_negative
    return (max(0.0, false - aim.false_per_negative), -row.sensitivity, -row.score, *usual)


def _refuse_missed(aim: Aim, best: Tried, rows: Sequence[Tried]) -> None:
    if aim.kind == "froc":
        return
    if best.false_per_negative is None:
        raise DataError(
            "an aim in false lesions a slide without tumour needs slides without tumour: add some, "
            "or --choose froc"
        )
    if best.false_per_negative > aim.false_per_negative:
        raise DataError(
            f"none of {len(rows)} settings has {aim}: the fewest are "
            f"{best.false_per_negative:.2f}; allow more, or set --min-cells"
        )


def same_slides(chosen: ChosenSettings, slides: Sequence[JudgedSlide | Case]) -> list[str]:
    """Slides to be judged that settings were chosen on, or that are of a patient of theirs.

    Args:
        chosen: the settings.
        slides: to be judged.
    """
    hashes = {it.quickhash for it in chosen.chosen_on}
    names = {it.slide for it in chosen.chosen_on}
    patients = {it.patient for it in chosen.chosen_on if it.patient is not None}
    return [
        it.slide
        for it in slides
        if it.quickhash in hashes or it.slide in names or it.reference.patient in patients
    ]
