"""fastai DataLoaders over patch sets: decoded on the CPU, augmented in batches on the device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from fastai.data.core import DataLoaders, Datasets
from fastai.data.transforms import Categorize
from fastai.vision.core import PILImage
from fasttransform import DisplayedTransform

from histoslide.datasets import ImageFiles, Joined, PatchData, PatchSet
from histoslide.errors import DataError
from histoslide.model.devices import pick_device
from histoslide.training.recipe import Recipe, Stage
from histoslide.training.transforms import batch_transforms, item_transforms


class ReadPatch(DisplayedTransform):
    """From the index of a patch, or from an image file, to its image."""

    input_types = (int, str, Path)
    """What fastai's ``predict`` hands to it; an image that is one already goes past it."""

    def __init__(self, patches: PatchSet, side_px: int) -> None:
        super().__init__()
        self.patches, self.side_px = patches, side_px

    def encodes(self, path: str | Path) -> PILImage:
        """An image file of the size of the patches, for those who predict in a notebook."""
        return PILImage.create(path)

    # fastai chooses between the two by the type of what it gets.
    def encodes(self, index: int) -> PILImage:  # type: ignore[no-redef]  # noqa: F811
        """One patch.

        Raises:
            DataError: it cannot be read or has another size than the recipe's.
        """
        try:
            pixels = self.patches.read(index)
        except DataError as error:
            raise DataError(f"{error}: pass --skip-bad to leave such patches out") from error
        if pixels.shape != (self.side_px, self.side_px, 3):
            raise DataError(
                f"patch {self.patches.names[index]} is {pixels.shape[1]}×{pixels.shape[0]} px, "
                f"the recipe expects {self.side_px}×{self.side_px}: pass --patch-size and --mpp as "
                "the patches are, or --skip-bad to leave out such as this one"
            )
        return PILImage.create(pixels)


class ReadLabel(DisplayedTransform):
    """From the index of a patch to the name of its class."""

    def __init__(self, patches: PatchSet, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.labels, self.classes = patches.labels, classes

    def encodes(self, index: int) -> str:
        """The class."""
        return self.classes[int(self.labels[index])]


def make_loaders(
    data: PatchData,
    recipe: Recipe,
    stage: Stage | None = None,
    *,
    device: torch.device | None = None,
    workers: int = 0,
    batch_size: int | None = None,
) -> DataLoaders:
    """DataLoaders whose batches are ready for the network, usable without any of the rest.

    Args:
        data: what to train and validate on.
        recipe: batch size, augmentation and normalisation.
        stage: centre crop and network size; None for the last one.
        device: where batches are moved before they are augmented; None picks as
            ``histoslide.model.pick_device``.
        workers: processes that decode; 0 decodes in this one.
        batch_size: patches a batch; None as the recipe says.
    """
    device = torch.device(pick_device()) if device is None else device
    patches = Joined((data.train, data.valid))
    cut, count = len(data.train), len(patches)
    size = recipe.batch_size if batch_size is None else batch_size
    sets = Datasets(
        list(range(count)),
        tfms=[
            [ReadPatch(patches, recipe.input_px)],
            [ReadLabel(patches, data.classes), Categorize(vocab=list(data.classes), sort=False)],
        ],
        splits=[list(range(cut)), list(range(cut, count))],
    )
    return sets.dataloaders(
        bs=size,
        num_workers=workers,
        device=device,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        drop_last=cut > size,
        after_item=item_transforms(recipe),
        after_batch=batch_transforms(recipe, recipe.stages[-1] if stage is None else stage),
    )


@contextmanager
def without_patches(loaders: DataLoaders) -> Iterator[None]:
    """Meanwhile the loaders hold no patches, names or labels: nothing that an export should."""
    nothing = ImageFiles((), np.empty(0, dtype=np.int64))
    readers = [t for part in loaders.loaders for t in _transforms(part.dataset)]
    readers = [t for t in readers if isinstance(t, ReadPatch | ReadLabel)]
    held = [dict(vars(reader)) for reader in readers]
    for reader in readers:
        if isinstance(reader, ReadPatch):
            reader.patches = nothing
        elif isinstance(reader, ReadLabel):
            reader.labels = nothing.labels
    try:
        yield
    finally:
        for reader, values in zip(readers, held, strict=True):
            vars(reader).update(values)


def _transforms(dataset: object) -> list[object]:
    """Those of every pipeline of a fastai Datasets; none of anything else."""
    return [transform for part in getattr(dataset, "tls", ()) for transform in part.tfms.fs]


def reseed(loaders: DataLoaders, shuffler: random.Random) -> None:
    """Let the next epoch be shuffled by ``shuffler``."""
    loader = loaders.train
    getattr(loader, "dl", loader).rng = shuffler  # of the loader inside a distributed one
