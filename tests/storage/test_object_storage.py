"""Stores and slides in object storage: a real client and a real server, over TCP."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from heatmaps import lazy_of
from numpy.typing import NDArray
from objects import BUCKET, contents, intercept, s3_server

from histoslide.errors import (
    HistoslideError,
    LockedError,
    LockLostError,
    OutputExistsError,
    SettingsDifferError,
    StoreError,
)
from histoslide.storage.location import file_system, is_remote, object_key, parse_location
from histoslide.storage.lock import Holder, hold, lock_path
from histoslide.storage.writing import new_file
from histoslide.store import BlockTarget, NgffVersion, convert_heatmap, open_heatmap, store_heatmap
from histoslide.viewer.catalogue import Catalogue

if TYPE_CHECKING:
    from upath import UPath


def probabilities(seed: int = 2) -> NDArray[Any]:
    values = np.random.default_rng(seed).random((70, 40))
    values[:32, 32:] = np.nan
    return values


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def folder(server: str, request: pytest.FixtureRequest) -> UPath:
    """A prefix of its own for each test."""
    name = request.node.name.replace("[", "-").replace("]", "")
    there = parse_location(f"s3://{BUCKET}/{name}")
    assert is_remote(there)
    return there


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a store must hold, whole, as files."""
    path = tmp_path_factory.mktemp("local") / "heat.zarr"
    store_heatmap(lazy_of(probabilities()), path)
    return path


def keys(folder: UPath) -> list[str]:
    start = f"{object_key(folder)}/"
    return sorted(key.removeprefix(start) for key in file_system(folder).find(object_key(folder)))


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_store_is_the_same_there_as_here(
    folder: UPath, tmp_path: Path, ngff: NgffVersion
) -> None:
    here = store_heatmap(lazy_of(probabilities()), tmp_path / "heat.zarr", ngff=ngff)
    there = store_heatmap(lazy_of(probabilities()), folder / "heat.zarr", ngff=ngff)
    assert contents(there.path) == contents(here.path)
    assert len(contents(here.path)) > 10
    np.testing.assert_array_equal(there.probability(), here.probability())
    np.testing.assert_array_equal(there.status, here.status)
    assert all(key.startswith("heat.zarr/") for key in keys(folder))  # no lock is left

    def fail(*_: int) -> None:
        pytest.fail("a block was scored again")

    store_heatmap(lazy_of(probabilities()), folder / "heat.zarr", ngff=ngff, on_block=fail)
    with pytest.raises(SettingsDifferError, match=r"slide\.quickhash was made, is other"):
        store_heatmap(lazy_of(probabilities(), quickhash="other"), folder / "heat.zarr", ngff=ngff)


RUN = """
import os, signal, sys
import pytest
from heatmaps import lazy_of
from objects import intercept
from histoslide.storage.location import parse_location
from histoslide.store import store_heatmap
from test_object_storage import probabilities
path, overwrite, points = sys.argv[1], sys.argv[2] == "overwrite", sys.argv[3].split()
for point in points:  # copies of a process that has imported everything
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        print("killed", flush=True)
        continue
    seen = 0
    def count(method, options):
        global seen
        if method.startswith(("put", "delete", "copy")):
            seen += 1
            if seen == int(point):
                os.kill(os.getpid(), signal.SIGKILL)
    intercept(pytest.MonkeyPatch(), count)
    try:
        store_heatmap(lazy_of(probabilities()), parse_location(path), overwrite=overwrite)
    finally:
        os._exit(1)
"""


@pytest.mark.parametrize(
    ("mode", "points"),
    [("new", "2 5 9 14 8 6 12 9"), ("overwrite", "9 14 8 12 16 11 9 18")],
    ids=["new", "overwrite"],
)
def test_killed_again_and_again_it_ends_whole(
    folder: UPath, local: Path, mode: str, points: str
) -> None:
    """Each run dies at its n-th write or deletion, while laying out, scoring, completing."""
    path = folder / "heat.zarr"
    if mode == "overwrite":
        store_heatmap(lazy_of(probabilities(1), quickhash="older"), path)
    here = Path(__file__).parent
    found = f"{os.environ.get('PYTHONPATH', '')}:{here.parent}:{here}"
    environment = os.environ | {"PYTHONPATH": found}
    run = [sys.executable, "-c", RUN, str(path), mode, points]
    said = subprocess.run(run, env=environment, check=True, timeout=120, stdout=subprocess.PIPE)
    assert said.stdout.count(b"killed") >= 4
    store_heatmap(lazy_of(probabilities()), path, overwrite=mode == "overwrite")
    assert contents(path) == contents(local)
    assert all(key.startswith("heat.zarr/") for key in keys(folder))


@pytest.mark.parametrize("number", [9, 24, 36, 38, 44])
def test_an_old_store_is_whole_until_the_new_one_is(
    folder: UPath, local: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "heat.zarr"
    store_heatmap(lazy_of(probabilities(1), quickhash="older"), path)
    before = contents(path)
    seen = 0

    class KilledError(Exception):
        """In place of a kill."""

    def die(method: str, options: dict[str, Any]) -> None:
        nonlocal seen
        if method.startswith(("put", "delete", "copy")):
            seen += 1
            if seen >= number:
                raise KilledError

    with monkeypatch.context() as patch:
        intercept(patch, die)
        with pytest.raises((KilledError, StoreError)):
            store_heatmap(lazy_of(probabilities()), path, overwrite=True)
    lock_path(path).unlink(missing_ok=True)  # this process lives on: its lock would be respected
    if (path / "zarr.json").exists():
        now = contents(path)
        assert now in (before, contents(local))
    else:  # dying in the middle of the exchange: the new one is whole beside it
        assert contents(folder / ".heat.zarr.new") == contents(local)
    store_heatmap(lazy_of(probabilities()), path, overwrite=True)
    assert contents(path) == contents(local)
    assert all(key.startswith("heat.zarr/") for key in keys(folder))


def test_something_else_is_never_overwritten(folder: UPath) -> None:
    path = folder / "heat.zarr"
    (path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="not a heatmap"):
            store_heatmap(lazy_of(probabilities()), path, overwrite=overwrite)
    assert keys(folder) == ["heat.zarr/thesis.txt"]


def test_the_lock_is_an_object(folder: UPath, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "heat.zarr"
    with hold(path) as lock:
        lock.check()
        with pytest.raises(LockedError, match=f"by process {os.getpid()} on"):
            store_heatmap(lazy_of(probabilities()), path)
        assert keys(folder) == [".heat.zarr.lock"]
    assert keys(folder) == []
    dead = dataclasses.replace(Holder.here(), started="0")
    lock_path(path).write_text(json.dumps(dataclasses.asdict(dead)))
    with caplog.at_level(logging.WARNING), hold(path):
        assert "is taken over: that process has ended" in caplog.text
    assert keys(folder) == []


def test_a_lock_elsewhere_that_is_silent_is_replaced_and_found_out(folder: UPath) -> None:
    path = folder / "heat.zarr"
    other = dataclasses.replace(
        Holder.here(beat_s=0.3), machine="elsewhere", host="elsewhere", token="1" * 32
    )
    with hold(path, holder=other) as lock:
        # Older than any limit by the clock, but seen to beat.
        with pytest.raises(LockedError, match="on elsewhere since"), hold(path, stale_s=-3600):
            pytest.fail("two held it")
        lock._stop.set()  # no heartbeat any more, as of a process that is suspended
        lock._thread.join()
        with hold(path, stale_s=-3600):
            lock._stale_s = 0
            with pytest.raises(LockLostError):
                lock.check()
    assert keys(folder) == []


def test_storage_without_conditions_leaves_an_advisory_lock(
    folder: UPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("histoslide.storage.lock.lock_object._SETTLE_S", 0.05)
    path = folder / "heat.zarr"

    def forget(method: str, options: dict[str, Any]) -> None:
        options.pop("IfMatch", None), options.pop("IfNoneMatch", None)

    intercept(monkeypatch, forget)
    with caplog.at_level(logging.WARNING), hold(path) as lock:
        assert "cannot write on a condition" in caplog.text
        lock.check()
        with pytest.raises(LockedError), hold(path):
            pytest.fail("two held it")
    assert keys(folder) == []


def test_exports_and_conversions_go_there_too(folder: UPath, local: Path, tmp_path: Path) -> None:
    heat = open_heatmap(local)
    for overwrite in (False, True):
        other = convert_heatmap(heat, folder / "other.zarr", ngff="0.4", overwrite=overwrite)
        np.testing.assert_array_equal(other.probability(), heat.probability())
    with pytest.raises(OutputExistsError):
        convert_heatmap(heat, folder / "other.zarr", ngff="0.4")
    with pytest.raises(StoreError, match="the heatmap itself"):
        convert_heatmap(other, folder / "other.zarr", ngff="0.4", overwrite=True)
    back = convert_heatmap(other, tmp_path / "back.zarr", ngff="0.5")
    assert contents(back.path) == contents(local)
    with new_file(folder / "a.txt", overwrite=False) as partial:
        partial.write_text("a")
        assert not (folder / "a.txt").exists()
    assert (folder / "a.txt").read_text() == "a"
    with pytest.raises(OutputExistsError), new_file(folder / "a.txt", overwrite=False):
        pytest.fail("it exists")


def test_a_target_of_blocks_travels_to_workers(folder: UPath) -> None:
    store_heatmap(lazy_of(probabilities()), folder / "heat.zarr")
    with hold(folder / "heat.zarr") as lock:
        target = BlockTarget(folder / "heat.zarr", 1, lock.guard)
        target = pickle.loads(pickle.dumps(target))
        lock.guard.check()
    with hold(folder / "heat.zarr"), pytest.raises(LockLostError, match="is being written by"):
        pickle.loads(pickle.dumps(lock.guard)).check()
    assert target._probability.shape == (70, 40)
    np.testing.assert_array_equal(
        target._probability[:5, :5], probabilities()[:5, :5].astype(np.float32)
    )


def test_a_catalogue_finds_stores_there(folder: UPath) -> None:
    for name in ("a", "b"):
        store_heatmap(lazy_of(probabilities()), folder / f"{name}.zarr")
    catalogue = Catalogue([folder])
    assert [entry.key for entry in catalogue.entries()] == ["a", "b"]
    source = catalogue.source("a")
    assert source.state().complete
    assert source.highest() == pytest.approx(np.nanmax(probabilities()))
    assert catalogue.slide("a") is None
    catalogue.close()
    with pytest.raises(StoreError, match="does not exist"):
        Catalogue([folder / "none"])


def test_what_cannot_be_reached_is_one_line(folder: UPath) -> None:
    with pytest.raises(StoreError, match=r"^s3://.*none\.zarr does not exist$"):
        open_heatmap(folder / "none.zarr")
    absent = parse_location("s3://no-such-bucket/heat.zarr")
    with pytest.raises(StoreError, match=r"^s3://no-such-bucket/.* bucket") as caught:
        store_heatmap(lazy_of(probabilities()), absent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/heat.zarr", "credentials"),
        ("s3://bucket/heat.zarr?X-Amz-Signature=secret", "credentials"),
        ("gs://bucket/heat.zarr", "not on S3"),
        ("s3://bucket", "names no object"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(HistoslideError, match=said) as caught:
        parse_location(url)
    assert "secret" not in str(caught.value)


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(HistoslideError, match=r"pip install 'histoslide\[s3\]'"):
        parse_location("s3://bucket/heat.zarr")
    assert not is_remote(parse_location("heat.zarr"))
