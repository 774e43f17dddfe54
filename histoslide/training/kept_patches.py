"""Patches decoded once and kept in memory, so that epochs do not decode them again."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from histoslide.datasets import PatchData, PatchSet
from histoslide.errors import DataError
from histoslide.machine.processors import usable_processors
from histoslide.training.recipe import Recipe

logger = logging.getLogger(__name__)

PART_OF_MEMORY = 0.4
"""Part of the free memory that patches may take; training needs the rest."""

OnPatches = Callable[[int, int], None]
"""Called with patches decoded and patches in all."""

_AT_ONCE = 256
"""Patches between two calls of an ``OnPatches``."""


@dataclass(frozen=True)
class KeptPatches:
    """A set of patches whose pixels are all in memory."""

    source: PatchSet
    """What they were read from: their labels, names and slides."""
    pixels: NDArray[np.uint8]
    """RGB of all patches, shape (n, side, side, 3)."""

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.source)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every patch, shape (n,)."""
        return self.source.labels

    @property
    def names(self) -> Sequence[str]:
        """Names of all patches."""
        return self.source.names

    @property
    def slides(self) -> tuple[str, ...] | None:
        """The slide of each patch; None where that is unknown."""
        return self.source.slides

    def read(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels of one patch, shape (side, side, 3)."""
        patch: NDArray[np.uint8] = self.pixels[index]
        return patch


def keep_patches(
    data: PatchData, recipe: Recipe, *, on_patches: OnPatches | None = None
) -> PatchData:
    """The same data, decoded now where all of them fit into memory.

    Not where the recipe resizes each patch before it is augmented, which happens to one at a time.

    Args:
        data: training and validation patches.
        recipe: how large they are.
        on_patches: told of progress.

    Raises:
        DataError: a patch cannot be read, or has another size than the recipe's.
    """
    sets = [part for part in (data.train, data.valid, data.unlabelled) if part is not None]
    if recipe.presize_px is not None or any(isinstance(part, KeptPatches) for part in sets):
        return data
    count = sum(map(len, sets))
    needed = count * recipe.input_px**2 * 3
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each keeps its own
    if needed * processes > PART_OF_MEMORY * psutil.virtual_memory().available:
        logger.info(
            "%d patches would take %.1f GB of memory: they are decoded anew every epoch",
            count, needed / 1e9,
        )  # fmt: skip
        return data
    kept: list[KeptPatches] = []
    for part in sets:

        def say(done: int, start: int = sum(map(len, kept))) -> None:
            if on_patches is not None:
                on_patches(start + done, count)

        kept.append(KeptPatches(part, _decode(part, recipe.input_px, say)))
    logger.info("%d patches are kept in memory, %.2f GB", count, needed / 1e9)
    train, valid, *unlabelled = kept
    return dataclasses.replace(
        data, train=train, valid=valid, unlabelled=unlabelled[0] if unlabelled else None
    )


def read_sized(patches: PatchSet, index: int, side_px: int) -> NDArray[np.uint8]:
    """One patch of the recipe's size, shape (side, side, 3).

    Raises:
        DataError: it cannot be read or has another size.
    """
    try:
        pixels = patches.read(index)
    except DataError as error:
        raise DataError(f"{error}: pass --skip-bad to leave such patches out") from error
    if pixels.shape != (side_px, side_px, 3):
        raise DataError(
            f"patch {patches.names[index]} is {pixels.shape[1]}×{pixels.shape[0]} px, "
            f"the recipe expects {side_px}×{side_px}: pass --patch-size and --mpp as "
            "the patches are, or --skip-bad to leave out such as this one"
        )
    return pixels


def _decode(patches: PatchSet, side_px: int, say: Callable[[int], None]) -> NDArray[np.uint8]:
    pixels = np.empty((len(patches), side_px, side_px, 3), dtype=np.uint8)

    def read(index: int) -> None:
        pixels[index] = read_sized(patches, index, side_px)

    with ThreadPoolExecutor(usable_processors()) as pool:
        for start in range(0, len(patches), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(patches))
            list(pool.map(read, range(start, stop)))
            say(stop)
    return pixels
