"""A model that is ready to score: uint8 tiles in, probabilities out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import BundleError
from histoslide.machine.background import begin
from histoslide.model.areas import refuse_areas
from histoslide.model.backend import Backend, Program
from histoslide.model.batches import Batches, Scorer
from histoslide.model.bundle import default_bundle, file_sha256, load_bundle, read_spec
from histoslide.model.choosing import make_backend
from histoslide.model.converted import ConvertedGraphs
from histoslide.model.devices import device_kind, pick_device
from histoslide.model.engine import FULL_PRECISION, BackendName, Engine, Precision
from histoslide.model.fast_paths import FastPaths, choose_engine, ranges_sha256, read_fast_paths
from histoslide.model.openvino_extra import has_cpu_bf16
from histoslide.model.pixels import PixelMemory, Pixels
from histoslide.model.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

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


S = TypeVar("S")


@dataclass(frozen=True)
class DeferredNetwork:
    """A network that is built when something needs it, which converted graphs do not."""

    build: Callable[[], nn.Module]
    """Builds it, in evaluation mode."""


class Model:
    """A network and its spec on a device; threads may share one."""

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module | DeferredNetwork,
        *,
        sha256: str,
        device: str | torch.device = "cpu",
        backend: Backend | None = None,
        ranges: Mapping[str, float] | None = None,
    ) -> None:
        """Wrap a network that maps normalised (n, 3, h, w) tiles to (n, classes) logits.

        Args:
            spec: what the network is.
            network: moved to the device and put into evaluation mode.
            sha256: identifies the weights in a heatmap's metadata.
            device: where to compute, as torch names it.
            backend: what computes; None for torch in float32.
            ranges: of ``histoslide.model.int8.activation_ranges``, for a backend of int8.
        """
        self.spec = spec
        self.sha256 = sha256
        self._backend = backend or make_backend(FULL_PRECISION, str(device))
        self.device = self._backend.device
        self._ranges = ranges or {}
        self._given = network
        self._built: nn.Module | None = None
        # Any thread may be the first to need something.
        self._lock = threading.Lock()
        self._logits: dict[int | None, Program] = {}
        self._batches: dict[tuple[str, int | None], Batches] = {}

    @property
    def engine(self) -> Engine:
        """What computes and how precisely."""
        return self._backend.engine

    @property
    def ranges_sha256(self) -> str | None:
        """Tells the ranges apart that int8 rounds by; None where it is not int8 that computes."""
        return ranges_sha256(self._ranges) if self.engine.precision == "int8" else None

    @property
    def batch_size(self) -> int:
        """How many tiles to hand over at a time: fewer of those that are large to the network."""
        most = self._small_tiles_a_batch
        return max(1, min(most, most * _PIXELS_A_TILE // self.spec.network_px**2))

    @property
    def _small_tiles_a_batch(self) -> int:
        return CPU_BATCH if device_kind(self.device) == "cpu" else GPU_BATCH

    def here(self) -> Model:
        """The model itself; see ``histoslide.scoring.lazy.BlockModel``."""
        return self

    def share(self, slide: S) -> S:
        """The slide itself: blocks are computed in this process."""
        return slide

    @property
    def memory(self) -> PixelMemory:
        """Where the network wants its pixels."""
        return self._backend.memory

    def logits(self, tiles: Any) -> NDArray[np.float32]:
        """Raw outputs of the network.

        Args:
            tiles: RGB, uint8, shape (n, 3, input_px, input_px): an array, or a tensor.

        Returns:
            Shape (n, classes).
        """
        return self._logits_of(None, self.memory.hold(tiles))

    def logits_of_views(self, tiles: Any) -> NDArray[np.float32]:
        """Raw outputs for the eight symmetries of tiles, shape (8, n, classes); see ``logits``."""
        program = self._program(None)
        results = [program(view) for view in self.memory.symmetries(self.memory.hold(tiles))]
        return np.stack([self.memory.fetch(result) for result in results])  # all are under way

    def probabilities(self, tiles: Any) -> NDArray[np.float32]:
        """Calibrated class probabilities of uint8 tiles; shapes as in ``logits``."""
        return self._calibrated(self.logits(tiles))

    def compile(self, stride_px: int | None = None, *, only_kept: bool = False) -> None:
        """Make the network ready, which otherwise the first batch waits for.

        Args:
            stride_px: side of a cell, for areas; None for tiles.
            only_kept: leave it where it would first have to be converted.

        Raises:
            BundleError: the network cannot be built or, for areas, not be used so.
        """
        shape, name = self._shape(stride_px)
        if not (only_kept and self._backend.must_convert(shape, name=name)):
            self._program(stride_px)

    def tile_batches(self) -> Batches:
        """The queue for tiles; results are probabilities of shape (n, classes)."""
        return self._queue("tiles", None, self.probabilities, self.batch_size)

    def view_batches(self) -> Batches:
        """The queue for tiles that are scored in all eight orientations.

        Results have shape (n, classes + 1): the probabilities of the mean logits, and last the
        standard deviation of the probability over the orientations, of the class where it is
        largest.
        """
        return self._queue("views", None, self._score_views, max(1, self.batch_size // 4))

    def area_batches(self, stride_px: int) -> Batches:
        """The queue for areas of ``area_cells`` cells a side.

        Args:
            stride_px: side of a cell.

        Returns:
            A queue for uint8 areas of ``(area_cells - 1) * stride_px + input_px`` pixels a side;
            results are probabilities of shape (n, area_cells, area_cells, classes).

        Raises:
            BundleError: the network cannot score areas.
        """
        self.compile(stride_px)  # raises where the network cannot
        score = partial(self._score_areas, stride_px)
        return self._queue("areas", stride_px, score, self._areas_a_batch(stride_px))

    def area_cells(self, stride_px: int) -> int:
        """Cells along the side of an area: a power of two, so that areas fill a block."""
        return 2 ** max(0, (AREA_PX // stride_px).bit_length() - 1)

    def _areas_a_batch(self, stride_px: int) -> int:
        side = self.area_cells(stride_px) * stride_px
        return max(_AREAS_A_BATCH, self._small_tiles_a_batch * _PIXELS_A_TILE // side**2)

    def _score_areas(self, stride_px: int, areas: Pixels) -> NDArray[np.float32]:
        return self._calibrated(self._logits_of(stride_px, areas))

    def _score_views(self, tiles: Pixels) -> NDArray[np.float32]:
        logits = self.logits_of_views(tiles)
        spread = self._calibrated(logits).std(axis=0).max(axis=1, keepdims=True)
        return np.concatenate([self._calibrated(logits.mean(axis=0)), spread], axis=1)

    def _logits_of(self, stride_px: int | None, pixels: Pixels) -> NDArray[np.float32]:
        return self.memory.fetch(self._program(stride_px)(pixels))

    def _calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax over the last axis; logits that are no numbers give probabilities that are none.

        SciPy's would be imported for a quarter of a second.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = logits / np.float32(self.spec.temperature)
            odds = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
            shares: NDArray[np.float32] = odds / odds.sum(axis=-1, keepdims=True)
            return shares

    def _queue(self, kind: str, stride_px: int | None, score: Scorer, size: int) -> Batches:
        with self._lock:
            key = kind, stride_px
            if key not in self._batches:
                self._batches[key] = Batches(
                    score,
                    memory=self.memory,
                    size=size,
                    in_flight=self._backend.in_flight,
                )
            return self._batches[key]

    def _program(self, stride_px: int | None) -> Program:
        """Logits of tiles, or of areas where a stride is given; compiled when first needed."""
        with self._lock:
            if stride_px not in self._logits:
                shape, name = self._shape(stride_px)
                graph = partial(self._graph, stride_px)
                self._logits[stride_px] = self._backend.compile(graph, shape, name=name)
            return self._logits[stride_px]

    def _shape(self, stride_px: int | None) -> tuple[tuple[int, int, int, int], str]:
        """Of the pixels of tiles, or of areas where a stride is given, and the graph's name."""
        side = self.spec.input_px
        if stride_px is None:
            return (self.batch_size, 3, side, side), "tiles"
        refuse_areas(self.spec, stride_px=stride_px)
        side += (self.area_cells(stride_px) - 1) * stride_px
        return (self._areas_a_batch(stride_px), 3, side, side), f"areas-{stride_px}"

    def _graph(self, stride_px: int | None) -> nn.Module:
        # Imported here: torch is not needed where converted graphs are kept.
        from histoslide.model.graphs import AreaGraph, TileGraph  # noqa: PLC0415

        if stride_px is None:
            return TileGraph(self.spec, self._network())
        return AreaGraph(self.spec, self._network(), stride_px=stride_px)

    def _network(self) -> nn.Module:
        """What is computed, rounded where the backend wants it so."""
        if self._built is None:
            given = self._given
            network = given.build() if isinstance(given, DeferredNetwork) else given
            if self.engine.precision == "int8":
                from histoslide.model.int8 import quantised  # noqa: PLC0415

                network = quantised(network, self._ranges)
            self._built = network
        return self._built


def load_model(
    path: Path | None = None,
    *,
    device: str | torch.device | None = None,
    backend: BackendName | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
) -> Model:
    """Load a bundle for scoring.

    Args:
        path: bundle file; None for the one that ships with histoslide.
        device: where to compute; None picks as ``pick_device``.
        backend: what computes; None for the fastest that was measured to be as good as float32.
        precision: in which; None likewise.
        threads: of OpenVINO; None for ``histoslide.machine.processors.network_threads``.

    Raises:
        BundleError: the bundle cannot be read, or its weights do not fit its architecture.
        HistoslideError: the backend or the precision cannot be had here.
    """
    path = default_bundle() if path is None else path
    spec = read_spec(path)
    device = pick_device() if device is None else str(device)
    if backend != "torch" and device_kind(device) == "cpu":
        begin(has_cpu_bf16)  # imports OpenVINO, where it is, while the file is hashed
    sha256 = file_sha256(path)
    paths = read_fast_paths(path, sha256=sha256)
    engine = choose_engine(device, paths, backend=backend, precision=precision)
    ranges = None if paths is None else paths.ranges
    converted = None
    if engine.backend == "openvino":
        converted = ConvertedGraphs.of(
            weights_sha256=sha256, precision=engine.precision, ranges=ranges
        )

    def build() -> nn.Module:
        from histoslide.model.networks import folded_network  # noqa: PLC0415

        _, state = load_bundle(path)
        try:
            return folded_network(spec, state)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None

    kept = converted is not None and converted.any_kept
    return Model(
        spec,
        DeferredNetwork(build) if kept else build(),
        device=device,
        sha256=sha256,
        backend=make_backend(engine, device, converted=converted, threads=threads),
        ranges=ranges,
    )


def make_model(
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    *,
    sha256: str,
    device: str | torch.device | None = None,
    fast_paths: FastPaths | None = None,
    backend: BackendName | None = None,
    precision: Precision | None = None,
) -> Model:
    """Build a model for scoring from weights that are already in memory.

    Args:
        spec: what the weights are.
        state: state dict of the architecture that the spec names.
        sha256: identifies the weights in a heatmap's metadata.
        device: where to compute; None picks as ``pick_device``.
        fast_paths: what was measured of the weights' faster paths; None for nothing.
        backend: see ``load_model``.
        precision: see ``load_model``.

    Raises:
        BundleError: the weights do not fit the architecture.
        HistoslideError: the backend or the precision cannot be had here.
    """
    from histoslide.model.networks import folded_network  # noqa: PLC0415

    network = folded_network(spec, state)
    device = pick_device() if device is None else str(device)
    engine = choose_engine(device, fast_paths, backend=backend, precision=precision)
    return Model(
        spec,
        network,
        device=device,
        sha256=sha256,
        backend=make_backend(engine, device),
        ranges=None if fast_paths is None else fast_paths.ranges,
    )
