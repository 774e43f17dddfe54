"""What the nuclei on a slide say of its resolution: a check on what the slide, or its user, says.

Nuclei that lie close together, as a node's lymphocytes do, repeat at a distance of their own
diameter. In the power spectrum of the tissue that distance is a hump, and where it lies in cycles
a pixel tells how large a pixel is. Nothing is ever scored by it: it is good to about a third,
enough to tell that somebody took a 20× scan for a 40× one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideReadError
from histoslide.geometry import Mpp, Region
from histoslide.slide import Slide

NUCLEAR_PERIOD_UM = 6.6
"""Distance at which nuclei repeat, in micrometres. Between the 6.3 of PatchCamelyon's negative
patches, mostly lymphocytes, and the 7.4 of its positive ones, whose 0.972 µm/px are known."""

_DARK = 50
"""Red, 0-255, up to which a pixel is dark; a window of which half is so is no tissue in transmitted
light."""

WINDOWS = 16
"""Windows of tissue that are looked at."""

WINDOW_PX = 512
"""Side of one in level-0 pixels."""

ERROR_FACTOR = 1.7
"""The true resolution lies within this factor of the estimate; see docs/howto/resolution.md for
what that is taken from."""

CLEAR = 1.8
"""How far a hump must rise above the spectrum at half and at twice its frequency. Nodes have 2-4,
dermis and epidermis 1.5, and there the estimate was a quarter too low."""

_CONTRAST = 0.03
"""Standard deviation of optical density below which a window is empty; tissue has 0.2 or more."""

_TOP = 1 / 3
"""Part of the spectra that is kept: those with the clearest humps."""

_FEWEST = 6
"""Spectra without which nothing is said."""

_BANDS = np.geomspace(0.02, 0.5, 48)
"""Frequencies at which spectra are compared, in cycles a pixel."""

_HIGHEST = 0.3
"""Frequency above which nuclei are too few pixels wide to be told from noise: 2 µm/px."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class RulerReading:
    """A resolution as told from nuclei."""

    mpp: float
    """Micrometres per level-0 pixel."""
    clearness: float
    """How far the hump rises above the spectrum about it; see ``CLEAR``."""

    def doubts(self, said: Mpp) -> str | None:
        """What a person should know where another resolution lies outside this one's error.

        Args:
            said: of level 0.
        """
        if 1 / ERROR_FACTOR <= said.value / self.mpp <= ERROR_FACTOR:
            return None
        low, high = self.mpp / ERROR_FACTOR, self.mpp * ERROR_FACTOR
        return (
            f"the resolution may be wrong: {said.value:.3g} µm/px ({said.source}), but the nuclei "
            f"lie as at about {self.mpp:.2f} ({low:.2f}-{high:.2f}); if it is, every probability is"
        )


def read_ruler(slide: Slide, mask: NDArray[np.bool_]) -> RulerReading | None:
    """Tell a slide's resolution from its nuclei, without using what it records.

    Args:
        slide: open; ``WINDOWS`` windows of level 0 are read.
        mask: its tissue, of any resolution, spanning it.

    Returns:
        None where nothing repeats clearly enough, or the slide cannot be read.
    """
    with ThreadPoolExecutor(1) as pool:  # looks at one window while the next is read
        looks = []
        try:
            for pixels in _windows(slide, mask):
                looks.append(pool.submit(_spectra, pixels))  # noqa: PERF401 - some may be there
        except SlideReadError:
            return None  # scoring will say where and why
    seen = [found for look in looks if (found := look.result()) is not None]
    # Large nuclei are seen better from further away: of the two views the clearer one counts.
    close, far = [one for found, _ in seen for one in found], [one for _, one in seen]
    clearness, frequency = max(_hump(close, shrunk=1), _hump(far, shrunk=2))
    if clearness < CLEAR:
        return None
    return RulerReading(mpp=NUCLEAR_PERIOD_UM * frequency, clearness=clearness)


def _windows(slide: Slide, mask: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
    """Windows of level 0 about places of tissue, spread over it; always the same ones."""
    size = slide.size_l0
    side = min(WINDOW_PX, size.width, size.height)
    rows, cols = np.nonzero(mask)
    if side < WINDOW_PX // 4 or not len(rows):
        return
    for number in range(WINDOWS):
        # Multiples of the golden ratio fill an interval evenly, and fall into step with nothing.
        place = int(number * _GOLDEN % 1 * len(rows))
        x = (cols[place] + 0.5) / mask.shape[1] * size.width - side / 2
        y = (rows[place] + 0.5) / mask.shape[0] * size.height - side / 2
        left, top = (int(np.clip(v, 0, n - side)) for v, n in ((x, size.width), (y, size.height)))
        yield slide.read(Region(0, left, top, side, side))


def _spectra(
    pixels: NDArray[np.uint8],
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]] | None:
    """Spectra of a window's quarters, and that of all of it from further away; None of a dark one.

    Args:
        pixels: RGB, shape (side, side, 3).
    """
    dark = np.count_nonzero(pixels[..., 0] <= _DARK)
    if 2 * dark >= pixels[..., 0].size:
        return None
    window = _optical_density(pixels)
    return [_spectrum(part) for part in _quarters(window)], _spectrum(_halved(window))


def _optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of red, in which haematoxylin is dark and eosin is not."""
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    return table[rgb[..., 0]]


def _quarters(window: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    half = len(window) // 2
    return tuple(window[y : y + half, x : x + half] for y in (0, half) for x in (0, half))


def _halved(window: NDArray[np.float32]) -> NDArray[np.float32]:
    half = len(window) // 2
    squares = window[: 2 * half, : 2 * half].reshape(half, 2, half, 2)
    return squares.mean(axis=(1, 3))


def _spectrum(window: NDArray[np.float32]) -> NDArray[np.float64]:
    """Power at ``_BANDS`` times the square of the frequency: flat where nothing repeats.

    Axis-parallel waves are left out: blocks of JPEG and stripes of scanners make them.

    Returns:
        Shape (bands,), with a sum of 1, or of 0 where there is nothing to see.
    """
    side = len(window)
    weights = _taper(side)
    flat = (window - np.average(window, weights=weights)) * weights
    waves = np.fft.rfft2(flat)[2:-1, 2:]
    power = waves.real**2 + waves.imag**2
    if 2 * power.sum() < (_CONTRAST * side) ** 2 * (weights**2).sum():
        return np.zeros(len(_BANDS))
    ring, count = _rings(side)
    total, seen = np.bincount(ring, power.ravel()), np.flatnonzero(count)
    means = np.interp(_BANDS, seen / side, total[seen] / count[seen]) * _BANDS**2
    return means / means.sum()


@cache
def _taper(side: int) -> NDArray[np.float64]:
    """Weights of a window's pixels, which fall off to its edges."""
    taper = np.hanning(side)
    return taper[:, None] * taper


@cache
def _rings(side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """How many waves fit into a window, for each place in its spectrum, and places by number."""
    down = np.fft.fftfreq(side, 1 / side)[2:-1, None]
    across = np.fft.rfftfreq(side, 1 / side)[None, 2:]
    ring = np.rint(np.hypot(down, across)).astype(np.intp).ravel()
    return ring, np.bincount(ring)


def _hump(spectra: Sequence[NDArray[np.float64]], *, shrunk: int) -> tuple[float, float]:
    """How clear the clearest spectra's hump is, and its frequency in cycles a level-0 pixel."""
    if len(spectra) < _FEWEST:
        return 0.0, 0.0
    clearest = sorted(spectra, key=lambda one: _highest(one)[0], reverse=True)
    kept = clearest[: max(_FEWEST, round(_TOP * len(spectra)))]
    clearness, frequency = _highest(np.mean(kept, axis=0))
    return clearness, frequency / shrunk


def _highest(spectrum: NDArray[np.float64]) -> tuple[float, float]:
    """How far a spectrum's highest place rises above what is about it, and its frequency."""
    smooth = np.convolve(np.pad(spectrum, 2, mode="edge"), np.array([1, 2, 3, 2, 1]) / 9, "valid")
    top = 2 + int(smooth[2:-2].argmax())
    if not smooth.any() or _BANDS[top] > _HIGHEST:
        return 0.0, 0.0
    left, middle, right = np.log(np.maximum(smooth[top - 1 : top + 2], np.finfo(float).tiny))
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0  # the top of a parabola
    frequency = float(_BANDS[top] * (_BANDS[1] / _BANDS[0]) ** shift)
    about = np.interp([frequency / 2, frequency * 2], _BANDS, smooth)
    return float(smooth[top] / max(about.max(), np.finfo(float).tiny)), frequency
