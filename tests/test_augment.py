"""Random changes keep the centre in the centre, draw every case, and can be switched off."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from histoslide.training.augment import (
    augment,
    random_lighting,
    random_sharpness,
    random_stain,
    random_symmetry,
    random_zoom,
    recompress,
)
from histoslide.training.recipe import Augmentation

STRONG = Augmentation(zoom=0.3, stain=0.5, lighting=0.4, sharpness=0.8)


def random_images(count: int, side_px: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.rand(count, 3, side_px, side_px, generator=generator)


def marked(count: int, side_px: int) -> Tensor:
    """Black patches with a white box of 32 px in the centre."""
    images = torch.zeros(count, 3, side_px, side_px)
    edge = (side_px - 32) // 2
    images[:, :, edge : side_px - edge, edge : side_px - edge] = 1
    return images


def centroids(images: Tensor) -> Tensor:
    """(n, 2) distance of the centroid of each patch from its centre, in pixels: x, y."""
    weight = images.mean(dim=1).double()
    place = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    total = weight.sum(dim=(1, 2))
    x = (weight.sum(dim=1) * place).sum(dim=1) / total
    y = (weight.sum(dim=2) * place).sum(dim=1) / total
    return torch.stack([x, y], dim=1)


def dihedral(image: Tensor) -> list[Tensor]:
    """The eight images of a patch under the symmetries of the square, by a slower way."""
    turned = [torch.rot90(image, k, dims=(1, 2)) for k in range(4)]
    return turned + [image.flip(2) for image in turned]


@pytest.mark.parametrize("side_px", [96, 64])
@pytest.mark.parametrize("change", ["symmetry", "zoom", "all"])
def test_the_centre_stays_in_the_centre(change: str, side_px: int) -> None:
    torch.manual_seed(0)
    images = marked(64, side_px)
    if change == "symmetry":
        out = random_symmetry(images)
    elif change == "zoom":
        out = random_zoom(images, 0.3)
    else:
        out = augment(images, Augmentation(zoom=0.3, sharpness=0.5))
    assert out.shape == images.shape
    assert centroids(out).abs().max() < 0.5


def test_the_centroid_would_show_a_shift() -> None:
    assert centroids(marked(1, 96).roll(2, dims=3))[0].tolist() == pytest.approx([2, 0])


@pytest.mark.parametrize("side_px", [6, 7])
def test_symmetry_draws_the_eight_images_and_no_other(side_px: int) -> None:
    torch.manual_seed(1)
    image = random_images(1, side_px)[0]
    expected = dihedral(image)
    seen = dict.fromkeys(range(8), 0)
    for drawn in random_symmetry(image.expand(400, 3, side_px, side_px)):
        matches = [k for k, candidate in enumerate(expected) if torch.equal(drawn, candidate)]
        assert len(matches) == 1
        seen[matches[0]] += 1
    assert min(seen.values()) > 20  # 50 are expected of each


def test_every_patch_gets_its_own_draw() -> None:
    torch.manual_seed(2)
    same = random_images(1).expand(16, 3, 32, 32)
    for out in (
        random_symmetry(same),
        random_zoom(same, 0.2),
        random_stain(same, 0.2),
        random_lighting(same, 0.2),
        random_sharpness(same, 0.5),
    ):
        assert len({patch.numpy().tobytes() for patch in out}) > 4


def test_zoom_stays_within_its_strength() -> None:
    torch.manual_seed(3)
    out = random_zoom(marked(200, 96), 0.25)
    sides = out[:, 0].sum(dim=(1, 2)).sqrt() / 32
    assert sides.max() < 1.25 * 1.02
    assert sides.min() > 1 / 1.25 / 1.02
    assert sides.max() > 1.2
    assert sides.min() < 0.84


def test_no_strength_is_no_change() -> None:
    images = random_images(6)
    off = Augmentation(symmetries=False)
    assert torch.equal(augment(images, off), images)
    torch.testing.assert_close(random_zoom(images, 0), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(random_lighting(images, 0), images, rtol=0, atol=1e-6)
    torch.testing.assert_close(random_sharpness(images, 0), images, rtol=0, atol=1e-6)


def test_stain_of_no_strength_reproduces_every_colour() -> None:
    levels = torch.tensor([0, 1, 2, 40, 128, 200, 254, 255]) / 255
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 16, 32)
    assert (random_stain(colours, 0) - colours).abs().max() < 1 / 255


def test_stain_changes_colour_but_not_place() -> None:
    torch.manual_seed(4)
    flat = torch.tensor([0.7, 0.45, 0.65]).view(1, 3, 1, 1).expand(8, 3, 16, 16)
    out = random_stain(flat, 0.3)
    assert (out - flat).abs().max() > 0.02
    assert out.std(dim=(2, 3)).max() < 1e-5


def test_the_output_stays_between_0_and_1() -> None:
    torch.manual_seed(0)
    images = torch.cat([random_images(8), torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)])
    full = Augmentation(zoom=1, stain=1, lighting=1, sharpness=1)
    for settings in (STRONG, full):
        out = augment(images, settings)
        assert out.shape == images.shape
        assert torch.isfinite(out).all()
        assert out.min() >= 0
        assert out.max() <= 1


def test_a_seed_repeats_the_draws() -> None:
    images = random_images(8)
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(augment(images, STRONG))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("field", ["zoom", "stain", "lighting", "sharpness", "symmetries"])
def test_each_setting_switches_its_own_change(field: str) -> None:
    torch.manual_seed(7)
    images = random_images(8)
    off = Augmentation(symmetries=False)
    changes: dict[str, Any] = {field: True if field == "symmetries" else 0.3}
    settings = dataclasses.replace(off, **changes)
    assert (augment(images, settings) - images).abs().max() > 0.01


def test_the_input_is_left_as_it_was() -> None:
    images = random_images(8)
    before = images.clone()
    augment(images, STRONG)
    assert torch.equal(images, before)


def test_sharpness_keeps_a_flat_patch_and_the_mean() -> None:
    torch.manual_seed(8)
    flat = torch.full((4, 3, 16, 16), 0.4)
    torch.testing.assert_close(random_sharpness(flat, 1), flat)


def test_recompression_keeps_size_and_nearly_the_pixels() -> None:
    ramp = np.linspace(60, 200, 64).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (48, 1))] * 3, axis=2)
    rough, fine = recompress(pixels, 10), recompress(pixels, 90)
    assert rough.shape == fine.shape == (48, 64, 3)
    assert rough.dtype == np.uint8
    error = [np.abs(out.astype(int) - pixels).mean() for out in (rough, fine)]
    assert error[1] < error[0]
    assert error[1] < 2
