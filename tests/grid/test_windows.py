"""Reading at the model's resolution: positions to a fraction of a pixel, seams, edges, levels."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSlide
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from histoslide.geometry import Box, CellRange, Mpp, Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_window
from histoslide.scoring.lazy import READER_VERSION
from histoslide.slide import open_slide
from histoslide.slide.resampling import (
    WHITE,
    _resample,
    _rows_come_first,
    best_level,
    fit_size,
    read_box,
    read_overview,
)
from histoslide.synthetic import decode_fiducial, fiducial_slide

WHITE_MARGIN = 200

ROUNDING = 2
"""Grey levels: Pillow rounds after each of its two passes, and orders them by the image's shape."""


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Away from black and white, where the overshoot of a bicubic filter would be cut."""
    rng = np.random.default_rng(seed)
    pixels: NDArray[np.uint8] = rng.integers(130, 220, (height, width, 3), np.uint8)
    return pixels


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    waves = [120 + 100 * np.sin(x / (9 + 4 * c)) * np.cos(y / (11 + 3 * c)) for c in range(3)]
    pixels: NDArray[np.uint8] = np.rint(np.stack(waves, axis=-1)).astype(np.uint8)
    return pixels


def ramp_slide() -> FakeSlide:
    """Red is the x and green the y of the pixel's centre less a half, exactly, at every level."""
    levels = []
    for downsample in (1, 3, 9):
        centres = (np.arange(243 // downsample) + 0.5) * downsample - 0.5
        red, green = np.meshgrid(centres, centres)
        levels.append(np.stack([red, green, np.full_like(red, 99)], axis=-1).astype(np.uint8))
    return FakeSlide(levels, level_downsamples=(1.0, 3.0, 9.0))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_bands_are_resampled_as_pillow_resamples_the_whole(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(100, 700)), data.draw(st.integers(100, 700))
    factor = data.draw(st.floats(0.8, 6))
    left, top, right, bottom = (data.draw(st.floats(0, 9)) for _ in range(4))
    box = (left, top, width - right, height - bottom)
    size = Size(
        max(1, round((box[2] - box[0]) / factor)), max(1, round((box[3] - box[1]) / factor))
    )
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    whole = Image.fromarray(pixels).resize(
        (size.width, size.height), Image.Resampling.BICUBIC, box=box
    )
    np.testing.assert_array_equal(_resample(pixels, size, box), np.asarray(whole))


def test_the_windows_of_square_blocks_are_resampled_in_bands() -> None:
    window = np.zeros((4368, 4368, 3), np.uint8)
    assert _rows_come_first(window, Size(1088, 1088), (8.4, 8.0, 4360.4, 4360.0))
    assert not _rows_come_first(window[:200], Size(1088, 46), (8.4, 8.0, 4360.4, 192.0))


# ---------------------------------------------------------------------------------- positions


@settings(max_examples=100, deadline=None)
@given(
    x=st.floats(45, 120),
    y=st.floats(45, 120),
    scale=st.floats(0.5, 8),
    width=st.integers(1, 30),
    height=st.integers(1, 30),
)
def test_a_linear_ramp_is_read_at_its_exact_position(
    x: float, y: float, scale: float, width: int, height: int
) -> None:
    slide = ramp_slide()
    width, height = (max(1, min(side, int((195 - max(x, y)) / scale))) for side in (width, height))
    box = Box(x, y, width * scale, height * scale)
    found = read_box(slide, box, Size(width, height)).astype(float)
    wanted_x = x + (np.arange(width) + 0.5) * scale - 0.5
    wanted_y = y + (np.arange(height) + 0.5) * scale - 0.5
    assert found.shape == (height, width, 3)
    # Averaging, filtering and the expected value itself each round by up to half a grey level.
    assert np.abs(found[..., 0] - wanted_x).max() <= 1.5
    assert np.abs(found[..., 1] - wanted_y[:, None]).max() <= 1.5
    assert np.abs(found[..., 2] - 99).max() <= 0
    assert slide.reads[0].level == best_level(slide, scale)


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-60, 160),
    y=st.floats(-60, 120),
    scale_x=st.floats(0.5, 6),
    scale_y=st.floats(0.5, 6),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    downsample=st.sampled_from([1.0, 2.0, 1.5]),
)
def test_a_window_is_a_crop_of_the_whole_level_resampled_at_once(
    x: float,
    y: float,
    scale_x: float,
    scale_y: float,
    width: int,
    height: int,
    downsample: float,
) -> None:
    """The twin lays the whole level on white, averages its squares, and lets Pillow see it all."""
    pixels = noise(150, 110)
    box = Box(x, y, width * scale_x * downsample, height * scale_y * downsample)
    coarse = FakeSlide([pixels], level_downsamples=(downsample,))
    found = read_box(coarse, box, Size(width, height)).astype(int)

    factor = max(f for f in (1, 2, 4) if f <= max(1, min(scale_x, scale_y) * (1 + 1e-6)))
    margin = 60 * 7  # a multiple of every factor
    canvas = np.full((120 + 2 * margin, 180 + 2 * margin, 3), WHITE, dtype=np.uint8)
    canvas[margin : margin + 110, margin : margin + 150] = pixels
    squares = canvas.reshape(len(canvas) // factor, factor, -1, factor, 3)
    canvas = np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)
    left, top = (x / downsample + margin) / factor, (y / downsample + margin) / factor
    right = left + width * scale_x / factor
    bottom = top + height * scale_y / factor
    whole = Image.fromarray(canvas).resize(
        (width, height), Image.Resampling.BICUBIC, box=(left, top, right, bottom)
    )
    assert np.abs(found - np.asarray(whole, dtype=int)).max() <= ROUNDING


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-30, 120),
    y=st.floats(-30, 120),
    scale=st.floats(0.5, 5),
    first=st.integers(1, 20),
    second=st.integers(1, 20),
)
def test_neighbouring_windows_join_without_a_seam(
    x: float, y: float, scale: float, first: int, second: int
) -> None:
    slide = FakeSlide([noise(160, 140, seed=3)])
    count = first + second
    whole = read_box(slide, Box(x, y, count * scale, count * scale), Size(count, count))
    left = read_box(slide, Box(x, y, first * scale, count * scale), Size(first, count))
    right = read_box(
        slide, Box(x + first * scale, y, second * scale, count * scale), Size(second, count)
    )
    upper = read_box(slide, Box(x, y, count * scale, first * scale), Size(count, first))
    lower = read_box(
        slide, Box(x, y + first * scale, count * scale, second * scale), Size(count, second)
    )
    for joined in (np.hstack([left, right]), np.vstack([upper, lower])):
        assert np.abs(joined.astype(int) - whole).max() <= ROUNDING


@settings(max_examples=30, deadline=None)
@given(
    stride_px=st.integers(1, 40),
    input_px=st.integers(1, 48),
    mpp=st.floats(0.25, 1.5),
    data=st.data(),
)
def test_tiles_cut_from_a_window_equal_tiles_read_alone(
    stride_px: int, input_px: int, mpp: float, data: st.DataObject
) -> None:
    slide = FakeSlide([smooth(400, 300)], mpp=Mpp(value=mpp, source="test"))
    grid = TileGrid(
        size_l0=slide.size_l0,
        slide_mpp=Mpp(value=mpp, source="test"),
        model_mpp=0.972,
        input_px=input_px,
        label_px=1,
        stride_px=stride_px,
    )
    row, col = (data.draw(st.integers(0, count - 1)) for count in grid.shape)
    cells = CellRange(row, col, min(3, grid.rows - row), min(2, grid.cols - col))
    window = read_window(slide, grid, cells)
    size = grid.window_size_px(cells)
    assert window.shape == (size.height, size.width, 3)
    for i in range(cells.rows):
        for j in range(cells.cols):
            cut = window[i * stride_px :, j * stride_px :][:input_px, :input_px]
            alone = read_box(slide, grid.tile_box_l0(row + i, col + j), Size(input_px, input_px))
            assert np.abs(cut.astype(int) - alone).max() <= ROUNDING


def test_a_real_file_is_read_at_its_exact_position(tmp_path: Path) -> None:
    path = fiducial_slide(tmp_path / "f.tif", width=800, height=600, mpp=0.25, downsamples=(2, 8))
    rng = np.random.default_rng(4)
    with open_slide(path) as slide:
        for scale in (0.7, 1.0, 2.0, 3.888, 9.5):
            size = Size(48, 40)
            x, y = rng.uniform(40, 300), rng.uniform(40, 180)
            box = Box(x, y, size.width * scale, size.height * scale)
            mean = read_box(slide, box, size).mean(axis=(0, 1))
            found_x, found_y = decode_fiducial(mean, width=800, height=600)
            assert found_x == pytest.approx(x + box.width / 2, abs=0.5)
            assert found_y == pytest.approx(y + box.height / 2, abs=0.5)


# ---------------------------------------------------------------------------------- identity


@pytest.mark.parametrize(("x", "y"), [(0, 0), (8, 24), (-16, -8), (144, 104)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_reads_that_need_no_resampling_return_the_levels_pixels(x: int, y: int, level: int) -> None:
    slide = FakeSlide([noise(160, 120), noise(80, 60), noise(20, 15)], (1.0, 2.0, 8.0))
    downsample = int(slide.level_downsamples[level])
    width, height = 5, 3
    box = Box(x, y, width * downsample, height * downsample)
    found = read_box(slide, box, Size(width, height))
    canvas = np.full((120 + 2 * WHITE_MARGIN, 160 + 2 * WHITE_MARGIN, 3), WHITE, dtype=np.uint8)
    pixels = slide.levels[level]
    canvas[WHITE_MARGIN:, WHITE_MARGIN:][: pixels.shape[0], : pixels.shape[1]] = pixels
    left, top = x // downsample + WHITE_MARGIN, y // downsample + WHITE_MARGIN
    np.testing.assert_array_equal(found, canvas[top : top + height, left : left + width])


def test_what_lies_beyond_the_slide_is_white() -> None:
    slide = FakeSlide([np.zeros((100, 100, 3), dtype=np.uint8)])
    for box in (Box(500, 500, 60, 60), Box(-90, 10, 60, 60), Box(10, 130.5, 66, 66)):
        assert (read_box(slide, box, Size(30, 30)) == WHITE).all()
    assert slide.reads == []
    half = read_box(slide, Box(80, 20, 40, 40), Size(20, 20))
    assert (half[:, :8] == 0).all()
    assert (half[:, 12:] == WHITE).all()


# ---------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("wanted", "level"),
    [(0.5, 0), (1, 0), (3.888, 0), (3.99, 1), (4, 1), (15.8, 1), (15.95, 2), (16, 2), (99, 2)],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(wanted: float, level: int) -> None:
    pixels = noise(64, 64)
    slide = FakeSlide(
        [pixels, pixels[::4, ::4], pixels[::16, ::16]], level_downsamples=(1.0, 4.0012, 16.0142)
    )
    assert best_level(slide, wanted) == level
    read_box(slide, Box(8, 8, 2 * wanted, 2 * wanted), Size(2, 2))
    assert {region.level for region in slide.reads} == {level}


def test_a_level_out_of_order_is_still_found() -> None:
    pixels = noise(64, 64)
    slide = FakeSlide([pixels, pixels[::8, ::8], pixels[::2, ::2]], (1.0, 8.0, 2.0))
    assert best_level(slide, 3) == 2
    assert best_level(slide, 9) == 1


def test_a_reduction_does_not_alias() -> None:
    board = np.indices((200, 200)).sum(axis=0) % 2 * np.uint8(255)
    slide = FakeSlide([np.repeat(board[..., None], 3, axis=2).astype(np.uint8)])
    grey = read_box(slide, Box(40, 40, 100, 100), Size(25, 25)).astype(int)
    assert np.abs(grey - 127.5).max() <= 3


# ---------------------------------------------------------------------------------- overviews


@settings(max_examples=15, deadline=None)
@given(
    width=st.integers(1, 120),
    height=st.integers(1, 90),
    pieces=st.integers(60, 400),
)
def test_an_overview_in_pieces_equals_one_read(width: int, height: int, pieces: int) -> None:
    slide = FakeSlide([noise(487, 311)])
    size = Size(width, height)
    whole = read_box(slide, Box(0, 0, 487, 311), size).astype(int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("histoslide.slide.resampling._OVERVIEW_READ_PX", pieces)
        found, readable = read_overview(slide, size)
    assert readable.all()
    assert found.shape == (height, width, 3)
    assert np.abs(found - whole).max() <= ROUNDING


def test_an_overview_never_reads_more_than_a_piece_and_its_margin() -> None:
    slide = FakeSlide([np.zeros((300, 9000, 3), np.uint8)])
    read_overview(slide, Size(900, 30))
    assert len(slide.reads) > 4
    assert max(region.width for region in slide.reads) <= 2048 + 4 * 10 + 4


def test_unreadable_pieces_are_white_and_marked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("histoslide.slide.resampling._OVERVIEW_READ_PX", 100)
    pixels = np.full((400, 600, 3), 50, dtype=np.uint8)
    slide = FakeSlide([pixels], rotten=Box(240, 130, 10, 10))
    with caplog.at_level(logging.WARNING):
        found, readable = read_overview(slide, Size(60, 40))
    assert caplog.messages == ["fake: rotten at (176, 72)"]
    wanted = np.ones((40, 60), dtype=bool)
    wanted[10:20, 20:30] = False  # the piece of level pixels (200..300, 100..200)
    np.testing.assert_array_equal(readable, wanted)
    assert (found[~readable] == WHITE).all()
    inner = readable.copy()
    inner[[0, 1, -2, -1], :] = inner[:, [0, 1, -2, -1]] = (
        False  # white beyond the slide blends in here
    )
    assert np.abs(found[inner].astype(int) - 50).max() <= 1


@pytest.mark.parametrize(
    ("size", "longest", "wanted"),
    [
        ((1000, 500), 100, Size(100, 50)),
        ((500, 1000), 100, Size(50, 100)),
        ((1000, 3), 100, Size(100, 1)),
        ((80, 60), 100, Size(80, 60)),
    ],
)
def test_fit_size_keeps_proportion_and_never_enlarges(
    size: tuple[int, int], longest: int, wanted: Size
) -> None:
    slide = FakeSlide([np.zeros((size[1], size[0], 3), np.uint8)])
    assert fit_size(slide, longest) == wanted


def test_a_change_of_the_pixels_is_a_change_of_the_reader() -> None:
    """Whoever changes what is read must count READER_VERSION up, and put the new digest here."""
    slide = FakeSlide([noise(487, 311), noise(122, 78)], level_downsamples=(1.0, 3.99))
    digest = hashlib.sha256()
    for scale in (0.7, 1.0, 1.296, 1.944, 2.5, 3.888, 3.99, 9.3):
        for x, y in ((-20.3, 5.0), (100.25, 60.5), (400.0, 250.75)):
            box = Box(x, y, 40 * scale, 30 * scale)
            digest.update(read_box(slide, box, Size(40, 30)).tobytes())
    assert (READER_VERSION, digest.hexdigest()[:16]) == (5, "7ac7d99c984d2d55")
