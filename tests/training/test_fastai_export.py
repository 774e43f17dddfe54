"""fastai exports become bundles that compute the same, or are refused with the reason."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histoslide_cli.main import main
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastai.callback.core import Callback
    from fastai.data.transforms import Normalize
    from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
    from fastai.vision.augment import (
        CropPad,
        RandomResizedCrop,
        Resize,
        ResizeMethod,
        aug_transforms,
    )
    from fastai.vision.core import imagenet_stats
    from fastai.vision.data import ImageDataLoaders
    from fastai.vision.learner import vision_learner

from histoslide.errors import BundleError, OutputExistsError
from histoslide.model import ModelSpec, load_bundle, make_model
from histoslide.store import open_heatmap
from histoslide.synthetic import scene_slide
from histoslide.training.fastai_export import ExportFacts, read_export, write_export

CPU = "cpu"
FACTS = ExportFacts(mpp=0.972, input_px=48, label_px=16)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secret-project")
    rng = np.random.default_rng(0)
    for name in ("normal", "tumour"):
        (folder / name).mkdir()
        for i in range(4):
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(
                folder / name / f"{i}.png"
            )
    return folder


def learner_on(patches: Path, data: dict[str, Any] | None = None, **options: Any) -> Any:
    """A Learner as a notebook makes it, with weights of its own."""
    torch.manual_seed(0)
    loaders = ImageDataLoaders.from_folder(
        patches, valid_pct=0.5, seed=1, bs=2, num_workers=0, device=CPU, **data or {}
    )
    learner = vision_learner(loaders, resnet18, pretrained=False, **options)
    for module in learner.model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return learner


def fastai_export(learner: Any, path: Path) -> Path:
    learner.export(path.absolute())
    return path


def notebook_probabilities(learner: Any) -> tuple[Tensor, Tensor]:
    """What fastai's own ``get_preds`` says of the validation patches, and the patches."""
    with learner.no_bar(), learner.no_logging():
        probabilities, _ = learner.get_preds()
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in learner.dls.valid.items]
    return probabilities, torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


PREPARATIONS: dict[str, tuple[Callable[[], dict[str, Any]], int, float]] = {
    "as they are": (dict, 48, 1e-4),
    "normalised": (
        lambda: {"batch_tfms": Normalize.from_stats(*imagenet_stats, cuda=False)},
        48,
        1e-4,
    ),
    "squished and augmented": (
        lambda: {
            "item_tfms": Resize(64, ResizeMethod.Squish),
            "batch_tfms": [*aug_transforms(), Normalize.from_stats(*imagenet_stats, cuda=False)],
        },
        64,
        0.02,
    ),
    "cropped to the same": (lambda: {"item_tfms": Resize(32)}, 32, 0.02),
}
"""Transforms, the size that the network sees, and how far probabilities may be off: fastai resizes
8-bit pictures, and an untrained network makes much of their rounding."""


@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_bundle_from_an_export_predicts_what_the_notebook_does(
    patches: Path, tmp_path: Path, name: str
) -> None:
    transforms, network_px, tolerance = PREPARATIONS[name]
    learner = learner_on(patches, transforms())
    spec, state = read_export(fastai_export(learner, tmp_path / "export.pkl"), FACTS)
    assert (spec.architecture, spec.classes, spec.tumour_class) == (
        "resnet18",
        ("normal", "tumour"),
        "tumour",
    )
    assert (spec.input_px, spec.label_px, spec.mpp, spec.network_px) == (48, 16, 0.972, network_px)
    normalised = "batch_tfms" in transforms()
    mean, std = imagenet_stats if normalised else ((0, 0, 0), (1, 1, 1))
    assert spec.mean == pytest.approx(mean, abs=1e-5)
    assert spec.std == pytest.approx(std, abs=1e-5)
    assert spec.training["converted_from"]["file"] == "export.pkl"
    expected, tiles = notebook_probabilities(learner)
    assert expected.std() > 0.02
    ours = make_model(spec, state, sha256="0", device=CPU).probabilities(tiles)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        ({"item_tfms": CropPad(40)}, {}, "only whole patches, resized and normalised"),
        ({"item_tfms": RandomResizedCrop(48)}, {}, "only whole patches, resized and normalised"),
        ({}, {"y_range": (0, 1)}, "computes something else than a resnet18"),
        ({}, {"lin_ftrs": [64]}, "not vision_learner's own head of 2 classes"),
        ({}, {"loss_func": BCEWithLogitsLossFlat()}, "trained with BCEWithLogitsLoss, but"),
        ({}, {"loss_func": MSELossFlat()}, "trained with MSELoss, but"),
    ],
    ids=["centre crop", "validation crop", "sigmoid at the end", "other head", "bce", "mse"],
)
def test_what_histoslide_would_compute_differently_is_refused(
    patches: Path, tmp_path: Path, data: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    path = fastai_export(learner_on(patches, data, **options), tmp_path / "export.pkl")
    with pytest.raises(BundleError, match=reason) as caught:
        read_export(path, FACTS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def plain(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fastai_export(learner_on(patches), tmp_path_factory.mktemp("plain") / "export.pkl")


def test_resizing_on_the_device_is_taken_with_a_word(
    patches: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = learner_on(patches, {"batch_tfms": aug_transforms(size=32)})
    spec, _ = read_export(fastai_export(learner, tmp_path / "e.pkl"), FACTS)
    assert spec.network_px == 32
    assert "resizes pictures in another way" in caplog.text


@pytest.mark.parametrize("missing", ["mpp", "input_px", "label_px"])
def test_what_is_not_recorded_must_be_said(plain: Path, missing: str) -> None:
    facts = dataclasses.replace(FACTS, **{missing: None})
    with pytest.raises(BundleError, match=rf"--to bundle --{missing.replace('_', '-')} [A-Z]+$"):
        read_export(plain, facts)
    with pytest.raises(BundleError, match=r"--mpp UM --input-px PX --label-px PX$"):
        read_export(plain)


def test_class_names_are_given_in_order(plain: Path) -> None:
    facts = dataclasses.replace(FACTS, classes=("lymphoid", "deposit"))
    with pytest.raises(BundleError, match="lymphoid, deposit means tumour: pass --tumour"):
        read_export(plain, facts)
    spec, _ = read_export(plain, dataclasses.replace(facts, tumour="deposit", licence="CC0"))
    assert (spec.classes, spec.tumour_class, spec.licence) == (facts.classes, "deposit", "CC0")
    with pytest.raises(BundleError, match=r"gives 1 names for \['normal', 'tumour'\]"):
        read_export(plain, dataclasses.replace(FACTS, classes=("one",)))


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"\x80\x02c__main__\nGone\nq\x00."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "export.pkl"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"export\.pkl cannot be opened as a pickle") as caught:
        read_export(path, FACTS)
    assert "\n" not in str(caught.value)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match="holds a dict, not a fastai Learner"):
        read_export(path, FACTS)
    with pytest.raises(BundleError, match=r"gone\.pkl does not exist"):
        read_export(tmp_path / "gone.pkl", FACTS)


SPEC = ModelSpec(
    name="mine",
    architecture="resnet18",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    input_px=48,
    label_px=16,
    network_px=48,
    temperature=1.3,
    licence="CC0",
    mean=(0, 0, 0),
    std=(1, 1, 1),
    training={"seed": 7},
    mpp=0.972,
)


class Nosy(Callback):  # type: ignore[misc]
    """A callback that remembers a folder, as one that writes checkpoints does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


Nosy.__module__ = "histoslide.training.nosy"  # such callbacks stay at home


def test_what_is_written_is_read_without_being_told_anything(patches: Path, tmp_path: Path) -> None:
    learner, path = learner_on(patches), tmp_path / "new" / "export.pkl"
    learner.add_cb(Nosy(patches))
    write_export(learner, path, SPEC)
    spec, state = read_export(path)
    assert spec == SPEC
    assert all(torch.equal(value, state[key]) for key, value in learner.model.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["export.pkl"]
    renamed, _ = read_export(path, ExportFacts(classes=("clear", "deposit"), mpp=0.5))
    assert (renamed.classes, renamed.tumour_class, renamed.mpp) == (
        ("clear", "deposit"),
        "deposit",
        0.5,
    )


def test_fastai_itself_loads_what_is_written(patches: Path, tmp_path: Path) -> None:
    learner, path = learner_on(patches), tmp_path / "export.pkl"
    write_export(learner, path, SPEC)
    loaded = torch.load(path, weights_only=False)  # as fastai's load_learner does
    _, _, probabilities = predict(loaded, patches / "tumour" / "0.png")
    tile = np.asarray(Image.open(patches / "tumour" / "0.png"))
    tiles = torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = functional.softmax(learner.model.eval()(tiles / 255), dim=1)[0]
    torch.testing.assert_close(torch.as_tensor(probabilities), expected, rtol=0, atol=1e-5)


def predict(learner: Any, path: Path) -> Any:
    with learner.no_bar(), learner.no_logging():
        return learner.predict(path)


def test_an_export_tells_nothing_of_the_machine_and_leaves_the_learner_alone(
    patches: Path, tmp_path: Path
) -> None:
    learner, path = learner_on(patches), tmp_path / "export.pkl"
    nosy = Nosy(patches)
    learner.add_cb(nosy)
    before = learner.path, learner.dls.path, list(learner.cbs), len(learner.dls.train_ds)
    assert before[0] == patches  # it would have been written
    write_export(learner, path, SPEC)
    assert str(patches).encode() not in path.read_bytes()
    assert str(tmp_path).encode() not in path.read_bytes()
    assert before == (learner.path, learner.dls.path, list(learner.cbs), len(learner.dls.train_ds))
    assert not hasattr(learner, "histoslide_spec")
    assert nosy.learn is learner
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_export(learner, path)
    write_export(learner, path, overwrite=True)
    with pytest.raises(BundleError, match="does not record what its patches were"):
        read_export(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        write_export(learner, tmp_path / "file" / "export.pkl")


def test_the_commands_take_a_trusted_export(
    patches: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, slide = tmp_path / "m.safetensors", tmp_path / "node.tif"
    convert = ["model", "convert", str(plain), "--trust-pickle", "--to", "bundle"]
    convert += ["--out", str(bundle)]
    assert main(convert) == 2
    assert "convert it with histoslide model convert" in capsys.readouterr().err
    facts = ["--mpp", "0.972", "--input-px", "48", "--label-px", "16", "--licence", "CC0"]
    assert main([*convert, *facts, "--class-names", "a", "b", "--tumour", "b", "--half"]) == 0
    spec, _ = load_bundle(bundle)
    assert (spec.name, spec.classes, spec.tumour_class) == ("export", ("a", "b"), "b")
    folder = tmp_path / "ws"
    convert[convert.index("bundle")], convert[-1] = "wsinfer", str(folder)
    assert main([*convert, *facts]) == 0
    assert json.loads((folder / "config.json").read_text())["patch_size_pixels"] == 48

    learner, own = learner_on(patches), tmp_path / "own.pkl"
    write_export(learner, own, SPEC)
    scene_slide(slide, width=300, height=200, mpp=0.972, seed=3)
    score = ["score", str(slide), "--stride", "48", "--no-overlay", "--device", "cpu"]
    capsys.readouterr()
    assert (
        main([*score, "--out", str(tmp_path / "a.zarr"), "--model", str(plain), "--trust-pickle"])
        == 2
    )
    assert "convert it with" in capsys.readouterr().err
    assert (
        main([*score, "--out", str(tmp_path / "p.zarr"), "--model", str(own), "--trust-pickle"])
        == 0
    )
    own_bundle = tmp_path / "own.safetensors"
    convert = ["model", "convert", str(own), "--trust-pickle", "--to", "bundle"]
    assert main([*convert, "--out", str(own_bundle)]) == 0
    assert main([*score, "--out", str(tmp_path / "b.zarr"), "--model", str(own_bundle)]) == 0
    from_pickle, from_bundle = (
        open_heatmap(tmp_path / name).probability() for name in ("p.zarr", "b.zarr")
    )
    assert np.isfinite(from_pickle).any()
    np.testing.assert_allclose(from_pickle, from_bundle, atol=1e-5)


def test_training_goes_on_from_an_export_of_a_notebook(
    patches: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    command = ["train", str(patches), "--pretrained", str(plain), "--trust-pickle"]
    command += ["--arch", "resnet18", "--mpp", "0.972", "--patch-size", "48", "--size", "32"]
    command += ["--valid-fraction", "0.5", "--batch-size", "2", "--epochs", "1"]
    command += ["--freeze-epochs", "0", "--lr", "1e-12", "--device", "cpu", "--out", str(out)]
    assert main(command) == 2
    assert "--label-px PX" in capsys.readouterr().err  # nothing is guessed
    assert main([*command, "--label-size", "16"]) == 0
    _, given = read_export(plain, FACTS)
    _, state = load_bundle(out)
    learnt = [name for name in given if name.endswith(("weight", "bias"))]
    assert len(learnt) > 60
    assert all(torch.allclose(state[name], given[name], atol=1e-6) for name in learnt)
