"""One block: reads fail, patches agree with the model, memory stays bounded."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSlide
from hypothesis import given, settings
from hypothesis import strategies as st
from models import colour_model
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

import histoslide.grid.windows as tiles_module
import histoslide.scoring.block as scoring_module
from histoslide.geometry import Box, CellRange, Mpp
from histoslide.grid.status import Status
from histoslide.model import Batches, Request, default_bundle, load_model
from histoslide.scoring.block import score_block
from histoslide.scoring.lazy import make_grid, make_heatmap
from histoslide.slide import open_slide
from histoslide.store import store_heatmap
from histoslide.synthetic import mosaic_slide
from histoslide.tissue.masks import METHODS, find_tissue

NOISE = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)


def fake(pixels: NDArray[np.uint8], rotten: Box | None = None) -> FakeSlide:
    return FakeSlide([pixels], mpp=Mpp(value=0.972, source="test"), rotten=rotten)


def test_unreadable_cells_are_singled_out() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (640, 640, 3), dtype=np.uint8)
    whole = fake(pixels)
    broken = fake(pixels, Box(300, 200, 30, 30))
    model = colour_model()
    grid = make_grid(whole, model.spec)
    cells = CellRange(0, 0, *grid.shape)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    good = score_block(whole, grid, cells, plan, model)
    bad = score_block(broken, grid, cells, plan, model)
    unreadable = bad["status"] == Status.UNREADABLE
    # The tiles (96 px and the filter's reach of 2 px) that touch the damage, and no others.
    for row in range(grid.rows):
        for col in range(grid.cols):
            box = grid.tile_box_l0(row, col)
            touches = (
                box.x - 2 < 330 and box.right + 2 > 300 and box.y - 2 < 230 and box.bottom + 2 > 200
            )
            assert unreadable[row, col] == touches
    assert np.isnan(bad["probability"][unreadable]).all()
    np.testing.assert_array_equal(bad["probability"][~unreadable], good["probability"][~unreadable])
    assert set(np.unique(bad["status"])) == {Status.SCORED, Status.UNREADABLE}


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damage_between_pieces_of_tissue_costs_what_it_touches(data: st.DataObject) -> None:
    """Islands of tissue in glass, and a hole in the file that may touch any, or none, of them."""
    at = st.tuples(st.integers(0, 16), st.integers(0, 16))
    islands = data.draw(st.lists(at, min_size=1, max_size=3))
    left, top = data.draw(at)
    hole = Box(32 * left, 32 * top, 150, 150)
    slide = fake(NOISE, hole)
    model = colour_model()
    grid = make_grid(slide, model.spec)
    plan = np.full(grid.shape, Status.BACKGROUND, dtype=np.uint8)
    for row, col in islands:
        plan[row : row + 4, col : col + 4] = Status.PENDING
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model)
    wanted = plan == Status.PENDING
    np.testing.assert_array_equal(block["status"][~wanted], plan[~wanted])
    for row, col in np.argwhere(wanted):
        box = grid.tile_box_l0(row, col)
        touches = (
            box.x - 2 < hole.right and box.right + 2 > hole.x
            and box.y - 2 < hole.bottom and box.bottom + 2 > hole.y
        )  # fmt: skip
        assert block["status"][row, col] == (Status.UNREADABLE if touches else Status.SCORED)


def test_what_a_block_holds_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slide, model = fake(NOISE), colour_model()
    grid = make_grid(slide, model.spec, stride_px=40)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    cells = CellRange(0, 0, *grid.shape)
    whole = score_block(slide, grid, cells, plan, model)
    monkeypatch.setattr(tiles_module, "MAX_WINDOW_PX", 200)
    monkeypatch.setattr(scoring_module, "MOST_HELD_BYTES", 400_000)  # four windows
    waits: list[int] = []
    wait = Batches.wait

    def counted(batches: Batches, requests: Sequence[Request]) -> None:
        waits.append(len(requests))
        wait(batches, requests)

    monkeypatch.setattr(Batches, "wait", counted)
    parts = score_block(slide, grid, cells, plan, model)
    assert waits[:2] == [4, 4]
    assert max(waits) < 9  # more of the smaller ones at the slide's edges
    assert sum(waits) == 36
    np.testing.assert_array_equal(parts, whole)


def test_only_what_is_pending_is_read_and_scored() -> None:
    slide = fake(np.zeros((640, 640, 3), dtype=np.uint8))
    model = colour_model()
    grid = make_grid(slide, model.spec)
    plan = np.full(grid.shape, Status.BACKGROUND, dtype=np.uint8)
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model)
    assert slide.reads == []
    assert np.isnan(block["probability"]).all()
    plan[3, 4], plan[5, 5] = Status.PENDING, Status.PENDING
    plan[9, 9] = Status.EXCLUDED
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model)
    assert (block["status"] == Status.SCORED).sum() == 2
    assert block["status"][9, 9] == Status.EXCLUDED
    (read,) = slide.reads  # one read, of the cells between and a margin, not of the block
    assert (read.level, read.width, read.height) == (0, 96 + 32 + 4, 96 + 64 + 4)


def test_wide_strides_are_read_in_parts() -> None:
    slide = fake(np.zeros((4000, 4000, 3), dtype=np.uint8))
    model = colour_model()
    grid = make_grid(slide, model.spec, stride_px=250)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model)
    assert (block["status"] == Status.SCORED).all()
    assert max(max(read.width, read.height) for read in slide.reads) <= 1152 + 4


def test_real_patches_score_as_a_slide_as_they_do_alone(real_data: Path, tmp_path: Path) -> None:
    """A mosaic of validation patches: each centre cell equals the patch through the model."""
    patches, labels = [], []
    with tarfile.open(real_data / "pcam" / "valid.tar.gz") as archive:
        members = [m for m in archive if m.name.endswith(".jpg")]
        rng = np.random.default_rng(0)
        for index in rng.permutation(len(members))[:80]:
            file = archive.extractfile(members[index])
            assert file is not None
            patches.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
            labels.append(int(members[index].name.split("/")[1]))
    stack = np.stack(patches)
    path = mosaic_slide(tmp_path / "mosaic.tif", stack, columns=10, mpp=0.972)
    model = load_model(default_bundle(), device="cpu")
    slide = open_slide(path)
    lazy = make_heatmap(
        slide,
        model,
        stride_px=96,
        tissue=find_tissue(slide, METHODS["none"]),
        tissue_threshold=0.0,
    )
    heat = store_heatmap(lazy, tmp_path / "heat.zarr")
    alone = model.probabilities(stack.transpose(0, 3, 1, 2))[:, model.spec.tumour_index]
    as_slide = heat.probability().reshape(-1)
    assert np.abs(as_slide - alone).max() < 1e-3
    assert roc_auc_score(labels, as_slide) == pytest.approx(roc_auc_score(labels, alone), abs=1e-3)
    assert roc_auc_score(labels, as_slide) > 0.7  # a sample of 80: the model does work here
