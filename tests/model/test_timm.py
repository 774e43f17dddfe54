"""Networks of timm: the same features behind our head, folded, rounded, and over areas."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import one_thread
from models import randomise_norms
from torch import Tensor, nn

from histoslide.errors import BundleError, WeightsUnavailableError
from histoslide.model import ModelSpec, load_model, save_bundle
from histoslide.model.architectures import build_network, normalisation, split_body
from histoslide.model.graphs import AreaGraph, TileGraph
from histoslide.model.int8 import activation_ranges, quantised
from histoslide.model.networks import fold_batch_norm
from histoslide.model.timm_body import TimmBody, is_local
from histoslide.training.learner import parameter_groups

SMALL = "timm/test_resnet"
SAME_PADDED = "timm/tf_efficientnet_lite0"


def build(architecture: str, classes: int = 2) -> nn.Sequential:
    """A network whose batch norms all do something."""
    torch.manual_seed(0)
    network = build_network(architecture, classes).eval()
    randomise_norms(network)
    return network


def spec_of(architecture: str, side_px: int = 64) -> ModelSpec:
    mean, std = normalisation(architecture)
    return ModelSpec(
        name="small",
        architecture=architecture,
        classes=("normal", "tumour"),
        tumour_class="tumour",
        input_px=side_px,
        network_px=side_px,
        mean=mean,
        std=std,
        label_px=32,
        mpp=0.972,
    )


def tiles(count: int = 3, side_px: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, side_px // 8, side_px // 8, generator=generator)
    return (nn.functional.interpolate(coarse, side_px, mode="bilinear") * 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("name", "side_px", "shape"),
    [("test_resnet", 64, (96, 2, 2)), ("test_vit", 160, (64, 10, 10)), ("test_convnext", 64, None)],
)
def test_the_body_gives_the_features_that_timm_gives(
    name: str, side_px: int, shape: tuple[int, int, int] | None
) -> None:
    torch.manual_seed(0)
    network = build_network(f"timm/{name}", 3).eval()
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(network[0].network.state_dict())  # type: ignore[union-attr]
    images = torch.randn(2, 3, side_px, side_px)
    with torch.no_grad():
        features, expected = network[0](images), theirs.forward_features(images)  # type: ignore[operator]
        assert network(images).shape == (2, 3)
    if expected.ndim == 3:  # tokens, of which the first is not of the image
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, shape[1:] if shape else ())
    torch.testing.assert_close(features, expected)
    assert shape is None or tuple(features.shape[1:]) == shape


def test_channels_come_first_where_the_network_has_them_last() -> None:
    body = build_network("timm/swin_tiny_patch4_window7_224", 2).eval()[0]
    with torch.no_grad():
        assert body(torch.zeros(1, 3, 224, 224)).shape == (1, 768, 7, 7)


def test_normalisation_is_that_of_the_pretrained_weights() -> None:
    assert normalisation(SAME_PADDED) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation("timm/resnet18") == normalisation("resnet18")


def test_the_groups_are_all_parameters_in_order() -> None:
    network = build_network(SAME_PADDED, 2)
    first, second, head = parameter_groups(network)
    assert [id(p) for p in (*first, *second, *head)] == [id(p) for p in network.parameters()]
    weights = [sum(p.ndim > 1 for p in group) for group in (first, second)]
    assert abs(weights[0] - weights[1]) <= 1
    assert second[0].ndim > 1  # a convolution and its norm stay together
    assert split_body(network[0])[0] == first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet51", "timm has no network 'resnet51': it has, for example"),
        ("timm/", "timm has no network ''"),
        ("timmy/resnet50", "choose from resnet18, resnet34, resnet50, or timm/NAME"),
    ],
)
def test_an_unknown_network_is_refused_with_the_choice(name: str, message: str) -> None:
    for ask in (lambda: build_network(name, 2), lambda: normalisation(name)):
        with pytest.raises(BundleError, match=message):
            ask()


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm.models, "create_model", fail)
    with pytest.raises(WeightsUnavailableError, match="pass it to --pretrained"):
        build_network(SMALL, 2, imagenet=True)


@pytest.mark.parametrize(
    ("architecture", "left"),
    [(SMALL, 1), (SAME_PADDED, 0), ("timm/densenet121", 62), ("timm/mobilenetv3_small_050", 0)],
)
def test_batch_norms_are_folded_where_a_convolution_feeds_them(
    architecture: str, left: int
) -> None:
    """In a DenseNet half of them are given what was concatenated, and stay."""
    network = build(architecture)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
        folded = fold_batch_norm(copy.deepcopy(network))
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded[0].modules()) == left


def test_a_norm_is_left_where_something_else_reads_the_convolution_too() -> None:
    class Forked(nn.Module):
        num_features = 4

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.other = nn.Conv2d(4, 4, 1)

        def forward_features(self, images: Tensor) -> Tensor:
            features = self.conv(images)
            return self.norm(features) + self.other(features)

    network = nn.Sequential(TimmBody(Forked()), nn.Identity()).eval()
    network[0].network.norm.running_var.fill_(4)  # type: ignore[operator, union-attr]
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(fold_batch_norm(network)(images), expected)


@pytest.mark.parametrize(
    ("architecture", "local"),
    [
        (SMALL, True),
        (SAME_PADDED, True),
        ("timm/test_efficientnet", False),
        ("timm/test_vit", False),
    ],
)
def test_whole_areas_are_for_networks_whose_features_are_local(
    architecture: str, local: bool
) -> None:
    """Squeeze-and-excitation and attention look at all of the image."""
    network = build(architecture)
    assert is_local(network[0]) == local  # type: ignore[arg-type]
    if not local:
        with pytest.raises(BundleError, match=r"depends on all of the image.*--mode exact"):
            AreaGraph(spec_of(architecture), network, stride_px=32)


def test_a_cell_of_an_area_is_judged_by_the_features_of_its_tile() -> None:
    network = build(SAME_PADDED)
    graph = AreaGraph(spec_of(SAME_PADDED), network, stride_px=64)
    area = tiles(1, 128)
    with torch.no_grad():
        features = network[0](graph.prepare(area))
        cells = graph(area)
        for row, col in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = features[..., 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            torch.testing.assert_close(cells[:, row, col], network[1](part), rtol=1e-4, atol=1e-5)


def test_int8_rounds_convolutions_that_pad_themselves() -> None:
    network = fold_batch_norm(build(SAME_PADDED))
    images = TileGraph(spec_of(SAME_PADDED), network).prepare(tiles(8))
    ranges = activation_ranges(network, [images])
    padded = {n for n, m in network.named_modules() if type(m).__name__ == "Conv2dSame"}
    assert len(padded & ranges.keys()) >= 3
    with torch.no_grad():
        expected, rounded = network(images), quantised(network, ranges)(images)
    assert 0 < (rounded - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_convolution_of_a_kind_of_its_own_is_left_alone() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return 2 * super().forward(images)

    network = nn.Sequential(nn.ReLU(), Doubled(3, 4, 1))
    _, doubled = quantised(network, {"1": 1.0}).children()
    assert isinstance(doubled, Doubled)


@pytest.mark.parametrize("architecture", [SMALL, SAME_PADDED])
def test_openvino_computes_what_torch_computes(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "m.safetensors"
    save_bundle(path, spec_of(architecture), build(architecture).state_dict())
    asked = tiles()
    with one_thread():
        torchs, other = (
            load_model(path, device="cpu", backend=name, precision="fp32").logits(asked)
            for name in ("torch", "openvino")
        )
    np.testing.assert_allclose(other, torchs, rtol=1e-3, atol=1e-3)


def test_nobody_waits_for_timm_who_does_not_need_it() -> None:
    code = "import sys, histoslide.model.architectures as a; a.build_network('resnet18', 2); "
    code += "sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
