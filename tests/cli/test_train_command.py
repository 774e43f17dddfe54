"""``histoslide train`` from folders of patches to a bundle, a run folder and a report."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import add_tiny
from fastai.learner import load_learner
from fastai.vision.core import PILImage
from histoslide_cli.main import build_parser, main
from histoslide_cli.train_options import choose_recipe
from histoslide_cli.train_progress import TrainProgress
from PIL import Image

from histoslide.errors import HistoslideError
from histoslide.model import load_model, read_spec
from histoslide.model.bundle import file_sha256
from histoslide.model.fast_paths import read_fast_paths
from histoslide.synthetic import scene_slide
from histoslide.tiling.slide import tile_slide
from histoslide.training.fit import TrainedModel
from histoslide.training.recipe import RECIPES
from histoslide.training.records import EpochRecord

CLASSES = ("TUMOR", "STROMA", "COMPLEX", "LYMPHO", "DEBRIS", "MUCOSA", "ADIPOSE", "EMPTY")
SMALL = ["--arch", "tiny", "--pretrained", "none", "--size", "32", "--batch-size", "16"]

pytestmark = pytest.mark.usefixtures("tiny")


def write_patches(folder: Path, classes: tuple[str, ...], count: int, side_px: int) -> Path:
    """Patches of as many colours as classes, each with its own noise."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        colour = np.array([40 + 25 * k, 220 - 20 * k, 120 + (k % 2) * 60])
        for i in range(count):
            noise = rng.integers(-20, 20, (side_px, side_px, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}-{i}.png")
    return folder


def read_log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pcam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patches(tmp_path_factory.mktemp("pcam"), ("0", "1"), 24, 96)


@pytest.fixture(scope="module")
def trained(pcam: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that one run of the pcam recipe leaves behind."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["--epochs", "1", "--freeze-epochs", "1", "--valid-fraction", "0.3", "--lr", "find"]
    outputs = ["--out", str(folder / "m.safetensors"), "--export-pkl", str(folder / "m.pkl")]
    names = ["--class-names", "normal", "tumour", "--name", "two colours", "--licence", "CC0"]
    command = ["train", str(pcam), *SMALL, *options, *outputs, *names, "--tensorboard", "--half"]
    with pytest.MonkeyPatch.context() as patch:
        add_tiny(patch)
        assert main(command) == 0
    return folder


def test_a_run_leaves_bundle_report_and_record(trained: Path, pcam: Path) -> None:
    spec = read_spec(trained / "m.safetensors")
    assert (spec.name, spec.licence, spec.tumour_class) == ("two colours", "CC0", "tumour")
    assert (spec.input_px, spec.network_px, spec.architecture) == (96, 32, "tiny")
    run = trained / "m.run"
    found = {path.name for path in run.iterdir()}
    assert found >= {
        "report.html", "figures.json", "predictions.csv", "log.jsonl", "split.csv", "recipe.json",
        "lr_find.json", "loss.png", "learning-rate.png", "learning-rate-finder.png", "roc.png",
        "precision-recall.png", "confusion.png", "reliability.png", "top-losses.png",
        "training-0-normal.png", "training-1-tumour.png", "tensorboard",
    }  # fmt: skip
    assert "checkpoint.pt" not in found
    assert [record["epoch"] for record in read_log(run)] == [1, 2]
    told = spec.training
    assert told["data"]["split"] == {"kind": "random", "fraction": 0.3, "seed": 42}
    assert told["data"]["train_patches"] == 34
    assert told["data"]["valid_patches"] == 14
    assert sum(told["data"]["train_classes"].values()) == 34
    found_rate = json.loads((run / "lr_find.json").read_text())["suggestion"]
    assert told["recipe"]["stages"][0]["lr"][-1] == pytest.approx(found_rate)
    assert str(pcam) not in spec.to_json()
    recorded = json.loads((run / "recipe.json").read_text())
    assert recorded == json.loads(json.dumps(told["recipe"]))


def test_tensorboard_gets_curves_patches_and_an_embedding(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = trained / "m.run" / "tensorboard"
    events = EventAccumulator(str(board))
    events.Reload()
    log = read_log(trained / "m.run")
    scalars = events.Tags()["scalars"]
    assert {"loss/step", "rate/group 1", "rate/group 3"} <= set(scalars)
    values = [event.value for event in events.Scalars("validation/AUC")]
    assert values == pytest.approx([record["auc"] for record in log])
    assert len(events.Scalars("loss/step")) == 2 * (34 // 16)
    assert events.Tags()["images"]
    labels = next(board.glob("*/default/metadata.tsv")).read_text().split()
    assert len(labels) == 14
    assert set(labels) == {"normal", "tumour"}
    rows = next(board.glob("*/default/tensors.tsv")).read_text().splitlines()
    assert len(rows) == 14
    assert len(rows[0].split("\t")) == 32  # 16 maps, averaged and maximal


def test_the_export_predicts_in_fastai_and_holds_no_patches(trained: Path, pcam: Path) -> None:
    with pytest.warns(UserWarning, match="insecure pickle"):
        learner = load_learner(trained / "m.pkl")
    text = (trained / "m.pkl").read_bytes()
    assert str(pcam).encode() not in text
    assert b"TUMOR-" not in text
    assert b"1-3" not in text
    assert len(learner.dls.train_ds.tfms[0][0].patches) == 0
    path = next((pcam / "1").iterdir())
    image = PILImage.create(path)
    with learner.no_bar(), learner.no_logging():
        answers = [learner.predict(item) for item in (image, path, str(path))]
    model = load_model(trained / "m.safetensors", device="cpu")
    tile = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    expected = torch.softmax(torch.from_numpy(model.logits(tile)), dim=1)[0]
    for name, index, probabilities in answers:
        assert name == model.spec.classes[int(index)]
        torch.testing.assert_close(torch.as_tensor(probabilities), expected, rtol=0, atol=5e-3)


def test_missing_data_are_said_before_fastai_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from histoslide_cli.main import main\n"
        f"assert main(['train', {str(tmp_path / 'nope')!r}]) == 2\n"
        "assert 'fastai' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("nope does not exist")


def test_a_finished_run_is_not_overwritten(
    trained: Path, pcam: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = trained / "m.safetensors"
    before = out.read_bytes()
    assert main(["train", str(pcam), *SMALL, "--out", str(out)]) == 2
    assert "m.safetensors exists: pass --overwrite" in capsys.readouterr().err
    other = ["--out", str(trained / "new.safetensors"), "--run", str(trained / "m.run")]
    assert main(["train", str(pcam), *SMALL, *other]) == 2
    assert "m.run exists: pass --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_saved_split_is_repeated(
    trained: Path, pcam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = trained / "m.run" / "split.csv"
    out = tmp_path / "again.safetensors"
    options = ["--epochs", "1", "--freeze-epochs", "0", "--split", str(split), "--json"]
    names = ["--class-names", "normal", "tumour"]
    assert main(["train", str(pcam), *SMALL, *options, *names, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["validation"]["patches"] == 14
    assert (tmp_path / "again.run" / "split.csv").read_text() == split.read_text()


def test_the_colorectal_recipe_learns_eight_textures(tmp_path: Path) -> None:
    data = write_patches(tmp_path / "kather", CLASSES, 14, 150)
    out = tmp_path / "kather.safetensors"
    options = ["--recipe", "colorectal", *SMALL, "--epochs", "8", "--freeze-epochs", "1"]
    less = ["--set", "presize_px=48", "--lr", "0.03", "--workers", "1"]
    assert main(["train", str(data), *options, *less, "--out", str(out)]) == 0
    spec = read_spec(out)
    assert spec.classes == tuple(sorted(CLASSES))
    assert spec.tumour_class is None
    assert (spec.input_px, spec.label_px, spec.mpp) == (150, 150, 0.495)
    assert spec.training["data"]["split"] == {"kind": "random", "fraction": 0.2, "seed": 42}
    assert spec.training["data"]["valid_patches"] == 22
    assert (tmp_path / "kather.run" / "report.html").exists()
    assert spec.training["validation"]["accuracy"] > 0.4  # an eighth by chance


def test_a_killed_run_goes_on_with_the_same_command(pcam: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    options = ["--epochs", "40", "--freeze-epochs", "0", "--valid-fraction", "0.3", "--quiet"]
    small = ["resnet18" if option == "tiny" else option for option in SMALL]
    command = [sys.executable, "-m", "histoslide_cli.main", "train", str(pcam), *small, *options]
    command += ["--out", str(out), "--set", "patience=1", "--lr", "1e-9"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    log = tmp_path / "m.run" / "log.jsonl"
    deadline = time.monotonic() + 200
    # Empty while no epoch is done.
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = read_log(log.parent)
    assert done
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    after = read_log(log.parent)
    for record, known in zip(after, done, strict=False):  # the last may have been trained again
        assert record["valid_loss"] == pytest.approx(known["valid_loss"], rel=1e-4)
    assert len(after) >= len(done)
    assert out.exists()


def interrupt_in(epoch: int, command: list[str]) -> None:
    """Run a command that is interrupted in the first step of an epoch."""
    step = TrainProgress.step

    def stop(self: TrainProgress, now: int, *others: Any) -> None:
        if now == epoch:
            raise KeyboardInterrupt
        step(self, now, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainProgress, "step", stop)
        assert main(command) == 130


def epochs_that_run(command: list[str]) -> list[int]:
    """Numbers of the epochs that a command trains until it is done."""
    seen, finish = [], TrainProgress.finish_epoch

    def note(self: TrainProgress, record: EpochRecord) -> None:
        seen.append(record.epoch)
        finish(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainProgress, "finish_epoch", note)
        assert main(command) == 0
    return seen


def quick(pcam: Path, out: Path, *options: str) -> list[str]:
    """Two epochs."""
    epochs = ["--epochs", "2", "--freeze-epochs", "0", "--valid-fraction", "0.3", "--quiet"]
    return ["train", str(pcam), *SMALL, *epochs, "--out", str(out), *options]


def test_an_interrupted_run_that_overwrites_goes_on(pcam: Path, tmp_path: Path) -> None:
    command = quick(pcam, tmp_path / "m.safetensors", "--overwrite", "--lr", "find")
    checkpoint = tmp_path / "m.run" / "checkpoint.pt"
    interrupt_in(2, command)
    assert epochs_that_run(command) == [2]
    assert not checkpoint.exists()
    interrupt_in(2, command)  # what is finished begins again
    assert checkpoint.exists()
    interrupt_in(1, [*command, "--batch-size", "8"])  # and what is another run is replaced
    assert not checkpoint.exists()


def test_a_run_with_other_settings_leaves_the_begun_one_as_it_is(
    pcam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = quick(pcam, tmp_path / "m.safetensors")
    interrupt_in(1, command)  # no epoch is done, and yet it has begun
    interrupt_in(2, command)
    before = {path.name: path.read_bytes() for path in (tmp_path / "m.run").iterdir()}
    assert main([*command, "--batch-size", "8"]) == 2
    assert "batch_size was 16, is 8" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in (tmp_path / "m.run").iterdir()}
    assert after == before


def test_a_foreign_export_is_not_overwritten_by_a_run_that_goes_on(
    pcam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = tmp_path / "mine.pkl"
    command = quick(pcam, tmp_path / "m.safetensors")
    interrupt_in(2, command)
    export.write_text("mine")
    command += ["--export-pkl", str(export)]
    assert main(command) == 2
    assert "mine.pkl exists: pass --overwrite" in capsys.readouterr().err
    assert export.read_text() == "mine"


def test_files_of_the_user_are_no_begun_run(
    pcam: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    recipe, split = folder / "recipe.json", folder / "split.csv"
    recipe.write_text('{"base": "pcam", "architecture": "tiny", "imagenet": false}')
    shutil.copy(trained / "m.run" / "split.csv", split)
    before = recipe.read_text(), split.read_text()
    command = quick(pcam, tmp_path / "m.safetensors", "--run", str(folder))
    for options, said in (
        ([], "exp exists: pass --overwrite"),
        (["--recipe", str(recipe)], "recipe.json would be written over"),
        (["--recipe", str(recipe), "--overwrite"], "recipe.json would be written over"),
        (["--split", str(split), "--overwrite"], "split.csv would be written over"),
    ):
        assert main([*command, *options]) == 2
        assert said in capsys.readouterr().err
        assert (recipe.read_text(), split.read_text()) == before
        assert set(folder.iterdir()) == {recipe, split}


def test_check_reports_and_does_not_train(
    pcam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(pcam), "--check", "--valid-fraction", "0.2"]) == 0
    told = capsys.readouterr().out
    assert "48 patches: 24 0 (50.0 %), 24 1 (50.0 %)" in told
    assert "96×96 px: 48" in told
    bad = write_patches(tmp_path / "bad", ("a", "b"), 4, 96)
    (bad / "a" / "a-0.png").write_bytes(b"no image")
    assert main(["train", str(bad), "--check", "--json", "--valid-fraction", "0.5"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert any("a-0.png" in problem for problem in report["problems"])


def test_check_says_when_the_recipe_wants_another_size(
    pcam: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--check", "--valid-fraction", "0.2", "--recipe", "colorectal"]
    assert main(["train", str(pcam), *options]) == 2
    told = capsys.readouterr()
    assert "problems: none" in told.out
    assert (
        "patches are 96×96 px, recipe colorectal trains on 150×150: pass --patch-size" in told.err
    )
    assert main(["train", str(pcam), *options, "--patch-size", "96", "--label-size", "96"]) == 0


def test_patches_of_another_size_are_counted_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_patches(tmp_path / "data", ("0", "1"), 8, 96)
    for name in ("0/0-1", "1/1-5"):
        Image.new("RGB", (96, 95)).save(data / f"{name}.png")
    out = tmp_path / "m.safetensors"
    command = ["train", str(data), *SMALL, "--valid-fraction", "0.4", "--out", str(out)]
    assert main([*command, "--epochs", "1", "--freeze-epochs", "0"]) == 2
    err = capsys.readouterr().err
    assert "patch 0-1 is 96×95 px, not 96×96 (the first of 2 such patches): pass --skip-bad" in err
    assert not list((tmp_path / "m.run").iterdir())  # nothing has begun
    assert main([*command, "--epochs", "1", "--freeze-epochs", "0", "--skip-bad"]) == 0
    assert read_spec(out).training["data"]["left_out"] == {"unreadable": 2}


def test_a_run_without_room_for_its_results_need_not_train_again(
    pcam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, export = tmp_path / "m.safetensors", tmp_path / "m.pkl"
    command = ["train", str(pcam), *SMALL, "--valid-fraction", "0.3", "--epochs", "1"]
    command += ["--freeze-epochs", "0", "--out", str(out), "--export-pkl", str(export)]

    def full(*_: object, **__: object) -> None:
        raise HistoslideError("no space left")

    for method in ("report", "save"):
        with monkeypatch.context() as patch:
            patch.setattr(TrainedModel, method, full)
            assert main(command) == 2
        assert not out.exists()
        assert [path.name for path in tmp_path.iterdir()] == ["m.run"]  # nor half an export
    trained = read_log(tmp_path / "m.run")
    capsys.readouterr()
    assert main(command) == 0
    assert read_log(tmp_path / "m.run") == trained  # the seconds too: nothing was trained anew
    assert out.exists()
    assert export.exists()
    assert not (tmp_path / "m.run" / "checkpoint.pt").exists()
    assert main(command) == 2  # now it is done, and not replaced unasked
    assert "--overwrite" in capsys.readouterr().err


# --- options --------------------------------------------------------------------------------------


def parse(*options: str) -> argparse.Namespace:
    return build_parser().parse_args(["train", "data", *options])


def test_options_change_the_recipe(tmp_path: Path) -> None:
    recipe = choose_recipe(
        parse(
            "--arch", "resnet34", "--size", "96", "--epochs", "3", "--freeze-epochs", "2",
            "--lr", "6e-3", "--weight-decay", "0.1", "--label-smoothing", "0.05", "--mixup", "0.2",
            "--ema", "0.9", "--patience", "4", "--class-weights", "1,2.5", "--precision", "bf16",
            "--keep", "last", "--batch-size", "32", "--pretrained", "none", "--split", "slide",
            "--set", "augmentation.stain=0.2", "--mpp", "1.0",
        )
    )  # fmt: skip
    assert (recipe.architecture, recipe.network_px, recipe.imagenet) == ("resnet34", 96, False)
    assert [stage.epochs for stage in recipe.stages] == [2, 3]
    assert recipe.stages[0].rates == pytest.approx((6e-4, 6e-4, 6e-3))
    assert recipe.stages[1].lr == pytest.approx((2e-6, 2e-5))
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.mixup) == (0.1, 0.05, 0.2)
    assert (recipe.ema_decay, recipe.patience, recipe.class_weights) == (0.9, 4, (1.0, 2.5))
    assert (recipe.precision, recipe.keep, recipe.batch_size) == ("bf16", "last", 32)
    assert (recipe.split, recipe.augmentation.stain, recipe.mpp) == ("slide", 0.2, 1.0)
    assert choose_recipe(parse()) == RECIPES["pcam"]
    random = tmp_path / "random.toml"
    random.write_text('base = "pcam"\nimagenet = false\n')
    pretrained = choose_recipe(parse("--recipe", str(random), "--pretrained", "imagenet"))
    assert [stage.trainable_groups for stage in pretrained.stages] == [1, None]
    # As fastai's vision_learner: what is not pretrained is not frozen, unless asked for.
    for options, groups in (
        (("--pretrained", "none"), [None, None]),
        (("--pretrained", "none", "--freeze-epochs", "2"), [1, None]),
        (("--pretrained", "other.safetensors"), [1, None]),
        (("--pretrained", "none", "--recipe", "from-scratch"), [None, None, None, None]),
        (("--set", "imagenet=false"), [None, None]),
        (("--set", "imagenet=false", "--epochs", "3", "--freeze-epochs", "2"), [1, None]),
        (("--set", "imagenet=false", "--pretrained", "other.safetensors"), [1, None]),
        (("--recipe", str(random)), [None, None]),
        (("--recipe", str(random), "--epochs", "3"), [None, None]),
    ):
        chosen = choose_recipe(parse(*options))
        assert not chosen.imagenet
        assert [stage.trainable_groups for stage in chosen.stages] == groups
    assert len(choose_recipe(parse("--freeze-epochs", "0")).stages) == 1
    assert not choose_recipe(parse("--pretrained", "shipped")).imagenet


@pytest.mark.parametrize(
    ("epochs", "shares"),
    [(1, [1]), (3, [1, 1, 1]), (15, [4, 3, 4, 4]), (30, [8, 6, 8, 8]), (16, [4, 3, 4, 5])],
)
def test_epochs_are_divided_among_the_stages_of_a_recipe(epochs: int, shares: list[int]) -> None:
    recipe = choose_recipe(parse("--recipe", "from-scratch", "--epochs", str(epochs)))
    assert sum(shares) == epochs
    assert [stage.epochs for stage in recipe.stages] == shares
    assert recipe.stages[-1].crop_px is None, "the last stage sees whole patches"


def test_size_is_that_of_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "growing.toml"
    stages = ["[[stages]]\nepochs = 1\nnetwork_px = 64\n", "[[stages]]\nepochs = 1\n"]
    path.write_text("\n".join(["network_px = 128\n", *stages]))
    for options, sides in (((), [64, 128]), (("--size", "96"), [96, 96])):
        recipe = choose_recipe(parse("--recipe", str(path), *options))
        assert [recipe.side_px(stage) for stage in recipe.stages] == sides


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "nothing"], "there is no recipe 'nothing'"),
        (["--lr", "fast"], "--lr fast is neither a positive number nor find"),
        (["--lr", "-1"], "--lr -1 is neither a positive number nor find"),
        (["--recipe", "from-scratch", "--freeze-epochs", "3"], "no stage that --freeze-epochs"),
        (["--freeze-epochs", "-1"], "--freeze-epochs must be at least 0, not -1"),
        (["--arch", "resnet18", "--pretrained", "shipped"], "no model that ships is a resnet18"),
        (["--epochs", "0"], "epochs must be at least 1, not 0"),
        (["--class-weights", "heavy"], "neither none, balanced, nor numbers"),
        (["--batch-size", "1"], "batch_size must be at least 2, not 1"),
        (["--set", "augmentation.max_shift=0.2"], "would move the centre 32 px"),
        (["--set", "augmentation.min_scale=0.5"], "would move the centre 32 px"),
        (["--out", "model.pt"], "must end in .safetensors"),
        (["--verify"], "--verify is a part of --check: pass both"),
        (["--workers", "-1"], "--workers must be 0 or more"),
        (["--precision", "fp16"], "fp16 trains on CUDA only"),
        (["--patch-size", "64"], r"is 96×96 px, not 64×64 (the first of 48.*--patch-size 96 and"),
        (["--size", "0"], "network_px must be at least 1, not 0"),
        (["--label-size", "97"], "label_px must be 1 to 96, the side of the patches, not 97"),
        (["--class-names", "a"], "gives 1 names"),
        (["--pretrained", "nothing.safetensors"], "does not exist: pass imagenet, shipped"),
        (["--pretrained", "x.pkl"], "pass --trust-pickle"),
        (["--pretrained", "imagenet"], "ImageNet weights"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(
    options: list[str], said: str, pcam: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import re

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    small = SMALL if "--pretrained" not in options else ["--arch", "resnet18"]
    arguments = ["train", str(pcam), *small, "--valid-fraction", "0.3", *options]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if "error:" in line]
    assert len(errors) == 1, err
    assert re.search(said.replace("(", r"\("), errors[0])
    assert not (tmp_path / "model.safetensors").exists()


def test_a_slide_without_labels_is_cut_into_patches(
    trained: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    slide = tmp_path / "node.tif"
    scene_slide(slide, width=1600, height=1200, mpp=0.5, seed=1)
    tiles = tile_slide(slide, tmp_path / "other", input_px=96, label_px=32, target_mpp=0.972).tiles
    out = tmp_path / "m.safetensors"
    teacher = ["--teacher", str(trained / "m.safetensors"), "--class-names", "normal", "tumour"]
    command = [*quick(pcam, out), *teacher, "--unlabelled", str(slide)]
    assert main(command) == 0
    assert read_spec(out).training["data"]["unlabelled_patches"] == tiles > 10
    unmeasured = tmp_path / "unmeasured.tif"
    white = np.full((600, 600, 3), 255, np.uint8)
    tifffile.imwrite(unmeasured, white, photometric="rgb", tile=(256, 256))
    assert main([*command, "--unlabelled", str(unmeasured), "--overwrite"]) == 5
    assert "unmeasured.tif records no resolution" in capsys.readouterr().err
    (tmp_path / "more").mkdir()
    twin = shutil.copy(slide, tmp_path / "more")
    assert main([*command, "--unlabelled", str(twin), "--overwrite"]) == 2
    assert "two slides are called node" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--overwrite"]) == 2
    assert "cut it with histoslide tile" in capsys.readouterr().err


def test_faster_paths_are_measured_at_the_end_where_patches_suffice(
    pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.safetensors"
    beside = out.with_name("m.fast-paths.json")
    command = quick(pcam, out)
    assert main(command) == 0
    assert not beside.exists()  # 14 patches are too few
    monkeypatch.setattr("histoslide.training.run.DEFAULT_RANGE_PATCHES", 6)
    assert main([*command, "--overwrite"]) == 0
    paths = read_fast_paths(out, sha256=file_sha256(out))
    assert paths is not None
    assert {name: gate.patches for name, gate in paths.gates.items()} == {"int8": 8, "bf16": 8}
    assert main([*command, "--overwrite", "--no-calibrate"]) == 0
    assert not beside.exists()  # they spoke of the weights that are gone
