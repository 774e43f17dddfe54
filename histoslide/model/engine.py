"""What computes a network, and how precisely, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from histoslide.errors import HistoslideError

Precision = Literal["fp32", "bf16", "fp16", "int8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

BackendName = Literal["torch", "openvino"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

ActivationRange = float | tuple[float, float]
"""What eight bits have to span: from 0 to a number, or from one to another."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A backend at a precision; equal engines on equal machines give equal results."""

    backend: BackendName = "torch"
    """What computes."""
    precision: Precision = "fp32"
    """In which; results are float32 whatever it is."""

    def __str__(self) -> str:
        """Its one form as text, in heatmaps and fingerprints: ``openvino int8``."""
        return f"{self.backend} {self.precision}"

    @classmethod
    def parse(cls, text: str) -> Engine:
        """The engine of a text that ``str`` made.

        Raises:
            HistoslideError: there is none of that name.
        """
        backend, _, precision = text.partition(" ")
        if backend not in BACKENDS or precision not in PRECISIONS:
            raise HistoslideError(
                f"there is no engine {text!r}: it is one of {', '.join(BACKENDS)}, a space, and "
                f"one of {', '.join(PRECISIONS)}"
            )
        return cls(backend=backend, precision=precision)


FULL_PRECISION = Engine()
"""Torch in float32: runs everywhere, and is what the others are measured against."""
