"""The gate of a first look: what is lost where a lighter model looks first, on patches and slides.

Nothing is scored twice for it: with a first look a cell's value is the lighter model's, brought to
the other's scale, where that leaves no doubt, and else that of both together.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from histoslide.datasets.patches import PatchSet
from histoslide.errors import DataError
from histoslide.evaluation.patches.predictions import predict_patches
from histoslide.geometry import Mpp
from histoslide.grid.cells import TileGrid
from histoslide.lesions import Lesion, LesionSettings
from histoslide.lesions.report import lesions_of
from histoslide.model import Model
from histoslide.model.fast_paths import (
    MOST_CHANGED,
    MOST_LOST,
    POSITIVE,
    FirstLookGate,
    SlideGate,
)
from histoslide.model.first_look import Scale, in_doubt, log_odds, refuse_unlike, together
from histoslide.pipeline.options import ScoreOptions
from histoslide.pipeline.score import score_slide
from histoslide.storage.location import Location, readable_name
from histoslide.store import open_heatmap

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of it is done and in all."""

_CHOSEN_AT = MOST_LOST / 2
"""Part that may be lost, or changed, where thresholds are chosen: elsewhere it is more."""

_EQUAL = 0.5
"""Weight of the first look where both together rank better: not tuned, so nothing is fitted."""

_STEP = 1e-4
"""Thresholds are rounded to a multiple of this, to be read by people."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What leaves a doubt at a first look, by its probability on the other's scale."""

    threshold: float
    """Below it there is none."""
    certain: float | None
    """Nor from here on; None where too little is known to say so."""

    def of(self, first: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which are in doubt."""
        return in_doubt(first, self.threshold, self.certain)

    def sure(self, first: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which the first look takes for tumour by itself."""
        return (first >= self.threshold) & ~self.of(first)


@dataclass(frozen=True, kw_only=True)
class GateSlide:
    """A slide to try a first look on."""

    path: Location
    """Its file."""
    mpp: Mpp | None = None
    """Resolution that replaces what it records."""


@dataclass(frozen=True, kw_only=True)
class _SlideScores:
    """A slide as both models see it."""

    name: str
    grid: TileGrid
    status: NDArray[np.uint8]
    alone: NDArray[np.float32]
    """Probability of tumour by the model that looks again, shape ``grid.shape``."""
    first: NDArray[np.float32]
    """By the one that looks first, on its own scale."""

    @property
    def pair(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``alone`` and ``first`` of the cells that were scored."""
        scored = np.isfinite(self.alone) & np.isfinite(self.first)
        return self.alone[scored], self.first[scored]


def measure_first_look(
    model: Model,
    first: Model,
    patches: PatchSet,
    slides: Sequence[GateSlide],
    *,
    data: str,
    file: str,
    class_map: NDArray[np.int64],
    stride_px: int | None = None,
    progress: Progress | None = None,
) -> FirstLookGate:
    """Choose scale, weight and both thresholds of a first look, and measure what it loses.

    They are chosen on a random half of the patches, and all but the weight on the slides too; what
    is said of patches is said of the other half. The first look has an equal say in what both have
    seen, if that ranks the patches better than the model alone, and else none.

    Args:
        model: looks again; as fast as it will be computed.
        first: looks first, likewise.
        patches: labelled.
        slides: to try it on; without any it cannot pass.
        data: what the patches are called in the record.
        file: name of the bundle of ``first``.
        class_map: the model's class of each class of the patches.
        stride_px: side of a cell on slides, in model pixels; None for the label footprint.
        progress: told of progress.

    Raises:
        DataError: the patches to judge on are all of one class.
        HistoslideError: the two do not judge the same tiles, or a patch or slide cannot be read.
    """
    refuse_unlike(model.spec, first.spec)
    tumour = model.spec.tumour_index
    assert tumour is not None
    order = np.random.default_rng(0).permutation(len(patches))
    chosen, judged = order[: len(order) // 2], order[len(order) // 2 :]
    labels = class_map[patches.labels] == tumour
    for half, use in ((judged, "judge"), (chosen, "choose")):
        if labels[half].all() or not labels[half].any():
            raise DataError(f"{data}: the patches to {use} on are all of one class")
    alone, light = (_predicted(it, patches, tumour, progress) for it in (model, first))
    scores = [_scored(slide, model, first, stride_px, progress) for slide in slides]
    pairs = [(alone[chosen], light[chosen]), *(slide.pair for slide in scores)]
    known, seen = (np.concatenate(values) for values in zip(*pairs, strict=True))
    scale = fit_scale(seen, known)
    weight = choose_weight(light[chosen], alone[chosen], labels[chosen])
    moved, both = scale.apply(seen), together(seen, known, weight)
    doubt = Doubt(threshold=highest_threshold(moved, both), certain=lowest_certain(moved, both))
    looked, everywhere = scale.apply(light[judged]), together(light, alone, weight)[judged]
    found = looked_twice(looked, everywhere, doubt)
    return FirstLookGate(
        name=first.spec.name,
        file=file,
        weights_sha256=first.sha256,
        threshold=doubt.threshold,
        certain=doubt.certain,
        scale=scale,
        weight=weight,
        engines=(str(model.engine), str(first.engine)),
        data=data,
        patches=len(judged),
        auc=float(roc_auc_score(labels[judged], found)),
        auc_alone=float(roc_auc_score(labels[judged], alone[judged])),
        auc_everywhere=float(roc_auc_score(labels[judged], everywhere)),
        **_differences(looked, everywhere, doubt),
        slides=tuple(_judge(slide, scale, weight, doubt) for slide in scores),
    )


def fit_scale(first: NDArray[np.float32], alone: NDArray[np.float32]) -> Scale:
    """The scale that brings one model's probabilities nearest to another's, by cross-entropy.

    Args:
        first: the one's, shape (n,).
        alone: the other's of the same tiles.
    """
    odds, wanted = log_odds(first), alone.astype(np.float64)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        moved = odds * math.exp(values[0]) + values[1]  # a slope is above 0
        off = 1 / (1 + np.exp(-moved)) - wanted
        slope = float((off * odds).mean() * math.exp(values[0]))
        return float((np.logaddexp(0, moved) - wanted * moved).mean()), np.array(
            [slope, off.mean()]
        )

    found = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return Scale(slope=round(math.exp(found[0]), 4), shift=round(float(found[1]), 4))


def choose_weight(
    first: NDArray[np.float32], alone: NDArray[np.float32], labels: NDArray[np.bool_]
) -> float:
    """The weight of a first look in what both have seen: an equal one where that ranks better.

    Args:
        first: probabilities at the first look, on its own scale, shape (n,).
        alone: those of the model alone.
        labels: which are tumour.
    """
    both = roc_auc_score(labels, together(first, alone, _EQUAL))
    return _EQUAL if both > roc_auc_score(labels, alone) else 0.0


def highest_threshold(first: NDArray[np.float32], everywhere: NDArray[np.float32]) -> float:
    """The highest threshold that loses less than half of ``MOST_LOST`` of what is positive.

    Args:
        first: probabilities at the first look, on the other's scale, shape (n,).
        everywhere: those of both looking at everything.
    """
    found = np.sort(first[everywhere >= POSITIVE])
    if not len(found):
        return 0.0  # nothing is known of what would be lost
    may_go = math.ceil(_CHOSEN_AT * len(found)) - 1
    least = min(float(found[may_go]), POSITIVE)
    return round(math.floor(least / _STEP) * _STEP, 6)


def lowest_certain(first: NDArray[np.float32], everywhere: NDArray[np.float32]) -> float | None:
    """The lowest probability at a first look from which another would change next to nothing.

    Of the tiles from there on, less than half of ``MOST_LOST`` have a probability by both that
    differs by more than ``MOST_CHANGED``.

    Args:
        first: probabilities at the first look, on the other's scale, shape (n,).
        everywhere: those of both looking at everything.

    Returns:
        None where fewer tiles than that takes to see lie above every candidate.
    """
    sure = first >= POSITIVE
    order = np.argsort(first[sure])[::-1]
    # Not by division: what lies on a threshold must be counted as it is compared with it later.
    thresholds = (np.arange(round(1 / _STEP) + 1) * _STEP).astype(np.float32)
    steps = np.searchsorted(thresholds, first[sure][order], side="right") - 1
    changed = np.cumsum(_changed(first[sure], everywhere[sure])[order])
    above = np.arange(1, len(steps) + 1)
    last_of_its_step = np.append(steps[1:] != steps[:-1], [True])[: len(steps)]
    fits = last_of_its_step & (above * _CHOSEN_AT >= 1) & (changed < above * _CHOSEN_AT)
    if not fits.any():
        return None
    return round(float(steps[np.flatnonzero(fits)[-1]]) * _STEP, 6)


def _changed(first: NDArray[np.float32], everywhere: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of which tiles another look would change the probability by more than ``MOST_CHANGED``."""
    return np.asarray(np.abs(first - everywhere) > MOST_CHANGED)


def _differences(
    first: NDArray[np.float32], everywhere: NDArray[np.float32], doubt: Doubt
) -> dict[str, int]:
    """What a first look loses and changes, as fields of a gate; arguments as ``looked_twice``."""
    found = looked_twice(first, everywhere, doubt)
    positive, sure = everywhere >= POSITIVE, doubt.sure(first)
    return {
        "positive": int(positive.sum()),
        "lost": int((positive & (found < POSITIVE)).sum()),
        "sure": int(sure.sum()),
        "changed": int((sure & _changed(found, everywhere)).sum()),
    }


def looked_twice(
    first: NDArray[np.float32], everywhere: NDArray[np.float32], doubt: Doubt
) -> NDArray[np.float32]:
    """Probabilities with a first look; see ``histoslide.scoring.block``.

    Args:
        first: at the first look, on the other's scale.
        everywhere: of both looking at everything.
        doubt: where the other looks again.
    """
    return np.where(doubt.of(first), everywhere, first)


def lesions_alike(here: Sequence[Lesion], there: Sequence[Lesion]) -> bool:
    """Whether each lesion of either side has one of the same class on the other, of its cells."""
    if len(here) != len(there):
        return False
    cells = [{(r, c): it for it in side for r, c in it.cells_rc.tolist()} for side in (here, there)]
    for side, others in ((here, cells[1]), (there, cells[0])):
        for lesion in side:
            touched = [others.get((r, c)) for r, c in lesion.cells_rc.tolist()]
            if not any(other and other.kind == lesion.kind for other in touched):
                return False
    return True


def _predicted(
    model: Model, patches: PatchSet, tumour: int, progress: Progress | None
) -> NDArray[np.float32]:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"patches, {model.spec.name}", done, total)

    found = predict_patches(model, patches, progress=report)
    return found.probabilities(model.spec.temperature)[:, tumour].astype(np.float32)


def _scored(
    slide: GateSlide,
    model: Model,
    first: Model,
    stride_px: int | None,
    progress: Progress | None,
) -> _SlideScores:
    """Score a slide with both models, in a folder that is gone afterwards."""
    name = readable_name(slide.path)
    options = ScoreOptions(stride_px=stride_px, overlay=False, lesions=None)
    with tempfile.TemporaryDirectory(
        prefix="histoslide-first-look-", ignore_cleanup_errors=True
    ) as folder:
        maps = []
        for number, each in enumerate((model, first)):

            def report(done: int, total: int, _: int, said: str = each.spec.name) -> None:
                if progress is not None:
                    progress(f"{name}, {said}", done, total)

            out = Path(folder) / f"{number}.zarr"
            score_slide(slide.path, out, each, options, mpp=slide.mpp, on_block=report)
            heat = open_heatmap(out)
            maps.append(heat.cells(heat.tumour_class))
    (alone, status), (light, _) = maps
    return _SlideScores(name=name, grid=heat.grid, status=status, alone=alone, first=light)


def _judge(slide: _SlideScores, scale: Scale, weight: float, doubt: Doubt) -> SlideGate:
    first = scale.apply(slide.first)
    everywhere = together(slide.first, slide.alone, weight)
    found = looked_twice(first, everywhere, doubt)
    scored = np.isfinite(slide.alone)
    settings = LesionSettings()
    before, after = (
        lesions_of(slide.grid, values, slide.status, settings) for values in (everywhere, found)
    )
    cells = int(scored.sum())
    again = scored & doubt.of(first)
    return SlideGate(
        slide=slide.name,
        cells=cells,
        again=float(again.sum() / cells) if cells else 0.0,
        **_differences(first[scored], everywhere[scored], doubt),
        lesions=len(before),
        lesions_alike=lesions_alike(before, after),
    )
