"""Transforms are those of fastai for the notebooks' calls; the others keep the centre in place."""

import colorsys
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fastai.data.core import Datasets
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.vision.augment import Resize, aug_transforms, dihedral_mat
from fastai.vision.core import PILImage, TensorImage, imagenet_stats
from torch import Tensor

from histoslide.training.recipe import RECIPES, Augmentation, Recipe, Stage
from histoslide.training.transforms import (
    Recompress,
    augmentations,
    batch_transforms,
    centre_crop,
    item_transforms,
    random_blur,
    random_colour,
    random_sharpness,
    random_stain,
    recompress,
)

FASTAI_1 = {
    "rotate": ({"degrees": (-45, 45)}, 0.5),
    "zoom": ({"scale": (1.0, 1.15), "row_pct": (0, 1), "col_pct": (0, 1)}, 0.5),
    "brightness": ({"change": (0.25, 0.75)}, 0.5),
    "contrast": ({"scale": (0.5, 2.0)}, 0.5),
    "dihedral_affine": ({}, 1.0),
}
"""Arguments and probability of every change that ``get_transforms`` of fastai 1.0.61 makes of the
first notebook's call, besides crops that leave square patches whole. fastai 2 applies the same
functions: given the same draws, the pixels of both agree to 1e-5."""


def pcam_transforms() -> list[Any]:
    """The call of the first notebook; fastai 1 always draws a symmetry, fastai 2 every second time.

    Every other argument means in both what ``FASTAI_1`` says.
    """
    transforms = aug_transforms(
        do_flip=True,
        flip_vert=True,
        max_rotate=45,
        max_zoom=1.15,
        max_lighting=0.5,
        max_warp=0.0,
        p_affine=0.5,
        p_lighting=0.5,
        size=224,
    )
    symmetry = transforms[0].aff_fs[0]
    assert (symmetry.func, symmetry.keywords["p"]) == (dihedral_mat, 0.5)
    symmetry.keywords["p"] = FASTAI_1["dihedral_affine"][1]
    return list(transforms)


NOTEBOOKS: dict[str, Callable[[], Sequence[Any]]] = {
    "pcam": pcam_transforms,
    "colorectal": partial(aug_transforms, size=224, min_scale=0.75),
}


def random_images(count: int, side_px: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.rand(count, 3, side_px, side_px, generator=generator)


def apply(transforms: Sequence[Any], images: Tensor, *, split: int = 0, seed: int = 0) -> Tensor:
    """Run transforms as fastai's pipeline does, in their order, from a seed."""
    torch.manual_seed(seed)
    random.seed(seed)
    out = TensorImage(images.clone())
    for transform in sorted(transforms, key=lambda t: t.order):
        out = transform(out, split_idx=split)
    return out.as_subclass(Tensor)


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


# --- the notebooks --------------------------------------------------------------------------------


def described(transform: Any) -> list[Any]:
    """Every parameter of a fastai transform, with those of the functions it is composed of.

    Not its class, as ours are subclasses, which leave validation patches alone; nor its ``p``, as
    these do not use it: what they are composed of draws for itself.
    """
    functions = [*getattr(transform, "aff_fs", []), *getattr(transform, "coord_fs", [])]
    functions += list(getattr(transform, "fs", []))
    return [
        {k: getattr(transform, k, None) for k in ("size", "mode", "pad_mode", "align_corners")},
        {k: getattr(transform, k, None) for k in ("min_scale", "max_scale", "ratio")},
        [
            (f.func.__name__, f.keywords)
            if isinstance(f, partial)
            else (type(f).__name__, {k: v for k, v in vars(f).items() if not callable(v)})
            for f in functions
        ],
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_augmentations_are_those_that_fastai_builds(name: str) -> None:
    ours = augmentations(RECIPES[name].augmentation, 224)
    theirs = NOTEBOOKS[name]()
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        mine, his = described(own), described(other)
        assert mine[:2] == his[:2]
        assert [f[0] for f in mine[2]] == [f[0] for f in his[2]]
        for (_, a), (_, b) in zip(mine[2], his[2], strict=True):
            for key in a.keys() | b.keys():
                assert a.get(key) == b.get(key) or (not a.get(key) and not b.get(key))


def test_the_pcam_recipe_changes_patches_as_fastai_1_did() -> None:
    change = RECIPES["pcam"].augmentation
    lighting = change.max_lighting
    ours = {
        "rotate": ({"degrees": (-change.max_rotate, change.max_rotate)}, change.p_affine),
        "zoom": (
            {"scale": (1.0, change.max_zoom), "row_pct": (0, 1), "col_pct": (0, 1)},
            change.p_affine,
        ),
        "brightness": (
            {"change": (0.5 * (1 - lighting), 0.5 * (1 + lighting))},
            change.p_lighting,
        ),
        "contrast": ({"scale": (1 - lighting, 1 / (1 - lighting))}, change.p_lighting),
        "dihedral_affine": ({}, change.p_flip),
    }
    assert ours == FASTAI_1
    kinds = [change.flip, change.flip_vert, change.zoom_centred, change.min_zoom]
    assert kinds == [True, True, False, 1]
    others = [change.max_warp, change.max_shift, change.stain, change.sharpness, change.jpeg]
    assert others == [0] * 5
    assert change.min_scale == 1


@pytest.mark.parametrize(
    ("name", "neutral", "low", "high"),
    [("_BrightnessLogit", 0, -np.log(3), np.log(3)), ("_ContrastLogit", 1, 0.5, 2)],
)
def test_lighting_is_drawn_from_the_range_of_fastai_1(
    name: str, neutral: float, low: float, high: float
) -> None:
    """``brightness`` adds the logit of 0.25 to 0.75, ``contrast`` multiplies logits by 0.5 to 2."""
    lighting = augmentations(RECIPES["pcam"].augmentation, None)[-1]
    lighting.fs = [change for change in lighting.fs if type(change).__name__ == name]
    assert len(lighting.fs) == 1
    before, after = 0.6, apply([lighting], torch.full((4000, 3, 1, 1), 0.6))[:, 0, 0, 0]
    start, logits = np.log(before / (1 - before)), torch.logit(after)
    drawn = logits / start if neutral else logits - start
    assert float(torch.isclose(drawn, torch.tensor(neutral).float(), atol=1e-4).float().mean()) == (
        pytest.approx(0.5, abs=0.05)
    )
    assert float(drawn.min()) == pytest.approx(low, abs=0.02)
    assert float(drawn.max()) == pytest.approx(high, abs=0.02)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_pixels_of_training_patches_are_those_of_fastai(name: str) -> None:
    side = {"pcam": 96, "colorectal": 460}[name]
    images = (random_images(4, side) * 255).byte()
    recipe = RECIPES[name]
    ours = batch_transforms(recipe, recipe.stages[-1])
    theirs = [IntToFloatTensor(), *NOTEBOOKS[name](), Normalize.from_stats(*imagenet_stats)]
    ours[-1].setup(None), theirs[-1].setup(None)
    mine = apply(ours, images)
    his = apply(theirs, images)
    assert mine.shape == (4, 3, 224, 224)
    torch.testing.assert_close(mine, his, rtol=0, atol=0)


def test_presizing_is_that_of_fastai() -> None:
    pixels = (random_images(1, 150)[0] * 255).byte().permute(1, 2, 0).numpy()
    image = PILImage.create(pixels)
    outs = []
    for transforms in (item_transforms(RECIPES["colorectal"]), [Resize(460), ToTensor()]):
        sets = Datasets([image], tfms=[[lambda o: o]])
        loader = sets.dataloaders(bs=1, after_item=transforms, num_workers=0, drop_last=False)
        outs.append(loader.train.one_batch()[0])
    assert outs[0].shape == (1, 3, 460, 460)
    assert torch.equal(outs[0], outs[1])


# --- our own --------------------------------------------------------------------------------------

SCRATCH = RECIPES["from-scratch"]


@pytest.mark.parametrize("stage", range(3))
def test_the_centre_stays_in_the_centre(stage: int) -> None:
    quiet = Augmentation(**(vars(SCRATCH.augmentation) | {"max_lighting": 0, "stain": 0}))
    recipe = Recipe(**(vars(SCRATCH) | {"augmentation": quiet, "mean": (0, 0, 0)}))
    recipe = Recipe(**(vars(recipe) | {"std": (1, 1, 1)}))
    transforms = batch_transforms(recipe, recipe.stages[stage])
    transforms[-1].setup(None)
    out = apply(transforms, (marked(64, 96) * 255).byte())
    side = recipe.stages[stage].crop_px or 96
    assert out.shape == (64, 3, side, side)
    assert centroids(out).abs().max() < 0.5


def test_the_centroid_would_show_a_shift() -> None:
    assert centroids(marked(1, 96).roll(2, dims=3))[0].tolist() == pytest.approx([2, 0])


@pytest.mark.parametrize(
    "change",
    [
        Augmentation(max_zoom=1.15, p_affine=1),
        Augmentation(max_shift=0.06, p_affine=1),
        Augmentation(max_zoom=1.1, max_shift=0.03, p_affine=1),
        Augmentation(min_zoom=0.85, p_affine=1),
        Augmentation(min_zoom=0.9, max_zoom=1.05, max_shift=0.03, p_affine=1),
    ],
)
def test_the_drift_that_is_allowed_is_the_drift_there_is(change: Augmentation) -> None:
    """The bound that decides what is refused holds, and is not far from what happens."""
    out = apply(augmentations(change, None), marked(400, 96))
    drift = centroids(out).abs().max()
    limit = change.drift_px(96) * change.max_zoom  # in pixels of the magnified patch
    assert 0.7 * limit < drift < limit + 0.6


def test_all_eight_symmetries_are_drawn_and_no_other_image() -> None:
    image = random_images(1, 9)[0]
    turned = [torch.rot90(image, k, dims=(1, 2)) for k in range(4)]
    expected = turned + [candidate.flip(2) for candidate in turned]
    seen = dict.fromkeys(range(8), 0)
    change = Augmentation(flip=True, flip_vert=True, p_flip=1)
    for drawn in apply(augmentations(change, None), image.expand(400, 3, 9, 9)):
        matches = [k for k, c in enumerate(expected) if (drawn - c).abs().max() < 1e-4]
        assert len(matches) == 1
        seen[matches[0]] += 1
    assert min(seen.values()) > 20  # 50 are expected of each


@pytest.mark.parametrize(
    "change",
    [
        Augmentation(flip=True),
        Augmentation(max_rotate=30, p_affine=1),
        Augmentation(max_zoom=1.3, p_affine=1),
        Augmentation(min_zoom=0.7, p_affine=1),
        Augmentation(max_warp=0.3, p_affine=1),
        Augmentation(max_shift=0.2, p_affine=1),
        Augmentation(max_lighting=0.4, p_lighting=1),
        Augmentation(stain=0.3),
        Augmentation(sharpness=0.5),
        Augmentation(hue=15),
        Augmentation(saturation=0.4),
        Augmentation(brightness=0.2),
        Augmentation(blur=1.2, p_blur=1),
    ],
)
def test_each_setting_switches_its_own_change_for_training_only(change: Augmentation) -> None:
    images = random_images(8)
    transforms = augmentations(change, None)
    assert len(transforms) == 1
    first, again, other = (apply(transforms, images, seed=seed) for seed in (5, 5, 6))
    assert (first - images).abs().max() > 0.01
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    same = apply(transforms, images, split=1)
    torch.testing.assert_close(same, images, rtol=0, atol=1e-5)


def test_every_patch_gets_its_own_draw() -> None:
    torch.manual_seed(2)
    same = random_images(1).expand(16, 3, 32, 32)
    for out in (
        random_stain(same, 0.2),
        random_sharpness(same, 0.5),
        random_colour(same, hue=10, saturation=0.2, brightness=0.1),
        random_blur(same, largest=1.5, p=1),
    ):
        assert len({patch.numpy().tobytes() for patch in out}) > 4


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


def test_stain_is_what_the_formula_says_stain_by_stain() -> None:
    """One matrix a patch does what goes to stains, scales and shifts them, and comes back."""
    images, strength = random_images(4), 0.3
    torch.manual_seed(9)
    out = random_stain(images, strength)
    torch.manual_seed(9)
    factor, shift = (torch.rand(4, 3, 1, 1) * 2 - 1 for _ in range(2))
    basis = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    basis = torch.nn.functional.normalize(basis, dim=1)
    density = -torch.log((images * 255 + 1) / 256)
    stains = torch.einsum("nchw,cs->nshw", density, torch.linalg.inv(basis))
    stains = stains * (1 + strength * factor) + 0.25 * strength * shift
    density = torch.einsum("nshw,sc->nchw", stains, basis)
    expected = ((torch.exp(-density) * 256 - 1) / 255).clamp(0, 1)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def hsv(images: Tensor) -> list[tuple[float, float, float]]:
    return [colorsys.rgb_to_hsv(*patch[:, 0, 0].tolist()) for patch in images]


def test_hue_turns_as_that_of_hsv_does() -> None:
    """Pink and purple turn by at most what is asked for, and by all of it, to 2 degrees."""
    for colour in ((0.75, 0.5, 0.68), (0.45, 0.35, 0.62)):
        torch.manual_seed(3)
        flat = torch.tensor(colour).view(1, 3, 1, 1).expand(400, 3, 2, 2)
        before = colorsys.rgb_to_hsv(*colour)[0]
        turns = np.array([h - before for h, _, _ in hsv(random_colour(
            flat, hue=15, saturation=0, brightness=0
        ))]) * 360  # fmt: skip
        assert turns.max() == pytest.approx(15, abs=2)
        assert turns.min() == pytest.approx(-15, abs=2)


def test_brightness_scales_and_saturation_leaves_grey() -> None:
    torch.manual_seed(3)
    grey = torch.full((400, 3, 2, 2), 0.5)
    still = random_colour(grey, hue=40, saturation=0.5, brightness=0)
    torch.testing.assert_close(still, grey)
    values = random_colour(grey, hue=0, saturation=0, brightness=0.2)[:, 0, 0, 0]
    assert float(values.min()) == pytest.approx(0.4, abs=0.01)
    assert float(values.max()) == pytest.approx(0.6, abs=0.01)
    flat = torch.tensor([0.8, 0.5, 0.7]).view(1, 3, 1, 1).expand(400, 3, 2, 2)
    faded = random_colour(flat, hue=0, saturation=0.3, brightness=0)
    torch.testing.assert_close(faded.mean(dim=1), flat.mean(dim=1))
    spread = (faded.amax(dim=1) - faded.amin(dim=1)).flatten() / 0.3
    assert float(spread.min()) == pytest.approx(0.7, abs=0.01)
    assert float(spread.max()) == pytest.approx(1.3, abs=0.01)


def test_blur_is_gaussian_and_leaves_the_rest_alone() -> None:
    """Of a patch with one white pixel, the variance is that of the width that was drawn."""
    torch.manual_seed(6)
    points = torch.zeros(600, 3, 21, 21)
    points[:, :, 10, 10] = 1
    out = random_blur(points, largest=1.5, p=0.25)
    blurred = [i for i in range(600) if not torch.equal(out[i], points[i])]
    assert len(blurred) == pytest.approx(150, abs=40)
    assert torch.allclose(out.sum(dim=(2, 3)), torch.ones(600, 3), atol=1e-5)
    place = (torch.arange(21) - 10).float()
    sigmas = torch.sqrt((out[:, 0].sum(dim=1) * place**2).sum(dim=1))
    assert sigmas.max() == pytest.approx(1.5, abs=0.1)
    one = int(sigmas.argmax())
    profile = torch.exp(-0.5 * (place / sigmas[one]) ** 2)
    expected = torch.outer(profile, profile) / profile.sum() ** 2
    torch.testing.assert_close(out[one, 1], expected, rtol=0, atol=2e-3)


def test_the_robust_recipe_keeps_the_label_in_the_centre() -> None:
    change = RECIPES["pcam-robust"].augmentation
    out = apply(augmentations(change, None), marked(64, 96))
    assert centroids(out).abs().max() < 1.0
    scale = out.mean(dim=(1, 2, 3)).sqrt()
    assert scale.max() / scale.min() > 1.3  # and it does change the size


def test_the_output_stays_between_0_and_1() -> None:
    images = torch.cat([random_images(8), torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)])
    full = Augmentation(
        flip=True, flip_vert=True, max_rotate=180, max_zoom=2, max_lighting=0.9, p_lighting=1,
        stain=1, sharpness=1, hue=180, saturation=1, brightness=1, blur=5, p_blur=1,
    )  # fmt: skip
    out = apply(augmentations(full, None), images)
    assert torch.isfinite(out).all()
    assert out.min() >= -1e-6
    assert out.max() <= 1 + 1e-6


def test_sharpness_keeps_a_flat_patch() -> None:
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


def test_training_patches_alone_are_recompressed() -> None:
    pixels = (random_images(1, 32)[0] * 255).byte().permute(1, 2, 0).numpy()
    image = PILImage.create(pixels)
    changed = np.asarray(Recompress(1.0)(image, split_idx=0))
    assert np.abs(changed.astype(int) - pixels).mean() > 1
    assert np.array_equal(np.asarray(Recompress(1.0)(image, split_idx=1)), pixels)


@pytest.mark.parametrize(("side", "crop"), [(96, 48), (96, 96), (96, 33), (7, 4)])
def test_the_crop_is_from_the_centre(side: int, crop: int) -> None:
    ramp = torch.arange(side).float()
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])[None]
    cropped = centre_crop(images, crop)
    assert cropped.shape == (1, 2, crop, crop)
    middle = cropped.mean(dim=(0, 2, 3))
    assert (middle - (side - 1) / 2).abs().max() <= 0.5


@pytest.mark.parametrize(
    ("crop", "network", "expected"), [(48, 64, 64), (None, 64, 64), (48, None, 48)]
)
def test_a_stage_may_crop_and_resize(crop: int | None, network: int | None, expected: int) -> None:
    stages = (Stage(epochs=1, crop_px=crop, network_px=network), Stage(epochs=1))
    recipe = Recipe(name="x", stages=stages)
    transforms = batch_transforms(recipe, stages[0])
    transforms[-1].setup(None)
    images = (random_images(2, 96) * 255).byte()
    assert apply(transforms, images).shape == (2, 3, expected, expected)
