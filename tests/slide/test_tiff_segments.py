"""Tiles of every kind of TIFF: pixels equal OpenSlide's, and damage is an error."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from tiffs import (
    KINDS,
    Kind,
    position_pixels,
    tissue_pixels,
    whole,
    write_kind,
)

from histoslide.geometry import Region
from histoslide.slide import OpenSlideSlide, TiffSlide, open_slide
from histoslide.slide.tiff.segments import (
    SegmentDecodeError,
    TiffSegments,
    UnsupportedSegmentsError,
)

LOSSLESS = ("JPEG 2000 33005", "deflate, predicted", "LZW", "LZW, predicted", "uncompressed")


def smooth_pixels(width: int, height: int) -> NDArray[np.uint8]:
    """Colours that change slowly and stay away from black and white, where overshoot is cut off."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x / 13) * np.cos(y / 17), np.sin(x / 29 + y / 11), np.cos(x / 19 - y / 23)
    middles, heights = (170, 120, 150), (40, 50, 30)
    channels = [m + h * wave for m, h, wave in zip(middles, heights, waves, strict=True)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_kind_is_decoded_to_what_openslide_makes_of_it(tmp_path: Path, kind: Kind) -> None:
    levels = [tissue_pixels(301, 203), tissue_pixels(150, 101)]
    path = write_kind(tmp_path / "slide.tif", levels, kind)
    with open_slide(path) as direct, OpenSlideSlide(path) as through:
        assert direct.readers == ("tiff tiles", "tiff tiles")
        assert direct.properties == through.properties
        assert direct.level_sizes == through.level_sizes
        for level in (0, 1):
            assert np.ptp(whole(through, level)) > 200
            np.testing.assert_array_equal(whole(direct, level), whole(through, level))


@pytest.mark.parametrize("shrink", [2, 4, 8, 16])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_kind_shrinks_to_the_means_of_openslides_pixels(
    tmp_path: Path, kind: Kind, shrink: int
) -> None:
    """By the decoder itself or after it; of all sizes of squares, at a region off the tiles."""
    levels = [smooth_pixels(301, 203), smooth_pixels(150, 101)]
    path = write_kind(tmp_path / "slide.tif", levels, kind)
    with open_slide(path) as direct, OpenSlideSlide(path) as through:
        region = Region(0, 32, 16, 192, 160)
        found = direct.read(region, shrink).astype(np.int16)
        assert found.shape == (160 // shrink, 192 // shrink, 3)
        squares = through.read(region).reshape(160 // shrink, shrink, -1, shrink, 3)
        assert np.abs(found - squares.mean(axis=(1, 3))).max() <= 3.5


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_kinds_hold_the_pixels_that_were_written(tmp_path: Path, name: str) -> None:
    pixels = position_pixels(301, 203)
    slide = open_slide(write_kind(tmp_path / "slide.tif", [pixels], KINDS[name]))
    assert slide.readers == ("tiff tiles",)
    np.testing.assert_array_equal(whole(slide, 0), pixels)


def test_every_pair_of_chroma_is_converted_as_openslide_does(tmp_path: Path) -> None:
    cb, cr = np.mgrid[:256, :256]
    pixels = np.concatenate(
        [np.stack([np.full_like(cb, luma), cb, cr], axis=-1) for luma in (0, 70, 128, 190, 255)]
    ).astype(np.uint8)
    path = write_kind(tmp_path / "slide.tif", [pixels], KINDS["JPEG 2000 33003"], tile=(256, 256))
    with open_slide(path) as direct, OpenSlideSlide(path) as through:
        assert direct.readers == ("tiff tiles",)
        np.testing.assert_array_equal(whole(direct, 0), whole(through, 0))


# ---------------------------------------------------------------------------- what falls back


def write_other(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    settings = {"photometric": "rgb", "compression": "adobe_deflate", "tile": (64, 64)}
    tifffile.imwrite(path, pixels, metadata=None, **settings | options)
    return path


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (position_pixels(150, 130)[..., 0], {"photometric": "minisblack"}),
        (position_pixels(150, 130)[..., 0], {"photometric": "miniswhite"}),
        (position_pixels(150, 130).astype(np.uint16) * 257, {}),
        (np.dstack([position_pixels(150, 130), np.full((130, 150), 9, np.uint8)]),
         {"extrasamples": ["unassalpha"]}),
        (position_pixels(150, 130).transpose(2, 0, 1).copy(), {"planarconfig": "separate"}),
        (position_pixels(150, 130), {"extratags": [(274, 3, 1, 3, True)]}),
        (position_pixels(150, 130), {"compression": "lzma"}),
        (position_pixels(150, 130), {"compression": "packbits"}),
    ],
    ids=["grey", "inverted grey", "16 bit", "alpha", "planar", "turned", "LZMA", "packbits"],
)  # fmt: skip
def test_other_kinds_are_not_understood(
    tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any]
) -> None:
    path = write_other(tmp_path / "slide.tif", pixels, **options)
    with (
        tifffile.TiffFile(path) as tiff,
        pytest.raises(UnsupportedSegmentsError),
    ):
        TiffSegments.of_page(tiff.pages.first)


def test_what_is_not_understood_is_read_through_openslide(tmp_path: Path) -> None:
    path = write_other(
        tmp_path / "slide.tif", position_pixels(150, 130)[..., 0], photometric="minisblack"
    )
    slide = open_slide(path)
    assert isinstance(slide, TiffSlide)
    assert slide.readers == ("openslide",)
    np.testing.assert_array_equal(whole(slide, 0), whole(OpenSlideSlide(path), 0))


def test_one_level_may_fall_back_alone(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    pixels = position_pixels(300, 200)
    with tifffile.TiffWriter(path) as tiff:
        for level, compression in enumerate(["packbits", "adobe_deflate"]):
            tiff.write(
                np.ascontiguousarray(pixels[:: level + 1, :: level + 1]),
                photometric="rgb",
                tile=(64, 64),
                compression=compression,
                subfiletype=level,
                metadata=None,
            )
    slide = open_slide(path)
    assert slide.readers == ("openslide", "tiff tiles")
    np.testing.assert_array_equal(whole(slide, 0), pixels)
    np.testing.assert_array_equal(whole(slide, 1), pixels[::2, ::2])


def test_jpegs_of_other_colours_than_their_directory_says_are_openslides(tmp_path: Path) -> None:
    kind = replace(KINDS["RGB JPEG"], photometric=6)
    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(200, 150)], kind)
    slide = open_slide(path)
    assert slide.readers == ("openslide",)
    np.testing.assert_array_equal(whole(slide, 0), whole(OpenSlideSlide(path), 0))


def test_two_images_of_one_width_are_not_told_apart(tmp_path: Path) -> None:
    levels = [position_pixels(200, 150), position_pixels(200, 150, seed=7)]
    path = write_kind(tmp_path / "slide.tif", levels, KINDS["LZW"])
    slide = open_slide(path)
    assert set(slide.readers) == {"openslide"}


# ---------------------------------------------------------------------------- damage


def tiles_for(kind: Kind, path: Path) -> TiffSegments:
    write_kind(path, [tissue_pixels(128, 96)], kind)
    with tifffile.TiffFile(path) as tiff:
        return TiffSegments.of_page(tiff.pages.first)


JPEG, J2K = KINDS["4:2:0"], KINDS["JPEG 2000 33005"]
TILE = tissue_pixels(64, 48)


def with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def with_j2k_size(data: bytes, width: int, height: int) -> bytes:
    return data[:8] + struct.pack(">2I", width, height) + data[16:]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (JPEG, b""),
        (JPEG, JPEG.encode(TILE)[:-2]),
        (JPEG, JPEG.encode(TILE)[:1200]),
        (JPEG, JPEG.encode(TILE)[:1200] + b"\xa5" * 60 + JPEG.encode(TILE)[1260:]),
        (JPEG, with_jpeg_size(JPEG.encode(TILE), 65500, 65500)),
        (JPEG, with_jpeg_size(JPEG.encode(TILE), 64, 40)),
        (JPEG, JPEG.encode(tissue_pixels(64, 64))),
        (JPEG, bytes(imagecodecs.jpeg8_encode(TILE[..., 0].copy(), level=85))),
        (JPEG, b"\xff\xd8 no JPEG at all \xff\xd9"),
        (J2K, b""),
        (J2K, J2K.encode(TILE)[:600]),
        (J2K, with_j2k_size(J2K.encode(TILE), 2**31 - 1, 2**31 - 1)),
        (J2K, J2K.encode(tissue_pixels(64, 64))),
        (J2K, bytes(imagecodecs.jpeg2k_encode(TILE[..., 0].copy(), codecformat="j2k"))),
        (KINDS["deflate"], imagecodecs.zlib_encode(TILE.tobytes()[:-1])),
        (KINDS["deflate"], imagecodecs.zlib_encode(TILE.tobytes() * 1000)),
        (KINDS["deflate"], KINDS["deflate"].encode(TILE)[:-900]),
        (KINDS["LZW"], imagecodecs.lzw_encode(TILE.tobytes()[:-1])),
        (KINDS["LZW"], KINDS["LZW"].encode(TILE)[:900]),
        (KINDS["uncompressed"], TILE.tobytes()[:-1]),
    ],
)
def test_bytes_that_are_not_the_tile_are_an_error(tmp_path: Path, kind: Kind, data: bytes) -> None:
    tiles = tiles_for(kind, tmp_path / "slide.tif")
    np.testing.assert_equal(tiles.decode(kind.encode(TILE)).shape, (48, 64, 3))
    with pytest.raises(SegmentDecodeError):
        tiles.decode(bytes(data))


def test_a_tile_size_beyond_reason_is_not_understood(tmp_path: Path) -> None:
    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(128, 96)], KINDS["LZW"])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags["TileWidth"].valueoffset
        code = tiff.pages.first.tags["TileWidth"].dtype
    assert code == 4, "a 32-bit number"
    struct.pack_into("<I", data, at, 2**20 * 16)
    path.write_bytes(data)
    with (
        tifffile.TiffFile(path) as tiff,
        pytest.raises(UnsupportedSegmentsError, match="16777216×48"),
    ):
        TiffSegments.of_page(tiff.pages.first)
