"""Patches in memory of which ``models.colour_model`` says what their red channel holds."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Memory:
    """Patches in memory; who reads them is remembered."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    slides: tuple[str, ...] | None = None
    readers: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def names(self) -> Sequence[str]:
        return [f"patch-{i}" for i in range(len(self))]

    def read(self, index: int) -> NDArray[np.uint8]:
        self.readers.add(threading.get_ident())
        patch: NDArray[np.uint8] = self.pixels[index]
        return patch


def red_patches(values: Sequence[int], labels: Sequence[int] | None = None) -> Memory:
    """Patches of 48 px of which the model says P(tumour) = value / 255."""
    pixels = np.zeros((len(values), 48, 48, 3), dtype=np.uint8)
    pixels[..., 0] = np.array(values)[:, None, None]
    truth = np.zeros(len(values)) if labels is None else labels
    return Memory(pixels, np.array(truth, dtype=np.int64))
