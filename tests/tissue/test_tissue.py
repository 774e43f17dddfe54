"""Where tissue is found, what is thrown out, and how much of each cell it covers."""

import logging
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSlide
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histoslide.errors import ResolutionUnknownError
from histoslide.geometry import Box, Mpp, Size
from histoslide.grid.cells import TileGrid
from histoslide.slide import open_slide
from histoslide.slide.ycbcr import rgb_of_ycbcr
from histoslide.tissue.masks import MASK_UM, METHODS, TissueMask, find_tissue, mask_size

PINK = (205, 130, 185)
GLASS = (243, 243, 243)
STAIN_METHODS = ("otsu", "hed", "entropy")


def glass(width: int = 200, height: int = 160) -> NDArray[np.uint8]:
    """An empty slide with the noise of a camera."""
    rng = np.random.default_rng(0)
    pixels = np.array(GLASS) + rng.normal(0, 1.5, (height, width, 1))
    return np.rint(pixels).astype(np.uint8)


def paint(
    rgb: NDArray[np.uint8],
    rows: slice,
    cols: slice,
    colour: tuple[int, int, int],
    texture: float = 18,
) -> None:
    rng = np.random.default_rng(1)
    shape = rgb[rows, cols].shape[:2]
    mottled = np.array(colour) + rng.normal(0, texture, (*shape, 1))
    rgb[rows, cols] = mottled.clip(0, 255).astype(np.uint8)


OVERVIEW = Mpp(value=MASK_UM, source="test")
"""Of fakes with one level that is its own overview."""

TISSUE = np.s_[40:120, 50:130]


def stained() -> NDArray[np.uint8]:
    rgb = glass()
    paint(rgb, *TISSUE, PINK)
    return rgb


def find(rgb: NDArray[np.uint8], method: str = "otsu") -> TissueMask:
    return find_tissue(FakeSlide([rgb], mpp=OVERVIEW), METHODS[method])


# ---------------------------------------------------------------------------------- fractions


def make_grid(size: Size, mpp: float, stride_px: int, label_px: int) -> TileGrid:
    return TileGrid(
        size_l0=size,
        slide_mpp=Mpp(value=mpp, source="test"),
        model_mpp=1.0,
        input_px=128,
        label_px=label_px,
        stride_px=stride_px,
    )


def slow_fraction(mask: NDArray[np.bool_], grid: TileGrid, box: Box) -> float:
    """Mean over the box, cut to the slide, of the mask at 200 × 200 points."""
    left, right = max(box.x, 0.0), min(box.right, grid.size_l0.width)
    top, bottom = max(box.y, 0.0), min(box.bottom, grid.size_l0.height)
    if left >= right or top >= bottom:
        return 0.0
    steps = (np.arange(200) + 0.5) / 200
    x = (left + steps * (right - left)) * mask.shape[1] / grid.size_l0.width
    y = (top + steps * (bottom - top)) * mask.shape[0] / grid.size_l0.height
    return float(mask[np.ix_(y.astype(int), x.astype(int))].mean())


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(20, 900),
    height=st.integers(20, 900),
    mpp=st.floats(0.25, 1.5),
    stride_px=st.integers(16, 128),
    label_px=st.integers(1, 128),
    mask_shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.data(),
)
def test_fractions_equal_a_slow_count(
    width: int,
    height: int,
    mpp: float,
    stride_px: int,
    label_px: int,
    mask_shape: tuple[int, int],
    data: st.DataObject,
) -> None:
    grid = make_grid(Size(width, height), mpp, stride_px, label_px)
    mask = np.random.default_rng(5).random(mask_shape) < 0.5
    fractions = TissueMask(mask=mask, method="test").fractions(grid, side_px=label_px)
    assert fractions.shape == grid.shape
    assert (fractions >= 0).all()
    assert (fractions <= 1).all()
    row, col = (data.draw(st.integers(0, count - 1)) for count in grid.shape)
    for at in {(row, col), (grid.rows - 1, grid.cols - 1), (0, 0)}:
        box = grid.label_box_l0(*at)
        on_slide = min(box.right, width) - max(box.x, 0), min(box.bottom, height) - max(box.y, 0)
        if min(on_slide) > 1e-3 or max(on_slide) < 0:
            # 200 samples a side miss at most one for each of the up to 41 borders within.
            borders = 1 + max(mask_shape) * box.width / min(width, height)
            wanted = slow_fraction(mask, grid, box)
            assert fractions[at] == pytest.approx(wanted, abs=min(0.2, 0.01 * borders))


def test_cells_at_the_edge_are_judged_by_what_lies_on_the_slide() -> None:
    grid = make_grid(Size(150, 130), 1.0, 32, 32)  # 4.69 by 4.06 cells
    assert grid.shape == (5, 5)
    full = TissueMask(mask=np.ones((13, 15), dtype=bool), method="test")
    np.testing.assert_allclose(full.fractions(grid, side_px=32), 1, atol=1e-9)
    np.testing.assert_allclose(full.fractions(grid, side_px=96), 1, atol=1e-9)
    beyond = full.fractions(grid, side_px=2)  # centres of the last row lie below the slide
    np.testing.assert_allclose(beyond[:4], 1, atol=1e-9)
    assert (beyond[4] == 0).all()


def test_half_a_cell_counts_half() -> None:
    grid = make_grid(Size(128, 64), 1.0, 64, 64)
    mask = np.zeros((64, 128), dtype=bool)
    mask[:, 96:] = True
    fractions = TissueMask(mask=mask, method="test").fractions(grid, side_px=64)
    np.testing.assert_allclose(fractions, [[0, 0.5]])
    assert TissueMask(mask=mask, method="test").tissue_share == 0.25


# ---------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", STAIN_METHODS)
def test_stained_tissue_is_found_and_glass_is_dropped(method: str) -> None:
    found = find(stained(), method)
    assert found.method == method
    assert found.warnings == ()
    assert found.mask[46:114, 56:124].all()
    far = np.ones_like(found.mask)
    far[33:127, 43:137] = False
    assert not found.mask[far].any()


def test_none_takes_everything() -> None:
    found = find(stained(), "none")
    assert found.mask.all()
    assert found.tissue_share == 1


@pytest.mark.parametrize("method", ["otsu", "hed"])
@pytest.mark.parametrize(
    "colour", [(30, 160, 60), (30, 110, 200), (20, 20, 24)], ids=["green", "blue", "black"]
)
def test_pen_and_black_dirt_are_no_tissue(method: str, colour: tuple[int, int, int]) -> None:
    rgb = stained()
    blot = np.s_[10:40, 150:190]
    paint(rgb, *blot, colour, texture=2)
    found = find(rgb, method)
    assert found.mask[46:114, 56:124].all()
    assert not found.mask[14:36, 154:186].any()
    border = found.mask[5:45, 145:195].sum()  # smeared rim of the blot
    assert border <= 0.25 * 30 * 40


@pytest.mark.parametrize("method", ["otsu", "hed"])
def test_specks_are_removed_and_pinholes_closed(method: str) -> None:
    rgb = stained()
    paint(rgb, np.s_[20:24], np.s_[160:164], PINK, texture=0)  # 32 µm square
    rgb[80, 90] = GLASS
    found = find(rgb, method)
    assert not found.mask[10:34, 150:174].any()
    assert found.mask[80, 90]


@pytest.mark.parametrize(("method", "pale"), [("otsu", (230, 190, 220)), ("hed", (216, 166, 206))])
def test_pale_tissue_is_kept_beside_dark_tissue(method: str, pale: tuple[int, int, int]) -> None:
    rgb = glass(300, 160)
    paint(rgb, np.s_[30:130], np.s_[20:120], (110, 40, 130), texture=8)
    paint(rgb, np.s_[30:130], np.s_[170:270], pale, texture=3)
    found = find(rgb, method)
    assert found.mask[36:124, 26:114].mean() > 0.99
    assert found.mask[36:124, 176:264].mean() > 0.95


@pytest.mark.parametrize("method", STAIN_METHODS)
def test_an_empty_slide_has_no_tissue(method: str) -> None:
    assert find(glass(), method).tissue_share < 0.001
    flat = np.full((90, 120, 3), 240, dtype=np.uint8)
    assert find(flat, method).tissue_share == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_slides_do_not_fail(method: str, shape: tuple[int, int]) -> None:
    assert find(np.full((*shape, 3), 240, dtype=np.uint8), method).mask.shape == shape


# ---------------------------------------------------------------------------------- warnings


def test_dark_slides_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    rgb = np.full((160, 200, 3), 4, dtype=np.uint8)
    rgb[60:100, 60:100] = (10, 30, 220)
    with caplog.at_level(logging.WARNING):
        found = find(rgb)
    assert len(found.warnings) == 1
    assert "does not look like H&E" in found.warnings[0]
    assert "dark, as in fluorescence" in found.warnings[0]
    assert caplog.messages == [f"fake: {found.warnings[0]}"]


def test_dark_slides_are_warned_about_without_a_mask_too() -> None:
    assert (
        "dark, as in fluorescence" in find(np.full((160, 200, 3), 4, np.uint8), "none").warnings[0]
    )
    assert find(glass(), "none").warnings == (), "glass says nothing of the stain"


def test_other_stains_are_warned_about() -> None:
    rgb = glass()
    paint(rgb, *TISSUE, (190, 150, 90), texture=6)  # brown, as DAB
    found = find(rgb)
    assert found.tissue_share > 0.1
    assert "pink to violet" in found.warnings[0]


def test_what_cannot_be_read_counts_as_tissue(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        slide = FakeSlide([stained()], mpp=OVERVIEW, rotten=Box(0, 0, 1e6, 1e6))
        found = find_tissue(slide, METHODS["otsu"])
    assert found.mask.all()
    assert any("fake: rotten" in message for message in caplog.messages)


# ---------------------------------------------------------------------------------- sizes


def test_the_mask_is_made_at_eight_micrometres() -> None:
    slide = FakeSlide([np.full((900, 1600, 3), 240, np.uint8)], mpp=Mpp(value=0.5, source="test"))
    assert mask_size(slide) == Size(100, 56)
    assert find_tissue(slide, METHODS["otsu"]).settings == {"um_per_px": 8.0}
    coarse = FakeSlide([np.zeros((9, 16, 3), np.uint8)], mpp=Mpp(value=20, source="test"))
    assert mask_size(coarse) == Size(16, 9), "never enlarged"


def test_a_mask_needs_a_resolution() -> None:
    with pytest.raises(ResolutionUnknownError, match="fake records no resolution"):
        find_tissue(FakeSlide([glass()], mpp=None), METHODS["otsu"])


# ---------------------------------------------------------------------------------- real slides


def test_real_fluorescence_is_warned_about(real_data: Path) -> None:
    slide = open_slide(real_data / "slides" / "fluorescence-dapi.ndpi")
    warnings = find_tissue(slide, METHODS["otsu"]).warnings
    assert len(warnings) == 1
    assert "fluorescence" in warnings[0]


def test_real_tissue_is_found(real_data: Path) -> None:
    found = find_tissue(
        open_slide(real_data / "slides" / "CMU-1-Small-Region.svs"), METHODS["otsu"]
    )
    assert found.warnings == ()
    assert 0.25 < found.tissue_share < 0.5


@pytest.mark.parametrize("name", ["node-metastasis.tiff", "node-occult-metastasis.tiff"])
def test_real_lymph_nodes_are_found(real_data: Path, name: str) -> None:
    slide = open_slide(real_data / "slides" / name, mpp=Mpp(value=0.5, source="--mpp"))
    found = find_tissue(slide, METHODS["otsu"])
    assert found.warnings == ()
    assert 0.4 < found.tissue_share < 0.9


def test_a_grey_slide_is_not_silently_empty() -> None:
    """Textured but without colour: no H&E, and worth a warning."""
    rgb = glass()
    rgb[40:120, 50:130] = np.random.default_rng(0).integers(60, 160, (80, 80, 1))
    found = find_tissue(FakeSlide([rgb], mpp=OVERVIEW), METHODS["otsu"])
    assert not found.mask.any()
    assert "does not look like H&E" in found.warnings[0]


def test_luma_and_chroma_shown_as_colours_are_named() -> None:
    """Salmon glass is pink enough to pass for stain."""
    rgb = stained()
    weights = np.array(
        [[0.299, 0.587, 0.114], [-0.16874, -0.33126, 0.5], [0.5, -0.41869, -0.08131]]
    )
    shown = np.rint(rgb @ weights.T + (0, 128, 128)).clip(0, 255).astype(np.uint8)
    assert "looks like luma and chroma shown as colours" in find(shown).warnings[0]
    twice = rgb_of_ycbcr(rgb)
    assert "looks like colours converted once too often" in find(twice).warnings[0]
    assert find(rgb).warnings == ()
    grey = np.full_like(rgb, 128)
    assert not any("colours" in warning for warning in find(grey).warnings)
