"""Whether the pixels of a DICOM slide are coded in the colours that its header says.

OpenSlide decodes JPEG by the header's PhotometricInterpretation, and a header that lies is not
refused: the slide turns salmon and blue-green, or magenta. JPEG says itself how it is coded, as a
rule. Of JPEG 2000 OpenSlide undoes the codestream's own transform and no other, whatever the header
says.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histoslide.geometry import Size

Colours = Literal["RGB", "YCbCr"]

_MAGIC_AT, _MAGIC = 128, b"DICM"

_LONG_KINDS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
               b"UV")  # fmt: skip
"""Value representations whose length takes four bytes, after two that are empty."""

_NO_LENGTH = 2**32 - 1

_ITEM_GROUP = 0xFFFE

_ENDS = ((_ITEM_GROUP, 0xE00D), (_ITEM_GROUP, 0xE0DD))
"""Of an item and of a sequence."""

_LONGEST = 64
"""Bytes of the longest value that is looked for, a UID."""

_SERIES, _INTERPRETATION = (0x0020, 0x000E), (0x0028, 0x0004)

_COLUMNS, _ROWS = (0x0048, 0x0006), (0x0048, 0x0007)
"""Of the whole image, not of a frame."""

_PIXELS = b"\xe0\x7f\x10\x00O"
"""Beginning of element (7FE0,0010), explicit and little-endian, as OpenSlide reads it."""

_HEADER_BYTES = 2**16
"""Bytes of a frame in which its markers are looked for."""

_MAX_DEPTH = 16

_J2K_START, _J2K_COD, _J2K_SOT = b"\xff\x4f\xff\x51", 0x52, 0x90

_SOFS = frozenset({0xC0, 0xC1, 0xC2})

_RGB_NAMES = (ord("R"), ord("G"), ord("B"))

_Tag = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DicomColours:
    """What header and first frame of a file say."""

    series: str
    """SeriesInstanceUID, which the levels of a slide share."""
    size: Size
    """Of the image, which is a level as a rule."""
    said: str
    """PhotometricInterpretation."""
    coded: Colours | None
    """What decoding the frame gives, apart from what the header makes of it; None where the frame
    does not say."""
    is_jpeg: bool
    """Whether it is OpenSlide that converts luma and chroma, where the header says so."""

    @classmethod
    def of(cls, path: Path) -> DicomColours | None:
        """Look into a file; None where it is no DICOM image with all of this."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
                if m[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
                    return None
                known, end = _header(m)
                frame = _first_frame(m, end)
                return cls(
                    series=_text(known[_SERIES]),
                    size=Size(*(int.from_bytes(known[tag], "little") for tag in (_COLUMNS, _ROWS))),
                    said=_text(known[_INTERPRETATION]),
                    coded=_coded(frame),
                    is_jpeg=frame.startswith(b"\xff\xd8"),
                )
        except (OSError, ValueError, KeyError, struct.error, IndexError):
            return None

    @classmethod
    def of_series(cls, path: Path) -> list[DicomColours]:
        """The same of all files beside one that belong to its series, that one first."""
        first = cls.of(path)
        if first is None:
            return []
        others = (cls.of(other) for other in _files_beside(path))
        return [first, *(other for other in others if other and other.series == first.series)]

    @property
    def is_ycbcr_called_rgb(self) -> bool:
        """Luma and chroma that are shown as red, green and blue: exactly undone afterwards."""
        return self.said == "RGB" and self.coded == "YCbCr"

    @property
    def is_rgb_called_ycbcr(self) -> bool:
        """Colours that are converted once too often, and lost where they were cut off."""
        return self.is_jpeg and self.said.startswith("YBR") and self.coded == "RGB"

    @property
    def is_doubtful(self) -> bool:
        """Whether only the pixels tell if what is shown as colours is luma and chroma."""
        return self.coded is None and not (self.is_jpeg and self.said.startswith("YBR"))


def _files_beside(path: Path) -> list[Path]:
    return [other for other in sorted(path.parent.iterdir()) if other != path and other.is_file()]


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _header(data: mmap.mmap) -> tuple[dict[_Tag, bytes], int]:
    """The short elements up to the size of the image, and where the next one begins."""
    found: dict[_Tag, bytes] = {}
    at = _MAGIC_AT + len(_MAGIC)
    while True:
        tag, length, value = _element(data, at)
        if tag > _ROWS:
            return found, at
        if length <= _LONGEST:
            found[tag] = bytes(data[value : value + length])
        at = _after(data, value, 0) if length == _NO_LENGTH else value + length


def _element(data: mmap.mmap, at: int) -> tuple[_Tag, int, int]:
    """Tag, length and place of the value of the element at a place."""
    group, number = struct.unpack_from("<HH", data, at)
    kind = bytes(data[at + 4 : at + 6])
    if group == _ITEM_GROUP:
        return (group, number), struct.unpack_from("<I", data, at + 4)[0], at + 8
    if kind in _LONG_KINDS:
        return (group, number), struct.unpack_from("<I", data, at + 8)[0], at + 12
    if not kind.isalpha():
        raise ValueError("no element")
    return (group, number), struct.unpack_from("<H", data, at + 6)[0], at + 8


def _after(data: mmap.mmap, at: int, depth: int) -> int:
    """Where what lies in a sequence or item without a length ends."""
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    while True:
        tag, length, value = _element(data, at)
        if tag in _ENDS:
            return value
        at = _after(data, value, depth + 1) if length == _NO_LENGTH else value + length


def _first_frame(data: mmap.mmap, at: int) -> bytes:
    """The beginning of the first frame, which follows the item of offsets; empty if not coded."""
    at = data.find(_PIXELS, at)
    if at < 0:
        raise ValueError("no pixels")
    _, length, at = _element(data, at)
    if length != _NO_LENGTH:
        return b""
    _, length, offsets = _element(data, at)
    _, length, frame = _element(data, offsets + length)
    return bytes(data[frame : frame + min(length, _HEADER_BYTES)])


def _coded(frame: bytes) -> Colours | None:
    if frame.startswith(_J2K_START):
        return _coded_in_j2k(frame)
    if not frame.startswith(b"\xff\xd8"):
        return None
    at, jfif = 2, False
    while frame[at] == 0xFF:
        marker, length = frame[at + 1], struct.unpack_from(">H", frame, at + 2)[0]
        body = frame[at + 4 : at + 2 + length]
        if marker == 0xEE and body.startswith(b"Adobe"):
            return "YCbCr" if body[11] else "RGB"
        jfif = jfif or (marker == 0xE0 and body.startswith(b"JFIF"))
        if marker in _SOFS:
            names, sampling = tuple(body[6::3]), body[7::3]
            if names == _RGB_NAMES:
                return "RGB"
            # Nobody halves red against blue: what is subsampled is chroma.
            return "YCbCr" if jfif or len(set(sampling)) > 1 else None
        at += 2 + length
    return None


def _coded_in_j2k(frame: bytes) -> Colours | None:
    """RGB where the codestream's own transform is on, which decoders undo whatever a header says.

    Without one it may hold anything (ISO/IEC 15444-1, A.6.1).
    """
    at = 2
    while frame[at] == 0xFF and frame[at + 1] != _J2K_SOT:
        if frame[at + 1] == _J2K_COD:
            return "RGB" if frame[at + 8] else None
        at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None
