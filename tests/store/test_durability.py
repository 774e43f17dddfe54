"""Killed at any operation, on a full disk, by two runs at once: what is whole stays whole."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from dask.delayed import Delayed
from heatmaps import lazy_of
from killing import contents, probabilities

from histoslide.errors import LockedError, LockLostError, StoreError
from histoslide.grid.status import Status
from histoslide.scoring.runners import BlockIndex, BlockTask
from histoslide.storage.lock import hold, lock_path
from histoslide.storage.writing import whole_file
from histoslide.store import convert_heatmap, open_heatmap, store_heatmap
from histoslide.synthetic import write_slide

STEP = int(os.environ.get("HISTOSLIDE_TEST_KILL_STEP", "19"))
"""Every so many operations; 1 for all of them, which takes minutes."""


@pytest.mark.parametrize(("ngff", "mode"), [("0.5", "new"), ("0.4", "overwrite")])
def test_killed_at_any_operation_it_ends_as_if_it_had_not_been(
    tmp_path: Path, ngff: str, mode: str
) -> None:
    here = Path(__file__).parents[1]
    run = [sys.executable, str(here / "killing.py"), str(tmp_path), ngff, mode, str(STEP)]
    environment = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{here}"}
    done = subprocess.run(run, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 80  # there is that much to be killed at


def test_a_killed_command_ends_as_if_it_had_not_been(tmp_path: Path, small_bundle: Path) -> None:
    """``kill -9`` of the whole command: slide, worker processes, network, heatmap and lesions."""
    slide = tmp_path / "s.tif"
    pixels = np.random.default_rng(0).integers(60, 200, (1100, 1100, 3), dtype=np.uint8)
    write_slide(slide, pixels, mpp=0.972)

    command = [sys.executable, "-m", "histoslide_cli.main", "score", "../s.tif"]
    command += ["--out", "heat.zarr", "--model", str(small_bundle), "--tissue", "none"]
    command += ["--stride", "16", "--no-overlay", "--quiet"]
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    subprocess.run(command, cwd=tmp_path / "whole", check=True)
    out = tmp_path / "killed" / "heat.zarr"
    with subprocess.Popen(command, cwd=out.parent) as process:
        while process.poll() is None and not any((out / "labels/status/0/c").rglob("?")):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    heat = open_heatmap(out, allow_incomplete=True)
    assert (heat.status == Status.SCORED).any()
    assert (heat.status == Status.PENDING).any()
    subprocess.run(command, cwd=out.parent, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes | str]:
    (tmp_path / "whole").mkdir()
    store_heatmap(lazy_of(probabilities(2)), tmp_path / "whole" / "heat.zarr")
    return contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB, of which a heatmap needs more."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, whole: dict[str, bytes | str]) -> None:
    ballast = small_disk / "ballast"
    reached: set[int] = set()
    said: list[str] = []
    for kib in (88, 68, 56, 44, 32, 20, 8, 0):  # more and more room
        ballast.unlink(missing_ok=True)
        if kib:
            ballast.write_bytes(b"x" * 1024 * kib)
        try:
            store_heatmap(lazy_of(probabilities(2)), small_disk / "heat.zarr")
        except StoreError as error:
            said.append(str(error))
            reached.add(len(list(small_disk.rglob("*"))))
        else:
            break
    ballast.unlink(missing_ok=True)
    assert all("the disk is full" in line and "\n" not in line for line in said)
    assert len(reached) >= 2  # it was full at different moments
    assert contents(small_disk) == whole


def test_a_limit_on_the_size_of_files(tmp_path: Path, whole: dict[str, bytes | str]) -> None:
    """A quota, to a program, is a write that fails for another reason."""
    path = tmp_path / "limited" / "heat.zarr"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (300, 700, 3000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StoreError, match="cannot be written: File too large"):
                store_heatmap(lazy_of(probabilities(2)), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store_heatmap(lazy_of(probabilities(2)), path)
    assert contents(path.parent) == whole


def test_a_store_in_work_is_refused_but_a_whole_one_is_read(tmp_path: Path) -> None:
    path, lazy = tmp_path / "heat.zarr", lazy_of(probabilities(2))
    refused: list[str] = []

    def second(*_: int) -> None:
        for overwrite in (False, True):
            with pytest.raises(LockedError) as caught:
                store_heatmap(lazy, path, overwrite=overwrite)
            refused.append(str(caught.value))

    heat = store_heatmap(lazy, path, on_block=second)
    assert len(refused) >= 2
    assert all(f"process {os.getpid()} on" in text for text in refused)
    with hold(path):
        assert store_heatmap(lazy, path).complete  # nothing to write: nothing to lock
        with pytest.raises(LockedError):
            convert_heatmap(heat, path, ngff="0.4", overwrite=True)


def test_a_run_that_was_taken_over_stops(tmp_path: Path) -> None:
    path, lazy = tmp_path / "heat.zarr", lazy_of(probabilities(2))

    def lose(*_: int) -> None:
        lock_path(path).unlink(missing_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold.__wrapped__, "__kwdefaults__", {"stale_s": 0.0, "holder": None})  # type: ignore[attr-defined]
        with pytest.raises(LockLostError):
            store_heatmap(lazy, path, on_block=lose)
    assert not open_heatmap(path, allow_incomplete=True).complete
    assert store_heatmap(lazy, path).complete


class Forgetful:
    """A runner that ends with a block under way, as a cluster may when its client goes."""

    slides_at_once = 1
    late: Delayed

    def run(self, blocks: Sequence[BlockIndex], task: BlockTask) -> Generator[int, None, None]:
        self.late, *others = map(task.graph, blocks)
        for block in others:
            yield int(block.compute(scheduler="synchronous"))
        raise ConnectionError(1, "the client is gone")


def test_a_worker_that_comes_late_does_not_write_into_the_next_run(tmp_path: Path) -> None:
    """What was scored for a run that has ended is not of the one that goes on with its store."""
    path, wanted, late = tmp_path / "heat.zarr", probabilities(1), probabilities(2)
    forgetful = Forgetful()
    with pytest.raises(StoreError):
        store_heatmap(lazy_of(late), path, runner=forgetful)

    def on_block(done: int, total: int, scored: int) -> None:
        if done == total:
            with pytest.raises(LockLostError, match="scored for another run"):
                forgetful.late.compute(scheduler="synchronous")

    heat = store_heatmap(lazy_of(wanted), path, on_block=on_block)
    assert heat.complete
    first = np.s_[: heat.grid.block_cells, : heat.grid.block_cells]
    np.testing.assert_array_equal(heat.probability()[first], wanted[first].astype(np.float32))


def test_what_a_killed_run_left_of_a_file_is_removed(tmp_path: Path) -> None:
    run = (
        "import os, sys\nfrom pathlib import Path\n"
        "from histoslide.storage.writing import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "heat.png"
    subprocess.run([sys.executable, "-c", run, str(path)], check=False)
    assert [left.name.startswith(".heat.png.") for left in tmp_path.iterdir()] == [True]
    with whole_file(path) as partial:
        partial.write_text("whole")
    assert [left.name for left in tmp_path.iterdir()] == ["heat.png"]
