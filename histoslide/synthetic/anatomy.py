"""The anatomy of a lymph node: where its parts lie, before anything is stained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from histoslide.synthetic.field import Field, blurred, noise


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Where things lie; every field has shape (height, width)."""

    depth_um: Field
    """Micrometres inside the node's surface; negative outside."""
    tangent: Field
    """Direction of the nearest surface in radians."""
    sinus: Field
    """1 in the lymph channels, 0 elsewhere."""
    follicle: Field
    """1 in germinal centres, 0 elsewhere."""
    nest: Field
    """Positive where carcinoma grows."""
    fat: Field
    """Positive in the fat lobule."""


def draw_anatomy(width: int, height: int, mpp: float, rng: np.random.Generator) -> Anatomy:
    """A node that fits itself to the picture, with four follicles, two nests and a fat lobule."""
    shape, extent = (height, width), min(width, height)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    centre = (0.48 * height, 0.46 * width)
    dy, dx = (y - centre[0]) / (0.42 * height), (x - centre[1]) / (0.42 * width)
    inside = 1 - np.hypot(dy, dx) + 0.07 * noise(shape, 0.28 * extent, rng)
    depth_um = inside * (0.42 * extent * mpp) + 2.0 * noise(shape, 25 / mpp, rng)
    follicles = [
        _blob(
            shape,
            centre,
            rng,
            reach=0.62,
            angle=rng.uniform(0, math.tau),
            radius=rng.uniform(45, 95) / mpp,
        )
        for _ in range(4)
    ]
    first = rng.uniform(0, math.tau)
    nests = [
        _blob(
            shape,
            centre,
            rng,
            reach=rng.uniform(0.42, 0.6),
            angle=first + turn,
            radius=size * extent,
        )
        for turn, size in ((0.0, 0.14), (rng.uniform(2.0, 4.0), 0.08))
    ]
    lobule = rng.uniform(0.5, 1.1)
    fat = _blob(shape, centre, rng, reach=0.95, angle=lobule, radius=0.22 * extent)
    channels = np.abs(noise(shape, 90 / mpp, rng)) < 0.13
    beneath = np.abs(depth_um - 24 - 5 * noise(shape, 60 / mpp, rng)) < 7
    sinus = (channels & (depth_um > 140)) | beneath
    return Anatomy(
        depth_um=depth_um.astype(np.float32),
        tangent=np.arctan2(dx, -dy).astype(np.float32),
        sinus=blurred(sinus.astype(np.float32), 1.5 / mpp),
        follicle=np.clip(4 * np.maximum.reduce(follicles), 0, 1).astype(np.float32),
        nest=np.where(depth_um > 12, np.maximum.reduce(nests), -1).astype(np.float32),
        fat=np.where(depth_um < 15, fat, -1).astype(np.float32),
    )


def _blob(
    shape: tuple[int, int],
    centre: tuple[float, float],
    rng: np.random.Generator,
    *,
    reach: float,
    angle: float,
    radius: float,
) -> Field:
    """An irregular disc, 1 at its middle and 0 on its outline, somewhere around a centre."""
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    middle_y = centre[0] + reach * 0.42 * shape[0] * math.sin(angle)
    middle_x = centre[1] + reach * 0.42 * shape[1] * math.cos(angle)
    distance = np.hypot(y - middle_y, x - middle_x) / radius
    return np.asarray(1 - distance + 0.3 * noise(shape, 0.7 * radius, rng), np.float32)
