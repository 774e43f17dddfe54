"""Every cell exactly where it belongs, from the slide's pixels to the overlay PNG."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import colour_model
from numpy.typing import NDArray
from PIL import Image

from histoslide.geometry import CellRange, Mpp
from histoslide.grid.status import Status
from histoslide.render import cell_index, draw_overlay
from histoslide.render.png import save_png
from histoslide.scoring.block import score_block
from histoslide.scoring.lazy import make_grid, make_heatmap
from histoslide.slide import OpenSlideSlide, open_slide
from histoslide.store import Heatmap, open_heatmap, store_heatmap
from histoslide.synthetic import decode_fiducial, fiducial_slide, write_slide
from histoslide.tissue.masks import METHODS, find_tissue


def score_positions(
    path: Path, folder: Path, *, stride_px: int, block_cells: int
) -> tuple[Heatmap, Heatmap]:
    """Two heatmaps of a fiducial slide: its x ramp (red) and its y ramp (green)."""
    slide = open_slide(path)
    stores = []
    for channel in (0, 1):
        lazy = make_heatmap(
            slide,
            colour_model(channel),
            tissue=find_tissue(slide, METHODS["none"]),
            tissue_threshold=0.0,
            stride_px=stride_px,
            block_cells=block_cells,
        )
        stores.append(store_heatmap(lazy, folder / f"{channel}.zarr"))
    return stores[0], stores[1]


def expected_centres(heat: Heatmap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The slow and obvious twin: where each cell's centre is, by plain arithmetic."""
    mpp, slide_mpp = heat.spec.mpp, heat.record.slide.mpp
    stride = heat.grid.stride_px
    x, y = np.zeros(heat.grid.shape), np.zeros(heat.grid.shape)
    for row in range(heat.grid.rows):
        for col in range(heat.grid.cols):
            x[row, col] = (col * stride + stride / 2) * mpp / slide_mpp
            y[row, col] = (row * stride + stride / 2) * mpp / slide_mpp
    return x, y


@pytest.mark.parametrize(
    ("mpp", "downsamples", "width", "height", "stride"),
    [
        (0.972, (), 700, 523, 32),
        (0.5, (1.95,), 1203, 901, 32),
        (0.5, (1.95, 3.9), 1310, 1007, 48),
        (0.25, (3.9,), 1989, 1521, 32),
        (0.25, (2.0, 4.0), 1600, 1777, 33),
        (1.1, (), 611, 402, 16),
    ],
)
def test_every_cell_reads_its_own_position(
    tmp_path: Path, mpp: float, downsamples: tuple[float, ...], width: int, height: int, stride: int
) -> None:
    path = tmp_path / "fiducial.tif"
    fiducial_slide(path, width=width, height=height, mpp=mpp, downsamples=downsamples)
    heat_x, heat_y = score_positions(path, tmp_path, stride_px=stride, block_cells=8)
    x, y = expected_centres(heat_x)
    rgb = np.stack([heat_x.probability(), heat_y.probability(), np.full(x.shape, 0.5)], -1) * 255
    found_x, found_y = decode_fiducial(rgb.astype(np.float64), width=width, height=height)
    # Half a footprint and the filter's reach: nearer to the edge, white margin is mixed in.
    half = (16 + 2) * 0.972 / mpp
    inner = (x > half) & (x < width - half) & (y > half) & (y < height - half)
    assert inner.sum() > 20
    # Half a grey level of rounding is width / 430 px; a misplaced cell would be a whole cell off.
    assert np.abs(found_x - x)[inner].max() < 1 + width / 430
    assert np.abs(found_y - y)[inner].max() < 1 + height / 430
    assert np.abs((found_x - x)[inner].mean()) < 1
    assert np.abs((found_y - y)[inner].mean()) < 1


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    width=st.integers(330, 700),
    height=st.integers(330, 700),
    mpp=st.sampled_from([0.31, 0.5, 0.7, 0.972, 1.3]),
    downsample=st.sampled_from([1.95, 2.0, 3.9]),
    stride=st.integers(17, 96),
    block=st.integers(1, 9),
)
def test_blocks_equal_single_cells(
    tmp_path: Path,
    width: int,
    height: int,
    mpp: float,
    downsample: float,
    stride: int,
    block: int,
) -> None:
    """Reading a block once and cutting it gives what reading each tile alone gives."""
    path = tmp_path / "fiducial.tif"
    fiducial_slide(
        path, width=width, height=height, mpp=mpp, downsamples=(downsample,), overwrite=True
    )
    model = colour_model()
    with open_slide(path) as slide:
        grid = make_grid(slide, model.spec, stride_px=stride, block_cells=block)
        everything = CellRange(0, 0, grid.rows, grid.cols)
        plan = np.zeros(grid.shape, dtype=np.uint8)
        whole = score_block(slide, grid, everything, plan, model)
        rng = np.random.default_rng(width * height)
        for row, col in zip(
            rng.integers(0, grid.rows, 6), rng.integers(0, grid.cols, 6), strict=True
        ):
            one = score_block(slide, grid, CellRange(int(row), int(col), 1, 1), plan[:1, :1], model)
            # One grey level: the resampling filter rounds once, at another sub-pixel phase.
            assert one["probability"][0, 0, 1] == pytest.approx(
                whole["probability"][row, col, 1], abs=1 / 255
            )


def marked_slide(path: Path, *, mpp: float, box: tuple[int, int, int, int]) -> Path:
    """A dark slide with one bright red rectangle (x, y, width, height in level-0 pixels)."""
    pixels = np.full((896, 1280, 3), 90, dtype=np.uint8)
    x, y, width, height = box
    pixels[y : y + height, x : x + width] = (250, 90, 90)
    return write_slide(path, pixels, mpp=mpp, downsamples=(1.95, 3.9), compression="deflate")


@pytest.mark.parametrize("bounds", [None, (100, 60, 1000, 700)])
def test_a_mark_lies_at_the_same_place_in_the_overlay_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: tuple[int, int, int, int] | None
) -> None:
    """From level-0 pixels through heat.zarr into the pixels of the picture, to one cell."""
    mpp, box = 0.486, (640, 320, 256, 128)  # cells of 64 level-0 pixels: the mark is 4 by 2 cells
    path = marked_slide(tmp_path / "marked.tif", mpp=mpp, box=box)
    if bounds is not None:
        with openslide.OpenSlide(path) as handle:
            recorded = dict(handle.properties)
        names = ("x", "y", "width", "height")
        recorded |= {f"openslide.bounds-{n}": str(v) for n, v in zip(names, bounds, strict=True)}
        monkeypatch.setattr(openslide.OpenSlide, "properties", recorded)
    slide = OpenSlideSlide(path)
    lazy = make_heatmap(
        slide, colour_model(), tissue=find_tissue(slide, METHODS["none"]), tissue_threshold=0.0
    )
    heat = store_heatmap(lazy, tmp_path / "heat.zarr")
    assert heat.record.slide.bounds_l0 == bounds
    expected = np.zeros(heat.grid.shape, dtype=bool)
    expected[5:7, 10:14] = True
    assert np.array_equal(heat.probability() > 0.9, expected)

    overlay = draw_overlay(heat, slide, longest_px=650, threshold=0.9)
    save_png(overlay.image, tmp_path / "heat.png")
    png = np.asarray(Image.open(tmp_path / "heat.png").convert("RGB"))
    size = overlay.slide_size
    picture = png[
        overlay.top : overlay.top + size.height, overlay.left : overlay.left + size.width
    ].astype(int)
    # The mark turns yellow (viridis at the top): green well above blue, unlike anything around.
    yellow = picture[..., 1] - picture[..., 2] > 60
    rows, cols = np.nonzero(yellow)
    scale = slide.size_l0.width / size.width
    outline = 2 * scale  # the outline's black pixels lie on the mark's edge
    assert cols.min() * scale == pytest.approx(640, abs=outline)
    assert (cols.max() + 1) * scale == pytest.approx(640 + 256, abs=outline)
    assert rows.min() * scale == pytest.approx(320, abs=outline)
    assert (rows.max() + 1) * scale == pytest.approx(320 + 128, abs=outline)


def test_pixels_of_a_picture_find_their_cell(tmp_path: Path) -> None:
    slide = open_slide(fiducial_slide(tmp_path / "f.tif", width=701, height=433, mpp=0.6))
    grid = make_grid(slide, colour_model().spec)
    for longest in (50, 333, 701):
        from histoslide.slide.resampling import fit_size

        size = fit_size(slide, longest)
        rows, cols = cell_index(grid, size)
        for x in range(size.width):
            centre = (x + 0.5) * slide.size_l0.width / size.width
            assert grid.cell_at_l0(centre, 0)[1] == cols[x]
        for y in range(size.height):
            centre = (y + 0.5) * slide.size_l0.height / size.height
            assert grid.cell_at_l0(0, centre)[0] == rows[y]


def test_mpp_override_moves_the_cells(tmp_path: Path) -> None:
    path = fiducial_slide(tmp_path / "f.tif", width=640, height=640, mpp=0.972)
    slide = open_slide(path, mpp=Mpp(value=0.486, source="--mpp"))
    grid = make_grid(slide, colour_model().spec)
    assert grid.cell_l0 == pytest.approx(64)
    heat = store_heatmap(make_heatmap(slide, colour_model()), tmp_path / "h.zarr")
    assert open_heatmap(heat.path).record.slide.mpp_source == "--mpp"
    assert replace(grid, stride_px=16).rows == 20
    assert set(np.unique(heat.status)) <= {Status.SCORED, Status.BACKGROUND}
