"""DICOM whose header lies about its colours."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from tiffs import jpeg, tissue_pixels

from histoslide.geometry import Region
from histoslide.slide import OpenSlideSlide, open_slide
from histoslide.slide.dicom_colours import DicomColours

PIXELS = tissue_pixels(64, 48)
ADOBE_YCBCR = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"


def dicom(said: bytes, frame: bytes) -> bytes:
    """The elements that count, as they lie in a file."""
    items = b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(frame))
    header = b"\x28\x00\x04\x00CS" + struct.pack("<H", len(said)) + said
    return bytes(132) + header + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + frame


def j2k(*, transformed: bool) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k", mct=transformed))


def with_adobe(data: bytes) -> bytes:
    return data[:2] + ADOBE_YCBCR + data[2:]


@pytest.mark.parametrize(
    ("said", "frame", "coded", "wrong"),
    [
        (b"RGB ", jpeg("420")(PIXELS), "YCbCr", "is_ycbcr_called_rgb"),
        (b"RGB ", jpeg("444")(PIXELS), "YCbCr", "is_ycbcr_called_rgb"),
        (b"RGB ", with_adobe(jpeg("444")(PIXELS)), "YCbCr", "is_ycbcr_called_rgb"),
        (b"RGB ", jpeg(rgb=True)(PIXELS), "RGB", None),
        (b"YBR_FULL_422", jpeg("422")(PIXELS), "YCbCr", None),
        (b"YBR_FULL_422", jpeg(rgb=True)(PIXELS), "RGB", "is_rgb_called_ycbcr"),
        (b"YBR_ICT ", j2k(transformed=False), "RGB", "is_rgb_called_ycbcr"),
        (b"YBR_RCT ", j2k(transformed=True), None, None),
        (b"RGB ", j2k(transformed=False), "RGB", None),
        (b"RGB ", b"no frame at all", None, None),
    ],
)
def test_a_frame_says_how_it_is_coded(
    tmp_path: Path, said: bytes, frame: bytes, coded: str | None, wrong: str | None
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(said, frame))
    found = DicomColours.of(path)
    assert found is not None
    assert (found.said, found.coded) == (said.decode().strip(), coded)
    for kind in ("is_ycbcr_called_rgb", "is_rgb_called_ycbcr"):
        assert getattr(found, kind) == (kind == wrong)


@pytest.mark.parametrize("data", [b"", b"x" * 300, dicom(b"RGB ", b"\xff\xd8\xff")[:-20]])
def test_what_is_not_found_is_not_judged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    assert DicomColours.of(path) is None
    assert DicomColours.of(tmp_path / "none.dcm") is None


def test_luma_and_chroma_called_rgb_are_read_as_what_they_are(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = real_data / "slides" / "small.dcm"
    data, lying = path.read_bytes(), tmp_path / "lying.dcm"
    said = b"CS\x0c\x00YBR_FULL_422"
    assert data.count(said) == 1
    lying.write_bytes(data.replace(said, b"CS\x04\x00RGB "))
    region = Region(0, 150, 100, 400, 300)
    with OpenSlideSlide(path) as honest:
        wanted = honest.read(region)
    assert not caplog.records
    with open_slide(lying) as slide:
        np.testing.assert_array_equal(slide.read(region), wanted)
    assert "PhotometricInterpretation says RGB, but the pixels are coded as YCbCr" in caplog.text
