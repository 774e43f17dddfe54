"""Colours are told apart by everybody: also by people with a deficiency of colour vision."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from histoslide import look
from histoslide.lesions import LESION_COLOURS, LesionClass

VISION = {
    "usual": np.eye(3),
    # Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color
    # Vision Deficiency", full severity, on linear RGB.
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip


def seen(colours: NDArray[np.float64], vision: str) -> NDArray[np.float64]:
    """Colours (n, 3), sRGB of 0-1, as CIELAB of what somebody sees."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = (linear @ VISION[vision].T).clip(0, 1)
    again = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    found: NDArray[np.float64] = rgb2lab(again)
    return found


def rgb(*colours: look.Rgb) -> NDArray[np.float64]:
    return np.array(colours, dtype=np.float64) / 255


@pytest.mark.parametrize("vision", VISION)
def test_classes_are_told_apart(vision: str) -> None:
    names = list(look.CLASSES)
    lab = dict(zip(names, seen(rgb(*look.CLASSES.values()), vision), strict=True))
    for one, other in combinations(names, 2):
        assert deltaE_ciede2000(lab[one], lab[other]) > 20, (one, other)


@pytest.mark.parametrize("vision", VISION)
def test_what_lies_on_a_rim_stands_out_from_it(vision: str) -> None:
    rim = seen(rgb(look.RIM), vision)
    for colour in (*look.CLASSES.values(), look.SELECTED, look.FOOTPRINT):
        assert deltaE_ciede2000(seen(rgb(colour), vision), rim) > 35


@pytest.mark.parametrize("vision", VISION)
def test_classes_and_selection_are_no_colours_of_probability(vision: str) -> None:
    """Of its upper half, as the heatmap shows it on tissue: that is where outlines run."""
    shown = mpl.colormaps[look.PROBABILITY_MAP](np.linspace(0.5, 1, 26))[:, :3]
    tissue = np.array([0.87, 0.76, 0.85])
    probability = seen(shown * look.OPACITY + tissue * (1 - look.OPACITY), vision)
    for colour in (*look.CLASSES.values(), look.SELECTED):
        each = np.repeat(seen(rgb(colour), vision), len(probability), axis=0)
        assert deltaE_ciede2000(each, probability).min() > 10, colour


@pytest.mark.parametrize("vision", VISION)
def test_hatching_is_told_apart(vision: str) -> None:
    one, other = seen(rgb(look.UNREADABLE, look.EXCLUDED), vision)
    assert deltaE_ciede2000(one, other) > 20


@pytest.mark.parametrize("vision", VISION)
def test_what_is_chosen_has_the_colour_of_no_class(vision: str) -> None:
    chosen = seen(rgb(look.SELECTED), vision)
    for colour in look.CLASSES.values():
        assert deltaE_ciede2000(seen(rgb(colour), vision), chosen) > 15, colour


def test_the_viewer_and_the_report_take_the_same_colours() -> None:
    """None of them has a colour for what is chosen but that one."""
    web = files("histoslide.viewer").joinpath("web")
    text = web.joinpath("look.js").read_text(encoding="utf-8")
    told = dict(re.findall(r"export const (\w+) = \"?([^\";]+)", text))
    assert told == {
        "SELECTED": look.hexadecimal(look.SELECTED),
        "RIM": look.hexadecimal(look.RIM),
        "UNREADABLE": look.hexadecimal(look.UNREADABLE),
        "OPACITY": str(look.OPACITY),
    }
    for script in web.iterdir():
        if script.name.endswith(".js"):
            assert "#ffe600" not in script.read_text(encoding="utf-8"), script.name
    report = files("histoslide.report").joinpath("templates", "report.css")
    rule = re.search(
        r"a\.chosen path\.line,[^}]*stroke: (#\w+)", report.read_text(encoding="utf-8")
    )
    assert rule
    assert rule[1] == "#fff"
    assert look.hexadecimal(look.SELECTED) == "#ffffff"


def test_every_class_has_its_colour() -> None:
    assert set(look.CLASSES) == {str(kind) for kind in LesionClass}
    assert LESION_COLOURS[LesionClass.MACROMETASTASIS] == look.CLASSES["macrometastasis"]
    assert look.hexadecimal((255, 0, 170)) == "#ff00aa"
