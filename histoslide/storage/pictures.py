"""Files that Pillow reads."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

DAMAGED_PICTURE = (
    OSError, SyntaxError, ValueError, ArithmeticError, EOFError, LookupError, TypeError,
    struct.error,
)  # fmt: skip
"""How Pillow stops at a damaged file: its readers follow what stands in it wherever that leads."""


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """A picture, of which no more is read than the file holds.

    Of a file on disk Pillow asks as many bytes at once as a chunk claims to have, and memory for
    them is taken before the file turns out to be short.

    Raises:
        OSError: it cannot be read, or is no picture.
        Exception: one of ``DAMAGED_PICTURE``, as when its pixels are decoded.
    """
    with io.BytesIO(path.read_bytes()) as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:  # which would speak of our copy
            raise UnidentifiedImageError("it is no picture that Pillow knows") from None
        with image:
            yield image
