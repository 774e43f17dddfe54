"""Some of many, unlike each other: greedy k-centre."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread_by_look(
    features: NDArray[np.float32], groups: NDArray[np.intp], *, most: int, per_group: int
) -> NDArray[np.intp]:
    """Choose items one by one, each the one farthest from all that are chosen already.

    Gonzalez 1985: no other choice of as many leaves any item less than half as far from its
    nearest chosen one. Here no group gives more than its share, and what looks exactly like a
    chosen one is not taken.

    Args:
        features: of the items, shape (n, features); the first item is chosen first.
        groups: of each item, shape (n,).
        most: items in all.
        per_group: items of one group.

    Returns:
        Indices in the order in which they were chosen.
    """
    chosen: list[int] = []
    if not len(features) or most < 1 or per_group < 1:
        return np.array(chosen, dtype=np.intp)
    values = features.astype(np.float64)
    distance = np.full(len(values), np.inf)
    taken: dict[int, int] = {}
    candidate = 0
    while len(chosen) < most:
        chosen.append(candidate)
        group = int(groups[candidate])
        taken[group] = taken.get(group, 0) + 1
        distance = np.minimum(distance, ((values - values[candidate]) ** 2).sum(axis=1))
        if taken[group] >= per_group:
            distance[groups == group] = -1
        candidate = int(distance.argmax())
        if distance[candidate] <= 0:
            break
    return np.array(chosen, dtype=np.intp)
