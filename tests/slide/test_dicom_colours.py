"""DICOM whose header lies about its colours."""

import pickle
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from tiffs import Encode, jpeg, tissue_pixels, whole

from histoslide.geometry import Mpp, Region, Size
from histoslide.slide import OpenSlideSlide, open_slide
from histoslide.slide.dicom_colours import DicomColours
from histoslide.tissue.masks import METHODS, find_tissue

PIXELS = tissue_pixels(64, 48)
ADOBE_YCBCR = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def dicom(said: bytes, frame: bytes) -> bytes:
    """The elements that count, as they lie in a file."""
    items = b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(frame))
    undefined, item = b"\xff\xff\xff\xff", b"\xfe\xff\x00\xe0"
    nested = item + undefined + element(0x28, 4, b"CS", b"WRONG ") + b"\xfe\xff\x0d\xe0" + bytes(4)
    header = (
        b"\x08\x00\x40\x11SQ\0\0" + undefined + nested + b"\xfe\xff\xdd\xe0" + bytes(4)
        + element(0x20, 0xE, b"UI", b"1.2.3\0") + element(0x28, 4, b"CS", said)
        + element(0x48, 6, b"UL", struct.pack("<I", 64))
        + element(0x48, 7, b"UL", struct.pack("<I", 48)) + element(0x48, 8, b"LO", b"")
    )  # fmt: skip
    return bytes(128) + b"DICM" + header + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + frame


def j2k(*, transformed: bool) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k", mct=transformed))


def with_adobe(data: bytes) -> bytes:
    return data[:2] + ADOBE_YCBCR + data[2:]


def without_jfif(data: bytes) -> bytes:
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[4 + struct.unpack(">H", data[4:6])[0] :]


@pytest.mark.parametrize(
    ("said", "frame", "coded", "wrong"),
    [
        (b"RGB ", jpeg("420")(PIXELS), "YCbCr", "is_ycbcr_called_rgb"),
        (b"RGB ", jpeg("444")(PIXELS), "YCbCr", "is_ycbcr_called_rgb"),
        (b"RGB ", with_adobe(jpeg("444")(PIXELS)), "YCbCr", "is_ycbcr_called_rgb"),
        (b"RGB ", jpeg(rgb=True)(PIXELS), "RGB", None),
        (b"YBR_FULL_422", jpeg("422")(PIXELS), "YCbCr", None),
        (b"YBR_FULL_422", jpeg(rgb=True)(PIXELS), "RGB", "is_rgb_called_ycbcr"),
        (b"RGB ", without_jfif(jpeg("444")(PIXELS)), None, "is_doubtful"),
        (b"YBR_FULL_422", without_jfif(jpeg("444")(PIXELS)), None, None),
        (b"YBR_ICT ", j2k(transformed=False), None, "is_doubtful"),
        (b"YBR_RCT ", j2k(transformed=True), "RGB", None),
        (b"RGB ", j2k(transformed=False), None, "is_doubtful"),
        (b"RGB ", b"no frame at all", None, "is_doubtful"),
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
    assert (found.series, found.size) == ("1.2.3", Size(64, 48))
    for kind in ("is_ycbcr_called_rgb", "is_rgb_called_ycbcr", "is_doubtful"):
        assert getattr(found, kind) == (kind == wrong)


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 300, bytes(128) + b"DICM" + bytes(900), dicom(b"RGB ", b"\xff\xd8\xff")[:-20]],
)
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
        assert "says RGB, but the pixels are shown as luma and chroma" in slide.facts.warnings[0]
    assert slide.facts.warnings[0] in caplog.text


def stained(width: int = 512, height: int = 256) -> NDArray[np.uint8]:
    """Glass on the left, pink tissue with violet nuclei on the right."""
    y, x = np.mgrid[:height, :width]
    nuclei = (x // 6 + y // 6) % 3 == 0
    stain = np.where(nuclei[..., None], (120, 80, 150), (205, 130, 185))
    pixels = np.where((x < width // 3)[..., None], (243, 242, 243), stain)
    return (pixels + np.random.default_rng(0).normal(0, 2, pixels.shape)).astype(np.uint8)


def luma_and_chroma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The conversion of JFIF, in floating point."""
    weights = np.array(
        [[0.299, 0.587, 0.114], [-0.16874, -0.33126, 0.5], [0.5, -0.41869, -0.08131]]
    )
    return np.rint(rgb @ weights.T + (0, 128, 128)).clip(0, 255).astype(np.uint8)


def plain_j2k(pixels: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", mct=False, reversible=True))


JPEG, J2K, RAW = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.1"


def write(
    like: Path, path: Path, said: str, syntax: str, encode: Encode, pixels: NDArray[np.uint8],
    series: str = "1.2.3",
) -> Path:  # fmt: skip
    """A slide with frames of 256 × 256 pixels and the header of another."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(like)
    height, width = pixels.shape[:2]
    frames = [
        encode(np.ascontiguousarray(pixels[y : y + 256, x : x + 256]))
        for y in range(0, height, 256)
        for x in range(0, width, 256)
    ]
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.{width}"
    data.SeriesInstanceUID, data.PhotometricInterpretation = series, said
    data.NumberOfFrames = len(frames)
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    raw = syntax == RAW
    data.PixelData = b"".join(frames) if raw else pydicom.encaps.encapsulate(frames)
    data["PixelData"].is_undefined_length = not raw
    data.save_as(path)
    return path


@pytest.mark.parametrize(
    ("said", "syntax", "encode", "wrong"),
    [
        ("RGB", JPEG, jpeg("444"), True),
        ("RGB", JPEG, lambda pixels: without_jfif(jpeg("444")(pixels)), True),
        ("RGB", JPEG, jpeg(rgb=True), False),
        ("RGB", JPEG, lambda pixels: jpeg(rgb=True)(pixels).replace(b"Adobe", b"Other"), False),
        ("YBR_FULL_422", JPEG, jpeg("444"), False),
        ("YBR_ICT", J2K, lambda pixels: plain_j2k(luma_and_chroma(pixels)), True),
        ("YBR_ICT", J2K, plain_j2k, False),
        ("RGB", J2K, lambda pixels: plain_j2k(luma_and_chroma(pixels)), True),
        ("RGB", RAW, lambda pixels: luma_and_chroma(pixels).tobytes(), True),
        ("RGB", RAW, lambda pixels: pixels.tobytes(), False),
    ],
    ids=["JPEG", "JPEG without a word", "true JPEG", "true, without a word", "true luma",
         "ICT not done", "ICT not needed", "J2K", "raw", "true raw"],
)  # fmt: skip
def test_colours_are_right_whatever_the_header_says(
    real_data: Path, tmp_path: Path, said: str, syntax: str, encode: Encode, wrong: bool
) -> None:
    pixels = stained()
    like = real_data / "slides" / "small.dcm"
    path = write(like, tmp_path / "a.dcm", said, syntax, encode, pixels)
    slide = open_slide(path, mpp=Mpp(value=8, source="test"))
    assert np.abs(whole(slide, 0) - pixels).mean() < 8
    colours = [it for it in slide.facts.warnings if "overrules" not in it]  # of the resolution
    assert [f"says {said}, but" in warning for warning in colours] == [True] * wrong
    assert find_tissue(slide, METHODS["none"]).warnings == slide.facts.warnings
    again = pickle.loads(pickle.dumps(slide))
    np.testing.assert_array_equal(whole(again, 0), whole(slide, 0))


def test_each_level_of_a_series_is_judged_by_itself(real_data: Path, tmp_path: Path) -> None:
    like, fine = real_data / "slides" / "small.dcm", stained(1024, 512)
    coarse = np.ascontiguousarray(fine[::2, ::2])
    path = write(like, tmp_path / "a.dcm", "RGB", JPEG, jpeg(rgb=True), fine)
    write(like, tmp_path / "b.dcm", "RGB", JPEG, jpeg("444"), coarse)
    write(like, tmp_path / "c.dcm", "RGB", JPEG, jpeg("444"), fine, series="1.2.4")
    slide = open_slide(path, mpp=Mpp(value=8, source="test"))
    for level, pixels in enumerate((fine, coarse)):
        assert np.abs(whole(slide, level) - pixels).mean() < 8


def test_colours_that_were_converted_too_often_are_named_with_the_mask(
    real_data: Path, tmp_path: Path
) -> None:
    like = real_data / "slides" / "small.dcm"
    path = write(like, tmp_path / "a.dcm", "YBR_FULL_422", JPEG, jpeg(rgb=True), stained())
    slide = open_slide(path, mpp=Mpp(value=8, source="test"))
    found = find_tissue(slide, METHODS["otsu"]).warnings
    (coded,) = (at for at, it in enumerate(found) if "coded as red, green and blue" in it)
    (often,) = (at for at, it in enumerate(found) if "converted once too often" in it)
    assert coded < often
