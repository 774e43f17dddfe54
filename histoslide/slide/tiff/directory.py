"""What the directories of a TIFF say of its images, read before any library is let at the file.

Libraries follow a chain of directories wherever it leads, also in a circle, and take memory for
what a tag claims. Here a directory is a few numbers, each checked against the file's size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import tifffile

from histoslide.errors import SlideOpenError
from histoslide.geometry import Size

_MOST_PAGES = 4096
"""Images in one file; slides have about ten."""

_MOST_TAGS = 1024
"""Tags of one image; slides have about twenty."""

_MOST_TEXT = 4 * 2**20
"""Bytes of a description that are read; OME-XML of many images takes a megabyte."""

_MOST_NUMBERS = 64
"""Numbers of one tag that are read: no more is needed of any but the lists of segments."""

_NDPI_FORMAT = 65420
"""A tag that only Hamamatsu's files have, whose offsets are longer than TIFF allows."""

_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""How numbers of TIFF's types are unpacked: BYTE, SHORT, LONG, IFD, LONG8, IFD8."""

_ASCII = 2

_BYTES_EACH = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8,
               13: 4, 16: 8, 17: 8, 18: 8}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TiffPage:
    """One image, as its directory describes it."""

    size: Size | None
    """In pixels; None where the directory does not say."""
    tile: Size | None
    """Of the tiles it is stored in; None where it is not."""
    listed_tiles: int
    """Tiles whose places the directory lists."""
    bits: tuple[int, ...]
    """Of each sample."""
    samples: int
    """Of a pixel."""
    separate: bool
    """Whether each sample lies in tiles of its own."""
    compression: int
    """The tag Compression."""
    photometric: int
    """The tag PhotometricInterpretation."""
    orientation: int
    """The tag Orientation; 1 for upright."""
    reduced: bool
    """Whether it is marked as a smaller copy of another image."""
    further_sample: int | None
    """Meaning of a sample beyond the colours, the tag ExtraSamples: 0 for none; None without."""
    sub_pages: int
    """Images that hang below this one, in the tag SubIFDs."""
    description: str
    """The tag ImageDescription."""

    @property
    def needed_tiles(self) -> int:
        """Tiles that an image of this size has."""
        if self.size is None or self.tile is None:
            return 0
        across = -(-self.size.width // self.tile.width)
        return across * -(-self.size.height // self.tile.height)

    @property
    def compression_name(self) -> str:
        """The compression in words."""
        try:
            return tifffile.COMPRESSION(self.compression).name
        except ValueError:
            return f"number {self.compression}"


@dataclass(frozen=True, kw_only=True)
class TiffDirectory:
    """The images of a TIFF, as far as the chain of directories can be followed."""

    pages: tuple[TiffPage, ...]
    """In the order of the file."""
    ends_early: bool
    """Whether the chain leads beyond the end of the file, as after a broken copy."""

    @classmethod
    def of(cls, path: Path) -> TiffDirectory | None:
        """Look into a file; None for one that is no TIFF, cannot be read, or is Hamamatsu's.

        Raises:
            SlideOpenError: the directories form a loop.
        """
        try:
            with path.open("rb") as file:
                return _Chain(path, file).follow()
        except (OSError, struct.error):
            return None


_Tags = dict[int, tuple[int, tuple[int, ...] | bytes]]
"""By the tag's number: how many values it has, and the first of them."""


class _Chain:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = file.seek(0, 2)

    def follow(self) -> TiffDirectory | None:
        start = self._bytes(0, 16) or b""
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        version = struct.unpack(order + "H", start[2:4])[0] if order and len(start) > 7 else 0
        if order is None or version not in (42, 43):
            return None
        self._order, self._big = order, version == 43
        offset = self._unpack("Q", start[8:16]) if self._big else self._unpack("I", start[4:8])
        pages: list[TiffPage] = []
        seen: set[int] = set()
        while offset and len(pages) < _MOST_PAGES:
            if offset in seen:
                raise SlideOpenError(
                    f"{self._path.name}: the directories of its images form a loop (back to byte "
                    f"{offset} after {len(pages)} images): the file is damaged, copy it again"
                )
            seen.add(offset)
            found = self._directory(offset)
            if found is None:
                return TiffDirectory(pages=tuple(pages), ends_early=offset >= self._size - 2)
            tags, offset = found
            if _NDPI_FORMAT in tags:
                return None
            pages.append(_page(tags))
        return TiffDirectory(pages=tuple(pages), ends_early=False)

    def _unpack(self, code: str, data: bytes) -> int:
        return int(struct.unpack(self._order + code, data)[0])

    def _bytes(self, offset: int, count: int) -> bytes | None:
        """Bytes of the file; fewer where it ends."""
        if offset >= self._size:
            return None
        self._file.seek(offset)
        return self._file.read(count)

    def _directory(self, offset: int) -> tuple[_Tags, int] | None:
        """The tags of an image and where the next directory is; None where it is nonsense."""
        head, each, after = (8, 20, 8) if self._big else (2, 12, 4)
        count_bytes = self._bytes(offset, head)
        if count_bytes is None or len(count_bytes) < head:
            return None
        count = self._unpack("Q" if self._big else "H", count_bytes)
        if not 0 < count <= _MOST_TAGS:
            return None
        data = self._bytes(offset + head, count * each + after) or b""
        if len(data) < count * each + after:
            return None
        tags: _Tags = {}
        for index in range(count):
            self._tag(data[index * each : (index + 1) * each], tags)
        return tags, self._unpack("Q" if self._big else "I", data[count * each :])

    def _tag(self, entry: bytes, tags: _Tags) -> None:
        number, kind = struct.unpack_from(self._order + "HH", entry)
        count = self._unpack("Q", entry[4:12]) if self._big else self._unpack("I", entry[4:8])
        value = entry[12:] if self._big else entry[8:]
        most = _MOST_TEXT if kind == _ASCII else _MOST_NUMBERS
        length = _BYTES_EACH.get(kind, 0) * min(count, most)
        if _BYTES_EACH.get(kind, 0) * count > len(value):
            value = self._bytes(self._unpack("Q" if self._big else "I", value), length) or b""
        value = value[:length]
        if kind == _ASCII:
            tags[number] = count, value
        elif kind in _CODES:
            whole = len(value) // _BYTES_EACH[kind]
            code = f"{self._order}{whole}{_CODES[kind]}"
            tags[number] = count, struct.unpack(code, value[: whole * _BYTES_EACH[kind]])


def _page(tags: _Tags) -> TiffPage:
    def number(tag: int, default: int) -> int:
        found = tags.get(tag, (0, ()))[1]
        return found[0] if found and not isinstance(found, bytes) else default

    def size(across: int, down: int) -> Size | None:
        width, height = number(across, 0), number(down, 0)
        return Size(width, height) if width and height else None

    bits = tags.get(258, (1, (1,)))[1]
    description = tags.get(270, (0, b""))[1]
    return TiffPage(
        size=size(256, 257),
        tile=size(322, 323),
        listed_tiles=tags.get(324, (0, ()))[0],
        bits=bits if isinstance(bits, tuple) else (),
        samples=number(277, 1),
        separate=number(284, 1) == 2,
        compression=number(259, 1),
        photometric=number(262, -1),
        orientation=number(274, 1),
        reduced=bool(number(254, 0) & 1),
        further_sample=number(338, 0) if 338 in tags else None,
        sub_pages=tags.get(330, (0, ()))[0],
        description=description.split(b"\0")[0].decode("utf-8", "replace")
        if isinstance(description, bytes)
        else "",
    )
