"""Where OpenSlide can be asked for pixels without moving them."""

from __future__ import annotations

import math

_ALIGN_SEARCH_PX = 64
"""How far before a wanted level pixel to look for a better aligned start, see `aligned_start`."""


def is_aligned(start: int, downsample: float) -> bool:
    """Whether OpenSlide can read from a level pixel on without a fraction."""
    candidate, location = aligned_start(start, downsample)
    return abs(location / downsample - candidate) < 1e-9


def aligned_start(start: int, downsample: float) -> tuple[int, int]:
    """Where to begin reading so that level pixel ``start`` comes out unshifted.

    OpenSlide takes locations in whole level-0 pixels and divides by the downsample. Where that
    leaves a fraction it stretches each of the file's tiles over the fraction, which moves pixels
    by up to one. Starting a few pixels earlier, where the fraction all but vanishes, avoids it
    for most downsamples; for those a hair from whole, such as 4.0012, it makes it rarer.

    Returns:
        The level pixel to start at (at most ``start``) and its location in level-0 pixels.
    """
    best = (math.inf, start, 0)
    for candidate in range(start, max(-1, start - _ALIGN_SEARCH_PX), -1):
        location = round(candidate * downsample)
        fraction = abs(location / downsample - candidate)
        if fraction < best[0]:
            best = (fraction, candidate, location)
        if fraction == 0:
            break
    return best[1], best[2]
