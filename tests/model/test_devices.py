"""What an accelerator computes is what the CPU computes, in every mode and precision."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from histoslide.geometry import Mpp
from histoslide.model import Model, ModelSpec, load_model, save_bundle
from histoslide.model.architectures import build_network
from histoslide.model.engine import Precision
from histoslide.scoring.lazy import make_heatmap
from histoslide.scoring.mode import ScoreMode
from histoslide.slide import open_slide
from histoslide.store import Heatmap, store_heatmap
from histoslide.synthetic import mosaic_slide

MODES = {
    "exact": ScoreMode(),
    "dense": ScoreMode(mode="dense"),
    "cascade": ScoreMode(mode="cascade", cascade_threshold=0.5),
    "eight orientations": ScoreMode(tta=True),
}

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

SECOND_CUDA = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="no second CUDA device on this machine"
)


@pytest.fixture(scope="module")
def patches() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (12, 1, 1, 3))
    return (colours + rng.integers(-40, 40, (12, 96, 96, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, patches: NDArray[np.uint8]) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    return mosaic_slide(folder / "patches.tif", patches, columns=4, mpp=0.972)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, patches: NDArray[np.uint8]) -> Path:
    """An untrained network whose last layer is such that probabilities differ, around a half."""
    torch.manual_seed(0)
    network = build_network("resnet18", 2).eval()
    *_, norm = (module for module in network.modules() if isinstance(module, nn.BatchNorm1d))
    *_, last = (module for module in network.modules() if isinstance(module, nn.Linear))
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        difference = network((images - 0.5) / 0.25) @ torch.tensor([-1.0, 1.0])
        across = last.weight[1] - last.weight[0]
        norm.bias.sub_(difference.mean() * across / across.square().sum())
        last.weight.mul_(2 / difference.std())
    spec = ModelSpec(
        name="steep",
        architecture="resnet18",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    path = tmp_path_factory.mktemp("bundle") / "steep.safetensors"
    save_bundle(path, spec, network.state_dict())
    return path


def heatmap(slide: Path, model: Model, mode: ScoreMode, out: Path) -> Heatmap:
    with open_slide(slide, mpp=Mpp(value=0.972, source="test")) as opened:
        return store_heatmap(make_heatmap(opened, model, mode=mode), out)


@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [
        ("cpu", "fp32", 1e-6),  # that the comparison itself is sound
        pytest.param("cuda", "fp32", 0.005, marks=CUDA),
        pytest.param("cuda:1", "fp32", 0.005, marks=SECOND_CUDA),
        pytest.param("cuda", "fp16", 0.05, marks=CUDA),
        pytest.param("cuda", "bf16", 0.1, marks=CUDA),
    ],
)
def test_a_device_gives_what_the_cpu_gives(
    slide: Path, bundle: Path, tmp_path: Path, device: str, precision: Precision, tolerance: float
) -> None:
    reference = load_model(bundle, device="cpu", precision="fp32", backend="torch")
    model = load_model(bundle, device=device, precision=precision, backend="torch")
    assert model.device == device
    for number, (name, mode) in zip(itertools.count(), MODES.items(), strict=False):
        expected = heatmap(slide, reference, mode, tmp_path / f"{number}-cpu.zarr")
        found = heatmap(slide, model, mode, tmp_path / f"{number}.zarr")
        np.testing.assert_array_equal(found.status, expected.status)
        assert np.nanmax(expected.probability()) - np.nanmin(expected.probability()) > 0.5
        np.testing.assert_allclose(
            found.probability(), expected.probability(), atol=tolerance, err_msg=name
        )
