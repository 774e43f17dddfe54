"""Patches of every sample type become the picture that a person sees, or are refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from histoslide.datasets.images import read_image
from histoslide.errors import DataError
from histoslide.geometry import Region
from histoslide.slide import open_slide

PINK = (205, 130, 185)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_transparent_is_white(tmp_path: Path, ending: str) -> None:
    pixels = np.zeros((8, 12, 4), dtype=np.uint8)  # transparent black
    pixels[:, :4] = (*PINK, 255)
    pixels[:, 4:8] = (0, 0, 0, 51)
    path = tmp_path / f"patch.{ending}"
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(pixels).save(path, **options)
    found = read_image(path)
    assert found.shape == (8, 12, 3)
    assert (found[:, :4] == PINK).all()
    assert (found[:, 4:8] == 204).all(), "a fifth of black over white"
    assert (found[:, 8:] == 255).all()


def test_transparent_grey_and_palettes_are_white(tmp_path: Path) -> None:
    grey = np.zeros((4, 6, 2), dtype=np.uint8)
    grey[:, :3] = (90, 255)
    Image.fromarray(grey, "LA").save(tmp_path / "grey.png")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([90, 90, 90, 0, 0, 0])
    palette.paste(0, (0, 0, 3, 4))
    palette.save(tmp_path / "palette.png", transparency=1)
    for name in ("grey.png", "palette.png"):
        found = read_image(tmp_path / name)
        assert (found[:, :3] == 90).all()
        assert (found[:, 3:] == 255).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_its_full_range(tmp_path: Path, ending: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    path = tmp_path / f"patch.{ending}"
    Image.fromarray(ramp).save(path)
    found = read_image(path)
    np.testing.assert_array_equal(found[..., 0], np.arange(256).reshape(16, 16))
    assert (found == found[..., :1]).all()


def test_16_bit_grey_is_scaled_by_what_the_file_calls_white(tmp_path: Path) -> None:
    path = tmp_path / "patch.tif"
    ramp = np.array([[0, 2048, 4095]], dtype=np.uint16)
    tifffile.imwrite(path, ramp, extratags=[(281, "H", 1, 4095, True)], metadata=None)
    assert read_image(path)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("dtype", "words"), [("f4", "floating point"), ("i4", "32-bit")])
def test_samples_without_a_range_are_refused(tmp_path: Path, dtype: str, words: str) -> None:
    path = tmp_path / "patch.tif"
    tifffile.imwrite(path, np.full((8, 8), 1, dtype=dtype), metadata=None)
    with pytest.raises(DataError, match=rf"^\S*patch\.tif holds {words} samples"):
        read_image(path)


def test_a_fourth_channel_that_means_nothing_hides_nothing(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[..., :3] = PINK
    path = tmp_path / "patch.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"], metadata=None)
    assert (read_image(path) == PINK).all()


def test_a_fourth_channel_that_means_nothing_is_left_out_as_in_slides(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), (200, 120, 180), dtype=np.uint8)
    path = tmp_path / "a.tif"
    four = np.dstack([pixels, np.zeros((64, 64), np.uint8)])
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=["unspecified"], tile=(64, 64))
    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(open_slide(path).read(Region(0, 0, 0, 64, 64)), pixels)
