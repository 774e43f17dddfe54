"""A lighter model looks first: what each cell's value is, and what a gate says of it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeSlide, noise_slide
from histoslide_cli.main import main
from hypothesis import given, settings
from hypothesis import strategies as st
from models import AREA_SPEC, area_model, colour_model

from histoslide.errors import HistoslideError, StoreError
from histoslide.geometry import Box, CellRange
from histoslide.grid.status import Status
from histoslide.model import Model
from histoslide.model.first_look import ONE_SCALE, Scale, with_again
from histoslide.scoring.block import score_block
from histoslide.scoring.cascade import Cascade
from histoslide.scoring.lazy import make_grid, make_heatmap
from histoslide.scoring.mode import EXACT, ScoreMode
from histoslide.store import convert_heatmap, open_heatmap, store_heatmap
from histoslide.tissue.masks import METHODS, find_tissue

SCALE = Scale(slope=0.5, shift=-0.3)


def models() -> tuple[Model, Model]:
    """One that looks again, and one whose probabilities are near its, on another scale."""
    return area_model(), area_model(padded=True, name="light", temperature=2.0)


def everything(slide: FakeSlide, model: Any, mode: ScoreMode, stride_px: int = 32) -> Any:
    grid = make_grid(slide, model.spec, stride_px=stride_px)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    return score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model.here(), mode)


@given(
    height=st.integers(40, 700),
    width=st.integers(40, 700),
    stride_px=st.sampled_from([32, 48, 96]),
    threshold=st.sampled_from([0.0, 0.3, 0.45, 1.0]),
    weight=st.sampled_from([0.0, 0.5, 0.25]),
    certain=st.sampled_from([None, 0.5, 0.47]),
)
@settings(max_examples=15, deadline=None)
def test_a_cell_has_the_value_of_those_who_looked(
    height: int,
    width: int,
    stride_px: int,
    threshold: float,
    weight: float,
    certain: float | None,
) -> None:
    """The slow twin: each model alone, and the rule written down once more."""
    slide, (model, light) = noise_slide(height, width), models()
    cascade = Cascade(
        model=model,
        first=light,
        threshold=threshold,
        scale=SCALE,
        weight=weight,
        certain=certain,
    )
    alone, first = (everything(slide, it, EXACT, stride_px) for it in (model, light))
    both = everything(slide, cascade, cascade.mode, stride_px)
    p = first["probability"][..., 1].astype(np.float64)
    odds = np.log(p / (1 - p)) * 0.5 - 0.3
    moved = 1 / (1 + np.exp(-odds))
    again = both["looks"] == 2
    below = 2 if certain is None else certain
    near = (np.abs(moved - threshold) < 1e-6) | (np.abs(moved - below) < 1e-6)
    wanted_again = (moved >= threshold) & (moved < below)
    np.testing.assert_array_equal(again[~near], wanted_again[~near])
    a = alone["probability"][..., 1].astype(np.float64)
    mean = 1 / (1 + np.exp(-(weight * np.log(p / (1 - p)) + (1 - weight) * np.log(a / (1 - a)))))
    wanted = np.where(again, mean, moved)
    np.testing.assert_allclose(both["probability"][..., 1], wanted, atol=1e-6)
    np.testing.assert_allclose(both["probability"].sum(axis=-1), 1, atol=1e-6)
    assert (both["looks"] >= 1).all()
    np.testing.assert_array_equal(both["status"], alone["status"])


def test_of_three_classes_the_others_keep_their_shares() -> None:
    look = Cascade(model=area_model(), first=area_model(), threshold=0.4, weight=0.5).first_look
    again = np.array([[0.2, 0.3, 0.5]], dtype=np.float32)
    found = with_again(np.array([0.8], dtype=np.float32), again, 2, look.say)
    np.testing.assert_allclose(found, [[2 / 15, 0.2, 2 / 3]], atol=1e-6)


def test_what_cannot_be_read_is_singled_out_and_looked_at_by_nobody() -> None:
    model, light = models()
    cascade = Cascade(model=model, first=light, threshold=0.4)
    broken = everything(noise_slide(700, 700, Box(300, 200, 30, 30)), cascade, cascade.mode)
    exact = everything(noise_slide(700, 700, Box(300, 200, 30, 30)), model, EXACT)
    unreadable = broken["status"] == Status.UNREADABLE
    assert unreadable.any()
    np.testing.assert_array_equal(broken["status"], exact["status"])
    assert (broken["looks"][unreadable] == 0).all()
    assert np.isnan(broken["probability"][unreadable]).all()


def test_scales_keep_order_and_what_is_no_number() -> None:
    values = np.array([0, 0.2, 0.5, 1, np.nan], dtype=np.float32)
    np.testing.assert_allclose(ONE_SCALE.apply(values), values, atol=2e-6)
    moved = SCALE.apply(values)
    assert (np.diff(moved[:4]) > 0).all()
    assert np.isnan(moved[4])
    three = np.array([[0.2, 0.3, 0.5], [0, 0, 1]], dtype=np.float32)
    after = SCALE.apply_to_all(three, 2)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)
    assert after[0, 0] / after[0, 1] == pytest.approx(2 / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mpp": 0.5}, "it has µm/px 0.5, not 0.972"),
        ({"label_px": 96}, "it has labels of, in px, 96, not 32"),
        ({"tumour_class": None}, "it has the tumour class None, not tumour"),
        ({"classes": ("stroma", "tumour")}, "it has the classes stroma, tumour, not normal, tum"),
    ],
)
def test_models_of_other_tiles_cannot_look_first(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HistoslideError, match=words):
        Cascade(model=area_model(), first=area_model(**changes), threshold=0.5)


def test_a_model_without_tumour_has_no_first_look() -> None:
    model = area_model(tumour_class=None)
    with pytest.raises(HistoslideError, match="has no tumour class"):
        Cascade(model=model, first=model, threshold=0.5)


def test_a_first_look_needs_its_model_and_its_mode() -> None:
    model, light = models()
    mode = Cascade(model=model, first=light, threshold=0.4).mode
    with pytest.raises(HistoslideError, match="first look by light, which the model does not have"):
        make_heatmap(noise_slide(300, 300), model, mode=mode)
    with pytest.raises(HistoslideError, match="a first look is for --mode cascade, not exact"):
        ScoreMode(first_look=mode.first_look)


def stored(path: Path, model: Any, mode: ScoreMode) -> Any:
    slide = noise_slide(700, 900)
    tissue = find_tissue(slide, METHODS["none"])
    lazy = make_heatmap(
        slide, model, stride_px=32, tissue=tissue, tissue_threshold=0, mode=mode, block_cells=8
    )
    return store_heatmap(lazy, path)


def test_the_store_tells_who_looked(tmp_path: Path) -> None:
    model, light = models()
    cascade = Cascade(model=model, first=light, threshold=0.45, scale=SCALE)
    heat = stored(tmp_path / "h.zarr", cascade, cascade.mode)
    looks, found = heat.looks, heat.probability()
    assert looks is not None
    assert set(np.unique(looks)) == {1, 2}
    assert found[looks == 1].max() < 0.45
    again = open_heatmap(tmp_path / "h.zarr")
    assert again.record.mode.value == cascade.mode
    assert again.record.fingerprint["first_look.name"] == "light"
    assert again.record.fingerprint["first_look.scale"] == {"slope": 0.5, "shift": -0.3}
    assert "first_look.weight" not in again.record.fingerprint
    assert "first_look.certain" not in again.record.fingerprint
    assert stored(tmp_path / "exact.zarr", model, EXACT).looks is None
    for ngff in ("0.4", "0.5"):
        copy = convert_heatmap(again, tmp_path / f"c{ngff}.zarr", ngff=ngff)
        np.testing.assert_array_equal(copy.looks, looks)


def test_a_lost_file_of_looks_is_damage(tmp_path: Path) -> None:
    model, light = models()
    cascade = Cascade(model=model, first=light, threshold=0.45)
    stored(tmp_path / "h.zarr", cascade, cascade.mode)
    (tmp_path / "h.zarr/looks/0/c/1/1").unlink()
    with pytest.raises(StoreError, match=r"the first is looks/0/c/1/1"):
        open_heatmap(tmp_path / "h.zarr")


def test_other_first_looks_are_other_settings(tmp_path: Path) -> None:
    model, light = models()
    cascade = Cascade(model=model, first=light, threshold=0.45)
    stored(tmp_path / "h.zarr", cascade, cascade.mode)
    changes: dict[str, Any] = {"scale": SCALE, "weight": 0.5, "certain": 0.9}
    for field, value in changes.items():
        changed = dataclasses.replace(cascade, **{field: value})
        with pytest.raises(HistoslideError, match=rf"first_look\.{field}"):
            stored(tmp_path / "h.zarr", changed, changed.mode)


def test_a_first_look_is_refused_where_it_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide, out = str(tmp_path / "s.tif"), str(tmp_path / "h.zarr")
    (tmp_path / "s.tif").write_bytes(b"")
    assert main(["score", slide, "--out", out, "--first-look", "light", "--mode", "exact"]) == 2
    assert "--first-look is for --mode cascade, not exact" in capsys.readouterr().err


def test_spec_of_a_cascade_is_that_of_the_model() -> None:
    model = colour_model()
    cascade = Cascade(model=model, first=model, threshold=0.5)
    assert cascade.spec == model.spec
    assert cascade.sha256 == model.sha256
    assert AREA_SPEC.tumour_class == "tumour"
