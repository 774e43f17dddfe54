"""Nuclei: single ones as stamps, and the stamps pressed on a picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.field import Field, blurred
from histoslide.synthetic.sites import pixel_of


def nucleus_stamps(
    count: int,
    mpp: float,
    rng: np.random.Generator,
    *,
    length_um: tuple[float, float],
    aspect: tuple[float, float],
    chromatin: float,
    vesicular: bool = False,
) -> NDArray[np.float32]:
    """Haematoxylin of single nuclei, shape (count, side, side); stamp k points to k/count · π.

    ``vesicular`` nuclei are pale inside, with a dark rim and one or two nucleoli.
    """
    radius = rng.uniform(*length_um, (count, 1, 1)) / (2 * mpp)
    half = math.ceil(0.65 * length_um[1] / mpp) + 1
    window = np.indices((1, 2 * half + 1, 2 * half + 1))[1:] - half
    y, x = window - rng.uniform(-0.5, 0.5, (2, count, 1, 1))
    turn = (np.arange(count) * math.pi / count)[:, None, None]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    across = across / rng.uniform(*aspect, (count, 1, 1))
    angle, distance = np.arctan2(across, along), np.hypot(along, across)
    for waves, depth in ((2, 0.05), (3, 0.06), (4, 0.04)):
        phase = rng.uniform(0, math.tau, (count, 1, 1))
        distance = distance * (
            1 + depth * rng.normal(size=(count, 1, 1)) * np.cos(waves * angle + phase)
        )
    cover = np.clip((radius - distance) / max(1.0, 0.4 / mpp) + 0.5, 0, 1)
    clumps = blurred(rng.standard_normal(cover.shape), (0, 0.6 / mpp, 0.6 / mpp))
    clumps /= clumps.std()
    density = chromatin * rng.uniform(0.75, 1.25, (count, 1, 1)) * (1 + 0.13 * clumps)
    if vesicular:
        density = density * (0.72 + 0.55 * np.clip(distance / radius, 0, 1.1) ** 4)
        for share in (1.0, 0.4):
            density += _nucleoli(along, across, radius, share, rng)
    return np.asarray(cover * density, np.float32)


def _nucleoli(
    along: NDArray[np.float64],
    across: NDArray[np.float64],
    radius: NDArray[np.float64],
    share: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """A dark spot off the middle of a share of the nuclei."""
    count = len(radius)
    off = rng.uniform(-0.35, 0.35, (2, count, 1, 1)) * radius
    size = 0.22 * radius * rng.uniform(0.7, 1.2, (count, 1, 1))
    spot = np.exp(-((along - off[0]) ** 2 + (across - off[1]) ** 2) / (2 * size**2))
    return np.asarray(0.4 * spot * (rng.uniform(size=(count, 1, 1)) < share))


def press(
    canvas: Field,
    stamps: NDArray[np.float32],
    sites: NDArray[np.float32],
    kinds: NDArray[np.integer],
) -> None:
    """Lay one stamp on each site in place; where stamps overlap the darker wins."""
    side = stamps.shape[1]
    row, column = pixel_of(sites, canvas.shape)
    padded = np.pad(canvas, side // 2)
    flat, stride = padded.reshape(-1), padded.shape[1]
    corner, first = np.unique(row * stride + column, return_index=True)
    kinds = kinds[first]
    # No two corners are equal, so one offset at a time never writes a pixel twice.
    for dy in range(side):
        for dx in range(side):
            at = corner + dy * stride + dx
            flat[at] = np.maximum(flat[at], stamps[kinds, dy, dx])
    edge = side // 2
    canvas[:] = padded[edge : edge + canvas.shape[0], edge : edge + canvas.shape[1]]
