"""TIFFs of odd kinds: read right or refused by name, never read wrong and never without end."""

import logging
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from tiffs import KINDS, Kind, position_pixels, tissue_pixels, whole, write_kind

from histoslide.errors import ResolutionError, SlideOpenError
from histoslide.geometry import Mpp, Region, Size
from histoslide.slide import OpenSlideSlide, open_slide
from histoslide.slide.tiff.directory import TiffDirectory
from histoslide.slide.tiff.ome import OmeImage
from histoslide.slide.tiff.own import OwnTiff
from histoslide.slide.tiff.salvaged import SalvagedTiff

WEBP = Kind(
    encode=lambda pixels: bytes(imagecodecs.webp_encode(pixels.copy(), lossless=True)),
    compression=50001,
    photometric=2,
)


def write(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    settings = {"photometric": "rgb", "compression": "adobe_deflate", "tile": (64, 64)}
    tifffile.imwrite(path, pixels, metadata=None, **settings | options)
    return path


# ---------------------------------------------------------------------------- loops and claims


def directories(data: bytes | bytearray, *, big: bool) -> list[tuple[int, int]]:
    """Where each directory begins, and where its link to the next one stands."""
    head, each, code = (8, 20, "<Q") if big else (2, 12, "<I")
    found = []
    (at,) = struct.unpack_from(code, data, 8 if big else 4)
    while at:
        (count,) = struct.unpack_from("<Q" if big else "<H", data, at)
        link = at + head + count * each
        found.append((at, link))
        (at,) = struct.unpack_from(code, data, link)
    return found


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("last", "first"), [(2, 0), (2, 1), (1, 1)])
def test_directories_that_form_a_loop_are_an_error_at_once(
    tmp_path: Path, big: bool, last: int, first: int
) -> None:
    levels = [np.ascontiguousarray(tissue_pixels(300, 200)[::n, ::n]) for n in (1, 2, 4)]
    path = write_kind(tmp_path / "loop.tif", levels, replace(KINDS["LZW"], bigtiff=big))
    data = bytearray(path.read_bytes())
    found = directories(data, big=big)
    struct.pack_into("<Q" if big else "<I", data, found[last][1], found[first][0])
    path.write_bytes(data)
    with pytest.raises(SlideOpenError, match=r"loop\.tif: .* form a loop .* damaged"):
        open_slide(path)


def test_a_claim_of_rows_that_no_tile_holds_is_refused(tmp_path: Path) -> None:
    path = write_kind(tmp_path / "claims.tif", [tissue_pixels(300, 200)], KINDS["LZW"])
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags["ImageLength"].valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, at, 2**31 - 1)
    path.write_bytes(data)
    with pytest.raises(SlideOpenError, match=r"claims an image of 300×2147483647 px.* lists 25:"):
        open_slide(path)


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0+" + b"\xff" * 40])
def test_a_directory_of_nonsense_has_no_pages(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    found = TiffDirectory.of(path)
    assert found is None or not found.pages
    assert TiffDirectory.of(tmp_path / "none.tif") is None


# ---------------------------------------------------------------------------- refused by name


GREY = position_pixels(150, 130)[..., 0]


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (tissue_pixels(150, 130), {"extratags": [(274, 3, 1, 3, True)]}, "Orientation 3"),
        (tissue_pixels(150, 130), {"extratags": [(274, 3, 1, 6, True)], "compression": "jpeg"},
         "Orientation 6"),
        (GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}, "1 × 16 bits a pixel"),
        (GREY.astype(np.float32), {"photometric": "minisblack"}, "1 × 32 bits a pixel"),
        (np.dstack([GREY, GREY]), {"photometric": "minisblack", "extrasamples": ["unspecified"]},
         "2 × 8 bits a pixel"),
        (tissue_pixels(150, 130), {"tile": None, "compression": "jpeg"}, "in strips, not tiles"),
        (tissue_pixels(150, 130), {"compression": "jpegxl"}, "compressed with JPEGXL"),
    ],
    ids=["turned", "turned JPEG", "16-bit grey", "float", "grey and more", "strips", "JPEG XL"],
)  # fmt: skip
def test_what_would_be_misread_is_refused_by_name(
    tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "odd.tif", pixels, **options)
    with pytest.raises(SlideOpenError, match=rf"odd\.tif .*{message}"):
        open_slide(path)
    with pytest.raises(SlideOpenError, match=message):
        open_slide(path, reader="openslide")


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (tissue_pixels(150, 130).astype(np.uint16) * 257, {}),
        (tissue_pixels(150, 130), {"extratags": [(274, 3, 1, 1, True)]}),
        (tissue_pixels(150, 130).transpose(2, 0, 1).copy(), {"planarconfig": "separate"}),
    ],
    ids=["16-bit colours", "upright", "planar"],
)
def test_what_is_read_right_stays_readable(
    tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any]
) -> None:
    path = write(tmp_path / "slide.tif", pixels, **options)
    np.testing.assert_array_equal(whole(open_slide(path), 0), tissue_pixels(150, 130))


def test_grey_of_8_bits_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", GREY, photometric="minisblack")
    assert (whole(open_slide(path), 0) == GREY[..., None]).all()


def write_ome(path: Path, pixels: NDArray[np.uint8], **metadata: Any) -> Path:
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(
            pixels,
            photometric=photometric,
            tile=(64, 64),
            compression="adobe_deflate",
            metadata={"PhysicalSizeX": 0.499, "PhysicalSizeXUnit": "µm",
                      "PhysicalSizeY": 0.499, "PhysicalSizeYUnit": "µm"} | metadata,
            subifds=2 if photometric == "rgb" else 0,
        )  # fmt: skip
        for factor in (2, 4) if photometric == "rgb" else ():
            tiff.write(
                np.ascontiguousarray(pixels[::factor, ::factor]),
                photometric=photometric,
                tile=(64, 64),
                compression="adobe_deflate",
                subfiletype=1,
                metadata=None,
            )
    return path


def test_colours_in_pages_of_their_own_are_refused(tmp_path: Path) -> None:
    planes = np.moveaxis(tissue_pixels(150, 130), 2, 0).copy()
    path = write_ome(tmp_path / "three.ome.tif", planes, axes="CYX")
    with pytest.raises(SlideOpenError, match="3 channels as pages of their own"):
        open_slide(path)
    path = tmp_path / "three.tif"
    with tifffile.TiffWriter(path) as tiff:
        for plane in planes:
            tiff.write(plane, photometric="minisblack", tile=(64, 64), metadata=None)
    with pytest.raises(SlideOpenError, match="3 channels as pages of their own"):
        open_slide(path)


# ---------------------------------------------------------------------------- read by its tiles


def test_levels_and_resolution_of_an_ome_tiff_are_those_of_its_xml(tmp_path: Path) -> None:
    pixels = tissue_pixels(512, 384)
    slide = open_slide(write_ome(tmp_path / "a.ome.tif", pixels, axes="YXS"))
    assert slide.level_sizes == (Size(512, 384), Size(256, 192), Size(128, 96))
    assert slide.level_downsamples == (1, 2, 4)
    assert slide.mpp is not None
    assert slide.mpp.value == pytest.approx(0.499)
    assert slide.mpp.source == "slide metadata"
    for level in range(3):
        step = 2**level
        np.testing.assert_array_equal(whole(slide, level), pixels[::step, ::step])
    given = open_slide(tmp_path / "a.ome.tif", mpp=Mpp(value=0.3, source="--mpp"))
    assert given.mpp == Mpp(value=0.3, source="--mpp")


@pytest.mark.parametrize(
    ("size", "unit", "um"),
    [("250", "nm", 0.25), ("0.00025", "mm", 0.25), ("0.25", None, 0.25), ("1", "pixel", None),
     ("none", None, None), ("-1", None, None)],
)  # fmt: skip
def test_lengths_of_ome_xml(size: str, unit: str | None, um: float | None) -> None:
    unit_text = "" if unit is None else f' PhysicalSizeXUnit="{unit}"'
    found = OmeImage.of(
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels SizeC="3" '
        f'PhysicalSizeX="{size}"{unit_text}/></Image></OME>'
    )
    assert found is not None
    assert found.um_x == (None if um is None else pytest.approx(um))
    assert (found.um_y, found.channels) == (None, 3)
    assert OmeImage.of("<OME><Pixels") is None
    assert OmeImage.of("Aperio") is None


def test_an_ome_tiff_of_flat_pixels_is_refused(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", tissue_pixels(512, 384), PhysicalSizeY=0.9)
    with pytest.raises(ResolutionError, match=r"0\.499 µm/px across but 0\.9 µm/px down"):
        open_slide(path)


def test_webp_is_read(tmp_path: Path) -> None:
    pixels = tissue_pixels(300, 200)
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
    slide = open_slide(write_kind(tmp_path / "slide.tif", levels, WEBP))
    assert isinstance(slide, OwnTiff)
    assert slide.level_downsamples == (1, 2)
    for level in (0, 1):
        np.testing.assert_array_equal(whole(slide, level), levels[level])


def test_a_fourth_channel_that_means_nothing_does_not_blank_the_slide(tmp_path: Path) -> None:
    pixels = tissue_pixels(300, 200)
    for fourth, name in ((0, "a.tif"), (255, "b.tif")):
        four = np.dstack([pixels, np.full(pixels.shape[:2], fourth, np.uint8)])
        path = write(tmp_path / name, four, extrasamples=["unspecified"])
        np.testing.assert_array_equal(whole(open_slide(path), 0), pixels)
    assert (whole(OpenSlideSlide(tmp_path / "a.tif"), 0) == 255).all(), "which OpenSlide blanks"


# ---------------------------------------------------------------------------- whole or cut off


def tenth(data: bytes) -> bytes:
    return data[: len(data) // 10 * 9]


@pytest.mark.parametrize("kind", [KINDS["LZW"], WEBP], ids=["LZW", "WebP"])
@pytest.mark.parametrize("change", [bytes, tenth], ids=["whole", "cut off"])
def test_only_what_is_cut_off_is_salvaged(
    tmp_path: Path, kind: Kind, change: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Some scanners write areas that OpenSlide refuses to put together; that is no damage."""
    caplog.set_level(logging.WARNING)
    pixels = tissue_pixels(300, 200)
    path = write_kind(tmp_path / "slide.tif", [pixels], kind)
    path.write_bytes(change(path.read_bytes()))
    assert (SalvagedTiff.open(path, mpp=None) is None) == (change is bytes)


def test_a_whole_file_that_openslide_refuses_is_refused_with_its_reason(tmp_path: Path) -> None:
    """As a Leica SCN whose areas differ in magnification."""
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        '<collection sizeX="1000" sizeY="1000"></collection></scn>'
    )
    path = write(tmp_path / "areas.scn", tissue_pixels(300, 200), description=description)
    with pytest.raises(SlideOpenError, match=r"areas\.scn cannot be read: .* and whole: "):
        open_slide(path)


def test_a_reader_of_its_own_can_be_pickled(tmp_path: Path) -> None:
    path = write_kind(tmp_path / "slide.tif", [tissue_pixels(300, 200)], WEBP)
    slide = open_slide(path, mpp=Mpp(value=0.5, source="--mpp"))
    copy = pickle.loads(pickle.dumps(slide))
    assert type(copy) is OwnTiff
    assert copy.facts == slide.facts
    region = Region(0, 50, 40, 100, 90)
    np.testing.assert_array_equal(copy.read(region), slide.read(region))
