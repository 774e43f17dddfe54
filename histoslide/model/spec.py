"""What a trained model is, in plain values: everything needed to use its weights rightly."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histoslide.errors import BundleError
from histoslide.storage.records import builtins_from_json, from_builtins

SPEC_VERSION = 1

PCAM_MPP = 0.972
"""Micrometres per pixel of PatchCamelyon: CAMELYON16 slides scanned at 0.243 µm/px, read at a
downsample of 4 (Veeling et al. 2018, "Rotation Equivariant CNNs for Digital Pathology")."""

PCAM_INPUT_PX = 96
"""Side of a PatchCamelyon patch, in pixels."""

PCAM_LABEL_PX = 32
"""Side of the centre region that a PatchCamelyon label speaks of, in pixels."""

TOTAL_STRIDE_PX = 32
"""Pixels of the input a pixel of a ResNet's last feature map (He et al. 2016, table 1)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Per-channel mean of ImageNet in RGB order and 0-1 units, as torchvision and fastai use it."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel standard deviation of ImageNet in RGB order and 0-1 units."""


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What is used of the story of a training, where it is told; it may tell more."""

    data: Mapping[str, Any] | None = None
    validation: Mapping[str, Any] | None = None
    epochs: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The facts about a model that its weights alone do not tell.

    Raises:
        BundleError: a value is impossible, for example a label footprint larger than the tile.
    """

    name: str
    """Short name for titles and logs."""
    architecture: str
    """A key of ``histoslide.model.architectures.ARCHITECTURES``, or ``timm/NAME``."""
    classes: tuple[str, ...]
    """Class names in the order of the network's outputs, at least two."""
    tumour_class: str | None = None
    """The class whose probability a heatmap shows; None for a model of more than two tissues."""
    input_px: int
    """Side of the square tile the network sees, in model pixels."""
    label_px: int
    """Side of the centre square the label speaks of, in model pixels."""
    mpp: float
    """Micrometres per model pixel."""
    network_px: int = 0
    """Side to which a tile is resized before the network, in pixels; 0 for ``input_px``."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean subtracted from RGB in 0-1 units."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel standard deviation that RGB in 0-1 units is divided by."""
    temperature: float = 1.0
    """Logits are divided by this before the softmax (temperature scaling, Guo et al. 2017)."""
    licence: str = "unspecified"
    """Licence of the weights."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How the model was trained: data, split, recipe, figures on validation, package versions."""

    def __post_init__(self) -> None:
        if self.network_px == 0:
            object.__setattr__(self, "network_px", self.input_px)

        def refuse(reason: str) -> None:
            raise BundleError(f"model spec {self.name!r}: {reason}")

        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            refuse(f"classes must be two or more different names, not {list(self.classes)}")
        if self.tumour_class is not None and self.tumour_class not in self.classes:
            refuse(f"tumour_class {self.tumour_class!r} is not among {list(self.classes)}")
        if not 0 < self.label_px <= self.input_px:
            refuse(f"label_px {self.label_px} must lie in 1..input_px ({self.input_px})")
        if self.network_px < 32:
            refuse(f"network_px {self.network_px} is below 32, the total stride of a ResNet")
        for name in ("mpp", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                refuse(f"{name} must be a positive number, not {value}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if len(value) != 3 or not all(math.isfinite(v) for v in value):
                refuse(f"{name} must be three finite numbers, not {value}")
        if min(self.std) <= 0:
            refuse(f"std must be positive, not {self.std}")

    @property
    def tumour_index(self) -> int | None:
        """Index of the tumour class among the outputs, or None for a model without one."""
        return None if self.tumour_class is None else self.classes.index(self.tumour_class)

    def to_json(self) -> str:
        """The spec as JSON text, keys sorted, so that equal specs are equal texts."""
        # Not by way of records, which would not sort the keys.
        fields = dataclasses.asdict(self) | {"spec_version": SPEC_VERSION}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: object = "model spec") -> ModelSpec:
        """Parse what ``to_json`` wrote.

        Args:
            text: the JSON.
            source: where it is from, for messages.

        Raises:
            BundleError: not JSON, an unknown version, an unknown, missing or impossible field.
        """
        content = builtins_from_json(text, source=source, error=BundleError)
        fields = from_builtins(content, dict[str, Any], source=source, error=BundleError)
        version = fields.pop("spec_version", None)
        if version != SPEC_VERSION:
            raise BundleError(
                f"{source} has version {version!r:.40}, this histoslide reads {SPEC_VERSION}: "
                "use the release that wrote it or train again"
            )
        spec = from_builtins(fields, cls, source=source, error=BundleError, exact=True)
        from_builtins(spec.training, _Training, source=f"{source}, training", error=BundleError)
        return spec
