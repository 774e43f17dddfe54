"""The stages of CAMELYON17: what a patient's lymph nodes come to, and how well stages agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class NodeClass(StrEnum):
    """The largest metastasis of a lymph node."""

    NEGATIVE = "negative"
    """None."""
    ITC = "itc"
    """Isolated tumour cells: at most 0.2 mm."""
    MICRO = "micro"
    """More than 0.2 mm, at most 2 mm."""
    MACRO = "macro"
    """More than 2 mm."""


class Stage(StrEnum):
    """pN stage as CAMELYON17 simplifies it (Bándi et al. 2019), in rising order."""

    N0 = "pN0"
    """No tumour in any node."""
    N0_I = "pN0(i+)"
    """Only isolated tumour cells."""
    N1_MI = "pN1mi"
    """Micrometastases, but no macrometastasis."""
    N1 = "pN1"
    """Metastases in one to three nodes, at least one of them a macrometastasis."""
    N2 = "pN2"
    """Metastases in four nodes or more, at least one of them a macrometastasis. From ten on it
    would be pN3, which CAMELYON17's five nodes a patient cannot reach."""


STAGES = tuple(Stage)


def stage_of(nodes: Iterable[NodeClass]) -> Stage:
    """The stage that a patient's nodes come to; isolated cells do not count among metastases."""
    found = list(nodes)
    metastases = sum(node in {NodeClass.MICRO, NodeClass.MACRO} for node in found)
    if NodeClass.MACRO in found:
        return Stage.N1 if metastases <= 3 else Stage.N2
    if metastases:
        return Stage.N1_MI
    return Stage.N0_I if NodeClass.ITC in found else Stage.N0


def confusion(truth: Sequence[Stage], said: Sequence[Stage]) -> NDArray[np.int64]:
    """Patients by true (row) and predicted (column) stage, shape (5, 5)."""
    counts = np.zeros((len(STAGES), len(STAGES)), dtype=np.int64)
    for one, other in zip(truth, said, strict=True):
        counts[STAGES.index(one), STAGES.index(other)] += 1
    return counts


def weighted_kappa(counts: NDArray[np.int64]) -> float:
    """Quadratic weighted kappa (Cohen 1968): 1 for full agreement, 0 for that of chance.

    Args:
        counts: patients by true and predicted stage, square.

    Returns:
        NaN where chance alone would disagree on nobody, as when all are of one stage.
    """
    total = counts.sum()
    if not total:
        return float("nan")
    rows, cols = np.indices(counts.shape)
    weight = (rows - cols) ** 2
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    expected = float((weight * by_chance).sum())
    return 1 - float((weight * counts).sum()) / expected if expected else float("nan")
