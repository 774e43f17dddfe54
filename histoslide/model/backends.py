"""What runs a network: torch on any device, or OpenVINO on the CPU, at a precision of choice."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histoslide.errors import BundleError, HistoslideError
from histoslide.model.batches import Program
from histoslide.model.converted import ConvertedGraphs, write_graph
from histoslide.model.openvino_extra import has_cpu_bf16, has_openvino, import_openvino

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8")

BackendName = Literal["torch", "openvino"]
BACKENDS: tuple[BackendName, ...] = ("torch", "openvino")

_MOST_STREAMS = 4
"""Parts of a batch that OpenVINO computes at a time; each stream keeps activations of its own."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backend(Protocol):
    """Compiles graphs for a device; see ``histoslide.model.graphs``."""

    @property
    def name(self) -> BackendName:
        """Which one it is."""
        ...

    @property
    def precision(self) -> Precision:
        """In which it computes; results are float32 whatever it is."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it wants its pixels and leaves its results."""
        ...

    def compile(
        self, make_graph: Callable[[], nn.Module], shape: tuple[int, int, int, int], *, name: str
    ) -> Program:
        """Make a graph ready to run.

        Args:
            make_graph: builds what maps uint8 pixels to logits.
            shape: of the pixels, (n, 3, side, side), always the same.
            name: of the graph among those of the same network.

        Raises:
            HistoslideError: this backend cannot run it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TorchBackend:
    """Torch, eager, with activations in channels-last order."""

    device: torch.device
    """Where to compute."""
    precision: Precision = "fp32"
    """In which; not int8."""
    name: BackendName = "torch"
    """Always torch."""

    def compile(
        self,
        make_graph: Callable[[], nn.Module],
        shape: tuple[int, int, int, int],  # noqa: ARG002
        *,
        name: str,  # noqa: ARG002
    ) -> Program:
        """Move a graph to the device; torch takes pixels of any number."""
        graph = make_graph().to(self.device).to(memory_format=torch.channels_last).eval()
        if self.precision != "fp32":
            graph.get_submodule("network").to(_DTYPES[self.precision])

        def run(pixels: Tensor) -> Tensor:
            with torch.inference_mode():
                on_device = pixels.to(self.device, non_blocking=True)
                return graph(on_device.contiguous(memory_format=torch.channels_last)).float()

        return run


@dataclass(frozen=True, kw_only=True)
class OpenVinoBackend:
    """OpenVINO on the CPU: the extra ``openvino``."""

    precision: Precision = "fp32"
    """In which; int8 where the graph's convolutions round (``histoslide.model.int8``)."""
    converted: ConvertedGraphs | None = None
    """Where converted graphs are kept; None keeps none."""
    name: BackendName = "openvino"
    """Always openvino."""

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def compile(
        self, make_graph: Callable[[], nn.Module], shape: tuple[int, int, int, int], *, name: str
    ) -> Program:
        """Compile a graph for batches of one shape, converted anew only if it is not kept.

        A batch is computed in as many parts at a time as there are threads, up to
        ``_MOST_STREAMS``: threads that share each layer of one part wait for one another.
        """
        threads = torch.get_num_threads()
        streams = min(threads, _MOST_STREAMS, shape[0])
        count = -(-shape[0] // streams)
        # What int8 leaves in floating point, a tenth of its time, gains from bfloat16 too.
        rest_in_bf16 = self.precision == "int8" and has_cpu_bf16()
        hint = "bf16" if self.precision == "bf16" or rest_in_bf16 else "f32"
        settings: dict[str, Any] = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
        }
        core = import_openvino().Core()
        name = f"{name}-{count}x{shape[-1]}"
        kept = None if self.converted is None else self.converted.find(name)
        if kept is None:
            graph = _convert(make_graph(), (count, *shape[1:]))
            kept = None if self.converted is None else self.converted.keep(name, graph)
        if kept is not None:
            compiled = core.compile_model(kept, "CPU", settings)
        else:
            # By way of a file too: what comes from one differs from the graph in memory in the
            # last bits, and results must not depend on whether a cache can be written.
            with tempfile.TemporaryDirectory(prefix="histoslide-") as folder:
                compiled = core.compile_model(write_graph(graph, Path(folder)), "CPU", settings)
        requests = [compiled.create_infer_request() for _ in range(streams)]

        def run(pixels: Tensor) -> Tensor:
            whole = np.ascontiguousarray(pixels.cpu().numpy())
            parts = _equal_parts(whole, count)
            results = []
            for start in range(0, len(parts), streams):
                pairs = list(zip(requests, parts[start : start + streams], strict=False))
                for request, part in pairs:
                    request.start_async([part])
                for request, _ in pairs:
                    request.wait()
                    results.append(request.get_output_tensor().data.copy())
            return torch.from_numpy(np.concatenate(results)[: len(whole)])

        return run


def _equal_parts(whole: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Parts of ``count`` items each, the last one filled up with black."""
    if missing := -len(whole) % count:
        whole = np.concatenate([whole, np.zeros((missing, *whole.shape[1:]), dtype=np.uint8)])
    return np.split(whole, len(whole) // count)


def _convert(graph: nn.Module, shape: tuple[int, int, int, int]) -> Any:
    """An ``openvino.Model`` of a graph.

    Raises:
        BundleError: OpenVINO does not know one of its parts.
    """
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


def make_backend(
    name: BackendName,
    precision: Precision,
    device: torch.device,
    *,
    converted: ConvertedGraphs | None = None,
) -> Backend:
    """The backend of a name and precision.

    Args:
        name: which.
        precision: in which it computes.
        device: where.
        converted: where OpenVINO's graphs are kept; None keeps none.

    Raises:
        HistoslideError: it cannot run here.
    """
    if name == "torch":
        if precision == "int8":
            raise HistoslideError("--precision int8 needs --backend openvino")
        return TorchBackend(device=device, precision=precision)
    if device.type != "cpu":
        raise HistoslideError(f"--backend openvino computes on the CPU, not on {device}")
    if not has_openvino():
        raise HistoslideError(
            "--backend openvino needs OpenVINO: pip install 'histoslide[openvino]'"
        )
    if precision == "fp16" or (precision == "bf16" and not has_cpu_bf16()):
        raise HistoslideError(f"OpenVINO cannot compute in {precision} on this CPU: try int8")
    return OpenVinoBackend(precision=precision, converted=converted)


def supported(device: torch.device) -> list[tuple[BackendName, Precision]]:
    """Backends and precisions that can be expected to be fast on a device, fastest first.

    Full precision in torch, which always runs, comes last.
    """
    found: list[tuple[BackendName, Precision]] = []
    if device.type == "cpu" and has_openvino():
        found.append(("openvino", "int8"))
        if has_cpu_bf16():
            found.append(("openvino", "bf16"))
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        found.append(("torch", "bf16"))
    return [*found, ("torch", "fp32")]
