"""What any backend of a network must offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from histoslide.model.engine import Engine
from histoslide.model.pixels import PixelMemory, Pixels, Results

if TYPE_CHECKING:
    from torch import nn

Program = Callable[[Pixels], Results]
"""Maps uint8 pixels (n, 3, side, side) to float32 results (n, ...), both in a backend's memory.
Threads may call it at once."""


class Backend(Protocol):
    """Compiles graphs for a device; see ``histoslide.model.graphs``."""

    @property
    def engine(self) -> Engine:
        """Which one it is, and how precisely it computes."""
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

    def must_compile(self, shape: tuple[int, int, int, int], *, name: str) -> bool:
        """Whether ``compile`` takes seconds, because no compiled graph is kept."""
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
