"""A model that is ready to score: uint8 tiles in, probabilities out."""

from __future__ import annotations

import logging
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
from histoslide.machine.watched import WatchedThreads
from histoslide.model.backend import Backend, Program
from histoslide.model.batches import Batches
from histoslide.model.bundle import default_bundle, file_sha256, load_bundle, read_spec
from histoslide.model.choosing import make_backend
from histoslide.model.compiled import CompiledGraphs
from histoslide.model.devices import device_kind, pick_device
from histoslide.model.engine import (
    FULL_PRECISION,
    ActivationRange,
    BackendName,
    Engine,
    Precision,
)
from histoslide.model.fast_paths import FastPaths, choose_engine, ranges_sha256, read_fast_paths
from histoslide.model.openvino_extra import has_cpu_bf16
from histoslide.model.pixels import PixelMemory, Pixels, Results
from histoslide.model.spec import ModelSpec
from histoslide.model.work import Tiles, Views, Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

S = TypeVar("S")

TILES, VIEWS = Tiles(), Views()

_LOOKED_AT = 4
"""Outputs of the first batch that are looked at: not all of them add up to 1 by chance."""


@dataclass(frozen=True)
class DeferredNetwork:
    """A network that is built when something needs it, which kept graphs do not."""

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
        ranges: Mapping[str, ActivationRange] | None = None,
        stall_s: float | None = None,
    ) -> None:
        """Wrap a network that maps normalised (n, 3, h, w) tiles to (n, classes) logits.

        Args:
            spec: what the network is.
            network: moved to the device and put into evaluation mode.
            sha256: identifies the weights in a heatmap's metadata.
            device: where to compute, as torch names it.
            backend: what computes; None for torch in float32.
            ranges: of ``histoslide.model.int8.activation_ranges``, for a backend of int8.
            stall_s: seconds after which a batch, or making the network ready for it, is given up;
                None for ``histoslide.machine.watched.STALL_S``.
        """
        self.spec = spec
        self.sha256 = sha256
        self._backend = backend or make_backend(FULL_PRECISION, str(device))
        self.device = self._backend.device
        self._ranges = ranges or {}
        self._watched = WatchedThreads(
            f"{self.engine} on {self.device}", way_out=_way_out(self.engine), limit_s=stall_s
        )
        self._given = network
        self._built: nn.Module | None = None
        self._looked = False
        # Any thread may be the first to need something.
        self._lock = threading.Lock()
        self._programs: dict[str, Program] = {}
        self._batches: dict[Work, Batches] = {}

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
        """How many tiles to hand over at a time."""
        return TILES.batch_items(self.spec, self.device)

    @property
    def first_look(self) -> None:
        """None looks first; see ``histoslide.scoring.cascade``."""
        return None

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

        Raises:
            BundleError: the network cannot be built, or its outputs do not fit its spec.
            StalledError: what computes it hangs.
        """
        return self._logits_of(TILES, self.memory.hold(tiles))

    def logits_of_views(self, tiles: Any) -> NDArray[np.float32]:
        """Raw outputs for the eight symmetries of tiles, shape (8, n, classes); see ``logits``."""
        return self._logits_of(VIEWS, self.memory.hold(tiles))

    def probabilities(self, tiles: Any) -> NDArray[np.float32]:
        """Calibrated class probabilities of uint8 tiles; shapes as in ``logits``."""
        return self._scores_of(TILES, self.memory.hold(tiles))

    def check(self, work: Work) -> None:
        """See ``histoslide.scoring.lazy.BlockModel``: where a spec does not tell, it is tried."""
        if work.needs_proof:
            self.compile(work)

    def compile(self, work: Work, *, only_kept: bool = False) -> None:
        """Make the network ready, which otherwise the first batch waits for.

        Args:
            work: for what.
            only_kept: leave it where it would first have to be built.

        Raises:
            BundleError: the network cannot be built, or cannot do this work.
            StalledError: what makes it ready hangs.
        """
        work.check(self.spec)
        shape = work.shape(self.spec, self.device)
        if not (only_kept and self._backend.must_compile(shape, name=work.graph)):
            self._watched.run(partial(self._program, work))

    def batches(self, work: Work) -> Batches:
        """The queue for a kind of work, whose results are its scores."""
        with self._lock:
            if work not in self._batches:
                self._batches[work] = Batches(
                    partial(self._scores_of, work),
                    memory=self.memory,
                    size=work.batch_items(self.spec, self.device),
                    in_flight=self._backend.in_flight,
                )
            return self._batches[work]

    def _scores_of(self, work: Work, pixels: Pixels) -> NDArray[np.float32]:
        return work.scores(self._logits_of(work, pixels), self._calibrated)

    def _logits_of(self, work: Work, pixels: Pixels) -> NDArray[np.float32]:
        def compute() -> NDArray[np.float32]:
            return work.logits(self._program(work), self.memory, pixels)

        return self._watched.run(compute, times=work.passes)

    def _calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax over the last axis; logits that are no numbers give probabilities that are none.

        SciPy's would be imported for a quarter of a second.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = logits / np.float32(self.spec.temperature)
            odds = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
            shares: NDArray[np.float32] = odds / odds.sum(axis=-1, keepdims=True)
            return shares

    def _program(self, work: Work) -> Program:
        """What gives the logits of a kind of work; compiled when first needed."""
        with self._lock:
            if work.graph not in self._programs:
                graph = partial(self._graph, work)
                shape = work.shape(self.spec, self.device)
                program = self._backend.compile(graph, shape, name=work.graph)
                self._programs[work.graph] = partial(self._fitting, work, program)
            return self._programs[work.graph]

    def _fitting(self, work: Work, program: Program, pixels: Pixels) -> Results:
        """Run a graph; what does not fit its spec would be taken for other classes' numbers."""
        results = program(pixels)
        self._look_for_softmax(results)
        expected = (len(pixels), *work.logits_shape(self.spec))
        if tuple(results.shape) != expected:
            raise _unfit(self.spec, tuple(results.shape), expected)
        return results

    def _look_for_softmax(self, results: Results) -> None:
        """Warn, once, of a network that gives probabilities where logits are needed."""
        if self._looked or len(results) < _LOOKED_AT:
            return
        self._looked = True
        sums = results[:_LOOKED_AT].sum(-1)
        if bool((results[:_LOOKED_AT] >= 0).all()) and bool((abs(sums - 1) < 1e-3).all()):
            logger.warning(
                "the network of model %s seems to give probabilities: it must give logits, leave "
                "out its softmax, or all probabilities come out near one another",
                self.spec.name,
            )

    def _graph(self, work: Work) -> nn.Module:
        return work.make_graph(self.spec, self._network())

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


def _way_out(engine: Engine) -> str:
    other = "--backend torch" if engine.backend == "openvino" else "--device cpu"
    return f"run the same command again, and with {other} if that hangs too"


def _unfit(spec: ModelSpec, found: tuple[int, ...], expected: tuple[int, ...]) -> BundleError:
    if found[:-1] == expected[:-1]:
        said = f"{found[-1]} outputs"
    else:
        said = f"outputs of shape {found} for {expected[0]} pictures, not {expected},"
    return BundleError(
        f"the network of model {spec.name} has {said} where its spec names {len(spec.classes)} "
        f"classes ({', '.join(spec.classes)}): one of the two belongs to another model"
    )


def load_model(
    path: Path | str | None = None,
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
    path = None if path is None else Path(path)
    path = default_bundle() if path is None else path
    spec = read_spec(path)
    device = pick_device() if device is None else str(device)
    if backend != "torch" and device_kind(device) == "cpu":
        begin(has_cpu_bf16)  # imports OpenVINO, where it is, while the file is hashed
    sha256 = file_sha256(path)
    paths = read_fast_paths(path, sha256=sha256)
    engine = choose_engine(device, paths, backend=backend, precision=precision)
    ranges = None if paths is None else paths.ranges
    compiled = None
    if engine.backend == "openvino":
        compiled = CompiledGraphs.of(
            weights_sha256=sha256, precision=engine.precision, ranges=ranges
        )

    def build() -> nn.Module:
        from histoslide.model.networks import folded_network  # noqa: PLC0415

        _, state = load_bundle(path)
        try:
            return folded_network(spec, state)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None

    kept = compiled is not None and compiled.any_kept
    return Model(
        spec,
        DeferredNetwork(build) if kept else build(),
        device=device,
        sha256=sha256,
        backend=make_backend(engine, device, compiled=compiled, threads=threads),
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
