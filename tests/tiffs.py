"""TIFF slides of every kind, written from tiles that the tests encode themselves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from histoslide.geometry import Region
from histoslide.slide import Slide

Encode = Callable[[NDArray[np.uint8]], bytes]

APERIO = "Aperio Image Library v1.0\r\nsynthetic|AppMag = 40|MPP = 0.25"


def position_pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Red and green are the column and row modulo 256, blue is 16 times 256 more of each."""
    y, x = np.mgrid[:height, :width]
    blue = 16 * (x // 256) + (y // 256) + seed
    return np.stack([x % 256, y % 256, blue % 256], axis=-1).astype(np.uint8)


def tissue_pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs in saturated colours, with edges that chroma subsampling blurs."""
    y, x = np.mgrid[:height, :width] + seed
    red = 128 + 127 * np.sin(x / 5.0) * np.cos(y / 17.0)
    green = 128 + 127 * np.sin(x / 29.0 + y / 3.0)
    blue = 255 * ((x // 9 + y // 7) % 2)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def philips_description(downsamples: Sequence[int]) -> str:
    """What OpenSlide needs in order to take a TIFF for one by Philips."""
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING">'
        f'"{0.00025 * d}" "{0.00025 * d}"</Attribute></DataObject>'
        for d in downsamples
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>'
        f"{levels}</Array></Attribute></DataObject></Array></Attribute></DataObject>"
    )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the tiles of a TIFF are written."""

    encode: Encode
    """A tile's pixels to its bytes."""
    compression: int
    photometric: int
    description: str | None = None
    software: str | None = None
    predictor: int = 1
    tables: bytes | None = None
    subsampling: tuple[int, int] | None = None
    bigtiff: bool = False


def jpeg(subsampling: str = "444", *, rgb: bool = False) -> Encode:
    """JPEG of YCbCr, or of red, green and blue, with all it needs inside."""
    space = "rgb" if rgb else "ycbcr"

    def encode(pixels: NDArray[np.uint8]) -> bytes:
        return bytes(
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(pixels),
                level=85,
                colorspace="rgb",
                outcolorspace=space,
                subsampling=subsampling,
            )
        )

    return encode


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """The tables of a JPEG, as a TIFF keeps them for all tiles, and the JPEG without them."""
    at, tables, rest = 2, b"", b""
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] in (0xDB, 0xC4):
            tables += data[at:end]
        elif data[at + 1] not in (0xE0, 0xEE):  # who made it, and of which colours
            rest += data[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + data[at:]


def abbreviated(subsampling: str = "444", *, rgb: bool = False) -> tuple[Encode, bytes]:
    """A JPEG encoder without tables, as Aperio writes, and the tables."""
    whole = jpeg(subsampling, rgb=rgb)
    tables, _ = split_jpeg(whole(np.zeros((16, 16, 3), dtype=np.uint8)))
    return lambda pixels: split_jpeg(whole(pixels))[1], tables


def jpeg_2000(*, ycbcr: bool = False) -> Encode:
    """A lossless codestream of the pixels as they are; or of what is taken for YCbCr."""

    def encode(pixels: NDArray[np.uint8]) -> bytes:
        return bytes(
            imagecodecs.jpeg2k_encode(
                np.ascontiguousarray(pixels),
                codecformat="j2k",
                reversible=True,
                mct=not ycbcr,
            )
        )

    return encode


def plain(codec: Callable[[bytes], bytes | bytearray], *, predictor: int = 1) -> Encode:
    """Bytes of the pixels, or of their differences along a row, through a codec."""

    def encode(pixels: NDArray[np.uint8]) -> bytes:
        differences = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1]))
        return bytes(codec((pixels if predictor == 1 else differences).tobytes()))

    return encode


def tiles_of(pixels: NDArray[np.uint8], tile: tuple[int, int], encode: Encode) -> Iterator[bytes]:
    """Encoded tiles (width, height) of an image, row by row, filled up by repeating its edge."""
    width, height = tile
    down, across = -(-pixels.shape[0] // height), -(-pixels.shape[1] // width)
    padding = (
        (0, down * height - pixels.shape[0]),
        (0, across * width - pixels.shape[1]),
        (0, 0),
    )
    padded = np.pad(pixels, padding, mode="edge")
    for row in range(down):
        for col in range(across):
            yield encode(padded[row * height : (row + 1) * height, col * width : (col + 1) * width])


def write_kind(
    path: Path,
    levels: Sequence[NDArray[np.uint8]],
    kind: Kind,
    *,
    tile: tuple[int, int] = (64, 48),
    change: Callable[[int, int, bytes], bytes] = lambda level, index, data: data,
) -> Path:
    """Write a pyramid; `change` may alter the bytes of tile `index` of a level, or take them."""
    with tifffile.TiffWriter(path, bigtiff=kind.bigtiff) as tiff:
        for number, pixels in enumerate(levels):
            encoded = enumerate(tiles_of(pixels, tile, kind.encode))
            tables = kind.tables
            rgb_jpeg = kind.compression == 7 and kind.photometric == 2
            tiff.write(
                iter([change(number, index, data) for index, data in encoded]),
                shape=pixels.shape,
                dtype=pixels.dtype,
                tile=(tile[1], tile[0]),
                compression=kind.compression,
                photometric=kind.photometric,
                compressionargs={"outcolorspace": "rgb"} if rgb_jpeg else None,
                predictor=kind.predictor if kind.predictor != 1 else None,
                subsampling=kind.subsampling,
                subfiletype=1 if number else 0,
                description=kind.description if number == 0 else None,
                software=kind.software,
                extratags=[] if tables is None else [(347, 7, len(tables), tables, True)],
                metadata=None,
            )
    return path


RGB_TILES, RGB_TABLES = abbreviated(rgb=True)
YCBCR_TILES, YCBCR_TABLES = abbreviated("420")

KINDS = {
    "4:2:0": Kind(encode=jpeg("420"), compression=7, photometric=6, subsampling=(2, 2)),
    "4:2:2": Kind(encode=jpeg("422"), compression=7, photometric=6, subsampling=(2, 1)),
    "4:4:4": Kind(encode=jpeg("444"), compression=7, photometric=6, subsampling=(1, 1)),
    "RGB JPEG": Kind(encode=jpeg(rgb=True), compression=7, photometric=2),
    "RGB JPEG, tables apart": Kind(
        encode=RGB_TILES, tables=RGB_TABLES, compression=7, photometric=2, description=APERIO
    ),
    "4:2:0, tables apart": Kind(
        encode=YCBCR_TILES, tables=YCBCR_TABLES, compression=7, photometric=6, description=APERIO
    ),
    "BigTIFF": Kind(encode=jpeg("420"), compression=7, photometric=6, bigtiff=True),
    "Philips": Kind(
        encode=jpeg("420"),
        compression=7,
        photometric=6,
        software="Philips DP v1.0",
        description=philips_description([1, 2]),
    ),
    "JPEG 2000 33003": Kind(
        encode=jpeg_2000(ycbcr=True), compression=33003, photometric=2, description=APERIO
    ),
    "JPEG 2000 33005": Kind(
        encode=jpeg_2000(), compression=33005, photometric=2, description=APERIO
    ),
    "deflate": Kind(encode=plain(imagecodecs.zlib_encode), compression=8, photometric=2),
    "deflate, predicted": Kind(
        encode=plain(imagecodecs.zlib_encode, predictor=2),
        compression=32946,
        photometric=2,
        predictor=2,
    ),
    "LZW": Kind(encode=plain(imagecodecs.lzw_encode), compression=5, photometric=2),
    "LZW, predicted": Kind(
        encode=plain(imagecodecs.lzw_encode, predictor=2), compression=5, photometric=2, predictor=2
    ),
    "uncompressed": Kind(encode=plain(bytes), compression=1, photometric=2),
}
"""Kinds that are decoded directly."""


def whole(slide: Slide, level: int) -> NDArray[np.int16]:
    size = slide.level_sizes[level]
    return slide.read(Region(level, 0, 0, size.width, size.height)).astype(np.int16)
