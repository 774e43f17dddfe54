"""Tiles on disk: the right pixels, a manifest, restart and overwrite."""

import csv
import json
import os
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from histoslide_cli.console import Progress
from histoslide_cli.main import main
from PIL import Image

from histoslide.synthetic import decode_fiducial, fiducial_slide, scene_slide, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "fiducial.tif"
    return fiducial_slide(path, width=1230, height=811, mpp=0.5)


def tile(slide: Path, out: Path, *options: str) -> int:
    return main(["tile", str(slide), "--out", str(out), "--tissue", "none", *options])


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_tiles_hold_the_pixels_of_their_box(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles"
    assert tile(slide, out) == 0
    rows = manifest(out)
    side = 96 * 0.972 / 0.5
    assert len(rows) == 5 * 7
    for row in rows:
        assert float(row["x_l0"]) == pytest.approx(int(row["col"]) * side, abs=1e-3)
        assert float(row["width_l0"]) == pytest.approx(side, abs=1e-3)
        pixels = np.asarray(Image.open(out / row["file"]))
        assert pixels.shape == (96, 96, 3)
        box = [float(row[name]) for name in ("x_l0", "y_l0", "width_l0", "height_l0")]
        if box[0] + box[2] < 1230 and box[1] + box[3] < 811 and min(box[:2]) > 0:
            mean = pixels[8:-8, 8:-8].reshape(-1, 3).mean(axis=0)
            x, y = decode_fiducial(mean, width=1230, height=811)
            assert x == pytest.approx(box[0] + side / 2, abs=2)
            assert y == pytest.approx(box[1] + side / 2, abs=2)
    assert (out / "contact-sheet.png").exists()


def test_what_killed_runs_left_is_removed(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles"
    assert tile(slide, out) == 0
    names = {path.name for path in (out / "tiles").iterdir()}
    record = json.loads((out / "tiles.json").read_text())
    record["complete"] = False
    (out / "tiles.json").write_text(json.dumps(record))
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    first = min(names)
    (out / "tiles" / f".{first}.{socket.gethostname()}.{dead.pid}.partial").touch()
    elsewhere = out / "tiles" / f".{first}.other-machine.1.partial"
    elsewhere.touch()
    os.utime(elsewhere, (1, 1))
    fresh = out / "tiles" / f".{first}.other-machine.2.partial"  # may be being written
    fresh.touch()
    assert tile(slide, out) == 0
    assert {path.name for path in (out / "tiles").iterdir()} == names | {fresh.name}


def test_restart_keeps_what_is_there(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiles"
    assert tile(slide, out) == 0
    files = sorted((out / "tiles").iterdir())
    whole = (out / "manifest.csv").read_bytes()
    files[0].unlink()
    (out / "manifest.csv").unlink()
    state = json.loads((out / "tiles.json").read_text())
    (out / "tiles.json").write_text(json.dumps(state | {"complete": False}))
    kept = files[1].stat().st_mtime_ns
    assert tile(slide, out) == 0
    assert (out / "manifest.csv").read_bytes() == whole
    assert files[0].exists()
    assert files[1].stat().st_mtime_ns == kept
    capsys.readouterr()
    assert tile(slide, out, "--stride", "48") == 2
    assert "stride_px was 96, is 48" in capsys.readouterr().err
    assert tile(slide, out, "--stride", "200", "--overwrite") == 0
    assert len(manifest(out)) < 35
    assert [p.name for p in tmp_path.iterdir()] == ["tiles"]


def test_hdf5_equals_png(slide: Path, tmp_path: Path) -> None:
    assert tile(slide, tmp_path / "png") == 0
    assert tile(slide, tmp_path / "h5", "--format", "pcam-hdf5") == 0
    with h5py.File(tmp_path / "h5" / "fiducial_x.h5") as file:
        pixels = np.asarray(file["x"])
    rows = manifest(tmp_path / "h5")
    assert pixels.shape == (len(rows), 96, 96, 3)
    for row, other in zip(rows, manifest(tmp_path / "png"), strict=True):
        png = np.asarray(Image.open(tmp_path / "png" / other["file"]))
        np.testing.assert_array_equal(pixels[int(row["index"])], png)


def test_only_tissue_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "node.tif"
    scene_slide(path, width=900, height=900, mpp=0.972, seed=1)
    assert main(["tile", str(path), "--out", str(tmp_path / "t"), "--format", "jpg"]) == 0
    rows = manifest(tmp_path / "t")
    assert 0 < len(rows) < 100
    assert all(float(row["tissue_fraction"]) >= 0.1 for row in rows)
    assert all(row["file"].endswith(".jpg") for row in rows)


def test_foreign_folders_are_left_alone(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for option in ([], ["--overwrite"]):
        assert tile(slide, out, *option) == 2
        assert "not a tile folder" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    assert tile(slide, tmp_path / "a", "--size", "32", "--label-size", "64") == 2
    assert tile(slide, tmp_path / "a", "--stride", "0") == 2


def test_several_slides_get_a_folder_each(slide: Path, tmp_path: Path) -> None:
    other = fiducial_slide(tmp_path / "other.tif", width=400, height=400, mpp=0.972)
    code = main(["tile", str(slide), str(other), "--out", str(tmp_path / "o"), "--tissue", "none"])
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["fiducial", "other"]


def test_a_list_of_the_whole_cohort_is_cut_too(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With columns of other commands; mask, region and name of each slide are taken."""
    left = np.zeros((20, 30), dtype=np.uint8)
    left[:, :15] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    table = tmp_path / "cohort.csv"
    table.write_text(
        "slide,output,mask,roi,scanner,label,node,annotations,part\n"
        f"{slide},one,left.png,,x,tumour,macro,a.xml,train\n"
        f"{slide},two,,left.png,x,,,,\n"
    )
    assert tile(table, tmp_path / "o") == 0
    assert "names annotations, which plain tiles do without" in capsys.readouterr().err
    for name in ("one", "two"):
        cols = {int(row["col"]) for row in manifest(tmp_path / "o" / name)}
        assert cols == {0, 1, 2}  # of seven; the centre of the fourth lies beyond the mask
    table.write_text("slide,lable\na.tif,1\n")
    assert tile(table, tmp_path / "no") == 2


def test_no_tissue_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    glass = np.full((300, 300, 3), 243, dtype=np.uint8)
    path = write_slide(tmp_path / "glass.tif", glass, mpp=0.972, downsamples=())
    for form in ("png", "pcam-hdf5"):
        out = tmp_path / form
        assert main(["tile", str(path), "--out", str(out), "--format", form]) == 0
        assert "0 tiles, nothing to cut: no tissue in" in capsys.readouterr().out
        assert manifest(out) == []


def test_a_slide_without_resolution_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nompp.tif"
    pixels = np.full((300, 300, 3), 200, dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", metadata=None)
    assert tile(path, tmp_path / "t") == 5
    assert "nompp.tif records no resolution: pass --mpp" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
    assert tile(path, tmp_path / "t", "--mpp", "0.972") == 0
    assert len(manifest(tmp_path / "t")) == 9


@pytest.mark.parametrize("form", ["png", "pcam-hdf5"])
def test_what_is_left_of_a_truncated_slide_is_cut(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    cut = tmp_path / "fiducial.tif"
    cut.write_bytes(slide.read_bytes()[: slide.stat().st_size // 2])
    assert tile(slide, tmp_path / "whole") == 0
    assert tile(cut, tmp_path / "cut", "--format", form) == 3
    said = capsys.readouterr().out
    rows, whole = manifest(tmp_path / "cut"), {}
    for row in manifest(tmp_path / "whole"):
        whole[row["row"], row["col"]] = row["file"]
    assert 0 < len(rows) < len(whole)
    assert f"{len(rows)} tiles, {len(whole) - len(rows)} could not be read" in said
    for number, row in enumerate(rows):
        if form == "png":
            pixels = np.asarray(Image.open(tmp_path / "cut" / row["file"]))
        else:
            with h5py.File(tmp_path / "cut" / "fiducial_x.h5") as file:
                assert len(file["x"]) == len(rows)
                assert row["index"] == str(number)
                pixels = file["x"][number]
        wanted = np.asarray(Image.open(tmp_path / "whole" / whole[row["row"], row["col"]]))
        # To one grey level: windows that are halved are resampled at another sub-pixel phase.
        assert np.abs(pixels.astype(int) - wanted).max() <= 1
    below = tmp_path / "below.geojson"
    ring = [[0, 700], [1230, 700], [1230, 811], [0, 811]]
    below.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    assert tile(cut, tmp_path / "none", "--format", form, "--roi", str(below)) == 4
    assert "fiducial.tif: none of its 7 tissue tiles could be read" in capsys.readouterr().err


def test_an_interrupted_hdf5_file_begins_again(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupt_at(20))
        assert tile(slide, out, "--format", "pcam-hdf5") == 130
    assert [path.name for path in out.iterdir()] == ["tiles.json"]
    assert tile(slide, out, "--format", "pcam-hdf5") == 0
    with h5py.File(out / "fiducial_x.h5") as file:
        assert len(file["x"]) == len(manifest(out)) == 35


def interrupt_at(count: int) -> Callable[..., None]:
    """What stands in for a progress bar while somebody presses Ctrl-C."""

    def update(_: Progress, done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return update


@pytest.mark.parametrize("form", ["png", "jpg", "pcam-hdf5"])
def test_a_disk_that_is_full(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """A quota, to a program, is a write that fails; HDF5 itself would crash the process."""
    out = tmp_path / "t"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 3000, 300_000) if form == "pcam-hdf5" else (100, 3000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            assert tile(slide, out, "--format", form, "--quiet") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        said = capsys.readouterr().err
        assert said == f"histoslide: error: {out} cannot be written: File too large\n"
        assert not list(out.rglob("*.partial"))
        assert not list(out.rglob("*.h5"))
    assert tile(slide, out, "--format", form) == 0
    assert len(manifest(out)) == 35


def test_the_current_folder_can_be_written_and_replaced(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert tile(slide, Path()) == 0
    assert len(manifest(here)) == 35
    assert tile(slide, Path(), "--stride", "200", "--overwrite") == 0
    assert len(manifest(here)) < 35
    assert list(tmp_path.iterdir()) == [here]
