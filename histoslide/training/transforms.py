"""From a recipe to fastai's transforms, and the random changes that fastai lacks.

All of them work on whole batches on the device where the network trains, except what must happen to
one file at a time: resizing patches of different sizes, and compressing them once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import simplejpeg
import torch
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.vision.augment import (
    AffineCoordTfm,
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    PadMode,
    RandomResizedCropGPU,
    RandTransform,
    Resize,
    Rotate,
    Warp,
    Zoom,
    affine_mat,
    setup_aug_tfms,
)
from fastai.vision.core import PILImage, TensorImage
from fasttransform import DisplayedTransform, Transform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from histoslide.training.recipe import Augmentation, Recipe, Stage

_RGB_FROM_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in R, G and B (Ruifrok & Johnston 2001)."""

TRAINING_ONLY = 0
"""The ``split_idx`` of a fastai transform that leaves validation patches alone."""


def item_transforms(recipe: Recipe) -> list[Transform]:
    """What happens to one patch on the CPU, from PIL image to uint8 tensor."""
    steps: list[Transform] = []
    if recipe.augmentation.jpeg:
        steps.append(Recompress(recipe.augmentation.jpeg))
    if recipe.presize_px is not None:
        steps.append(Presize(recipe.presize_px))
    return [*steps, ToTensor()]


def batch_transforms(recipe: Recipe, stage: Stage) -> list[Transform]:
    """What happens to a uint8 batch on the device: augment, crop, resize, normalise."""
    crop = [] if stage.crop_px is None else [CentreCrop(stage.crop_px)]
    return [
        IntToFloatTensor(),
        *augmentations(recipe.augmentation, _warp_size(recipe, stage)),
        *crop,
        FitSize(recipe.side_px(stage)),
        Normalize.from_stats(*recipe.normalisation),
    ]


def augmentations(settings: Augmentation, size: int | None) -> list[Transform]:
    """The random changes, those of fastai as its ``aug_transforms`` builds and orders them.

    Args:
        settings: which, and how strong.
        size: side in pixels to which the geometric resampling also resizes; None keeps the size.
    """
    crops = settings.min_scale != 1
    common = {"size": None if crops else size, "pad_mode": PadMode.Reflection}
    p, steps = settings.p_affine, []
    if settings.flip:
        steps.append((Dihedral if settings.flip_vert else Flip)(p=settings.p_flip, **common))
    if settings.max_warp:
        steps.append(Warp(magnitude=settings.max_warp, p=p, **common))
    if settings.max_rotate:
        steps.append(Rotate(max_deg=settings.max_rotate, p=p, **common))
    if settings.min_zoom < 1 or settings.max_zoom > 1:
        centre = 0.5 if settings.zoom_centred else None
        steps.append(
            Zoom(settings.min_zoom, settings.max_zoom, p, draw_x=centre, draw_y=centre, **common)
        )
    if settings.max_shift:
        steps.append(Shift(settings.max_shift, p, align_corners=True, **common))
    if steps:
        steps.insert(0, Affine(align_corners=True, **common))  # fastai joins the others to it
    if settings.max_lighting:
        steps += [
            light(max_lighting=settings.max_lighting, p=settings.p_lighting)
            for light in (Brightness, Contrast)
        ]
    if crops:
        steps.append(RandomCrop(size, min_scale=settings.min_scale, ratio=(1, 1)))
    if settings.hue or settings.saturation or settings.brightness:
        steps.append(ColourJitter(settings.hue, settings.saturation, settings.brightness))
    if settings.stain:
        steps.append(StainJitter(settings.stain))
    if settings.sharpness:
        steps.append(SharpnessJitter(settings.sharpness))
    if settings.blur:
        steps.append(BlurJitter(settings.blur, settings.p_blur))
    return list(setup_aug_tfms(steps))


class Recompress(RandTransform):
    """Compress a patch once more as JPEG of a quality of 40-90, with probability ``p``."""

    order = -1  # while it is still a PIL image of its own size

    def __init__(self, p: float) -> None:
        super().__init__(p=p)

    def encodes(self, image: PILImage) -> PILImage:
        """The patch after one more compression."""
        return PILImage.create(recompress(np.asarray(image), random_quality()))


class TrainingOnly:
    """What keeps a change of fastai's from validation patches, where fastai resizes with it.

    There ``FitSize`` does so alone, as the model does when it scores: or epochs would be judged,
    and the best one chosen, by what another resampling shows.
    """

    do: bool

    def before_call(self, b: object, split_idx: int | None) -> None:
        """Draw, and say whether to go on."""
        super().before_call(b, split_idx)  # type: ignore[misc]
        self.do = split_idx == TRAINING_ONLY


class Affine(TrainingOnly, AffineCoordTfm):
    """All geometric changes in one resampling."""


class RandomCrop(TrainingOnly, RandomResizedCropGPU):
    """A random part of each patch, resized."""


class Presize(TrainingOnly, Resize):
    """One patch resized before it is augmented."""


class Shift(AffineCoordTfm):
    """Translate each patch by up to ``strength`` of its side."""

    def __init__(self, strength: float, p: float, **kwargs: object) -> None:
        super().__init__(aff_fs=partial(_shift_matrix, strength=strength, p=p), **kwargs)


class ColourJitter(DisplayedTransform):
    """Turn each patch's colours, fade or deepen them, and make them lighter or darker."""

    order, split_idx = 45, TRAINING_ONLY

    def __init__(self, hue: float, saturation: float, brightness: float) -> None:
        super().__init__()
        self.hue, self.saturation, self.brightness = hue, saturation, brightness

    def encodes(self, images: TensorImage) -> TensorImage:
        """RGB in 0-1 units, shape (n, 3, h, w), in and out."""
        change = partial(
            random_colour, hue=self.hue, saturation=self.saturation, brightness=self.brightness
        )
        return _on_plain(change, images)


class BlurJitter(DisplayedTransform):
    """Blur some patches, each by its own width."""

    order, split_idx = 52, TRAINING_ONLY

    def __init__(self, largest: float, p: float) -> None:
        super().__init__()
        self.largest, self.p = largest, p

    def encodes(self, images: TensorImage) -> TensorImage:
        """RGB in 0-1 units, shape (n, 3, h, w), in and out."""
        return _on_plain(partial(random_blur, largest=self.largest, p=self.p), images)


class StainJitter(DisplayedTransform):
    """Scale and shift each patch's stain concentrations in optical density (Tellez et al. 2018)."""

    order, split_idx = 50, TRAINING_ONLY  # after fastai's lighting (40)

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def encodes(self, images: TensorImage) -> TensorImage:
        """RGB in 0-1 units, shape (n, 3, h, w), in and out."""
        return _on_plain(partial(random_stain, strength=self.strength), images)


class SharpnessJitter(DisplayedTransform):
    """Blend each patch with its blurred copy, or away from it, which sharpens."""

    order, split_idx = 51, TRAINING_ONLY

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def encodes(self, images: TensorImage) -> TensorImage:
        """RGB in 0-1 units, shape (n, 3, h, w), in and out."""
        return _on_plain(partial(random_sharpness, strength=self.strength), images)


class CentreCrop(DisplayedTransform):
    """The centre square of every patch, in training and validation."""

    order = 60

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    def encodes(self, images: TensorImage) -> TensorImage:
        """Images of shape (n, c, h, w) in, (n, c, side, side) out."""
        return centre_crop(images, self.side_px)


class FitSize(DisplayedTransform):
    """Resize to the network's input, where no other step has; as the model does when it scores.

    In validation no other step ever has.
    """

    order = 70

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    def encodes(self, images: TensorImage) -> TensorImage:
        """Images of shape (n, c, h, w) in, (n, c, side, side) out."""
        if images.shape[-1] == self.side_px and images.shape[-2] == self.side_px:
            return images
        resize = partial(
            functional.interpolate,
            size=(self.side_px, self.side_px),
            mode="bilinear",
            antialias=True,
        )
        return _on_plain(resize, images)


def random_stain(images: Tensor, strength: float) -> Tensor:
    """Scale and shift each patch's stain concentrations; RGB in 0-1 units, (n, 3, h, w)."""
    basis = functional.normalize(_RGB_FROM_HED, dim=1).to(images)
    factor = 1 + strength * _per_patch(images, 3).flatten(2)  # (n, 3, 1)
    shift = 0.25 * strength * _per_patch(images, 3).flatten(2)
    # From densities to stains, scaled and shifted, and back to densities, in one matrix a patch.
    matrix = (torch.linalg.inv(basis) * factor.transpose(1, 2)) @ basis
    density = torch.log_(torch.add(1 / 256, images, alpha=255 / 256)).neg_().flatten(2)
    density = torch.baddbmm(basis.T @ shift, matrix.transpose(1, 2), density)
    changed = density.neg_().exp_().mul_(256 / 255).sub_(1 / 255).clamp_(0, 1)
    return changed.view_as(images)


def random_colour(images: Tensor, *, hue: float, saturation: float, brightness: float) -> Tensor:
    """Change each patch's colours by one matrix; RGB in 0-1 units, (n, 3, h, w).

    Args:
        images: the patches.
        hue: largest turn about the axis of greys, in degrees; within 2° the same turn of the hue
            of HSV.
        saturation: largest relative change of the distance from grey.
        brightness: largest relative change of everything.
    """
    turn, deepen, lighten = _per_patch(images, 3).flatten(2).unbind(1)  # each of shape (n, 1)
    angle = turn[..., None] * math.radians(hue)
    grey = torch.full((3, 3), 1 / 3).to(images)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(images) / math.sqrt(3)
    turned = torch.cos(angle) * (torch.eye(3).to(images) - grey) + torch.sin(angle) * across
    matrix = grey + (1 + saturation * deepen[..., None]) * turned
    matrix = (1 + brightness * lighten[..., None]) * matrix
    return torch.bmm(matrix, images.flatten(2)).view_as(images).clamp_(0, 1)


def random_blur(images: Tensor, *, largest: float, p: float) -> Tensor:
    """Blur a part of the patches, each with a Gaussian of its own width; (n, 3, h, w).

    Args:
        images: the patches.
        largest: standard deviation, in pixels.
        p: probability of each patch.
    """
    draws = torch.rand(len(images), 2)
    chosen = torch.nonzero(draws[:, 0] < p).flatten()
    if not len(chosen):
        return images
    sigma = (largest * draws[chosen, 1]).clamp_min(0.05).to(images)
    reach = math.ceil(3 * largest)
    place = torch.arange(-reach, reach + 1).to(images)
    weights = functional.softmax(-0.5 * (place / sigma[:, None]) ** 2, dim=1)
    channels = images.shape[1]
    kernel = weights.repeat_interleave(channels, dim=0)[:, None, None]  # a group a channel
    chosen = chosen.to(images.device)
    part = functional.pad(images[chosen], (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    part = functional.conv2d(part, kernel, groups=kernel.shape[0])
    part = functional.conv2d(part, kernel.transpose(2, 3), groups=kernel.shape[0])
    return images.index_copy(0, chosen, part[0].unflatten(0, (-1, channels)))


def random_sharpness(images: Tensor, strength: float) -> Tensor:
    """Blend each patch with its blurred copy, or away from it; (n, 3, h, w)."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device, dtype=images.dtype) / 16
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)
    blurred = functional.conv2d(
        functional.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3
    )
    return torch.lerp(images, blurred, strength * _per_patch(images, 1)).clamp(0, 1)


def recompress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress and decompress (h, w, 3) RGB uint8 pixels as JPEG of the given quality."""
    encoded = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded)
    return decoded


def random_quality() -> int:
    """A JPEG quality of 40-90."""
    return int(torch.randint(40, 91, ()))


def centre_crop(images: Tensor, side_px: int) -> Tensor:
    """The centre ``side_px`` square of (n, c, h, w) images."""
    top, left = ((size - side_px) // 2 for size in images.shape[-2:])
    return images[..., top : top + side_px, left : left + side_px]


def _warp_size(recipe: Recipe, stage: Stage) -> int | None:
    """The size, where one resampling may do for augmenting and enlarging, as in fastai.

    Not where it shrinks: it has no antialiasing, and the model that scores has.
    """
    side = recipe.side_px(stage)
    enlarges = side > (recipe.presize_px or recipe.input_px)
    crops = recipe.augmentation.min_scale != 1
    return side if stage.crop_px is None and (enlarges or crops) else None


def _shift_matrix(images: Tensor, *, strength: float, p: float) -> Tensor:
    draw = (_per_patch(images, 2).flatten(1) * 2 * strength).T  # grid_sample's width is 2
    keep = (torch.rand(len(images)) < p).to(images)
    one, none = torch.ones_like(keep), torch.zeros_like(keep)
    return affine_mat(one, none, draw[0] * keep, none, one, draw[1] * keep)


def _on_plain(change: Callable[[Tensor], Tensor], images: TensorImage) -> TensorImage:
    """Apply to the plain tensor: fastai's subclass costs a dispatch for every operation."""
    return TensorImage(change(images.as_subclass(Tensor)))


def _per_patch(images: Tensor, count: int) -> Tensor:
    """Uniform numbers in -1..1, shape (n, count, 1, 1); from the CPU, for equal runs anywhere."""
    draws = torch.rand(len(images), count, 1, 1) * 2 - 1
    return draws.to(images)
