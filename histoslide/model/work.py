"""The kinds of work that a network is given: tiles, tiles in all orientations, whole areas.

A kind knows the shape of its items, how many make a batch, and the graph that computes them; so
nobody else need tell one kind from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histoslide.model.areas import refuse_areas
from histoslide.model.backend import Program
from histoslide.model.devices import device_kind
from histoslide.model.pixels import PixelMemory, Pixels
from histoslide.model.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

CPU_BATCH = 32
"""Tiles of 96 px a batch on a CPU: larger ones leave its caches and gain nothing."""

GPU_BATCH = 256
"""The same on an accelerator: fills it with under 2 GB of activations for ResNet50."""

AREA_PX = 512
"""Longest side of what an area's cells cover, in model pixels: activations of one area then stay
near 100 MB for ResNet50, and little is computed twice where areas meet."""

_AREAS_A_BATCH = 2
"""At least: a backend that computes parts of a batch side by side then has two."""

_PIXELS_A_TILE = 96 * 96
"""Of the tile that the batch sizes are meant for."""

Calibrate = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps logits to probabilities over their last axis."""


class Work(ABC):
    """A kind of work; equal values are the same work."""

    @property
    @abstractmethod
    def graph(self) -> str:
        """Name of what computes it, among the graphs of one network."""

    @property
    def across(self) -> int:
        """Cells along the side of an item."""
        return 1

    @property
    def passes(self) -> int:
        """Times that the graph is run for a batch."""
        return 1

    @property
    def needs_proof(self) -> bool:
        """Whether a spec that fits does not mean that the network can do it: it must be built."""
        return False

    def check(self, spec: ModelSpec) -> None:  # noqa: B027 - most have nothing to refuse
        """Make sure that a model can be used so, as far as its spec tells.

        Raises:
            BundleError: it cannot, and why.
        """

    @abstractmethod
    def side_px(self, spec: ModelSpec) -> int:
        """Side of an item, in model pixels."""

    @abstractmethod
    def graph_items(self, spec: ModelSpec, device: str) -> int:
        """Items that the graph takes at a time."""

    def batch_items(self, spec: ModelSpec, device: str) -> int:
        """Items a batch of the queue before it."""
        return self.graph_items(spec, device)

    def shape(self, spec: ModelSpec, device: str) -> tuple[int, int, int, int]:
        """Of the pixels that the graph takes, (n, 3, side, side)."""
        side = self.side_px(spec)
        return self.graph_items(spec, device), 3, side, side

    def logits_shape(self, spec: ModelSpec) -> tuple[int, ...]:
        """Of what the graph gives for one item."""
        return (len(spec.classes),)

    @abstractmethod
    def make_graph(self, spec: ModelSpec, network: nn.Module) -> nn.Module:
        """The graph; needs torch.

        Raises:
            BundleError: the network cannot do this work.
        """

    def logits(self, program: Program, memory: PixelMemory, pixels: Pixels) -> NDArray[np.float32]:
        """Run the graph over the items of a batch."""
        return memory.fetch(program(pixels))

    def scores(self, logits: NDArray[np.float32], calibrate: Calibrate) -> NDArray[np.float32]:
        """Scores of a batch, of ``logits``."""
        return calibrate(logits)


@dataclass(frozen=True, kw_only=True)
class Tiles(Work):
    """Every tile by itself: an item is a tile, its scores are probabilities, shape (classes,)."""

    @property
    def graph(self) -> str:
        """Tiles."""
        return "tiles"

    def side_px(self, spec: ModelSpec) -> int:
        """That of a tile."""
        return spec.input_px

    def graph_items(self, spec: ModelSpec, device: str) -> int:
        """Fewer of those tiles that are large to the network."""
        most = _small_tiles_a_batch(device)
        return max(1, min(most, most * _PIXELS_A_TILE // spec.network_px**2))

    def make_graph(self, spec: ModelSpec, network: nn.Module) -> nn.Module:
        """See ``Work.make_graph``."""
        from histoslide.model.graphs import TileGraph  # noqa: PLC0415 - kept graphs need no torch

        return TileGraph(spec, network)


@dataclass(frozen=True, kw_only=True)
class Glances(Tiles):
    """Tiles as the model sees them that looks first, see ``histoslide.model.first_look``."""


@dataclass(frozen=True, kw_only=True)
class Views(Tiles):
    """Every tile in all eight orientations (test-time augmentation).

    Scores of a tile have shape (classes + 1,): the probabilities of the mean logits, and last the
    standard deviation of the probability over the orientations, of the class where it is largest.
    """

    @property
    def passes(self) -> int:
        """One an orientation."""
        return 8

    def batch_items(self, spec: ModelSpec, device: str) -> int:
        """Fewer, for they come eightfold."""
        return max(1, self.graph_items(spec, device) // 4)

    def logits(self, program: Program, memory: PixelMemory, pixels: Pixels) -> NDArray[np.float32]:
        """Those of each orientation, shape (8, n, classes)."""
        results = [program(view) for view in memory.symmetries(pixels)]
        return np.stack([memory.fetch(result) for result in results])  # all are under way

    def scores(self, logits: NDArray[np.float32], calibrate: Calibrate) -> NDArray[np.float32]:
        """Mean and spread."""
        spread = calibrate(logits).std(axis=0).max(axis=1, keepdims=True)
        return np.concatenate([calibrate(logits.mean(axis=0)), spread], axis=1)


@dataclass(frozen=True, kw_only=True)
class Areas(Work):
    """Areas of ``across`` cells a side in one pass each, see ``histoslide.model.graphs.AreaGraph``.

    An item has ``(across - 1) * stride_px + input_px`` pixels a side; its scores are probabilities
    of shape (across, across, classes).
    """

    stride_px: int
    """Side of a cell, in model pixels."""

    @property
    def graph(self) -> str:
        """Areas of this stride."""
        return f"areas-{self.stride_px}"

    @property
    def across(self) -> int:
        """A power of two, so that areas fill a block."""
        return 2 ** max(0, (AREA_PX // self.stride_px).bit_length() - 1)

    @property
    def needs_proof(self) -> bool:
        """It takes a body and a pooling head, of which a spec does not tell."""
        return True

    def check(self, spec: ModelSpec) -> None:
        """See ``histoslide.model.areas``."""
        refuse_areas(spec, stride_px=self.stride_px)

    def side_px(self, spec: ModelSpec) -> int:
        """All cells, and what the tiles of the outer ones see beyond them."""
        return spec.input_px + (self.across - 1) * self.stride_px

    def graph_items(self, spec: ModelSpec, device: str) -> int:  # noqa: ARG002
        """As many as have about the pixels of a batch of tiles."""
        side = self.across * self.stride_px
        return max(_AREAS_A_BATCH, _small_tiles_a_batch(device) * _PIXELS_A_TILE // side**2)

    def logits_shape(self, spec: ModelSpec) -> tuple[int, ...]:
        """One cell beside the other."""
        return self.across, self.across, len(spec.classes)

    def make_graph(self, spec: ModelSpec, network: nn.Module) -> nn.Module:
        """See ``Work.make_graph``."""
        from histoslide.model.graphs import AreaGraph  # noqa: PLC0415 - kept graphs need no torch

        return AreaGraph(spec, network, stride_px=self.stride_px)


def _small_tiles_a_batch(device: str) -> int:
    return CPU_BATCH if device_kind(device) == "cpu" else GPU_BATCH
