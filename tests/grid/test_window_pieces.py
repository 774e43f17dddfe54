"""A window that is read in pieces has the pixels of one that is read at once."""

import numpy as np
import pytest
from fakes import FakeSlide
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import histoslide.slide.resampling as resampling_module
from histoslide.errors import SlideReadError
from histoslide.geometry import Box, CellRange, Mpp, Region
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_window, read_windows


class DyingSlide(FakeSlide):
    """Some of its reads fail, whatever they are of, as those of a reader that dies do."""

    deaths: frozenset[int] = frozenset()

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        if len(self.reads) in self.deaths:
            self.reads.append(region)
            raise SlideReadError("died")
        return super().read(region, shrink)


def noise(mpp: float, rotten: Box | None = None) -> DyingSlide:
    pixels = np.random.default_rng(5).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    return DyingSlide([pixels], mpp=Mpp(value=mpp, source="test"), rotten=rotten)


def grid_of(slide: FakeSlide, stride_px: int = 8) -> TileGrid:
    assert slide.mpp is not None
    return TileGrid(
        size_l0=slide.size_l0,
        slide_mpp=slide.mpp,
        model_mpp=0.972,
        input_px=24,
        label_px=8,
        stride_px=stride_px,
    )


@pytest.mark.parametrize("at_once", [6000 * 6000, 300 * 200])
@settings(max_examples=25, deadline=None)
@given(
    mpp=st.sampled_from([0.13, 0.2431, 0.25, 0.486, 0.7, 0.972, 1.3]),
    deaths=st.frozensets(st.integers(1, 40), max_size=12),
)
def test_its_pixels_do_not_tell(at_once: int, mpp: float, deaths: frozenset[int]) -> None:
    slide = noise(mpp)
    grid = grid_of(slide)
    cells = CellRange(1, 2, min(7, grid.rows - 1), min(9, grid.cols - 2))
    wanted = np.random.default_rng(1).random((cells.rows, cells.cols)) < 0.9
    wanted[[0, -1], :] = wanted[:, [0, -1]] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling_module, "_MAX_READ_PX", at_once)
        whole = read_window(slide, grid, cells)
        slide.reads.clear()
        slide.deaths = deaths | {0}
        (window,) = read_windows(slide, grid, cells, wanted)
    assert window.cells == cells
    if window.pixels is None:
        assert (window.unreadable == wanted).all()
        return
    for row, col in np.argwhere(wanted & ~window.unreadable).tolist():
        where = np.s_[row * 8 : row * 8 + 24, col * 8 : col * 8 + 24]
        np.testing.assert_array_equal(window.pixels[where], whole[where])
    if not deaths:
        assert not window.unreadable.any()


def test_only_cells_whose_own_tile_is_lost_are_unreadable() -> None:
    bad = noise(0.25, rotten=Box(430, 333, 20, 20))
    grid = grid_of(bad)
    cells = CellRange(0, 0, grid.rows, grid.cols)
    wanted = np.ones(grid.shape, dtype=np.bool_)
    (window,) = read_windows(bad, grid, cells, wanted)
    for row, col in np.ndindex(grid.shape):
        try:
            read_window(bad, grid, CellRange(row, col, 1, 1))
        except SlideReadError:
            assert window.unreadable[row, col]
        else:
            assert not window.unreadable[row, col]
    assert 0 < window.unreadable.sum() < 30
