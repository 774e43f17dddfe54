"""Which class of the data is which class of the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import DataError
from histoslide.model import ModelSpec

LAYOUT_CLASSES = ("normal", "tumour")
"""What the official PatchCamelyon and Kaggle layouts call the labels 0 and 1."""


def match_classes(
    found: Sequence[str], spec: ModelSpec, *, names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """The model's class index of every class of the data, shape (classes of the data,).

    Classes are matched by name, in any case. Bare numbers are matched by order, where both sides
    have as many classes; but the 1 of two classes is the tumour class, wherever the model keeps it.
    The two classes of PatchCamelyon are those of a model with numbers that has a tumour class.

    Args:
        found: classes of the data, in the order of their labels.
        spec: of the model.
        names: what the user calls the classes of the data, in the same order.

    Raises:
        DataError: names too few, too many or unknown to the model.
    """
    if names is not None:
        if len(names) != len(found):
            raise DataError(f"--class-names gives {len(names)} names for {list(found)}")
        found = names
    by_name = {name.lower(): index for index, name in enumerate(spec.classes)}
    if len(by_name) == len(spec.classes) and all(name.lower() in by_name for name in found):
        return np.array([by_name[name.lower()] for name in found], dtype=np.int64)
    if len(found) == len(spec.classes):
        if _are_numbers(found):
            order = list(range(len(found)))
            return np.array(order if spec.tumour_index != 0 or len(order) != 2 else order[::-1])
        tumour = spec.tumour_index
        if tumour is not None and _are_numbers(spec.classes) and tuple(found) == LAYOUT_CLASSES:
            return np.array([1 - tumour, tumour], dtype=np.int64)
    raise DataError(
        f"the data have the classes {', '.join(found)} and the model {spec.name} has "
        f"{', '.join(spec.classes)}: say with --class-names what the model calls each class of "
        "the data, in that order"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(i) for i in range(len(names))]
