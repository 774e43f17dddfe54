"""OpenVINO as what runs a network, on the CPU: the extra ``openvino``."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import BundleError
from histoslide.machine.processors import network_threads
from histoslide.model.compiled import CompiledGraphs
from histoslide.model.engine import Engine
from histoslide.model.openvino_extra import alone_at_first, has_cpu_bf16, import_openvino
from histoslide.model.pixels import HostMemory, Pixels, Results

if TYPE_CHECKING:
    from torch import nn

    from histoslide.model.backend import Program
    from histoslide.model.engine import Precision

logger = logging.getLogger(__name__)

_MOST_STREAMS = 4
"""Parts of a batch that OpenVINO computes at a time; each stream keeps activations of its own."""


@dataclass(frozen=True, kw_only=True)
class OpenVinoBackend:
    """OpenVINO on the CPU."""

    precision: Precision = "fp32"
    """In which; int8 where the graph's convolutions round (``histoslide.model.int8``)."""
    compiled: CompiledGraphs | None = None
    """Where compiled graphs are kept; None keeps none."""
    threads: int = field(default_factory=network_threads)
    """That compute."""
    device: str = "cpu"
    """Always the CPU."""
    in_flight: int = 2
    """While the last part of one batch is computed, the first of the next one is, too."""
    memory: HostMemory = field(default_factory=HostMemory)
    """Arrays."""

    @property
    def engine(self) -> Engine:
        """OpenVINO at this precision."""
        return Engine(backend="openvino", precision=self.precision)

    def must_compile(self, shape: tuple[int, int, int, int], *, name: str) -> bool:
        """Whether no graph of this shape and name is kept."""
        return self.compiled is None or not self.compiled.has(self._kept_name(name, shape))

    def _kept_name(self, name: str, shape: tuple[int, int, int, int]) -> str:
        _, count = self._parts(shape)
        return f"{name}-{count}x{shape[-1]}"

    def _parts(self, shape: tuple[int, int, int, int]) -> tuple[int, int]:
        """How many parts of a batch are computed at a time, and the images of one."""
        streams = min(self.threads, _MOST_STREAMS, shape[0])
        return streams, -(-shape[0] // streams)

    def _equal_parts(self, whole: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
        """Parts of ``count`` items each, the last one filled up with black."""
        if missing := -len(whole) % count:
            whole = self.memory.join([whole], len(whole) + missing)
        return np.split(whole, len(whole) // count)

    def compile(
        self, make_graph: Callable[[], nn.Module], shape: tuple[int, int, int, int], *, name: str
    ) -> Program:
        """Compile a graph for batches of one shape, anew only if it is not kept.

        A batch is computed in as many parts at a time as there are threads, up to
        ``_MOST_STREAMS``: threads that share each layer of one part wait for one another.
        """
        streams, count = self._parts(shape)
        # What int8 leaves in floating point, a tenth of its time, gains from bfloat16 too.
        rest_in_bf16 = self.precision == "int8" and has_cpu_bf16()
        hint = "bf16" if self.precision == "bf16" or rest_in_bf16 else "f32"
        settings: dict[str, Any] = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        kept_name = self._kept_name(name, shape)
        compiled = self._find(kept_name, settings)
        if compiled is None:
            compiled = _compile(_convert(make_graph(), (count, *shape[1:])), settings)
            self._keep(kept_name, compiled)
        # One set of requests for each batch under way; who has none waits for one.
        free: SimpleQueue[list[Any]] = SimpleQueue()
        for _ in range(self.in_flight):
            free.put([compiled.create_infer_request() for _ in range(streams)])

        def run(pixels: Pixels) -> Results:
            parts = self._equal_parts(np.ascontiguousarray(pixels), count)
            results = []
            requests = free.get()
            try:
                with alone_at_first():
                    for start in range(0, len(parts), streams):
                        pairs = list(zip(requests, parts[start : start + streams], strict=False))
                        for request, part in pairs:
                            request.start_async([part])
                        for request, _ in pairs:
                            request.wait()
                            results.append(request.get_output_tensor().data.copy())
            finally:
                free.put(requests)
            return np.concatenate(results)[: len(pixels)]

        return run

    def _find(self, name: str, settings: dict[str, Any]) -> Any:
        """A kept graph as an ``openvino.CompiledModel``, or None."""
        kept = None if self.compiled is None else self.compiled.find(name)
        if kept is None:
            return None
        try:
            return import_openvino().Core().import_model(kept, "CPU", settings)
        except RuntimeError as error:  # it is made again
            logger.debug("a compiled network cannot be used: %s", error)
            return None

    def _keep(self, name: str, compiled: Any) -> None:
        """Keep a graph for the next run; that it cannot be exported only costs time."""
        if self.compiled is None:
            return
        try:
            self.compiled.keep(name, _exported(compiled))
        except RuntimeError as error:
            logger.debug("a compiled network cannot be kept: %s", error)


def _compile(graph: Any, settings: dict[str, Any]) -> Any:
    """An ``openvino.CompiledModel`` of an ``openvino.Model``.

    By way of a file, without rounding the weights: what comes from the graph in memory differs
    from it in the last bits, and so does what is exported of it.
    """
    openvino = import_openvino()
    # OpenVINO keeps the file open, and Windows deletes no open files.
    with tempfile.TemporaryDirectory(prefix="histoslide-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "graph.xml"
        openvino.save_model(graph, file, compress_to_fp16=False)
        return openvino.Core().compile_model(file, "CPU", settings)


def _exported(compiled: Any) -> bytes:
    stream = io.BytesIO()
    compiled.export_model(stream)
    return stream.getvalue()


def _convert(graph: nn.Module, shape: tuple[int, int, int, int]) -> Any:
    """An ``openvino.Model`` of a graph.

    Raises:
        BundleError: OpenVINO does not know one of its parts.
    """
    import torch  # noqa: PLC0415 - a kept graph needs none of it

    graph = graph.to("cpu").eval()
    example = torch.zeros((1, *shape[1:]), dtype=torch.uint8)  # one is traced fastest
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the two say of tracing is not for our user
            # Traced here: the converter's own trace runs the network twice more to check.
            traced = torch.jit.trace(graph, example, check_trace=False)
            converted = import_openvino().convert_model(traced, example_input=example)
        converted.reshape(list(shape))
    except Exception as error:  # its converter raises whatever its parts do
        raise BundleError(
            f"OpenVINO cannot convert this network ({str(error).splitlines()[0]}): "
            "use --backend torch"
        ) from error
    return converted
