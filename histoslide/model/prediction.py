"""A model that is ready to score: uint8 tiles in, probabilities out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from histoslide.errors import BundleError, HistoslideError
from histoslide.model.architectures import load_network
from histoslide.model.backends import Backend, BackendName, Precision, TorchBackend, make_backend
from histoslide.model.batches import Batches, Program
from histoslide.model.bundle import default_bundle, load_bundle, read_spec
from histoslide.model.converted import ConvertedGraphs
from histoslide.model.fast_paths import FastPaths, choose_path, read_fast_paths
from histoslide.model.graphs import AreaGraph, TileGraph, refuse_areas
from histoslide.model.int8 import quantised, ranges_sha256
from histoslide.model.spec import ModelSpec

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
        device: torch.device,
        sha256: str,
        backend: Backend | None = None,
        ranges: Mapping[str, float] | None = None,
    ) -> None:
        """Wrap a network that maps normalised (n, 3, h, w) tiles to (n, classes) logits.

        Args:
            spec: what the network is.
            network: moved to the device and put into evaluation mode.
            device: where to compute.
            sha256: identifies the weights in a heatmap's metadata.
            backend: what computes; None for torch in float32.
            ranges: of ``histoslide.model.int8.activation_ranges``, for a backend of int8.
        """
        self.spec = spec
        self.sha256 = sha256
        self._backend = TorchBackend(device=device) if backend is None else backend
        self.device = self._backend.device
        self._ranges = ranges or {}
        self._given = network
        self._built: nn.Module | None = None
        # Logits may be asked for by any thread; a backend runs one batch at a time.
        self._lock = threading.RLock()
        self._logits: dict[int | None, Program] = {}
        self._batches: dict[tuple[str, int | None], Batches] = {}

    @property
    def engine(self) -> str:
        """What computes and how precisely; equal engines on equal machines give equal results."""
        return f"{self._backend.name} {self._backend.precision}"

    @property
    def ranges_sha256(self) -> str | None:
        """Tells the ranges apart that int8 rounds by; None where it is not int8 that computes."""
        return ranges_sha256(self._ranges) if self._backend.precision == "int8" else None

    @property
    def batch_size(self) -> int:
        """How many tiles to hand over at a time: fewer of those that are large to the network."""
        most = self._small_tiles_a_batch
        return max(1, min(most, most * _PIXELS_A_TILE // self.spec.network_px**2))

    @property
    def _small_tiles_a_batch(self) -> int:
        return CPU_BATCH if self.device.type == "cpu" else GPU_BATCH

    def here(self) -> Model:
        """The model itself; see ``histoslide.heatmap.BlockModel``."""
        return self

    def share(self, slide: S) -> S:
        """The slide itself: blocks are computed in this process."""
        return slide

    def logits(self, tiles: Tensor) -> Tensor:
        """Raw outputs of the network.

        Args:
            tiles: RGB, uint8, shape (n, 3, input_px, input_px), on any device.

        Returns:
            float32, shape (n, classes), on the model's device.
        """
        with self._lock:
            return self._program(None)(tiles)

    def probabilities(self, tiles: Tensor) -> Tensor:
        """Calibrated class probabilities of uint8 tiles; shapes as in ``logits``."""
        return self._calibrated(self.logits(tiles))

    def tile_batches(self) -> Batches:
        """The queue for tiles; results are probabilities of shape (n, classes)."""
        return self._queue("tiles", None, self.probabilities, self.batch_size)

    def view_batches(self) -> Batches:
        """The queue for tiles that are scored in all eight orientations.

        Results have shape (n, classes + 1): the probabilities of the mean logits, and last the
        standard deviation of the probability over the orientations, of the class where it is
        largest.
        """
        return self._queue("views", None, self._eight_views, max(1, self.batch_size // 4))

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
        with self._lock:
            self._program(stride_px)

        def program(areas: Tensor) -> Tensor:
            with self._lock:
                logits = self._program(stride_px)(areas)
            return self._calibrated(logits)

        return self._queue("areas", stride_px, program, self._areas_a_batch(stride_px))

    def area_cells(self, stride_px: int) -> int:
        """Cells along the side of an area: a power of two, so that areas fill a block."""
        return 2 ** max(0, (AREA_PX // stride_px).bit_length() - 1)

    def _areas_a_batch(self, stride_px: int) -> int:
        side = self.area_cells(stride_px) * stride_px
        return max(_AREAS_A_BATCH, self._small_tiles_a_batch * _PIXELS_A_TILE // side**2)

    def _calibrated(self, logits: Tensor) -> Tensor:
        return functional.softmax(logits / self.spec.temperature, dim=-1)

    def _eight_views(self, tiles: Tensor) -> Tensor:
        logits = torch.stack([self.logits(view) for view in symmetries(tiles)])
        spread = self._calibrated(logits).std(dim=0, correction=0)
        return torch.cat(
            [self._calibrated(logits.mean(dim=0)), spread.amax(dim=1, keepdim=True)], dim=1
        )

    def _queue(self, kind: str, stride_px: int | None, program: Program, size: int) -> Batches:
        with self._lock:
            key = kind, stride_px
            if key not in self._batches:
                in_flight = 1 if self.device.type == "cpu" else 2
                self._batches[key] = Batches(program, size=size, in_flight=in_flight)
            return self._batches[key]

    def _program(self, stride_px: int | None) -> Program:
        """Logits of tiles, or of areas where a stride is given; compiled when first needed."""
        if stride_px in self._logits:
            return self._logits[stride_px]
        spec, count, side, kind = self.spec, self.batch_size, self.spec.input_px, "tiles"
        if stride_px is not None:
            refuse_areas(spec, stride_px=stride_px)
            kind, count = f"areas-{stride_px}", self._areas_a_batch(stride_px)
            side += (self.area_cells(stride_px) - 1) * stride_px

        def graph() -> TileGraph:
            if stride_px is None:
                return TileGraph(spec, self._network())
            return AreaGraph(spec, self._network(), stride_px=stride_px)

        self._logits[stride_px] = self._backend.compile(graph, (count, 3, side, side), name=kind)
        return self._logits[stride_px]

    def _network(self) -> nn.Module:
        """What is computed, rounded where the backend wants it so."""
        if self._built is None:
            given = self._given
            network = given.build() if isinstance(given, DeferredNetwork) else given
            if self._backend.precision == "int8":
                network = quantised(network, self._ranges)
            self._built = network
        return self._built


def symmetries(tiles: Tensor) -> list[Tensor]:
    """The eight symmetries of the square, each of all tiles (n, 3, h, h)."""
    turned = [torch.rot90(tiles, quarter, dims=(2, 3)) for quarter in range(4)]
    return turned + [view.flip(3) for view in turned]


def load_model(
    path: Path | None = None,
    *,
    device: torch.device | None = None,
    backend: BackendName | None = None,
    precision: Precision | None = None,
) -> Model:
    """Load a bundle for scoring.

    Args:
        path: bundle file; None for the one that ships with histoslide.
        device: where to compute; None picks as ``pick_device``.
        backend: what computes; None for the fastest that was measured to be as good as float32.
        precision: in which; None likewise.

    Raises:
        BundleError: the bundle cannot be read, or its weights do not fit its architecture.
        HistoslideError: the backend or the precision cannot be had here.
    """
    path = default_bundle() if path is None else path
    spec, sha256 = read_spec(path), file_sha256(path)
    paths = read_fast_paths(path, sha256=sha256)
    device = pick_device() if device is None else device
    chosen = choose_path(device, paths, backend=backend, precision=precision)
    ranges = None if paths is None else paths.ranges
    converted = None
    if chosen[0] == "openvino":
        converted = ConvertedGraphs.of(weights_sha256=sha256, precision=chosen[1], ranges=ranges)

    def build() -> nn.Module:
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
        backend=make_backend(*chosen, device, converted=converted),
        ranges=ranges,
    )


def make_model(
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    *,
    sha256: str,
    device: torch.device | None = None,
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
    network = folded_network(spec, state)
    device = pick_device() if device is None else device
    chosen = choose_path(device, fast_paths, backend=backend, precision=precision)
    return Model(
        spec,
        network,
        device=device,
        sha256=sha256,
        backend=make_backend(*chosen, device),
        ranges=None if fast_paths is None else fast_paths.ranges,
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        HistoslideError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # as torch was built without it
        if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
            raise HistoslideError(
                f"there is no device {name!r}: choose auto, cpu, cuda, cuda:1 or mps"
            ) from None
        reason = str(error).splitlines()[0]
        raise HistoslideError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def folded_network(spec: ModelSpec, state: Mapping[str, Tensor]) -> nn.Sequential:
    """The network of a spec with its weights, batch norms folded, in evaluation mode.

    Raises:
        BundleError: the weights do not fit the architecture.
    """
    return fold_batch_norm(load_network(spec.architecture, len(spec.classes), state))


def fold_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm of a ResNet body into the convolution before it (evaluation only).

    The sums are the same; the pass over all activations that a batch norm costs is saved.
    """
    _fold_children(network[0])
    return network


def _fold_children(module: nn.Module) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold_children(child)
        previous = (name, child)
