"""Pixels where a backend wants them: in arrays of NumPy's, or in tensors on a device.

What prepares batches goes through this one door, so that scoring with OpenVINO never imports torch,
which takes two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Pixels = Any
"""Images as a ``PixelMemory`` holds them: uint8 of shape (n, 3, height, width), an array or a
tensor."""

Results = Any
"""What a network gives, where it computes: float32 of shape (n, ...), an array or a tensor."""


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Squares of a window that lie on a grid of its own."""

    side: int
    """Of a square, in pixels."""
    stride: int
    """From one square to the next, in pixels."""
    rows: NDArray[np.intp]
    """Of each square, counted from the window's first, shape (n,)."""
    cols: NDArray[np.intp]
    """Likewise."""


class PixelMemory(Protocol):
    """Where the pixels of one backend lie."""

    def hold(self, images: Any) -> Pixels:
        """Move images here.

        Args:
            images: an array or a tensor on any device, uint8, shape (n, 3, height, width).
        """
        ...

    def cut(self, window: NDArray[np.uint8], squares: Squares) -> Callable[[slice], Pixels]:
        """Squares of a window, which is moved here once; each is cut when it is asked for.

        Args:
            window: RGB, uint8, shape (height, width, 3).
            squares: which.

        Returns:
            A function that gives a range of the squares, shape (n, 3, side, side).
        """
        ...

    def join(self, parts: Sequence[Pixels], count: int) -> Pixels:
        """One batch of several parts, filled up to ``count`` images with black."""
        ...

    def symmetries(self, tiles: Pixels) -> list[Pixels]:
        """The eight symmetries of the square, each of all tiles (n, 3, h, h)."""
        ...

    def fetch(self, results: Results) -> NDArray[np.float32]:
        """Results as an array."""
        ...


class HostMemory:
    """Arrays of NumPy's; see ``PixelMemory``."""

    def hold(self, images: Any) -> Pixels:
        """The images as an array."""
        return np.asarray(images.cpu() if hasattr(images, "cpu") else images)

    def cut(self, window: NDArray[np.uint8], squares: Squares) -> Callable[[slice], Pixels]:
        """Squares of a window; see ``PixelMemory.cut``."""
        kept = np.array(window)  # a reader may use its own for what it reads next
        step, shape = squares.stride, (squares.side, squares.side)
        views = sliding_window_view(kept, shape, axis=(0, 1))[::step, ::step]
        return lambda items: views[squares.rows[items], squares.cols[items]]

    def join(self, parts: Sequence[Pixels], count: int) -> Pixels:
        """One batch; see ``PixelMemory.join``."""
        missing = count - sum(map(len, parts))
        black = [np.zeros((missing, *parts[0].shape[1:]), dtype=np.uint8)] if missing else []
        return np.concatenate([*parts, *black])

    def symmetries(self, tiles: Pixels) -> list[Pixels]:
        """The eight symmetries; see ``PixelMemory.symmetries``."""
        turned = [np.rot90(tiles, quarter, axes=(2, 3)) for quarter in range(4)]
        return turned + [np.flip(view, axis=3) for view in turned]

    def fetch(self, results: Results) -> NDArray[np.float32]:
        """The results themselves."""
        return np.asarray(results, dtype=np.float32)
