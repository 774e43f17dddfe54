"""What nuclei say of a slide's resolution."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSlide
from numpy.typing import NDArray
from PIL import Image

from histoslide.geometry import Box, Mpp
from histoslide.tissue.ruler import ERROR_FACTOR, read_ruler

EVERYWHERE = np.ones((1, 1), np.bool_)
SPACING_UM = 6.6


def nodules(mpp: float, *, side: int = 1024, seed: int = 0) -> NDArray[np.uint8]:
    """Dark discs on pink, a nucleus' distance apart but in no straight lines."""
    rng = np.random.default_rng(seed)
    period = SPACING_UM / mpp
    count = int(side / period) + 2
    rows, cols = np.mgrid[:count, :count].astype(float)
    places = np.stack([rows + (cols % 2) / 2, cols], axis=-1).reshape(-1, 2) * period
    places += rng.normal(scale=0.12 * period, size=places.shape)
    grey = np.full((side, side), 200.0)
    y, x = np.ogrid[:side, :side]
    reach = int(period) + 1
    for row, col in places:
        top, left = max(0, int(row) - reach), max(0, int(col) - reach)
        part = np.s_[top : int(row) + reach, left : int(col) + reach]
        inside = (y[part[0]] - row) ** 2 + (x[:, part[1]] - col) ** 2 < (0.4 * period) ** 2
        grey[part][inside] = 100
    grey += rng.normal(scale=4, size=grey.shape)
    return np.stack([grey, grey * 0.7, grey * 0.9], axis=-1).clip(0, 255).astype(np.uint8)


def clouds(side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Structures of all sizes, as nature has them: the amplitude falls with the frequency."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    waves = np.fft.fft2(rng.normal(size=(side, side))) / np.maximum(frequency, 1 / side)
    grey = np.fft.ifft2(waves).real
    grey = 150 + 30 * (grey - grey.mean()) / grey.std()
    return np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)


def compressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What JPEG leaves of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.5, 0.75, 1.0])
def test_the_distance_of_nuclei_tells_the_resolution(mpp: float) -> None:
    reading = read_ruler(FakeSlide([nodules(mpp)]), EVERYWHERE)
    assert reading is not None
    assert reading.mpp == pytest.approx(mpp, rel=0.15)


def test_only_what_lies_beyond_its_own_error_is_doubted() -> None:
    reading = read_ruler(FakeSlide([nodules(0.5)]), EVERYWHERE)
    assert reading is not None
    for factor in (1 / ERROR_FACTOR + 0.01, 1.0, ERROR_FACTOR - 0.01):
        assert reading.doubts(Mpp(value=reading.mpp * factor, source="--mpp")) is None
    for factor in (1 / ERROR_FACTOR - 0.01, ERROR_FACTOR + 0.01):
        said = Mpp(value=reading.mpp * factor, source="--mpp")
        assert f"{said.value:.3g} µm/px (--mpp)" in str(reading.doubts(said))


def test_it_is_the_same_each_time() -> None:
    slide = FakeSlide([nodules(0.4)])
    assert read_ruler(slide, EVERYWHERE) == read_ruler(slide, EVERYWHERE)


@pytest.mark.parametrize("kind", ["flat", "noise", "blocks", "ramp", "dark"])
def test_nothing_is_said_where_nothing_repeats(kind: str) -> None:
    rng = np.random.default_rng(1)
    side = 1024
    pixels = {
        "flat": np.full((side, side, 3), 180),
        "noise": rng.integers(90, 220, (side, side, 3)),
        "blocks": compressed(clouds(side, rng), quality=10),
        "ramp": np.linspace(90, 220, side)[None, :, None] * np.ones((side, 1, 3)),
        "dark": nodules(0.5) // 6,
    }[kind].astype(np.uint8)
    assert read_ruler(FakeSlide([pixels]), EVERYWHERE) is None


def test_windows_lie_on_tissue() -> None:
    pixels = np.full((2048, 2048, 3), 255, np.uint8)
    pixels[1024:, 1024:] = nodules(0.5)
    mask = np.zeros((64, 64), np.bool_)
    slide = FakeSlide([pixels])
    assert read_ruler(slide, mask) is None, "no tissue"
    mask[40:, 40:] = True
    reading = read_ruler(slide, mask)
    assert reading is not None
    assert reading.mpp == pytest.approx(0.5, rel=0.15)


def test_a_slide_that_is_too_small_says_nothing() -> None:
    assert read_ruler(FakeSlide([nodules(0.5)[:100, :100]]), EVERYWHERE) is None


def test_a_slide_that_cannot_be_read_says_nothing() -> None:
    slide = FakeSlide([nodules(0.5)], rotten=Box(0, 0, 2000, 2000))
    assert read_ruler(slide, EVERYWHERE) is None
    assert len(slide.reads) == 1, "what is rotten is not tried again and again"


REAL = {
    "node-metastasis.tiff": 0.5,
    "node-occult-metastasis.tiff": 0.3,
    "node-negative-sinus.tiff": 0.6,
    "node-negative-follicles.tiff": 0.6,
    "node-hodgkin.tiff": 0.6,
}
"""Slides of nodes without a recorded resolution, and what the size of their cells says."""


@pytest.mark.parametrize("name", REAL)
def test_real_nodes(real_data: Path, name: str) -> None:
    from histoslide.slide import open_slide
    from histoslide.tissue.masks import METHODS, find_tissue

    said = Mpp(value=REAL[name], source="--mpp")
    with open_slide(real_data / "slides" / name, mpp=said) as slide:
        reading = read_ruler(slide, find_tissue(slide, METHODS["otsu"]).mask)
    assert reading is not None
    assert reading.doubts(said) is None
    for wrong in (said.value * 2.6, said.value / 2.6):
        assert reading.doubts(Mpp(value=wrong, source="--mpp"))
