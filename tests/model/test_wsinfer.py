"""The WSInfer folder computes what the model does, loaded the way WSInfer and QuPath load it."""

import dataclasses
import getpass
import json
import os
import warnings
import zipfile
from functools import cache
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from models import randomise_norms
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision import transforms

from histoslide.errors import BundleError, OutputExistsError
from histoslide.model import Model, ModelSpec, default_bundle, load_bundle, make_model
from histoslide.model.architectures import build_network
from histoslide.model.wsinfer import CONFIG_NAME, WEIGHTS_NAME, write_wsinfer

CPU = "cpu"
SPEC = ModelSpec(
    name="tiny",
    architecture="resnet18",
    classes=("normal", "tumour", "fat"),
    tumour_class="tumour",
    input_px=48,
    network_px=48,
    mpp=0.5,
    mean=(0.6, 0.5, 0.4),
    std=(0.3, 0.2, 0.1),
    temperature=1.7,
    licence="CC0",
    label_px=32,
)

RESIZED = 0.1
"""WSInfer resizes 8-bit pictures and rounds them, the model resizes floats. That moves logits by
less than this part of what another picture moves them by."""

SCHEMA = {
    "type": "object",
    "properties": {
        "spec_version": {"enum": ["1.0"]},
        "architecture": {"type": "string"},
        "num_classes": {"type": "integer", "minimum": 1},
        "patch_size_pixels": {"type": "integer", "minimum": 1},
        "spacing_um_px": {"type": "number", "exclusiveMinimum": 0},
        "class_names": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "transform": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"enum": ["Resize", "ToTensor", "Normalize"]},
                    "arguments": {"type": "object"},
                },
                "additionalProperties": False,
                "required": ["name"],
            },
        },
    },
    "additionalProperties": False,
}
"""What WSInfer's readers accept in a configuration of version 1.0."""


@cache
def weights(classes: int = 3) -> dict[str, Tensor]:
    """Of a network whose batch norms have statistics and factors of their own."""
    torch.manual_seed(3)
    network = build_network("resnet18", classes)
    randomise_norms(network, std=0.2)
    return network.state_dict()


def pictures(count: int, side_px: int) -> list[Image.Image]:
    """Smooth in its large features, noisy in its small ones, as tissue is."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 200, (count, 6, 6, 3), dtype=np.uint8)
    found = []
    for picture in coarse:
        big = np.asarray(
            Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.BICUBIC)
        )
        noise = rng.integers(0, 50, big.shape)
        found.append(Image.fromarray(np.clip(big + noise, 0, 255).astype(np.uint8)))
    return found


def wsinfer_logits(folder: Path, tiles: list[Image.Image]) -> Tensor:
    """Logits as WSInfer comes by them: its three transforms by name, then the TorchScript."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    steps = [
        getattr(transforms, step["name"])(**step.get("arguments", {}))
        for step in config["transform"]
    ]
    prepare = transforms.Compose(steps)
    network = load_torchscript(folder / WEIGHTS_NAME)
    with torch.no_grad():
        logits: Tensor = network(torch.stack([prepare(tile) for tile in tiles]))
    return logits


def load_torchscript(path: Path, extra: dict[str, str] | None = None) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        return torch.jit.load(path, map_location="cpu", _extra_files=extra)


def as_tiles(tiles: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2)


def model_of(spec: ModelSpec) -> Model:
    return make_model(spec, weights(len(spec.classes)), sha256="0", device=CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wsinfer") / "my-model"
    write_wsinfer(path, SPEC, weights())
    return path


def test_logits_are_those_of_the_model_over_its_temperature(folder: Path) -> None:
    tiles = pictures(5, 48)  # the network was traced with one tile
    model = model_of(SPEC)
    logits = wsinfer_logits(folder, tiles)
    expected = model.logits(as_tiles(tiles)) / SPEC.temperature
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    probabilities = functional.softmax(logits, dim=1)
    np.testing.assert_allclose(
        probabilities, model.probabilities(as_tiles(tiles)), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("input_px", "network_px"), [(48, 96), (96, 48)])
def test_resized_tiles_differ_by_rounding_only(
    tmp_path: Path, input_px: int, network_px: int
) -> None:
    spec = dataclasses.replace(SPEC, input_px=input_px, network_px=network_px)
    write_wsinfer(tmp_path, spec, weights())
    tiles = pictures(4, input_px)
    logits = wsinfer_logits(tmp_path, tiles)
    expected = model_of(spec).logits(as_tiles(tiles)) / spec.temperature
    difference = np.abs(logits.numpy() - expected).max()
    other_picture = np.abs(expected - np.roll(expected, 1, axis=0)).max()
    assert 0 < difference < RESIZED * other_picture


def test_a_tile_that_qupath_cut_a_pixel_too_large_is_resized(folder: Path) -> None:
    assert wsinfer_logits(folder, pictures(2, 49)).shape == (2, 3)
    config = json.loads((folder / CONFIG_NAME).read_text())
    assert config["transform"][0] == {"name": "Resize", "arguments": {"size": 48}}


def test_the_configuration_is_what_wsinfer_reads(folder: Path) -> None:
    config = json.loads((folder / CONFIG_NAME).read_text())
    jsonschema.validate(config, SCHEMA | {"required": list(SCHEMA["properties"])})  # type: ignore[call-overload]
    assert config["num_classes"] == len(config["class_names"]) == 3
    assert config["class_names"] == ["normal", "tumour", "fat"]
    assert (config["patch_size_pixels"], config["spacing_um_px"]) == (48, 0.5)
    assert [step["name"] for step in config["transform"]] == ["Resize", "ToTensor", "Normalize"]
    assert config["transform"][2]["arguments"] == {"mean": [0.6, 0.5, 0.4], "std": [0.3, 0.2, 0.1]}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "torchscript_model.pt"]


def test_whole_numbers_are_written_as_decimals(tmp_path: Path) -> None:
    """QuPath casts the entries to Double."""
    write_wsinfer(
        tmp_path, dataclasses.replace(SPEC, mean=(0, 0, 0), std=(1, 1, 1), mpp=1), weights()
    )
    text = (tmp_path / CONFIG_NAME).read_text()
    assert text.count("0.0") == 3
    assert '"spacing_um_px": 1.0' in text


def test_the_spec_travels_with_the_weights(folder: Path) -> None:
    extra = {"histoslide.json": ""}
    load_torchscript(folder / WEIGHTS_NAME, extra)
    assert ModelSpec.from_json(extra["histoslide.json"]) == SPEC


def test_no_path_of_this_machine_is_in_the_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / WEIGHTS_NAME) as archive:
        assert len(archive.namelist()) > 20
        content = b"".join(archive.read(name) for name in archive.namelist())
    for part in (Path(torch.__file__).parent, Path(__file__).parents[2], Path.home(), folder):
        assert os.fsencode(part) not in content
    assert f"/{getpass.getuser()}/".encode() not in content


def test_existing_files_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text("mine")
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match=r"config\.json exists.*--overwrite"):
        write_wsinfer(tmp_path, SPEC, weights())
    assert (tmp_path / CONFIG_NAME).read_text() == "mine"
    write_wsinfer(tmp_path, SPEC, weights(), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "notes.txt",
        "torchscript_model.pt",
    ]


def test_weights_that_do_not_fit_and_folders_that_cannot_be_made_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(BundleError, match="the weights do not fit resnet18"):
        write_wsinfer(tmp_path / "m", SPEC, weights(2))
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        write_wsinfer(tmp_path / "file" / "m", SPEC, weights())


def test_the_shipped_model_gives_the_same_probabilities(tmp_path: Path) -> None:
    spec, state = load_bundle(default_bundle())
    write_wsinfer(tmp_path, spec, state)
    tiles = pictures(2, 96)
    expected = make_model(spec, state, sha256="0", device=CPU).probabilities(as_tiles(tiles))
    probabilities = functional.softmax(wsinfer_logits(tmp_path, tiles), dim=1)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
