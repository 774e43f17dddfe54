"""Which device a network runs on, found without importing torch where there is none but the CPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from histoslide.errors import HistoslideError

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll", "amdhip64.dll", "amdhip64_6.dll", "amdhip64_7.dll")
"""What the driver of a GPU brings, NVIDIA's on Linux and on Windows, AMD's on Windows."""

_DOORS = (Path("/dev/kfd"), Path("/dev/dxg"))
"""Devices of AMD's GPUs on Linux, and of all in the Linux of Windows."""


def pick_device(name: str = "auto") -> str:
    """The device of that name, as torch writes it; ``auto`` takes CUDA, else Apple's MPS, else cpu.

    Raises:
        HistoslideError: this machine has no such device.
    """
    if name == "cpu" or (name == "auto" and not may_have_accelerator()):
        return "cpu"
    import torch  # noqa: PLC0415 - two seconds that the CPU alone need not pay

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # as torch was built without it
        if device_kind(name) not in ("cpu", "cuda", "mps"):
            raise HistoslideError(
                f"there is no device {name!r}: choose auto, cpu, cuda, cuda:1 or mps"
            ) from None
        reason = str(error).splitlines()[0]
        raise HistoslideError(f"device {name!r} cannot be used here: {reason}") from error
    return str(device)


def may_have_accelerator() -> bool:
    """Whether there is a driver that torch may compute with; torch itself says if it can."""
    if sys.platform == "darwin" or any(door.exists() for door in _DOORS):
        return True
    return any(map(_loads, _LIBRARIES))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def device_kind(device: str) -> str:
    """What a device is: cpu, cuda or mps; which one of them does not matter."""
    return device.partition(":")[0]


def has_cuda_bf16() -> bool:
    """Whether the GPU computes in bfloat16 itself."""
    import torch  # noqa: PLC0415 - asked only where it has found the GPU

    return torch.cuda.is_bf16_supported(including_emulation=False)
