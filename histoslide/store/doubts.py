"""What a person should know before trusting a heatmap: of its slide, its mask and its values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histoslide import quantities
from histoslide.scoring.lazy import DEFAULT_THRESHOLD
from histoslide.store.record import CellCounts
from histoslide.store.stored import Heatmap

IMPLAUSIBLE_SHARE = 0.9
"""Part of the scored cells that are positive from which it is worth asking for another reason than
tumour. A node seen at three times its resolution had 0.97."""

JUDGED_MM2 = 1.0
"""Scored area from which the share is judged: a small piece may be tumour throughout."""

SMALL_MM = 1.0
"""Longer side of a slide below which, with nothing found on it, its resolution is doubted."""


def doubts_of(heat: Heatmap, probability: NDArray[np.float32] | None = None) -> tuple[str, ...]:
    """What speaks against trusting a heatmap, apart from cells that could not be read.

    Args:
        heat: complete, or as far as it is.
        probability: of its tumour class, where it has been read already.

    Raises:
        StoreError: it cannot be read.
    """
    counts = heat.counts
    found = list(heat.record.mask.warnings)
    if heat.complete and not counts.scored and not counts.unreadable:
        found.append(_nothing_scored(heat, counts))
    if too_much := _too_much_tumour(heat, counts, probability):
        found.append(too_much)
    return tuple(found)


def _nothing_scored(heat: Heatmap, counts: CellCounts) -> str:
    """Why, as far as the heatmap can tell."""
    slide, mask = heat.record.slide, heat.record.mask
    mm = max(slide.size_l0) * slide.mpp / 1000
    if not counts.background:
        return "nothing was scored: the region of interest excludes everything"
    where = " in the region of interest" if mask.roi is not None else ""
    if mm < SMALL_MM:
        return (
            f"nothing was scored: no tissue found{where}; at {slide.mpp:g} µm/px "
            f"({slide.mpp_source}) the slide is only {mm:.2f} mm long: is the resolution right?"
        )
    how = f"the mask {mask.settings['file']}" if "file" in mask.settings else mask.method
    return f"nothing was scored: no tissue found{where} by {how}"


def _too_much_tumour(
    heat: Heatmap, counts: CellCounts, probability: NDArray[np.float32] | None
) -> str | None:
    scored_mm2 = counts.scored * (heat.grid.cell_um / 1000) ** 2
    # Who draws a region may have drawn it around the tumour.
    if heat.tumour_class is None or heat.record.mask.roi is not None or scored_mm2 < JUDGED_MM2:
        return None
    if probability is None:
        probability = heat.probability(heat.tumour_class)
    share = float((probability[np.isfinite(probability)] >= DEFAULT_THRESHOLD).mean())
    if share < IMPLAUSIBLE_SHARE:
        return None
    return (
        f"{quantities.share(share, 0)} of the tissue has P({heat.tumour_class}) ≥ "
        f"{DEFAULT_THRESHOLD:g}: few nodes are tumour throughout; check the resolution and the "
        "stain before believing it"
    )
