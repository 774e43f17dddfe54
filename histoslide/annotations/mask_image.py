"""Mask pictures: pyramidal TIFFs as CAMELYON16 has them, or a PNG, that span the slide.

A TIFF of a whole slide has 20 billion pixels at its finest level and is almost everywhere empty.
It is read once, tile by tile (or strip by strip); equal tiles, of which nearly all are, are decoded
once, and what has more than one value in it is kept packed, in pieces that are quickly unpacked.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import AnnotationError
from histoslide.geometry import Size
from histoslide.storage.pictures import DAMAGED_PICTURE, open_picture

MOST_VALUES = 8
"""Values that a mask may hold; a photograph holds all of them."""

_TILE = 512
"""Side of the tiles that a picture without tiles is kept in, and about that of any tile."""

_MOST_KEPT_PIXELS = 2**24
"""Of segments that are kept decoded while a file is read, and of tiles that are kept unpacked."""

_MOST_TILES = 2**22
_MOST_TILE_PIXELS = 2**26
"""What a file may claim: of CAMELYON16's masks the largest has 10⁵ tiles of 512 by 512."""

_MIXED = -1

_DAMAGED_TIFF = (
    tifffile.TiffFileError, OSError, ValueError, LookupError, TypeError, AttributeError,
    ArithmeticError, RuntimeError, AssertionError, NotImplementedError, struct.error, MemoryError,
)  # fmt: skip
"""How tifffile stops at a damaged file."""


@dataclass(frozen=True, kw_only=True)
class MaskImage:
    """A picture whose pixels are classes, kept in tiles."""

    source: Path
    """The file."""
    size: Size
    """In pixels of its own."""
    tile: Size
    """Of a tile; those at the right and lower edge are padded."""
    uniform: NDArray[np.int16]
    """The value of each tile that has but one, else -1, shape (down, across)."""
    mixed: Mapping[tuple[int, int], bytes] = field(repr=False)
    """The other tiles, packed, by row and column."""
    values: tuple[int, ...]
    """All values that occur, in order."""

    def window(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """The pixels from (left, top) up to, but not with, (right, bottom), shape (h, w)."""
        found = np.zeros((bottom - top, right - left), np.uint8)
        across, down = self.tile.width, self.tile.height
        for row in range(top // down, -(-bottom // down)):
            for col in range(left // across, -(-right // across)):
                y0, x0 = max(top, row * down), max(left, col * across)
                y1, x1 = min(bottom, (row + 1) * down), min(right, (col + 1) * across)
                into = found[y0 - top : y1 - top, x0 - left : x1 - left]
                value = int(self.uniform[row, col])
                if value != _MIXED:
                    into[:] = value
                else:
                    pixels = _unpacked(self.mixed[row, col], down, across)
                    into[:] = pixels[
                        y0 - row * down : y1 - row * down, x0 - col * across : x1 - col * across
                    ]
        return found


@cached(LRUCache(_MOST_KEPT_PIXELS, getsizeof=lambda tile: tile.size), lock=Lock())
def _unpacked(packed: bytes, height: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width)


def read_mask_image(path: Path) -> MaskImage:
    """Read a mask.

    Raises:
        AnnotationError: it cannot be read, or is a picture of more than a few values.
    """
    if path.suffix.lower() in (".tif", ".tiff") or _is_tiff(path):
        try:
            with tifffile.TiffFile(path) as file:
                return _kept(path, *_tiff(file))
        except _DAMAGED_TIFF as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AnnotationError(f"{path} cannot be read as a mask: {reason}") from error
    try:
        with open_picture(path) as image:
            pixels = _one_channel(np.asarray(_plain(image)))
    except (*DAMAGED_PICTURE, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AnnotationError(f"{path} cannot be read as a mask: {reason}") from error
    height, width = pixels.shape
    tiles = (
        ((top // _TILE, left // _TILE), pixels[top : top + _TILE, left : left + _TILE])
        for top in range(0, height, _TILE)
        for left in range(0, width, _TILE)
    )
    return _kept(path, Size(width, height), Size(_TILE, _TILE), tiles)


_Tiles = Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"II", b"MM")
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from error


def _plain(image: Image.Image) -> Image.Image:
    """A picture of one channel by its values (a palette by its indices), or as colours."""
    if image.mode in ("L", "P"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):
        raise ValueError(f"its pixels are {image.mode}: a mask has 8 bits")
    return image.convert("RGBA")


def _one_channel(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Values as they are; of colours 255 where any is not black and not clear."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        flat = pixels.reshape(pixels.shape[:2])
        if flat.dtype == np.bool_ or (flat.dtype.kind == "u" and flat.max(initial=0) <= 255):
            return flat.astype(np.uint8)
        raise ValueError(f"its pixels are {flat.dtype} and reach {flat.max()}: a mask has 8 bits")
    marked = (pixels[..., :3] > 0).any(axis=2)
    if pixels.shape[2] == 4:
        marked &= pixels[..., 3] > 0
    return np.where(marked, 255, 0).astype(np.uint8)


def _tiff(file: tifffile.TiffFile) -> tuple[Size, Size, _Tiles]:
    """Size and tiles of a TIFF's finest level."""
    page = file.pages[0]
    size = Size(page.imagewidth, page.imagelength)
    tiled = bool(page.is_tiled)
    across = page.tilewidth if tiled else page.imagewidth
    down = page.tilelength if tiled else min(page.rowsperstrip, page.imagelength)
    tile = Size(across, down)
    count = -(-size.width // across) * -(-size.height // down)
    if count > _MOST_TILES or across * down > _MOST_TILE_PIXELS:
        raise ValueError(
            f"it claims {count} tiles of {across}×{down} px: save it in tiles of 512×512"
        )
    if page.samplesperpixel not in (1, 3, 4) or (
        page.samplesperpixel > 1 and page.planarconfig != 1
    ):
        raise ValueError(f"it has {page.samplesperpixel} channels: a mask has one")
    return size, tile, _segments(page, size, tile)


def _segments(page: tifffile.TiffPage, size: Size, tile: Size) -> _Tiles:
    across = -(-size.width // tile.width)
    count = across * -(-size.height // tile.height)
    decoded: dict[bytes, NDArray[np.uint8]] = {}
    room = _MOST_KEPT_PIXELS
    offsets, lengths = page.dataoffsets, page.databytecounts
    if len(offsets) < count:
        raise ValueError(f"it has {len(offsets)} of {count} tiles")
    handle = page.parent.filehandle
    for index in range(count):
        place = divmod(index, across)
        if lengths[index] > 2 * _MOST_TILE_PIXELS:
            raise ValueError(f"its tile {index} claims {lengths[index]} bytes")
        handle.seek(offsets[index])
        raw = handle.read(lengths[index]) if lengths[index] else b""
        # Tables of JPEG are the page's, so equal bytes are equal tiles, but for cut edges.
        key = hashlib.sha256(raw).digest()
        if (pixels := decoded.get(key)) is None:
            segment = page.decode(raw or None, index, jpegtables=page.jpegtables)[0]
            if segment is None:  # sparse
                pixels = np.zeros((tile.height, tile.width), np.uint8)
            else:
                pixels = _one_channel(np.asarray(segment)[0])
            if pixels.shape == (tile.height, tile.width) and pixels.size <= room:
                decoded[key] = pixels
                room -= pixels.size
        yield place, pixels


def _kept(path: Path, size: Size, segment: Size, segments: _Tiles) -> MaskImage:
    tile = _part_of(segment, size)
    shape = -(-size.height // tile.height), -(-size.width // tile.width)
    uniform = np.zeros(shape, np.int16)
    mixed: dict[tuple[int, int], bytes] = {}
    values: set[int] = set()
    plain: NDArray[np.uint8] | None = None  # the last whole segment of one value: runs are of it
    for (row, col), pixels in segments:
        top, left = row * segment.height, col * segment.width
        inside = pixels[: size.height - top, : size.width - left]
        value = int(inside[0, 0])
        if pixels is plain or (inside == value).all():
            plain = pixels if inside.shape == pixels.shape else None
            first = top // tile.height, left // tile.width
            stop = (top + segment.height) // tile.height, -(-(left + segment.width) // tile.width)
            uniform[first[0] : stop[0], first[1] : stop[1]] = value
            values = _few(values, [value], path)
            continue
        plain = None
        for place, part in _parts(inside, tile, (top, left)):
            here = np.flatnonzero(np.bincount(part.reshape(-1), minlength=1)).tolist()
            values = _few(values, here, path)
            if len(here) == 1:
                uniform[place] = here[0]
                continue
            uniform[place] = _MIXED
            padded = np.zeros((tile.height, tile.width), np.uint8)
            padded[: part.shape[0], : part.shape[1]] = part
            mixed[place] = zlib.compress(padded.tobytes(), 1)
    return MaskImage(
        source=path, size=size, tile=tile, uniform=uniform, mixed=mixed,
        values=tuple(sorted(values)),
    )  # fmt: skip


def _few(values: set[int], more: list[int], path: Path) -> set[int]:
    """Both; a mask that has too many is none."""
    found = values.union(more)
    if len(found) > MOST_VALUES:
        raise AnnotationError(
            f"{path} holds more than {MOST_VALUES} values: it is a picture, not a mask"
        )
    return found


def _part_of(segment: Size, size: Size) -> Size:
    """What segments are cut into: about ``_TILE`` pixels a side, as many as fill a segment."""
    height = _divided(segment.height, _TILE)
    wide = max(_TILE, _TILE**2 // height)  # strips are low
    if segment.width < size.width:
        return Size(_divided(segment.width, wide), height)
    return Size(min(segment.width, wide), height)  # nothing lies beside it that must fit


def _divided(side: int, most: int) -> int:
    """A side in equal parts of at most so much, or the whole where no few parts are equal."""
    fewest = -(-side // most)
    return next((side // n for n in range(fewest, 2 * fewest) if side % n == 0), side)


def _parts(pixels: NDArray[np.uint8], tile: Size, corner: tuple[int, int]) -> _Tiles:
    for y in range(0, pixels.shape[0], tile.height):
        for x in range(0, pixels.shape[1], tile.width):
            place = (corner[0] + y) // tile.height, (corner[1] + x) // tile.width
            yield place, pixels[y : y + tile.height, x : x + tile.width]
