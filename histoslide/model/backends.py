"""What can run a network: torch on any device, or OpenVINO on the CPU, at a precision of choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from histoslide.errors import HistoslideError
from histoslide.model.converted import ConvertedGraphs
from histoslide.model.devices import device_kind, has_cuda_bf16
from histoslide.model.openvino_extra import has_cpu_bf16, has_openvino
from histoslide.model.pixels import PixelMemory, Pixels, Results
from histoslide.processors import network_threads

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8")

BackendName = Literal["torch", "openvino"]
BACKENDS: tuple[BackendName, ...] = ("torch", "openvino")

Program = Callable[[Pixels], Results]
"""Maps uint8 pixels (n, 3, side, side) to float32 results (n, ...), both in a backend's memory.
Threads may call it at once."""


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
    def device(self) -> str:
        """Where it computes, as torch names devices."""
        ...

    @property
    def in_flight(self) -> int:
        """Batches that it wants under way at a time."""
        ...

    @property
    def memory(self) -> PixelMemory:
        """Where it wants its pixels and leaves its results."""
        ...

    def must_convert(self, shape: tuple[int, int, int, int], *, name: str) -> bool:
        """Whether ``compile`` takes seconds, because no converted graph is kept."""
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


def make_backend(
    name: BackendName,
    precision: Precision,
    device: str,
    *,
    converted: ConvertedGraphs | None = None,
    threads: int | None = None,
) -> Backend:
    """The backend of a name and precision.

    Args:
        name: which.
        precision: in which it computes.
        device: where.
        converted: where OpenVINO's graphs are kept; None keeps none.
        threads: of OpenVINO; None for ``histoslide.processors.network_threads``.

    Raises:
        HistoslideError: it cannot run here.
    """
    refuse_backend(name, precision, device)
    # Imported here: one needs torch, which the other does without.
    if name == "torch":
        from histoslide.model.torch_backend import TorchBackend  # noqa: PLC0415

        return TorchBackend(device=device, precision=precision)
    from histoslide.model.openvino_backend import OpenVinoBackend  # noqa: PLC0415

    threads = network_threads() if threads is None else threads
    return OpenVinoBackend(precision=precision, converted=converted, threads=threads)


def refuse_backend(name: BackendName, precision: Precision, device: str) -> None:
    """Make sure that a backend can compute here.

    Raises:
        HistoslideError: it cannot, and why.
    """
    if name == "torch":
        if precision == "int8":
            raise HistoslideError("--precision int8 needs --backend openvino")
        return
    if device_kind(device) != "cpu":
        raise HistoslideError(f"--backend openvino computes on the CPU, not on {device}")
    if not has_openvino():
        raise HistoslideError(
            "--backend openvino needs OpenVINO: pip install 'histoslide[openvino]'"
        )
    if precision == "fp16" or (precision == "bf16" and not has_cpu_bf16()):
        raise HistoslideError(f"OpenVINO cannot compute in {precision} on this CPU: try int8")


def supported(device: str) -> list[tuple[BackendName, Precision]]:
    """Backends and precisions that can be expected to be fast on a device, fastest first.

    Full precision in torch, which always runs, comes last.
    """
    found: list[tuple[BackendName, Precision]] = []
    kind = device_kind(device)
    if kind == "cpu" and has_openvino():
        found.append(("openvino", "int8"))
        if has_cpu_bf16():
            found.append(("openvino", "bf16"))
    if kind == "cuda" and has_cuda_bf16():
        found.append(("torch", "bf16"))
    return [*found, ("torch", "fp32")]
