"""Files of ``torch.save``, read without running code of them."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from histoslide.errors import BundleError

_DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError,
    TypeError, ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""How torch's unpickler stops at a damaged file: it follows it and fails wherever that leads."""


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote: numbers, texts, containers and tensors, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it cannot be read so.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"{path} cannot be read as plain weights ({line})") from error
