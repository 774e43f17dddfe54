"""The networks are fastai's own: same layers, names, numbers and parameter groups."""

import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.vision.learner import create_head, vision_learner
from models import randomise_norms
from torch import Tensor, nn
from torchvision import models

from histoslide.errors import BundleError, WeightsUnavailableError
from histoslide.model.architectures import ARCHITECTURES, build_network, fastai_head
from histoslide.training.learner import parameter_groups

FEATURES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


def fastai_learner(architecture: str, classes: int) -> Any:
    items = [(torch.zeros(3, 32, 32), torch.tensor(0))] * 2
    loaders = DataLoaders(
        *(DataLoader(items, bs=2, num_workers=0) for _ in range(2)), device=torch.device("cpu")
    )
    return vision_learner(
        loaders,
        getattr(models, architecture),
        normalize=False,
        n_out=classes,
        pretrained=False,
        loss_func=nn.CrossEntropyLoss(),
    )


@pytest.mark.parametrize(
    ("architecture", "classes"), [("resnet18", 2), ("resnet34", 3), ("resnet50", 2)]
)
def test_the_network_is_fastais(architecture: str, classes: int) -> None:
    torch.manual_seed(0)
    ours = build_network(architecture, classes).eval()
    randomise_norms(ours)
    learner = fastai_learner(architecture, classes)
    theirs = learner.model.eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert not torch.allclose(theirs(images), ours(images))
        assert list(theirs.state_dict()) == list(ours.state_dict())
        theirs.load_state_dict(ours.state_dict(), strict=True)
        expected = theirs(images)
        logits = ours(images)
    assert logits.shape == (2, classes)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
    learner.create_opt()
    groups = parameter_groups(theirs)
    assert len(groups) == len(learner.opt.param_lists) == 3
    for mine, fastais in zip(groups, learner.opt.param_lists, strict=True):
        assert [id(p) for p in mine] == [id(p) for p in fastais]
    assert sum(map(len, groups)) == len(list(theirs.parameters()))


@pytest.mark.parametrize(("features", "classes"), [(512, 2), (2048, 5)])
def test_the_head_is_what_create_head_makes(features: int, classes: int) -> None:
    ours, theirs = fastai_head(features, classes), create_head(features, classes)
    assert len(ours) == len(theirs)
    for index, (mine, fastais) in enumerate(zip(ours, theirs, strict=True)):
        if index:
            assert type(mine).__name__ == type(fastais).__name__
        assert {k: v.shape for k, v in mine.state_dict().items()} == {
            k: v.shape for k, v in fastais.state_dict().items()
        }
        for setting in ("p", "bias", "eps", "momentum", "affine", "inplace"):
            if isinstance(getattr(fastais, setting, None), bool | float | None):
                assert getattr(mine, setting, None) == getattr(fastais, setting, None), setting
    images = torch.randn(3, features, 2, 3)
    assert torch.equal(ours[0](images), theirs[0](images))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_body_puts_out_what_the_head_expects(architecture: str) -> None:
    with torch.device("meta"):
        state = build_network(architecture, 2).state_dict()
    assert state["1.4.weight"].shape == (512, 2 * FEATURES[architecture])
    assert state["1.2.weight"].shape == (2 * FEATURES[architecture],)


def test_every_architecture_is_covered_here() -> None:
    assert set(ARCHITECTURES) == set(FEATURES)


def test_residual_branches_start_at_zero_without_imagenet() -> None:
    network = build_network("resnet18", 2)
    last = [value for name, value in network.state_dict().items() if name.endswith("bn2.weight")]
    assert len(last) == 8
    assert not any(weight.any() for weight in last)


def test_an_unknown_architecture_is_refused_with_the_choice() -> None:
    with pytest.raises(BundleError, match="'resnet51': choose from resnet18, resnet34, resnet50"):
        build_network("resnet51", 2)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloaded weights."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    "failure",
    [URLError("Name or service not known"), OSError(28, "No space left on device")],
    ids=["offline", "full disk"],
)
def test_weights_that_cannot_be_fetched(
    hub: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsUnavailableError) as caught:
        build_network("resnet18", 2, imagenet=True)
    message = str(caught.value)
    assert "resnet18" in message
    assert str(failure) in message
    assert f"{hub}" in message
    assert "download.pytorch.org/models/resnet18-" in message
    assert "--pretrained shipped or none" in message


def test_weights_that_are_there_are_used_without_the_network(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    torch.manual_seed(5)
    source: dict[str, Tensor] = models.resnet18().state_dict()
    file = hub / Path(models.ResNet18_Weights.DEFAULT.url).name
    torch.save({name: value.half() for name, value in source.items()}, file)
    state = build_network("resnet18", 2, imagenet=True).state_dict()
    for ours, theirs in (("0.0.weight", "conv1.weight"), ("0.7.1.bn2.bias", "layer4.1.bn2.bias")):
        assert torch.equal(state[ours], source[theirs].half().float())


def test_no_warning_comes_from_building() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_network("resnet18", 2)
