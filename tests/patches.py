"""Patches in memory whose centre tells their class, and a network small enough to train on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from histoslide.datasets import PatchData
from histoslide.model.architectures import fastai_head
from histoslide.training.recipe import Recipe, Stage

SIDE_PX = 40


@dataclass(frozen=True)
class Memory:
    """Patches in memory."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    slides: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> Sequence[str]:
        return [f"patch-{i}" for i in range(len(self))]

    def read(self, index: int) -> NDArray[np.uint8]:
        patch: NDArray[np.uint8] = self.pixels[index]
        return patch


def centre_patches(count: int, seed: int) -> Memory:
    """Noise whose centre 32×32 px are purple (1) or pink (0); the rim says nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 256, (count, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    edge = (SIDE_PX - 32) // 2
    inside = slice(edge, SIDE_PX - edge)
    noise = rng.integers(0, 40, (count, 32, 32, 3), dtype=np.uint8)
    colour = np.array([(215, 120, 170), (90, 40, 140)], dtype=np.uint8)
    pixels[:, inside, inside] = noise + colour[labels][:, None, None, :]
    return Memory(pixels, labels.astype(np.int64))


def make_tiny(classes: int, imagenet: bool) -> nn.Sequential:
    """A network laid out as a ResNet, small enough to train in a moment."""
    assert not imagenet

    def block(before: int, after: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )

    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers = [block(8, 8, 1), block(8, 16, 2), block(16, 16, 1), block(16, 16, 1)]
    return nn.Sequential(nn.Sequential(*stem, *layers), fastai_head(16, classes))


DATA = PatchData(
    layout="folders",
    classes=("normal", "tumour"),
    train=centre_patches(64, seed=0),
    valid=centre_patches(24, seed=1),
)

QUICK = Recipe(
    name="quick",
    architecture="tiny",
    imagenet=False,
    stages=(Stage(epochs=1, lr=1e-3),),
    batch_size=16,
    input_px=SIDE_PX,
    precision="fp32",
)
