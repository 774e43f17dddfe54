"""The commands as a user meets them: what they print, what they leave, how they exit."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from histoslide_cli.console import scrubbed_command
from histoslide_cli.main import COMMANDS, main
from PIL import Image

from histoslide.grid.status import Status
from histoslide.store import open_heatmap
from histoslide.synthetic import scene_slide, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "node.tif"
    scene_slide(path, width=900, height=700, mpp=0.972, seed=3)
    return path


@pytest.fixture
def no_mpp(tmp_path: Path) -> Path:
    path = tmp_path / "nompp.tif"
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 200, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    return path


def score(slide: Path, out: Path, bundle: Path, *options: str) -> int:
    return main(["score", str(slide), "--out", str(out), "--model", str(bundle), *options])


def test_help_and_version_answer_without_torch() -> None:
    code = "import sys; from histoslide_cli.main import main\ntry: main(['--help'])\n"
    code += "except SystemExit: pass\nassert not {'torch', 'numpy', 'zarr'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_command_ends_its_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit) as exit_:
            main([name, "--help"])
        assert exit_.value.code == 0
        assert f"example: histoslide {name}" in " ".join(capsys.readouterr().out.split()[-16:])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("socre x --mpp 1", "there is no 'socre': did you mean score? (see histoslide --help)"),
        ("score x --ouput y", "there is no --ouput: did you mean --out? (see histoslide score"),
        ("score x --out y --overwite", "there is no --overwite: did you mean --overwrite?"),
        ("score x --out y --mpp 0,25", "--mpp: '0,25' is not a number: write a decimal point"),
        ("score x --out y --mpp two", "--mpp: 'two' is not a number (see"),
        ("score x --out y --tissue Otsu", "there is no 'Otsu': did you mean otsu?"),
        ("export x --out y --to pdf", "there is no 'pdf': choose from geojson, csv,"),
        ("score x", "the following arguments are required: --out (see"),
        ("lesions a b", "unexpected: b (see histoslide lesions --help)"),
        ("model info --verfy", "did you mean --verify? (see histoslide model info --help)"),
    ],
)
def test_wrong_command_lines_get_one_line(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(line.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("histoslide: error: ")
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("line", ["", "model", "evaluate"])
def test_without_a_command_there_is_help(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(line.split())
    assert exit_.value.code == 2
    assert "show this help message" in capsys.readouterr().err


def test_abbreviated_options_and_values_stay_what_they_are(tmp_path: Path) -> None:
    slide = tmp_path / "none.svs"
    assert main(["info", str(slide), "--mask-p=x.png", "--mpp", "0.5"]) == 2  # the slide's fault


def test_info_shows_and_lists(
    slide: Path, no_mpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(slide)]) == 0
    out = capsys.readouterr().out
    assert "900 × 700 px" in out
    assert "0.972 µm/px (slide metadata)" in out
    assert "reader      tiff tiles\n" in out
    assert main(["info", str(slide), "--json", "--mpp", "0.5"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["mpp"], facts["mpp_source"]) == (0.5, "--mpp")
    assert {level["reader"] for level in facts["levels"]} == {"tiff tiles"}
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    assert main(["info", str(slide), str(no_mpp), str(text)]) == 3
    captured = capsys.readouterr()
    assert "unknown: pass --mpp" in captured.out
    assert "text.svs is not a slide" in captured.err
    assert main(["info", str(text)]) == 2


def test_info_draws_mask_and_grid(slide: Path, tmp_path: Path) -> None:
    target = tmp_path / "mask.png"
    assert main(["info", str(slide), "--mask-png", str(target)]) == 0
    with Image.open(target) as image:
        assert image.size[0] > 900
    assert main(["info", str(slide), "--mask-png", str(target)]) == 2


def test_score_leaves_a_heatmap_and_a_picture(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "heat.zarr"
    assert score(slide, out, small_bundle, "--mask-png") == 0
    captured = capsys.readouterr()
    heat = open_heatmap(out)
    scored = int((heat.status == Status.SCORED).sum())
    assert f"{scored:,} of" in captured.out
    assert scored > 50
    assert "model small on" in captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "heat-lesions.csv", "heat-lesions.json", "heat-mask.png", "heat.png", "heat.zarr",
    ]  # fmt: skip
    # once more: nothing to do, and nothing is touched
    before = (tmp_path / "heat.png").stat().st_mtime_ns
    assert score(slide, out, small_bundle) == 0
    assert (tmp_path / "heat.png").stat().st_mtime_ns == before
    assert score(slide, out, small_bundle, "--stride", "48") == 2
    assert "stride_px was 32, is 48" in capsys.readouterr().err
    assert score(slide, out, small_bundle, "--stride", "48", "--overwrite", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["state"] == "done"
    assert open_heatmap(out).grid.stride_px == 48


def test_score_quiet_says_only_the_result(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(slide, tmp_path / "h.zarr", small_bundle, "--quiet", "--stride", "96") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 1


def test_no_resolution_is_exit_code_five(
    no_mpp: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "h.zarr"
    assert score(no_mpp, out, small_bundle) == 5
    assert "nompp.tif records no resolution: pass --mpp" in capsys.readouterr().err
    assert not out.exists()
    assert score(no_mpp, tmp_path / "out", small_bundle) == 5
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\nnompp.tif,0.972\n")
    assert score(no_mpp, out, small_bundle, "--mpp-csv", str(table), "--tissue", "none") == 0
    assert open_heatmap(out).record.slide.mpp_source == "--mpp-csv"


def test_no_tissue_is_a_result(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glass = np.full((600, 600, 3), 243, dtype=np.uint8)
    path = write_slide(tmp_path / "glass.tif", glass, mpp=0.972)
    assert score(path, tmp_path / "h.zarr", small_bundle) == 0
    captured = capsys.readouterr()
    assert "nothing was scored: no tissue found" in captured.err
    assert "glass.tif: nothing was scored: no tissue" in captured.out
    assert (open_heatmap(tmp_path / "h.zarr").status == Status.BACKGROUND).all()


def test_what_is_no_slide_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.safetensors"  # which loading would complain of
    for name, content, said in (
        ("a.svs", b"\x89PNG\r\n", "is a PNG picture, not a slide"),
        ("b.tif", b"SUkqAAgAAAA\n", "is text, not a slide"),
        ("c.svs", b"", "is empty"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert score(path, tmp_path / "h.zarr", missing) == 2
        assert said in capsys.readouterr().err


def test_a_cohort_ends_with_a_line_of_totals(
    slide: Path,
    no_mpp: Path,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "cases" / "one"
    folder.mkdir(parents=True)
    (folder / "a.tif").symlink_to(slide)
    (folder / "c.tif").symlink_to(no_mpp)
    code = score(tmp_path / "cases", tmp_path / "out", small_bundle, "--tissue", "none")
    assert code == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 of 2 slides scored, 1 failed: ")


def test_info_says_what_cannot_be_scored(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(slide), "--mpp", "3"]) == 0
    out = capsys.readouterr().out
    assert "unusable    the model that ships cannot score it: the slide's 3 µm/px (--mpp)" in out
    assert main(["info", str(slide), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["unusable"] is None


def test_a_folder_of_slides_tries_each(
    slide: Path,
    no_mpp: Path,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    (folder / "a.tif").symlink_to(slide)
    (folder / "b.svs").write_text("")
    (folder / "c.tif").symlink_to(no_mpp)
    (folder / "notes.txt").write_text("not a slide")
    arguments = ["score", str(folder), "--out", str(out), "--model", str(small_bundle)]
    arguments += ["--stride", "64"]
    assert main(arguments) == 3
    captured = capsys.readouterr()
    assert "b.svs is empty" in captured.err
    assert "c.tif: failed: c.tif records no resolution" in captured.out
    run = json.loads((out / "run.json").read_text())
    assert [s["state"] for s in run["slides"]] == ["done", "failed", "failed"]
    assert str(tmp_path) not in (out / "summary.csv").read_text().replace(str(folder / "b.svs"), "")
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["output"] == "a.zarr"
    assert int(rows[0]["scored"]) > 0
    (folder / "a.tif").unlink()
    assert main([*arguments[:3], str(tmp_path / "out2"), *arguments[4:]]) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_text("hello"), "is text, not a slide"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.mkdir(), "is a folder without slides"),
        (lambda p: None, "does not exist"),
    ],
)
def test_files_that_are_no_slides(  # type: ignore[no-untyped-def]
    make, message: str, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.svs"
    make(path)
    assert score(path, tmp_path / "h.zarr", small_bundle) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("histoslide: error:")
    assert message in error
    assert not (tmp_path / "h.zarr").exists()


def test_bundles_that_are_none(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered = tmp_path / "tampered.safetensors"
    data = bytearray(small_bundle.read_bytes())
    data[-1000] ^= 1
    tampered.write_bytes(data)
    assert score(slide, tmp_path / "h.zarr", tampered) == 2
    assert "sha256 mismatch" in capsys.readouterr().err
    assert score(slide, tmp_path / "h.zarr", tmp_path / "none.safetensors") == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "h.zarr").exists()


def test_truncated_slide_scores_what_can_be_read(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.tif"
    scene_slide(path, width=1500, height=1500, mpp=0.972, seed=3)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    out = tmp_path / "h.zarr"
    assert score(path, out, small_bundle, "--stride", "64") == 3
    captured = capsys.readouterr()
    assert "it is a damaged TIFF: what is left of it is read" in captured.err
    assert "could not be read" in captured.out
    status = open_heatmap(out).status
    assert (status == Status.UNREADABLE).any()
    assert (status == Status.SCORED).any()
    rows_unreadable = np.nonzero((status == Status.UNREADABLE).any(axis=1))[0]
    rows_scored = np.nonzero((status == Status.SCORED).any(axis=1))[0]
    assert rows_scored.min() < rows_unreadable.min()


def test_read_only_folder(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert score(slide, blocker / "h.zarr", small_bundle) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert "are kept" not in said, "nothing was written"
    if os.geteuid() == 0:
        return  # root writes anywhere
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert score(slide, locked / "h.zarr", small_bundle) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_command_leaves_at_once_but_in_order(tmp_path: Path) -> None:
    code = (
        "import atexit, sys, tempfile; from histoslide_cli import main\n"
        "class Slow:\n"
        "    def __del__(self): print('freed')\n"
        "slow = Slow()\n"
        "kept = tempfile.TemporaryDirectory(dir=sys.argv[1])\n"
        "atexit.register(print, 'asked')\n"
        "main.main = lambda: print('answered') or 3\n"
        "main.run_command()\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (out.returncode, out.stderr) == (3, "")
    assert out.stdout.split() == ["answered", "asked"]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_work_that_is_watched_by_nobody_is_done(tmp_path: Path, closed: str) -> None:
    """Progress asks standard error whether it is a terminal; a closed one is None."""
    slide = write_slide(tmp_path / "s.tif", np.full((256, 256, 3), 200, np.uint8), mpp=1.0)
    command = f"'{sys.executable}' -m histoslide_cli.main tile '{slide}' --tissue none --out "
    done = subprocess.run(["bash", "-c", f"{command} '{tmp_path}/out' {closed}"], check=False)
    assert done.returncode == 0
    assert list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        ("> /dev/full", 2, "histoslide: error: what was printed is lost: [Errno 28]"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_output_that_nobody_takes(tmp_path: Path, redirected: str, status: int, said: str) -> None:
    slide = write_slide(tmp_path / "s.tif", np.full((64, 64, 3), 200, np.uint8), mpp=1.0)
    command = f"'{sys.executable}' -m histoslide_cli.main info '{slide}' {redirected}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    out = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert out.returncode == status, out.stderr
    assert out.stderr.startswith(said)
    assert bool(out.stderr) == bool(said), out.stderr


def test_interrupt_exits_130_and_the_next_run_continues(tmp_path: Path, small_bundle: Path) -> None:
    slide = tmp_path / "big.tif"
    pixels = np.random.default_rng(0).integers(60, 200, (1500, 1500, 3), dtype=np.uint8)
    write_slide(slide, pixels, mpp=0.972)
    out = tmp_path / "h.zarr"
    command = ["score", str(slide), "--out", str(out), "--model", str(small_bundle)]
    command += ["--tissue", "none", "--stride", "16", "--no-overlay"]
    process = subprocess.Popen(
        [sys.executable, "-m", "histoslide_cli.main", *command], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any((out / "labels" / "status" / "0" / "c").rglob("?")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted: run the same command again to continue" in error
    assert "Traceback" not in error
    heat = open_heatmap(out, allow_incomplete=True)
    assert not heat.complete
    assert (heat.status == Status.SCORED).any()
    assert (heat.status == Status.PENDING).any()
    assert main(command) == 0
    again = open_heatmap(out)
    assert (again.id, again.complete) == (heat.id, True)
    assert (again.status == Status.SCORED).all()


def test_outputs_called_like_something_else_are_refused(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heat = tmp_path / "h.zarr"
    assert score(slide, tmp_path / "heat.tif", small_bundle) == 2
    assert "ends like a file: name a heatmap (.zarr)" in capsys.readouterr().err
    assert score(slide, heat, small_bundle, "--no-overlay", "--no-lesions", "--stride", "64") == 0
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    for command, said in [
        (["lesions", str(heat), "--out", str(tmp_path / "l.csv")], "name the folder that gets"),
        (["overlay", str(heat), "--out", str(tmp_path / "o.jpg")], "end its name in .png"),
        (
            ["overlay", str(heat), "--out", str(tmp_path), "--overwrite"],
            "it is a folder, name a file",
        ),
        (["overlay", str(heat), "--out", ".", "--overwrite"], "it is a folder, name a file"),
        (["diff", str(heat), str(heat), "--out", str(tmp_path / "d.pdf")], "end its name in .png"),
        (["report", str(heat), "--out", str(tmp_path / "r.pdf")], "end its name in .html"),
        (["info", str(slide), "--mask-png", str(tmp_path / "m.tif")], "end its name in .png"),
        (["tile", str(slide), "--out", str(tmp_path / "t.h5")], "name that"),
        (["info", str(heat)], "h.zarr is a heatmap, not a slide"),
        (["overlay", str(heat), "--slide", str(heat), "--out", "o.png"], "is a heatmap, not a"),
        (["model", "info", str(heat)], "h.zarr is a folder: pass a model's .safetensors file"),
    ]:
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert main(["lesions", str(heat), "--out", str(tmp_path / "lesions")]) == 0
    assert "wrote lesions.csv and lesions.json in" in capsys.readouterr().err
    assert score(slide, heat, small_bundle, "--no-overlay", "--no-lesions", "--stride", "64") == 0
    assert "complete from an earlier run: nothing was scored again" in capsys.readouterr().err


def test_overlay_command(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heat, picture = tmp_path / "h.zarr", tmp_path / "o.png"
    assert score(slide, heat, small_bundle, "--no-overlay", "--stride", "64") == 0
    assert not (tmp_path / "h.png").exists()
    arguments = [
        "overlay",
        str(heat),
        "--slide",
        str(slide),
        "--out",
        str(picture),
        "--size",
        "400",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip().endswith("o.png")
    assert main(arguments) == 2
    assert "o.png exists: pass --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--threshold", "1.5"]) == 2
    assert main([*arguments, "--overwrite", "--class", "stroma"]) == 2
    assert "choose from normal, tumour" in capsys.readouterr().err


def test_options_out_of_range(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in [
        ("--mpp", "-1"),
        ("--mpp", "nan"),
        ("--stride", "0"),
        ("--tissue-threshold", "2"),
        ("--threshold", "-0.1"),
        ("--device", "abacus"),
        ("--mask", str(tmp_path / "none.png")),
        ("--roi", str(tmp_path / "none.geojson")),
    ]:
        assert score(slide, tmp_path / "h.zarr", small_bundle, f"{option}={value}") == 2, option
        # besides, which model it is and that no faster way was measured for it
        assert capsys.readouterr().err.count("\n") <= 3
    assert score(slide, tmp_path / "h.zarr", small_bundle, "--mpp", "25") == 2
    assert "more than twice as coarse" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["score", str(slide)])
    assert exit_.value.code == 2


def test_roi_and_mask_files(slide: Path, small_bundle: Path, tmp_path: Path) -> None:
    ring = [[0, 0], [450, 0], [450, 700], [0, 700], [0, 0]]
    roi = tmp_path / "roi.geojson"
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    mask = tmp_path / "mask.png"
    Image.new("L", (90, 70), 255).save(mask)
    out = tmp_path / "h.zarr"
    assert score(slide, out, small_bundle, "--roi", str(roi), "--mask", str(mask)) == 0
    status = open_heatmap(out).status
    assert (status[:, :14] == Status.SCORED).all()
    assert (status[:, 15:] == Status.EXCLUDED).all()


def test_command_line_in_metadata_has_no_paths(tmp_path: Path) -> None:
    line = scrubbed_command(["score", "/home/me/a.svs", "--out=/data/x/h.zarr", "--mpp", "0.25"])
    assert line == "histoslide score a.svs --out=h.zarr --mpp 0.25"


def test_train_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("valid", 8)):
        for label, colour in (("0", (90, 60, 160)), ("1", (200, 120, 170))):
            folder = tmp_path / "pcam" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-20, 20, (96, 96, 3))
                Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(
                    folder / f"{i}.png"
                )
    out = tmp_path / "model.safetensors"
    arguments = ["train", str(tmp_path / "pcam"), "--out", str(out), "--arch", "resnet18"]
    arguments += ["--pretrained", "none", "--epochs", "1", "--freeze-epochs", "0", "--size", "64"]
    arguments += ["--batch-size", "16", "--half"]
    arguments += ["--class-names", "normal", "tumour", "--device", "cpu"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "folders layout: 48 patches to train on, 16 to validate on" in captured.err
    assert "epoch 1/1: train loss" in captured.err
    assert "AUC" in captured.out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.run",
        "model.safetensors",
        "pcam",
    ]
    assert main(arguments) == 2
    assert "exists: pass --overwrite" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["train", str(tmp_path / "empty"), "--out", str(tmp_path / "b.safetensors")]) == 2
    assert "holds no known layout" in capsys.readouterr().err
