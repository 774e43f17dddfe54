"""The fastai Learner of one stage."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import RocAuc, RocAucBinary, accuracy
from fastai.torch_core import params
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast
from torch.amp.grad_scaler import GradScaler

from histoslide.datasets import UNKNOWN, PatchData
from histoslide.errors import DataError
from histoslide.model.architectures import split_body
from histoslide.training.accumulation import WholeBatches
from histoslide.training.loaders import make_loaders
from histoslide.training.memory import fitting_batch_size, free_memory
from histoslide.training.mosaic import MosaicContext
from histoslide.training.optimiser import optimiser
from histoslide.training.precision import choose_precision
from histoslide.training.recipe import Recipe, Stage
from histoslide.training.teachers import Teacher, Teaching

logger = logging.getLogger(__name__)


def parameter_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """Three groups, as fastai has of a ResNet: up to layer2, layer3 and layer4, head."""
    body, head = network[0], network[1]  # type: ignore[index]
    return [*split_body(body), params(head)]


def make_learner(
    data: PatchData,
    recipe: Recipe,
    stage: Stage,
    network: nn.Module,
    *,
    device: torch.device,
    workers: int = 0,
    batch_size: int | None = None,
    teachers: Sequence[Teacher] = (),
) -> Learner:
    """The fastai Learner of one stage, frozen as the stage says, with accuracy and AUC.

    Args:
        data: what to train and validate on.
        recipe: how.
        stage: which part of the recipe.
        network: body and head; see ``histoslide.model.architectures``.
        device: where.
        workers: processes that decode patches.
        batch_size: patches that fit into memory at once; gradients are summed until the recipe's
            batch is full, see ``WholeBatches``. None as the recipe says.
        teachers: models whose judgement it learns too.

    Raises:
        DataError: the precision cannot be had on the device, class weights do not fit, or there are
            unlabelled patches that nobody teaches, or whose classes would be mixed.
    """
    if data.unlabelled is not None and (not teachers or recipe.mixup):
        raise DataError(
            "unlabelled patches are learnt from teachers alone: pass --teacher BUNDLE, and no "
            "--mixup, which mixes classes"
        )
    loaders = make_loaders(
        data, recipe, stage, device=device, workers=workers, batch_size=batch_size
    )
    learner = Learner(
        loaders,
        network,
        loss_func=loss_function(data, recipe, device),
        opt_func=optimiser(recipe),
        splitter=parameter_groups,
        wd=recipe.weight_decay,
        train_bn=stage.train_frozen_norms,
        metrics=[accuracy, RocAucBinary() if len(data.classes) == 2 else RocAuc()],
    )
    learner.add_cb(PlainBatches())
    if teachers:
        learner.add_cb(Teaching(teachers, recipe, stage, device))
    if recipe.mixup:
        learner.add_cb(MixUp(recipe.mixup))
    if stage.mosaic:
        learner.add_cb(MosaicContext(stage.mosaic))
    if batch_size is not None and batch_size < recipe.batch_size:
        learner.add_cb(WholeBatches(recipe.batch_size))
    mode = choose_precision(recipe.precision, device, network).amp_mode
    if mode is not None:
        learner.add_cb(DevicePrecision(mode))
    # Always: the network remembers what an earlier stage froze.
    learner.freeze_to(-(stage.trainable_groups or 0))
    return learner


def fitted_learner(
    data: PatchData,
    recipe: Recipe,
    stage: Stage,
    network: nn.Module,
    *,
    device: torch.device,
    workers: int,
    teachers: Sequence[Teacher],
) -> Learner:
    """``make_learner`` with as many patches at a time as the memory of the device holds."""
    side = recipe.side_px(stage)
    size = fitting_batch_size(network, recipe.batch_size, side, free_bytes=free_memory(device))
    if size < recipe.batch_size:
        logger.warning(
            "%d patches of %d px do not fit into the memory of %s: %d at a time, with gradients "
            "summed to a batch of %d",
            recipe.batch_size, side, device, size, recipe.batch_size,
        )  # fmt: skip
    return make_learner(
        data,
        recipe,
        stage,
        network,
        device=device,
        workers=workers,
        batch_size=size,
        teachers=teachers,
    )


def fit_stage(learner: Learner, stage: Stage, *, first_epoch: int = 0) -> None:
    """Run a stage's one-cycle schedule.

    Args:
        learner: of ``make_learner``.
        stage: rates and schedule.
        first_epoch: how many epochs of the stage are done already.
    """
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(
            stage.epochs,
            list(stage.rates),
            div=stage.div,
            div_final=stage.div_final,
            pct_start=stage.pct_start,
            start_epoch=first_epoch,
        )


def loss_function(data: PatchData, recipe: Recipe, device: torch.device) -> CrossEntropyLossFlat:
    """Cross entropy with the recipe's label smoothing and class weights.

    Raises:
        DataError: not as many weights as classes.
    """
    weights = class_weights(data, recipe)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    whole = data.unlabelled is None and (weights is None or all(weights))
    kind = CrossEntropyLossFlat if whole else PartialCrossEntropy
    return kind(weight=weight, label_smoothing=recipe.label_smoothing, ignore_index=UNKNOWN)


class PartialCrossEntropy(CrossEntropyLossFlat):
    """Cross entropy where some patch weighs nothing: a batch of such has no loss, not 0/0."""

    def __call__(self, inp: Tensor, targ: Tensor, **kwargs: object) -> Tensor:
        """The loss of logits of shape (n, classes) for labels of shape (n,)."""
        known, weight = targ[targ != UNKNOWN], self.func.weight
        if not len(known) or (weight is not None and not weight[known].any()):
            return inp.sum() * 0
        return super().__call__(inp, targ, **kwargs)


def class_weights(data: PatchData, recipe: Recipe) -> list[float] | None:
    """The weight of each class in the loss, None for equal ones.

    Raises:
        DataError: not as many weights as classes.
    """
    if isinstance(recipe.class_weights, tuple):
        if len(recipe.class_weights) != len(data.classes):
            raise DataError(
                f"class_weights gives {len(recipe.class_weights)} numbers for the "
                f"{len(data.classes)} classes {', '.join(data.classes)}"
            )
        return list(recipe.class_weights)
    if recipe.class_weights == "none":
        return None
    shown = data.train.labels if data.repeats is None else data.train.labels.repeat(data.repeats)
    counts = np.bincount(shown, minlength=len(data.classes))
    # A class without patches still counts where labels are smoothed, in every patch, so its weight
    # must be none: the inverse of (almost) no patches would draw all patches towards it.
    weights: list[float] = (counts.sum() / (counts > 0).sum() / np.maximum(counts, 1)).tolist()
    return [weight if count else 0.0 for weight, count in zip(weights, counts, strict=True)]


class PlainBatches(Callback):
    """Hand the network plain tensors, channels last.

    fastai's own subclass costs a dispatch for every operation of the network.
    """

    order = 5  # before everything that changes batches

    def before_batch(self) -> None:
        """Strip images and classes of fastai's types."""
        images = (plain(x).contiguous(memory_format=torch.channels_last) for x in self.learn.xb)
        self.learn.xb = tuple(images)
        self.learn.yb = tuple(plain(y) for y in self.learn.yb)


def plain(tensor: Tensor) -> Tensor:
    """The same numbers without a type of fastai's."""
    return tensor.as_subclass(Tensor)


class DevicePrecision(MixedPrecision):
    """fastai's mixed precision on the device of the data: its own knows only CUDA."""

    def before_fit(self) -> None:
        """Set up autocast, and a scaler that works for float16 only."""
        half = self.amp_mode == AMPMode.FP16
        device = self.learn.dls.device.type
        dtype = torch.float16 if half else torch.bfloat16
        self.autocast = autocast(device, dtype=dtype)
        self.scales: list[float] = []
        self.learn.scaler = GradScaler(device, enabled=half)
