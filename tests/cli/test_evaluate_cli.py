"""``histoslide evaluate patches`` as a user meets it."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from histoslide_cli.main import main
from PIL import Image

from histoslide.datasets import PatchFolder, Split, save_split
from histoslide.evaluation.bootstrap import FEWEST_SLIDES
from histoslide.evaluation.patches.assessment import assess
from histoslide.evaluation.patches.perturbations import PERTURBATIONS
from histoslide.evaluation.patches.predictions import Predictions
from histoslide.model import load_bundle, load_model, save_bundle

COUNT = 8


def write_patches(folder: Path, count: int = COUNT, *, side: int = 96, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{folder.name}-{seed}-{i}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patches of noise in each class of train and valid."""
    root = tmp_path_factory.mktemp("data") / "noise"
    for seed, part in enumerate(("train", "valid")):
        for label in ("0", "1"):
            write_patches(root / part / label, seed=2 * seed + int(label))
    return root


def evaluate(data: Path, bundle: Path, *options: str) -> int:
    return main(["evaluate", "patches", str(data), "--model", str(bundle), *options])


def test_the_figures_are_those_of_the_library(
    data: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(data, small_bundle, "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    model = load_model(small_bundle)
    paths = [p for k in "01" for p in sorted((data / "valid" / k).iterdir())]
    tiles = np.stack([np.asarray(Image.open(path)) for path in paths])
    logits = model.logits(tiles.transpose(0, 3, 1, 2))
    expected = assess(
        Predictions(
            logits=logits,
            labels=np.repeat([0, 1], COUNT),
            names=tuple(path.stem for path in paths),
            classes=("normal", "tumour"),
            tumour=1,
        ),
        temperature=model.spec.temperature,
    )
    assert told["figures"]["patches"] == 2 * COUNT
    assert told["figures"]["auc"] == pytest.approx(expected.figures.auc)
    assert told["confusion"] == expected.confusion.tolist()
    assert told["report"] is None
    assert "0 as normal, 1 as tumour" in captured.err


def test_a_person_gets_a_table_and_a_report(
    data: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    assert evaluate(data, small_bundle, "--part", "all", "--out", str(out), "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0].split() == ["patches", "32", "(normal", "16,", "tumour", "16)"]
    assert lines[-1].split() == ["report", str(out / "report.html")]
    assert any(line.startswith("AUC ") and "95 %" in line for line in lines)
    assert (out / "report.html").is_file()
    assert len(Predictions.load(out / "predictions.csv")) == 32
    before = (out / "report.html").read_bytes()
    assert evaluate(data, small_bundle, "--out", str(out)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == before
    assert evaluate(data, small_bundle, "--out", str(out), "--overwrite") == 0
    assert len(Predictions.load(out / "predictions.csv")) == 16


def test_files_of_others_are_refused_before_anything_is_predicted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("predictions.csv", "roc.png", "samples-1.png"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        # A model that is not there would be found missing first if anything came before.
        assert evaluate(data, tmp_path / "no.safetensors", "--out", str(folder)) == 2
        assert f"{name} exists: pass --overwrite" in capsys.readouterr().err
        assert (folder / name).read_text() == "mine"


def test_the_split_of_a_run_with_extra_folders(
    data: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_patches(tmp_path / "more" / "1", 3, seed=9)
    extra, table = (tmp_path / "more",), tmp_path / "split.csv"
    split = Split(kind="random", fraction=0.5)
    save_split(PatchFolder(root=data, extra=extra).divide(split), table)
    options = ["--split", str(table), "--json"]
    assert evaluate(data, small_bundle, *options) == 2
    assert "give the data, --extra" in capsys.readouterr().err
    assert evaluate(data, small_bundle, *options, "--extra", str(extra[0])) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["patches"] == 2 * COUNT
    predict = ["--extra", str(extra[0]), "--predict", str(tmp_path / "p.csv")]
    assert evaluate(data, small_bundle, *predict) == 2
    assert "to which --extra says nothing" in capsys.readouterr().err


def test_slides_and_threshold_and_symmetries(
    data: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "slides.csv"
    names = [p.stem for k in "01" for p in sorted((data / "valid" / k).iterdir())]
    rows = [f"{name},s{i % FEWEST_SLIDES}\n" for i, name in enumerate(names)]
    rows += [f"{path.stem},other\n" for path in (data / "train").glob("*/*.png")]
    table.write_text("".join(["name,slide\n", *rows]))
    options = ["--part", "valid", "--json", "--threshold", "0", "--slides", str(table)]
    assert evaluate(data, small_bundle, *options) == 0
    once = json.loads(capsys.readouterr().out)
    assert once["resampled"] == "slides"
    assert [slide["patches"] for slide in once["by_slide"]] == [2] * FEWEST_SLIDES
    assert once["confusion"] == [[0, COUNT], [0, COUNT]]
    assert evaluate(data, small_bundle, *options, "--tta") == 0
    turned = json.loads(capsys.readouterr().out)
    assert turned["tta"] is True
    assert turned["figures"]["loss"] != once["figures"]["loss"]


def test_robustness_is_a_table_for_people_and_programs(
    data: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [it.name for it in PERTURBATIONS]
    out = tmp_path / "out"
    assert evaluate(data, small_bundle, "--robustness", "--out", str(out), "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("patches changed by")))
    assert lines[start + 1].startswith("nothing  ")
    for line, name in zip(lines[start + 2 :], names, strict=False):
        assert line.startswith(f"{name}  ")
        assert line.endswith("%")
    table = json.loads((out / "figures.json").read_text(encoding="utf-8"))["robustness"]
    assert '<h2 id="robustness">' in (out / "report.html").read_text(encoding="utf-8")
    assert evaluate(data, small_bundle, "--robustness", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["robustness"] == table
    assert table["auc"] == pytest.approx(told["figures"]["auc"])
    assert [row["change"] for row in table["changes"]] == names
    for row in table["changes"]:
        assert row["auc_difference"] == pytest.approx(row["auc"] - table["auc"])
        assert 0 <= row["decisions_changed"] <= 1
    assert evaluate(data, small_bundle, "--predict", str(tmp_path / "p"), "--robustness") == 2
    assert "--robustness says nothing" in capsys.readouterr().err


def test_unlabelled_patches_get_a_submission(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "loose", tmp_path / "out" / "submission.csv"
    write_patches(folder, 5)
    assert evaluate(folder, small_bundle, "--predict", str(out)) == 0
    assert capsys.readouterr().out == f"{out}: 5 patches\n"
    with out.open() as file:
        rows = list(csv.DictReader(file))
    model = load_model(small_bundle)
    for row in rows:
        pixels = np.asarray(Image.open(folder / f"{row['id']}.png"))
        expected = float(model.probabilities(pixels.transpose(2, 0, 1)[None])[0, 1])
        assert float(row["label"]) == pytest.approx(expected, abs=1e-4)
    assert evaluate(folder, small_bundle, "--predict", str(out)) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_several_classes_are_listed(
    small_bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, state = load_bundle(small_bundle)
    bundle = tmp_path / "tissues.safetensors"
    spec = dataclasses.replace(spec, classes=("fat", "muscle"), tumour_class=None)
    save_bundle(bundle, spec, state)
    assert evaluate(data, bundle, "--class-names", "muscle", "fat") == 0
    out = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(out) if line.startswith("class "))
    assert [line.split()[:2] for line in out[start + 1 : start + 3]] == [
        ["fat", "8"],
        ["muscle", "8"],
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold", "1.5"], "must lie in 0-1, not 1.5"),
        (["--class-names", "normal"], "--class-names gives 1 names"),
        (["--class-names", "fat", "muscle"], "the data have the classes fat, muscle"),
        (["--workers", "0"], "--workers must be at least 1, not 0"),
        (["--predict", "x.csv", "--part", "all"], "--part says nothing"),
        (["--predict", "x.csv", "--out", "folder"], "--out says nothing"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: list[str],
    said: str,
    data: Path,
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(data, small_bundle, "--quiet", *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("histoslide: error: ")
    assert said in line
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused_before_the_work(
    data: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert evaluate(data, small_bundle, "--out", str(tmp_path / "file")) == 2
    assert "is a file: name a folder" in capsys.readouterr().err


def test_patches_of_another_size_and_damaged_ones_are_named(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("0", "1"):
        write_patches(tmp_path / "small" / label, 4, side=64)
        write_patches(tmp_path / "broken" / label, 4)
    assert evaluate(tmp_path / "small", small_bundle) == 2
    assert "is 64×64 px, the model small sees 96×96" in capsys.readouterr().err
    (tmp_path / "broken" / "1" / "1-0-0.png").write_text("not a picture")
    out = tmp_path / "out"
    assert evaluate(tmp_path / "broken", small_bundle, "--out", str(out)) == 2
    err = capsys.readouterr().err
    assert "1-0-0.png" in err
    assert "--skip-bad leaves such patches out" in err
    assert not out.exists()
    assert evaluate(tmp_path / "broken", small_bundle, "--skip-bad", "--json") == 0
    assert json.loads(capsys.readouterr().out)["figures"]["patches"] == 7
    assert evaluate(tmp_path / "absent", small_bundle) == 2


def test_the_shipped_model_on_real_patches(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first patches of the Kaggle sample: far from guessing."""
    import tarfile

    with tarfile.open(real_data / "kaggle-sample.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "kaggle-sample"
    table = root / "train_labels.csv"
    head = table.read_text().splitlines()
    some = [[row for row in head[1:] if row.endswith(label)][:20] for label in (",0", ",1")]
    pairs = [row for pair in zip(*some, strict=True) for row in pair]
    table.write_text("\n".join([head[0], *pairs]) + "\n")
    listed = {row.partition(",")[0] for row in pairs}
    for path in (root / "train").iterdir():
        if path.stem not in listed:
            path.unlink()
    assert main(["evaluate", "patches", str(root), "--part", "all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"]["patches"] == 40
    assert told["figures"]["auc"] > 0.75
