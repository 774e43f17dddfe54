"""Pictures: what is drawn where, and what is left alone."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import zarr
from heatmaps import stored_heatmap
from hypothesis import given
from hypothesis import strategies as st
from models import colour_model
from numpy.typing import NDArray
from PIL import Image

from histoslide import look
from histoslide.errors import OutputExistsError, StoreError
from histoslide.geometry import Mpp, Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.lesions import LESION_COLOURS, find_lesions
from histoslide.render import (
    blend,
    cells_to_pixels,
    contact_sheet,
    draw_mask,
    draw_overlay,
    scale_bar_um,
)
from histoslide.render.canvas import Canvas
from histoslide.render.png import read_png_label, save_png
from histoslide.scoring.lazy import make_grid, make_heatmap
from histoslide.slide import OpenSlideSlide, open_slide
from histoslide.store import Heatmap, open_heatmap, store_heatmap
from histoslide.synthetic import fiducial_slide
from histoslide.tissue.masks import TissueMask


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> OpenSlideSlide:
    path = tmp_path_factory.mktemp("slides") / "fiducial.tif"
    return OpenSlideSlide(fiducial_slide(path, width=960, height=640, mpp=0.972))


@pytest.fixture
def heat(tmp_path: Path, slide: OpenSlideSlide) -> Heatmap:
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, 10:] = True
    tissue = TissueMask(mask=mask, method="file")
    lazy = make_heatmap(slide, colour_model(), tissue=tissue)
    return store_heatmap(lazy, tmp_path / "heat.zarr")


def test_the_picture_is_put_down_pixel_by_pixel() -> None:
    rng = np.random.default_rng(2)
    for size in (Size(431, 97), Size(60, 200), Size(1, 3)):
        picture = rng.integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
        canvas = Canvas(size, "a title")
        canvas.show(picture, Size(4000, 3000))
        drawn = canvas.finish()
        rows = np.s_[drawn.top : drawn.top + size.height]
        cols = np.s_[drawn.left : drawn.left + size.width]
        np.testing.assert_array_equal(drawn.image[rows, cols], picture)
        assert drawn.slide_size == size


def test_colours_are_those_of_the_map_and_clear_below_the_threshold() -> None:
    sizes = {"input_px": 32, "label_px": 32, "stride_px": 32}
    grid = TileGrid(
        size_l0=Size(101 * 32, 32), slide_mpp=Mpp(value=1.0, source="test"), model_mpp=1.0, **sizes
    )
    thumbnail = np.random.default_rng(3).integers(0, 256, (1, 101, 3), dtype=np.uint8)
    probability = np.linspace(0, 1, 101, dtype=np.float32)[None]
    colour = mpl.colormaps["viridis"](probability)[..., :3] * 255
    opacity = np.where(probability >= np.float32(0.3), look.OPACITY, 0)[..., None]
    exact = thumbnail * (1 - opacity) + colour * opacity
    assert np.abs(blend(thumbnail, grid, probability, 0.3) - exact).max() <= 1


def test_background_is_untouched(slide: OpenSlideSlide, heat: Heatmap) -> None:
    rng = np.random.default_rng(1)
    thumbnail = rng.integers(0, 256, (320, 480, 3), dtype=np.uint8)
    picture = blend(thumbnail, heat.grid, heat.probability(), 0)
    np.testing.assert_array_equal(picture[:, :160], thumbnail[:, :160])
    assert (picture[:, 160:] != thumbnail[:, 160:]).any(axis=2).mean() > 0.95


def test_colour_is_absolute(heat: Heatmap) -> None:
    """The same probability has the same colour whatever else is in the heatmap."""
    grey = np.full((64, 96, 3), 200, dtype=np.uint8)
    low = np.full(heat.grid.shape, 0.2, dtype=np.float32)
    high = low.copy()
    high[0, 0] = 1.0
    one, other = blend(grey, heat.grid, low, 0), blend(grey, heat.grid, high, 0)
    np.testing.assert_array_equal(one[10:, 10:], other[10:, 10:])
    assert (one[0, 0] != other[0, 0]).any()


def test_unreadable_cells_are_hatched_and_said(slide: OpenSlideSlide, heat: Heatmap) -> None:
    plain = draw_overlay(heat, slide, longest_px=480)
    group = zarr.open_group(heat.path, mode="r+")
    status = np.asarray(group["labels/status/0"][:])  # type: ignore[index]
    status[4:8, 20:26] = Status.UNREADABLE
    group["labels/status/0"][:] = status  # type: ignore[index]
    record: Any = group.attrs["histoslide"]  # else it passes for a heatmap that lost a block
    record["counts"] |= {"scored": int((status == Status.SCORED).sum()), "unreadable": 24}
    group.attrs["histoslide"] = record
    hatched = draw_overlay(open_heatmap(heat.path), slide, longest_px=480)
    assert hatched.image.shape == plain.image.shape
    changed = (hatched.image != plain.image).any(axis=2)
    box = changed[plain.top + 64 : plain.top + 128, plain.left + 320 : plain.left + 416]
    assert box.mean() > 0.9
    red = (hatched.image[..., 0] > 150) & (hatched.image[..., 1] < 100)
    assert red[plain.top + 64 : plain.top + 128, plain.left + 320 : plain.left + 416].any()


def test_warnings_stand_under_the_slide(slide: OpenSlideSlide, heat: Heatmap) -> None:
    plain = draw_overlay(heat, slide, longest_px=480)
    mask = replace(heat.record.mask, warnings=("this does not look like H&E",))
    doubted = replace(heat, record=replace(heat.record, mask=mask))
    warned = draw_overlay(doubted, slide, longest_px=480)
    below = plain.top + plain.slide_size.height
    # Lines fall between pixels otherwise in a taller figure.
    np.testing.assert_allclose(warned.image[:below].astype(int), plain.image[:below], atol=4)

    def red(image: NDArray[np.uint8]) -> int:
        foot = image[below:].astype(int)
        return int((foot[..., 0] - foot[..., 1] > 60).sum())

    assert red(plain.image) == 0
    assert red(warned.image) > 100
    assert (plain.image[below:] < 160).any(), "resolution and notice"


def test_another_slide_is_refused(tmp_path: Path, heat: Heatmap) -> None:
    other = open_slide(fiducial_slide(tmp_path / "other.tif", width=961, height=640, mpp=0.972))
    with pytest.raises(StoreError, match=r"other\.tif is not the slide"):
        draw_overlay(heat, other)


def test_without_the_slide(heat: Heatmap) -> None:
    overlay = draw_overlay(heat, None, longest_px=300)
    assert overlay.slide_size.width == 300


def test_narrow_slides_have_room_for_their_title(tmp_path: Path) -> None:
    path = fiducial_slide(tmp_path / "narrow.tif", width=200, height=1500, mpp=0.972)
    slide = open_slide(path)
    lazy = make_heatmap(slide, colour_model())
    overlay = draw_overlay(store_heatmap(lazy, tmp_path / "h.zarr"), slide, longest_px=1500)
    assert overlay.image.shape[1] > overlay.slide_size.width + 200


def test_mask_picture_greys_what_is_not_tissue(slide: OpenSlideSlide) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, 15:] = True
    grid = make_grid(slide, colour_model().spec)
    plan = np.where(np.arange(30) < 15, Status.BACKGROUND, Status.PENDING)
    plan = np.broadcast_to(plan, grid.shape).astype(np.uint8)
    tissue = TissueMask(mask=mask, method="otsu")
    picture = draw_mask(slide, tissue, grid, plan, longest_px=480)
    part = picture.image[picture.top :, picture.left :].astype(int)
    spread = np.ptp(part, axis=2)
    assert np.median(spread[20:300, 20:220]) < np.median(spread[20:300, 260:460]) / 2


def test_contact_sheet_shows_tiles_with_their_box() -> None:
    tiles = [np.full((96, 96, 3), value, dtype=np.uint8) for value in (10, 60, 110)]
    sheet = contact_sheet(tiles, label_px=32, columns=2)
    assert sheet.shape == (2 * 100 + 4, 2 * 100 + 4, 3)
    np.testing.assert_array_equal(sheet[4 + 32 : 4 + 64, 4 + 32 : 4 + 64], 10)  # footprint is clean
    assert tuple(sheet[4 + 31, 4 + 48]) == look.FOOTPRINT
    assert tuple(sheet[4 + 30, 4 + 48]) == look.RIM
    assert tuple(sheet[104 + 50, 4 + 4]) == (110, 110, 110)
    told = contact_sheet(tiles, label_px=32, columns=2, title="a.svs\n3 of 9 tiles", mpp=0.5)
    head = 2 * 18 + 4
    np.testing.assert_array_equal(told[head : head + len(sheet)], sheet)
    assert (told[:head] < 100).any(), "a title"
    bar = (told[head + len(sheet) :] == 0).all(axis=2)
    assert bar[:, :50].sum(axis=1).max() == 41, "20 µm, ends included"
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], label_px=32)


def test_a_picture_of_any_size_is_known_by_its_label(tmp_path: Path) -> None:
    """Of very many pixels, without one of them: what lies there is told apart by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        size, check = len(data).to_bytes(4, "big"), zlib.crc32(kind + data).to_bytes(4, "big")
        return size + kind + data + check

    side = (60_000).to_bytes(4, "big")
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", side + side + b"\x08\x02\0\0\0")
    pixels = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    foreign, ours, jpeg, cut = (tmp_path / name for name in ("f.png", "o.png", "j.png", "c.png"))
    foreign.write_bytes(header + pixels)
    ours.write_bytes(header + chunk(b"tEXt", b"histoslide\0heat") + pixels)
    Image.new("RGB", (4, 4)).save(jpeg, "JPEG")
    cut.write_bytes(header[:20])
    assert [read_png_label(it) for it in (foreign, ours, jpeg, cut)] == [None, "heat", None, None]


def test_pictures_are_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(np.zeros((4, 4, 3), dtype=np.uint8), path)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"a\.png exists: pass --overwrite"):
        save_png(np.ones((4, 4, 3), dtype=np.uint8), path)
    assert path.read_bytes() == before
    save_png(np.ones((4, 4, 3), dtype=np.uint8), path, overwrite=True)
    assert path.read_bytes() != before
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        save_png(np.zeros((4, 4, 3), dtype=np.uint8), tmp_path / "file" / "b.png")


@given(st.floats(1, 1e6))
def test_scale_bar_is_round_and_about_a_fifth(width_um: float) -> None:
    length = scale_bar_um(width_um)
    assert width_um / 5 / 2.5 <= length * (1 + 1e-9)
    assert length <= width_um / 5
    digits = f"{length:e}"[0]
    assert digits in "125"


def test_class_of_a_heatmap_must_exist(slide: OpenSlideSlide, heat: Heatmap) -> None:
    with pytest.raises(StoreError, match="choose from normal, tumour"):
        draw_overlay(heat, slide, class_name="stroma")
    assert replace(heat, path=heat.path) == heat


@pytest.mark.parametrize("size_l0", [(97_792, 221_184), (100_003, 50_001)])
def test_no_cell_vanishes_from_the_picture_of_a_large_slide(size_l0: tuple[int, int]) -> None:
    """Each pixel shows the highest of the cells in it; one hot cell stays hot."""
    grid = TileGrid(
        size_l0=Size(*size_l0),
        slide_mpp=Mpp(value=0.243, source="test"),
        model_mpp=0.972,
        input_px=96,
        label_px=32,
        stride_px=16,
    )
    size = Size(round(size_l0[0] / 200), round(size_l0[1] / 200))
    rng = np.random.default_rng(0)
    for row, col in zip(
        rng.integers(0, grid.rows, 30), rng.integers(0, grid.cols, 30), strict=True
    ):
        values = np.full(grid.shape, np.nan, dtype=np.float32)
        values[row, col] = 0.9
        pixels = cells_to_pixels(values, grid, size)
        assert pixels.shape == (size.height, size.width)
        (found,) = np.argwhere(np.isfinite(pixels))
        centre = np.array([row + 0.5, col + 0.5]) * grid.cell_l0
        scale = np.array([size_l0[1] / size.height, size_l0[0] / size.width])
        assert (np.abs(found + 0.5 - centre / scale) <= 1).all()


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path) -> None:
    path = fiducial_slide(tmp_path / "S$1_$2.tif", width=300, height=300, mpp=0.972)
    slide = OpenSlideSlide(path)
    heat = store_heatmap(make_heatmap(slide, colour_model()), tmp_path / "h.zarr")
    assert draw_overlay(heat, slide).image.size


def test_lesions_are_outlined_and_numbered_where_they_are(tmp_path: Path) -> None:
    p = np.full((20, 30), 0.1)
    p[3:6, 4:11] = 0.95  # a micrometastasis
    p[12:14, 20:22] = 0.95  # isolated tumour cells
    heat = stored_heatmap(tmp_path / "h.zarr", p, mpp=1.0)
    report = find_lesions(heat)
    drawn = draw_overlay(heat, None, longest_px=960, lesions=report)
    slide = drawn.image[drawn.top :, drawn.left :].astype(int)
    for lesion in report.lesions:
        box = lesion.box_l0
        colour = np.array(LESION_COLOURS[lesion.kind])
        near = np.abs(slide - colour).max(axis=2) < 40
        on_left = near[int(box.y) + 8 : int(box.bottom) - 8, int(box.x) - 2 : int(box.x) + 3]
        assert on_left.any(axis=1).all()
    assert len({it.kind for it in report.lesions}) == 2


def test_unreadable_cells_leave_the_legend_of_lesions(tmp_path: Path) -> None:
    p = np.full((20, 30), 0.1)
    p[3:6, 4:11] = 0.95
    status = np.full(p.shape, Status.SCORED, dtype=np.uint8)
    status[18, 2:8] = Status.UNREADABLE
    whole = stored_heatmap(tmp_path / "whole.zarr", p, mpp=1.0)
    p[status == Status.UNREADABLE] = np.nan
    holed = stored_heatmap(tmp_path / "holed.zarr", p, mpp=1.0, status=status)
    expected, drawn = (
        draw_overlay(heat, None, longest_px=960, lesions=find_lesions(heat))
        for heat in (whole, holed)
    )
    legend = np.s_[drawn.top : drawn.top + 80, drawn.left + 640 : drawn.left + 960]
    np.testing.assert_array_equal(drawn.image[legend], expected.image[legend])
    said = np.s_[drawn.top + 560 : drawn.top + 640, drawn.left + 640 : drawn.left + 960]
    assert (drawn.image[said] != expected.image[said]).any()  # that cells could not be read
