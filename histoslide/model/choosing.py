"""What can run a network: torch on any device, or OpenVINO on the CPU, at a precision of choice."""

from __future__ import annotations

from histoslide.errors import HistoslideError
from histoslide.machine.processors import network_threads
from histoslide.model.backend import Backend
from histoslide.model.compiled import CompiledGraphs
from histoslide.model.devices import device_kind, has_cuda_bf16
from histoslide.model.engine import FULL_PRECISION, Engine
from histoslide.model.openvino_extra import has_cpu_bf16, has_openvino


def make_backend(
    engine: Engine,
    device: str,
    *,
    compiled: CompiledGraphs | None = None,
    threads: int | None = None,
) -> Backend:
    """The backend of an engine.

    Args:
        engine: which.
        device: where.
        compiled: where OpenVINO's graphs are kept; None keeps none.
        threads: of OpenVINO; None for ``histoslide.machine.processors.network_threads``.

    Raises:
        HistoslideError: it cannot run here.
    """
    refuse_engine(engine, device)
    # Imported here: one needs torch, which the other does without.
    if engine.backend == "torch":
        from histoslide.model.torch_backend import TorchBackend  # noqa: PLC0415

        return TorchBackend(device=device, precision=engine.precision)
    from histoslide.model.openvino_backend import OpenVinoBackend  # noqa: PLC0415

    threads = network_threads() if threads is None else threads
    return OpenVinoBackend(precision=engine.precision, compiled=compiled, threads=threads)


def refuse_engine(engine: Engine, device: str) -> None:
    """Make sure that an engine can compute here.

    Raises:
        HistoslideError: it cannot, and why.
    """
    precision = engine.precision
    if engine.backend == "torch":
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


def supported(device: str) -> list[Engine]:
    """Engines that can be expected to be fast on a device, fastest first.

    Full precision in torch, which always runs, comes last.
    """
    found: list[Engine] = []
    kind = device_kind(device)
    if kind == "cpu" and has_openvino():
        found.append(Engine(backend="openvino", precision="int8"))
        if has_cpu_bf16():
            found.append(Engine(backend="openvino", precision="bf16"))
    if kind == "cuda" and has_cuda_bf16():
        found.append(Engine(backend="torch", precision="bf16"))
    return [*found, FULL_PRECISION]
