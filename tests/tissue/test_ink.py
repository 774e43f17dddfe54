"""Marker ink of any colour is no tissue, and textured tissue is no ink."""

from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSlide
from numpy.typing import NDArray

from histoslide.geometry import Mpp
from histoslide.slide import open_slide
from histoslide.tissue.masks import INK_SHARE, METHODS, TissueMask, find_tissue

SIDE = 1024
"""Of the slide in µm, which are its pixels; 128 pixels of its overview."""

INKS = {
    "royal blue": (30, 60, 160),
    "red": (190, 30, 40),
    "purple": (120, 30, 130),
    "translucent purple": (186, 136, 187),
    "pink": (235, 90, 150),
    "orange": (240, 130, 40),
}
TISSUE = np.s_[:, 600:]


def slide_of(density: NDArray[np.float64]) -> FakeSlide:
    """A slide in the light that densities let through, with a camera's noise."""
    noise = np.random.default_rng(2).normal(0, 1.5, (*density.shape[:2], 1))
    rgb = (243 * np.exp(-density) + noise).clip(0, 255).astype(np.uint8)
    return FakeSlide([rgb], mpp=Mpp(value=1.0, source="test"))


def tissue() -> NDArray[np.float64]:
    """Nuclei of 6 µm in a pink ground, right of 600 µm."""
    rng = np.random.default_rng(1)
    nuclei = np.kron(rng.random((SIDE // 4, SIDE // 4)) < 0.3, np.ones((4, 4)))[..., None]
    density = np.zeros((SIDE, SIDE, 3))
    ground = np.array([0.15, 0.5, 0.25]) + nuclei * np.array([0.9, 0.9, 0.35])
    density[TISSUE] = ground[TISSUE]
    return density


def stroke(left: float, right: float, slope: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return (x > left + slope * y) & (x < right + slope * y) & (y > 80) & (y < SIDE - 80)


def add(density: NDArray[np.float64], where: NDArray[np.bool_], colour: str) -> None:
    density[where] -= np.log(np.array(INKS[colour]) / 243)


def overview(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the overview that lie wholly there."""
    return np.asarray(where.reshape(128, 8, 128, 8).all(axis=(1, 3)), dtype=np.bool_)


def find(slide: FakeSlide, method: str = "otsu") -> TissueMask:
    return find_tissue(slide, METHODS[method])


@pytest.mark.parametrize("width", [40, 150])
@pytest.mark.parametrize("colour", INKS)
@pytest.mark.parametrize("method", ["otsu", "hed"])
def test_pens_on_glass_are_no_tissue(colour: str, width: int, method: str) -> None:
    density = tissue()
    pen = stroke(150, 150 + width, 0.2)
    add(density, pen, colour)
    found = find(slide_of(density), method)
    left = found.mask[:, : 560 // 8]
    assert not left.any(), f"{left.sum()} pixels about the pen are tissue"
    assert found.mask[8:-8, 640 // 8 : -8].all(), "nothing of the tissue is lost"
    assert any("marker ink" in warning for warning in found.warnings)
    assert found.settings[INK_SHARE] > 0.005


@pytest.mark.parametrize("colour", ["royal blue", "red", "purple"])
def test_a_dense_pen_is_followed_over_tissue(colour: str) -> None:
    density = tissue()
    pen = stroke(350, 410, 0.5)
    add(density, pen, colour)
    found = find(slide_of(density))
    under = overview(pen)
    assert not found.mask[under].any()


def test_two_pens_that_cross_are_both_found() -> None:
    density = tissue()
    for colour, slope in (("red", 0.2), ("translucent purple", -0.2)):
        add(density, stroke(200 - 300 * slope, 280 - 300 * slope, slope), colour)
    assert not find(slide_of(density)).mask[:, : 560 // 8].any()


def test_tissue_alone_is_no_ink() -> None:
    found = find(slide_of(tissue()))
    assert found.warnings == ()
    assert INK_SHARE not in found.settings
    assert found.mask[8:-8, 640 // 8 : -8].all()


def test_smooth_colours_without_end_are_a_test_card() -> None:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    density = np.stack([x, y, 1.2 - 0.6 * x - 0.6 * y], axis=-1)
    assert INK_SHARE not in find(slide_of(density)).settings


def test_coarse_slides_cannot_show_ink() -> None:
    density = tissue()
    add(density, stroke(150, 300, 0.2), "red")
    fine = slide_of(density)
    coarse = FakeSlide(fine.levels, mpp=Mpp(value=2.5, source="test"))
    assert INK_SHARE not in find(coarse).settings


@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region.svs",
        "node-metastasis.tiff",
        "node-occult-metastasis.tiff",
        "node-negative-sinus.tiff",
        "node-negative-follicles.tiff",
        "node-hodgkin.tiff",
        "tcga-no-mpp.svs",
    ],
)
def test_nothing_of_real_tissue_is_ink(real_data: Path, name: str) -> None:
    slide = open_slide(real_data / "slides" / name, mpp=Mpp(value=0.5, source="--mpp"))
    assert INK_SHARE not in find_tissue(slide, METHODS["otsu"]).settings
