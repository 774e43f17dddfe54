"""A level of which nothing can be read is given up; one with a hole is not."""

import logging
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSlide
from numpy.typing import NDArray
from tiffs import KINDS, tissue_pixels, write_kind

from histoslide.errors import SlideGivenUpError, SlideReadError
from histoslide.geometry import Box, CellRange, Mpp, Region, Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_windows
from histoslide.slide import open_slide, resampling
from histoslide.slide.giving_up import FAILURES_IN_A_ROW, GivingUp
from histoslide.slide.resampling import read_box, read_overview
from histoslide.slide.tiff.reader import SegmentReader

SIZE = Size(640, 480)
ROTTEN = Region(0, 0, 0, 8, 8)


class Level:
    """A level whose rows below `good_from` can be read."""

    def __init__(self, good_from: int) -> None:
        self.good_from, self.reads = good_from, 0

    def __call__(self, region: Region) -> NDArray[np.uint8]:
        self.reads += 1
        if region.y < self.good_from:
            raise SlideReadError("it is rotten")
        return np.zeros((region.height, region.width, 3), dtype=np.uint8)


def fail(giving_up: GivingUp, level: Level, times: int) -> None:
    for _ in range(times):
        with pytest.raises(SlideReadError, match="rotten"):
            giving_up.read(ROTTEN, SIZE, level)


def test_a_level_of_which_nothing_can_be_read_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    giving_up, level = GivingUp("a.tif"), Level(good_from=SIZE.height)
    fail(giving_up, level, FAILURES_IN_A_ROW)
    tried = level.reads
    assert tried == FAILURES_IN_A_ROW + 64
    for region in (ROTTEN, Region(0, 300, 200, 50, 50)):
        with pytest.raises(SlideGivenUpError, match=r"a\.tif: level 0 is given up.*it is rotten"):
            giving_up.read(region, SIZE, level)
    assert level.reads == tried
    assert len(caplog.messages) == 1
    other = Level(good_from=0)
    assert giving_up.read(Region(1, 0, 0, 8, 8), SIZE, other).shape == (8, 8, 3)


def test_a_level_with_a_hole_is_not_given_up() -> None:
    giving_up, level = GivingUp("a.tif"), Level(good_from=400)
    fail(giving_up, level, 5 * FAILURES_IN_A_ROW)
    assert giving_up.read(Region(0, 0, 400, 640, 80), SIZE, level).shape == (80, 640, 3)


def test_a_level_that_was_read_once_is_never_given_up() -> None:
    giving_up, level = GivingUp("a.tif"), Level(good_from=0)
    giving_up.read(ROTTEN, SIZE, level)
    level.good_from = SIZE.height
    fail(giving_up, level, 5 * FAILURES_IN_A_ROW)


def test_cells_of_a_slide_that_is_given_up_are_unreadable_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_kind(
        tmp_path / "slide.tif",
        [tissue_pixels(1280, 960)],
        KINDS["LZW"],
        change=lambda level, index, data: b"\x80" + data[1:2] * 40,
    )
    slide = open_slide(path, mpp=Mpp(value=0.972, source="--mpp"))
    assert slide.mpp is not None
    grid = TileGrid(
        size_l0=slide.size_l0, slide_mpp=slide.mpp, model_mpp=0.972, input_px=96, label_px=32,
        stride_px=32,
    )  # fmt: skip
    cells = CellRange(0, 0, grid.rows, grid.cols)
    wanted = np.ones(grid.shape, dtype=np.bool_)
    reads: list[Region] = []
    read = SegmentReader.read

    def counted(self: SegmentReader, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        reads.append(region)
        return read(self, region, shrink)

    monkeypatch.setattr(SegmentReader, "read", counted)
    windows = list(read_windows(slide, grid, cells, wanted))
    assert all(window.pixels is None for window in windows)
    assert sum(int(window.unreadable.sum()) for window in windows) == 40 * 30
    assert len(reads) < 150
    pixels, readable = read_overview(slide, Size(64, 48))
    assert not readable.any()
    assert (pixels == 255).all()


def test_a_slide_far_longer_than_wide_is_never_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One pixel of its overview is a rectangle of any size: it is read in parts."""
    monkeypatch.setattr(resampling, "_MAX_READ_PX", 100_000)
    pixels = np.zeros((9000, 80, 3), dtype=np.uint8)
    pixels[4500:] = 200
    slide = FakeSlide([pixels])
    found = read_box(slide, Box(0, 0, 80, 9000), Size(1, 1))
    assert found.shape == (1, 1, 3)
    assert 0 < found[0, 0, 0] < 200, "both halves take part"
    assert max(region.width * region.height for region in slide.reads) < 500_000
