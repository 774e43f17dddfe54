"""A loaded model predicts what its network and spec say, wherever its tiles come from."""

import copy
import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import randomise_norms
from torch import Tensor, nn
from torch.nn import functional

from histoslide.errors import BundleError, HistoslideError
from histoslide.model import Model, devices, load_model, pick_device, save_bundle
from histoslide.model.architectures import build_network
from histoslide.model.networks import fold_batch_norm
from histoslide.model.spec import ModelSpec

CPU = "cpu"
SPEC = ModelSpec(
    name="tiny",
    architecture="resnet18",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    input_px=48,
    network_px=48,
    label_px=32,
    mpp=0.972,
)


class ChannelMeans(nn.Module):
    """Logits that are the means of red and green, and that keep the last input."""

    seen: Tensor

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images.mean(dim=(2, 3))[:, :2]


@cache
def _trained(architecture: str) -> nn.Sequential:
    torch.manual_seed(0)
    network = build_network(architecture, 2)
    randomise_norms(network, std=0.2)
    return network.eval()


def trained_network(architecture: str) -> nn.Sequential:
    """A network whose batch norms have statistics and factors of their own."""
    return copy.deepcopy(_trained(architecture))


def random_tiles(count: int, side_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 3, side_px, side_px), generator=generator).byte()


def make_model(network: nn.Module, **changes: Any) -> Model:
    return Model(dataclasses.replace(SPEC, **changes), network, device=CPU, sha256="0")


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_folding_batch_norms_keeps_the_logits(architecture: str) -> None:
    network = trained_network(architecture)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = network(images)
        folded = fold_batch_norm(network)
        logits = folded(images)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def test_tiles_are_normalised_as_the_spec_says() -> None:
    network = ChannelMeans()
    model = make_model(network, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    tiles = random_tiles(2, 48)
    logits = model.logits(tiles)
    expected = (tiles.double() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.25, 2.0]
    ).view(3, 1, 1)
    torch.testing.assert_close(network.seen.double(), expected, rtol=0, atol=1e-5)
    assert logits.dtype == np.float32
    assert logits.shape == (2, 2)


def test_the_tiles_are_left_as_they_were() -> None:
    tiles = random_tiles(2, 48)
    before = tiles.clone()
    make_model(ChannelMeans()).probabilities(tiles)
    assert torch.equal(tiles, before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_sum_to_one_and_temperature_divides_the_logits(temperature: float) -> None:
    model = make_model(trained_network("resnet18"), temperature=temperature)
    tiles = random_tiles(5, 48)
    probabilities = model.probabilities(tiles)
    np.testing.assert_allclose(probabilities.sum(axis=1), np.ones(5), rtol=1e-6)
    logits = model.logits(tiles)
    ratio = np.log(probabilities[:, 1] / probabilities[:, 0])
    expected = (logits[:, 1] - logits[:, 0]) / temperature
    np.testing.assert_allclose(ratio, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("input_px", "network_px"), [(48, 64), (96, 40)])
def test_tiles_are_resized_where_the_network_wants_another_size(
    input_px: int, network_px: int
) -> None:
    network = ChannelMeans()
    model = make_model(
        network, input_px=input_px, network_px=network_px, mean=(0, 0, 0), std=(1, 1, 1)
    )
    tiles = torch.zeros(1, 3, input_px, input_px, dtype=torch.uint8)
    tiles[:, 0, :, input_px // 2 :] = 200  # red on the right
    tiles[:, 1, input_px // 2 :, :] = 100  # green below
    model.logits(tiles)
    seen = network.seen[0]
    assert seen.shape == (3, network_px, network_px)
    edge, middle = 4, network_px // 2
    assert torch.allclose(seen[0, :, middle + edge :], torch.tensor(200 / 255), atol=1e-5)
    assert torch.allclose(seen[0, :, : middle - edge], torch.tensor(0.0), atol=1e-5)
    assert torch.allclose(seen[1, middle + edge :, :], torch.tensor(100 / 255), atol=1e-5)
    assert not seen[2].any()


def test_devices_may_be_given_as_torch_has_them(tmp_path: Path) -> None:
    path, device = tmp_path / "m.safetensors", torch.device("cpu")
    save_bundle(path, SPEC, trained_network("resnet18").state_dict())
    for model in (
        load_model(path, device=device),
        Model(SPEC, nn.Identity(), sha256="0", device=device),
    ):
        assert model.device == "cpu"
        assert model.batch_size > 0


def test_logits_beyond_all_numbers_are_no_reason_to_warn() -> None:
    class Huge(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), 3e38) * torch.tensor([1.0, -1.0])

    found = make_model(Huge(), temperature=0.5).probabilities(random_tiles(2, 48))
    assert not np.isfinite(found).all()  # which scoring refuses, by name


def test_a_model_does_not_depend_on_its_neighbours_in_a_batch() -> None:
    model = make_model(trained_network("resnet18"))
    tiles = random_tiles(3, 48)
    alone = np.concatenate([model.probabilities(tile[None]) for tile in tiles])
    np.testing.assert_allclose(model.probabilities(tiles), alone, rtol=1e-4, atol=1e-5)


def test_threads_may_share_a_model() -> None:
    model = make_model(trained_network("resnet18"))
    batches = [random_tiles(2, 48).roll(shift, dims=3) for shift in range(4)]
    expected = [model.probabilities(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(model.probabilities, batches))
    for one, other in zip(expected, together, strict=True):
        torch.testing.assert_close(one, other)


def test_a_loaded_model_predicts_what_the_saved_network_does(tmp_path: Path) -> None:
    network, path = trained_network("resnet18"), tmp_path / "m.safetensors"
    save_bundle(path, SPEC, network.state_dict())
    model = load_model(path, device=CPU)
    tiles = random_tiles(3, 48)
    images = tiles.float() / 255
    images = (images - torch.tensor(SPEC.mean).view(3, 1, 1)) / torch.tensor(SPEC.std).view(3, 1, 1)
    with torch.no_grad():
        expected = network(images)
    np.testing.assert_allclose(model.logits(tiles), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.logits(tiles.numpy()), expected, rtol=1e-4, atol=1e-4)
    shares = functional.softmax(expected, dim=1)
    np.testing.assert_allclose(model.probabilities(tiles), shares, rtol=1e-4, atol=1e-4)
    assert model.spec == SPEC
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.batch_size > 0


@pytest.mark.parametrize(("side", "tiles"), [(32, 32), (96, 32), (192, 8), (224, 5), (1024, 1)])
def test_a_batch_holds_fewer_of_large_tiles(side: int, tiles: int) -> None:
    spec = dataclasses.replace(SPEC, network_px=side)
    model = Model(spec, nn.Identity(), device="cpu", sha256="")
    assert model.batch_size == tiles


def test_a_half_bundle_predicts_nearly_the_same(tmp_path: Path) -> None:
    network = trained_network("resnet18")
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_bundle(full, SPEC, network.state_dict())
    save_bundle(half, SPEC, network.state_dict(), half=True)
    tiles = random_tiles(4, 48)
    one, other = (load_model(path, device=CPU).probabilities(tiles) for path in (full, half))
    torch.testing.assert_close(one, other, rtol=0, atol=0.01)


@pytest.mark.parametrize("wrong", ["classes", "architecture", "missing", "extra"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, wrong: str) -> None:
    path, spec = tmp_path / "m.safetensors", SPEC
    state = trained_network("resnet18").state_dict()
    if wrong == "classes":
        spec = dataclasses.replace(SPEC, classes=("normal", "tumour", "fat"))
    elif wrong == "architecture":
        spec = dataclasses.replace(SPEC, architecture="resnet34")
    elif wrong == "missing":
        del state["1.8.weight"]
    else:
        state["2.weight"] = torch.zeros(3)
    save_bundle(path, spec, state)
    with pytest.raises(BundleError) as caught:
        load_model(path, device=CPU)
    message = str(caught.value)
    assert f"{path}: the weights do not fit {spec.architecture}" in message
    assert "\n" not in message


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, architecture="vit_huge")
    save_bundle(tmp_path / "m.safetensors", spec, {"w": torch.zeros(1)})
    with pytest.raises(BundleError, match="'vit_huge'"):
        load_model(tmp_path / "m.safetensors", device=CPU)


@pytest.mark.parametrize(
    "name", ["nonsense", "cuda:x", "", "cpu:nine", "mps", "cuda", "cuda:97", "hpu"]
)
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has MPS")
    with pytest.raises(HistoslideError) as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "may_have_accelerator", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == CPU
    assert pick_device("cpu") == CPU
