"""Whether the pixels of a DICOM slide are coded in the colours that its header says.

OpenSlide decodes by the header's PhotometricInterpretation, and a header that lies is not refused:
the slide turns salmon or blue-green. JPEG says itself how it is coded, as a rule.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Colours = Literal["RGB", "YCbCr"]

_INTERPRETATION = b"\x28\x00\x04\x00CS"
"""Element (0028,0004), explicit and little-endian."""

_PIXELS = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
"""Element (7FE0,0010) of encapsulated frames."""

_ITEM = b"\xfe\xff\x00\xe0"

_HEADER_BYTES = 2**16
"""Bytes of a frame in which its markers are looked for."""

_J2K_START, _J2K_COD, _J2K_SOT = b"\xff\x4f\xff\x51", 0x52, 0x90

_SOFS = frozenset({0xC0, 0xC1, 0xC2})

_RGB_NAMES = (ord("R"), ord("G"), ord("B"))


@dataclass(frozen=True, kw_only=True)
class DicomColours:
    """What header and first frame of a file say."""

    said: str
    """PhotometricInterpretation."""
    coded: Colours | None
    """How the frame is coded, where it says so."""

    @classmethod
    def of(cls, path: Path) -> DicomColours | None:
        """Look into a file; None where header or frame are not found."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
                at, pixels = m.find(_INTERPRETATION), m.find(_PIXELS)
                if not 0 < at < pixels:
                    return None
                (length,) = struct.unpack_from("<H", m, at + 6)
                said = m[at + 8 : at + 8 + length].decode("ascii", "replace").strip(" \0")
                return cls(said=said, coded=_coded(_first_frame(m, pixels + len(_PIXELS))))
        except (OSError, ValueError, struct.error, IndexError):
            return None

    @property
    def is_ycbcr_called_rgb(self) -> bool:
        """Luma and chroma that are shown as red, green and blue: exactly undone afterwards."""
        return self.said == "RGB" and self.coded == "YCbCr"

    @property
    def is_rgb_called_ycbcr(self) -> bool:
        """Colours that are converted once too often, and lost where they were cut off."""
        return self.said.startswith("YBR") and self.coded == "RGB"


def _first_frame(data: mmap.mmap, at: int) -> bytes:
    """The beginning of the first frame, which follows the item of offsets."""
    for _ in range(2):
        if data[at : at + 4] != _ITEM:
            raise ValueError("no item")
        (length,) = struct.unpack_from("<I", data, at + 4)
        at, last = at + 8 + length, at + 8
    return bytes(data[last : last + min(length, _HEADER_BYTES)])


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
    """RGB where the codestream's own transform is off: a decoder that undoes one shows it wrongly.

    ISO/IEC 15444-1, A.6.1: with the transform on, decoders undo it whatever the header says.
    """
    at = 2
    while frame[at] == 0xFF and frame[at + 1] != _J2K_SOT:
        if frame[at + 1] == _J2K_COD:
            return None if frame[at + 8] else "RGB"
        at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None
