"""A lighter network that looks first, so that another need look only where that leaves a doubt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import HistoslideError
from histoslide.model.spec import ModelSpec
from histoslide.storage.records import ABSENT, Absent, Number, Positive, Share

_LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1, where odds end."""

_SAME_MPP = 1e-6
"""Relative difference of resolutions that comes from how they are written."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From the probabilities of one network to those of another, by their log-odds.

    Platt's scaling (1999), from one model's outputs to another's.
    """

    slope: Positive
    """Of the log-odds."""
    shift: Number
    """Added to them."""

    def apply(self, tumour: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of tumour on the other's scale; those that are no numbers stay so."""
        moved = 1 / (1 + np.exp(-(log_odds(tumour) * self.slope + self.shift)))
        return np.where(np.isnan(tumour), np.nan, moved).astype(np.float32)

    def apply_to_all(self, probability: NDArray[np.float32], tumour: int) -> NDArray[np.float32]:
        """Probabilities of all classes: the others keep their shares of what tumour leaves.

        Args:
            probability: of all classes, shape (..., classes).
            tumour: index of the tumour class.
        """
        return _with_tumour(probability, self.apply(probability[..., tumour]), tumour)


def _with_tumour(
    probability: NDArray[np.float32], wanted: NDArray[np.float32], tumour: int
) -> NDArray[np.float32]:
    """Probabilities in which tumour has a value, and the others their shares of what it leaves."""
    others = probability.astype(np.float64)
    others[..., tumour] = 0
    whole = others.sum(axis=-1, keepdims=True)
    none, count = whole == 0, probability.shape[-1] - 1  # tumour for certain: equal shares
    shares = np.where(none, 1 / count, others / np.where(none, 1, whole))
    moved = shares * (1 - wanted.astype(np.float64))[..., None]
    moved[..., tumour] = wanted
    return moved.astype(np.float32)


def together(
    first: NDArray[np.float32], again: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """Probability of tumour by both looks: the weighted mean of their log-odds.

    Two networks that err differently are better together (Hansen & Salamon 1990); log-odds are
    what each adds up its evidence in. Each is taken as it was calibrated.

    Args:
        first: at the first look, as that model has it: on its own scale.
        again: by the model that looks again.
        weight: of the first, 0-1; 0 leaves the other as it is.
    """
    if weight == 0:
        return again
    odds = weight * log_odds(first) + (1 - weight) * log_odds(again)
    missing = np.isnan(first) | np.isnan(again)
    return np.where(missing, np.nan, 1 / (1 + np.exp(-odds))).astype(np.float32)


def with_again(
    first: NDArray[np.float32], again: NDArray[np.float32], tumour: int, weight: float
) -> NDArray[np.float32]:
    """Probabilities of all classes where both have looked.

    Args:
        first: probability of tumour at the first look, on its own scale, shape (n,).
        again: of all classes by the model that looked again, shape (n, classes).
        tumour: index of the tumour class.
        weight: of the first, 0-1; see ``together``.
    """
    if weight == 0:
        return again
    return _with_tumour(again, together(first, again[..., tumour], weight), tumour)


def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of probabilities, which are kept ``_LEAST`` from 0 and 1."""
    inside = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(np.log(inside / (1 - inside)))


def in_doubt(
    first: NDArray[np.float32], threshold: float, certain: float | None
) -> NDArray[np.bool_]:
    """Of which cells a first look does not tell enough.

    Args:
        first: probabilities of tumour at the first look, on the scale of the model that looks
            again; NaN is not in doubt.
        threshold: below it there is no tumour.
        certain: from it on there is, whatever the other says; None where nothing is that certain.
    """
    found = first >= threshold
    return found if certain is None else found & (first < certain)


ONE_SCALE = Scale(slope=1, shift=0)
"""Of two models whose probabilities mean the same."""


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """What decides the values of cells that a first look has seen."""

    name: str
    """Of the model that looks first."""
    sha256: str
    """Of its weights."""
    engine: str
    """What computes it and how precisely, as ``str(Engine)``."""
    ranges_sha256: str | Absent = ABSENT
    """Of the ranges that int8 rounds activations by; only where it does."""
    scale: Scale
    """From its probabilities to those of the model that looks again."""
    weight: Share | Absent = ABSENT
    """Of its log-odds in the value of a cell that both have seen; left out where it has no say."""
    certain: Share | Absent = ABSENT
    """Probability of tumour, on the other's scale, from which its word is enough; left out where
    the other sees all that it suspects."""

    @property
    def say(self) -> float:
        """``weight`` as a number: 0 where it has no say."""
        return 0.0 if isinstance(self.weight, Absent) else float(self.weight)

    @property
    def enough(self) -> float | None:
        """``certain``; None where it is left out."""
        return None if isinstance(self.certain, Absent) else float(self.certain)


def refuse_unlike(spec: ModelSpec, first: ModelSpec) -> None:
    """Make sure that a model can look first for another: both judge the same tiles.

    Args:
        spec: of the model that looks again.
        first: of the model that looks first.

    Raises:
        HistoslideError: it cannot, and why.
    """
    if spec.tumour_class is None:
        raise HistoslideError(
            f"a first look is for tumour, and model {spec.name} has no tumour class"
        )
    alike: dict[str, tuple[object, object]] = {
        "the classes": (first.classes, spec.classes),
        "the tumour class": (first.tumour_class, spec.tumour_class),
        "tiles of, in px,": (first.input_px, spec.input_px),
        "labels of, in px,": (first.label_px, spec.label_px),
    }
    if abs(first.mpp / spec.mpp - 1) > _SAME_MPP:
        alike["µm/px"] = (first.mpp, spec.mpp)
    for what, (here, there) in alike.items():
        if here != there:
            raise HistoslideError(
                f"{first.name} cannot look first for {spec.name}: it has {what} {_said(here)}, not "
                f"{_said(there)}"
            )


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
