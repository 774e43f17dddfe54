"""What can run a network: torch on any device, or OpenVINO on the CPU, at a precision of choice."""

from __future__ import annotations

from histoslide.errors import HistoslideError
from histoslide.machine.processors import network_threads
from histoslide.model.backend import Backend, BackendName, Precision
from histoslide.model.converted import ConvertedGraphs
from histoslide.model.devices import device_kind, has_cuda_bf16
from histoslide.model.openvino_extra import has_cpu_bf16, has_openvino


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
        threads: of OpenVINO; None for ``histoslide.machine.processors.network_threads``.

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
