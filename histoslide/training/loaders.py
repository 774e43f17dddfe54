"""fastai DataLoaders over patch sets: decoded on the CPU, augmented in batches on the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor
from torch.nn import functional

from histoslide.datasets import PatchData, PatchSet
from histoslide.errors import DataError
from histoslide.training.augment import augment, recompress
from histoslide.training.recipe import Recipe, Stage

Batch = tuple[Tensor, Tensor]


class PatchItems:
    """A patch set as pairs of a (3, h, w) uint8 tensor and a class index."""

    def __init__(self, patches: PatchSet, *, input_px: int, jpeg: float = 0.0) -> None:
        self._patches = patches
        self._labels = patches.labels
        self._input_px = input_px
        self._jpeg = jpeg

    def __len__(self) -> int:
        """Number of patches."""
        return len(self._patches)

    def __getitem__(self, index: int) -> Batch:
        """One patch and its class.

        Raises:
            DataError: the patch cannot be read or has another size than the recipe's.
        """
        pixels = self._patches.read(index)
        if pixels.shape != (self._input_px, self._input_px, 3):
            raise DataError(
                f"patch {self._patches.names[index]} is {pixels.shape[1]}×{pixels.shape[0]} px, "
                f"the recipe expects {self._input_px}×{self._input_px}"
            )
        if self._jpeg and torch.rand(()) < self._jpeg:
            pixels = recompress(pixels, int(torch.randint(40, 91, ())))
        tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        return tensor, torch.tensor(self._labels[index])


def make_loaders(
    data: PatchData, recipe: Recipe, stage: Stage, *, device: torch.device, workers: int = 0
) -> DataLoaders:
    """DataLoaders whose batches are ready for the network.

    Args:
        data: what to train and validate on.
        recipe: batch size, augmentation and normalisation.
        stage: centre crop and network size.
        device: where batches are moved before they are augmented.
        workers: processes that decode; 0 decodes in this one.
    """
    common = {"bs": recipe.batch_size, "num_workers": workers, "device": device}
    train = DataLoader(
        PatchItems(data.train, input_px=recipe.input_px, jpeg=recipe.augmentation.jpeg),
        shuffle=True,
        drop_last=len(data.train) > recipe.batch_size,
        after_batch=batch_transform(recipe, stage, training=True),
        **common,
    )
    valid = DataLoader(
        PatchItems(data.valid, input_px=recipe.input_px),
        after_batch=batch_transform(recipe, stage, training=False),
        **common,
    )
    return DataLoaders(train, valid, device=device)


def batch_transform(recipe: Recipe, stage: Stage, *, training: bool) -> Callable[[Batch], Batch]:
    """What happens to a uint8 batch on the device: augment, crop, resize, normalise."""
    mean = torch.tensor(recipe.mean).view(1, 3, 1, 1)
    std = torch.tensor(recipe.std).view(1, 3, 1, 1)

    def transform(batch: Batch) -> Batch:
        images, labels = batch
        images = images.float() / 255
        if training:
            images = augment(images, recipe.augmentation)
        if stage.crop_px is not None:
            images = centre_crop(images, stage.crop_px)
        if stage.network_px is not None and stage.network_px != images.shape[-1]:
            images = functional.interpolate(
                images, size=stage.network_px, mode="bilinear", antialias=True
            )
        images = (images - mean.to(images)) / std.to(images)
        return images.contiguous(memory_format=torch.channels_last), labels

    return transform


def centre_crop(images: Tensor, side_px: int) -> Tensor:
    """The centre ``side_px`` square of (n, c, h, w) images."""
    top, left = ((size - side_px) // 2 for size in images.shape[-2:])
    return images[..., top : top + side_px, left : left + side_px]
