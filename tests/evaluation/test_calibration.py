"""The figures equal slow and obvious twins, and a known temperature is found again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import Tensor
from torch.nn import functional

from histoslide.evaluation.patches.figures import CALIBRATION_BINS, fit_temperature, judge


def calibrated(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two-class logits whose probabilities are exactly right, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    tumour = rng.uniform(0.001, 0.999, count)
    labels = (rng.random(count) < tumour).astype(np.int64)
    logits = np.stack([np.zeros(count), np.log(tumour / (1 - tumour))], axis=1)
    return torch.from_numpy(logits).float(), torch.from_numpy(labels)


def slow_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        best = int(row.argmax())
        bins.setdefault(min(int(row[best] * 15), 14), []).append((float(row[best]), best == label))
    total = 0.0
    for members in bins.values():
        confidence = sum(c for c, _ in members) / len(members)
        right = sum(r for _, r in members) / len(members)
        total += abs(confidence - right) * len(members) / len(labels)
    return total


def slow_sensitivity(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    best = 0.0
    for threshold in np.unique(scores):
        called = scores >= threshold
        if called[~positive].mean() <= 0.05:
            best = max(best, float(called[positive].mean()))
    return best


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 7.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits, labels = calibrated(30_000)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.03)


def test_a_known_temperature_of_three_classes_is_found() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(60_000, 3, generator=generator)
    probabilities = functional.softmax(logits, dim=1)
    labels = torch.multinomial(probabilities, 1, generator=generator).flatten()
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)


def test_the_temperature_is_where_the_loss_is_least() -> None:
    logits, labels = calibrated(500, seed=3)
    logits = logits * 1.7
    best = fit_temperature(logits, labels)
    losses = [
        float(functional.cross_entropy(logits.double() / (best * factor), labels))
        for factor in (1, 0.98, 1.02)
    ]
    assert losses[0] == min(losses)


@pytest.mark.parametrize(("sign", "low", "high"), [(1, 0.05, 0.06), (-1, 19, 20)])
def test_the_temperature_stays_finite(sign: int, low: float, high: float) -> None:
    labels = torch.tensor([0, 1] * 20)
    logits = sign * torch.stack([1.0 - labels, labels.float()], dim=1)
    assert low <= fit_temperature(logits, labels) <= high


def test_the_labels_and_logits_are_left_as_they_were() -> None:
    logits, labels = calibrated(100)
    before = logits.clone()
    fit_temperature(logits, labels)
    judge(logits, labels, positive=1)
    assert torch.equal(logits, before)
    assert not logits.requires_grad


@pytest.mark.parametrize("positive", [0, 1, None])
def test_two_class_figures_are_those_of_sklearn(positive: int | None) -> None:
    logits, labels = calibrated(400, seed=5)
    probabilities = functional.softmax(logits.double(), dim=1).numpy()
    figures = judge(logits, labels, positive=positive)
    truth = labels.numpy()
    assert figures.patches == 400
    assert figures.accuracy == accuracy_score(truth, probabilities.argmax(axis=1))
    assert figures.auc == pytest.approx(roc_auc_score(truth, probabilities[:, 1]))
    assert figures.loss == pytest.approx(log_loss(truth, probabilities), rel=1e-6)
    assert figures.calibration_error == pytest.approx(slow_calibration_error(probabilities, truth))
    if positive is None:
        assert figures.sensitivity_at_95_specificity is None
    else:
        assert figures.sensitivity_at_95_specificity == pytest.approx(
            slow_sensitivity(probabilities[:, positive], truth == positive)
        )


def test_three_class_figures_are_those_of_sklearn() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(300, 3, generator=generator)
    labels = torch.randint(0, 3, (300,), generator=generator)
    probabilities = functional.softmax(logits.double(), dim=1).numpy()
    figures = judge(logits, labels, positive=None)
    rest = [roc_auc_score(labels.numpy() == k, probabilities[:, k]) for k in range(3)]
    assert figures.auc == pytest.approx(np.mean(rest))
    assert figures.loss == pytest.approx(log_loss(labels.numpy(), probabilities), rel=1e-6)
    assert figures.calibration_error == pytest.approx(
        slow_calibration_error(probabilities, labels.numpy())
    )
    assert figures.sensitivity_at_95_specificity is None


def test_calibrated_probabilities_have_nearly_no_calibration_error() -> None:
    logits, labels = calibrated(100_000)
    assert judge(logits, labels, positive=1).calibration_error < 0.01


def test_overconfidence_is_a_calibration_error_and_temperature_removes_it() -> None:
    logits, labels = calibrated(20_000)
    over = 4 * logits
    probabilities = functional.softmax(over.double(), dim=1).numpy()
    before = judge(over, labels, positive=1)
    assert before.calibration_error == pytest.approx(
        slow_calibration_error(probabilities, labels.numpy())
    )
    assert before.calibration_error > 0.15
    after = judge(over / fit_temperature(over, labels), labels, positive=1)
    assert after.calibration_error < 0.02
    assert after.loss < before.loss
    assert after.accuracy == before.accuracy
    assert after.auc == pytest.approx(before.auc)


def test_the_error_of_a_known_gap() -> None:
    # 90 % sure a hundred times, right in sixty of them: the gap is 0.3.
    logits = torch.tensor([[0.0, np.log(9)]]).repeat(100, 1)
    labels = torch.tensor([1] * 60 + [0] * 40)
    assert judge(logits, labels, positive=1).calibration_error == pytest.approx(0.3, abs=1e-6)
    assert CALIBRATION_BINS == 15


@settings(max_examples=25, deadline=None)
@given(
    scores=st.lists(st.integers(-6, 6), min_size=2, max_size=80),
    seed=st.integers(0, 2**31),
    skill=st.integers(0, 6),
)
def test_sensitivity_at_95_specificity_is_that_of_all_thresholds(
    scores: list[int], seed: int, skill: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, len(scores))
    labels[:2] = 0, 1  # both classes occur
    values = np.array(scores) + skill * labels  # ties are likely
    logits = torch.stack([torch.zeros(len(scores)), torch.from_numpy(values).float()], dim=1)
    figures = judge(logits, torch.from_numpy(labels), positive=1)
    scored = functional.softmax(logits.double(), dim=1).numpy()[:, 1]
    assert figures.sensitivity_at_95_specificity == pytest.approx(
        slow_sensitivity(scored, labels == 1)
    )


def test_sensitivity_counts_a_threshold_in_the_middle_of_a_straight_curve() -> None:
    # One true and one false positive enter at each threshold: the curve is straight, and sklearn
    # would drop its inner points.
    values = np.repeat(np.arange(100), 2)
    labels = np.tile([0, 1], 100)
    logits = torch.stack([torch.zeros(200), torch.from_numpy(values / 20).float()], dim=1)
    figures = judge(logits, torch.from_numpy(labels), positive=1)
    assert figures.sensitivity_at_95_specificity == pytest.approx(0.05)
