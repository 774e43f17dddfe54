"""Pictures as PNG files that remember what they show.

Apart from ``histoslide.render``, which needs Matplotlib to draw them.
"""

from __future__ import annotations

import io
from zlib import Z_RLE

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from histoslide.storage.location import Location, as_location, read_bytes
from histoslide.storage.writing import new_file

DEFAULT_OVERLAY_PX = 1600
"""Longest side of the slide in an overlay, in pixels."""

_LABEL_KEY = "histoslide"


def save_png(
    image: NDArray[np.uint8], path: Location | str, *, overwrite: bool = False, label: str = ""
) -> None:
    """Write a picture; the file is either the whole new one or what was there before.

    Args:
        image: RGB, shape (h, w, 3).
        path: file to write.
        overwrite: replace an existing file.
        label: kept inside the file, to tell later what it shows; see ``read_png_label``.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is false.
        StoreError: the folder cannot be written.
    """
    path = as_location(path)
    text = PngInfo()
    text.add_text(_LABEL_KEY, label)
    with new_file(path, overwrite=overwrite) as partial:
        # Of tissue hardly anything repeats but runs: looking for more costs time for nothing.
        Image.fromarray(image).save(partial, "PNG", pnginfo=text, compress_type=Z_RLE)


def read_png_label(path: Location) -> str | None:
    """The label of a picture that ``save_png`` wrote, or None where there is no such picture."""
    try:
        data = read_bytes(path)
        if data is None:
            return None
        # Not Image.open, which refuses pictures of very many pixels: none of them is decoded here.
        with PngImageFile(io.BytesIO(data)) as image:
            return image.info.get(_LABEL_KEY)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises of files that are no good PNG
        return None
