"""CAMELYON17's stages and kappa, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from histoslide.evaluation.slides.slide_level import slide_level
from histoslide.evaluation.slides.stages import (
    STAGES,
    NodeClass,
    Stage,
    confusion,
    stage_of,
    weighted_kappa,
)


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        ("", "pN0"),
        ("negative negative", "pN0"),
        ("negative itc itc", "pN0(i+)"),
        ("micro negative", "pN1mi"),
        ("micro micro micro micro micro", "pN1mi"),
        ("macro", "pN1"),
        ("macro micro micro itc itc", "pN1"),
        ("macro micro micro micro itc", "pN2"),
        ("macro macro macro macro macro", "pN2"),
    ],
)
def test_stages(nodes: str, stage: str) -> None:
    assert stage_of(NodeClass(node) for node in nodes.split()) == stage


def test_kappa_by_hand() -> None:
    # Rows truth, columns said, two stages apart at most: (0, 0), (0, 1), (2, 0), (2, 2).
    counts = confusion(
        [Stage.N0, Stage.N0, Stage.N1_MI, Stage.N1_MI],
        [Stage.N0, Stage.N0_I, Stage.N0, Stage.N1_MI],
    )
    # Observed: 1 + 4 = 5. By chance: rows (2, 0, 2), columns (2, 1, 1) over 4:
    # 2·1·1/4 + 2·1·4/4 + 2·2·4/4 + 2·1·1/4 = 0.5 + 2 + 4 + 0.5 = 7.
    assert weighted_kappa(counts) == pytest.approx(1 - 5 / 7)


def test_kappa_is_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        truth, said = (rng.integers(0, 5, size=30) for _ in range(2))
        ours = weighted_kappa(confusion([STAGES[i] for i in truth], [STAGES[i] for i in said]))
        theirs = cohen_kappa_score(truth, said, labels=range(5), weights="quadratic")
        assert ours == pytest.approx(theirs)


def test_kappa_of_one_stage_is_undefined() -> None:
    assert np.isnan(weighted_kappa(confusion([Stage.N0] * 3, [Stage.N0] * 3)))
    assert np.isnan(weighted_kappa(confusion([], [])))


def test_slide_scores_by_hand() -> None:
    # Tumour 0.9, 0.5; without 0.7, 0.1: three of four pairs are right.
    level = slide_level(
        [0.9, 0.5, 0.7, 0.1], [True, True, False, False], weights=None, specificities=(1.0, 0.5)
    )
    assert level is not None
    assert level.auc == 0.75
    assert level.auc_interval is None
    assert [it.sensitivity for it in level.sensitivities] == [0.5, 1.0]
    assert slide_level([1, 2], [True, True], weights=None) is None
