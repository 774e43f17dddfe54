"""A recipe: every choice of a training run as one value that the bundle records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histoslide.errors import DataError
from histoslide.model.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PCAM_INPUT_PX,
    PCAM_LABEL_PX,
    PCAM_MPP,
)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training patch; all of them keep its centre in the centre."""

    symmetries: bool = True
    """One of the eight flips and quarter turns of the square."""
    zoom: float = 0.0
    """Largest relative change of scale, for example 0.1 for factors from 1/1.1 to 1.1."""
    stain: float = 0.0
    """Spread of the haematoxylin and eosin concentrations (Tellez et al. 2018), 0 for none."""
    lighting: float = 0.0
    """Largest change of brightness and contrast, as a part of the full range."""
    sharpness: float = 0.0
    """Largest blend with a blurred (positive) or sharpened (negative) copy, 0-1."""
    jpeg: float = 0.0
    """Probability that a patch is compressed once more, at a JPEG quality of 40-90."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = float(getattr(self, field.name))
            if not 0 <= value <= 1:
                raise DataError(f"augmentation {field.name} must lie in 0-1, not {value}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One one-cycle run of consecutive epochs."""

    epochs: int
    """Passes over the training set."""
    lr: float
    """Highest learning rate of the cycle."""
    crop_px: int | None = None
    """Side of the centre crop that is trained on, in model pixels; None for the whole patch.
    Small crops make a run from nothing affordable; the last stage should see whole patches."""
    network_px: int | None = None
    """Side the crop is resized to, in pixels; None for no resizing."""
    trainable_groups: int | None = None
    """How many parameter groups learn, counted from the head; None for all."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise DataError(f"a stage needs at least one epoch, not {self.epochs}")
        if not self.lr > 0:
            raise DataError(f"the learning rate must be positive, not {self.lr}")
        if self.trainable_groups is not None and self.trainable_groups < 1:
            raise DataError(f"trainable_groups must be 1 or more, not {self.trainable_groups}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a patch model is trained."""

    name: str
    """Name under which the bundle records it."""
    architecture: str = "resnet50"
    """A key of ``histoslide.model.architectures.ARCHITECTURES``."""
    imagenet: bool = True
    """Start from ImageNet weights; False starts from random ones."""
    stages: tuple[Stage, ...]
    """One-cycle runs, in order."""
    batch_size: int = 64
    """Patches a step."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW)."""
    label_smoothing: float = 0.0
    """Part of the target spread over all classes."""
    ema_decay: float = 0.0
    """Decay a step of the exponential average of the weights that is validated and kept; 0: off."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training patches."""
    input_px: int = PCAM_INPUT_PX
    """Side of the patches, in model pixels."""
    label_px: int = PCAM_LABEL_PX
    """Side of the centre square that the labels speak of, in model pixels."""
    mpp: float = PCAM_MPP
    """Micrometres per pixel of the patches."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean subtracted from RGB in 0-1 units."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel standard deviation that RGB in 0-1 units is divided by."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise DataError(f"recipe {self.name!r} has no stage")
        for stage in self.stages:
            if stage.crop_px is None:
                continue
            if stage.crop_px > self.input_px:
                raise DataError(
                    f"a crop of {stage.crop_px} px is larger than the patches ({self.input_px} px)"
                )
            if stage.crop_px < self.label_px:
                raise DataError(
                    f"a crop of {stage.crop_px} px would cut into the {self.label_px} px that the "
                    "label speaks of"
                )

    @property
    def epochs(self) -> int:
        """Passes over the training set in all stages."""
        return sum(stage.epochs for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return dataclasses.asdict(self)


RECIPES: Mapping[str, Recipe] = {
    "one-cycle": Recipe(
        name="one-cycle",
        stages=(Stage(epochs=5, lr=1e-3),),
        augmentation=Augmentation(zoom=0.15, lighting=0.25),
    ),
    "from-scratch": Recipe(
        name="from-scratch",
        imagenet=False,
        stages=(
            Stage(epochs=4, lr=1e-3, crop_px=48),
            Stage(epochs=1, lr=7e-4, crop_px=64),
            Stage(epochs=1, lr=5e-4, trainable_groups=2),
        ),
        weight_decay=0.05,
        label_smoothing=0.02,
        ema_decay=0.99,
        augmentation=Augmentation(zoom=0.12, stain=0.12, lighting=0.1, sharpness=0.5, jpeg=0.2),
    ),
}
"""``one-cycle`` fine-tunes ImageNet weights; ``from-scratch`` made the weights that ship."""
