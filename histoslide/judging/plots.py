"""Figures of a judged cohort."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from histoslide.evaluation.drawing import BLUE, GREY, VERMILION, finish, new_figure, square
from histoslide.evaluation.slides.slide_level import RATES, SlideLevel
from histoslide.evaluation.slides.stages import STAGES
from histoslide.judging.assessment import FALSE_GRID, LesionLevel, PatientLevel, sensitivity_at


def froc_curve(level: LesionLevel) -> Figure:
    """Sensitivity over mean false positives a slide, on a logarithmic axis."""
    figure = new_figure(6.4, 5.2)
    axes = figure.add_subplot()
    if level.band is not None:
        low, high = level.band
        axes.fill_between(FALSE_GRID, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 %")
    curve = level.curve
    end = float(curve.false_per_slide.max())
    shown = curve.false_per_slide >= FALSE_GRID[0]
    # Between its points the curve is straight in false positives, so bent on this axis.
    between = FALSE_GRID[max(end, FALSE_GRID[0]) >= FALSE_GRID]
    false = np.concatenate([curve.false_per_slide[shown], between])
    found = np.concatenate([curve.sensitivity[shown], sensitivity_at(curve, between)])
    order = np.lexsort((found, false))
    axes.plot(false[order], found[order], color=BLUE, label=f"FROC score {level.score:.3f}")
    if end < FALSE_GRID[-1]:
        start = max(end, float(FALSE_GRID[0]))
        height = float(curve.sensitivity.max())
        axes.plot(
            [start, FALSE_GRID[-1]], [height, height], ":", color=BLUE, label="no more detections"
        )
    axes.plot(curve.at, curve.sensitivities, "o", color=VERMILION, label="read off")
    axes.set_xscale("log", base=2)
    axes.set_xlim(FALSE_GRID[0], FALSE_GRID[-1])
    axes.set_ylim(-0.01, 1.01)
    ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16]
    axes.set_xticks(ticks, ["1/8", "1/4", "1/2", *(f"{it:g}" for it in ticks[3:])])
    axes.set(xlabel="mean false positives a slide", ylabel="sensitivity for lesions")
    axes.set_title(f"FROC: {level.lesions:,} lesions on {level.slides:,} slides")
    finish(axes, loc="lower right")
    return figure


def roc_curve(level: SlideLevel) -> Figure:
    """ROC curve of the slide score."""
    figure, axes = square()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="guessing")
    if level.band is not None:
        low, high = level.band
        axes.fill_between(RATES, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 %")
    axes.plot(level.false_rate, level.true_rate, color=BLUE, label=f"AUC {level.auc:.3f}")
    axes.set(xlabel="false positive rate (1 − specificity)", ylabel="true positive rate")
    axes.set_title(f"Slides: {level.positive:,} with tumour, {level.negative:,} without")
    finish(axes, loc="lower right")
    return figure


def stage_matrix(level: PatientLevel) -> Figure:
    """Patients by true and predicted stage; colour is the part of the true stage."""
    counts = level.confusion
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(5.6, 4.8)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, col), count in np.ndenumerate(counts):
        colour = "white" if share[row, col] > 0.55 else "black"
        weight = "bold" if row == col else "normal"
        axes.text(col, row, f"{count:,}", ha="center", va="center", color=colour, weight=weight)
    names = [str(stage) for stage in STAGES]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="actual", title="Stages of patients")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("part of the actual stage")
    return figure
