"""fastai DataLoaders over patch sets: decoded on the CPU, augmented in batches on the device."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import Categorize
from fastai.torch_core import TensorCategory
from fastai.vision.core import PILImage, TensorImage
from fasttransform import DisplayedTransform

from histoslide.datasets import ImageFiles, Joined, PatchData, PatchSet
from histoslide.model.devices import pick_device
from histoslide.training.kept_patches import KeptPatches, read_sized
from histoslide.training.recipe import Recipe, Stage
from histoslide.training.transforms import (
    batch_transforms,
    item_transforms,
    random_quality,
    recompress,
)


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
        return PILImage.create(read_sized(self.patches, index, self.side_px))


class ReadLabel(DisplayedTransform):
    """From the index of a patch to the name of its class."""

    def __init__(self, patches: PatchSet, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.labels, self.classes = patches.labels, classes

    def encodes(self, index: int) -> str:
        """The class."""
        return self.classes[int(self.labels[index])]


@dataclass(frozen=True, kw_only=True)
class KeptBatches:
    """Makes whole batches of patches that are in memory, where others are joined of single ones."""

    patches: KeptPatches
    """Of one part."""
    jpeg: float
    """Part of the patches that are compressed once more."""

    def batch(self, indices: Sequence[int]) -> tuple[TensorImage, TensorCategory]:
        """Patches of shape (n, 3, side, side), uint8, and their classes."""
        chosen = np.asarray(indices)
        pixels = self.patches.pixels[chosen]
        if self.jpeg:
            for item in torch.nonzero(torch.rand(len(chosen)) < self.jpeg).flatten().tolist():
                pixels[item] = recompress(pixels[item], random_quality())
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(self.patches.labels[chosen])
        return TensorImage(images), TensorCategory(labels)


class PatchLoader(TfmdDL):
    """fastai's loader, which takes whole batches from memory where all patches are there."""

    kept: KeptBatches | None = None
    """Where from; None reads patches one by one, as those that somebody predicts in a notebook."""

    def create_batches(self, samps: Iterable[int]) -> Iterator[tuple[Any, ...]]:
        """Batches before what happens to them on the device."""
        if self.kept is None:
            yield from super().create_batches(samps)
            return
        yield from map(self.kept.batch, self.chunkify(iter(samps)))


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
    loaders = sets.dataloaders(
        bs=size,
        dl_type=PatchLoader,
        num_workers=workers,
        device=device,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        drop_last=cut > size,
        after_item=item_transforms(recipe),
        after_batch=batch_transforms(recipe, recipe.stages[-1] if stage is None else stage),
    )
    jpegs = (recipe.augmentation.jpeg, 0.0)
    for loader, part, jpeg in zip(loaders.loaders, (data.train, data.valid), jpegs, strict=True):
        if isinstance(part, KeptPatches):
            loader.kept = KeptBatches(patches=part, jpeg=jpeg)
    return loaders


@contextmanager
def without_patches(loaders: DataLoaders) -> Iterator[None]:
    """Meanwhile the loaders hold no patches, names or labels: nothing that an export should."""
    nothing = ImageFiles((), np.empty(0, dtype=np.int64))
    readers = [t for part in loaders.loaders for t in _transforms(part.dataset)]
    readers = [t for t in readers if isinstance(t, ReadPatch | ReadLabel)]
    held = [dict(vars(reader)) for reader in readers]
    kept = [loader.kept for loader in loaders.loaders]
    for loader in loaders.loaders:
        loader.kept = None
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
        for loader, batches in zip(loaders.loaders, kept, strict=True):
            loader.kept = batches


def _transforms(dataset: object) -> list[object]:
    """Those of every pipeline of a fastai Datasets; none of anything else."""
    return [transform for part in getattr(dataset, "tls", ()) for transform in part.tfms.fs]


def reseed(loaders: DataLoaders, shuffler: random.Random) -> None:
    """Let the next epoch be shuffled by ``shuffler``."""
    loader = loaders.train
    getattr(loader, "dl", loader).rng = shuffler  # of the loader inside a distributed one
