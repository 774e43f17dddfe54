"""``histoslide model``: what it shows, what it writes, what it refuses."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from histoslide_cli.main import main

from histoslide.model import default_bundle, load_bundle, measure_bundle, read_spec
from histoslide.model.architectures import build_network
from histoslide.synthetic import scene_slide


class Bomb:
    """Makes a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_info_of_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    spec = read_spec(default_bundle())
    assert facts["spec"] == json.loads(spec.to_json())
    assert facts["parameters"] == sum(p.numel() for p in build_network("resnet50", 2).parameters())
    assert facts["size_bytes"] == default_bundle().stat().st_size
    assert facts["number_types"] == ["F16"]
    assert facts["verified"] is None
    assert main(["model", "info"]) == 0
    out = capsys.readouterr().out
    for words in (
        "pcam-resnet50",
        "resnet50, 25,6",
        "normal, tumour; the heatmap shows tumour",
        "96 px at 0.972 µm/px = 93.3 µm",
        "of the centre 32 px = 31.1 µm",
        "Apache-2.0",
        "sensitivity at 95 % specificity",
        facts["sha256"],
    ):
        assert words in out
    assert "verified" not in out
    assert max(map(len, out.splitlines())) <= 100


def test_info_needs_no_weights_and_verify_does(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(small_bundle.read_bytes())
    path = tmp_path / "tampered.safetensors"
    path.write_bytes(data)
    assert main(["model", "info", str(path), "--verify"]) == 0
    assert "verified" in capsys.readouterr().out
    data[-1000] ^= 1
    path.write_bytes(data)
    assert main(["model", "info", str(path)]) == 0
    assert "resnet18" in capsys.readouterr().out
    assert main(["model", "info", str(path), "--verify"]) == 2
    captured = capsys.readouterr()
    assert "sha256 mismatch" in captured.err
    assert captured.out == ""


def test_a_bundle_is_written_again_with_another_name_and_precision(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "full.safetensors"
    arguments = ["model", "convert", str(small_bundle), "--to", "bundle", "--out", str(out)]
    assert main([*arguments, "--name", "second", "--licence", "CC0"]) == 0
    assert capsys.readouterr().out == f"small.safetensors → {out}\n"
    before, state = load_bundle(small_bundle)
    after, again = load_bundle(out)
    assert (after.name, after.licence, after.mpp) == ("second", "CC0", before.mpp)
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert measure_bundle(out).number_types == ("F32",)
    assert main(arguments) == 2
    assert "exists: pass --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--half", "--overwrite"]) == 0
    assert measure_bundle(out).number_types == ("F16",)


def test_a_wsinfer_folder_is_written(small_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "for-qupath"
    assert main(["model", "convert", str(small_bundle), "--to", "wsinfer", "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["class_names"] == ["normal", "tumour"]
    assert (out / "torchscript_model.pt").stat().st_size > 40e6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "bundle", "--out", "m.pt"], r"m.pt must end in .safetensors"),
        (["--to", "wsinfer", "--out", "m", "--half"], "--half is for bundles"),
        (["--to", "bundle", "--out", "m.safetensors", "--mpp", "0.5"], "records its mpp itself"),
        (["--to", "bundle", "--out", "m.safetensors", "--licence", "x"], ""),
    ],
)
def test_options_that_do_not_fit(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["model", "convert", str(small_bundle), *options]) == (2 if words else 0)
    error = capsys.readouterr().err
    assert words in error
    assert bool(list(tmp_path.iterdir())) == (not words)


def test_no_pickle_is_opened_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuse, path = tmp_path / "exploded", tmp_path / "export.pkl"
    path.write_bytes(pickle.dumps(Bomb(fuse)))
    slide, heat = tmp_path / "node.tif", tmp_path / "heat.zarr"
    scene_slide(slide, width=300, height=200, mpp=0.972, seed=3)
    score = ["score", str(slide), "--out", str(heat), "--model", str(path)]
    convert = ["model", "convert", str(path), "--to", "bundle"]
    convert += ["--out", str(tmp_path / "m.safetensors")]
    for command in (score, convert):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "export.pkl is a pickle" in error
        assert "pass --trust-pickle" in error
        assert error.count("\n") == 1
    assert main(["model", "info", str(path)]) == 2
    assert "histoslide model convert" in capsys.readouterr().err
    assert not fuse.exists()
    assert not heat.exists()
    assert main([*convert, "--trust-pickle"]) == 2  # it is none of fastai's, but it was opened
    assert "export.pkl" in capsys.readouterr().err
    assert fuse.exists()


def test_the_model_command_needs_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["model"])
    assert exit_.value.code == 2
    assert "ACTION" in capsys.readouterr().err
