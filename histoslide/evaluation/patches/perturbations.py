"""What another laboratory or scanner may do to patches, in fixed amounts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Maps square RGB patches, uint8 of shape (n, side, side, 3), to as many of the same shape."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A change with a name; the same patch always becomes the same."""

    name: str
    """For tables."""
    change: Change
    """What is done to patches."""


def turn_hue(patches: NDArray[np.uint8], *, degrees: float) -> NDArray[np.uint8]:
    """Turn the hue of HSV and keep saturation and value (Smith 1978).

    A channel is V - C·max(0, min(1, k, 4 - k)) with C the chroma and k its distance, in sixths of
    the circle, from where the channel is lowest.
    """
    red, green, blue = _planes(patches)
    value, chroma = _value_and_chroma(red, green, blue)
    scale = 1 / np.maximum(chroma, 1)  # of 0, nothing but 0 is made
    sixths = np.where(
        value == red,
        (green - blue) * scale,
        np.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    result = np.empty_like(patches)
    for channel, lowest in enumerate((5, 3, 1)):
        k = sixths + np.float32(lowest + degrees / 60)
        k -= 6 * np.floor(k / 6)
        share = np.minimum(k, 4 - k).clip(0, 1)
        result[..., channel] = _rounded(value - chroma * share)
    return result


def scale_saturation(patches: NDArray[np.uint8], *, factor: float) -> NDArray[np.uint8]:
    """Multiply the saturation of HSV, at most to 1, and keep hue and value."""
    planes = _planes(patches)
    value, chroma = _value_and_chroma(*planes)
    most = value / np.maximum(chroma, 1)  # where the lowest channel becomes 0
    depth = np.minimum(np.float32(factor), most)
    result = np.empty_like(patches)
    for channel, plane in enumerate(planes):
        result[..., channel] = _rounded(value - (value - plane) * depth)
    return result


def scale_brightness(patches: NDArray[np.uint8], *, factor: float) -> NDArray[np.uint8]:
    """Multiply all channels; what becomes brighter than white is white."""
    return _rounded(patches.astype(np.float32) * np.float32(factor))


def blur(patches: NDArray[np.uint8], *, sigma_px: float) -> NDArray[np.uint8]:
    """Blur with a Gaussian, cut at four deviations; beyond its edge a patch is mirrored."""
    return _along_both(patches, _gaussian(patches.shape[1], sigma_px))


def compress(patches: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    """Compress each patch as JPEG, with colours at half the resolution, and decode it again."""
    result = np.empty_like(patches)
    for patch, decoded in zip(np.ascontiguousarray(patches), result, strict=True):
        encoded = simplejpeg.encode_jpeg(
            patch, quality=quality, colorspace="RGB", colorsubsampling="420"
        )
        decoded[:] = simplejpeg.decode_jpeg(encoded)
    return result


def rescale(patches: NDArray[np.uint8], *, factor: float) -> NDArray[np.uint8]:
    """Show patches at ``factor`` times their micrometres per pixel, about their centre.

    So above 1 everything is smaller, and what lies beyond the patch is its mirror image; below 1
    only the centre of the patch is seen. What the label speaks of stays in the centre. Linear
    interpolation, over more pixels where it shrinks, so that nothing is aliased.
    """
    return _along_both(patches, _resampling(patches.shape[1], factor))


def _planes(patches: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Red, green and blue, each of shape (n, side, side)."""
    return [patches[..., channel].astype(np.float32) for channel in range(3)]


def _value_and_chroma(
    red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    value = np.maximum(np.maximum(red, green), blue)
    return value, value - np.minimum(np.minimum(red, green), blue)


def _rounded(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _along_both(patches: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Apply the same weights of shape (side, side) down and across each patch."""
    planes = np.stack(_planes(patches), axis=1)  # (n, 3, side, side)
    return _rounded(weights @ planes @ weights.T).transpose(0, 2, 3, 1)


@cache
def _gaussian(side: int, sigma_px: float) -> NDArray[np.float32]:
    """The weights of every pixel of a line in every blurred one, shape (side, side)."""
    each = np.eye(side, dtype=np.float32)
    weights: NDArray[np.float32] = gaussian_filter1d(each, sigma_px, axis=0, mode="reflect")
    return weights


@cache
def _resampling(side: int, factor: float) -> NDArray[np.float32]:
    """The weights of every pixel of a line in every resampled one, shape (side, side)."""
    weights = np.zeros((side, side))
    reach = max(1.0, factor)
    for place in range(side):
        at = (place + 0.5 - side / 2) * factor + side / 2
        for source in range(math.floor(at - reach), math.ceil(at + reach) + 1):
            mirrored = min(source % (2 * side), (-1 - source) % (2 * side))
            weights[place, mirrored] += max(0.0, 1 - abs(source + 0.5 - at) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


PERTURBATIONS = (
    *(
        Perturbation(name=f"hue {degrees:+d}°".replace("-", "−"),
                     change=partial(turn_hue, degrees=degrees))
        for degrees in (-15, -8, 8, 15)
    ),
    *(
        Perturbation(name=f"saturation ×{factor:g}",
                     change=partial(scale_saturation, factor=factor))
        for factor in (0.7, 1.3)
    ),
    *(
        Perturbation(name=f"brightness ×{factor:g}",
                     change=partial(scale_brightness, factor=factor))
        for factor in (0.85, 1.15)
    ),
    Perturbation(name="blur σ 1 px", change=partial(blur, sigma_px=1.0)),
    Perturbation(name="JPEG quality 60", change=partial(compress, quality=60)),
    *(
        Perturbation(name=f"resolution ×{factor:g}", change=partial(rescale, factor=factor))
        for factor in (0.8, 1.2)
    ),
)  # fmt: skip
"""The changes of the table; the order is that of its rows."""
