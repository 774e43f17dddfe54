"""A recipe: every choice of a training run as one value that the bundle records."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from histoslide.datasets import Split
from histoslide.errors import DataError
from histoslide.model.architectures import normalisation
from histoslide.model.spec import (
    PCAM_INPUT_PX,
    PCAM_LABEL_PX,
    PCAM_MPP,
    TOTAL_STRIDE_PX,
)
from histoslide.model.timm_body import Triple
from histoslide.storage.records import to_builtins
from histoslide.training.recipe.augmentation import Augmentation
from histoslide.training.recipe.ranges import require
from histoslide.training.recipe.stage import Stage

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "mixed")
"""``auto`` is the fastest by device, processor and network, see
``histoslide.training.precision``; ``mixed`` is fp16 on CUDA, as fastai's ``to_fp16``, and fp32
elsewhere."""

MONITORS = ("auc", "accuracy", "valid_loss")
"""What may decide which epoch is best; the loss is best when lowest."""

LARGEST_DRIFT = 0.25
"""Part of the label footprint's side by which an augmentation may move it off the centre. The
notebook's zoom of 1.15 moves 32 px of 96 by at most 6.3 px; beyond a quarter, most of what the
label was given for could lie where the network learns that it should not look."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a patch model is trained.

    Raises:
        DataError: a value is out of its range, or an augmentation would move the label footprint
            out of the centre of the patch.
    """

    name: str
    """Name under which the bundle records it."""
    architecture: str = "resnet50"
    """A key of ``histoslide.model.architectures.ARCHITECTURES``, or ``timm/NAME``."""
    imagenet: bool = True
    """Start from ImageNet weights; False starts from random ones."""
    stages: tuple[Stage, ...]
    """One-cycle runs, in order."""
    split: str = "auto"
    """How validation is held back: a kind of ``histoslide.datasets.Split``, or a CSV file."""
    valid_fraction: float = 0.05
    """Part held back, where the data bring no validation set of their own."""
    batch_size: int = 64
    """Patches a step of the optimiser."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW)."""
    decay_norms: bool = True
    """Whether it also shrinks batch norms and biases. fastai 1.0 does so (its ``bn_wd``), fastai 2
    spares them (its ``wd_bn_bias``)."""
    epsilon: float = 1e-5
    """What Adam adds to the root of the squared gradients; fastai 1.0 takes torch's 1e-8."""
    label_smoothing: float = 0.0
    """Part of the target spread over all classes."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that mixes pairs of patches (Zhang et al. 2018); 0: off."""
    class_weights: str | tuple[float, ...] = "none"
    """Weights of the classes in the loss: ``none``, ``balanced`` (inverse to their number of
    training patches, so that a patch weighs 1 on average; 0 without any) or one number a class."""
    teacher_weight: float = 0.8
    """Part of the loss that comes from the teachers, where a run has any; the rest from labels."""
    teacher_temperature: float = 2.0
    """What teachers' and the network's logits are divided by before they are compared."""
    ema_decay: float = 0.0
    """Decay a step of the exponential average of the weights that is validated and kept; 0: off."""
    precision: str = "auto"
    """One of ``PRECISIONS``."""
    keep: str = "best"
    """Weights of the ``best`` or the ``last`` epoch of the last stage."""
    monitor: str = "auc"
    """One of ``MONITORS``: what decides which epoch is best, and when to stop early."""
    patience: int | None = None
    """Epochs without a better one after which a stage ends early; None never."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of training patches."""
    presize_px: int | None = None
    """Side to which a training patch is resized before it is augmented, in pixels; None leaves
    it."""
    input_px: int = PCAM_INPUT_PX
    """Side of the patches, in model pixels."""
    network_px: int | None = None
    """Side of what the network sees, in pixels; None as large as the patch or its crop."""
    label_px: int = PCAM_LABEL_PX
    """Side of the centre square that the labels speak of, in model pixels."""
    mpp: float = PCAM_MPP
    """Micrometres per pixel of the patches."""
    mean: tuple[float, float, float] | None = None
    """Per-channel mean subtracted from RGB in 0-1 units; None as the ImageNet weights of the
    architecture expect."""
    std: tuple[float, float, float] | None = None
    """Per-channel standard deviation that RGB in 0-1 units is divided by; None likewise."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "stages", "class_weights"):
            if isinstance(getattr(self, name), list):  # as TOML and JSON have them
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.stages:
            raise DataError(f"recipe {self.name!r} has no stage")
        for name in ("label_smoothing", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "in 0-1 and below 1", self)
        for name in ("weight_decay", "mixup"):
            require(0 <= getattr(self, name) < math.inf, name, "0 or more", self)
        require(0 < self.teacher_weight <= 1, "teacher_weight", "in 0-1 and above 0", self)
        heat = self.teacher_temperature
        require(0 < heat < math.inf, "teacher_temperature", "above 0", self)
        require(0 < self.epsilon < math.inf, "epsilon", "above 0", self)
        require(0 < self.valid_fraction < 1, "valid_fraction", "in 0-1", self)
        require(self.batch_size >= 2, "batch_size", "at least 2", self)
        require(self.precision in PRECISIONS, "precision", f"one of {PRECISIONS}", self)
        require(self.keep in {"best", "last"}, "keep", "best or last", self)
        require(self.monitor in MONITORS, "monitor", f"one of {MONITORS}", self)
        require(self.patience is None or self.patience >= 1, "patience", "at least 1", self)
        self._check_sizes()
        self._check_weights()
        self._check_crops()
        self._check_mosaics()
        self._check_footprint()

    def _check_sizes(self) -> None:
        require(0 < self.mpp < math.inf, "mpp", "a positive number", self)
        require(self.input_px >= 1, "input_px", "at least 1", self)
        for name in ("network_px", "presize_px"):
            side = getattr(self, name)
            require(side is None or side >= 1, name, "at least 1", self)
        inside = 1 <= self.label_px <= self.input_px
        require(inside, "label_px", f"1 to {self.input_px}, the side of the patches", self)

    def _check_weights(self) -> None:
        weights = self.class_weights
        named = weights in {"none", "balanced"}
        numbers = isinstance(weights, tuple) and all(0 < w < math.inf for w in weights)
        require(named or numbers, "class_weights", "none, balanced or positive numbers", self)

    def _check_crops(self) -> None:
        if self.stages[-1].crop_px is not None:
            raise DataError(
                f"the last stage must see whole patches, not crops of {self.stages[-1].crop_px} px"
            )
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

    def _check_mosaics(self) -> None:
        for stage in self.stages:
            if stage.mosaic and self.side_px(stage) % TOTAL_STRIDE_PX:
                raise DataError(
                    f"a mosaic of {self.side_px(stage)} px cannot be cut again after the network: "
                    f"train on a multiple of {TOTAL_STRIDE_PX} px"
                )

    def _check_footprint(self) -> None:
        """Refuse what would train the network on labels of something it cannot see."""
        if self.label_px == self.input_px:
            return
        change = self.augmentation
        label = f"the centre {self.label_px} px that the label speaks of"
        way_out = (
            f"train on patches labelled as a whole (label_px = {self.input_px}) or leave it out"
        )
        for name, value, off in (
            ("min_scale", change.min_scale, 1),
            ("max_warp", change.max_warp, 0),
        ):
            if value != off:
                raise DataError(f"augmentation {name} {value} would move {label}: {way_out}")
        drift, limit = change.drift_px(self.input_px), LARGEST_DRIFT * self.label_px
        if drift > limit:
            zoom = "min_zoom" if change.drifts_most_when_reduced else "max_zoom"
            raise DataError(
                f"augmentation {zoom} {getattr(change, zoom)} and max_shift {change.max_shift} "
                f"would move {label} by {drift:.1f} px, more than {limit:g}: zoom less, set "
                "zoom_centred, or leave the shift out"
            )
        if self.input_px / change.max_zoom < self.label_px:
            raise DataError(
                f"augmentation max_zoom {change.max_zoom} would cut into {label}: zoom less"
            )

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """Per-channel mean and standard deviation of RGB in 0-1 units.

        Raises:
            BundleError: no such architecture.
        """
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        mean, std = normalisation(self.architecture)
        return self.mean or mean, self.std or std

    @property
    def epochs(self) -> int:
        """Passes over the training set in all stages."""
        return sum(stage.epochs for stage in self.stages)

    def side_px(self, stage: Stage) -> int:
        """Side of what the network sees in a stage, in pixels."""
        return stage.network_px or self.network_px or stage.crop_px or self.input_px

    def from_random_weights(self) -> Recipe:
        """The recipe without ImageNet weights.

        A first stage that froze the body trains it too, as fastai's ``vision_learner`` freezes only
        what is pretrained: a head on random features learns nothing.
        """
        first, *others = self.stages
        thawed = dataclasses.replace(first, trainable_groups=None)
        return dataclasses.replace(self, imagenet=False, stages=(thawed, *others))

    def division(self, *, seed: int = 42) -> Split:
        """How patches are held back, for ``PatchFolder.divide``.

        Raises:
            DataError: ``split`` is neither a kind nor a file.
        """
        return Split.parse(self.split, fraction=self.valid_fraction, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return dict(to_builtins(self))
