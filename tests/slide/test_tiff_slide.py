"""The reader that takes a TIFF's tiles: regions, threads, processes, damage and fallback."""

import logging
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiffs import APERIO, KINDS, position_pixels, tissue_pixels, whole, write_kind

from histoslide.errors import SlideOpenError, SlideReadError
from histoslide.geometry import Region
from histoslide.slide import OpenSlideSlide, TiffSlide, open_slide
from histoslide.slide.tiff import reader as tile_reader
from histoslide.slide.tiff.levels import direct_levels
from histoslide.slide.tiff.reader import SegmentReader
from histoslide.slide.tiff.segments import TiffSegments

LOSSLESS = KINDS["LZW, predicted"]
JPEG = KINDS["4:2:0"]
SIZE = (700, 500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pixels = position_pixels(*SIZE)
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
    return write_kind(tmp_path / "slide.tif", levels, LOSSLESS)


def tiff_slide(path: Path) -> TiffSlide:
    slide = open_slide(path)
    assert isinstance(slide, TiffSlide)
    return slide


def reader_of(path: Path, *, cache_bytes: int = 2**20) -> SegmentReader:
    with OpenSlideSlide(path) as slide:
        vendor = slide.properties["openslide.vendor"]
        levels = direct_levels(path, vendor, slide.level_sizes)
    assert all(levels)
    return SegmentReader(path, levels, cache_bytes=cache_bytes)


# ---------------------------------------------------------------------------- regions


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_region_equals_that_part_of_the_whole(tmp_path: Path, data: st.DataObject) -> None:
    """The slow twin is slicing the array that the file was written from."""
    width, height = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    tile = data.draw(st.sampled_from([(16, 16), (32, 16), (16, 48), (64, 64), (144, 144)]))
    pixels = position_pixels(width, height, seed=width)
    path = write_kind(tmp_path / "slide.tif", [pixels], LOSSLESS, tile=tile)
    reader = reader_of(path, cache_bytes=data.draw(st.sampled_from([0, 3000, 2**20])))
    for _ in range(4):
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
        found = reader.read(Region(0, x, y, w, h))
        assert found.dtype == np.uint8
        assert found.flags.writeable
        np.testing.assert_array_equal(found, pixels[y : y + h, x : x + w])


@pytest.mark.parametrize(
    ("size_l0", "size"),
    [
        ((1200, 900), (615, 461)),  # 1.9517
        ((1200, 900), (601, 449)),  # 2.0006
        ((1999, 1500), (499, 374)),  # 4.0084
        ((1209, 1001), (310, 256)),  # 3.9
    ],
)
def test_levels_of_any_downsample_are_read_exactly(
    tmp_path: Path, size_l0: tuple[int, int], size: tuple[int, int]
) -> None:
    level = position_pixels(*size, seed=5)
    finest = np.asarray(Image.fromarray(level).resize(size_l0, Image.Resampling.NEAREST))
    slide = tiff_slide(write_kind(tmp_path / "slide.tif", [finest, level], LOSSLESS))
    assert slide.readers == ("tiff tiles", "tiff tiles")
    rng = np.random.default_rng(1)
    for _ in range(40):
        x, y = (int(rng.integers(0, side - 8)) for side in size)
        w, h = (int(rng.integers(8, side - at + 1)) for side, at in zip(size, (x, y), strict=True))
        np.testing.assert_array_equal(
            slide.read(Region(1, x, y, w, h)), level[y : y + h, x : x + w]
        )


def test_openslide_can_be_asked_for(path: Path) -> None:
    slide = open_slide(path, reader="openslide")
    assert type(slide) is OpenSlideSlide
    assert slide.readers == ("openslide", "openslide")


# ---------------------------------------------------------------------------- cache


def test_the_cache_keeps_within_its_bound(path: Path) -> None:
    tile_bytes = 64 * 48 * 3
    reader = reader_of(path, cache_bytes=10 * tile_bytes + 5)
    for _ in range(2):
        reader.read(Region(0, 0, 0, *SIZE))
        reader.read(Region(0, 0, 0, 100, 100))
    assert len(reader._cache) == 10
    kept = sum(tile.nbytes for tile in reader._cache.values())
    assert reader._cache.currsize == kept == 10 * tile_bytes


def test_tiles_at_the_rim_of_a_region_are_decoded_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of neighbouring blocks overlap there; tiles further in are not kept."""
    decoded: list[int] = []
    decode = TiffSegments.decode

    def counted(
        self: TiffSegments, data: bytes, *, out: NDArray[np.uint8] | None, shrink: int
    ) -> NDArray[np.uint8]:
        decoded.append(1)
        return decode(self, data, out=out, shrink=shrink)

    monkeypatch.setattr(TiffSegments, "decode", counted)
    reader = reader_of(path)
    reader.read(Region(0, 0, 0, 64 * 7, 48 * 7))
    assert len(decoded) == 49
    reader.read(Region(0, 64 * 5, 0, 64 * 4, 48 * 7))  # two columns again, two others
    assert len(decoded) == 49 + 14
    assert all(not (2 <= row <= 4 and 2 <= col <= 4) for _, row, col, _ in reader._cache)


def test_a_closed_slide_forgets_what_it_read(path: Path) -> None:
    """Never stale pixels: the file may have been replaced."""
    slide = tiff_slide(path)
    np.testing.assert_array_equal(whole(slide, 0), position_pixels(*SIZE))
    other = position_pixels(*SIZE, seed=99)
    write_kind(path, [other, np.ascontiguousarray(other[::2, ::2])], LOSSLESS)
    slide.close()
    np.testing.assert_array_equal(whole(slide, 0), other)


# ---------------------------------------------------------------------------- threads, processes


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    opened: list[object] = []
    start = tile_reader._File.__init__

    def counted(self: tile_reader._File, path: Path) -> None:
        opened.append(path)
        start(self, path)

    monkeypatch.setattr(tile_reader._File, "__init__", counted)
    return opened


def test_threads_share_one_descriptor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_opens(monkeypatch)
    slide = tiff_slide(path)
    wanted = position_pixels(*SIZE)
    corners = [(x, y) for y in range(0, 400, 50) for x in range(0, 600, 60)] * 3

    def read(corner: tuple[int, int]) -> bool:
        x, y = corner
        found = slide.read(Region(0, x, y, 100, 100))
        return bool((found == wanted[y : y + 100, x : x + 100]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, corners))
    assert len(opened) <= 4, "threads that begin at once may each open, one stays"
    opened.clear()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, corners))
    assert opened == []


@pytest.mark.parametrize("cache_bytes", [0, 100_000])
def test_closing_under_a_reader_does_no_harm(path: Path, cache_bytes: int) -> None:
    reader = reader_of(path, cache_bytes=cache_bytes)
    wanted = position_pixels(*SIZE)

    def read(_: int) -> bool:
        return bool((reader.read(Region(0, 0, 0, *SIZE)) == wanted).all())

    with ThreadPoolExecutor(3) as pool:
        found = pool.map(read, range(30))
        for _ in range(300):
            reader.close()
        assert all(found)
    assert reader._cache.currsize == sum(tile.nbytes for tile in reader._cache.values())


def test_what_was_read_before_a_close_is_not_kept_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(path)
    decode = TiffSegments.decode

    def closed_under(
        self: TiffSegments, data: bytes, *, out: NDArray[np.uint8] | None, shrink: int
    ) -> NDArray[np.uint8]:
        reader.close()
        return decode(self, data, out=out, shrink=shrink)

    monkeypatch.setattr(TiffSegments, "decode", closed_under)
    reader.read(Region(0, 0, 0, 100, 100))
    assert not reader._cache


def test_no_descriptor_is_left_open(path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("this system does not list open files")

    def held() -> int:
        return sum(
            os.path.realpath(link) == str(path) for link in folder.iterdir() if link.is_symlink()
        )

    reader = reader_of(path)
    reader.read(Region(0, 0, 0, 10, 10))
    assert held() == 1
    reader.close()
    assert held() == 0


def test_a_pickled_slide_is_small_and_reads_the_same(path: Path) -> None:
    slide = tiff_slide(path)
    before = slide.read(Region(1, 10, 20, 100, 90))
    data = pickle.dumps(slide)
    assert len(data) < 10_000, "neither tiles nor their places travel"
    copy = pickle.loads(data)
    assert type(copy) is TiffSlide
    np.testing.assert_array_equal(copy.read(Region(1, 10, 20, 100, 90)), before)
    assert copy.readers == slide.readers


_inherited: list[TiffSlide] = []


def _read_inherited(_: int) -> tuple[NDArray[np.uint8], bool]:
    slide = _inherited[0]
    parents = slide._segment_reader
    pixels = slide.read(Region(0, 200, 100, 300, 200))
    return pixels, slide._segment_reader is parents


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_never_waits_for_its_parents_lock(path: Path) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    slide = tiff_slide(path)
    before = slide.read(Region(0, 200, 100, 300, 200))
    _inherited[:] = [slide]
    reader = slide._segment_reader
    assert reader is not None
    try:
        with (
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
            slide._lock,
            reader._lock,
        ):
            there, shared = pool.submit(_read_inherited, 0).result(timeout=60)
    finally:
        _inherited.clear()
    np.testing.assert_array_equal(there, before)
    assert not shared


# ---------------------------------------------------------------------------- damage


def damage(path: Path, row: int, col: int, data: bytes = b"\xa5" * 40) -> None:
    """Overwrite the middle of a tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        tiles = TiffSegments.of_page(tiff.pages.first)
    offset, count = int(tiles.offsets[row, col]), int(tiles.byte_counts[row, col])
    with path.open("r+b") as file:
        file.seek(offset + count // 2)
        file.write(data)


def fail_reads(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the first reads of tiles fail as on a network drive that drops out."""
    read = tile_reader._File.read
    left = [times]

    def flaky(self: tile_reader._File, offset: int, count: int) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        return read(self, offset, count)

    monkeypatch.setattr(tile_reader._File, "read", flaky)


def test_a_failed_read_is_tried_again_with_a_fresh_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(path)
    opened = count_opens(monkeypatch)
    fail_reads(monkeypatch, times=1)
    np.testing.assert_array_equal(
        reader.read(Region(0, 40, 30, 60, 50)), position_pixels(*SIZE)[30:80, 40:100]
    )
    assert len(opened) == 2


def test_a_read_that_keeps_failing_is_left_to_openslide(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slide = tiff_slide(path)
    assert slide.readers == ("tiff tiles", "tiff tiles")
    fail_reads(monkeypatch, times=1000)
    caplog.set_level(logging.DEBUG)
    found = slide.read(Region(0, 340, 230, 60, 50))
    np.testing.assert_array_equal(found, position_pixels(*SIZE)[230:280, 340:400])
    assert "tile (4, 5) of level 0 cannot be read: [Errno 5]" in caplog.text
    assert all(record.levelno <= logging.DEBUG for record in caplog.records)


def test_a_damaged_tile_is_an_error_and_its_neighbours_are_none_the_worse(tmp_path: Path) -> None:
    """Also where OpenSlide shows what is left of it: garbage must not be scored."""
    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(*SIZE)], JPEG)
    good = whole(OpenSlideSlide(path), 0)
    damage(path, 5, 6)
    damaged = OpenSlideSlide(path).read(Region(0, 6 * 64, 5 * 48, 64, 48))
    assert (damaged != good[5 * 48 : 6 * 48, 6 * 64 : 7 * 64]).any()
    slide = tiff_slide(path)
    assert slide.readers == ("tiff tiles",)
    for _ in range(2):
        with pytest.raises(SlideReadError, match=r"slide\.tif: tile \(5, 6\) of level 0 cannot"):
            slide.read(Region(0, 6 * 64 - 10, 5 * 48 - 10, 100, 100))
        with pytest.raises(SlideReadError, match=r"slide\.tif: tile \(5, 6\) of level 0 cannot"):
            slide.read(Region(0, 6 * 64 - 16, 5 * 48 - 16, 96, 96), 8)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 0, 384, 240)), good[:240, :384])


@pytest.mark.parametrize("damaged", [[3], [3, 8]])
def test_a_damaged_tile_that_is_compared_condemns_no_other(
    tmp_path: Path, damaged: list[int]
) -> None:
    """The tiles with the most bytes are compared first; here they are rotten."""

    def rot(_: int, index: int, data: bytes) -> bytes:
        rotten = data[: len(data) // 2] + bytes(len(data))
        return rotten if index in damaged else data

    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(*SIZE)], JPEG, change=rot)
    slide = tiff_slide(path)
    assert slide.readers == ("tiff tiles",)
    with pytest.raises(SlideReadError):
        slide.read(Region(0, 200, 0, 50, 40))


def test_a_level_that_only_openslide_reads_is_openslides(tmp_path: Path) -> None:
    def odd(_: int, __: int, data: bytes) -> bytes:
        return data[:-2] + b"\xa5" * 9 + data[-2:]

    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(*SIZE)], JPEG, change=odd)
    slide = tiff_slide(path)
    assert slide.readers == ("openslide",)
    np.testing.assert_array_equal(whole(slide, 0), whole(OpenSlideSlide(path), 0))


def test_a_truncated_file_gives_what_lies_before_the_break(tmp_path: Path) -> None:
    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(*SIZE)], JPEG)
    reader, good = reader_of(path), whole(OpenSlideSlide(path), 0)
    os.truncate(path, path.stat().st_size // 2)
    np.testing.assert_array_equal(reader.read(Region(0, 0, 0, 300, 100)), good[:100, :300])
    with pytest.raises(SlideReadError, match="the file ends before it"):
        reader.read(Region(0, 400, 400, 100, 100))


def test_nonsense_places_of_tiles_take_no_memory(path: Path) -> None:
    reader = reader_of(path)
    tiles = reader.levels[0]
    assert tiles is not None
    for offset, count in ((10, 2**40), (2**63, 100), (2**61, 100)):
        wrong = replace(
            tiles,
            offsets=np.full_like(tiles.offsets, offset),
            byte_counts=np.full_like(tiles.byte_counts, count),
        )
        with pytest.raises(SlideReadError, match=r"tile \(0, 0\) of level 0"):
            SegmentReader(path, [wrong], cache_bytes=0).read(Region(0, 0, 0, 5, 5))


def test_a_file_that_is_gone_is_no_unreadable_region(path: Path) -> None:
    slide = tiff_slide(path)
    path.unlink()
    with pytest.raises(SlideOpenError, match=r"slide\.tif"):
        slide.read(Region(0, 0, 0, 10, 10))
    with pytest.raises(SlideOpenError, match=r"slide\.tif"):
        SegmentReader(path, [None], cache_bytes=0)._opened(None)


# ---------------------------------------------------------------------------- fallback


def test_levels_that_decode_otherwise_than_in_openslide_are_openslides(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode = TiffSegments.decode
    wrong = [2]
    monkeypatch.setattr(
        TiffSegments, "decode", lambda self, data, **_: decode(self, data) ^ np.uint8(wrong[0])
    )
    caplog.set_level(logging.DEBUG)
    slide = tiff_slide(path)
    assert slide.readers == ("openslide", "openslide")
    assert "level 0 differs by 2" in caplog.text
    np.testing.assert_array_equal(whole(slide, 0), position_pixels(*SIZE))
    wrong[0] = 1  # rounding
    assert tiff_slide(path).readers == ("tiff tiles", "tiff tiles")


def without(*missing: int, level: int = 0) -> dict[str, object]:
    return {
        "change": lambda number, index, data: b"" if number == level and index in missing else data
    }


def test_missing_tiles_of_philips_are_openslides_background(tmp_path: Path) -> None:
    levels = [tissue_pixels(300, 200), tissue_pixels(150, 100)]
    path = write_kind(
        tmp_path / "slide.tif",
        levels,
        KINDS["Philips"],
        **without(0, 1, 7, 24),  # type: ignore[arg-type]
    )
    slide, through = tiff_slide(path), OpenSlideSlide(path)
    assert slide.readers == ("tiff tiles", "tiff tiles")
    np.testing.assert_array_equal(whole(slide, 0), whole(through, 0))
    assert (slide.read(Region(0, 0, 0, 128, 48)) == 255).all()
    for shrink in (2, 8, 16):
        assert (slide.read(Region(0, 0, 0, 128, 48), shrink) == 255).all()


def test_aperio_slides_with_missing_tiles_are_openslides(tmp_path: Path) -> None:
    """OpenSlide draws them from the next finer level, there and in coarser levels."""
    levels = [tissue_pixels(300, 200), tissue_pixels(150, 100)]
    kind = replace(KINDS["4:2:0"], description=APERIO)
    path = write_kind(tmp_path / "slide.tif", levels, kind, **without(1, level=1))  # type: ignore[arg-type]
    slide, through = tiff_slide(path), OpenSlideSlide(path)
    assert slide.readers == ("openslide", "openslide")
    np.testing.assert_array_equal(whole(slide, 1), whole(through, 1))


def test_missing_tiles_of_other_formats_are_never_painted_over(tmp_path: Path) -> None:
    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(300, 200)], JPEG, **without(6))  # type: ignore[arg-type]
    slide, through = tiff_slide(path), OpenSlideSlide(path)
    assert slide.readers == ("tiff tiles",)
    for x, y, shrink in ((0, 0, 1), (70, 50, 1), (128, 96, 1), (72, 56, 8)):
        region = Region(0, x, y, 40, 40)
        try:
            wanted = through.read(region, shrink)
        except SlideReadError:
            with pytest.raises(SlideReadError):
                slide.read(region, shrink)
        else:
            np.testing.assert_array_equal(slide.read(region, shrink), wanted)
    with pytest.raises(SlideReadError, match=r"tile \(1, 1\) of level 0 .*missing"):
        reader_of(path).read(Region(0, 0, 0, 100, 100))


def test_formats_that_are_not_known_are_not_looked_into(path: Path) -> None:
    with OpenSlideSlide(path) as slide:
        sizes = slide.level_sizes
    assert direct_levels(path, "ventana", sizes) == (None, None)
    assert direct_levels(path, "generic-tiff", sizes[:1]) == (None,)
    assert direct_levels(path, "generic-tiff", [sizes[1], sizes[0]]) == (None, None)
    path.write_bytes(b"II*\0" + b"\xff" * 100)
    assert direct_levels(path, "generic-tiff", sizes) == (None, None)


# ---------------------------------------------------------------------------- real slides


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("CMU-1-Small-Region.svs", {"tiff tiles"}),
        ("tcga-no-mpp.svs", {"tiff tiles"}),
        ("node-metastasis.tiff", {"tiff tiles"}),
        ("node-occult-metastasis.tiff", {"tiff tiles"}),
        ("fluorescence-dapi.ndpi", {"openslide"}),
        ("small.dcm", {"openslide"}),
    ],
)
def test_real_slides_have_openslides_pixels(real_data: Path, name: str, readers: set[str]) -> None:
    """A level read from its corner lies on OpenSlide's own grid, whatever its downsample."""
    path = real_data / "slides" / name
    slide = open_slide(path)
    assert set(slide.readers) == readers
    with openslide.OpenSlide(path) as handle:
        for level, size in enumerate(slide.level_sizes):
            width, height = min(size.width, 4000), min(size.height, 2000)
            wanted = np.asarray(handle.read_region((0, 0), level, (width, height)).convert("RGB"))
            found = slide.read(Region(level, 0, 0, width, height))
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "node-metastasis.tiff"])
def test_real_slides_shrink_to_the_means_of_openslides_pixels(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    for shrink in (2, 4, 8, 16):
        region = Region(0, 480, 960, 1280, 1280)
        found = open_slide(path).read(region, shrink).astype(int)
        difference = np.abs(found - OpenSlideSlide(path).read(region, shrink))
        assert difference.mean() < 0.7
        assert np.percentile(difference, 99.9) <= 8  # where overshoot is cut off, at sharp edges


def test_the_codecs_have_what_is_needed() -> None:
    """Wheels are built with them; a build that is not would silently fall back everywhere."""
    assert imagecodecs.JPEG2K.available
    assert imagecodecs.DEFLATE.available
    assert imagecodecs.LZW.available
