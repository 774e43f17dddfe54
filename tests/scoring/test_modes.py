"""Exact, dense and cascade, and tiles in eight orientations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeSlide, noise_slide
from hypothesis import given, settings
from hypothesis import strategies as st
from models import AREA_SPEC, area_model, colour_model, three_class_model
from torch import Tensor, nn

from histoslide.errors import HistoslideError
from histoslide.geometry import Box, CellRange, Mpp
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.model import Model
from histoslide.scoring.block import score_block
from histoslide.scoring.lazy import make_grid, make_heatmap
from histoslide.scoring.mode import ScoreMode
from histoslide.store import convert_heatmap, open_heatmap, store_heatmap
from histoslide.tissue.masks import METHODS, find_tissue

CPU = "cpu"
DENSE, CASCADE = ScoreMode(mode="dense"), ScoreMode(mode="cascade", cascade_threshold=0.5)


def score(
    slide: FakeSlide, model: Model, mode: ScoreMode, stride_px: int = 32, hidden: int = 0
) -> tuple[TileGrid, Any]:
    grid = make_grid(slide, model.spec, stride_px=stride_px)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    plan.reshape(-1)[:hidden] = Status.BACKGROUND
    cells = CellRange(0, 0, *grid.shape)
    return grid, score_block(slide, grid, cells, plan, model, mode)


@given(
    height=st.integers(40, 900),
    width=st.integers(40, 900),
    stride_px=st.sampled_from([32, 64, 96]),
    hidden=st.integers(0, 30),
)
@settings(max_examples=15, deadline=None)
def test_areas_equal_tiles_where_a_network_pads_nothing(
    height: int, width: int, stride_px: int, hidden: int
) -> None:
    """The slow twin: every cell as a tile of its own. Shows that areas and cells are aligned."""
    slide, model = noise_slide(height, width), area_model()
    _, exact = score(slide, model, ScoreMode(), stride_px, hidden)
    _, dense = score(slide, model, DENSE, stride_px, hidden)
    np.testing.assert_array_equal(dense["status"], exact["status"])
    np.testing.assert_allclose(dense["probability"], exact["probability"], atol=1e-5)


def test_areas_differ_from_tiles_where_a_network_pads() -> None:
    slide, model = noise_slide(700, 700), area_model(padded=True)
    _, exact = score(slide, model, ScoreMode())
    _, dense = score(slide, model, DENSE)
    assert np.abs(dense["probability"] - exact["probability"]).max() > 0.01


def test_a_cascade_is_exact_where_there_may_be_tumour_and_dense_elsewhere() -> None:
    slide, model = noise_slide(700, 1100), area_model(padded=True)
    _, exact = score(slide, model, ScoreMode())
    _, dense = score(slide, model, DENSE)
    _, cascade = score(slide, model, CASCADE)
    suspect = dense["probability"][..., 1] >= 0.5
    assert 20 < suspect.sum() < suspect.size - 20
    found = cascade["probability"]
    np.testing.assert_allclose(found[suspect], exact["probability"][suspect], atol=1e-6)
    np.testing.assert_array_equal(found[~suspect], dense["probability"][~suspect])


@pytest.mark.parametrize("mode", [DENSE, CASCADE])
def test_what_cannot_be_read_is_singled_out_in_areas_too(mode: ScoreMode) -> None:
    model = area_model()
    _, whole = score(noise_slide(700, 700), model, ScoreMode())
    grid, broken = score(noise_slide(700, 700, Box(300, 200, 30, 30)), model, mode)
    _, exact = score(noise_slide(700, 700, Box(300, 200, 30, 30)), model, ScoreMode())
    unreadable = broken["status"] == Status.UNREADABLE
    assert unreadable[200 // 32, 300 // 32]
    assert 0 < unreadable.sum() < grid.rows * grid.cols / 4
    np.testing.assert_array_equal(broken["status"], exact["status"])
    np.testing.assert_allclose(
        broken["probability"][~unreadable], whole["probability"][~unreadable], atol=1e-5
    )
    assert np.isnan(broken["probability"][unreadable]).all()


def test_nothing_is_read_where_nothing_is_to_be_scored() -> None:
    slide = noise_slide(700, 700)
    model = area_model()
    grid = make_grid(slide, model.spec)
    plan = np.full(grid.shape, Status.BACKGROUND, dtype=np.uint8)
    plan[3, 20] = Status.PENDING
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model, DENSE)
    assert (block["status"] == Status.SCORED).sum() == 1
    assert len(slide.reads) == 1


@pytest.mark.parametrize(
    ("model", "stride_px", "words"),
    [
        (colour_model(), 32, "its network is not a convolutional body and a pooling head"),
        (area_model(network_px=192), 32, "it resizes tiles of 96 px to 192 px"),
        (area_model(input_px=80, network_px=80), 32, "tiles of 80 px are no multiple of 32 px"),
        (area_model(), 48, "a stride of 48 px is no multiple of 32 px"),
    ],
)
def test_models_that_cannot_score_areas_are_refused(
    model: Model, stride_px: int, words: str
) -> None:
    with pytest.raises(HistoslideError, match=words) as caught:
        make_heatmap(noise_slide(300, 300), model, stride_px=stride_px, mode=DENSE)
    assert "use --mode exact" in str(caught.value)


def test_a_cascade_needs_a_tumour_class() -> None:
    model = area_model(tumour_class=None)
    with pytest.raises(HistoslideError, match="no tumour class"):
        make_heatmap(noise_slide(300, 300), model, mode=CASCADE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'"),
        ({"mode": "dense", "tta": True}, "--tta turns single tiles"),
        ({"cascade_threshold": 1.5}, "must lie in 0-1, not 1.5"),
    ],
)
def test_impossible_modes_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HistoslideError, match=words):
        ScoreMode(**changes)


class LeftRed(nn.Module):
    """P(tumour) is the mean of red over the left half: flips and turns change it."""

    def forward(self, images: Tensor) -> Tensor:
        share = images[:, 0, :, : images.shape[-1] // 2].mean(dim=(1, 2)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([torch.log1p(-share), torch.log(share)], dim=1)


def test_eight_orientations_and_how_far_they_differ(tmp_path: Path) -> None:
    """Left half 0.8 red, right half 0.2: turned upright it is 0.5, so the answers are known."""
    pixels = np.zeros((96, 96, 3), dtype=np.uint8)
    pixels[:, :48, 0], pixels[:, 48:, 0] = 204, 51
    slide = FakeSlide([pixels], mpp=Mpp(value=0.972, source="test"))
    model = Model(AREA_SPEC, LeftRed(), device=CPU, sha256="left-red")
    lazy = make_heatmap(
        slide,
        model,
        stride_px=96,
        tissue=find_tissue(slide, METHODS["none"]),
        tissue_threshold=0.0,
        mode=ScoreMode(tta=True),
    )
    heat = store_heatmap(lazy, tmp_path / "h.zarr")
    assert heat.probability()[0, 0] == pytest.approx(0.5, abs=1e-4)
    assert heat.disagreement is not None
    # Of the eight, two see 0.8 on the left, two 0.2, and four 0.5.
    expected = np.std([0.8, 0.8, 0.2, 0.2, 0.5, 0.5, 0.5, 0.5])
    assert heat.disagreement[0, 0] == pytest.approx(expected, abs=1e-4)
    copy = convert_heatmap(heat, tmp_path / "copy.zarr", ngff="0.4")
    np.testing.assert_array_equal(copy.disagreement, heat.disagreement)


def test_a_heatmap_without_orientations_has_no_disagreement(tmp_path: Path) -> None:
    slide = noise_slide(200, 200)
    store_heatmap(make_heatmap(slide, three_class_model()), tmp_path / "h.zarr")
    assert open_heatmap(tmp_path / "h.zarr").disagreement is None


def test_heatmaps_of_different_modes_are_not_mixed(tmp_path: Path) -> None:
    slide, model = noise_slide(300, 300), area_model()
    store_heatmap(make_heatmap(slide, model), tmp_path / "h.zarr")
    with pytest.raises(HistoslideError, match="mode was exact, is dense"):
        store_heatmap(make_heatmap(slide, model, mode=DENSE), tmp_path / "h.zarr")
    with pytest.raises(HistoslideError, match="cascade_threshold"):
        store_heatmap(make_heatmap(slide, model, mode=CASCADE), tmp_path / "h.zarr")


@pytest.mark.parametrize("mode", [ScoreMode(), DENSE, CASCADE])
def test_damage_far_from_tissue_leaves_background_as_it_is(mode: ScoreMode) -> None:
    slide = noise_slide(512, 512, Box(230, 230, 30, 30))
    model = area_model()
    grid = make_grid(slide, model.spec)
    plan = np.full(grid.shape, Status.BACKGROUND, np.uint8)
    plan[0:2, 0:2] = plan[14:, 14:] = Status.PENDING
    plan[5, 5:9] = Status.EXCLUDED
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model, mode)
    expected = np.where(plan == Status.PENDING, Status.SCORED, plan)
    np.testing.assert_array_equal(block["status"], expected)
