"""Predictions, figures with intervals, pictures and the report, each against a slow twin."""

import csv
import dataclasses
import functools
import io
import json
import re
import threading
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from models import colour_model, three_class_model
from numpy.typing import NDArray
from PIL import Image
from red_patches import Memory, red_patches
from sklearn.metrics import average_precision_score, roc_auc_score

from histoslide.errors import DataError, OutputExistsError
from histoslide.evaluation import drawing
from histoslide.evaluation.bootstrap import FEWEST_SLIDES, Ranking, interval, resample
from histoslide.evaluation.patches import plots
from histoslide.evaluation.patches.assessment import GRID, assess, resampling_note
from histoslide.evaluation.patches.classes import match_classes
from histoslide.evaluation.patches.history import History, RateSearch
from histoslide.evaluation.patches.predictions import Predictions, predict_patches
from histoslide.evaluation.patches.report import flatten, write_report
from histoslide.evaluation.patches.samples import (
    SAMPLES_A_CLASS,
    draw_label_box,
    pick_samples,
    sample_figure,
    top_loss_figure,
    top_losses,
)
from histoslide.model.pixels import HostMemory, PixelMemory
from histoslide.model.torch_backend import TensorMemory

MODEL = colour_model(input_px=48)


def made_up(
    count: int, classes: int = 2, *, seed: int = 0, ties: bool = False, slides: int = 0
) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += 1
    if ties:
        logits = np.round(logits)
    names = ("normal", "tumour") if classes == 2 else tuple(f"tissue {k}" for k in range(classes))
    return Predictions(
        logits=logits.astype(np.float32),
        labels=labels,
        names=tuple(f"patch-{i}" for i in range(count)),
        slides=tuple(f"slide-{i % slides}" for i in range(count)) if slides else None,
        classes=names,
        tumour=1 if classes == 2 else None,
    )


def counted(confusion: Sequence[Sequence[int]]) -> Predictions:
    """Predictions with just this confusion matrix (rows actual, columns predicted)."""
    pairs = [
        (row, col)
        for row, counts in enumerate(confusion)
        for col, count in enumerate(counts)
        for _ in range(count)
    ]
    size = len(confusion)
    return Predictions(
        logits=np.array([np.eye(size)[col] * 3 for _, col in pairs], dtype=np.float32),
        labels=np.array([row for row, _ in pairs], dtype=np.int64),
        names=tuple(map(str, range(len(pairs)))),
        classes=tuple(f"class {k}" for k in range(size)),
        tumour=1 if size == 2 else None,
    )


# --- predictions ----------------------------------------------------------------------------------


def test_every_patch_keeps_its_place() -> None:
    values = [(37 * i) % 250 + 1 for i in range(150)]  # several batches
    patches = dataclasses.replace(red_patches(values), slides=tuple(f"s{i}" for i in range(150)))
    told: list[tuple[int, int]] = []
    found = predict_patches(
        MODEL, patches, workers=3, progress=lambda done, total: told.append((done, total))
    )
    np.testing.assert_allclose(found.probabilities(1)[:, 1], np.array(values) / 255, atol=1e-5)
    assert found.names == tuple(patches.names)
    assert found.slides == patches.slides
    assert found.labels is not None
    assert found.labels.tolist() == patches.labels.tolist()
    assert told[-1] == (150, 150)
    assert threading.get_ident() not in patches.readers


def test_labels_become_those_of_the_model() -> None:
    found = predict_patches(MODEL, red_patches([9, 9, 9], [0, 1, 1]), class_map=np.array([1, 0]))
    assert found.known_labels.tolist() == [1, 0, 0]


def test_unlabelled_patches_stay_unlabelled() -> None:
    class Bare:
        names = ("a",)

        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> NDArray[np.uint8]:
            return np.full((48, 48, 3), 51, np.uint8)

    found = predict_patches(MODEL, Bare())
    assert found.labels is None
    assert found.slides is None
    with pytest.raises(DataError, match="no labels"):
        assess(found)


@pytest.mark.parametrize("memory", [HostMemory(), TensorMemory(torch.device("cpu"))])
def test_the_eight_symmetries_are_eight(memory: PixelMemory) -> None:
    corner = np.zeros((1, 3, 5, 5), dtype=np.uint8)
    corner[..., 0, 1] = 1
    views = [np.asarray(view) for view in memory.symmetries(memory.hold(corner))]
    assert {view.shape for view in views} == {corner.shape}
    assert len({tuple(np.argwhere(view[0, 0])[0]) for view in views}) == 8


def test_the_mean_of_symmetries_is_of_logits() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    off = colour_model(input_px=48, label_px=17)  # 15 px from one edge, 16 from the other
    patches = Memory(pixels, np.zeros(3, dtype=np.int64))
    found = predict_patches(off, patches, tta=True)
    views = HostMemory().symmetries(pixels.transpose(0, 3, 1, 2))
    expected = np.mean([off.logits(view.copy()) for view in views], axis=0)
    np.testing.assert_allclose(found.logits, expected, atol=1e-6)
    assert np.abs(found.logits - predict_patches(off, patches).logits).max() > 1e-4


def test_a_patch_of_another_size_is_named() -> None:
    patches = red_patches([1, 2])
    wrong = Memory(patches.pixels[:, :40], patches.labels)
    said = r"^patch patch-0 is 48×40 px, the model colour-0 sees 48×48: .*$"
    with pytest.raises(DataError, match=said):
        predict_patches(MODEL, wrong)


def test_no_patches_are_refused() -> None:
    with pytest.raises(DataError, match="no patches"):
        predict_patches(MODEL, red_patches([]))


def test_predictions_come_back_from_their_table(tmp_path: Path) -> None:
    for index, before in enumerate((made_up(50, slides=3), made_up(20, 4, seed=1))):
        path = tmp_path / f"{index}.csv"
        before.save(path, temperature=1.7)
        after = Predictions.load(path, tumour_class="tumour" if index == 0 else None)
        np.testing.assert_array_equal(after.logits, before.logits)
        np.testing.assert_array_equal(after.known_labels, before.known_labels)
        assert after.names == before.names
        assert after.slides == before.slides
        assert (after.classes, after.tumour) == (before.classes, before.tumour)


def test_the_table_holds_what_it_says(tmp_path: Path) -> None:
    found = predict_patches(MODEL, red_patches([51, 204], [1, 1]))
    found.save(tmp_path / "p.csv", temperature=1, threshold=0.1)
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["patch-0", "patch-1"]
    assert [row["label"] for row in rows] == ["tumour", "tumour"]
    assert [row["predicted"] for row in rows] == ["tumour", "tumour"]
    assert [float(row["p_tumour"]) for row in rows] == pytest.approx([0.2, 0.8], abs=1e-5)
    assert [float(row["loss"]) for row in rows] == pytest.approx(-np.log([0.2, 0.8]), abs=1e-4)


def test_a_file_that_is_no_table_of_predictions(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"x\.csv is not a table of predictions"):
        Predictions.load(tmp_path / "x.csv")


def test_the_submission_format(tmp_path: Path) -> None:
    two = predict_patches(MODEL, red_patches([51, 204]))
    two.save_submission(tmp_path / "two.csv", temperature=1)
    lines = (tmp_path / "two.csv").read_text().split()
    assert lines[0] == "id,label"
    assert [float(line.split(",")[1]) for line in lines[1:]] == pytest.approx([0.2, 0.8], abs=1e-5)
    pixels = np.full((1, 96, 96, 3), (51, 51, 153), np.uint8)
    three = predict_patches(three_class_model(), Memory(pixels, np.zeros(1, np.int64)))
    three.save_submission(tmp_path / "three.csv", temperature=1)
    header, row = (tmp_path / "three.csv").read_text().split()
    assert header == "id,red,green,blue"
    assert [float(v) for v in row.split(",")[1:]] == pytest.approx([0.2, 0.2, 0.6], abs=1e-5)


def test_predictions_that_do_not_fit_are_refused() -> None:
    good = made_up(4)
    for change in (
        {"labels": np.array([0, 1, 2, 0])},
        {"labels": np.array([0, 1])},
        {"slides": ("a",)},
        {"names": ("a",)},
        {"logits": np.full((4, 2), np.nan, np.float32)},
    ):
        with pytest.raises(DataError):
            dataclasses.replace(good, **change)


# --- classes --------------------------------------------------------------------------------------


def spec_of(classes: tuple[str, ...], tumour: str | None):  # type: ignore[no-untyped-def]
    return dataclasses.replace(MODEL.spec, classes=classes, tumour_class=tumour)


@pytest.mark.parametrize(
    ("found", "classes", "tumour", "expected"),
    [
        (("normal", "tumour"), ("normal", "tumour"), "tumour", [0, 1]),
        (("Tumour", "normal"), ("normal", "tumour"), "tumour", [1, 0]),
        (("tumour",), ("normal", "tumour"), "tumour", [1]),
        (("0", "1"), ("normal", "tumour"), "tumour", [0, 1]),
        (("0", "1"), ("cancer", "healthy"), "cancer", [1, 0]),
        (("0", "1"), ("0", "1"), "1", [0, 1]),
        (("normal", "tumour"), ("0", "1"), "1", [0, 1]),
        (("normal", "tumour"), ("0", "1"), "0", [1, 0]),
        (("0", "1", "2"), ("a", "b", "c"), None, [0, 1, 2]),
        (("c", "a"), ("a", "b", "c"), None, [2, 0]),
    ],
)
def test_classes_are_matched(
    found: tuple[str, ...], classes: tuple[str, ...], tumour: str | None, expected: list[int]
) -> None:
    assert match_classes(found, spec_of(classes, tumour)).tolist() == expected


def test_classes_are_not_guessed() -> None:
    spec = spec_of(("normal", "tumour"), "tumour")
    with pytest.raises(DataError, match=r"^the data have the classes benign, malignant .*--class"):
        match_classes(("benign", "malignant"), spec)
    with pytest.raises(DataError, match="--class-names"):
        match_classes(("cancer", "healthy"), spec_of(("0", "1"), "1"))
    with pytest.raises(DataError, match="--class-names"):
        match_classes(("normal", "tumour"), spec_of(("0", "1"), None))
    found = match_classes(("benign", "malignant"), spec, names=("normal", "tumour"))
    assert found.tolist() == [0, 1]
    assert match_classes(("a", "b"), spec, names=("tumour", "normal")).tolist() == [1, 0]
    with pytest.raises(DataError, match="gives 1 names for"):
        match_classes(("benign", "malignant"), spec, names=("normal",))


# --- bootstrap ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_figures_are_those_of_sklearn_on_the_resample(ties: bool) -> None:
    data = made_up(90, seed=4, ties=ties)
    scores, labels = data.probabilities(1)[:, 1], data.known_labels
    ranking = Ranking(scores, labels == 1)
    weights = np.concatenate(list(resample(labels, None, resamples=25, seed=1)))
    counts = ranking.count(weights)
    areas, precisions = ranking.roc_area(counts), ranking.average_precision(counts)
    sensitivity = ranking.sensitivity(counts, scores[7])
    specificity = ranking.specificity(counts, scores[7])
    at_rate = ranking.sensitivity_at(counts, np.array([0.0, 0.1, 1.0]))
    at_recall = ranking.precision_at(counts, np.array([0.5, 1.0]))
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(len(labels)), weight)
        truth, score = labels[drawn] == 1, scores[drawn]
        assert areas[row] == pytest.approx(roc_auc_score(truth, score))
        assert precisions[row] == pytest.approx(average_precision_score(truth, score))
        called = score >= scores[7]
        assert sensitivity[row] == pytest.approx(called[truth].mean())
        assert specificity[row] == pytest.approx(1 - called[~truth].mean())
        points = [
            ((score >= t)[truth].mean(), (score >= t)[~truth].mean(), truth[score >= t].mean())
            for t in np.unique(score)
        ]
        for rate, found in zip((0.0, 0.1, 1.0), at_rate[row], strict=True):
            assert found == pytest.approx(max([0.0, *(t for t, f, _ in points if f <= rate)]))
        for recall, found in zip((0.5, 1.0), at_recall[row], strict=True):
            # Ties may reach a recall at a threshold further up than needed for one patch.
            _, expected = min((t, -p) for t, _, p in points if t >= recall - 1e-9)
            assert found == pytest.approx(-expected)


def test_patches_are_drawn_within_their_class() -> None:
    labels = np.array([0] * 30 + [1] * 5 + [2] * 12)
    weights = np.concatenate(list(resample(labels, None, resamples=40, seed=0)))
    assert weights.shape == (40, 47)
    for label, count in ((0, 30), (1, 5), (2, 12)):
        assert (weights[:, labels == label].sum(axis=1) == count).all()
    assert len(np.unique(weights, axis=0)) == 40


def test_slides_are_drawn_whole() -> None:
    count = FEWEST_SLIDES
    slides = tuple(f"s{i % count}" for i in range(50))
    weights = np.concatenate(list(resample(np.zeros(50, np.int64), slides, resamples=20, seed=0)))
    for row in weights:
        by_slide = [set(row[i::count].tolist()) for i in range(count)]
        assert all(len(values) == 1 for values in by_slide)
        assert sum(values.pop() for values in by_slide) == count
    too_few = tuple(f"s{i % (count - 1)}" for i in range(50))
    weights = np.concatenate(list(resample(np.zeros(50, np.int64), too_few, resamples=5, seed=0)))
    assert any(len(set(weights[0, i :: count - 1].tolist())) > 1 for i in range(count - 1))


def test_chunks_do_not_change_the_number_of_resamples() -> None:
    labels = np.arange(200_000) % 2
    chunks = list(resample(labels, None, resamples=3, seed=0))
    assert len(chunks) > 1
    assert sum(len(chunk) for chunk in chunks) == 3


def test_intervals_are_percentiles_and_repeat_with_their_seed() -> None:
    found = interval(np.append(np.arange(1001) / 1000, np.nan))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert interval(np.array([1.0, np.nan, np.nan])) is None
    assert interval(np.ones(1000)) is None, "nine of nine right are no certainty"
    data = made_up(200)
    one, same, other = (assess(data, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert one.intervals == same.intervals
    assert one.intervals != other.intervals


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Normal scores one standard deviation apart have an AUC of Φ(1/√2) = 0.7602."""
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = np.arange(120) % 2
        logits = np.stack([np.zeros(120), rng.normal(size=120) + labels], axis=1)
        data = dataclasses.replace(made_up(120), logits=logits.astype(np.float32), labels=labels)
        found = assess(data, resamples=100, seed=seed).intervals["auc"]
        assert found is not None
        covered += found.low <= 0.7602 <= found.high
    assert 33 <= covered <= 40


# --- assessment -----------------------------------------------------------------------------------


def test_confusion_by_construction() -> None:
    made = [[5, 2, 0], [1, 7, 3], [4, 0, 6]]
    found = assess(counted(made), resamples=20)
    assert found.confusion.tolist() == made
    assert found.accuracy == pytest.approx(18 / 28)
    assert found.most_confused == (
        ("class 2", "class 0", 4),
        ("class 1", "class 2", 3),
        ("class 0", "class 1", 2),
        ("class 1", "class 0", 1),
    )
    assert [c.patches for c in found.by_class] == [7, 11, 10]
    assert [c.called for c in found.by_class] == [10, 9, 9]
    assert [c.recall for c in found.by_class] == pytest.approx([5 / 7, 7 / 11, 6 / 10])
    assert [c.precision for c in found.by_class] == pytest.approx([5 / 10, 7 / 9, 6 / 9])
    assert found.sensitivity is None
    assert found.threshold is None


def test_sensitivity_and_specificity_at_the_threshold() -> None:
    found = assess(counted([[8, 2], [3, 7]]), resamples=200)
    assert found.sensitivity == pytest.approx(0.7)
    assert found.specificity == pytest.approx(0.8)
    for name in ("sensitivity", "specificity", "accuracy", "auc"):
        limits = found.intervals[name]
        assert limits is not None
        value = getattr(found, name, None) or found.figures.auc
        assert limits.low < value < limits.high


def test_the_threshold_moves_the_confusion_and_not_the_curves() -> None:
    values = [25, 76, 128, 179, 230]
    data = predict_patches(MODEL, red_patches(values, [0, 1, 0, 1, 1]))
    strict, loose = (assess(data, threshold=t, resamples=0) for t in (0.8, 0.2))
    assert strict.confusion.tolist() == [[2, 0], [2, 1]]
    assert loose.confusion.tolist() == [[1, 1], [0, 3]]
    assert strict.figures == loose.figures
    assert strict.intervals == {}
    # Sensitivity + specificity is highest where only the two surest are called.
    assert strict.youden_threshold == pytest.approx(179 / 255, abs=1e-5)


def test_a_patch_at_the_threshold_is_called_tumour() -> None:
    data = dataclasses.replace(made_up(2), logits=np.zeros((2, 2), np.float32))
    assert data.predicted(1.3, 0.5).tolist() == [1, 1]
    assert data.predicted(1.3, 0.5001).tolist() == [0, 0]
    assert dataclasses.replace(data, tumour=0).predicted(1.3, 0.5).tolist() == [0, 0]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(DataError, match="must lie in 0-1"):
        assess(made_up(10), threshold=threshold)
    with pytest.raises(DataError, match="two classes"):
        assess(made_up(10, 3), threshold=0.5)


@pytest.mark.parametrize("classes", [2, 3])
def test_curves_hold_the_areas_of_sklearn(classes: int) -> None:
    data = made_up(150, classes, seed=3)
    found = assess(data, temperature=2, resamples=30)
    probabilities, labels = data.probabilities(2), data.known_labels
    shown = [1] if classes == 2 else [0, 1, 2]
    assert [curve.name for curve in found.curves] == [data.classes[k] for k in shown]
    for k, curve in zip(shown, found.curves, strict=True):
        truth = labels == k
        assert curve.auc == pytest.approx(roc_auc_score(truth, probabilities[:, k]))
        expected = average_precision_score(truth, probabilities[:, k])
        assert curve.average_precision == pytest.approx(expected)
        assert np.trapezoid(curve.true_rate, curve.false_rate) == pytest.approx(curve.auc)
        steps = np.diff(curve.recall) @ curve.precision[1:]
        assert steps == pytest.approx(curve.average_precision)
        assert curve.share == pytest.approx(truth.mean())
        assert curve.roc_band is not None
        assert curve.roc_band.shape == (2, len(GRID))
        assert (curve.roc_band[0] <= curve.roc_band[1]).all()
    mean = np.mean([c.auc for c in found.curves])
    assert found.figures.auc == pytest.approx(mean)
    limits = found.intervals["auc"]
    assert limits is not None
    assert limits.low < mean < limits.high


def test_figures_by_slide() -> None:
    data = made_up(60, seed=2, slides=3)
    pure = dataclasses.replace(
        data, slides=tuple("pure" if not label else "mixed" for label in data.known_labels[:30])
        + tuple("mixed" for _ in range(30)),
    )  # fmt: skip
    mixed, only = assess(pure, resamples=0).by_slide
    assert (mixed.name, only.name) == ("mixed", "pure")
    here = np.array([slide == "mixed" for slide in pure.slides or ()])
    scores, truth = data.probabilities(1)[:, 1], data.known_labels == 1
    assert mixed.auc == pytest.approx(roc_auc_score(truth[here], scores[here]))
    assert mixed.positive == truth[here].sum()
    assert only.auc is None
    assert only.positive == 0
    assert only.accuracy == pytest.approx((scores[~here] < 0.5).mean())


def test_what_the_intervals_rest_on_is_said() -> None:
    many = assess(made_up(100, slides=FEWEST_SLIDES), resamples=10)
    assert many.resampled == "slides"
    assert "whole slides" in resampling_note(many)
    few = assess(made_up(100, slides=2), resamples=10)
    assert few.resampled == "patches"
    assert "too narrow" in resampling_note(few)
    assert len(few.by_slide) == 2


def test_patches_of_unknown_slide_are_no_slide() -> None:
    data = made_up(40, slides=FEWEST_SLIDES)
    assert data.slides is not None
    partly = assess(dataclasses.replace(data, slides=("", *data.slides[1:])), resamples=5)
    assert "" not in {slide.name for slide in partly.by_slide}
    assert partly.resampled == "patches"


def test_a_set_of_one_class_has_no_auc() -> None:
    data = counted([[9, 1], [0, 0]])
    found = assess(data, resamples=10)
    assert np.isnan(found.figures.auc)
    assert found.figures.sensitivity_at_95_specificity is None
    assert found.specificity == pytest.approx(0.9)
    assert found.curves == ()
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["figures"]["auc"] is None
    assert told["sensitivity"] is None
    assert told["accuracy"] == pytest.approx(0.9)


def test_temperature_changes_what_is_said_after_and_not_before() -> None:
    data = made_up(200)
    found, plain = assess(data, temperature=3, resamples=0), assess(data, resamples=0)
    assert found.uncalibrated == plain.uncalibrated == plain.figures
    assert found.figures.loss != found.uncalibrated.loss
    assert found.figures.auc == pytest.approx(found.uncalibrated.auc)


# --- pictures -------------------------------------------------------------------------------------


def test_top_losses_are_in_order_and_the_worst() -> None:
    data = made_up(80, 3, seed=6)
    chosen = top_losses(data, 1.5, 10)
    losses = data.losses(1.5)
    slow = [-np.log(data.probabilities(1.5)[i, label]) for i, label in enumerate(data.known_labels)]
    np.testing.assert_allclose(losses, slow)
    np.testing.assert_allclose(losses[chosen], sorted(slow, reverse=True)[:10])


def test_samples_are_of_their_class() -> None:
    labels = np.array([0, 1] * 20 + [2] * 3)
    for label, count in ((0, SAMPLES_A_CLASS), (1, SAMPLES_A_CLASS), (2, 3), (3, 0)):
        chosen = pick_samples(labels, label)
        assert len(set(chosen.tolist())) == count
        assert (labels[chosen] == label).all()


def test_each_sample_is_drawn_under_its_own_title_with_its_box() -> None:
    values = [200, 60, 250, 20]
    patches = red_patches(values, [1, 1, 1, 1])
    found = predict_patches(MODEL, patches)
    figure = sample_figure(patches, found, 1, temperature=1, label_px=32)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        shown = np.asarray(axes.images[0].get_array())[0, 0, 0]
        assert axes.get_title() == f"P(tumour) {shown / 255:.2f}"
        assert all(box.get_bbox().bounds == (7.5, 7.5, 32, 32) for box in axes.patches)  # type: ignore[attr-defined]
        assert len(axes.patches) > 0


def test_top_losses_say_predicted_actual_loss_and_probability() -> None:
    patches = red_patches([230, 51], [0, 0])
    found = predict_patches(MODEL, patches)
    figure = top_loss_figure(patches, found, np.array([0]), temperature=1, label_px=32)
    title = figure.axes[0].get_title()
    assert title == "patch-0\npredicted tumour\nactual normal\nloss 2.32 · p 0.902"


def test_no_box_where_the_label_speaks_of_the_whole_patch() -> None:
    axes = drawing.new_figure(1, 1).add_subplot()
    draw_label_box(axes, 48, 48)
    assert not axes.patches


def test_text_is_never_a_formula() -> None:
    png = drawing.to_png(plots.confusion_matrix(assess(dataclasses.replace(
        counted([[2, 1], [1, 2]]), classes=("$x^", "a$_b")), resamples=0)))  # fmt: skip
    assert Image.open(io.BytesIO(png)).format == "PNG"


@pytest.mark.parametrize(("temperature", "panels"), [(1.0, 1), (2.0, 2)])
def test_calibration_is_shown_before_scaling_only_where_there_is_some(
    temperature: float, panels: int
) -> None:
    data = made_up(60)
    figure = plots.reliability(data, assess(data, temperature=temperature, resamples=0))
    assert len(figure.axes) == 2 * panels  # each with how many patches there are below it


@pytest.mark.parametrize("classes", [3, 8])
def test_a_legend_of_several_curves_hides_none_of_them(classes: int) -> None:
    found = assess(made_up(200, classes, seed=3), temperature=1, resamples=2)
    for draw in (plots.roc_curves, plots.precision_recall_curves):
        figure = draw(found)
        drawing.to_png(figure)  # lays it out
        (legend,), (axes,) = figure.legends, figure.axes
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        shown = axes.get_tightbbox(renderer)
        assert shown is not None
        assert legend.get_window_extent(renderer).y1 <= shown.y0
        assert figure.bbox.y0 <= shown.y0
        assert shown.y1 <= figure.bbox.y1
        assert len(legend.get_texts()) >= classes


def test_a_long_name_is_cut_in_the_middle() -> None:
    assert drawing.plain("abcdefghij", 5) == "ab…ij"
    assert drawing.plain("abcde", 5) == "abcde"


# --- history --------------------------------------------------------------------------------------


def history(steps: int = 30) -> History:
    epochs = tuple(
        {"epoch": e, "stage": 1, "train_loss": 1 / e, "valid_loss": 1.2 / e, "accuracy": 0.5,
         "auc": 0.6, "seconds": 2.0}
        for e in (1, 2)
    )  # fmt: skip
    finder = RateSearch(lrs=np.logspace(-6, 0, 20), losses=np.linspace(1, 2, 20), suggestion=1e-3)
    rates = np.linspace(0, 1, steps)[:, None] * np.array([0.1, 1.0])
    return History(loss=np.linspace(2, 1, steps), lr=rates, finder=finder, epochs=epochs)


def test_curves_of_the_training_show_its_numbers() -> None:
    made = history()
    loss = plots.learning_curves(made).axes[0]
    raw, _, valid = loss.lines
    np.testing.assert_array_equal(raw.get_ydata(), made.loss)
    assert np.asarray(raw.get_xdata())[-1] == 2  # the last step is the end of the last epoch
    np.testing.assert_allclose(np.asarray(valid.get_ydata(), float), [1.2, 0.6])
    rates = plots.learning_rates(made).axes[0]
    np.testing.assert_array_equal(rates.lines[1].get_ydata(), made.lr[:, 1])
    search = plots.rate_search(made).axes[0]
    assert made.finder is not None
    np.testing.assert_array_equal(search.lines[0].get_xdata(), made.finder.lrs)
    only = plots.learning_curves(History.of_epochs(made.epochs)).axes[0]
    np.testing.assert_allclose(np.asarray(only.lines[0].get_ydata(), float), [1, 0.5])


def test_a_history_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="row of learning rates"):
        History(loss=np.zeros(3), lr=np.zeros((2, 1)))
    with pytest.raises(DataError, match="one loss a rate"):
        RateSearch(lrs=np.zeros(3), losses=np.zeros(2))


# --- report ---------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Everything that a page would fetch or go to, and the tags it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [v or "" for k, v in attrs if k in {"src", "href", "srcset", "action"}]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three classes with names that would break a careless page."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)
    data = made_up(40, 3, slides=FEWEST_SLIDES)
    classes = ("<b>red</b>", "a & b", "<script>alert(1)</script>")
    data = dataclasses.replace(data, classes=classes, names=tuple(f"<i>{i}</i>" for i in range(40)))
    spec = dataclasses.replace(
        spec_of(classes, None), temperature=1.5, training={"data": {"layout": "<u>x</u>"}}
    )
    write_report(
        folder,
        predictions=data,
        patches=Memory(pixels, data.known_labels),
        spec=spec,
        history=history(),
        title="A <em>title</em>",
    )
    return folder


def test_the_page_needs_nothing_beside_it_and_escapes_names(nasty: Path) -> None:
    text = (nasty / "report.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in page.targets)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not {"script", "link", "iframe", "b", "i", "em", "u"} & set(page.tags)
    assert "&lt;b&gt;red&lt;/b&gt;" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "A &lt;em&gt;title&lt;/em&gt;" in text
    assert "research use" in text
    anchors = {target[1:] for target in page.targets if target.startswith("#")}
    assert anchors
    assert all(f'id="{anchor}"' in text for anchor in anchors)


def test_the_folder_holds_pictures_figures_and_predictions(nasty: Path) -> None:
    names = {path.name for path in nasty.iterdir()}
    pictures = {
        "loss", "learning-rate", "learning-rate-finder", "roc", "precision-recall", "confusion",
        "reliability", "top-losses", "samples-0", "samples-1", "samples-2",
    }  # fmt: skip
    assert names == {f"{name}.png" for name in pictures} | {
        "report.html", "figures.json", "predictions.csv"
    }  # fmt: skip
    for name in pictures:
        with Image.open(nasty / f"{name}.png") as image:
            assert min(image.size) > 150
    told = json.loads((nasty / "figures.json").read_text(encoding="utf-8"))
    assert told["resampled"] == "slides"
    assert sum(map(sum, told["confusion"])) == 40
    data = Predictions.load(nasty / "predictions.csv")
    assert assess(data, temperature=1.5).as_dict() == {
        key: value for key, value in told.items() if key not in {"model", "data"}
    }


def test_a_report_of_two_classes(tmp_path: Path) -> None:
    data = made_up(40, slides=2)
    pixels = np.zeros((40, 48, 48, 3), dtype=np.uint8)
    patches = Memory(pixels, data.known_labels)
    arguments = {"predictions": data, "patches": patches, "spec": MODEL.spec, "title": "Two"}
    (tmp_path / "model.safetensors").write_text("kept")
    page = write_report(tmp_path, threshold=0.4, **arguments)  # type: ignore[arg-type]
    assert page == tmp_path / "report.html"
    shown = re.findall(r'<figure class="(.*?)">\n<img .*? alt="([\w -]+):', page.read_text("utf-8"))
    kinds = {name: kind.split() for kind, name in shown}
    assert "chart" in kinds["roc"]  # light on dark where the reader's screen is
    assert all("chart" not in kinds[name] for name in ("top losses", "samples 0", "samples 1"))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"probabilities.png", "slides.png"} <= names
    assert not {"loss.png", "learning-rate.png"} & names
    text = page.read_text(encoding="utf-8")
    assert "P ≥ 0.4 is called tumour" in text
    assert 'id="training"' not in text
    assert (tmp_path / "model.safetensors").read_text() == "kept"
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_report(tmp_path, **arguments)  # type: ignore[arg-type]


def test_files_of_others_are_not_in_the_way_of_a_report(nasty: Path, tmp_path: Path) -> None:
    """Every name that a report takes is refused by itself, before anything is drawn."""
    data = made_up(4)
    for path in nasty.iterdir():
        folder = tmp_path / path.stem
        folder.mkdir()
        (folder / "samples-of-mine.png").write_text("kept")
        write = functools.partial(
            write_report, folder, predictions=data, patches=red_patches([1]), spec=MODEL.spec
        )
        with pytest.raises(DataError, match="are not of these"):  # nothing is in its way
            write(title="x")
        (folder / path.name).write_text("years of work")
        with pytest.raises(OutputExistsError, match=rf"{path.name} exists: pass --overwrite"):
            write(title="x")
        assert (folder / path.name).read_text() == "years of work"


def test_a_report_that_cannot_be_drawn_leaves_nothing(tmp_path: Path) -> None:
    class Unreadable(Memory):
        def read(self, index: int) -> NDArray[np.uint8]:
            raise DataError(f"patch-{index} cannot be read")

    data = made_up(10)
    patches = Unreadable(np.zeros((10, 48, 48, 3), np.uint8), data.known_labels)
    folder = tmp_path / "run"
    with pytest.raises(DataError, match="cannot be read"):
        write_report(folder, predictions=data, patches=patches, spec=MODEL.spec, title="x")
    assert not folder.exists()


def test_predictions_of_other_patches_or_models_are_refused(tmp_path: Path) -> None:
    data, patches = made_up(10), red_patches([1, 2])
    with pytest.raises(DataError, match="10 predictions are not of these 2 patches"):
        write_report(tmp_path, predictions=data, patches=patches, spec=MODEL.spec, title="x")
    with pytest.raises(DataError, match="are not of the model colour-0"):
        write_report(
            tmp_path, predictions=made_up(2, 3), patches=patches, spec=MODEL.spec, title="x"
        )


def test_nested_settings_become_rows() -> None:
    settings = {
        "batch_size": 64,
        "flip": True,
        "nothing": None,
        "lr": 1e-3,
        "stages": [{"epochs": 1, "lr": 0.5}, {"epochs": 2}],
        "augmentation": {"zoom": [0.9, 1.1]},
    }
    assert list(flatten(settings)) == [
        ("batch size", "64"),
        ("flip", "yes"),
        ("lr", "0.001"),
        ("stages 1", "epochs 1, lr 0.5"),
        ("stages 2", "epochs 2"),
        ("augmentation · zoom", "0.9, 1.1"),
    ]
