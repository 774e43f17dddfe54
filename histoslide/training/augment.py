"""Random changes of whole batches on the device where they are trained on.

Every change maps the centre of a patch onto itself, because the label speaks of the centre.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from histoslide.training.recipe import Augmentation

_RGB_FROM_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in R, G and B (Ruifrok & Johnston 2001)."""


def augment(images: Tensor, settings: Augmentation) -> Tensor:
    """Change a batch at random, each patch on its own.

    Args:
        images: RGB in 0-1 units, shape (n, 3, h, w), h equal to w.
        settings: which changes and how strong. JPEG is applied on reading, not here.
    """
    if settings.symmetries:
        images = random_symmetry(images)
    if settings.zoom:
        images = random_zoom(images, settings.zoom)
    if settings.stain:
        images = random_stain(images, settings.stain)
    if settings.lighting:
        images = random_lighting(images, settings.lighting)
    if settings.sharpness:
        images = random_sharpness(images, settings.sharpness)
    return images.clamp(0, 1)


def random_symmetry(images: Tensor) -> Tensor:
    """Apply one of the eight symmetries of the square to each patch of (n, 3, h, h)."""
    flip_x, flip_y, transpose = _per_patch(images, 3).split(1, dim=1)
    images = torch.where(flip_x > 0, images.flip(3), images)
    images = torch.where(flip_y > 0, images.flip(2), images)
    return torch.where(transpose > 0, images.transpose(2, 3), images)


def random_zoom(images: Tensor, strength: float) -> Tensor:
    """Magnify or shrink each patch about its centre by up to ``1 + strength``."""
    scale = torch.exp(_per_patch(images, 1).flatten() * float(np.log1p(strength)))
    theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def random_stain(images: Tensor, strength: float) -> Tensor:
    """Scale and shift each patch's stain concentrations in optical density (Tellez et al. 2018)."""
    basis = functional.normalize(_RGB_FROM_HED, dim=1).to(images)
    density = -torch.log((images * 255 + 1) / 256)
    stains = torch.einsum("nchw,cs->nshw", density, torch.linalg.inv(basis))
    factor = 1 + strength * _per_patch(images, 3)
    shift = 0.25 * strength * _per_patch(images, 3)
    density = torch.einsum("nshw,sc->nchw", stains * factor + shift, basis)
    return (torch.exp(-density) * 256 - 1) / 255


def random_lighting(images: Tensor, strength: float) -> Tensor:
    """Change contrast about mid grey and brightness of each patch."""
    contrast, brightness = _per_patch(images, 2).split(1, dim=1)
    return (images - 0.5) * (1 + strength * contrast) + 0.5 + strength * brightness


def random_sharpness(images: Tensor, strength: float) -> Tensor:
    """Blend each patch with its blurred copy, or away from it, which sharpens."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device, dtype=images.dtype) / 16
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)
    blurred = functional.conv2d(
        functional.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3
    )
    return torch.lerp(images, blurred, strength * _per_patch(images, 1))


def recompress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress and decompress (h, w, 3) RGB pixels as JPEG of the given quality."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _per_patch(images: Tensor, count: int) -> Tensor:
    """Uniform numbers in -1..1, shape (n, count, 1, 1); from the CPU, for equal runs anywhere."""
    draws = torch.rand(len(images), count, 1, 1) * 2 - 1
    return draws.to(images)
