"""Patches that are image files: which files count, and how they are read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.errors import DataError, reason
from histoslide.storage.pictures import DAMAGED_PICTURE, open_picture

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""File endings taken for patches; anything else in a folder of patches is left alone."""

_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
"""Modes of Pillow's with an alpha channel."""

_MAX_SAMPLE_VALUE = 281
"""TIFF tag (TIFF 6.0, page 37)."""

_ALL_16_BITS = 65535

_MOST_PIXELS = 2**26
"""Of a patch; Pillow itself takes gigabytes for what a damaged file claims."""

_SHA1 = re.compile("[0-9a-f]{40}")


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB pixels of an image file of any format Pillow reads, shape (height, width, 3).

    What is transparent is white, as in slides. Grey of 16 bits is scaled by its full range.

    Raises:
        DataError: the file cannot be decoded, or its samples are numbers without a range that a
            picture could be made of; the message names it.
    """
    try:
        with open_picture(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise DataError(f"{path} is no patch: it claims {image.width}×{image.height} px")
            return _rgb(image, path)
    except DAMAGED_PICTURE as error:
        raise DataError(f"{path} cannot be read as an image: {reason(error)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is no patch: {error}") from error


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Pixels of an image of any mode of Pillow's, whose own conversions clip and blacken."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if deep:
        most = _largest_sample(image)
        grey = np.rint(np.asarray(image).astype(np.float64) * (255 / most)).clip(0, 255)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "32-bit"
        raise DataError(
            f"{path} holds {kind} samples, of which nobody says what is white: save it with 8 bits"
        )
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        image = Image.alpha_composite(white, clear)
    return np.asarray(image.convert("RGB"))


def _largest_sample(image: Image.Image) -> int:
    """What white is in an image of 16 bits: MaxSampleValue where a TIFF records it, else all."""
    recorded = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
    value = recorded[0] if isinstance(recorded, tuple) else recorded
    return value if isinstance(value, int) and 255 < value <= _ALL_16_BITS else _ALL_16_BITS


@dataclass(frozen=True)
class UnlabelledFiles:
    """Image files of which nobody says what they show."""

    paths: tuple[Path, ...]
    """One file a patch."""
    names: tuple[str, ...]
    """A name for every patch, unique within the set."""
    named_by_pixels: bool = False
    """Whether each name is the SHA-1 of the raw RGB bytes, as the ids of Kaggle are."""

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.paths)

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (height, width, 3).

        Raises:
            DataError: the file cannot be decoded; the message names it.
        """
        return read_image(self.paths[index])


def image_files(folder: Path) -> dict[str, str]:
    """The images that lie directly in a folder: file name by name without ending, sorted.

    Raises:
        DataError: two images differ in their ending only.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_image(entry.name))
    files: dict[str, str] = {}
    for name in names:
        stem = name.rpartition(".")[0]  # a Path for each of 220,025 names is slow
        if stem in files:
            raise DataError(f"{folder} has both {files[stem]} and {name}: keep one of them")
        files[stem] = name
    return files


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for a patch: by its ending, and hidden files are not."""
    return f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES and not name.startswith(".")


def flat_folder(folder: Path) -> UnlabelledFiles | None:
    """The images that lie directly in a folder, in order of name; None where there are none."""
    files = image_files(folder)
    if not files:
        return None
    names = tuple(files)
    paths = tuple(folder / file for file in files.values())
    return UnlabelledFiles(paths, names, named_by_pixels=named_by_pixels(names))


def named_by_pixels(names: tuple[str, ...]) -> bool:
    """Whether all names look like the SHA-1 ids of the competition."""
    return bool(names) and all(_SHA1.fullmatch(name) for name in names)
