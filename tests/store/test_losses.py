"""A heatmap that lost files, or claims what it does not have, is refused wherever it is opened."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from heatmaps import lazy_of, stored_heatmap
from histoslide_cli.main import main

from histoslide.errors import StoreError
from histoslide.grid.status import Status
from histoslide.storage.records import to_builtins
from histoslide.store import NgffVersion, convert_heatmap, open_heatmap, store_heatmap


def values() -> np.ndarray[Any, Any]:
    """Cells of four blocks; one of the blocks is background."""
    found = np.random.default_rng(7).random((70, 40))
    found[:32, 32:] = np.nan
    return found


LOST_V3 = [
    ["0/c/1/0", "labels/status/0/c/1/0"],
    ["0/c/1/0"],
    ["1/c/0/0"],
    ["labels/status/0/c/0/1"],
    ["labels/status/1/c/0/0"],
    ["0/zarr.json"],
    ["labels/zarr.json"],
    ["labels/status/zarr.json"],
    ["labels/status/0/zarr.json"],
    ["labels/status/1/zarr.json"],
]


@pytest.mark.parametrize("lost", LOST_V3, ids=" ".join)
@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_lost_file_is_noticed(tmp_path: Path, ngff: NgffVersion, lost: list[str]) -> None:
    path = stored_heatmap(tmp_path / "h.zarr", values(), ngff=ngff).path
    assert open_heatmap(path).counts.background == 32 * 8
    for name in lost:
        group = ".zgroup" if name in ("labels/zarr.json", "labels/status/zarr.json") else ".zarray"
        v2 = name.replace("/c/", "/").replace("zarr.json", group)
        (path / (name if ngff == "0.5" else v2)).unlink()
    with pytest.raises(StoreError, match=r"damaged.*--overwrite"):
        open_heatmap(path)
    with pytest.raises(StoreError, match="damaged"):  # no result of a run either
        store_heatmap(lazy_of(values()), path, ngff=ngff)
    again = store_heatmap(lazy_of(values()), path, ngff=ngff, overwrite=True)
    assert again.counts.scored == 70 * 40 - 32 * 8


@pytest.mark.parametrize("lost", ["0/c/0/0", "labels/status/0/c/0/0"])
def test_a_lost_file_of_a_packed_heatmap_and_of_classes(tmp_path: Path, lost: str) -> None:
    packed = convert_heatmap(
        stored_heatmap(tmp_path / "h.zarr", values()), tmp_path / "p.zarr", ngff="0.5", packed=True
    ).path
    (packed / lost).unlink()
    many = np.stack([values()] * 3, axis=-1) / 3
    classes = stored_heatmap(tmp_path / "c.zarr", many, classes=("a", "b", "c")).path
    (classes / lost.replace("0/c/", "0/c/0/" if lost.startswith("0") else "0/c/")).unlink()
    for path in (packed, classes):
        with pytest.raises(StoreError, match="damaged"):
            open_heatmap(path)


def test_altered_cells_are_noticed(tmp_path: Path) -> None:
    path = stored_heatmap(tmp_path / "h.zarr", values()).path
    group: Any = zarr.open_group(path, mode="r+")
    group["labels/status/0"][40, 3] = Status.BACKGROUND
    with pytest.raises(StoreError, match="2543 cells are scored, it counted 2544"):
        open_heatmap(path)


@pytest.mark.parametrize("command", ["lesions", "overlay", "export", "diff", "report"])
def test_no_command_takes_a_part_for_the_whole(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored_heatmap(tmp_path / "h.zarr", values()).path
    (path / "labels/status/0/zarr.json").unlink()
    words = [command, str(path), *([str(path)] if command == "diff" else [])]
    if command not in ("lesions", "diff"):
        words += [
            "--out",
            str(tmp_path / {"overlay": "o.png", "export": "o.csv"}.get(command, "r.html")),
        ]
    words += ["--to", "csv"] * (command == "export")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "h.zarr is damaged" in line


def test_a_report_of_good_ones_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        stored_heatmap(tmp_path / f"{name}.zarr", values(), name=f"{name}.tif", quickhash=name)
    (tmp_path / "b.zarr/labels/status/0/zarr.json").unlink()
    (tmp_path / "c.zarr/0/c/0/0").unlink()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 3
    lines = capsys.readouterr().err.splitlines()
    left_out = [line for line in lines if "zarr is left out" in line]
    assert [line.split("zarr is left out")[0][-2:] for line in left_out] == ["b.", "c."]
    assert (tmp_path / "r.html").read_text().count("is damaged") >= 2


def test_a_begun_heatmap_computes_again_what_it_lost(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.zarr", tmp_path / "h.zarr"
    stored_heatmap(whole, values())
    shutil.copytree(whole, path)
    group = zarr.open_group(path, mode="r+")
    group.attrs["histoslide"] = to_builtins(open_heatmap(whole).record) | {
        "complete": False,
        "counts": None,
    }
    (path / "0/c/0/0").unlink()
    heat = store_heatmap(lazy_of(values()), path)
    np.testing.assert_array_equal(heat.probability(), open_heatmap(whole).probability())


def read_all(path: Path) -> None:
    heat = open_heatmap(path, allow_incomplete=True)
    assert heat.status.size
    assert heat.probability().size
    assert heat.levels()


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("what", ["store", "array", "chunks", "level"])
def test_claims_decide_nothing(tmp_path: Path, what: str, *, complete: bool) -> None:
    path = tmp_path / "h.zarr"
    stored_heatmap(path, values())
    files = {
        "store": [path / "zarr.json", *path.glob("**/0/zarr.json")],
        "level": [path / "1/zarr.json", path / "labels/status/1/zarr.json"],
    }.get(what, [*path.glob("**/0/zarr.json")])
    for file in files:
        document = json.loads(file.read_text())
        if what == "chunks":
            document["chunk_grid"]["configuration"]["chunk_shape"] = [10**6, 10**6]
        elif "shape" in document:
            document["shape"] = [10**6, 10**6]
        else:
            record = document["attributes"]["histoslide"]
            side = round(10**6 * record["grid"]["cell_l0"])
            record["slide"]["size_l0"] = record["fingerprint"]["slide.size_l0"] = [side, side]
            record["grid"] |= {"rows": 10**6, "cols": 10**6}
        file.write_text(json.dumps(document))
    root = json.loads((path / "zarr.json").read_text())
    if not complete:
        root["attributes"]["histoslide"] |= {"complete": False, "counts": None}
        (path / "zarr.json").write_text(json.dumps(root))
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match="claims"):
            read_all(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
