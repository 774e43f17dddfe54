"""Luma and chroma as red, green and blue, and pictures that show the one as the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

_CODING_NOISE = 8
"""How far, of 255, lossy coding may take a colour out of its range."""

_BAND_ROWS = 64
"""Rows that are looked at once: in float32, a whole overview would need a gigabyte."""

_FEW = 0.02
"""Part of a picture that is too little to tell what it is."""

_LEAST_STAIN = 1
"""How much less green than red and blue stained tissue has on average, of 255, with its glass."""

_CUT_OFF, _NO_STAIN = 254, 170
"""Red and blue from which, and green up to which, a colour is not one of stain: see below."""


def rgb_of_ycbcr(ycbcr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of luma and chroma as JFIF has them, both of shape (h, w, 3)."""
    red, green, blue = _chroma_parts()
    luma, cb, cr = (ycbcr[..., i] for i in range(3))
    rgb = np.empty_like(ycbcr)
    for channel, part in enumerate((red[cr], green[cb, cr], blue[cb])):
        np.clip(part + luma, 0, 255, out=rgb[..., channel], casting="unsafe")
    return rgb


def share_out_of_range(rgb: NDArray[np.uint8]) -> float:
    """Part of a picture that cannot be luma and chroma of any colour, 0-1.

    What was a colour never leaves the range by more than a lossy coding adds. Of seven real H&E
    slides, 40 to 80 % of an overview leave it, and 16 % or more of each of its squares of 100 × 100
    pixels; nothing does where the same pixels are truly luma and chroma.

    Args:
        rgb: pixels as shown, shape (h, w, 3). Pure white and black may be padding and do not count.
    """
    out, pixels = np.sum([(0, 0), *_counted(rgb)], axis=0)
    return float(out / pixels) if pixels else 1.0


def _counted(rgb: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Pixels out of range, and pixels, of one band of a picture after the other."""
    for start in range(0, len(rgb), _BAND_ROWS):
        pixels = _without_padding(rgb[start : start + _BAND_ROWS])
        colours = _unclipped_rgb(pixels)
        out = (colours < -_CODING_NOISE) | (colours > 255 + _CODING_NOISE)
        yield int(out.any(axis=1).sum()), len(pixels)


def looks_like_ycbcr(rgb: NDArray[np.uint8]) -> bool:
    """Whether a picture shows luma and chroma of stained tissue as red, green and blue.

    Then all of it can be converted, and what comes out has less green than red and blue, as pink
    and violet have.

    Args:
        rgb: pixels as shown, shape (h, w, 3).
    """
    most, out = _FEW * rgb.shape[0] * rgb.shape[1], 0
    for found, _ in _counted(rgb):
        out += found
        if out > most:  # as of nearly all slides, after a few bands
            return False
    if share_out_of_range(rgb) > _FEW:
        return False
    red, green, blue = _unclipped_rgb(_without_padding(rgb)).mean(axis=0)
    return bool(green < min(red, blue) - _LEAST_STAIN)


def looks_converted_twice(rgb: NDArray[np.uint8]) -> bool:
    """Whether glass and pale tissue became bright magenta, as of colours taken for chroma.

    Of seven real H&E slides, 18 to 77 % of an overview become so, and none of it is.

    Args:
        rgb: pixels as shown, shape (h, w, 3).
    """
    magenta = (rgb[..., 0] >= _CUT_OFF) & (rgb[..., 2] >= _CUT_OFF) & (rgb[..., 1] < _NO_STAIN)
    return float(magenta.mean()) > _FEW


def _without_padding(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = rgb.reshape(-1, 3)
    return pixels[(pixels.max(axis=1) > 0) & (pixels.min(axis=1) < 255)]


def _unclipped_rgb(ycbcr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB of luma and chroma, shape (n, 3), beyond 0-255 too."""
    luma, cb, cr = ycbcr.astype(np.float32).T - np.array([[0], [128], [128]], dtype=np.float32)
    green = luma - 0.34414 * cb - 0.71414 * cr
    return np.stack([luma + 1.402 * cr, green, luma + 1.772 * cb], axis=1)


@cache
def _chroma_parts() -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    """What chroma adds to red (by Cr), green (by Cb and Cr) and blue (by Cb).

    The conversion of JFIF 1.02 (the weights of ITU-R BT.601), rounded as OpenSlide does: red and
    blue with weights in steps of 1/65536, green with decimal ones. A test compares every pair.
    """
    chroma = np.arange(256, dtype=np.int64) - 128
    red, blue = ((round(weight * 2**16) * chroma + 2**15) >> 16 for weight in (1.402, 1.772))
    green = np.floor(-0.34414 * chroma[:, None] - 0.71414 * chroma[None, :] + 0.5)
    return red.astype(np.int16), green.astype(np.int16), blue.astype(np.int16)
