"""One block: reads fail, patches agree with the model, memory stays bounded."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from models import colour_model
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from histoslide.errors import SlideReadError
from histoslide.geometry import Box, CellRange, Mpp, Size
from histoslide.heatmap import make_grid, make_heatmap
from histoslide.model import default_bundle, load_model
from histoslide.scoring import Status, score_block
from histoslide.slide import open_slide
from histoslide.store import store_heatmap
from histoslide.synthetic import mosaic_slide
from histoslide.tissue import METHODS, find_tissue


class DamagedSlide:
    """An in-memory slide of one level with a rectangle that cannot be read."""

    name = "damaged.tif"
    level_downsamples = (1.0,)
    bounds_l0: Box | None = None
    properties: dict[str, str] = {}  # noqa: RUF012
    mpp = Mpp(value=0.972, source="test")

    def __init__(self, pixels: NDArray[np.uint8], damaged: tuple[int, int, int, int]) -> None:
        self.pixels, self.damaged = pixels, damaged
        self.size_l0 = Size(pixels.shape[1], pixels.shape[0])
        self.level_sizes = (self.size_l0,)
        self.reads: list[tuple[int, int]] = []

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        left, top, right, bottom = self.damaged
        self.reads.append((width, height))
        if x < right and x + width > left and y < bottom and y + height > top:
            raise SlideReadError(f"{self.name}: damaged")
        return self.pixels[y : y + height, x : x + width]


def test_unreadable_cells_are_singled_out() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (640, 640, 3), dtype=np.uint8)
    whole = DamagedSlide(pixels, (0, 0, 0, 0))
    broken = DamagedSlide(pixels, (300, 200, 330, 230))
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


def test_only_what_is_pending_is_read_and_scored() -> None:
    slide = DamagedSlide(np.zeros((640, 640, 3), dtype=np.uint8), (0, 0, 0, 0))
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
    assert read == (96 + 32 + 4, 96 + 64 + 4)


def test_wide_strides_are_read_in_parts() -> None:
    slide = DamagedSlide(np.zeros((4000, 4000, 3), dtype=np.uint8), (0, 0, 0, 0))
    model = colour_model()
    grid = make_grid(slide, model.spec, stride_px=250)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    block = score_block(slide, grid, CellRange(0, 0, *grid.shape), plan, model)
    assert (block["status"] == Status.SCORED).all()
    assert max(max(read) for read in slide.reads) <= 1152 + 4


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
    model = load_model(default_bundle(), device=torch.device("cpu"))
    slide = open_slide(path)
    lazy = make_heatmap(
        slide,
        model,
        stride_px=96,
        tissue=find_tissue(slide, METHODS["none"]),
        tissue_threshold=0.0,
    )
    heat = store_heatmap(lazy, tmp_path / "heat.zarr")
    tiles = torch.from_numpy(stack).permute(0, 3, 1, 2)
    alone = model.probabilities(tiles)[:, model.spec.tumour_index].numpy()
    as_slide = heat.probability().reshape(-1)
    assert np.abs(as_slide - alone).max() < 1e-3
    assert roc_auc_score(labels, as_slide) == pytest.approx(roc_auc_score(labels, alone), abs=1e-3)
    assert roc_auc_score(labels, as_slide) > 0.85
