"""Trained models whose judgement a network learns, as a fastai callback.

Every patch is shown to the teachers as the network sees it, augmented alike, for as long as it
takes (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent").
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.nn import functional

from histoslide.datasets import UNKNOWN
from histoslide.errors import DataError
from histoslide.model.bundle import file_sha256, load_bundle
from histoslide.model.networks import folded_network
from histoslide.model.spec import ModelSpec
from histoslide.training.precision import choose_precision
from histoslide.training.recipe import Recipe, Stage

logger = logging.getLogger(__name__)

SAME_MPP = 0.02
"""Relative difference of resolutions that means the same."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained model."""

    file: str
    """Name of its bundle."""
    sha256: str
    """Of the bundle's file."""
    spec: ModelSpec
    """What it is."""
    network: nn.Module
    """With batch norms folded, in evaluation mode."""

    def as_dict(self) -> dict[str, str]:
        """What the record of a run says of it."""
        return {"name": self.spec.name, "file": self.file, "sha256": self.sha256}


def read_teachers(
    paths: Sequence[Path], recipe: Recipe, classes: tuple[str, ...]
) -> tuple[Teacher, ...]:
    """Teachers from bundles.

    Args:
        paths: of the bundles.
        recipe: of the run that they teach in.
        classes: that it tells apart.

    Raises:
        BundleError: one cannot be read.
        DataError: one tells other classes apart, or was trained on patches of another size or
            resolution.
    """
    return tuple(_read_teacher(path, recipe, classes) for path in paths)


def _read_teacher(path: Path, recipe: Recipe, classes: tuple[str, ...]) -> Teacher:
    spec, state = load_bundle(path)
    if spec.classes != classes:
        raise DataError(
            f"teacher {path} tells {', '.join(spec.classes)} apart, the data are "
            f"{', '.join(classes)}: name them alike, and in this order, with --class-names"
        )
    if spec.input_px != recipe.input_px or abs(spec.mpp / recipe.mpp - 1) > SAME_MPP:
        raise DataError(
            f"teacher {path} judges {spec.input_px} px at {spec.mpp:g} µm/px, the patches are "
            f"{recipe.input_px} px at {recipe.mpp:g}: train with --patch-size and --mpp as the "
            "teacher was"
        )
    return Teacher(
        file=path.name, sha256=file_sha256(path), spec=spec, network=folded_network(spec, state)
    )


class Teaching(Callback):
    """Add to the loss how far the network is from the mean of its teachers, on every patch.

    The loss is ``(1 - w) * L + w * T² * KL``: the recipe's own loss of the labelled patches, and
    the divergence of the softmax at temperature T from the teachers' mean probability at T, a
    calibrated one where T is 1 (Hinton et al. 2015; T² keeps the gradients' size).
    """

    order = 4  # the loss is whole before gradients are accumulated (6) or scaled (10)

    def __init__(
        self, teachers: Sequence[Teacher], recipe: Recipe, stage: Stage, device: torch.device
    ) -> None:
        """Move the teachers to the device.

        Args:
            teachers: at least one.
            recipe: weight and temperature, and how the network's patches are prepared.
            stage: which crop of the patches is shown.
            device: where the network trains.
        """
        self._weight, self._temperature = recipe.teacher_weight, recipe.teacher_temperature
        shown_px = stage.crop_px or recipe.input_px
        self._desks = [_Desk(t, recipe, shown_px, device) for t in teachers]

    def after_pred(self) -> None:
        """Ask the teachers about what the network has just seen."""
        if self.training:
            images = self.learn.xb[0]
            answers = [desk.ask(images, self._temperature) for desk in self._desks]
            self._targets = torch.stack(answers).mean(dim=0)

    def after_loss(self) -> None:
        """Mix the two losses."""
        if not self.training:
            return
        learn, heat = self.learn, self._temperature
        guess = functional.log_softmax(learn.pred.float() / heat, dim=1)
        divergence = functional.kl_div(guess, self._targets, reduction="batchmean") * heat**2
        labelled = (learn.yb[0] != UNKNOWN).float().mean()
        own = (1 - self._weight) * labelled * learn.loss_grad
        learn.loss_grad = own + self._weight * divergence
        learn.loss = learn.loss_grad.clone()


class _Desk:
    """A teacher at work on a device: from the network's images to probabilities."""

    def __init__(
        self, teacher: Teacher, recipe: Recipe, shown_px: int, device: torch.device
    ) -> None:
        spec = teacher.spec
        self._network = teacher.network.to(device).to(memory_format=torch.channels_last).eval()
        self._calibration = spec.temperature
        self._side = round(shown_px * spec.network_px / spec.input_px)
        mean, std = (torch.tensor(values) for values in recipe.normalisation)
        own_mean, own_std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self._factor = (std / own_std).view(1, 3, 1, 1).to(device)
        self._shift = ((mean - own_mean) / own_std).view(1, 3, 1, 1).to(device)
        precision = choose_precision("auto", device, self._network)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision.name)
        self._autocast = torch.autocast(
            device.type, dtype=half or torch.bfloat16, enabled=half is not None
        )

    def ask(self, images: Tensor, heat: float) -> Tensor:
        """Probabilities at a temperature, shape (n, classes), of normalised images."""
        with torch.no_grad(), self._autocast:
            own = images.float() * self._factor + self._shift
            if own.shape[-1] != self._side:
                own = functional.interpolate(own, self._side, mode="bilinear", antialias=True)
            logits = self._network(own.contiguous(memory_format=torch.channels_last)).float()
        return functional.softmax(logits / (self._calibration * heat), dim=1)
