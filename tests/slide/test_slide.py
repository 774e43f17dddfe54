"""The seam that every reader fills, and the reader over OpenSlide."""

import logging
import math
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from fakes import FakeSlide
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import (
    ResolutionError,
    ResolutionUnknownError,
    SlideOpenError,
    SlideReadError,
)
from histoslide.geometry import Box, Mpp, Region, Size, true_downsample
from histoslide.slide import (
    OpenSlideSlide,
    Slide,
    find_slides,
    match_names,
    open_slide,
    read_mpp_csv,
    require_mpp,
)
from histoslide.slide.alignment import aligned_start
from histoslide.slide.tiff.salvaged import SalvagedTiff
from histoslide.synthetic import fiducial_slide, write_slide

TILE = 256


def position_pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Red and green are the column and row modulo 256, blue is 16 times 256 more of each."""
    y, x = np.mgrid[:height, :width]
    blue = 16 * (x // 256) + (y // 256) + seed
    return np.stack([x % 256, y % 256, blue % 256], axis=-1).astype(np.uint8)


def write_tiff(
    path: Path,
    levels: Sequence[NDArray[np.uint8]],
    *,
    per_cm: tuple[float, float] | None = (20000.0, 20000.0),
) -> Path:
    """A lossless pyramid whose levels are exactly these arrays."""
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="adobe_deflate",
                subfiletype=1 if index else 0,
                resolution=per_cm,
                resolutionunit="CENTIMETER" if per_cm else "NONE",
                metadata=None,
            )
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pixels = position_pixels(700, 500)
    return write_tiff(tmp_path / "slide.tif", [pixels, np.ascontiguousarray(pixels[::2, ::2])])


# ---------------------------------------------------------------------------------- the seam


def describe(slide: Slide) -> tuple[Size, tuple[Size, ...], tuple[float, ...]]:
    return slide.size_l0, slide.level_sizes, slide.level_downsamples


def test_the_fake_slide_and_openslide_look_the_same(path: Path) -> None:
    pixels = position_pixels(700, 500)
    fake = FakeSlide([pixels, pixels[::2, ::2]], level_downsamples=(1.0, 2.0))
    with open_slide(path) as slide:
        assert describe(slide) == describe(fake)
        for level in (0, 1):
            np.testing.assert_array_equal(
                slide.read(Region(level, 30, 20, 310, 220)),
                fake.read(Region(level, 30, 20, 310, 220)),
            )


def test_a_read_is_uint8_rgb_rows_before_columns(path: Path) -> None:
    pixels = open_slide(path).read(Region(0, 5, 7, 11, 13))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (13, 11, 3)
    assert tuple(pixels[0, 0]) == (5, 7, 0)


# ---------------------------------------------------------------------------------- resolution


def test_recorded_resolution_carries_its_source(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", position_pixels(300, 200), mpp=0.243, downsamples=())
    mpp = open_slide(path).mpp
    assert mpp is not None
    assert mpp.value == pytest.approx(0.243, rel=1e-6)
    assert mpp.source == "slide metadata"
    assert require_mpp(open_slide(path)) == mpp


def test_a_given_resolution_replaces_the_recorded_one(path: Path) -> None:
    given_mpp = Mpp(value=0.3, source="--mpp")
    assert open_slide(path, mpp=given_mpp).mpp == given_mpp


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("factor", "said"), [(0.95, 0), (1.0, 0), (1.2, 1), (0.5, 1)])
def test_what_overrules_the_slide_is_said(
    tmp_path: Path, factor: float, said: int, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = fiducial_slide(tmp_path / "a.tif", width=300, height=200, mpp=0.25)
    given_mpp = Mpp(value=0.25 * factor, source="--mpp")
    slide = open_slide(path, mpp=given_mpp, reader="auto" if own else "openslide")
    assert slide.mpp == given_mpp
    assert ["overrules the 0.25 µm/px that" in it for it in slide.facts.warnings] == [True] * said
    assert caplog.text.count("overrules") == said


def test_x_and_y_may_differ_by_one_percent(tmp_path: Path) -> None:
    near = write_tiff(tmp_path / "n.tif", [position_pixels(300, 200)], per_cm=(20000, 20180))
    mpp = open_slide(near).mpp
    assert mpp is not None
    assert mpp.value == pytest.approx(1e4 / (20000 * 20180) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("per_cm", [(20000.0, 40000.0), (40000.0, 20000.0), (20000.0, 20220.0)])
def test_pixels_that_are_not_square_are_refused_with_both_values(
    tmp_path: Path, per_cm: tuple[float, float]
) -> None:
    path = write_tiff(tmp_path / "flat.tif", [position_pixels(300, 200)], per_cm=per_cm)
    x, y = (f"{1e4 / value:g}" for value in per_cm)
    with pytest.raises(ResolutionError, match=rf"flat\.tif records {x} .*{y} .*pass --mpp"):
        open_slide(path)
    assert open_slide(path, mpp=Mpp(value=0.5, source="--mpp")).size_l0 == Size(300, 200)


def test_no_recorded_resolution_is_not_guessed(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [position_pixels(300, 200)], per_cm=None)
    slide = open_slide(path)
    assert slide.mpp is None
    with pytest.raises(ResolutionUnknownError) as caught:
        require_mpp(slide)
    assert str(caught.value).startswith(
        "slide.tif records no resolution: pass --mpp (micrometres per pixel)"
    )
    assert "slide,mpp" in str(caught.value)


@pytest.mark.parametrize(("mpp", "warned"), [(16.8, True), (0.01, True), (0.25, False)])
def test_implausible_resolutions_are_warned_about(
    path: Path, caplog: pytest.LogCaptureFixture, mpp: float, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    assert open_slide(path, mpp=Mpp(value=mpp, source="--mpp")).mpp is not None
    said = [
        it for it in caplog.messages if f"slide.tif: {mpp:g} µm/px (--mpp) is implausible" in it
    ]
    assert len(said) == warned
    assert not any("pass --mpp" in it for it in said), "it was passed"


def write_csv(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "mpp.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"slide,mpp\na.svs,0.25\nb.tif,0.5\n",
        b"\xef\xbb\xbfslide,mpp\r\na.svs,0.25\r\nb.tif,0.5\r\n",
        b"note,mpp,slide\n,0.25,folder/a.svs\n\nx,0.5,/data/b.tif",
        b"slide, mpp\na.svs, 0.25\nb.tif, 0.5\n",
        rb"""slide,mpp
C:\scans\a.svs,0.25
\\server\share\b.tif,0.5
""",
    ],
    ids=["plain", "excel", "other columns and folders", "blanks", "paths of Windows"],
)
def test_mpp_csv(tmp_path: Path, content: bytes) -> None:
    assert read_mpp_csv(write_csv(tmp_path, content)) == {
        "a.svs": Mpp(value=0.25, source="--mpp-csv"),
        "b.tif": Mpp(value=0.5, source="--mpp-csv"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"slide,resolution\na.svs,0.25\n",
            "columns slide,resolution: need slide,mpp, separated by commas",
        ),
        (b"", "need slide,mpp"),
        (b"slide,mpp\na.svs,0.25\nx/a.svs,0.25\n", r"names a\.svs twice"),
        (b"slide,mpp\na.svs,small\n", r"the mpp of a\.svs is 'small', not a positive number"),
        (b"slide,mpp\na.svs,\n", r"the mpp of a\.svs is '', not a positive number"),
        (b"slide,mpp\na.svs\n", r"the mpp of a\.svs is None, not a positive number"),
        (b"slide,mpp\na.svs,-1\n", r"the mpp of a\.svs is '-1', not a positive number"),
        (b"slide,mpp\na.svs,nan\n", r"the mpp of a\.svs is 'nan', not a positive number"),
        (b'slide,mpp\na.svs,"0,25"\n', r"the mpp of a\.svs is '0,25', not a positive number"),
        (b"mpp,slide\n0.5\n", "line 2: names no slide"),
        (b"slide,mpp\n\xff\xfe,1\n", r"mpp\.csv cannot be read"),
    ],
)
def test_a_wrong_mpp_csv_is_refused_with_what_is_wrong(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(ResolutionError, match=message):
        read_mpp_csv(write_csv(tmp_path, content))


def test_a_table_of_other_names_is_not_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    value = Mpp(value=0.5, source="--mpp-csv")
    assert match_names({}, ["a.svs"]) == {}
    assert match_names({"a.svs": value}, ["a.svs", "a.tif"]) == {"a.svs": value}  # a copy beside it
    assert not caplog.records
    for name in ("b", "b.tif"):
        with pytest.raises(ResolutionError, match=rf"names {name}, but the slide is called b\.svs"):
            match_names({"a.svs": value, name: value}, ["a.svs", "b.svs"])
    table = {"a.svs": value, "elsewhere.svs": value, "far.svs": value}
    assert match_names(table, ["a.svs", "b.svs"]) == {"a.svs": value}
    assert "2 files that are not among the slides: elsewhere.svs, far.svs" in caplog.text
    assert match_names({"elsewhere.svs": value}, ["a.svs"]) == {}
    assert "names none of the slides" in caplog.text
    assert "a file that is not among the slides: elsewhere.svs" in caplog.text


def test_case_does_not_matter_where_one_slide_can_be_meant() -> None:
    one, two = (Mpp(value=value, source="--mpp-csv") for value in (0.25, 0.5))
    assert match_names({"A.SVS": one, "b.TIF": two}, ["a.svs", "B.tif"]) == {
        "a.svs": one,
        "B.tif": two,
    }
    assert match_names({"b.svs": one}, [r"a\b.svs"]) == {r"a\b.svs": one}
    exact = {"a.svs": one, "A.svs": two}
    assert match_names(exact, ["a.svs", "A.svs"]) == exact
    with pytest.raises(ResolutionError, match=r"names A\.SVS, but the slide is called A\.svs"):
        match_names({"A.SVS": one}, ["a.svs", "A.svs"])  # either could be meant
    assert match_names({"A.SVS": one, "A.svs": two}, ["a.svs"]) == {}, "two rows could be meant"


@pytest.mark.parametrize("mpp", ["inf", "-inf", "nan", "0", "-1", "unknown"])
def test_a_resolution_that_is_none_is_unknown(tmp_path: Path, mpp: str) -> None:
    path = tmp_path / "slide.svs"
    tifffile.imwrite(
        path,
        np.full((512, 512, 3), 200, dtype=np.uint8),
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        description=f"Aperio Image Library v1.0\r\nsynthetic|AppMag = 20|MPP = {mpp}",
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.mpp is None
        with pytest.raises(ResolutionUnknownError, match=r"^slide\.svs records no resolution"):
            require_mpp(slide)


def test_a_missing_mpp_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match=r"none\.csv cannot be read"):
        read_mpp_csv(tmp_path / "none.csv")


# ---------------------------------------------------------------------------------- pixels


@settings(max_examples=300, deadline=None)
@given(start=st.integers(0, 100_000), downsample=st.floats(1, 300))
def test_a_read_begins_at_or_just_before_the_wanted_pixel(start: int, downsample: float) -> None:
    candidate, location = aligned_start(start, downsample)
    assert max(0, start - 63) <= candidate <= start
    missed = abs(location / downsample - candidate)
    assert missed <= abs(round(start * downsample) / downsample - start) <= 0.5000001 / downsample


@pytest.mark.parametrize("downsample", [4.000000000001, 3.9999999999999, 16.000000000000004])
@pytest.mark.parametrize("start", [0, 1, 63, 64, 100, 5001])
def test_a_downsample_a_hair_from_whole_reads_at_the_right_place(
    start: int, downsample: float
) -> None:
    candidate, location = aligned_start(start, downsample)
    assert location / downsample == pytest.approx(candidate, abs=1e-6)


def random_windows(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of windows of 8 to 200 pixels that lie wholly inside a level."""
    rng = np.random.default_rng(1)
    windows = []
    for _ in range(40):
        x, y = (int(rng.integers(0, side - 8)) for side in size)
        width, height = (
            int(rng.integers(8, min(200, side - at) + 1))
            for side, at in zip(size, (x, y), strict=True)
        )
        windows.append((x, y, width, height))
    return windows


@pytest.mark.parametrize(
    ("size_l0", "size"),
    [((1200, 900), (480, 360)), ((1200, 1000), (600, 500)), ((1200, 1200), (615, 615))],
    ids=["2.5", "2", "1.9512"],
)
def test_fractional_levels_come_out_unshifted(
    tmp_path: Path, size_l0: tuple[int, int], size: tuple[int, int]
) -> None:
    level = position_pixels(*size, seed=5)
    slide = open_slide(write_tiff(tmp_path / "f.tif", [position_pixels(*size_l0), level]))
    for x, y, width, height in random_windows(size):
        np.testing.assert_array_equal(
            slide.read(Region(1, x, y, width, height)), level[y : y + height, x : x + width]
        )


@pytest.mark.parametrize(
    ("size_l0", "size", "share"),
    [
        ((1200, 900), (615, 461), 0.01),  # 1.9517: x and y differ, so no start is exact
        ((1200, 900), (601, 449), 0.15),  # 2.0006
        ((1000, 777), (333, 259), 0.15),  # 3.0015
        ((1999, 1500), (499, 374), 0.08),  # 4.0084
    ],
)
def test_where_openslide_cannot_read_exactly_pixels_move_by_one_at_most(
    tmp_path: Path, size_l0: tuple[int, int], size: tuple[int, int], share: float
) -> None:
    level = position_pixels(*size, seed=5)
    finest = np.asarray(Image.fromarray(level).resize(size_l0, Image.Resampling.NEAREST))
    slide = open_slide(write_tiff(tmp_path / "f.tif", [finest, level]))
    padded = np.pad(level, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(int)
    moved = total = 0
    for x, y, width, height in random_windows(size):
        found = slide.read(Region(1, x, y, width, height)).astype(int)
        around = [
            padded[y + j : y + j + height, x + i : x + i + width]
            for j in (0, 1, 2)
            for i in (0, 1, 2)
        ]  # where two tiles of the file meet, neighbours may be blended
        assert (found >= np.minimum.reduce(around) - 1).all()
        assert (found <= np.maximum.reduce(around) + 1).all()
        moved += int(np.count_nonzero((found != around[4]).any(axis=2)))
        total += width * height
    assert moved / total < share


def test_the_whole_of_every_level_can_be_read(path: Path) -> None:
    slide = open_slide(path)
    for level, size in enumerate(slide.level_sizes):
        whole = slide.read(Region(level, 0, 0, size.width, size.height))
        wanted = position_pixels(700, 500)[:: level + 1, :: level + 1]
        np.testing.assert_array_equal(whole, wanted)
        corner = slide.read(Region(level, size.width - 1, size.height - 1, 1, 1))
        np.testing.assert_array_equal(corner, wanted[-1:, -1:])


def test_transparent_pixels_take_the_background_colour(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = OpenSlideSlide(path)
    slide._background = np.array([200, 100, 0], dtype=np.uint8)
    rgba = np.array([[[9, 9, 9, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    monkeypatch.setattr(
        openslide.OpenSlide, "read_region", lambda *_: Image.fromarray(rgba, "RGBA")
    )
    assert slide.read(Region(0, 0, 0, 3, 1)).tolist() == [
        [[200, 100, 0], [10, 20, 30], [160, 80, 0]]
    ]


# ---------------------------------------------------------------------------------- metadata


def test_bounds_are_those_recorded_or_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenSlideSlide(path).bounds_l0 is None
    recorded = {f"openslide.bounds-{n}": v for n, v in zip("xy", "12", strict=True)}
    monkeypatch.setattr(openslide.OpenSlide, "properties", recorded)
    assert OpenSlideSlide(path).bounds_l0 is None, "half a record is no record"
    recorded |= {"openslide.bounds-width": "30", "openslide.bounds-height": "40"}
    assert OpenSlideSlide(path).bounds_l0 == Box(1, 2, 30, 40)


def test_name_holds_no_folder(path: Path) -> None:
    slide = open_slide(path)
    assert slide.name == "slide.tif"
    assert slide.properties["openslide.vendor"] == "generic-tiff"


# ---------------------------------------------------------------------------------- handles


def test_a_pickled_slide_reads_the_same_and_keeps_its_resolution(path: Path) -> None:
    slide = open_slide(path, mpp=Mpp(value=0.3, source="--mpp"))
    before = slide.read(Region(1, 10, 20, 100, 90))
    copy = pickle.loads(pickle.dumps(slide))
    assert isinstance(copy, OpenSlideSlide)
    assert (copy.mpp, copy.name, *describe(copy)) == (slide.mpp, slide.name, *describe(slide))
    np.testing.assert_array_equal(copy.read(Region(1, 10, 20, 100, 90)), before)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_slide_is_read_in_another_process(path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    slide = open_slide(path)
    before = slide.read(Region(0, 200, 100, 300, 200))  # so that a fork inherits an open handle
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        there = pool.submit(slide.read, Region(0, 200, 100, 300, 200)).result(timeout=60)
    np.testing.assert_array_equal(there, before)
    np.testing.assert_array_equal(slide.read(Region(0, 200, 100, 300, 200)), before)


_inherited: list[OpenSlideSlide] = []


def _read_inherited() -> tuple[NDArray[np.uint8], bool]:
    slide = _inherited[0]
    parents = slide._handles[:]
    pixels = slide.read(Region(0, 200, 100, 300, 200))
    return pixels, any(handle in parents for handle in slide._handles)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_never_uses_its_parents_handle(path: Path) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    slide = OpenSlideSlide(path)
    before = slide.read(Region(0, 200, 100, 300, 200))
    _inherited[:] = [slide]
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            there, shared = pool.submit(_read_inherited).result(timeout=60)
    finally:
        _inherited.clear()
    np.testing.assert_array_equal(there, before)
    assert not shared


def test_threads_read_at_once_each_with_its_own_handle(path: Path) -> None:
    slide = OpenSlideSlide(path)
    wanted = position_pixels(700, 500)
    corners = [(x, y) for y in range(0, 400, 50) for x in range(0, 600, 60)]

    def read(corner: tuple[int, int]) -> bool:
        x, y = corner
        found = slide.read(Region(0, x, y, 100, 100))
        return bool((found == wanted[y : y + 100, x : x + 100]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, corners))
    assert len(slide._handles) <= 5
    assert len(set(slide._handles)) == len(slide._handles)


def test_a_closed_slide_opens_again_when_read(path: Path) -> None:
    with OpenSlideSlide(path) as slide:
        before = slide.read(Region(0, 0, 0, 50, 50))
    assert slide._handles == []
    np.testing.assert_array_equal(slide.read(Region(0, 0, 0, 50, 50)), before)


ReadRegion = Callable[..., Image.Image]


def fail_reads(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the first reads raise; like OpenSlide, a handle that failed fails ever after."""
    whole: ReadRegion = openslide.OpenSlide.read_region
    tried: list[int] = []
    failed: set[int] = set()
    alive: list[object] = []  # so that no id is used twice

    def read_region(self: object, *args: object) -> Image.Image:
        alive.append(self)
        tried.append(id(self))
        if len(tried) <= times or id(self) in failed:
            failed.add(id(self))
            raise openslide.OpenSlideError("a rotten tile")
        return whole(self, *args)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)
    return tried


def test_a_failed_read_is_tried_again_with_a_fresh_handle(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = OpenSlideSlide(path)
    tried = fail_reads(monkeypatch, times=1)
    found = slide.read(Region(0, 40, 30, 60, 50))
    np.testing.assert_array_equal(found, position_pixels(700, 500)[30:80, 40:100])
    assert len(set(tried)) == len(tried) == 2
    assert len(slide._handles) == 1


def test_a_region_that_stays_unreadable_names_the_slide_and_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = OpenSlideSlide(path)
    tried = fail_reads(monkeypatch, times=2)
    message = r"slide\.tif: level 0 at \(40, 30\), 60×50 px cannot be read: a rotten tile"
    with pytest.raises(SlideReadError, match=message):
        slide.read(Region(0, 40, 30, 60, 50))
    assert len(tried) == 2
    assert slide._handles == []
    found = slide.read(Region(0, 0, 0, 60, 50))  # the next block is none the worse for it
    np.testing.assert_array_equal(found, position_pixels(700, 500)[:50, :60])


def test_a_slide_that_vanishes_fails_whole_and_is_not_called_unreadable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that drops out for a minute must not leave cells marked unreadable for ever."""
    slide = open_slide(path)
    fail_reads(monkeypatch, times=1)
    path.unlink()
    with pytest.raises(SlideOpenError, match=r"slide\.tif does not exist"):
        slide.read(Region(0, 0, 0, 10, 10))


# ---------------------------------------------------------------------------------- files


def test_files_that_are_no_slides_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.svs").write_bytes(b"not a slide" * 50)
    (tmp_path / "empty.tif").touch()
    (tmp_path / "folder.tif").mkdir()
    for name, message in (
        ("broken.svs", "is not a slide that OpenSlide can open"),
        ("empty.tif", "is empty"),
        ("folder.tif", "is a folder, not a slide"),
        ("missing.tif", "does not exist"),
    ):
        with pytest.raises(SlideOpenError, match=rf"{name} {message}"):
            open_slide(tmp_path / name)


def test_a_truncated_slide_fails_to_open_or_to_read(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises((SlideOpenError, SlideReadError), match=r"slide\.tif"):
        open_slide(path).read(Region(1, 0, 0, 350, 250))


def test_a_truncated_slide_that_begins_with_the_whole_glass_keeps_its_levels(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    finest = rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    path = tmp_path / "leica.scn"
    with tifffile.TiffWriter(path) as tiff:
        for pixels, mpp in (
            (finest[::8, ::8], 4),
            (finest, 0.5),
            (finest[::4, ::4], 2),
            (finest[::2, ::2], 0.5),
            (finest[::16, ::16], 4),
        ):
            tiff.write(
                pixels.copy(), photometric="rgb", tile=(256, 256), metadata=None,
                resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
            )  # fmt: skip
    assert SalvagedTiff.open(path, mpp=None) is None, "it is whole"
    path.write_bytes(path.read_bytes()[:-100])
    slide = SalvagedTiff.open(path, mpp=None)
    assert slide is not None
    assert slide.level_sizes == (Size(1024, 1024), Size(256, 256))
    assert slide.mpp is not None
    assert slide.mpp.value == pytest.approx(0.5)
    np.testing.assert_array_equal(
        slide.read(Region(0, 300, 500, 100, 80)), finest[500:580, 300:400]
    )


def test_folders_are_searched_by_ending_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    folder, deeper = tmp_path / "slides", tmp_path / "slides" / "deeper"
    deeper.mkdir(parents=True)
    for name in ("b.svs", "A.TIF", "c.ndpi", "notes.txt", "heat.png", "deeper/d.svs"):
        (folder / name).touch()
    (folder / "a.tif").mkdir()  # called like a slide
    odd = tmp_path / "odd.name"
    assert find_slides([odd, folder]) == [odd, *(folder / n for n in ("A.TIF", "b.svs", "c.ndpi"))]


def test_folders_below_are_searched_where_asked_or_where_a_folder_holds_no_slide(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    nested = ["case 1/a.svs", "case 2/scans/a.svs"]
    hidden = ["case 1/.trash/b.svs", "case 2/heat.zarr/c.tif"]
    for name in nested + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [tmp_path / name for name in nested]
    assert find_slides([tmp_path]) == found
    assert caplog.messages == [f"{tmp_path}: its 2 slides lie in folders below"]
    with pytest.raises(SlideOpenError, match="is a folder without slides"):
        find_slides([tmp_path], recursive=False)
    own = tmp_path / "z.svs"
    own.touch()
    assert find_slides([tmp_path]) == [own], "what lies deeper may be masks"
    assert find_slides([str(tmp_path)], recursive=True) == [own, *found]


def test_a_dicom_series_in_a_folder_is_one_slide(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")

    def write(name: str, series: str) -> Path:
        data = pydicom.Dataset()
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.6", f"1.2.{name[0]}"
        data.SeriesInstanceUID = series
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        path = tmp_path / name
        data.save_as(path, enforce_file_format=True)
        return path

    first, other = write("1.dcm", "1.5"), write("3.dcm", "1.6")
    write("2.dcm", "1.5")
    broken = tmp_path / "4.dcm"
    broken.write_bytes(b"none")
    svs = tmp_path / "5.svs"
    svs.touch()
    assert find_slides([tmp_path]) == [first, other, broken, svs]
    assert find_slides([tmp_path / "2.dcm"]) == [tmp_path / "2.dcm"]  # named, so meant


def test_a_folder_without_slides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SlideOpenError, match="is a folder without slides"):
        find_slides([tmp_path])


# ---------------------------------------------------------------------------------- real slides


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("CMU-1-Small-Region.svs", 0.499), ("fluorescence-dapi.ndpi", 0.2282), ("small.dcm", 16.783)],
)
def test_real_slides_open_with_their_resolution(real_data: Path, name: str, mpp: float) -> None:
    slide = open_slide(real_data / "slides" / name)
    assert require_mpp(slide).value == pytest.approx(mpp, rel=1e-3)
    size = slide.level_sizes[-1]
    pixels = slide.read(Region(len(slide.level_sizes) - 1, size.width - 60, 5, 60, 50))
    assert pixels.shape == (50, 60, 3)
    assert np.ptp(pixels) > 0


@pytest.mark.parametrize("name", ["node-metastasis.tiff", "tcga-no-mpp.svs"])
def test_real_slides_without_resolution_say_so(real_data: Path, name: str) -> None:
    with pytest.raises(ResolutionUnknownError, match=f"{name} records no resolution"):
        require_mpp(open_slide(real_data / "slides" / name))


def test_a_real_broken_slide_is_refused(real_data: Path) -> None:
    with pytest.raises(SlideOpenError, match=r"broken\.svs"):
        open_slide(real_data / "slides" / "broken.svs")


@pytest.mark.parametrize(
    ("size_l0", "downsample"),
    [
        ((9000, 9000), 16),
        ((100_000, 3000), 64),
        ((60_000, 4000), 128),
        ((1999, 1501), 3.9),
        ((4443, 3567), 2),
        ((97_792, 221_184), 4),
        ((1203, 901), 1.95),
    ],
)
@pytest.mark.parametrize("rounding", [math.floor, math.ceil, round])
def test_true_downsample_is_found_behind_rounded_sizes(
    size_l0: tuple[int, int], downsample: float, rounding: Callable[[float], int]
) -> None:
    level = Size(*(rounding(side / downsample) for side in size_l0))
    found = true_downsample(Size(*size_l0), level)
    assert found is not None
    # Over the whole slide the far edge moves by less than a pixel of the level.
    assert abs(max(size_l0) / found - max(size_l0) / downsample) < 1
    if min(size_l0) / downsample > 500:
        assert found == downsample


def test_hidden_companion_files_are_no_slides(tmp_path: Path) -> None:
    for name in ("a.svs", "._a.svs", "b.txt"):
        (tmp_path / name).touch()
    assert find_slides([tmp_path]) == [tmp_path / "a.svs"]
