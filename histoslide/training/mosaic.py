"""Patches side by side in one large image, so that a network learns with surroundings."""

from __future__ import annotations

import math
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from histoslide.training.averaging import plain_network


class MosaicContext(Callback):
    """Run the body of the network over a mosaic of the batch in a part of the training steps.

    Alone, a patch is surrounded by the zeros of the convolutions' padding; in a slide that is
    scored whole (``--mode dense``) by more slide. In a mosaic it has the other patches of its batch
    around it, and a network that is trained on both learns to judge a patch whatever lies beside
    it. The feature map is cut into those of the patches before the head pools them, so labels,
    loss and cost stay as they are.
    """

    def __init__(self, part: float) -> None:
        """Lay this part of the batches, 0-1, chosen at random."""
        self._part = part
        self._count: int | None = None
        self._hooks: list[RemovableHandle] = []

    def before_fit(self) -> None:
        """Hang the laying before the body, and the cutting after it."""
        body = plain_network(self.learn.model)[0]  # type: ignore[index]
        self._hooks = [
            body.register_forward_pre_hook(self._lay),
            body.register_forward_hook(self._cut),
        ]

    def before_batch(self) -> None:
        """Decide about a batch."""
        laid = self.training and bool(torch.rand(()) < self._part)
        self._count = len(self.learn.xb[0]) if laid else None

    def after_fit(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _lay(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor] | None:
        return None if self._count is None else (lay(given[0]),)

    def _cut(self, _: nn.Module, __: tuple[Any, ...], features: Tensor) -> Tensor | None:
        return None if self._count is None else cut(features, self._count)


def lay(images: Tensor) -> Tensor:
    """Lay n images of shape (n, c, h, w) side by side: (1, c, rows * h, cols * w), row by row."""
    n, c, h, w = images.shape
    rows = rows_of(n)
    laid = images.unflatten(0, (rows, n // rows)).permute(2, 0, 3, 1, 4)
    laid = laid.reshape(1, c, rows * h, n // rows * w)
    return laid.contiguous(memory_format=torch.channels_last)


def cut(mosaic: Tensor, n: int) -> Tensor:
    """Cut what ``lay`` laid, or a feature map of it, into its n parts again."""
    _, c, height, width = mosaic.shape
    rows = rows_of(n)
    cols = n // rows
    parts = mosaic[0].unflatten(2, (cols, width // cols)).unflatten(1, (rows, height // rows))
    parts = parts.permute(1, 3, 0, 2, 4).reshape(n, c, height // rows, width // cols)
    return parts.contiguous(memory_format=torch.channels_last)


def rows_of(n: int) -> int:
    """Rows of the squarest grid that n images fill."""
    return next(rows for rows in range(math.isqrt(n), 0, -1) if n % rows == 0)
