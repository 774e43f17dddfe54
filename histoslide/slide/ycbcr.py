"""Luma and chroma as red, green and blue."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


def rgb_of_ycbcr(ycbcr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of luma and chroma as JFIF has them, both of shape (h, w, 3)."""
    red, green, blue = _chroma_parts()
    luma, cb, cr = (ycbcr[..., i] for i in range(3))
    rgb = np.empty_like(ycbcr)
    for channel, part in enumerate((red[cr], green[cb, cr], blue[cb])):
        np.clip(part + luma, 0, 255, out=rgb[..., channel], casting="unsafe")
    return rgb


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
