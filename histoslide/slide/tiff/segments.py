"""The compressed segments of one image in a TIFF, and how each becomes RGB pixels.

A segment is what TIFF calls a tile; here a tile is the square that a network sees.

Only what is understood for certain is described: eight bits a sample, three interleaved samples and
perhaps a fourth without meaning, and the compressions of slide scanners. The pixels of a segment
are those that OpenSlide makes of it, and what it calls damaged is an error here as well.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from histoslide.geometry import Size
from histoslide.slide.shrinking import average_squares
from histoslide.slide.tiff.codestream import BrokenCodestreamError, check_codestream
from histoslide.slide.ycbcr import rgb_of_ycbcr

MAX_SEGMENT_PX = 4096 * 4096
"""Largest segment that is decoded; beyond it the directory of a file is more likely nonsense."""

_SAMPLES = 3
_MOST_SHRUNK = 8
"""A JPEG is made of squares of 8 pixels a side, each of which can be decoded to one."""

_SHRUNK_ALIKE = frozenset({"444", "420"})
"""Kinds of chroma subsampling, alike across and down, that decoders shrink as well as luma. Of the
others they average chroma over twice as many pixels as was asked for."""

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"

_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""The part of a JPEG that says: three components, not transformed, so red, green and blue."""

_J2K_START = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream and of its size segment, which always comes first."""


class UnsupportedSegmentsError(Exception):
    """An image of a TIFF is of a kind that is not understood for certain; the text says why."""


class SegmentDecodeError(Exception):
    """The bytes of a segment are not what the directory promises; the text says why."""


class Coding(enum.Enum):
    """How the pixels of a segment are written."""

    NONE = "uncompressed"
    LZW = "LZW"
    DEFLATE = "deflate"
    JPEG_RGB = "JPEG of red, green and blue"
    JPEG_YCBCR = "JPEG of luma and chroma"
    JPEG_2000_RGB = "JPEG 2000 of red, green and blue"
    JPEG_2000_YCBCR = "JPEG 2000 of luma and chroma"
    WEBP = "WebP"


_CODINGS = {
    (1, 2): Coding.NONE,
    (5, 2): Coding.LZW,
    (8, 2): Coding.DEFLATE,
    (32946, 2): Coding.DEFLATE,
    (7, 2): Coding.JPEG_RGB,
    (7, 6): Coding.JPEG_YCBCR,
    (33005, 2): Coding.JPEG_2000_RGB,
    (33003, 2): Coding.JPEG_2000_YCBCR,
    (33003, 6): Coding.JPEG_2000_YCBCR,
    (50001, 2): Coding.WEBP,
}
"""By the TIFF tags Compression and PhotometricInterpretation. Aperio's 33003 is luma and chroma
whatever the second tag says."""

_PREDICTABLE = (Coding.LZW, Coding.DEFLATE)

_PLAIN = (Coding.NONE, *_PREDICTABLE)

_UNSPECIFIED = 0
"""Meaning of a further sample, by the tag ExtraSamples: none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffSegments:
    """Where the segments of one image lie in the file, and what they are."""

    size: Size
    """Of the image in pixels; segments at its right and lower edge reach beyond it."""
    each: Size
    """Of every segment in pixels."""
    offsets: NDArray[np.uint64]
    """First byte of each segment in the file, shape (segments down, segments across)."""
    byte_counts: NDArray[np.uint64]
    """Bytes of each segment, shape (segments down, segments across); 0 where there is none."""
    coding: Coding
    """How the pixels are written."""
    tables: bytes
    """What all JPEGs of the image share and leave out, without start and end markers."""
    predicted: bool
    """Whether each sample is written as its difference from the pixel to the left."""
    samples: int = _SAMPLES
    """Of a pixel: red, green, blue, and perhaps one more, which means nothing."""

    @classmethod
    def of_page(cls, page: tifffile.TiffPage) -> TiffSegments:
        """Describe a page of a TIFF whose file is open.

        Raises:
            UnsupportedSegmentsError: its segments are not understood for certain.
        """
        coding = _coding(page)
        size, each = Size(page.imagewidth, page.imagelength), Size(page.tilewidth, page.tilelength)
        if each.width * each.height > MAX_SEGMENT_PX:
            raise UnsupportedSegmentsError(f"segments of {each.width}×{each.height} px")
        shape = (-(-size.height // each.height), -(-size.width // each.width))
        offsets = np.asarray(page.dataoffsets, dtype=np.uint64)
        byte_counts = np.asarray(page.databytecounts, dtype=np.uint64)
        if not offsets.size == byte_counts.size == shape[0] * shape[1]:
            raise UnsupportedSegmentsError(f"{offsets.size} segments where {shape} are needed")
        tables = page.jpegtables or b""
        if tables and not (tables.startswith(_JPEG_START) and tables.endswith(_JPEG_END)):
            raise UnsupportedSegmentsError("JPEG tables without start or end")
        return cls(
            size=size,
            each=each,
            offsets=offsets.reshape(shape),
            byte_counts=byte_counts.reshape(shape),
            coding=coding,
            tables=tables[2:-2],
            predicted=coding in _PREDICTABLE and page.predictor == 2,
            samples=page.samplesperpixel,
        )

    @property
    def max_bytes(self) -> int:
        """More bytes than any coding needs for a segment; a larger count is nonsense."""
        return 2 * self.samples * self.each.width * self.each.height + 2**16

    def shrunk_by_decoding(self, shrink: int) -> int:
        """How much of a reduction by a power of two ``decode`` does itself; 1 for nothing of it."""
        if self.coding not in {Coding.JPEG_RGB, Coding.JPEG_YCBCR}:
            return 1
        while shrink > _MOST_SHRUNK or self.each.width % shrink or self.each.height % shrink:
            shrink //= 2
        return shrink

    def canvas(self, shrink: int = 1) -> NDArray[np.uint8]:
        """Memory for the pixels of a segment, to decode into."""
        shape = (self.each.height // shrink, self.each.width // shrink, _SAMPLES)
        return np.empty(shape, dtype=np.uint8)

    def decode(
        self, data: bytes, *, out: NDArray[np.uint8] | None = None, shrink: int = 1
    ) -> NDArray[np.uint8]:
        """Decode the bytes of one segment.

        Args:
            data: of the segment, as the file holds them.
            out: a ``canvas`` to write over; None for a new one.
            shrink: as ``shrunk_by_decoding`` gives it: squares of so many pixels a side are
                averaged. A JPEG decoder has their means from fewer terms of the cosine transform.

        Returns:
            RGB, shape (each.height / shrink, each.width / shrink, 3).

        Raises:
            SegmentDecodeError: the bytes are damaged, or not of the size or colours promised.
        """
        pixels = self.canvas(shrink) if out is None else out
        try:
            match self.coding:
                case Coding.JPEG_RGB | Coding.JPEG_YCBCR:
                    return self._decode_jpeg(data, pixels, shrink)
                case Coding.JPEG_2000_RGB:
                    return self._decode_jpeg_2000(data, pixels)
                case Coding.JPEG_2000_YCBCR:
                    return rgb_of_ycbcr(self._decode_jpeg_2000(data, pixels))
                case Coding.WEBP:
                    return self._decode_webp(data, pixels)
                case _:
                    return self._decode_plain(data, pixels)
        except SegmentDecodeError:
            raise
        except Exception as error:  # every codec has errors of its own
            raise SegmentDecodeError(f"{self.coding.value}: {error}") from error

    def _decode_jpeg(
        self, data: bytes, pixels: NDArray[np.uint8], shrink: int
    ) -> NDArray[np.uint8]:
        if not data.startswith(_JPEG_START):
            raise SegmentDecodeError("no JPEG")
        rgb = self.coding is Coding.JPEG_RGB
        # The directory decides on the colours; a JPEG that says nothing is taken for luma/chroma.
        head = (_ADOBE_RGB if rgb else b"") + self.tables
        whole = _JPEG_START + head + data[2:] if head else data
        height, width, space, subsampling = simplejpeg.decode_jpeg_header(whole)
        if (width, height) != (self.each.width, self.each.height):
            raise SegmentDecodeError(f"a JPEG of {width}×{height} px")
        if space != ("RGB" if rgb else "YCbCr"):
            raise SegmentDecodeError(f"a JPEG of {space}")
        if shrink > 1 and subsampling not in _SHRUNK_ALIKE:
            pixels[:] = average_squares(self._decode_jpeg(data, self.canvas(), 1), shrink)
            return pixels
        # Strict, because a decoder otherwise paints over what is damaged and only warns of it.
        return simplejpeg.decode_jpeg(
            whole, colorspace="RGB", fastdct=False, fastupsample=False, buffer=pixels,
            min_height=pixels.shape[0], min_width=pixels.shape[1], min_factor=shrink, strict=True,
        )  # fmt: skip

    def _decode_jpeg_2000(self, data: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._check_jpeg_2000(data)
        try:
            check_codestream(data)
        except BrokenCodestreamError as error:
            raise SegmentDecodeError(f"a damaged JPEG 2000: {error}") from error
        return imagecodecs.jpeg2k_decode(data, numthreads=1, out=pixels)

    def _check_jpeg_2000(self, data: bytes) -> None:
        """Refuse a codestream that is not exactly a segment, before memory is taken for it.

        ISO/IEC 15444-1, A.5.1: after the markers and a length follow capabilities, extent and
        origin of the image, of its tiles, and depth and subsampling of each component.
        """
        numbers = struct.unpack_from(">4s2H8IH9B", data)
        start, (right, bottom, left, top) = numbers[0], numbers[3:7]
        if start != _J2K_START or (left, top) != (0, 0):
            raise SegmentDecodeError("no JPEG 2000 codestream")
        if (right, bottom) != (self.each.width, self.each.height):
            raise SegmentDecodeError(f"a JPEG 2000 of {right}×{bottom} px")
        components, each = numbers[11], numbers[12:]
        if components != _SAMPLES or each != (7, 1, 1) * _SAMPLES:
            raise SegmentDecodeError("a JPEG 2000 that is not 3 full components of 8 bits")

    def _decode_webp(self, data: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = _webp_size(data)
        if size != self.each:
            raise SegmentDecodeError(f"a WebP of {size.width}×{size.height} px")
        pixels[:] = imagecodecs.webp_decode(data, hasalpha=False)
        return pixels

    def _decode_plain(self, data: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.samples > _SAMPLES:
            whole = np.empty((*pixels.shape[:2], self.samples), dtype=np.uint8)
            pixels[:] = self._decode_samples(data, whole)[..., :_SAMPLES]
            return pixels
        return self._decode_samples(data, pixels)

    def _decode_samples(self, data: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        flat = pixels.reshape(-1)
        if self.coding is Coding.NONE:
            flat[:] = np.frombuffer(data, dtype=np.uint8, count=flat.size)
            return pixels
        deflated = self.coding is Coding.DEFLATE
        decode = imagecodecs.deflate_decode if deflated else imagecodecs.lzw_decode
        written = decode(data, out=flat.data)
        if len(written) < flat.size:
            raise SegmentDecodeError(f"{len(written)} of {flat.size} bytes")
        if self.predicted:
            imagecodecs.delta_decode(pixels, axis=1, out=pixels)
        return pixels


def _coding(page: tifffile.TiffPage) -> Coding:
    if not page.is_tiled or page.imagedepth != 1 or page.tiledepth != 1:
        raise UnsupportedSegmentsError("not tiled, or more than a plane")
    further = tuple(int(meaning) for meaning in page.extrasamples)
    if page.samplesperpixel != _SAMPLES + len(further) or page.planarconfig != 1:
        raise UnsupportedSegmentsError("not three interleaved samples")
    if further not in ((), (_UNSPECIFIED,)):
        raise UnsupportedSegmentsError(f"further samples {further}")
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise UnsupportedSegmentsError(f"samples of {page.dtype}")
    for name, wanted in (("Orientation", 1), ("FillOrder", 1)):
        tag = page.tags.get(name)
        if tag is not None and tag.value != wanted:
            raise UnsupportedSegmentsError(f"{name} {tag.value}")
    coding = _CODINGS.get((int(page.compression), int(page.photometric)))
    if coding is None:
        raise UnsupportedSegmentsError(
            f"compression {page.compression} of photometric interpretation {page.photometric}"
        )
    if further and coding not in _PLAIN:
        raise UnsupportedSegmentsError(f"further samples in {coding.value}")
    if coding in _PREDICTABLE and page.predictor not in (1, 2):
        raise UnsupportedSegmentsError(f"predictor {page.predictor}")
    return coding


def _webp_size(data: bytes) -> Size:
    """Size of a WebP, before memory is taken for it (RFC 9649, 2.5 to 2.7)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        raise SegmentDecodeError("no WebP")
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Size(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    return Size(width + 1, height + 1)
