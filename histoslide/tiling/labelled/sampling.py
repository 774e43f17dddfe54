"""Which of many possible patches are taken: seeded, spread over lesions, over slides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fair_shares(available: Sequence[int], most: int) -> list[int]:
    """How many are taken of each, so that they are as equal as what there is allows.

    Whoever has less than an equal share gives all; the rest is divided among the others.

    Args:
        available: of each.
        most: to take in all.
    """
    taken = [0] * len(available)
    left = most
    open_ = [i for i, count in enumerate(available) if count]
    while left > 0 and open_:
        share, more = divmod(left, len(open_))
        if not share:
            for i in open_[:more]:
                taken[i] += 1
            break
        for i in open_:
            step = min(share, available[i] - taken[i])
            taken[i] += step
            left -= step
        open_ = [i for i in open_ if taken[i] < available[i]]
    return taken


def spread(
    cells: NDArray[np.int64],
    group: NDArray[np.int64],
    *,
    most: int | None,
    step: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Indices of the cells that are taken, ascending.

    Groups (lesions) get equal shares. Within a group those come first whose patches do not overlap:
    the cells of every ``step``-th row and column.

    Args:
        cells: row and column of each, shape (n, 2).
        group: of each, shape (n,).
        most: to take in all; None for all of them.
        step: cells along the side of a patch.
        rng: decides among equals.
    """
    if most is None or len(cells) <= most:
        return np.arange(len(cells))
    numbers, counts = np.unique(group, return_counts=True)
    chosen = []
    for number, count in zip(numbers, fair_shares(counts.tolist(), most), strict=True):
        mine = rng.permutation(np.flatnonzero(group == number))
        apart = (cells[mine] % step == cells[mine[0]] % step).all(axis=1)
        chosen.append(np.concatenate([mine[apart], mine[~apart]])[:count])
    return np.sort(np.concatenate(chosen))
