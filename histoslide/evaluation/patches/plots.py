"""Figures of an assessment and of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from histoslide import quantities
from histoslide.evaluation.drawing import (
    BLUE,
    COLOURS,
    GREY,
    STYLES,
    VERMILION,
    finish,
    finish_curves,
    look,
    new_figure,
    plain,
    square,
    tidy,
)
from histoslide.evaluation.patches.assessment import GRID, Assessment, Curve
from histoslide.evaluation.patches.figures import CALIBRATION_BINS
from histoslide.evaluation.patches.history import History
from histoslide.evaluation.patches.predictions import Predictions

_MOST_SLIDES = 40

# --- training -------------------------------------------------------------------------------------


def learning_curves(history: History) -> Figure:
    """Training loss of every step, and training and validation loss of every epoch."""
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    steps = len(history.loss)
    epochs = np.array([float(record["epoch"]) for record in history.epochs])
    if steps:
        # Steps are placed within their epochs, so that both share an axis.
        last = epochs[-1] if len(epochs) else 1.0
        x = (np.arange(steps) + 1) / steps * last
        axes.plot(x, history.loss, color=BLUE, alpha=0.25, linewidth=0.6)
        axes.plot(x, _smooth(history.loss), color=BLUE, label="training, smoothed")
    elif len(epochs):
        values = [record["train_loss"] for record in history.epochs]
        axes.plot(epochs, values, "o-", color=BLUE, label="training")
    if len(epochs):
        values = [record["valid_loss"] for record in history.epochs]
        axes.plot(epochs, values, "s--", color=VERMILION, label="validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel="loss (cross entropy, nats)", title="Loss")
    if steps:
        # A first step from random weights can be far above all others.
        top = max(float(np.percentile(history.loss, 99.5)), *_finite(history.epochs, "valid_loss"))
        axes.set_ylim(0, top * 1.08)
    else:
        axes.set_ylim(bottom=0)
    finish(axes)
    return figure


def learning_rates(history: History) -> Figure:
    """Learning rate of every step, one line a parameter group."""
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    groups = history.lr.shape[1]
    for group in range(groups):
        label = f"group {group + 1} of {groups}" + (" (head)" if group == groups - 1 else "")
        style, colour = STYLES[group % 4], COLOURS[group % len(COLOURS)]
        if group and np.array_equal(history.lr[:, group], history.lr[:, group - 1]):
            continue
        axes.plot(history.lr[:, group], style, color=colour, label=label if groups > 1 else None)
    axes.set(xlabel="step", ylabel="learning rate", title="Learning rate", ylim=(0, None))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    finish(axes, legend=groups > 1)
    return figure


def rate_search(history: History) -> Figure:
    """Loss against learning rate, as the finder saw it."""
    assert history.finder is not None
    finder = history.finder
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    axes.plot(finder.lrs, finder.losses, color=BLUE)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.set(xlabel="learning rate", ylabel="loss (cross entropy, nats)")
    axes.set_title("Learning-rate finder")
    if finder.suggestion is not None:
        label = f"suggested {finder.suggestion:.2g}"
        axes.axvline(finder.suggestion, color=VERMILION, linestyle="--", label=label)
    top = finder.losses[np.isfinite(finder.losses)]
    if len(top):
        low, high = float(top.min()), float(np.percentile(top, 90))
        axes.set_ylim(low - 0.1 * (high - low) - 1e-3, high + 0.4 * (high - low) + 1e-3)
    finish(axes, legend=finder.suggestion is not None)
    return figure


# --- ranking --------------------------------------------------------------------------------------


def roc_curves(assessment: Assessment) -> Figure:
    """ROC curve of the tumour class, or of every class against the rest."""
    figure, axes = square()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="guessing")
    for i, curve in enumerate(assessment.curves):
        colour, style = look(i)
        if curve.roc_band is not None and len(assessment.curves) == 1:
            low, high = curve.roc_band
            axes.fill_between(GRID, low, high, color=colour, alpha=0.2, linewidth=0, label="95 %")
        label = f"{plain(curve.name)}: AUC {curve.auc:.3f}"
        axes.plot(curve.false_rate, curve.true_rate, style, color=colour, label=label)
    if assessment.sensitivity is not None and assessment.specificity is not None:
        point = 1 - assessment.specificity, assessment.sensitivity
        label = f"threshold {assessment.threshold:g}"
        axes.plot(*point, "o", color="black", markersize=7, label=label)
    axes.set(xlabel="false positive rate (1 − specificity)", title="ROC curve")
    axes.set_ylabel("true positive rate (sensitivity)")
    finish_curves(figure, axes, len(assessment.curves), loc="lower right")
    return figure


def precision_recall_curves(assessment: Assessment) -> Figure:
    """Precision-recall curve of the tumour class, or of every class against the rest."""
    figure, axes = square()
    for i, curve in enumerate(assessment.curves):
        colour, style = look(i)
        if curve.precision_band is not None and len(assessment.curves) == 1:
            low, high = curve.precision_band
            axes.fill_between(GRID, low, high, color=colour, alpha=0.2, linewidth=0, label="95 %")
        label = f"{plain(curve.name)}: AP {curve.average_precision:.3f}"
        axes.plot(
            curve.recall, curve.precision, style, color=colour, label=label, drawstyle="steps-pre"
        )
    if len(assessment.curves) == 1:
        share = assessment.curves[0].share
        axes.axhline(share, color=GREY, linestyle=":", linewidth=1, label=f"guessing: {share:.3f}")
        _mark_precision(axes, assessment, assessment.curves[0])
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    axes.set_title("Precision–recall curve")
    finish_curves(figure, axes, len(assessment.curves), loc="lower left")
    return figure


def _mark_precision(axes: Axes, assessment: Assessment, curve: Curve) -> None:
    (figures,) = (f for f in assessment.by_class if f.name == curve.name)
    if assessment.threshold is not None and np.isfinite(figures.precision):
        label = f"threshold {assessment.threshold:g}"
        point = figures.recall, figures.precision
        axes.plot(*point, "o", color="black", markersize=7, label=label)


# --- decisions ------------------------------------------------------------------------------------


def confusion_matrix(assessment: Assessment) -> Figure:
    """Counts by actual and called class; colour is the part of the actual class."""
    counts, names = assessment.confusion, [plain(name, 26) for name in assessment.classes]
    size = 2.6 + 0.72 * max(3, len(names))
    figure = new_figure(size + 0.9, size)
    axes = figure.add_subplot()
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share = counts / totals
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    big = len(names) > 5
    for (row, col), count in np.ndenumerate(counts):
        text = f"{count:,}\n{quantities.share(share[row, col])}" if not big or count else "0"
        colour = "white" if share[row, col] > 0.55 else "black"
        weight = "bold" if row == col else "normal"
        axes.text(
            col, row, text, ha="center", va="center", color=colour, weight=weight,
            fontsize=8 if big else 12,
        )  # fmt: skip
    ticks = range(len(names))
    turned = big or max(map(len, names)) > 12
    axes.set_xticks(ticks, names, rotation=40 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(ticks, names)
    title = "Confusion matrix"
    if assessment.threshold is not None and assessment.tumour is not None:
        tumour = names[assessment.tumour]
        title += f"\n{tumour} where P({tumour}) ≥ {assessment.threshold:g}"
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("part of the actual class")
    return figure


def probability_histogram(predictions: Predictions, assessment: Assessment) -> Figure:
    """How P(tumour) is spread within tumour and normal patches."""
    assert assessment.tumour is not None
    tumour = assessment.tumour
    scores = predictions.probabilities(assessment.temperature)[:, tumour]
    labels = predictions.known_labels
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, 41).tolist()
    looks = ((1 - tumour, BLUE, "-", 0.25), (tumour, VERMILION, "--", 0.25))
    for label, colour, style, alpha in looks:
        chosen = scores[labels == label]
        if not len(chosen):
            continue
        weights = np.full(len(chosen), 1 / len(chosen))
        name = f"{plain(predictions.classes[label])} ({len(chosen):,})"
        axes.hist(chosen, edges, weights=weights, color=colour, alpha=alpha)
        axes.hist(
            chosen, edges, weights=weights, histtype="step", color=colour, linestyle=style,
            linewidth=1.6, label=f"actual {name}",
        )  # fmt: skip
    if assessment.threshold is not None:
        label_text = f"threshold {assessment.threshold:g}"
        axes.axvline(assessment.threshold, color="black", linestyle=":", label=label_text)
    name = plain(predictions.classes[tumour])
    axes.set(xlabel=f"P({name})", ylabel="part of the class", xlim=(0, 1))
    axes.set_title(f"P({name}) by actual class")
    finish(axes, loc="best")
    return figure


def slide_areas(assessment: Assessment) -> Figure:
    """AUC within each slide, lowest first; of many slides the lowest."""
    judged = sorted(
        (slide for slide in assessment.by_slide if slide.auc is not None),
        key=lambda slide: cast("float", slide.auc),
    )
    shown = judged[:_MOST_SLIDES]
    figure = new_figure(6.4, 1.5 + 0.26 * max(3, len(shown)))
    axes = figure.add_subplot()
    y = np.arange(len(shown))
    areas = np.array([cast("float", slide.auc) for slide in shown])
    axes.plot(areas, y, "o", color=BLUE, label="within the slide")
    axes.axvline(assessment.figures.auc, color=VERMILION, linestyle="--", label="all patches")
    names = [f"{plain(s.name, 24)} ({s.positive:,}/{s.patches:,})" for s in shown]
    axes.set_yticks(y, names, fontsize=8)
    axes.invert_yaxis()
    low = min(0.45, float(areas.min()) - 0.03) if len(areas) else 0.45
    axes.set_xlim(low, 1.01)
    title = "AUC by slide (tumour/all patches)"
    if len(judged) > len(shown):
        title += f": the lowest {len(shown)} of {len(judged)}"
    axes.set(xlabel="area under the ROC curve", title=title)
    finish(axes, loc="lower left")
    return figure


# --- calibration ----------------------------------------------------------------------------------


def reliability(predictions: Predictions, assessment: Assessment) -> Figure:
    """What was said against what was so, before and after temperature scaling, if there is any."""
    panels = [(1.0, "as the model says", assessment.uncalibrated)]
    if assessment.temperature != 1:
        after = f"after scaling (T = {assessment.temperature:.3f})"
        panels.append((assessment.temperature, after, assessment.figures))
    figure = new_figure(4.3 * len(panels), 5)
    grid = figure.add_gridspec(2, len(panels), height_ratios=(4, 1))
    top: Axes | None = None
    for column, (temperature, title, figures) in enumerate(panels):
        said, right, name = _stated(predictions, temperature, assessment.tumour)
        axes = figure.add_subplot(grid[0, column], sharey=top)
        below = figure.add_subplot(grid[1, column], sharex=axes)
        _reliability_panel(axes, said, right)
        axes.set_title(
            f"{title}\nECE {figures.calibration_error:.3f}, loss {figures.loss:.3f}", fontsize=10
        )
        axes.tick_params(labelbottom=False)
        if column == 0:
            so = f"part that is {name}" if assessment.tumour is not None else "part that is right"
            axes.set_ylabel(f"observed: {so}")
            below.set_ylabel("patches")
        below.hist(said, np.linspace(0, 1, CALIBRATION_BINS + 1).tolist(), color=GREY)
        stated = f"P({name})" if assessment.tumour is not None else "confidence of the model"
        below.set_xlabel(f"predicted: {stated}")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        below.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        tidy(below)
        top = axes
    return figure


def _stated(
    predictions: Predictions, temperature: float, tumour: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], str]:
    """A probability for every patch, whether it came true, and what it is a probability of."""
    probabilities, labels = predictions.probabilities(temperature), predictions.known_labels
    if tumour is not None:
        return probabilities[:, tumour], labels == tumour, plain(predictions.classes[tumour], 16)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, ""


def _reliability_panel(axes: Axes, said: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
    bins = np.minimum((said * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = count > 0
    n = count[filled]
    x = np.bincount(bins, weights=said, minlength=CALIBRATION_BINS)[filled] / n
    y = np.bincount(bins, weights=right, minlength=CALIBRATION_BINS)[filled] / n
    # Wilson's score interval of a share, 1927; never beyond 0-1, and right for few patches.
    z = 1.96
    middle = (y + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(y * (1 - y) / n + z**2 / (4 * n**2))
    bars = np.clip([y - (middle - half), middle + half - y], 0, None)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    axes.errorbar(
        x, y, yerr=bars, fmt="o-", color=BLUE, capsize=2, linewidth=1.2, markersize=4,
        label="observed, 95 %",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    finish(axes, loc="lower right")


# --- shared ---------------------------------------------------------------------------------------


def _smooth(values: NDArray[np.float64], weight: float = 0.98) -> NDArray[np.float64]:
    """Exponential average without the pull towards zero at the start, as fastai shows its loss."""
    result = np.empty(len(values))
    average = 0.0
    for i, value in enumerate(values):
        average = weight * average + (1 - weight) * value
        result[i] = average / (1 - weight ** (i + 1))
    return result


def _finite(records: Sequence[object], name: str) -> list[float]:
    values = [float(cast("dict[str, float]", record)[name]) for record in records]
    return [value for value in values if np.isfinite(value)] or [0.0]
