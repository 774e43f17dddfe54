"""The slide maker: what it writes is what OpenSlide and its own decoder read back."""

from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from histoslide.errors import OutputExistsError
from histoslide.synthetic import (
    decode_fiducial,
    fiducial_slide,
    mosaic_slide,
    scene,
    scene_slide,
    write_slide,
)


def random_pixels(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def read_level(path: Path, level: int) -> NDArray[np.uint8]:
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((0, 0), level, slide.level_dimensions[level])
        return np.asarray(region.convert("RGB"), np.uint8)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
@pytest.mark.parametrize("mpp", [0.25, 0.243094, 0.972, 1 / 3, 8.0])
def test_openslide_reads_levels_and_resolution(
    tmp_path: Path, compression: str, mpp: float
) -> None:
    path = write_slide(
        tmp_path / "slide.tif",
        random_pixels(600, 390),
        mpp=mpp,
        downsamples=(1.95, 3.9),
        compression=compression,
    )
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((600, 390), (307, 200), (153, 100))
        assert slide.level_downsamples == pytest.approx((1, 1.95, 3.9), rel=0.005)
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(mpp, rel=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == ["slide.tif"]


def test_lossless_level0_keeps_every_pixel(tmp_path: Path) -> None:
    pixels = random_pixels(300, 270)
    path = write_slide(tmp_path / "a.tif", pixels, mpp=0.5, downsamples=(), compression="deflate")
    np.testing.assert_array_equal(read_level(path, 0), pixels)


def slow_area_mean(pixels: NDArray[np.uint8], i: int, j: int, step: float) -> NDArray[np.float64]:
    """Mean of the box of coarse pixel (column i, row j), one level-0 pixel after another."""

    def shares(index: int, size: int) -> NDArray[np.float64]:
        at = np.arange(size)
        overlap = np.minimum(at + 1, (index + 1) * step) - np.maximum(at, index * step)
        return np.asarray(np.clip(overlap, 0, None) / step, np.float64)

    height, width = pixels.shape[:2]
    mean = np.einsum("y,x,yxc->c", shares(j, height), shares(i, width), pixels)
    return np.asarray(mean, np.float64)


@pytest.mark.parametrize("step", [1.95, 2.0, 3.9, 7.0])
def test_coarse_pixels_are_exact_area_means(tmp_path: Path, step: float) -> None:
    pixels = random_pixels(70, 53)
    path = write_slide(
        tmp_path / "a.tif", pixels, mpp=1.0, downsamples=(step,), compression="deflate"
    )
    level = read_level(path, 1)
    assert level.shape == (int(53 // step), int(70 // step), 3)
    for j, i in np.ndindex(*level.shape[:2]):
        assert np.abs(level[j, i] - slow_area_mean(pixels, i, j, step)).max() <= 0.5 + 1e-6


def test_bands_join_without_seam(tmp_path: Path) -> None:
    pixels = random_pixels(64, 2300)
    path = write_slide(
        tmp_path / "a.tif", pixels, mpp=1.0, downsamples=(1.95,), compression="deflate"
    )
    level = read_level(path, 1)
    for j in (524, 525, 526, 1049, 1050, 1051, len(level) - 1):
        assert np.abs(level[j, 3] - slow_area_mean(pixels, 3, j, 1.95)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": 1.0, "compression": "lzw"}, "lzw"),
        ({"mpp": 1.0, "downsamples": (4.0, 2.0)}, "ascend"),
        ({"mpp": 1.0, "downsamples": (64.0,)}, "64"),
    ],
)
def test_unusable_arguments_are_named(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        write_slide(tmp_path / "a.tif", random_pixels(40, 40), **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_refuses_to_overwrite_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match=r"slide\.tif"):
        write_slide(path, random_pixels(32, 32), mpp=1.0)
    assert path.read_bytes() == b"precious"
    write_slide(path, random_pixels(32, 32), mpp=1.0, overwrite=True)
    assert path.read_bytes() != b"precious"


def test_others_may_read_a_slide_as_they_may_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(b"")
    path = write_slide(tmp_path / "slide.tif", random_pixels(32, 32), mpp=1.0)
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("level", [0, 1, 2])
def test_fiducial_boxes_decode_to_their_centre(tmp_path: Path, level: int) -> None:
    downsamples = (1.0, 1.95, 3.9)
    path = fiducial_slide(
        tmp_path / "f.tif", width=600, height=430, mpp=0.5, downsamples=downsamples[1:]
    )
    pixels = read_level(path, level)
    assert (pixels[..., 2] == 128).all()
    rng = np.random.default_rng(level)
    for _ in range(200):
        width, height = rng.integers(8, 48, 2)
        left = rng.integers(0, pixels.shape[1] - width)
        top = rng.integers(0, pixels.shape[0] - height)
        mean = pixels[top : top + height, left : left + width].mean(axis=(0, 1))
        x_l0, y_l0 = decode_fiducial(mean, width=600, height=430)
        assert abs(x_l0 - (left + width / 2) * downsamples[level]) < 1
        assert abs(y_l0 - (top + height / 2) * downsamples[level]) < 1


def test_fiducial_dither_cancels_in_32_pixel_boxes(tmp_path: Path) -> None:
    pixels = read_level(fiducial_slide(tmp_path / "f.tif", width=600, height=600, mpp=0.5), 0)
    boxes = pixels[:576, :576].reshape(18, 32, 18, 32, 3).mean(axis=(1, 3))
    x_l0, y_l0 = decode_fiducial(boxes, width=600, height=600)
    centres = np.arange(18) * 32 + 16
    assert np.abs(x_l0 - centres[None, :]).max() < 0.06  # 0.02 grey levels
    assert np.abs(y_l0 - centres[:, None]).max() < 0.06


def test_mosaic_keeps_patches_in_reading_order(tmp_path: Path) -> None:
    patches = np.random.default_rng(1).integers(0, 256, (5, 20, 30, 3), np.uint8)
    pixels = read_level(mosaic_slide(tmp_path / "m.tif", patches, columns=3), 0)
    assert pixels.shape == (40, 90, 3)
    for index, patch in enumerate(patches):
        top, left = index // 3 * 20, index % 3 * 30
        np.testing.assert_array_equal(pixels[top : top + 20, left : left + 30], patch)
    assert (pixels[20:, 60:] == 255).all()


def test_scene_follows_from_its_seed() -> None:
    first, again, other = (scene(300, 260, mpp=1.0, seed=seed) for seed in (4, 4, 5))
    assert first.pixels.shape == (260, 300, 3)
    assert first.tumour.shape == (260, 300)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.tumour, again.tumour)
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("seed", range(4))
def test_scene_shows_glass_node_and_tumour(seed: int) -> None:
    drawn = scene(500, 500, mpp=0.972, seed=seed)
    grey = drawn.pixels.mean(axis=2)
    corner = drawn.pixels[:10, :10]
    assert 235 < corner.mean() < 250
    assert 0.01 < drawn.tumour.mean() < 0.4
    tissue = grey < 200
    assert 0.15 < tissue.mean() < 0.9
    assert grey[drawn.tumour].mean() < 190
    # Lymphocytes are small and near black, nuclei of carcinoma larger and paler.
    assert (grey[drawn.tumour] < 75).mean() < 0.5 * (grey[tissue & ~drawn.tumour] < 75).mean()
    # Haematoxylin and eosin both pass more red than green.
    assert (drawn.pixels[tissue][:, 0] > drawn.pixels[tissue][:, 1]).mean() > 0.95


def test_scene_slide_holds_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    drawn = scene_slide(path, width=400, height=320, mpp=0.972, seed=2)
    pixels = read_level(path, 0)
    assert np.abs(pixels.astype(float) - drawn.pixels).mean() < 6
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((400, 320), (100, 80))


@pytest.mark.parametrize("size", [(63, 100), (100, 0)])
def test_scene_needs_room(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=str(size[0])):
        scene(*size, mpp=1.0, seed=0)
