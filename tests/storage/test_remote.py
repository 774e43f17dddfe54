"""Slides from object storage, through the cache, and the commands that read and write there."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from histoslide_cli.main import main
from objects import BUCKET, contents, intercept, s3_server

import histoslide.storage.slide_copies as remote_module
from histoslide.errors import SlideOpenError
from histoslide.geometry import Region
from histoslide.slide import open_slide
from histoslide.slide.access import SlideAccess
from histoslide.storage.location import file_system, is_remote, object_key, parse_location
from histoslide.storage.slide_copies import SlideCache, local_copy
from histoslide.synthetic import fiducial_slide

if TYPE_CHECKING:
    from upath import UPath


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def folder(server: str, request: pytest.FixtureRequest) -> UPath:
    there = parse_location(f"s3://{BUCKET}/{request.node.name}")
    assert is_remote(there)
    return there


def copies(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "slides").glob("*/*"))


def test_a_slide_is_fetched_once_and_again_when_it_changes(folder: UPath, tmp_path: Path) -> None:
    cache = SlideCache(folder=tmp_path)
    slide = folder / "CMU-1.svs"
    fetched: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        intercept(patch, lambda method, options: fetched.append(method))
        for content in (b"first", b"first", b"second"):
            slide.write_bytes(content)
            with local_copy(slide, cache) as path:
                assert path.name == "CMU-1.svs"
                assert path.read_bytes() == content
    assert fetched.count("get_object") == 2
    with (
        pytest.raises(SlideOpenError, match="does not exist"),
        local_copy(folder / "no.svs", cache),
    ):
        pytest.fail("there is none")
    with local_copy(Path("here.svs"), cache) as path:
        assert path == Path("here.svs")


def test_the_least_recently_used_goes_but_never_one_in_use(folder: UPath, tmp_path: Path) -> None:
    cache = SlideCache(folder=tmp_path, limit_gb=2.5e-6)  # two of a thousand bytes
    for name in "abcd":
        (folder / f"{name}.svs").write_bytes(name.encode() * 1000)
    with local_copy(folder / "a.svs", cache) as a:
        with local_copy(folder / "b.svs", cache):
            pass
        for number, lock in enumerate(sorted((tmp_path / "slides").glob("*.lock"))):
            os.utime(lock, (number, number))  # long ago, both
        os.utime((tmp_path / "slides" / f"{a.parent.name}.lock"), (0, 0))  # and a the longest
        with local_copy(folder / "c.svs", cache):
            assert copies(tmp_path) == ["a.svs", "c.svs"]
            assert a.read_bytes() == b"a" * 1000
    with local_copy(folder / "d.svs", cache):
        assert "d.svs" in copies(tmp_path)
        assert len(copies(tmp_path)) == 2
    tiny = SlideCache(folder=tmp_path / "x", limit_gb=1e-9)
    with pytest.raises(SlideOpenError, match="--cache-size"), local_copy(folder / "a.svs", tiny):
        pytest.fail("it does not fit")


def test_a_download_in_progress_is_not_removed_to_make_room(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    for name, size in ((".busy.partial", 600), ("old", 300)):
        (slides / name).mkdir(parents=True)
        (slides / name / "a.svs").write_bytes(bytes(size))
    (slides / "old.lock").touch()
    with (slides / "busy.lock").open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remote_module._make_room(Path("b.svs"), slides, 400, SlideCache(limit_gb=1000 / 1e9))
    assert sorted(path.name for path in slides.iterdir() if path.is_dir()) == [".busy.partial"]


def test_half_a_download_is_never_used(folder: UPath, tmp_path: Path) -> None:
    slide = folder / "a.svs"
    slide.write_bytes(b"a" * 1000)
    run = (
        "import os, sys\nfrom pathlib import Path\nimport s3fs\n"
        "from histoslide.storage.location import parse_location\n"
        "from histoslide.storage.slide_copies import SlideCache, local_copy\n"
        "def half(self, key, file, **options):\n"
        "    Path(file).write_bytes(b'a' * 500)\n    os.kill(os.getpid(), 9)\n"
        "s3fs.S3FileSystem.get_file = half\n"
        "with local_copy(parse_location(sys.argv[1]), SlideCache(folder=Path(sys.argv[2]))): pass\n"
    )
    subprocess.run([sys.executable, "-c", run, str(slide), str(tmp_path)], check=False)
    assert copies(tmp_path) == ["a.svs"]  # half of it, under a hidden name
    with local_copy(slide, SlideCache(folder=tmp_path)) as path:
        assert path.read_bytes() == b"a" * 1000
    assert copies(tmp_path) == ["a.svs"]
    assert not list((tmp_path / "slides").glob(".*.partial"))


def test_mirax_brings_its_folder(folder: UPath, tmp_path: Path) -> None:
    (folder / "m.mrxs").write_bytes(b"head")
    (folder / "m" / "Data0000.dat").write_bytes(b"data")
    (folder / "mm" / "other.dat").write_bytes(b"not ours")
    with local_copy(folder / "m.mrxs", SlideCache(folder=tmp_path)) as path:
        assert (path.parent / "m" / "Data0000.dat").read_bytes() == b"data"
        assert not (path.parent / "mm").exists()
    other = local_copy(folder / "m.vms", SlideCache(folder=tmp_path))
    with pytest.raises(SlideOpenError, match="one of several files"), other:
        pytest.fail("that one has no folder of its name")


def test_a_slide_that_travels_is_fetched_where_it_arrives(
    folder: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = fiducial_slide(tmp_path / "f.tif", width=700, height=500, mpp=0.5)
    remote = folder / "f.tif"
    remote.write_bytes(local.read_bytes())
    monkeypatch.setenv("HISTOSLIDE_CACHE", str(tmp_path / "first"))
    with SlideAccess(isolate=False).open(remote) as slide, open_slide(local) as direct:
        region = Region(0, 100, 50, 300, 200)
        assert np.array_equal(slide.read(region), direct.read(region))
        facts = slide.facts
        packed = pickle.dumps(slide)
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setenv("HISTOSLIDE_CACHE", str(tmp_path / "second"))
    with pickle.loads(packed) as arrived, open_slide(local) as direct:
        assert copies(tmp_path / "second") == []  # nothing until something is asked for
        assert np.array_equal(arrived.read(region), direct.read(region))
        assert arrived.facts == facts
        assert copies(tmp_path / "second") == ["f.tif"]
    other = fiducial_slide(tmp_path / "g.tif", width=600, height=500, mpp=0.5)
    remote.write_bytes(other.read_bytes())
    with pytest.raises(SlideOpenError, match="was replaced while it was read"):
        pickle.loads(packed).read(region)


def test_the_commands_read_and_write_there(
    folder: UPath, tmp_path: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = fiducial_slide(tmp_path / "f.tif", width=1301, height=843, mpp=0.5)
    file_system(folder).put_file(str(local), object_key(folder / "in" / "f.tif"))
    out = folder / "out"
    score = [
        "score", f"{folder}/in", "--out", str(out), "--model", str(small_bundle), "--device", "cpu",
        "--tissue", "none", "--quiet", "--cache-dir", str(tmp_path / "cache"),
    ]  # fmt: skip
    assert main(score) == 0
    here = tmp_path / "here"
    assert main([*score[:1], str(local), "--out", str(here), *score[4:]]) == 0
    assert contents(out / "f.zarr") == contents(here / "f.zarr")
    for name in ("f.png", "f-lesions.csv", "summary.csv"):
        assert (out / name).read_bytes()[:20] == (here / name).read_bytes()[:20]
    assert json.loads((out / "run.json").read_text())["slides"][0]["state"] == "done"
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [row["slide"] for row in rows] == ["f.tif"]
    root = json.loads((out / "f.zarr" / "zarr.json").read_text())
    text = json.dumps(root)
    for secret in (BUCKET, "the-key-id", "the-secret", "127.0.0.1", str(tmp_path)):
        assert secret not in text
    assert root["attributes"]["histoslide"]["slide"]["name"] == "f.tif"
    assert main(score) == 0  # again: nothing to do
    assert main([*score, "--stride", "48"]) == 4  # other settings
    assert main([*score, "--stride", "48", "--overwrite"]) == 0
    heat, slide = f"{out}/f.zarr", f"{folder}/in/f.tif"
    cache = ["--cache-dir", str(tmp_path / "cache")]
    for command in (
        ["overlay", heat, "--slide", slide, "--out", f"{out}/o.png", *cache],
        ["lesions", heat, "--out", f"{out}/lesions"],
        ["export", heat, "--to", "geojson", "--out", f"{out}/o.geojson"],
        ["export", heat, "--to", "ome-tiff", "--out", f"{out}/o.ome.tif"],
        ["report", heat, "--slide", slide, "--out", f"{out}/r.html", *cache],
        ["info", slide, *cache],
        ["diff", heat, heat, "--out", f"{out}/d.png"],
        ["replay", heat, "--slide", slide, "--model", str(small_bundle), *cache],
    ):
        assert main(command) == 0, command
    assert (out / "o.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "d.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "lesions" / "lesions.csv").exists()
    assert b"f.tif" in (out / "r.html").read_bytes()
    assert "f.tif" in capsys.readouterr().out
    assert main(["replay", heat, "--model", str(small_bundle)]) == 2
    assert "f.tif is not fetched unasked: pass --slide" in capsys.readouterr().err
