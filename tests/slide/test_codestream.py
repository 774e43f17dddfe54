"""Damage in JPEG 2000 that a decoder passes over."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from tiffs import tissue_pixels

from histoslide.slide.tiff.codestream import BrokenCodestreamError, check_codestream

RNG = np.random.default_rng(7)


def encoded(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", **options))


DATA = encoded(tissue_pixels(256, 256), level=60)
HALF, EIGHTH = len(DATA) // 2, len(DATA) // 8


def overwritten(at: int, data: bytes) -> bytes:
    return DATA[:at] + data + DATA[at + len(data) :]


@pytest.mark.parametrize(
    "damaged",
    [
        overwritten(HALF, bytes(len(DATA) - HALF)),
        overwritten(HALF, bytes(EIGHTH)),
        overwritten(HALF, b"\xa5" * 40),
        overwritten(HALF, b"\xff" * 8),
        overwritten(HALF, RNG.integers(0, 256, 4 * EIGHTH - 8, dtype=np.uint8).tobytes()),
        DATA[: 3 * HALF // 2],
        DATA[:-2],
        DATA[:60],
        DATA[:HALF] + DATA[HALF + 1 :],
    ],
    ids=["half", "zeros", "one byte", "ones", "noise", "cut", "no end", "head", "a byte lost"],
)
def test_damage_is_found_that_openjpeg_may_pass_over(damaged: bytes) -> None:
    check_codestream(DATA)
    with pytest.raises(BrokenCodestreamError):
        check_codestream(damaged)


def test_half_a_tile_of_zeros_is_decoded_without_an_error_otherwise() -> None:
    """Why it is looked for: OpenJPEG gives pixels, and they are rubbish."""
    found = imagecodecs.jpeg2k_decode(overwritten(HALF, bytes(EIGHTH)))
    assert np.abs(found.astype(int) - imagecodecs.jpeg2k_decode(DATA)).max() > 20


@pytest.mark.parametrize("side", [16, 100, 240, 512])
@pytest.mark.parametrize(
    "options",
    [{"level": 0}, {"level": 50}, {"reversible": True}, {"level": 80, "resolutions": 6}],
    ids=str,
)
@pytest.mark.parametrize(
    "pixels",
    [
        lambda side: np.full((side, side, 3), 255, np.uint8),
        lambda side: np.zeros((side, side, 3), np.uint8),
        lambda side: tissue_pixels(side, side),
        lambda side: np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8),
    ],
    ids=["white", "black", "tissue", "noise"],
)
def test_what_is_whole_is_believed(
    pixels: Callable[[int], NDArray[np.uint8]], side: int, options: dict[str, object]
) -> None:
    check_codestream(encoded(pixels(side), **options))
    check_codestream(encoded(pixels(side), **options) + bytes(100))


@pytest.mark.parametrize("length", [0, 1, 2, 30, 200])
def test_nonsense_is_no_codestream(length: int) -> None:
    with pytest.raises(BrokenCodestreamError):
        check_codestream(DATA[:2] + RNG.integers(0, 256, length, dtype=np.uint8).tobytes())
