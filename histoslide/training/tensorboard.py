"""Curves, patches and an embedding of a run for TensorBoard.

Written with torch's ``SummaryWriter``. fastai's own callback embeds the whole validation set at
full size in every epoch, which no memory holds for 11,000 patches of 224 px.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch import Tensor
from torch.nn import functional

from histoslide.datasets import PatchData
from histoslide.errors import HistoslideError
from histoslide.training.averaging import plain_network
from histoslide.training.callbacks import Report, was_skipped
from histoslide.training.recipe import Recipe

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

EMBEDDED_PATCHES = 1000
"""Patches in the projector; their thumbnails fill one picture, which must stay below 8192 px."""

THUMBNAIL_PX = 64
"""Side of a patch in the projector, in pixels."""

SHOWN_PATCHES = 16
"""Augmented training patches that are shown after every epoch."""


class TensorBoard(Callback):
    """Write what TensorBoard shows: losses and rates, figures, patches, and an embedding."""

    order = 80

    def __init__(self, folder: Path, data: PatchData, recipe: Recipe) -> None:
        """Write to ``folder``.

        Raises:
            HistoslideError: tensorboard is not installed.
        """
        try:
            import torch.utils.tensorboard  # noqa: F401, PLC0415
        except ImportError as error:
            raise HistoslideError(
                "--tensorboard needs tensorboard: pip install histoslide[tensorboard]"
            ) from error
        self._folder, self._data, self._recipe = folder, data, recipe
        self._made: SummaryWriter | None = None
        self._now = 0

    @property
    def _writer(self) -> SummaryWriter:
        """Where to write, from the present step on.

        A run that goes on takes back what it had written after its last whole epoch.
        """
        if self._made is None:
            from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415

            self._made = SummaryWriter(str(self._folder), purge_step=self._now or None)
        return self._made

    @property
    def _run(self) -> Report:
        """What counts steps and epochs through all stages."""
        report = next(callback for callback in self.learn.cbs if isinstance(callback, Report))
        assert isinstance(report, Report)
        return report

    def after_batch(self) -> None:
        """Loss and rates of a training step."""
        if not self.training:
            return
        learn = self.learn
        self._now = step = self._run.steps
        self._writer.add_scalar("loss/step", float(learn.loss.detach()), step)
        for group, hypers in enumerate(learn.opt.hypers):
            self._writer.add_scalar(f"rate/group {group + 1}", float(hypers["lr"]), step)
        if learn.iter == 0:
            self._writer.add_images("training patches", self._shown(learn.xb[0]), step)

    def after_epoch(self) -> None:
        """Figures of an epoch."""
        if was_skipped(self.learn):
            return
        values = self.learn.recorder.values[-1]
        names = ("loss/training", "loss/validation", "validation/accuracy", "validation/AUC")
        for name, value in zip(names, values, strict=True):
            self._writer.add_scalar(name, float(value), self._run.epochs)
        self._writer.flush()

    def embed(self, learner: Learner) -> None:
        """Write an embedding of validation patches for the projector, and close the files.

        The features are those that the head's first layer gets: the pooled maps of the body.
        """
        patches, labels, features = [], [], []
        network = plain_network(learner.model).eval()
        count = 0
        with torch.no_grad():
            for images, targets in learner.dls.valid.new(shuffle=True, num_workers=0):
                plain = images.as_subclass(Tensor)
                features.append(network[1][:2](network[0](plain)).cpu())  # type: ignore[index]
                patches.append(
                    functional.interpolate(self._shown(plain, None), THUMBNAIL_PX, mode="area")
                )
                labels += [self._data.classes[int(target)] for target in targets]
                count += len(images)
                if count >= EMBEDDED_PATCHES:
                    break
        keep = slice(EMBEDDED_PATCHES)
        self._writer.add_embedding(
            torch.cat(features)[keep],
            metadata=labels[keep],
            label_img=torch.cat(patches)[keep],
            global_step=self._now,
        )
        self._writer.close()

    def _shown(self, images: Tensor, limit: int | None = SHOWN_PATCHES) -> Tensor:
        """Normalised images back in 0-1 units, on the CPU."""
        chosen = images[:limit].detach().as_subclass(Tensor).float().cpu()
        mean, std = (
            torch.tensor(np.array(values), dtype=torch.float32).view(1, 3, 1, 1)
            for values in self._recipe.normalisation
        )
        return (chosen * std + mean).clamp(0, 1)
