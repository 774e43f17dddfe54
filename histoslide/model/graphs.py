"""What a backend compiles: uint8 pixels in, logits out, everything between them in one graph."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from histoslide.errors import BundleError
from histoslide.model.architectures import ConcatPool
from histoslide.model.areas import no_areas, refuse_areas
from histoslide.model.spec import TOTAL_STRIDE_PX, ModelSpec
from histoslide.model.timm_body import TimmBody, is_local


class TileGraph(nn.Module):
    """Logits of uint8 tiles: resized, normalised and through the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._resized_px = spec.network_px if spec.network_px != spec.input_px else None
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))

    def prepare(self, tiles: Tensor) -> Tensor:
        """What the network sees: float32 of shape (n, 3, network_px, network_px)."""
        images = tiles.float() / 255
        if self._resized_px is not None:
            images = functional.interpolate(
                images, size=self._resized_px, mode="bilinear", antialias=True
            )
        return (images - self.mean) / self.std

    def forward(self, tiles: Tensor) -> Tensor:
        """Map uint8 (n, 3, input_px, input_px) tiles to (n, classes) logits."""
        return self.network(self._typed(self.prepare(tiles)))

    def _typed(self, images: Tensor) -> Tensor:
        parameter = next(self.network.parameters(), None)
        return images if parameter is None else images.to(parameter.dtype)


class AreaGraph(TileGraph):
    """Logits of all cells of an area in one pass of the network's body (fully convolutional).

    The last feature map is pooled over windows as large as a tile, so neighbouring tiles share
    their convolutions. It is not equal to scoring tiles one by one: inside an area a tile's border
    sees its surroundings, where a tile alone is surrounded by zeros.
    """

    def __init__(self, spec: ModelSpec, network: nn.Module, *, stride_px: int) -> None:
        """Wrap a ``Sequential(body, head)`` of ``histoslide.model.architectures``.

        Args:
            spec: of the network.
            network: its batch norms may be folded.
            stride_px: side of a cell.

        Raises:
            BundleError: the network, its size or the stride do not allow it.
        """
        super().__init__(spec, network)
        refuse_areas(spec, stride_px=stride_px)
        parts = list(network) if isinstance(network, nn.Sequential) else []
        body, head = parts if len(parts) == 2 else (None, None)
        if not (isinstance(head, nn.Sequential) and isinstance(head[0], ConcatPool)):
            raise no_areas(spec, "its network is not a convolutional body and a pooling head")
        if isinstance(body, TimmBody) and not is_local(body):
            raise no_areas(spec, "each of its features depends on all of the image")
        self._rest = head[2:]
        self._tile = spec.input_px // TOTAL_STRIDE_PX
        self._step = stride_px // TOTAL_STRIDE_PX

    def forward(self, areas: Tensor) -> Tensor:
        """Map uint8 (n, 3, side, side) areas to (n, rows, cols, classes) logits of their cells."""
        body = cast("nn.Sequential", self.network)[0]
        features = body(self._typed(self.prepare(areas)))
        if features.shape[-1] * TOTAL_STRIDE_PX != areas.shape[-1]:
            raise BundleError(
                f"a feature of this network stands for {areas.shape[-1] / features.shape[-1]:g} "
                f"px, not {TOTAL_STRIDE_PX}: use --mode exact"
            )
        maximum = functional.max_pool2d(features, self._tile, self._step)
        average = functional.avg_pool2d(features, self._tile, self._step)
        pooled = torch.cat([maximum, average], dim=1).permute(0, 2, 3, 1)
        logits = self._rest(pooled.flatten(0, 2))
        return logits.unflatten(0, pooled.shape[:3])
