"""The grid against slow and obvious twins, on slides and strides drawn by hypothesis."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from histoslide.errors import ResolutionError
from histoslide.geometry import Box, CellRange, Mpp, Size
from histoslide.grid.cells import TileGrid

MODEL_MPP = 0.972
NEAR = 1e-6
"""Level-0 pixels within which float rounding may decide."""


def make_grid(
    width: int = 1000,
    height: int = 700,
    mpp: float = 0.25,
    model_mpp: float = MODEL_MPP,
    input_px: int = 96,
    label_px: int = 32,
    stride_px: int = 32,
    block_cells: int = 4,
) -> TileGrid:
    return TileGrid(
        size_l0=Size(width, height),
        slide_mpp=Mpp(value=mpp, source="test"),
        model_mpp=model_mpp,
        input_px=input_px,
        label_px=label_px,
        stride_px=stride_px,
        block_cells=block_cells,
    )


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    input_px = draw(st.integers(1, 128))
    grid = make_grid(
        width=draw(st.integers(1, 3000)),
        height=draw(st.integers(1, 3000)),
        mpp=draw(st.floats(0.1, 1.5)),
        input_px=input_px,
        label_px=draw(st.integers(1, input_px)),
        stride_px=draw(st.integers(1, 128)),
        block_cells=draw(st.integers(1, 40)),
    )
    assume(grid.rows * grid.cols < 4000)  # the twins are loops
    return grid


def all_cells(grid: TileGrid) -> list[tuple[int, int]]:
    return [(row, col) for row in range(grid.rows) for col in range(grid.cols)]


def contains(box: Box, x: float, y: float) -> bool:
    return box.x <= x < box.right and box.y <= y < box.bottom


def distance_to_cell_edges(grid: TileGrid, x: float, y: float) -> float:
    return min(abs(at - round(at / grid.cell_l0) * grid.cell_l0) for at in (x, y))


@settings(max_examples=40, deadline=None)
@given(grid=grids())
def test_cells_tile_the_slide_without_gap_or_overlap(grid: TileGrid) -> None:
    for row in range(grid.rows):
        assert grid.cell_box_l0(row, 0).x == pytest.approx(0, abs=NEAR)
    for col in range(grid.cols):
        assert grid.cell_box_l0(0, col).y == pytest.approx(0, abs=NEAR)
    for row, col in all_cells(grid):
        box = grid.cell_box_l0(row, col)
        assert (box.width, box.height) == (grid.cell_l0, grid.cell_l0)
        assert box.right == pytest.approx(grid.cell_box_l0(row, col + 1).x, abs=NEAR)
        assert box.bottom == pytest.approx(grid.cell_box_l0(row + 1, col).y, abs=NEAR)
    last = grid.cell_box_l0(grid.rows - 1, grid.cols - 1)
    assert last.right >= grid.size_l0.width - NEAR
    assert last.bottom >= grid.size_l0.height - NEAR
    assert last.x < grid.size_l0.width, "the last column must touch the slide"
    assert last.y < grid.size_l0.height, "the last row must touch the slide"


@settings(max_examples=40, deadline=None)
@given(grid=grids(), across=st.floats(0, 1), down=st.floats(0, 1))
def test_cell_at_a_point_is_the_only_cell_whose_box_holds_it(
    grid: TileGrid, across: float, down: float
) -> None:
    x = min(across * grid.size_l0.width, math.nextafter(grid.size_l0.width, 0))
    y = min(down * grid.size_l0.height, math.nextafter(grid.size_l0.height, 0))
    assume(distance_to_cell_edges(grid, x, y) > NEAR)
    slow = [cell for cell in all_cells(grid) if contains(grid.cell_box_l0(*cell), x, y)]
    assert slow == [grid.cell_at_l0(x, y)]


def test_cell_at_an_edge_belongs_to_the_cell_that_begins_there() -> None:
    grid = make_grid(width=256, height=192, mpp=0.5, model_mpp=1.0, stride_px=32)  # cells of 64
    assert grid.cell_at_l0(0, 0) == (0, 0)
    assert grid.cell_at_l0(63.999, 64) == (1, 0)
    assert grid.cell_at_l0(64, 63.999) == (0, 1)
    assert grid.cell_at_l0(255.999, 191.999) == (2, 3)


def test_last_pixel_has_a_cell_even_where_rounding_hides_its_column() -> None:
    grid = make_grid(width=1000, height=1000, mpp=MODEL_MPP * (1 + 1e-12), stride_px=100)
    assert grid.cell_l0 < 100
    assert grid.shape == (10, 10)
    assert grid.cell_at_l0(math.nextafter(1000, 0), 0) == (0, 9)


@pytest.mark.parametrize(("x", "y"), [(-0.001, 0), (0, -0.001), (1000, 0), (0, 700), (5e9, 5)])
def test_a_point_beyond_the_slide_has_no_cell(x: float, y: float) -> None:
    with pytest.raises(ValueError, match="lies outside"):
        make_grid(width=1000, height=700).cell_at_l0(x, y)


@settings(max_examples=60, deadline=None)
@given(grid=grids(), data=st.data())
def test_tiles_lie_in_their_window_at_whole_multiples_of_the_stride(
    grid: TileGrid, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, grid.rows - 1))
    col = data.draw(st.integers(0, grid.cols - 1))
    rows = data.draw(st.integers(1, min(5, grid.rows - row)))
    cols = data.draw(st.integers(1, min(5, grid.cols - col)))
    cells = CellRange(row, col, rows, cols)
    window, size = grid.window_box_l0(cells), grid.window_size_px(cells)
    assert window.width / size.width == pytest.approx(grid.scale, rel=1e-12)
    assert window.height / size.height == pytest.approx(grid.scale, rel=1e-12)
    for i in range(rows):
        for j in range(cols):
            tile = grid.tile_box_l0(row + i, col + j)
            assert (tile.x - window.x) / grid.scale == pytest.approx(j * grid.stride_px, abs=NEAR)
            assert (tile.y - window.y) / grid.scale == pytest.approx(i * grid.stride_px, abs=NEAR)
            assert tile.width == tile.height == grid.input_px * grid.scale
    last = grid.tile_box_l0(row + rows - 1, col + cols - 1)
    assert window.right == pytest.approx(last.right, abs=NEAR)
    assert window.bottom == pytest.approx(last.bottom, abs=NEAR)


@settings(max_examples=60, deadline=None)
@given(grid=grids(), data=st.data())
def test_cell_label_and_tile_share_their_centre(grid: TileGrid, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, grid.rows - 1))
    col = data.draw(st.integers(0, grid.cols - 1))
    for box, side_px in (
        (grid.cell_box_l0(row, col), grid.stride_px),
        (grid.label_box_l0(row, col), grid.label_px),
        (grid.tile_box_l0(row, col), grid.input_px),
    ):
        assert (box.x + box.right) / 2 == pytest.approx((col + 0.5) * grid.cell_l0, abs=NEAR)
        assert (box.y + box.bottom) / 2 == pytest.approx((row + 0.5) * grid.cell_l0, abs=NEAR)
        assert (box.width, box.height) == (side_px * grid.scale, side_px * grid.scale)


@settings(max_examples=60, deadline=None)
@given(grid=grids())
def test_blocks_cover_every_cell_once_in_reading_order(grid: TileGrid) -> None:
    visits = np.zeros(grid.shape, dtype=int)
    blocks = list(grid.blocks())
    for block in blocks:
        assert visits[block.slices].shape == (block.rows, block.cols)
        assert 1 <= block.rows <= grid.block_cells
        assert 1 <= block.cols <= grid.block_cells
        visits[block.slices] += 1
    assert (visits == 1).all()
    assert len(blocks) == math.prod(grid.block_shape)
    assert [(b.row, b.col) for b in blocks] == sorted((b.row, b.col) for b in blocks)
    assert blocks == [
        grid.block(i, j) for i in range(grid.block_shape[0]) for j in range(grid.block_shape[1])
    ]


@settings(max_examples=60, deadline=None)
@given(grid=grids(), data=st.data())
def test_the_box_of_a_range_spans_the_boxes_of_its_cells(
    grid: TileGrid, data: st.DataObject
) -> None:
    block = data.draw(st.sampled_from(list(grid.blocks())))
    box = grid.cells_box_l0(block)
    first = grid.cell_box_l0(block.row, block.col)
    last = grid.cell_box_l0(block.row + block.rows - 1, block.col + block.cols - 1)
    assert (box.x, box.y) == pytest.approx((first.x, first.y), abs=NEAR)
    assert (box.right, box.bottom) == pytest.approx((last.right, last.bottom), abs=NEAR)


@settings(max_examples=200, deadline=None)
@given(
    cells=st.integers(1, 5000),
    stride_px=st.integers(1, 128),
    scale=st.sampled_from([0.5, 1, 2, 3, 4, 5, 7, 8, 9]),
    model_mpp=st.floats(0.2, 2),
)
def test_exact_multiples_need_no_extra_cell_but_one_more_pixel_does(
    cells: int, stride_px: int, scale: float, model_mpp: float
) -> None:
    """A slide of a whole number of cells, whose resolution is a rounded quotient."""
    side = cells * stride_px * scale
    assume(side == int(side) and stride_px * scale >= 1)
    mpp = model_mpp / scale  # rounds: model_mpp / mpp may miss `scale` by the last bit
    exact = make_grid(
        width=int(side), height=int(side), mpp=mpp, model_mpp=model_mpp, stride_px=stride_px
    )
    assert exact.shape == (cells, cells)
    more = make_grid(
        width=int(side) + 1, height=int(side), mpp=mpp, model_mpp=model_mpp, stride_px=stride_px
    )
    assert more.shape == (cells, cells + 1)


def test_recorded_decimal_resolutions_round_right() -> None:
    assert make_grid(width=31104, height=3110, mpp=0.1, stride_px=32).shape == (10, 100)
    assert make_grid(width=31105, height=3111, mpp=0.1, stride_px=32).shape == (11, 101)


def test_a_slide_smaller_than_a_cell_has_one() -> None:
    assert make_grid(width=1, height=1, mpp=0.1, stride_px=128).shape == (1, 1)


def test_cell_in_micrometres() -> None:
    grid = make_grid(mpp=0.243)
    assert grid.cell_um == pytest.approx(32 * 0.972)
    assert grid.cell_l0 * grid.slide_mpp.value == pytest.approx(grid.cell_um)


def test_a_slide_more_than_twice_as_coarse_is_refused() -> None:
    assert make_grid(mpp=2 * MODEL_MPP).scale == 0.5
    with pytest.raises(ResolutionError, match=r"1\.95 µm/px \(test\).*0\.972 µm/px.*pass"):
        make_grid(mpp=1.95)


@pytest.mark.parametrize("model_mpp", [0.0, -0.972, math.nan, math.inf])
def test_the_models_resolution_must_be_positive(model_mpp: float) -> None:
    with pytest.raises(ResolutionError, match=r"must be a positive number .* \(model\)"):
        make_grid(model_mpp=model_mpp)


def test_the_slides_resolution_must_be_positive() -> None:
    with pytest.raises(ResolutionError, match="must be a positive number"):
        make_grid(mpp=0.0)


def test_a_label_larger_than_the_tile_is_refused() -> None:
    assert make_grid(input_px=32, label_px=32).input_px == 32
    with pytest.raises(ValueError, match="label_px 33 exceeds input_px 32"):
        make_grid(input_px=32, label_px=33)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="input_px must be at least 1, not 0"):
        make_grid(input_px=0)
    with pytest.raises(ValueError, match="label_px must be at least 1, not -1"):
        make_grid(label_px=-1)
    with pytest.raises(ValueError, match="stride_px must be at least 1, not 0"):
        make_grid(stride_px=0)
    with pytest.raises(ValueError, match="block_cells must be at least 1, not 0"):
        make_grid(block_cells=0)
