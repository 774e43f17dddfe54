"""The bundles that ship: what they say of themselves, and that they say so truly."""

import io
import json
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest
from histoslide_cli.main import main
from PIL import Image
from sklearn.metrics import roc_auc_score

from histoslide.model import default_bundle, load_model, read_spec, shipped_bundle
from histoslide.model.bundle import file_sha256

ROOT = Path(__file__).parents[2]


def test_it_is_what_the_design_says() -> None:
    spec = read_spec(default_bundle())
    assert (spec.architecture, spec.input_px, spec.label_px, spec.mpp) == (
        "resnet50",
        96,
        32,
        0.972,
    )
    assert spec.classes == ("normal", "tumour")
    assert spec.tumour_class == "tumour"
    assert spec.licence == "Apache-2.0"
    assert default_bundle().stat().st_size < 60e6


def test_the_model_card_is_up_to_date() -> None:
    make = runpy.run_path(str(ROOT / "docs" / "make_model_card.py"))
    card = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    assert card == make["make_card"]()
    card = (ROOT / "docs" / "model-card-light.md").read_text(encoding="utf-8")
    assert card == make["light_card"]()


@pytest.mark.parametrize(
    "bundle", [default_bundle(), shipped_bundle("light")], ids=lambda path: path.stem
)
def test_what_the_card_tells_was_seen_of_these_weights(bundle: Path) -> None:
    sha256 = file_sha256(bundle)
    folder, name = ROOT / "docs" / "weights", bundle.stem
    assert json.loads((folder / f"{name}.report.json").read_text())["sha256"] == sha256
    slides = json.loads((folder / f"{name}.slides.json").read_text())
    assert len(slides) == 5
    assert {slide["model_sha256"] for slide in slides} == {sha256}
    runs = json.loads((folder / f"{name}.stages.json").read_text())
    before = read_spec(bundle).training["pretrained"]["sha256"]
    assert before == runs[-1]["sha256"]


def test_the_light_one_is_asked_for_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", "light", "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["spec"]["name"], told["spec"]["architecture"]) == (
        "pcam-efficientnet-lite0",
        "timm/tf_efficientnet_lite0",
    )


def test_its_recorded_figures_hold_on_real_patches(real_data: Path) -> None:
    """A sample of the validation patches gives the recorded AUC, within sampling error."""
    spec = read_spec(default_bundle())
    rng = np.random.default_rng(1)
    tiles, labels = [], []
    with tarfile.open(real_data / "pcam" / "valid.tar.gz") as archive:
        members = [m for m in archive if m.name.endswith(".jpg")]
        for index in rng.permutation(len(members))[:300]:
            file = archive.extractfile(members[index])
            assert file is not None
            tiles.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
            labels.append(int(members[index].name.split("/")[1]))
    model = load_model(device="cpu")
    parts = np.split(np.stack(tiles).transpose(0, 3, 1, 2), 6)
    found = np.concatenate([model.probabilities(part) for part in parts])
    auc = roc_auc_score(labels, found[:, spec.tumour_index])
    assert auc == pytest.approx(spec.training["validation"]["auc"], abs=0.04)
