"""The glass's own colour: found, and taken out where it passes for tissue or hides faint stain."""

import numpy as np
import pytest
from fakes import FakeSlide
from numpy.typing import NDArray

from histoslide.geometry import Mpp
from histoslide.tissue.glass import GREY, find_glass
from histoslide.tissue.masks import METHODS, TissueMask, find_tissue


def picture(contrast: float = 1.0) -> NDArray[np.float64]:
    """H&E-like, with a camera's noise; tissue in the middle."""
    rng = np.random.default_rng(0)
    pixels = np.full((160, 200, 3), GREY)
    part = np.s_[40:120, 50:130]
    nuclei = (rng.random((80, 80)) < 0.4)[..., None]
    stain = np.where(nuclei, (120, 80, 150), (205, 130, 185))
    pixels[part] = GREY + (stain - GREY) * contrast
    noisy: NDArray[np.float64] = pixels + rng.normal(0, 0.8, (160, 200, 1))
    return noisy


def find(pixels: NDArray[np.float64], method: str = "otsu") -> TissueMask:
    rgb = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return find_tissue(FakeSlide([rgb], mpp=Mpp(value=8.0, source="test")), METHODS[method])


def share_found(found: TissueMask) -> tuple[float, float]:
    """Of the tissue, and of the glass away from it."""
    glass = np.ones_like(found.mask)
    glass[30:130, 40:140] = False
    return float(found.mask[44:116, 54:126].mean()), float(found.mask[glass].mean())


def test_glass_is_found_with_its_colour() -> None:
    tinted = picture() * (1, 0.95, 0.8)
    glass = find_glass(np.rint(tinted).astype(np.uint8))
    assert glass is not None
    np.testing.assert_allclose(glass.colour, GREY * np.array([1, 0.95, 0.8]), atol=1)
    assert glass.tint == pytest.approx(0.2, abs=0.01)
    assert not glass.where[42:118, 52:128].any()
    assert glass.where[:30].mean() > 0.9
    assert find_glass(np.full((50, 50, 3), 90, dtype=np.uint8)) is None, "too dark"


@pytest.mark.parametrize("tint", [(1, 0.97, 0.83), (1, 0.93, 0.72), (0.85, 1, 0.85)])
@pytest.mark.parametrize("method", ["otsu", "hed"])
def test_tinted_glass_is_no_tissue(tint: tuple[float, float, float], method: str) -> None:
    found = find(picture() * tint, method)
    tissue, glass = share_found(found)
    assert tissue > 0.99
    assert glass == 0
    if method == "otsu":  # stain density does not mind a tint as weak as these
        assert any("the glass is tinted" in warning for warning in found.warnings)
    assert not any("H&E:" in warning for warning in found.warnings)


def test_dark_glass_is_no_tissue_for_stain_density() -> None:
    found = find(picture() * 0.8, "hed")
    assert share_found(found) == (1.0, 0.0)
    assert found.warnings == ()


@pytest.mark.parametrize("contrast", [0.1, 0.15, 0.2, 0.3])
@pytest.mark.parametrize("method", ["otsu", "hed"])
def test_faded_tissue_is_found_and_named(contrast: float, method: str) -> None:
    found = find(picture(contrast), method)
    tissue, glass = share_found(found)
    assert tissue > 0.97
    assert glass < 0.001
    assert len(found.warnings) == 1
    assert "the stain is faint" in found.warnings[0]


def test_pink_without_texture_is_not_taken_for_glass() -> None:
    """A slide that is all tissue, of which none is grey."""
    rng = np.random.default_rng(3)
    pixels = np.array([235, 205, 222]) + rng.normal(0, 0.8, (160, 200, 1))
    assert find(pixels).mask.mean() > 0.95
