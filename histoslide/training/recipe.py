"""A recipe: every choice of a training run as one value that the bundle records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histoslide.datasets import Split
from histoslide.errors import DataError
from histoslide.model.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PCAM_INPUT_PX,
    PCAM_LABEL_PX,
    PCAM_MPP,
    TOTAL_STRIDE_PX,
)

GROUPS = 3
"""Parameter groups of a ResNet in fastai: up to layer2, layer3 and layer4, head."""

PRECISIONS = ("fp32", "fp16", "bf16", "mixed")
"""``mixed`` is fp16 on CUDA, as fastai's ``to_fp16``, and fp32 elsewhere."""

MONITORS = ("auc", "accuracy", "valid_loss")
"""What may decide which epoch is best; the loss is best when lowest."""

LARGEST_DRIFT = 0.25
"""Part of the label footprint's side by which an augmentation may move it off the centre. The
notebook's zoom of 1.15 moves 32 px of 96 by at most 6.3 px; beyond a quarter, most of what the
label was given for could lie where the network learns that it should not look."""


def _require(good: bool, what: str, range_: str, owner: object) -> None:
    """Refuse the value of the field of ``owner`` that the last word of ``what`` names."""
    if not good:
        value = getattr(owner, what.rpartition(" ")[2])
        raise DataError(f"{what} must be {range_}, not {value!r}")


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
    sharpness: float = 0.0
    """Largest blend with a blurred (positive) or sharpened (negative) copy, 0-1."""
    jpeg: float = 0.0
    """Probability that a patch is compressed once more, at a JPEG quality of 40-90."""

    def __post_init__(self) -> None:
        parts = (
            "p_flip", "max_warp", "max_shift", "p_affine", "max_lighting", "p_lighting",
            "min_scale", "stain", "sharpness", "jpeg",
        )  # fmt: skip
        for name in parts:
            _require(0 <= getattr(self, name) <= 1, f"augmentation {name}", "in 0-1", self)
        _require(0 <= self.max_rotate <= 180, "augmentation max_rotate", "in 0-180", self)
        _require(self.max_lighting < 1, "augmentation max_lighting", "below 1", self)
        _require(self.min_scale > 0, "augmentation min_scale", "above 0", self)
        _require(0 < self.min_zoom <= 1, "augmentation min_zoom", "in 0-1 and above 0", self)
        _require(1 <= self.max_zoom < math.inf, "augmentation max_zoom", "1 or more", self)

    def drift_px(self, input_px: int) -> float:
        """How far zoom and shift may together move the centre, in pixels of the patch."""
        zoom = 0.0 if self.zoom_centred else (1 - 1 / self.max_zoom) / 2
        return (zoom + self.max_shift) * input_px


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One one-cycle run of consecutive epochs (Smith 2018).

    Raises:
        DataError: a value is out of its range.
    """

    epochs: int
    """Passes over the training set."""
    lr: float | tuple[float, ...] = 1e-3
    """Highest learning rate of the cycle: one for all parameter groups; two as fastai's
    ``slice(first, last)``, spaced evenly in their logarithm; or one for each of the three groups,
    from the first layers to the head."""
    trainable_groups: int | None = None
    """How many parameter groups learn, counted from the head; 1 is fastai's ``freeze``."""
    train_frozen_norms: bool = True
    """Whether batch norms of frozen groups learn, as fastai's ``train_bn``. It takes the backward
    pass through all of them, which is most of the cost that freezing could save."""
    crop_px: int | None = None
    """Side of the centre crop that is trained on, in model pixels; None for the whole patch.
    Small crops make a run from nothing affordable; the last stage must see whole patches."""
    network_px: int | None = None
    """Side the crop is resized to, in pixels; None as the recipe says."""
    mosaic: float = 0.0
    """Part of the batches whose patches the network sees side by side in one mosaic, so that it
    learns to judge a patch whatever lies beside it; see ``--mode dense``."""
    pct_start: float = 0.25
    """Part of the stage in which the learning rate rises."""
    div: float = 25.0
    """The stage starts at ``lr / div``."""
    div_final: float = 1e5
    """The stage ends at ``lr / div_final``."""

    def __post_init__(self) -> None:
        if isinstance(self.lr, list):  # as TOML and JSON have it
            object.__setattr__(self, "lr", tuple(self.lr))
        _require(self.epochs >= 1, "a stage's epochs", "at least 1", self)
        rates = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        good = 1 <= len(rates) <= GROUPS and all(0 < rate < math.inf for rate in rates)
        _require(good, "a stage's lr", f"one to {GROUPS} positive numbers", self)
        groups = self.trainable_groups
        good = groups is None or 1 <= groups <= GROUPS
        _require(good, "a stage's trainable_groups", f"1 to {GROUPS}", self)
        _require(0 < self.pct_start < 1, "a stage's pct_start", "in 0-1", self)
        _require(0 <= self.mosaic <= 1, "a stage's mosaic", "in 0-1", self)
        for name in ("div", "div_final"):
            _require(getattr(self, name) > 0, f"a stage's {name}", "positive", self)

    @property
    def rates(self) -> tuple[float, ...]:
        """Highest learning rate of each of the three parameter groups."""
        if not isinstance(self.lr, tuple):
            return (self.lr,) * GROUPS
        if len(self.lr) == 2:
            first, last = self.lr
            step = (last / first) ** (1 / (GROUPS - 1))
            return tuple(first * step**group for group in range(GROUPS))
        return self.lr if len(self.lr) == GROUPS else self.lr * GROUPS

    def scaled(self, factor: float) -> Stage:
        """The stage with all its learning rates multiplied."""
        lr = self.lr
        scaled = tuple(r * factor for r in lr) if isinstance(lr, tuple) else lr * factor
        return dataclasses.replace(self, lr=scaled)


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
    """A key of ``histoslide.model.architectures.ARCHITECTURES``."""
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
    training patches, 1 on average) or one number a class."""
    ema_decay: float = 0.0
    """Decay a step of the exponential average of the weights that is validated and kept; 0: off."""
    precision: str = "fp32"
    """One of ``PRECISIONS``."""
    keep: str = "best"
    """Weights of the ``best`` or the ``last`` epoch of the last stage."""
    monitor: str = "auc"
    """One of ``MONITORS``: what decides which epoch is best, and when to stop early."""
    patience: int | None = None
    """Epochs without a better one after which a stage ends early; None never."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training patches."""
    presize_px: int | None = None
    """Side to which a patch is resized before it is augmented, in pixels; None leaves it."""
    input_px: int = PCAM_INPUT_PX
    """Side of the patches, in model pixels."""
    network_px: int | None = None
    """Side of what the network sees, in pixels; None as large as the patch or its crop."""
    label_px: int = PCAM_LABEL_PX
    """Side of the centre square that the labels speak of, in model pixels."""
    mpp: float = PCAM_MPP
    """Micrometres per pixel of the patches."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean subtracted from RGB in 0-1 units."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel standard deviation that RGB in 0-1 units is divided by."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "stages", "class_weights"):
            if isinstance(getattr(self, name), list):  # as TOML and JSON have them
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.stages:
            raise DataError(f"recipe {self.name!r} has no stage")
        for name in ("label_smoothing", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, "in 0-1 and below 1", self)
        for name in ("weight_decay", "mixup"):
            _require(0 <= getattr(self, name) < math.inf, name, "0 or more", self)
        _require(0 < self.epsilon < math.inf, "epsilon", "above 0", self)
        _require(0 < self.valid_fraction < 1, "valid_fraction", "in 0-1", self)
        _require(self.batch_size >= 2, "batch_size", "at least 2", self)
        _require(self.precision in PRECISIONS, "precision", f"one of {PRECISIONS}", self)
        _require(self.keep in {"best", "last"}, "keep", "best or last", self)
        _require(self.monitor in MONITORS, "monitor", f"one of {MONITORS}", self)
        _require(self.patience is None or self.patience >= 1, "patience", "at least 1", self)
        self._check_sizes()
        self._check_weights()
        self._check_crops()
        self._check_mosaics()
        self._check_footprint()

    def _check_sizes(self) -> None:
        _require(0 < self.mpp < math.inf, "mpp", "a positive number", self)
        _require(self.input_px >= 1, "input_px", "at least 1", self)
        for name in ("network_px", "presize_px"):
            side = getattr(self, name)
            _require(side is None or side >= 1, name, "at least 1", self)
        inside = 1 <= self.label_px <= self.input_px
        _require(inside, "label_px", f"1 to {self.input_px}, the side of the patches", self)

    def _check_weights(self) -> None:
        weights = self.class_weights
        named = weights in {"none", "balanced"}
        numbers = isinstance(weights, tuple) and all(0 < w < math.inf for w in weights)
        _require(named or numbers, "class_weights", "none, balanced or positive numbers", self)

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
            raise DataError(
                f"augmentation max_zoom {change.max_zoom} and max_shift {change.max_shift} would "
                f"move {label} by {drift:.1f} px, more than {limit:g}: zoom less, set "
                "zoom_centred, or leave the shift out"
            )
        if self.input_px / change.max_zoom < self.label_px:
            raise DataError(
                f"augmentation max_zoom {change.max_zoom} would cut into {label}: zoom less"
            )

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
        if not self.imagenet:
            return self
        first, *others = self.stages
        thawed = dataclasses.replace(first, trainable_groups=None)
        return dataclasses.replace(self, imagenet=False, stages=(thawed, *others))

    def division(self, *, seed: int = 42) -> Split:
        """How patches are held back, for ``open_patches``.

        Raises:
            DataError: ``split`` is neither a kind nor a file.
        """
        return Split.parse(self.split, fraction=self.valid_fraction, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return dataclasses.asdict(self)


def fine_tune_stages(
    epochs: int, *, base_lr: float = 2e-3, freeze_epochs: int = 1, lr_mult: float = 100
) -> tuple[Stage, Stage]:
    """The two stages of fastai's ``Learner.fine_tune`` with the same arguments."""
    frozen = (base_lr / 10, base_lr / 10, base_lr)  # what fastai makes of slice(base_lr)
    half = base_lr / 2
    return (
        Stage(epochs=freeze_epochs, lr=frozen, trainable_groups=1, pct_start=0.99),
        Stage(epochs=epochs, lr=(half / lr_mult, half), pct_start=0.3, div=5.0),
    )


RECIPES: Mapping[str, Recipe] = {
    "pcam": Recipe(
        name="pcam",
        # pct_start, the final rate and 3e-3 with a tenth for the body, epsilon, and that one of the
        # eight symmetries is always drawn: the defaults of fastai 1.0, which the notebook ran with.
        stages=(
            Stage(
                epochs=5,
                lr=(3e-4, 3e-4, 3e-3),
                trainable_groups=1,
                pct_start=0.3,
                div_final=2.5e5,
            ),
            Stage(epochs=2, lr=(1e-6, 1e-5), pct_start=0.3, div_final=2.5e5),
        ),
        epsilon=1e-8,
        network_px=224,
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            p_flip=1.0,
            max_rotate=45,
            max_zoom=1.15,
            p_affine=0.5,
            max_lighting=0.5,
            p_lighting=0.5,
        ),
    ),
    "colorectal": Recipe(
        name="colorectal",
        stages=(
            Stage(epochs=3, lr=1e-3, trainable_groups=1),
            Stage(epochs=5, lr=(1e-5, 1e-3)),
        ),
        valid_fraction=0.2,
        decay_norms=False,
        precision="mixed",
        monitor="accuracy",
        presize_px=460,
        network_px=224,
        augmentation=Augmentation(
            flip=True,
            max_rotate=10,
            max_zoom=1.1,
            max_warp=0.2,
            max_lighting=0.2,
            min_scale=0.75,
        ),
        input_px=150,
        label_px=150,
        mpp=0.495,
    ),
    "fine-tune": Recipe(
        name="fine-tune",
        stages=fine_tune_stages(5),
        decay_norms=False,
        precision="mixed",
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            max_rotate=45,
            max_zoom=1.1,
            max_lighting=0.2,
            stain=0.1,
        ),
    ),
    "from-scratch": Recipe(
        name="from-scratch",
        imagenet=False,
        stages=(
            Stage(epochs=4, lr=1e-3, crop_px=48),
            Stage(epochs=3, lr=7e-4, crop_px=64),
            Stage(epochs=3, lr=5e-4, trainable_groups=2, train_frozen_norms=False),
        ),
        weight_decay=0.05,
        label_smoothing=0.02,
        ema_decay=0.99,
        augmentation=Augmentation(
            flip=True,
            flip_vert=True,
            p_flip=1.0,
            min_zoom=0.9,
            max_zoom=1.12,
            zoom_centred=True,
            p_affine=1.0,
            max_lighting=0.2,
            stain=0.2,
            sharpness=0.5,
            jpeg=0.2,
        ),
    ),
}
"""``pcam`` and ``colorectal`` are what their names say, from ImageNet weights; ``fine-tune`` is
fastai's default way for patches of one's own; ``from-scratch`` needs no ImageNet weights."""
