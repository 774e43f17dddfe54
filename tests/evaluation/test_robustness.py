"""Each change of the robustness table against a slow twin, and the table by construction."""

import colorsys
import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models import colour_model, three_class_model
from numpy.typing import NDArray
from PIL import Image
from red_patches import red_patches

from histoslide.evaluation.patches.perturbations import PERTURBATIONS, Perturbation, rescale
from histoslide.evaluation.patches.predictions import predict_patches
from histoslide.evaluation.patches.report import write_report
from histoslide.evaluation.patches.robustness import PerturbedFigures, measure_robustness
from histoslide.synthetic import scene

BY_NAME = {it.name: it for it in PERTURBATIONS}
MODEL = colour_model(input_px=48)


@pytest.fixture(scope="module")
def patches() -> NDArray[np.uint8]:
    """Tissue, noise, and every grey, black and white included, as four patches of 48 px."""
    tissue = scene(400, 300, mpp=0.972, seed=3).pixels[120:168, 150:246]
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    grey = np.arange(48 * 48).reshape(48, 48, 1).repeat(3, axis=2).astype(np.uint8)
    return np.stack([tissue[:, :48], tissue[:, 48:], noise, grey])


def each_pixel(
    patches: NDArray[np.uint8], change: Callable[[float, float, float], tuple[float, float, float]]
) -> NDArray[np.float64]:
    flat = [change(*(value / 255 for value in pixel)) for pixel in patches.reshape(-1, 3).tolist()]
    return np.array(flat).reshape(patches.shape) * 255


def almost(found: NDArray[np.uint8], expected: NDArray[np.floating]) -> None:
    """Equal, but for what lies on the border between two whole numbers."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("degrees", [-15, -8, 8, 15])
def test_hue_is_that_of_colorsys(patches: NDArray[np.uint8], degrees: int) -> None:
    def turned(red: float, green: float, blue: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        return colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)

    sign = "+" if degrees > 0 else "−"
    almost(BY_NAME[f"hue {sign}{abs(degrees)}°"].change(patches), each_pixel(patches, turned))


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_saturation_is_that_of_colorsys(patches: NDArray[np.uint8], factor: float) -> None:
    def scaled(red: float, green: float, blue: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        return colorsys.hsv_to_rgb(hue, min(1, saturation * factor), value)

    almost(BY_NAME[f"saturation ×{factor:g}"].change(patches), each_pixel(patches, scaled))


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_brightness_multiplies(patches: NDArray[np.uint8], factor: float) -> None:
    found = BY_NAME[f"brightness ×{factor:g}"].change(patches)
    almost(found, np.minimum(patches * factor, 255))


def mirrored(patch: NDArray[np.uint8], margin: int) -> NDArray[np.float64]:
    return np.pad(patch, ((margin, margin), (margin, margin), (0, 0)), "symmetric").astype(float)


def test_blur_is_the_sum_over_neighbours(patches: NDArray[np.uint8]) -> None:
    weights = np.array([math.exp(-(d**2) / 2) for d in range(-4, 5)])
    weights /= weights.sum()
    expected = np.zeros(patches.shape)
    for i, patch in enumerate(patches):
        around = mirrored(patch, 4)
        for dy in range(9):
            for dx in range(9):
                expected[i] += weights[dy] * weights[dx] * around[dy : dy + 48, dx : dx + 48]
    almost(BY_NAME["blur σ 1 px"].change(patches), expected)


def test_compression_is_that_of_another_library(patches: NDArray[np.uint8]) -> None:
    """Encoders round differently, so of all qualities the same must be nearest to it."""

    def by_pillow(patch: NDArray[np.uint8], quality: int, subsampling: str) -> NDArray[np.uint8]:
        file = io.BytesIO()
        Image.fromarray(patch).save(file, "JPEG", quality=quality, subsampling=subsampling)
        return np.asarray(Image.open(file))

    found = BY_NAME["JPEG quality 60"].change(patches)
    for patch, decoded in zip(patches[:2], found[:2], strict=True):
        distances = {
            (quality, subsampling): np.abs(
                by_pillow(patch, quality, subsampling) - decoded.astype(int)
            ).mean()
            for quality in (50, 55, 60, 65, 70)
            for subsampling in ("4:2:0", "4:4:4")
        }
        assert min(distances, key=lambda it: distances[it]) == (60, "4:2:0")


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_resolution_is_the_resampling_of_another_library(
    patches: NDArray[np.uint8], factor: float
) -> None:
    found = BY_NAME[f"resolution ×{factor:g}"].change(patches)
    margin = 12
    low, high = (margin + 24 + sign * 24 * factor for sign in (-1, 1))
    for patch, resampled in zip(patches, found, strict=True):
        around = Image.fromarray(mirrored(patch, margin).astype(np.uint8))
        expected = around.resize((48, 48), Image.Resampling.BILINEAR, box=(low, low, high, high))
        # Pillow rounds between the two directions, and at its box's rim leaves neighbours out.
        inside = np.abs(resampled[2:-2, 2:-2] - np.asarray(expected).astype(int)[2:-2, 2:-2])
        assert inside.max() <= 1


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_what_the_label_speaks_of_stays_in_the_centre(factor: float) -> None:
    patch = np.zeros((1, 96, 96, 3), dtype=np.uint8)
    patch[:, 42:54, 42:54] = 250
    found = rescale(patch, factor=factor)[0, ..., 0].astype(float)
    assert (found == found[::-1]).all()
    assert (found == found[:, ::-1]).all()
    assert found.sum() / 250 == pytest.approx((12 / factor) ** 2, rel=0.02)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda it: it.name)
def test_a_patch_is_changed_alike_in_any_company(
    patches: NDArray[np.uint8], perturbation: Perturbation
) -> None:
    before = patches.copy()
    found = perturbation.change(patches)
    assert (patches == before).all()
    assert (found != patches).any()
    for i in range(len(patches)):
        alone = perturbation.change(patches[i : i + 1])[0].astype(int)
        assert np.abs(found[i] - alone).max() <= 1  # sums in another order
    white = np.full((1, 48, 48, 3), 255, dtype=np.uint8)
    if "brightness" not in perturbation.name:
        assert (perturbation.change(white) == 255).all()


HALF = Perturbation(name="half", change=lambda patches: patches // 2)
NOTHING = Perturbation(name="nothing", change=lambda patches: patches)
INVERTED = Perturbation(name="inverted", change=lambda patches: 255 - patches)


def test_the_table_by_construction() -> None:
    """P(tumour) is red / 255, so what each change does to AUC and decisions is known."""
    patches = red_patches([40, 60, 150, 200, 240], [0, 0, 0, 1, 1])
    predictions = predict_patches(MODEL, patches)
    told: list[tuple[int, int]] = []
    found = measure_robustness(
        MODEL,
        patches,
        predictions,
        perturbations=(NOTHING, HALF, INVERTED),
        progress=lambda done, total: told.append((done, total)),
    )
    assert (found.patches, found.threshold, found.auc) == (5, 0.5, 1)
    assert found.changes == (
        PerturbedFigures(change="nothing", auc=1, auc_difference=0, decisions_changed=0),
        PerturbedFigures(change="half", auc=1, auc_difference=0, decisions_changed=3 / 5),
        PerturbedFigures(change="inverted", auc=0, auc_difference=-1, decisions_changed=1),
    )
    assert found.worst == found.changes[2]
    assert told[-1] == (15, 15)
    at_07 = measure_robustness(MODEL, patches, predictions, threshold=0.7, perturbations=(HALF,))
    assert at_07.threshold == 0.7
    assert at_07.changes[0].decisions_changed == pytest.approx(2 / 5)


def test_several_classes_are_called_by_the_most_probable() -> None:
    model = three_class_model()
    pixels = np.zeros((4, 96, 96, 3), dtype=np.uint8)
    for i, channel in enumerate((0, 1, 2, 0)):
        pixels[i, ..., channel] = 200
    patches = dataclasses.replace(red_patches([1] * 4, [0, 1, 2, 0]), pixels=pixels)
    swap = Perturbation(name="red to green", change=lambda it: it[..., [1, 0, 2]])
    found = measure_robustness(
        model, patches, predict_patches(model, patches), perturbations=(swap,)
    )
    assert found.threshold is None
    assert found.changes[0].decisions_changed == pytest.approx(3 / 4)


def test_one_class_has_no_auc_and_still_a_table(tmp_path: Path) -> None:
    patches = red_patches([100, 200, 250], [1, 1, 1])
    predictions = predict_patches(MODEL, patches)
    found = measure_robustness(MODEL, patches, predictions)
    assert [row.change for row in found.changes] == [it.name for it in PERTURBATIONS]
    assert found.auc is None
    assert found.worst is None
    page = write_report(
        tmp_path,
        predictions=predictions,
        patches=patches,
        spec=MODEL.spec,
        robustness=found,
        title="One",
    )
    text = page.read_text(encoding="utf-8")
    assert 'href="#robustness"' in text
    assert all(f"<td>{row.change}</td><td>–</td><td>–</td>" in text for row in found.changes)
    told = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["robustness"]
    assert told["auc"] is None
    assert [row["change"] for row in told["changes"]] == [it.name for it in PERTURBATIONS]
    with Image.open(tmp_path / "robustness.png") as picture:
        assert picture.width > picture.height > 150
