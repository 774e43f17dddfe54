"""The report of a run: pictures, tables and one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from histoslide.errors import DataError, reason
from histoslide.evaluation.drawing import to_png
from histoslide.evaluation.numbers import number, percent, signed, spread
from histoslide.evaluation.patches import plots, samples
from histoslide.evaluation.patches.assessment import Assessment, assess, resampling_note
from histoslide.evaluation.patches.figures import CALIBRATION_BINS
from histoslide.evaluation.patches.history import History
from histoslide.evaluation.patches.perturbations import PERTURBATIONS
from histoslide.evaluation.patches.predictions import Patches, Predictions
from histoslide.evaluation.patches.robustness import Robustness
from histoslide.model import ModelSpec
from histoslide.model.words import in_words
from histoslide.storage.pages import page_templates
from histoslide.storage.records import to_json
from histoslide.storage.writing import refuse_existing, whole_file

REPORT_NAME = "report.html"
PREDICTIONS_NAME = "predictions.csv"
FIGURES_NAME = "figures.json"

PICTURES = (
    "loss",
    "learning-rate",
    "learning-rate-finder",
    "roc",
    "precision-recall",
    "confusion",
    "probabilities",
    "reliability",
    "robustness",
    "slides",
    "top-losses",
)
"""Names of the pictures that a report may have, beside ``samples-0``, ``samples-1``, …"""


_OF_TISSUE = ("Top losses", "Samples")
"""Sections whose pictures are of patches."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the report."""

    name: str
    """Of its PNG file, without the ending."""
    section: str
    """Heading it belongs under."""
    caption: str
    """What it shows and how to read it; also its text for those who do not see it."""
    png: bytes
    """The file."""
    wide: bool = False
    """Whether it takes the whole width of the page."""

    @property
    def chart(self) -> bool:
        """Whether it is drawn, and can be shown light on dark; tissue keeps its colours."""
        return self.section not in _OF_TISSUE

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def refuse_report(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a report may be written: nothing lies there under a name that it may take.

    Raises:
        OutputExistsError: something does and ``overwrite`` is false.
    """
    for name in (REPORT_NAME, PREDICTIONS_NAME, FIGURES_NAME, *(f"{it}.png" for it in PICTURES)):
        refuse_existing(folder / name, overwrite=overwrite)
    for path in sorted(folder.glob("samples-*.png")):
        if path.stem.removeprefix("samples-").isdecimal():
            refuse_existing(path, overwrite=overwrite)


def write_report(
    folder: Path,
    *,
    predictions: Predictions,
    patches: Patches,
    spec: ModelSpec,
    history: History | None = None,
    threshold: float | None = None,
    assessment: Assessment | None = None,
    robustness: Robustness | None = None,
    title: str,
    data: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write pictures, ``predictions.csv``, ``figures.json`` and ``report.html`` into a run folder.

    Everything is drawn before anything is written, each file is whole or as it was before, and
    ``report.html`` is written last: where it is, the rest is too.

    Args:
        folder: made where it is missing; other files in it are left alone.
        predictions: on labelled patches.
        patches: the same patches, to show samples of.
        spec: of the model.
        history: of its training; None takes the epochs that the spec records.
        threshold: probability from which a patch is called tumour; None for 0.5.
        assessment: of these predictions, where there is one already; None makes it.
        robustness: of the model on these patches, where it was measured.
        title: of the page.
        data: what the patches are, in a few words.
        overwrite: replace an earlier report, and other files of those names.

    Returns:
        Path of the page.

    Raises:
        OutputExistsError: there is a report, or another file under a name that it may take, and
            ``overwrite`` is false.
        DataError: a patch cannot be read, predictions do not fit the patches or the model, or the
            folder cannot be written.
    """
    page = folder / REPORT_NAME
    refuse_report(folder, overwrite=overwrite)
    if len(patches) != len(predictions):
        raise DataError(f"{len(predictions)} predictions are not of these {len(patches)} patches")
    if predictions.classes != spec.classes:
        raise DataError(
            f"predictions of {', '.join(predictions.classes)} are not of the model {spec.name}, "
            f"which has {', '.join(spec.classes)}"
        )
    temperature = spec.temperature
    if assessment is None:
        assessment = assess(predictions, temperature=temperature, threshold=threshold)
    if history is None:
        history = History.of_epochs(tuple(spec.training.get("epochs") or ()))
    pictures = [
        *_training_pictures(history),
        *_figure_pictures(predictions, assessment),
        *_perturbed_pictures(predictions, patches, spec, robustness),
        *_patch_pictures(predictions, patches, spec),
    ]
    text = render_page(
        assessment=assessment,
        predictions=predictions,
        pictures=pictures,
        spec=spec,
        history=history,
        robustness=robustness,
        title=title,
        data=data,
    )
    figures = {"model": spec.name, "data": data} | assessment.as_dict()
    if robustness is not None:
        figures["robustness"] = robustness
    files = {f"{picture.name}.png": picture.png for picture in pictures}
    files[FIGURES_NAME] = to_json(figures).encode()
    files[REPORT_NAME] = text.encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        predictions.save(
            folder / PREDICTIONS_NAME, temperature=temperature, threshold=assessment.threshold
        )
        for name, content in files.items():
            with whole_file(folder / name) as partial:
                partial.write_bytes(content)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {reason(error)}") from error
    return page


def _training_pictures(history: History) -> Iterator[Picture]:
    section = "Training"
    if history.epochs or len(history.loss):
        yield _picture(
            "loss",
            section,
            plots.learning_curves(history),
            "Loss while the model learned. Training loss is measured on augmented patches with "
            "dropout, and with label smoothing where the recipe has it, so validation loss may lie "
            "below it. A validation loss that rises while training loss falls is overfitting.",
        )
    if len(history.lr):
        yield _picture(
            "learning-rate",
            section,
            plots.learning_rates(history),
            "Learning rate of every step. The body of a pretrained network learns more slowly than "
            "its head.",
        )
    if history.finder is not None:
        yield _picture(
            "learning-rate-finder",
            section,
            plots.rate_search(history),
            "Smoothed loss while the learning rate grew from step to step. A good rate lies where "
            "the loss falls, well before it rises.",
        )


def _figure_pictures(predictions: Predictions, assessment: Assessment) -> Iterator[Picture]:
    one = assessment.tumour is not None
    if assessment.curves:
        band = " The band holds the middle 95 % of the resampled curves." if one else ""
        rest = "" if one else " One line a class, that class against all others."
        yield _picture(
            "roc",
            "Ranking",
            plots.roc_curves(assessment),
            "Sensitivity against false alarms over all thresholds. The area under it (AUC) is the "
            f"chance that a patch of the class scores above one that is not.{rest}{band}",
        )
        yield _picture(
            "precision-recall",
            "Ranking",
            plots.precision_recall_curves(assessment),
            "Precision against recall over all thresholds. Unlike the ROC curve it depends on how "
            "common the class is: where it is rarer than here, precision is lower."
            f"{rest}{band}",
        )
    yield _picture(
        "confusion",
        "Decisions",
        plots.confusion_matrix(assessment),
        "Patches by actual class (row) and predicted class (column). Percentages and colour are "
        "parts of the row.",
    )
    if one:
        yield _picture(
            "probabilities",
            "Decisions",
            plots.probability_histogram(predictions, assessment),
            "Calibrated probability of tumour, for patches of each class by themselves. Overlap "
            "near the threshold is where the model errs.",
        )
    yield _picture(
        "reliability",
        "Calibration",
        plots.reliability(predictions, assessment),
        f"{CALIBRATION_BINS} bins of equal width: what the model said against what was so. "
        "At a point below the diagonal it happened less often than the model said. ECE is the "
        "expected calibration error of the most probable class.",
        wide=assessment.temperature != 1,
    )
    if any(slide.auc is not None for slide in assessment.by_slide):
        yield _picture(
            "slides",
            "Slides",
            plots.slide_areas(assessment),
            "AUC among the patches of each slide that has both classes. A slide far below the rest "
            "is worth a look: another stain, scanner or kind of tumour.",
        )


def _perturbed_pictures(
    predictions: Predictions, patches: Patches, spec: ModelSpec, robustness: Robustness | None
) -> Iterator[Picture]:
    """One patch of the tumour class, or of the first, under every change of the table."""
    if robustness is None:
        return
    labels = predictions.known_labels
    tumour = predictions.tumour
    shown = int(labels[0]) if tumour is None or tumour not in labels else tumour
    chosen = samples.pick_samples(labels, shown)[0]
    names = {row.change for row in robustness.changes}
    changes = [it for it in PERTURBATIONS if it.name in names]
    yield _picture(
        "robustness",
        "Robustness",
        samples.perturbed_figure(patches.read(int(chosen)), changes, label_px=spec.label_px),
        f"A patch labelled {predictions.classes[shown]} as it is, and under every change of the "
        "table.",
        wide=True,
    )


def _patch_pictures(
    predictions: Predictions, patches: Patches, spec: ModelSpec
) -> Iterator[Picture]:
    temperature = spec.temperature
    box = (
        f" The box is the centre {spec.label_px} × {spec.label_px} px that the label speaks of; "
        f"the patch is {spec.input_px * spec.mpp:.0f} µm wide."
        if spec.label_px < spec.input_px
        else f" Patches are {spec.input_px * spec.mpp:.0f} µm wide."
    )
    worst = samples.top_losses(predictions, temperature, samples.TOP_LOSSES)
    yield _picture(
        "top-losses",
        "Top losses",
        samples.top_loss_figure(
            patches, predictions, worst, temperature=temperature, label_px=spec.label_px
        ),
        "The patches on which the model was most wrong, the worst first: what it said (the most "
        f"probable class), what the label says, the loss, and the probability of what it said.{box}"
        " Some of them may be errors of the label.",
        wide=True,
    )
    labels = predictions.known_labels
    for label, name in enumerate(predictions.classes):
        if not (labels == label).any():
            continue
        yield _picture(
            f"samples-{label}",
            "Samples",
            samples.sample_figure(
                patches, predictions, label, temperature=temperature, label_px=spec.label_px
            ),
            f"Patches labelled {name}, drawn at random.{box}",
            wide=True,
        )


def _picture(
    name: str, section: str, figure: Figure, caption: str, *, wide: bool = False
) -> Picture:
    assert name in PICTURES or name.startswith("samples-"), "refuse_report knows all names"
    png = to_png(figure)
    return Picture(name=name, section=section, caption=caption, png=png, wide=wide)


# --- the page -------------------------------------------------------------------------------------


def render_page(
    *,
    assessment: Assessment,
    predictions: Predictions,
    pictures: Sequence[Picture],
    spec: ModelSpec,
    history: History,
    robustness: Robustness | None,
    title: str,
    data: str | None,
) -> str:
    """The report as one HTML page: pictures inside, no scripts, nothing fetched from anywhere."""
    environment = page_templates("histoslide.evaluation.patches", folder="")
    environment.filters |= {
        "number": number,
        "signed": signed,
        "spread": spread,
        "percent": percent,
    }
    style = resources.files("histoslide.evaluation").joinpath("page.css")
    sections: dict[str, list[Picture]] = {}
    for picture in pictures:
        sections.setdefault(picture.section, []).append(picture)
    return environment.get_template("report.html.j2").render(
        title=title,
        style=style.read_text(encoding="utf-8"),
        data=data,
        spec=spec,
        assessment=assessment,
        predictions=predictions,
        sections=sections,
        history=history,
        robustness=robustness,
        note=resampling_note(assessment) if assessment.resamples else "",
        top=_top_losses(predictions, spec),
        made=list(flatten(_without(spec.training, ("epochs",)))),
        facts=_facts(spec),
        version=version("histoslide"),
        date=datetime.now().astimezone().date().isoformat(),
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text."""
    for key, value in values.items():
        name = f"{prefix}{in_words(key)}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name} · ")
        elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
            for i, item in enumerate(value, start=1):
                settings = item if isinstance(item, Mapping) else {"value": item}
                text = ", ".join(f"{k} {v}" for k, v in flatten(settings))
                yield f"{name} {i}", text
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(_text(item) for item in value)
        elif value is not None:
            yield name, _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _facts(spec: ModelSpec) -> dict[str, str]:
    facts = {
        "name": spec.name,
        "architecture": spec.architecture,
        "classes": ", ".join(spec.classes),
        "tumour class": spec.tumour_class or "none",
        "patch": f"{spec.input_px} px at {spec.mpp:g} µm/px",
        "label speaks of": f"the centre {spec.label_px} px"
        if spec.label_px < spec.input_px
        else "the whole patch",
        "temperature": f"{spec.temperature:.4f}",
        "licence": spec.licence,
    }
    return {key: value for key, value in facts.items() if value}


def _top_losses(predictions: Predictions, spec: ModelSpec) -> list[dict[str, Any]]:
    chosen = samples.top_losses(predictions, spec.temperature, samples.TOP_LOSSES)
    probabilities = predictions.probabilities(spec.temperature)
    losses, labels = predictions.losses(spec.temperature), predictions.known_labels
    rows = []
    for i in chosen:
        best = int(np.argmax(probabilities[i]))
        row = {
            "name": predictions.names[i],
            "slide": "" if predictions.slides is None else predictions.slides[i],
            "predicted": predictions.classes[best],
            "actual": predictions.classes[labels[i]],
            "loss": float(losses[i]),
            "probability": float(probabilities[i, best]),
        }
        rows.append(row)
    return rows
