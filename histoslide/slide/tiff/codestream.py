"""Whether a JPEG 2000 codestream is whole, as far as that can be known without a checksum.

OpenJPEG decodes what it is given: half a tile that was overwritten with zeros comes out as
rubbish, without an error. What the format promises is therefore looked at first (ISO/IEC 15444-1):
tile-parts that follow each other without a gap up to the end marker (A.4), no two bytes inside that
only markers have (B.10.1, C.3.1), and no long run of one byte, which an arithmetic coder does not
write. Damage that keeps to all this, such as a few changed bits, cannot be seen.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_SOC, _SOT, _SOD, _EOC, _COD = 0xFF4F, 0xFF90, 0xFF93, 0xFFD9, 0xFF52

_SOP, _EPH = 0x91, 0x92
"""Second bytes of the markers that may stand among the data, before and after packet headers."""

_LAST_OF_DATA = 0x8F
"""The largest byte that follows 0xFF in data; beyond it begin the markers."""

_LONGEST_RUN = 32
"""Equal bytes in a row that are no sign of damage yet; chance alone makes four of them."""


class BrokenCodestreamError(Exception):
    """A codestream is not whole; the text says why."""


def check_codestream(data: bytes) -> None:
    """Look for signs of damage.

    Args:
        data: from the marker SOC on; bytes after EOC are ignored.

    Raises:
        BrokenCodestreamError: there is one.
    """
    try:
        _check(data)
    except struct.error:
        raise BrokenCodestreamError("the codestream ends before its end") from None


def _check(data: bytes) -> None:
    at, packets = 2, 0
    while (marker := _number(data, at)) != _SOT:
        if marker == _COD:
            packets = _packets(data, at)
        if marker < _SOC:
            raise BrokenCodestreamError(f"no marker at byte {at} of the codestream")
        at += 2 + _number(data, at + 2)
    while (marker := _number(data, at)) != _EOC:
        if marker != _SOT:
            raise BrokenCodestreamError(f"no tile-part at byte {at} of the codestream")
        (length,) = struct.unpack_from(">I", data, at + 6)
        end = at + length if length else data.rindex(b"\xff\xd9") if b"\xff\xd9" in data else 0
        if not at + 14 <= end <= len(data) - 2:
            raise BrokenCodestreamError("the codestream ends before its end")
        start = at + 12
        while _number(data, start) != _SOD:
            start += 2 + _number(data, start + 2)
        _check_data(np.frombuffer(data, np.uint8, end - start - 2, start + 2), packets)
        at = end


def _number(data: bytes, at: int) -> int:
    return int(struct.unpack_from(">H", data, at)[0])


def _packets(data: bytes, at: int) -> int:
    """At least as many packets as a tile has, each of which may be a single byte 0.

    A.5.1 and A.6.1: every precinct of every resolution has one for each component and layer; the
    sides of precincts are powers of two, by default so large that there is one.
    """
    (across, down), components = struct.unpack_from(">2I", data, 24), data[41]
    style, _, layers, _, levels = struct.unpack_from(">BBHBB", data, at + 4)
    precincts = 0
    for resolution in range(levels + 1):
        side = data[at + 14 + resolution] if style & 1 else 0xFF
        shrink = levels - resolution
        wide, high = (across >> shrink >> (side & 15)), (down >> shrink >> (side >> 4))
        precincts += (wide + 2) * (high + 2)
    return int(precincts * components * layers)


def _check_data(data: NDArray[np.uint8], packets: int) -> None:
    after = data[1:][data[:-1] == 0xFF]
    if ((after > _LAST_OF_DATA) & (after != _SOP) & (after != _EPH)).any():
        raise BrokenCodestreamError("bytes that JPEG 2000 does not write")
    changes = np.flatnonzero(np.diff(data, prepend=~data[:1], append=~data[-1:]))
    runs = np.diff(changes)
    if not runs.size:
        return
    zero = data[changes[:-1]] == 0
    if (runs > np.where(zero, packets + _LONGEST_RUN, _LONGEST_RUN)).any():
        raise BrokenCodestreamError(f"{runs.max()} equal bytes in a row")
