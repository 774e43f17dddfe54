"""One run at a time: held, refused, stale, taken over; with real processes."""

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from histoslide.errors import LockedError, LockLostError
from histoslide.storage.lock import Holder, hold, lock_path

HOLDER = """
import dataclasses, sys, time
from pathlib import Path
from histoslide.errors import LockLostError
from histoslide.storage.lock import Holder, hold
path, machine, beat_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
holder = Holder.here(beat_s=beat_s)
if machine:
    holder = dataclasses.replace(holder, machine=machine, host=machine)
try:
    with hold(path, holder=holder, stale_s=0.4 if machine else 120) as lock:
        print("held", flush=True)
        for line in sys.stdin:
            lock.check()
            print("still held", flush=True)
except LockLostError:
    print("lost", flush=True)
"""


class Other:
    """Another process that holds a lock until told to end."""

    def __init__(self, path: Path, *, machine: str = "", beat_s: float = 10.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), machine, str(beat_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.read() == "held"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self) -> str:
        """What it says when it checks its lock."""
        assert self.process.stdin is not None
        self.process.stdin.write("check\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "heat.zarr"


@pytest.fixture
def other(store: Path) -> Iterator[Other]:
    process = Other(store)
    yield process
    process.end()


def test_nothing_is_left_beside_a_store(store: Path) -> None:
    with hold(store) as lock:
        lock.check()
        assert [path.name for path in store.parent.iterdir()] == [".heat.zarr.lock"]
    assert not list(store.parent.iterdir())


def test_a_second_run_is_refused_and_told_by_whom(store: Path, other: Other) -> None:
    held = Holder.read(lock_path(store).read_text())
    assert held is not None
    with pytest.raises(LockedError) as caught, hold(store):
        pytest.fail("two held it")
    assert f"heat.zarr is being written by process {other.pid} on {held.host} since" in str(
        caught.value
    )
    assert held.since[:10] in str(caught.value)
    assert "\n" not in str(caught.value)
    other.process.communicate()  # it ends in peace
    with hold(store):
        pass


def test_two_threads_of_one_process_are_two_runs(store: Path) -> None:
    with hold(store), pytest.raises(LockedError, match=str(os.getpid())), hold(store):
        pytest.fail("two held it")


def test_the_lock_of_a_killed_process_is_taken_over(
    store: Path, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(other.pid, signal.SIGKILL)
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    # Not even its parent has asked for it yet: a zombie holds nothing.
    with caplog.at_level(logging.WARNING), hold(store):
        pass
    assert f"the lock of process {other.pid} on" in caplog.text
    assert "is taken over: that process has ended" in caplog.text
    assert not list(store.parent.iterdir())


def test_a_number_that_another_process_has_got_since_holds_nothing(store: Path) -> None:
    mine = Holder.here()
    earlier = dataclasses.replace(mine, started=f"{mine.started}0", token="x" * 32)
    lock_path(store).write_text(json.dumps(dataclasses.asdict(earlier)))
    with hold(store) as lock:
        lock.check()


def test_a_suspended_process_holds_its_lock(store: Path, other: Other) -> None:
    os.kill(other.pid, signal.SIGSTOP)
    os.utime(lock_path(store), (0, 0))  # however long ago its last heartbeat was
    while psutil.Process(other.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    said = rf"suspended, continue it \(kill -CONT {other.pid}\)"
    with pytest.raises(LockedError, match=said), hold(store):
        pytest.fail("two held it")
    os.kill(other.pid, signal.SIGCONT)
    assert other.ask() == "still held"


def test_a_holder_elsewhere_that_beats_is_refused_whatever_the_clocks(store: Path) -> None:
    other = Other(store, machine="elsewhere", beat_s=0.05)
    try:
        # A clock far ahead makes every heartbeat old: the lock is watched, and seen to move.
        said = r"on elsewhere since.*last sign of life"
        with pytest.raises(LockedError, match=said), hold(store, stale_s=-3600):
            pytest.fail("two held it")
        assert other.ask() == "still held"
    finally:
        other.end()


def test_a_silent_holder_elsewhere_is_replaced_and_finds_out(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Other(store, machine="elsewhere", beat_s=0.1)
    try:
        os.kill(other.pid, signal.SIGSTOP)
        said = "after 60 s without one it is taken for dead"
        with pytest.raises(LockedError, match=said), hold(store, stale_s=60):
            pytest.fail("it may only be slow")
        time.sleep(0.5)
        with caplog.at_level(logging.WARNING), hold(store, stale_s=0.4) as mine:
            assert "on elsewhere since" in caplog.text
            assert "no sign of life" in caplog.text
            os.kill(other.pid, signal.SIGCONT)
            assert other.ask() == "lost"
            other.process.wait()
            mine.check()  # what it did at its end left our lock alone
            assert lock_path(store).exists()
    finally:
        other.end()


@pytest.mark.parametrize("says", ["", '{"pid": 1}', "[" * 5000])
def test_a_lock_that_says_nothing_goes_stale_too(store: Path, says: str) -> None:
    """A file system without hard links shows it empty for a moment, and a kill leaves it so."""
    lock_path(store).write_text(says)
    with pytest.raises(LockedError, match="by an unknown process"), hold(store):
        pytest.fail("somebody is just writing it")


def test_a_dead_holder_whose_clock_was_ahead_is_replaced(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = dataclasses.replace(Holder.here(beat_s=0.1), machine="elsewhere", token="x" * 32)
    lock_path(store).write_text(json.dumps(dataclasses.asdict(elsewhere)))
    tomorrow = time.time() + 86400
    os.utime(lock_path(store), (tomorrow, tomorrow))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), hold(store, stale_s=0.6) as lock:
        lock.check()
    assert time.monotonic() - began >= 0.6  # its heartbeat was all there was to go by
    assert "no sign of life" in caplog.text


def test_a_live_holder_whose_clock_is_ahead_is_refused(store: Path) -> None:
    elsewhere = dataclasses.replace(Holder.here(), machine="elsewhere", token="x" * 32)
    lock_path(store).write_text(json.dumps(dataclasses.asdict(elsewhere)))
    stop = threading.Event()

    def beat_on() -> None:
        for second in itertools.count(int(time.time()) + 86400):
            os.utime(lock_path(store), (second, second))
            if stop.wait(0.02):
                return

    beats = threading.Thread(target=beat_on)
    beats.start()
    try:
        with pytest.raises(LockedError, match=r"on .* since"), hold(store, stale_s=5):
            pytest.fail("two held it")
    finally:
        stop.set()
        beats.join()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells open files by /proc")
def test_files_that_are_open_need_not_be_removed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which refuses that."""
    unlink, removed = Path.unlink, []

    def refusing_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            removed.append(path.name)
            for descriptor in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):
                    if path.samefile(descriptor):
                        raise RuntimeError(f"{path} is open")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing_unlink)
    monkeypatch.setattr("histoslide.storage.lock.lock_file.sys", SimpleNamespace(platform="win32"))
    with hold(store) as lock:
        lock.check()
        with pytest.raises(LockedError), hold(store):
            pytest.fail("two held it")
    assert ".heat.zarr.lock" in removed
    assert not list(store.parent.iterdir())


def test_a_lock_that_was_taken_away_is_noticed(store: Path) -> None:
    with hold(store, stale_s=0, holder=Holder.here(beat_s=60)) as lock:
        lock.check()
        lock_path(store).unlink()
        with pytest.raises(LockLostError, match="nothing is lost"):
            lock.check()


TAKER = """
import sys, time
from pathlib import Path
from histoslide.errors import LockedError
from histoslide.storage.lock import hold
path, log = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:  # all start at once
    try:
        with hold(path), log.open("x"):  # two at once: the second cannot create it
            time.sleep(0.005)
            log.unlink()
        print("took", flush=True)
    except LockedError:
        print("refused", flush=True)
"""


def test_of_many_takers_of_a_dead_lock_one_gets_it(store: Path, tmp_path: Path) -> None:
    mine = Holder.here()
    ended = dataclasses.replace(mine, started=f"{mine.started}0")
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(store), str(tmp_path / "log")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for taker in takers:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "ready\n"
        for _ in range(40):
            lock_path(store).write_text(json.dumps(dataclasses.asdict(ended)))
            for taker in takers:
                assert taker.stdin is not None
                taker.stdin.write("go\n")
                taker.stdin.flush()
            said = [taker.stdout.readline().strip() for taker in takers if taker.stdout]
            assert set(said) <= {"took", "refused"}, said
            assert "took" in said
            assert not list(tmp_path.iterdir())
    finally:
        for taker in takers:
            taker.communicate()
