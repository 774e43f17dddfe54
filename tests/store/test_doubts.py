"""What is said against a heatmap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heatmaps import stored_heatmap

from histoslide.grid.status import Status
from histoslide.store import doubts_of


@pytest.mark.parametrize(("positive", "said"), [(0.5, False), (0.89, False), (0.97, True)])
def test_too_much_tumour(tmp_path: Path, positive: float, said: bool) -> None:
    probability = np.zeros((50, 40), dtype=np.float32)
    probability.ravel()[: round(positive * probability.size)] = 0.9
    doubts = doubts_of(stored_heatmap(tmp_path / "h.zarr", probability))
    assert [f"{round(positive * 100)} % of the tissue" in doubt for doubt in doubts] == [
        True
    ] * said


def test_a_small_piece_may_be_tumour_throughout(tmp_path: Path) -> None:
    probability = np.ones((20, 20), dtype=np.float32)  # 0.4 mm²
    assert doubts_of(stored_heatmap(tmp_path / "h.zarr", probability)) == ()


def test_of_a_model_without_a_tumour_class_nothing_is_said(tmp_path: Path) -> None:
    probability = np.zeros((50, 40, 3), dtype=np.float32)
    probability[..., 2] = 1
    heat = stored_heatmap(tmp_path / "h.zarr", probability, classes=("a", "b", "c"))
    assert doubts_of(heat) == ()


def test_nothing_scored_is_said_with_its_cause(tmp_path: Path) -> None:
    nothing = np.full((50, 40), np.nan, dtype=np.float32)
    heat = stored_heatmap(tmp_path / "background.zarr", nothing)
    assert doubts_of(heat) == ("nothing was scored: no tissue found by none",)
    status = np.full(nothing.shape, Status.EXCLUDED, dtype=np.uint8)
    heat = stored_heatmap(tmp_path / "excluded.zarr", nothing, status=status)
    assert doubts_of(heat) == ("nothing was scored: the region of interest excludes everything",)
    heat = stored_heatmap(tmp_path / "small.zarr", nothing[:10, :10])
    (doubt,) = doubts_of(heat)
    assert "the slide is only 0.3" in doubt
    assert "is the resolution right?" in doubt
