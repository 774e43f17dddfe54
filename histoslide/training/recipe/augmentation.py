"""Random changes of training patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from histoslide.training.recipe.ranges import require

LARGEST_BLUR = 5
"""Standard deviation, in pixels, beyond which nuclei are gone at any usual resolution."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training patch.

    The first group is what fastai's ``aug_transforms`` takes, with the same meaning; all geometric
    changes are combined into one bilinear resampling that reflects at the border.

    Raises:
        DataError: a value is out of its range.
    """

    flip: bool = False
    """Flips: left-right, or with ``flip_vert`` the eight symmetries of the square."""
    flip_vert: bool = False
    """Whether ``flip`` means all eight symmetries."""
    p_flip: float = 0.5
    """Probability that a flip or symmetry is drawn at all."""
    max_rotate: float = 0.0
    """Largest rotation, in degrees, either way."""
    min_zoom: float = 1.0
    """Smallest magnification."""
    max_zoom: float = 1.0
    """Largest magnification."""
    zoom_centred: bool = False
    """Zoom about the centre; False zooms about a random point, as fastai does."""
    max_warp: float = 0.0
    """Largest perspective change, as the magnitude of fastai's ``Warp``."""
    max_shift: float = 0.0
    """Largest translation, as a part of the side, either way."""
    p_affine: float = 0.75
    """Probability of each of rotation, zoom, warp and shift."""
    max_lighting: float = 0.0
    """Largest change of brightness and of contrast, in fastai's logit scale."""
    p_lighting: float = 0.75
    """Probability of each of brightness and contrast."""
    min_scale: float = 1.0
    """Smallest part of the area that a random crop keeps; 1 crops nothing."""
    stain: float = 0.0
    """Spread of the haematoxylin and eosin concentrations (Tellez et al. 2018), 0 for none."""
    hue: float = 0.0
    """Largest turn of all colours about the axis of greys, in degrees, either way."""
    saturation: float = 0.0
    """Largest relative change of the distance from grey, either way."""
    brightness: float = 0.0
    """Largest relative change of all channels alike, either way."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels."""
    p_blur: float = 0.5
    """Probability that a patch is blurred at all."""
    sharpness: float = 0.0
    """Largest blend with a blurred (positive) or sharpened (negative) copy, 0-1."""
    jpeg: float = 0.0
    """Probability that a patch is compressed once more, at a JPEG quality of 40-90."""

    def __post_init__(self) -> None:
        parts = (
            "p_flip", "max_warp", "max_shift", "p_affine", "max_lighting", "p_lighting",
            "min_scale", "stain", "saturation", "brightness", "p_blur", "sharpness", "jpeg",
        )  # fmt: skip
        for name in parts:
            require(0 <= getattr(self, name) <= 1, f"augmentation {name}", "in 0-1", self)
        require(0 <= self.max_rotate <= 180, "augmentation max_rotate", "in 0-180", self)
        require(0 <= self.hue <= 180, "augmentation hue", "in 0-180", self)
        require(0 <= self.blur <= LARGEST_BLUR, "augmentation blur", f"in 0-{LARGEST_BLUR}", self)
        require(self.max_lighting < 1, "augmentation max_lighting", "below 1", self)
        require(self.min_scale > 0, "augmentation min_scale", "above 0", self)
        require(0 < self.min_zoom <= 1, "augmentation min_zoom", "in 0-1 and above 0", self)
        require(1 <= self.max_zoom < math.inf, "augmentation max_zoom", "1 or more", self)

    def drift_px(self, input_px: int) -> float:
        """How far zoom and shift may together move the centre, in pixels of the patch.

        Of the patch as it is before it is magnified, and after it is reduced.
        """
        return (max(self._zoom_drifts) + self.max_shift) * input_px

    @property
    def drifts_most_when_reduced(self) -> bool:
        """Whether ``min_zoom`` moves the centre further than ``max_zoom``."""
        reduced, magnified = self._zoom_drifts
        return reduced > magnified

    @property
    def _zoom_drifts(self) -> tuple[float, float]:
        """How far zooming out and in move the centre, as a part of the side.

        A point of the patch stays where it is, and the centre lies up to half a side away from it.
        """
        if self.zoom_centred:
            return 0.0, 0.0
        return (1 - self.min_zoom) / 2, (1 - 1 / self.max_zoom) / 2
