"""Torch as what runs a network, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histoslide.errors import BundleError
from histoslide.model.devices import device_kind
from histoslide.model.engine import Engine
from histoslide.model.pixels import Pixels, Results, Squares

if TYPE_CHECKING:
    from torch import nn

    from histoslide.model.backend import Program
    from histoslide.model.engine import Precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TorchBackend:
    """Torch, eager, with activations in channels-last order."""

    device: str = "cpu"
    """Where to compute, as torch names it."""
    precision: Precision = "fp32"
    """In which; not int8."""
    _one_at_a_time: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)
    """For the graphs of a model, which share its network: that may keep what it is given."""

    @property
    def engine(self) -> Engine:
        """Torch at this precision."""
        return Engine(backend="torch", precision=self.precision)

    @property
    def in_flight(self) -> int:
        """On an accelerator a second batch is prepared while the first is computed."""
        return 1 if device_kind(self.device) == "cpu" else 2

    @cached_property
    def memory(self) -> TensorMemory:
        """Tensors on the device."""
        return TensorMemory(torch.device(self.device))

    def must_compile(self, shape: tuple[int, int, int, int], *, name: str) -> bool:  # noqa: ARG002
        """Never."""
        return False

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

        def run(pixels: Pixels) -> Results:
            with self._one_at_a_time, torch.inference_mode():
                ordered = pixels.contiguous(memory_format=torch.channels_last)
                return _logits(self._outputs(graph, ordered))

        return run

    def _outputs(self, graph: nn.Module, pixels: Pixels) -> object:
        """What a graph gives, whose own mistakes are said in one line."""
        try:
            return graph(pixels)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            # What goes wrong on an accelerator, or for want of memory, says nothing of the network.
            if isinstance(error, RuntimeError) and (
                device_kind(self.device) != "cpu" or "memory" in str(error)
            ):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BundleError(
                f"the network fails on {len(pixels)} pictures: {type(error).__name__}: "
                f"{reason:.300}; it must map normalised float tiles of shape (n, 3, h, w) to "
                "logits of shape (n, classes)"
            ) from error


@dataclass(frozen=True)
class TensorMemory:
    """Tensors on a device; see ``histoslide.model.pixels.PixelMemory``."""

    device: torch.device
    """Which."""

    def hold(self, images: Any) -> Pixels:
        """Move images to the device."""
        tensor = images if isinstance(images, Tensor) else _tensor(images)
        return tensor.to(self.device, non_blocking=True)

    def cut(self, window: NDArray[np.uint8], squares: Squares) -> Callable[[slice], Pixels]:
        """Squares of a window; see ``histoslide.model.pixels.PixelMemory.cut``."""
        image = self._upload(_tensor(window)).permute(2, 0, 1)
        side, stride = squares.side, squares.stride
        views = image.unfold(1, side, stride).unfold(2, side, stride)  # (3, r, c, side, side)
        rows, cols = (self._upload(_tensor(index)) for index in (squares.rows, squares.cols))
        return lambda items: views[:, rows[items], cols[items]].permute(1, 0, 2, 3)

    def _upload(self, on_host: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return on_host.to(self.device)
        # From pinned memory this thread need not wait for the batches that were queued before.
        return on_host.pin_memory().to(self.device, non_blocking=True)

    def join(self, parts: Sequence[Pixels], count: int) -> Pixels:
        """One batch; see ``histoslide.model.pixels.PixelMemory.join``."""
        missing = count - sum(map(len, parts))
        black = [parts[0].new_zeros((missing, *parts[0].shape[1:]))] if missing else []
        return torch.cat([*parts, *black])

    def symmetries(self, tiles: Pixels) -> list[Pixels]:
        """The eight symmetries; see ``histoslide.model.pixels.PixelMemory.symmetries``."""
        turned = [torch.rot90(tiles, quarter, dims=(2, 3)) for quarter in range(4)]
        return turned + [view.flip(3) for view in turned]

    def fetch(self, results: Results) -> NDArray[np.float32]:
        """Results as an array; on CUDA without waiting for batches that were started later."""
        if results.device.type != "cuda":
            found: NDArray[np.float32] = results.cpu().numpy()
            return found
        host = torch.empty(results.shape, dtype=results.dtype, pin_memory=True)
        host.copy_(results, non_blocking=True)
        # Of the results' own device: the current one, at which events are recorded, may be another.
        torch.cuda.current_stream(results.device).record_event().synchronize()
        return host.numpy()


def _logits(outputs: object) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise BundleError(
            f"the network puts out a {type(outputs).__name__}, not one tensor of logits"
        )
    return outputs.float()


def _tensor(values: NDArray[Any]) -> Tensor:
    """A copy as a tensor: torch wants arrays that may be written, and strides that go forward."""
    return torch.from_numpy(np.array(values, order="C"))
