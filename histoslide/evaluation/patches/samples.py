"""Patches to look at: samples of each class and the worst mistakes, with the label box drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from histoslide import look
from histoslide.evaluation.drawing import plain
from histoslide.evaluation.patches.perturbations import Perturbation
from histoslide.evaluation.patches.predictions import Patches, Predictions

SAMPLES_A_CLASS = 8
TOP_LOSSES = 24

_INCHES = 1.55
_COLUMNS = 8


def pick_samples(labels: NDArray[np.int64], label: int, *, seed: int = 0) -> NDArray[np.intp]:
    """Up to ``SAMPLES_A_CLASS`` patches of a class, drawn at random."""
    members = np.flatnonzero(labels == label)
    rng = np.random.default_rng((seed, label))
    return rng.permutation(members)[:SAMPLES_A_CLASS]


def top_losses(predictions: Predictions, temperature: float, count: int) -> NDArray[np.intp]:
    """The patches the model is most wrong about, highest loss first."""
    losses = predictions.losses(temperature)
    return np.argsort(-losses, kind="stable")[:count]


def sample_figure(
    patches: Patches, predictions: Predictions, label: int, *, temperature: float, label_px: int
) -> Figure:
    """Random patches of one class, with what the model says of them."""
    chosen = pick_samples(predictions.known_labels, label)
    probabilities = predictions.probabilities(temperature)
    shown = label if predictions.tumour is None else predictions.tumour
    name = plain(predictions.classes[shown], 16)
    titles = [f"P({name}) {probabilities[i, shown]:.2f}" for i in chosen]
    return patch_figure(patches, chosen, titles, label_px=label_px)


def top_loss_figure(
    patches: Patches,
    predictions: Predictions,
    chosen: NDArray[np.intp],
    *,
    temperature: float,
    label_px: int,
) -> Figure:
    """Patches with predicted and actual class, loss, and probability of the predicted class.

    Predicted is the most probable class, as in fastai's ``plot_top_losses``: the loss knows no
    threshold.
    """
    probabilities, losses = predictions.probabilities(temperature), predictions.losses(temperature)
    labels, classes = predictions.known_labels, predictions.classes
    titles = []
    for i in chosen:
        best = int(probabilities[i].argmax())
        titles.append(
            f"{plain(predictions.names[i], 20)}\n"
            f"predicted {plain(classes[best], 14)}\nactual {plain(classes[labels[i]], 14)}\n"
            f"loss {losses[i]:.2f} · p {probabilities[i, best]:.3f}"
        )
    return patch_figure(patches, chosen, titles, label_px=label_px, columns=6)


def perturbed_figure(
    patch: NDArray[np.uint8], perturbations: Sequence[Perturbation], *, label_px: int
) -> Figure:
    """A patch as it is and after each change.

    Args:
        patch: RGB, shape (side, side, 3).
        perturbations: the changes.
        label_px: side of the box.
    """
    views = [patch, *(it.change(patch[None])[0] for it in perturbations)]
    titles = ["as it is", *(it.name for it in perturbations)]
    return picture_figure(views, titles, label_px=label_px, columns=7)


def patch_figure(
    patches: Patches,
    chosen: NDArray[np.intp],
    titles: Sequence[str],
    *,
    label_px: int,
    columns: int = _COLUMNS,
) -> Figure:
    """Patches side by side, each with a box around the centre that its label speaks of.

    Raises:
        DataError: a patch cannot be read.
    """
    pictures = (patches.read(int(index)) for index in chosen)
    return picture_figure(pictures, titles, label_px=label_px, columns=columns)


def picture_figure(
    pictures: Iterable[NDArray[np.uint8]],
    titles: Sequence[str],
    *,
    label_px: int,
    columns: int = _COLUMNS,
) -> Figure:
    """Square pictures side by side, one a title, each with a box around its centre."""
    rows = max(1, -(-len(titles) // columns))
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    head, gap = 0.14 * lines + 0.1, 0.1
    width, height = columns * (_INCHES + gap) + gap, rows * (_INCHES + head + gap) + gap
    # Places are computed here: an automatic layout of so many axes takes seconds.
    figure = Figure(figsize=(width, height))
    for place, (pixels, title) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(place, columns)
        left = gap + column * (_INCHES + gap)
        bottom = height - (row + 1) * (_INCHES + head + gap)
        axes = figure.add_axes((left / width, bottom / height, _INCHES / width, _INCHES / height))
        axes.imshow(pixels, interpolation="bicubic")
        axes.set_title(title, fontsize=7.5, linespacing=1.15, pad=3)
        axes.set_axis_off()
        draw_label_box(axes, pixels.shape[0], label_px)
    return figure


def draw_label_box(axes: Axes, side_px: int, label_px: int) -> None:
    """A box just around the label footprint; none where the label speaks of the whole patch."""
    if label_px >= side_px:
        return
    low = (side_px - label_px) / 2 - 0.5
    for colour, width in ((look.RIM, 2.2), (look.FOOTPRINT, 1.2)):  # dark rim: seen on glass too
        edge = look.hexadecimal(colour)
        box = Rectangle((low, low), label_px, label_px, fill=False, edgecolor=edge, linewidth=width)
        axes.add_patch(box)
