"""Tiles that are at hand get what a cascade gives the same cells of a slide."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import noise_slide
from models import area_model

from histoslide.errors import HistoslideError
from histoslide.geometry import CellRange
from histoslide.grid.windows import read_window
from histoslide.model.choosing_first_look import ChosenLook
from histoslide.model.first_look import Scale
from histoslide.model.two_looks import TwoLooks
from histoslide.scoring.block import score_block
from histoslide.scoring.cascade import Cascade
from histoslide.scoring.lazy import make_grid

LOOK = ChosenLook(
    bundle=Path("light.safetensors"),
    threshold=0.41,
    certain=0.44,
    scale=Scale(slope=0.5, shift=-0.3),
    weight=0.5,
)


@pytest.mark.parametrize("changes", [{}, {"certain": None}, {"weight": 0.0}, {"threshold": 0.9}])
def test_it_says_of_tiles_what_a_cascade_says_of_cells(changes: dict[str, Any]) -> None:
    look = dataclasses.replace(LOOK, **changes)
    model, light = area_model(), area_model(padded=True, name="light", temperature=2.0)
    slide = noise_slide(500, 700)
    grid = make_grid(slide, model.spec, stride_px=96)
    cells = CellRange(0, 0, *grid.shape)
    plan = np.zeros(grid.shape, dtype=np.uint8)
    cascade = Cascade.of(model, light, look)
    wanted = score_block(slide, grid, cells, plan, cascade.here(), cascade.mode)
    window, side = read_window(slide, grid, cells), model.spec.input_px
    places = [(96 * row, 96 * col) for row, col in np.ndindex(*grid.shape)]
    tiles = np.stack([window[y : y + side, x : x + side].transpose(2, 0, 1) for y, x in places])
    judge = TwoLooks(model, light, look)
    assert judge.spec.temperature == 1
    found = np.exp(judge.logits(tiles)).reshape(wanted["probability"].shape)
    np.testing.assert_allclose(found, wanted["probability"], atol=1e-6)
    assert len(set(wanted["looks"].ravel())) == (1 if changes == {"threshold": 0.9} else 2)


def test_what_it_cannot_do_is_refused() -> None:
    model = area_model()
    with pytest.raises(HistoslideError, match=r"it has µm/px 0\.5, not 0\.972"):
        TwoLooks(model, area_model(mpp=0.5), LOOK)
    with pytest.raises(HistoslideError, match="leave the first look"):
        TwoLooks(model, model, LOOK).logits_of_views(np.zeros((1, 3, 96, 96), dtype=np.uint8))
