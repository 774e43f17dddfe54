"""True downsamples of levels whose sizes mislead, and images that are no levels."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiffs import KINDS, philips_description, write_kind

from histoslide.geometry import Box, Mpp, Region, Size
from histoslide.slide import OpenSlideSlide, open_slide
from histoslide.slide.downsamples import StoredLevel, find_downsamples, stated_by
from histoslide.slide.resampling import read_box
from histoslide.tissue.masks import METHODS, find_tissue

TILE = (128, 128)


def texture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs of several sizes in the colours of stain, without a period."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), dtype=np.float32)
    for side in (12, 48, 160, 500):
        rough = rng.normal(size=(height // side + 3, width // side + 3)).astype(np.float32)
        grown = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(grown)
    shade = np.clip(150 + 30 * total, 0, 255)
    return np.stack([shade, shade * 0.6, shade * 0.9], axis=-1).astype(np.uint8)


def reduced(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The whole picture made smaller; the last row and column may hold less than a square."""
    height, width = pixels.shape[:2]
    size = (int(np.ceil(width / factor)), int(np.ceil(height / factor)))
    box = (size[0] * factor, size[1] * factor)
    across, down = int(np.ceil(box[0])), int(np.ceil(box[1]))
    padded = np.pad(pixels, ((0, down - height), (0, across - width), (0, 0)), mode="edge")
    image = Image.fromarray(padded)
    return np.asarray(image.resize(size, Image.Resampling.BOX, box=(0, 0, *box)))


def padded(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """White up to whole tiles, as CAMELYON16's levels are."""
    down, across = (-side % multiple for side in pixels.shape[:2])
    return np.pad(pixels, ((0, down), (0, across), (0, 0)), constant_values=255)


def pyramid(
    pixels: NDArray[np.uint8], factors: Sequence[float], multiple: int
) -> list[NDArray[np.uint8]]:
    return [padded(reduced(pixels, factor), multiple) for factor in (1.0, *factors)]


FACTORS = (2, 4, 8, 32)


@pytest.fixture
def padded_slide(tmp_path: Path) -> Path:
    levels = pyramid(texture(1900, 1500), FACTORS, TILE[0])
    assert [level.shape[:2] for level in levels[3:]] == [(256, 256), (128, 128)]
    return write_kind(tmp_path / "slide.tif", levels, KINDS["4:2:0"], tile=TILE)


def test_levels_padded_to_whole_tiles_have_their_true_downsample(
    padded_slide: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ratios of sizes would say 1.875, 3.75, 7.5 and 15 across, and other numbers down."""
    for slide in (open_slide(padded_slide), OpenSlideSlide(padded_slide)):
        assert slide.level_downsamples == (1, *FACTORS)
    assert not caplog.records


def test_every_padded_level_shows_the_same_place(padded_slide: Path) -> None:
    slide = open_slide(padded_slide)
    box = Box(1400, 1100, 384, 320)
    truth = texture(1900, 1500)[1100:1420, 1400:1784].astype(np.float32)
    for factor in FACTORS[:3]:
        size = Size(384 // factor, 320 // factor)
        found = read_box(slide, box, size).astype(np.float32)
        wanted = truth.reshape(size.height, factor, size.width, factor, 3).mean(axis=(1, 3))
        assert np.abs(found - wanted).mean() < 8


def test_the_mask_of_a_padded_slide_lies_on_its_tissue(tmp_path: Path) -> None:
    pixels = np.full((1500, 1900, 3), 245, dtype=np.uint8)
    pixels[1200:1400, 1600:1800] = texture(200, 200)
    levels = pyramid(pixels, FACTORS, TILE[0])
    path = write_kind(tmp_path / "slide.tif", levels, KINDS["LZW"], tile=TILE)
    slide = open_slide(path, mpp=Mpp(value=0.5, source="--mpp"))
    mask = find_tissue(slide, METHODS["otsu"]).mask
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    scale = slide.size_l0.width / mask.shape[1]
    assert rows[0] * scale == pytest.approx(1200, abs=2 * scale)
    assert cols[-1] * scale == pytest.approx(1800, abs=2 * scale)


def test_what_a_format_states_is_believed(tmp_path: Path) -> None:
    levels = pyramid(np.full((1500, 1900, 3), 240, dtype=np.uint8), (2, 4, 8), TILE[0])
    kind = replace(KINDS["Philips"], description=philips_description([1, 2, 4, 8]))
    path = write_kind(tmp_path / "slide.tif", levels, kind, tile=TILE)
    slide = open_slide(path)
    assert slide.properties["openslide.vendor"] == "philips"
    assert slide.level_downsamples == (1, 2, 4, 8)
    assert stated_by(2.0, Size(1920, 1536), Size(1024, 768)) == 2.0
    assert stated_by((1920 / 1024 + 2) / 2, Size(1920, 1536), Size(1024, 768)) is None


# ---------------------------------------------------------------------------- what sizes leave open


def find(levels: Sequence[NDArray[np.uint8]], tile: int | None) -> tuple[float | None, ...]:
    stored = [
        StoredLevel(
            size=Size(level.shape[1], level.shape[0]),
            tile=None if tile is None else Size(tile, tile),
        )
        for level in levels
    ]

    def read(region: Region) -> NDArray[np.uint8]:
        return levels[region.level][region.slices]

    return find_downsamples("a.tif", stored, read)


def test_one_ratio_in_both_axes_is_not_believed_where_padding_explains_it_too() -> None:
    """5 tiles to 3: a factor of 5/3, or of 2 and half a tile of nothing. The pixels know."""
    pixels = texture(1280, 1280)
    assert find([pixels, padded(reduced(pixels, 2), 256)], 256) == (1, 2)
    first, second = find([pixels, reduced(pixels, 5 / 3)], 256)
    assert (first, second) != (1, 2)
    assert second == pytest.approx(5 / 3, abs=0.003)


def test_padding_that_has_nothing_to_do_with_tiles_is_found() -> None:
    pixels = texture(1700, 1303)
    levels = [pixels, padded(reduced(pixels, 2), 32), padded(reduced(pixels, 4), 32)]
    assert [level.shape[1] for level in levels[1:]] == [864, 448], "1.97 and 3.79"
    assert find(levels, None) == (1, 2, 4)


def test_honest_fractions_stay(caplog: pytest.LogCaptureFixture) -> None:
    pixels = texture(1700, 1303)
    found = find([pixels, reduced(pixels, 1.95), reduced(pixels, 3.9), reduced(pixels, 10)], 256)
    assert found == (1, 1.95, 3.9, 10)
    assert not caplog.records


def test_levels_of_known_factors_are_not_read() -> None:
    sizes = (Size(9000, 9000), Size(4500, 4500), Size(2250, 2250), Size(562, 562), Size(180, 180))
    stored = [StoredLevel(size=size, tile=Size(256, 256)) for size in sizes]

    def read(region: Region) -> NDArray[np.uint8]:
        raise AssertionError(region)

    assert find_downsamples("a.tif", stored, read) == (1, 2, 4, 16, 50)


def test_an_empty_slide_is_padded_as_its_sizes_say() -> None:
    blank = np.full((1500, 1900, 3), 240, dtype=np.uint8)
    levels = pyramid(blank, (2, 4, 8), 128)
    assert find(levels, 128) == (1, 2, 4, 8)


def test_a_factor_that_cannot_be_known_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    blank = np.full((1280, 1280, 3), 240, dtype=np.uint8)
    assert find([blank, blank[:768, :768]], 256) == (1, 2)
    assert "a.tif: level 1 of 768×768 px may be reduced by 1.667 or 2, and shows" in caplog.text


@pytest.mark.parametrize("size", [(190, 200), (256, 256), (500, 450)], ids=str)
def test_a_label_among_the_levels_is_none(
    size: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """Of another aspect ratio, and of one that padding to whole tiles could explain."""
    pixels, label = texture(1000, 940), texture(*size, seed=9)
    found = find([pixels, reduced(pixels, 2), label], 256)
    assert found == (1, 2, None)
    assert "is not used: it is no reduced copy of the slide" in caplog.text


def test_a_slide_leaves_out_what_is_no_level(tmp_path: Path) -> None:
    pixels = texture(1000, 900)
    levels = [pixels, texture(600, 450, seed=9), reduced(pixels, 2), reduced(pixels, 4)]
    path = write_kind(tmp_path / "slide.tif", levels, KINDS["LZW"], tile=TILE)
    for slide in (open_slide(path), OpenSlideSlide(path)):
        assert slide.level_sizes == (Size(1000, 900), Size(500, 450), Size(250, 225))
        assert slide.level_downsamples == (1, 2, 4)
        assert len(slide.readers) == 3
        for index, level in ((1, levels[2]), (2, levels[3])):
            found = slide.read(Region(index, 30, 20, 200, 190))
            np.testing.assert_array_equal(found, level[20:210, 30:230])
