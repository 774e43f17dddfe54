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
from numpy.typing import NDArray

from histoslide.datasets import UNKNOWN, ImageFiles, Joined, PatchData, PatchSet
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
    """From the index of a patch to the name of its class, or to ``NO_CLASS``."""

    def __init__(self, patches: PatchSet, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.labels, self.classes = patches.labels, classes

    def encodes(self, index: int) -> str:
        """The class."""
        label = int(self.labels[index])
        return NO_CLASS if label == UNKNOWN else self.classes[label]


NO_CLASS = ""
"""Stands for the class of an unlabelled patch."""


class CategorizeKnown(Categorize):
    """fastai's transform, and ``UNKNOWN`` for a patch without a class."""

    def encodes(self, name: str) -> TensorCategory:
        """The number of a class."""
        return TensorCategory(UNKNOWN) if name == NO_CLASS else super().encodes(name)


@dataclass(frozen=True, kw_only=True)
class KeptBatches:
    """Makes whole batches of patches that are in memory, where others are joined of single ones."""

    patches: PatchSet
    """Where from."""
    labels: NDArray[np.int64]
    """Of these, shape (n,)."""
    shown: NDArray[np.int64]
    """Indices into them of what an epoch shows."""
    jpeg: float
    """Part of the patches that are compressed once more."""

    def batch(self, indices: Sequence[int]) -> tuple[TensorImage, TensorCategory]:
        """Patches of shape (n, 3, side, side), uint8, and their classes."""
        chosen = self.shown[np.asarray(indices)]
        pixels = np.stack([self.patches.read(index) for index in chosen.tolist()])
        if self.jpeg:
            for item in torch.nonzero(torch.rand(len(chosen)) < self.jpeg).flatten().tolist():
                pixels[item] = recompress(pixels[item], random_quality())
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return TensorImage(images), TensorCategory(torch.from_numpy(self.labels[chosen]))


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
    # Unlabelled patches last: they are numbered as ``PatchData.shown`` says, behind validation.
    none = () if data.unlabelled is None else (data.unlabelled,)
    patches = Joined((data.train, data.valid, *none))
    cut, held = len(data.train), len(data.valid)
    shown = data.shown + np.where(data.shown < cut, 0, held)
    count = len(shown)
    size = recipe.batch_size if batch_size is None else batch_size
    known = CategorizeKnown(vocab=list(data.classes), sort=False)
    sets = Datasets(
        [*shown.tolist(), *range(cut, cut + held)],
        tfms=[
            [ReadPatch(patches, recipe.input_px)],
            [ReadLabel(patches, data.classes), known],
        ],
        splits=[list(range(count)), list(range(count, count + held))],
    )
    loaders = sets.dataloaders(
        bs=size,
        dl_type=PatchLoader,
        num_workers=workers,
        device=device,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        drop_last=count > size,
        after_item=item_transforms(recipe),
        after_batch=batch_transforms(recipe, recipe.stages[-1] if stage is None else stage),
    )
    if all(isinstance(part, KeptPatches) for part in patches.parts):
        labels, both = patches.labels, (shown, np.arange(cut, cut + held))
        jpegs = (recipe.augmentation.jpeg, 0.0)
        for loader, indices, jpeg in zip(loaders.loaders, both, jpegs, strict=True):
            loader.kept = KeptBatches(patches=patches, labels=labels, shown=indices, jpeg=jpeg)
    return loaders


@contextmanager
def without_patches(loaders: DataLoaders) -> Iterator[None]:
    """Meanwhile the loaders hold no patches, names or labels: nothing that an export should."""
    nothing = ImageFiles((), np.empty(0, dtype=np.int64))
    readers = [t for part in loaders.loaders for t in _transforms(part.dataset)]
    readers = [t for t in readers if isinstance(t, ReadPatch | ReadLabel)]
    held = [dict(vars(reader)) for reader in readers]
    in_memory = [loader for loader in loaders.loaders if isinstance(loader, PatchLoader)]
    kept = [loader.kept for loader in in_memory]
    for loader in in_memory:
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
        for loader, batches in zip(in_memory, kept, strict=True):
            loader.kept = batches


def _transforms(dataset: object) -> list[object]:
    """Those of every pipeline of a fastai Datasets; none of anything else."""
    return [transform for part in getattr(dataset, "tls", ()) for transform in part.tfms.fs]


def reseed(loaders: DataLoaders, shuffler: random.Random) -> None:
    """Let the next epoch be shuffled by ``shuffler``."""
    loader = loaders.train
    getattr(loader, "dl", loader).rng = shuffler  # of the loader inside a distributed one
