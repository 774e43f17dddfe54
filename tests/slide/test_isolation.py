"""A crash in a slide library takes down a worker, and nothing else."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from processes import reading_processes

import histoslide.slide.isolated.slide as isolated_slide_module
from histoslide.errors import (
    ResolutionError,
    SlideCrashError,
    SlideOpenError,
    SlideReadError,
    SlideTimeoutError,
)
from histoslide.geometry import Mpp, Region
from histoslide.slide import open_slide
from histoslide.slide.access import SlideAccess
from histoslide.slide.isolated.slide import IsolatedSlide
from histoslide.slide.isolated.time_limit import TimeLimit
from histoslide.synthetic import fiducial_slide

CRASHING = "crashing:open_crashing"

SAYS = pytest.mark.filterwarnings("ignore:warned by the worker")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fiducial_slide(
        tmp_path_factory.mktemp("slides") / "good.tif", width=900, height=700, mpp=0.5
    )


def named(good: Path, folder: Path, stem: str) -> Path:
    """The same slide under a name that tells the fake library what to do."""
    path = folder / f"{stem}.tif"
    path.write_bytes(good.read_bytes())
    return path


def crashing(path: Path, *, read_seconds: float = 120, workers: int | None = None) -> IsolatedSlide:
    return IsolatedSlide(path, opener=CRASHING, read_seconds=read_seconds, workers=workers)


def test_it_is_the_slide_that_it_isolates(good: Path) -> None:
    with IsolatedSlide(good) as slide, open_slide(good) as direct:
        for name in (
            "name", "size_l0", "level_sizes", "level_downsamples", "mpp", "bounds_l0", "quickhash",
            "properties",
        ):  # fmt: skip
            assert getattr(slide, name) == getattr(direct, name)
        for level, size in enumerate(slide.level_sizes):
            region = Region(level, 3, 5, size.width - 7, size.height - 11)
            assert np.array_equal(slide.read(region), direct.read(region))
        pixels = slide.read(Region(0, 0, 0, 4, 4))
        pixels[:] = 0  # ours to change
        assert slide.read(Region(0, 0, 0, 4, 4)).any()
    assert not reading_processes()


def test_workers_import_little(good: Path) -> None:
    code = "import sys, histoslide.slide.isolated.process\n"
    code += "assert not {'torch', 'dask', 'zarr', 'scipy', 'fastai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_a_process_started_ahead_reads_the_next_slide(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlideAccess(workers=1).begin():
        (ahead,) = reading_processes()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nowhere")  # as torch does meanwhile
        with IsolatedSlide(good) as slide:
            assert reading_processes() == [ahead]
            with IsolatedSlide(good) as other:  # there was only one
                assert len(reading_processes()) == 2
                assert other.quickhash == slide.quickhash
    assert not reading_processes()
    with SlideAccess(workers=5).begin():
        assert len(reading_processes()) == 2
        with IsolatedSlide(good):
            assert len(reading_processes()) == 2
    assert not reading_processes()  # nobody needed the other
    with SlideAccess(isolate=False).begin():
        assert not reading_processes()
    with SlideAccess(workers=1).begin():
        (ahead,) = reading_processes()
        monkeypatch.chdir(good.parent)  # where that process is not
        with IsolatedSlide(Path(good.name)):
            assert reading_processes() != [ahead]
            assert len(reading_processes()) == 1


def test_a_slide_opens_where_the_current_folder_was_deleted(good: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from histoslide.slide.isolated.slide import IsolatedSlide\n"
        "os.rmdir(os.getcwd())\n"
        "with IsolatedSlide(Path(sys.argv[1])) as slide: print(slide.size_l0.width)\n"
    )
    folder = tmp_path / "gone"
    folder.mkdir()
    out = subprocess.run(
        [sys.executable, "-c", code, str(good)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout == "900\n"


def test_a_given_resolution_and_errors_of_opening_pass_through(good: Path, tmp_path: Path) -> None:
    given = Mpp(value=0.25, source="--mpp")
    with IsolatedSlide(good, mpp=given) as slide:
        assert slide.mpp == given
    with pytest.raises(SlideOpenError, match=r"no\.tif does not exist"):
        IsolatedSlide(tmp_path / "no.tif")
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    with pytest.raises(SlideOpenError, match=r"text\.svs is not a slide"):
        IsolatedSlide(text)
    flat = tmp_path / "flat.tif"
    tifffile.imwrite(
        flat,
        np.zeros((512, 512, 3), np.uint8),
        tile=(256, 256),
        photometric="rgb",
        resolution=(20000, 40000),
        resolutionunit="CENTIMETER",
    )
    with pytest.raises(ResolutionError, match=r"flat\.tif records 0\.5 .*0\.25 .*pass --mpp"):
        IsolatedSlide(flat)
    assert not reading_processes()


@SAYS
@pytest.mark.parametrize(
    ("stem", "reason"),
    [("segv", "SIGSEGV"), ("null", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit code 3")],
)
def test_a_crash_is_a_failed_read(
    good: Path, tmp_path: Path, stem: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = named(good, tmp_path, stem)
    with crashing(path) as slide, open_slide(good) as direct:
        with pytest.raises(
            SlideReadError, match=rf"{stem}\.tif: level 0 at \(350, 250\).*{reason}"
        ):
            slide.read(Region(0, 350, 250, 100, 100))
        elsewhere = Region(0, 0, 0, 200, 200)
        assert np.array_equal(slide.read(elsewhere), direct.read(elsewhere))
        ours = "histoslide.slide.isolated.slide"
        said = [r.getMessage() for r in caplog.records if r.name == ours]
        assert len(said) == 1
        assert reason in said[0]
        # what lies inside a region that killed twice is tried once
        deaths = slide._crashes
        assert deaths == 2
        with pytest.raises(SlideReadError):
            slide.read(Region(0, 390, 290, 20, 20))
        assert slide._crashes == deaths + 1
    assert not reading_processes()


@SAYS
def test_a_crash_that_does_not_come_again_is_no_error(good: Path, tmp_path: Path) -> None:
    with crashing(named(good, tmp_path, "once")) as slide, open_slide(good) as direct:
        region = Region(0, 350, 250, 100, 100)
        assert np.array_equal(slide.read(region), direct.read(region))


@SAYS
@pytest.mark.parametrize("stem", ["hang", "lock"])
def test_a_read_that_hangs_is_ended(good: Path, tmp_path: Path, stem: str) -> None:
    with crashing(named(good, tmp_path, stem), read_seconds=1.0) as slide:
        with pytest.raises(SlideReadError, match="no answer in"):
            slide.read(Region(0, 350, 250, 100, 100))
        assert slide.read(Region(0, 0, 0, 10, 10)).shape == (10, 10, 3)
    assert not reading_processes()


@SAYS
def test_crashing_again_and_again_gives_the_slide_up(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_slide_module, "MAX_CRASHES", 3)
    monkeypatch.setattr(isolated_slide_module, "MAX_CRASHES_AT_FIRST", 2)
    path = named(good, tmp_path, "segv")
    with crashing(path) as slide, pytest.raises(SlideCrashError, match=r"SIGSEGV.* 2 times"):
        slide.read(Region(0, 350, 250, 100, 100))
    with crashing(path) as slide:
        slide.read(Region(0, 0, 0, 10, 10))
        with pytest.raises(SlideReadError):
            slide.read(Region(0, 350, 250, 100, 100))
        with pytest.raises(SlideCrashError, match=r"SIGSEGV.* 3 times .*given up"):
            slide.read(Region(0, 380, 280, 100, 100))


@pytest.mark.parametrize("stem", ["open-segv", "open-hang"])
def test_a_crash_at_opening(
    good: Path, tmp_path: Path, stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_slide_module, "_START_SECONDS", 3.0)
    with pytest.raises(SlideCrashError, match="at opening it, twice"):
        crashing(named(good, tmp_path, stem), read_seconds=0.1)
    assert not reading_processes()


@SAYS
def test_errors_arrive_as_themselves(good: Path, tmp_path: Path) -> None:
    region = Region(0, 350, 250, 100, 100)
    with crashing(named(good, tmp_path, "refuse")) as slide:
        with pytest.raises(SlideReadError, match=r"refuse\.tif: refused"):
            slide.read(region)
        (worker,) = slide._idle  # such an error costs no worker
        slide.read(Region(0, 0, 0, 10, 10))
        assert slide._idle == [worker]
    with crashing(named(good, tmp_path, "bug")) as slide:
        with pytest.raises(ZeroDivisionError) as caught:
            slide.read(region)
        assert "crashing.py" in "".join(caught.value.__notes__)
    with (
        crashing(named(good, tmp_path, "odd")) as slide,
        pytest.raises(RuntimeError, match="OddError: cannot be pickled"),
    ):
        slide.read(region)
    assert not reading_processes()


def test_what_a_worker_says_is_said_once(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = named(good, tmp_path, "segv")
    with (
        pytest.warns(UserWarning, match="warned by the worker") as warned,
        crashing(path) as slide,
        pytest.raises(SlideReadError),
    ):
        slide.read(Region(0, 350, 250, 100, 100))
    assert len(warned) == 1
    said = [r for r in caplog.records if "said by the worker" in r.getMessage()]
    assert [(r.name, r.levelno) for r in said] == [("histoslide.slide", logging.WARNING)]
    assert capfd.readouterr().out == ""


def test_threads_read_at_once_within_the_bound(good: Path) -> None:
    with IsolatedSlide(good, workers=2) as slide, open_slide(good) as direct:
        most = 0

        def read(i: int) -> bool:
            nonlocal most
            region = Region(0, i * 7, i * 5, 300, 200)
            same = np.array_equal(slide.read(region), direct.read(region))
            most = max(most, len(reading_processes()))
            return same

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(read, range(60)))
        assert most == 2
    assert not reading_processes()
    assert slide.read(Region(0, 0, 0, 10, 10)).any()  # closed, it opens again
    slide.close()


def test_closing_while_another_thread_reads(good: Path, tmp_path: Path) -> None:
    slide = IsolatedSlide(named(good, tmp_path, "slow"))
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            assert slide.read(Region(0, 0, 0, 300, 300)).shape == (300, 300, 3)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for _ in range(3):
            time.sleep(0.05)
            slide.close()
        stop.set()
        assert reading.result() >= 0
    slide.close()
    assert not reading_processes()


def test_it_can_be_pickled(good: Path) -> None:
    with IsolatedSlide(good) as slide:
        copy = pickle.loads(pickle.dumps(slide))
        assert copy.size_l0 == slide.size_l0
        assert len(reading_processes()) == 1  # nothing is opened before it is read
        region = Region(0, 10, 20, 30, 40)
        assert np.array_equal(copy.read(region), slide.read(region))
        copy.close()
    assert not reading_processes()


def test_a_forgotten_slide_leaves_no_process(good: Path) -> None:
    slide = IsolatedSlide(good)
    assert len(reading_processes()) == 1
    del slide
    assert not reading_processes()


SCRIPT = """
import os, sys, time
from pathlib import Path
from histoslide.geometry import Region
from histoslide.slide.isolated.slide import IsolatedSlide
slide = IsolatedSlide(Path(sys.argv[1]), opener="crashing:open_crashing")
slide.read(Region(0, 0, 0, 10, 10))
print(slide._idle[0]._started.process.pid, flush=True)
slide.read(Region(0, 350, 250, 100, 100))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_die_with_their_parent_also_in_a_hung_read(
    good: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """A script without a main guard, that is killed while a library hangs."""
    path = named(good, tmp_path, "hang")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        time.sleep(0.2)
        parent.send_signal(how)
        _, errors = parent.communicate(timeout=20)
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not alive
    assert "isolated/process" not in errors  # no traceback of the worker
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hang.tif"]


@SAYS
def test_the_time_of_a_slide_ends_a_hung_read(good: Path, tmp_path: Path) -> None:
    limit = TimeLimit("hang.tif", 1000)
    path = named(good, tmp_path, "hang")
    with IsolatedSlide(path, opener=CRASHING, limit=limit) as slide, limit.running():
        limit._spent = 999.5
        with pytest.raises(SlideTimeoutError, match=r"hang\.tif: timed out after 1000 s"):
            slide.read(Region(0, 350, 250, 100, 100))
        with pytest.raises(SlideTimeoutError):
            slide.read(Region(0, 0, 0, 10, 10))
    assert not reading_processes()


def test_a_clock_runs_only_while_the_slide_is_in_work() -> None:
    limit = TimeLimit("a.tif", 100.0)
    time.sleep(0.02)
    assert limit.spent == 0
    with limit.running():
        time.sleep(0.02)
        copy = pickle.loads(pickle.dumps(limit))
        assert copy.spent >= 0.02
        before = copy.spent
        time.sleep(0.01)
        assert copy.spent > before
    spent = limit.spent
    time.sleep(0.02)
    assert limit.spent == spent >= 0.02
    assert limit.left == 100 - spent
    TimeLimit("b.tif").check()
    with pytest.raises(SlideTimeoutError, match=r"a\.tif: timed out after 0 s"):
        TimeLimit("a.tif", 0).check()


def test_isolation_can_be_switched_off(good: Path) -> None:
    with SlideAccess(isolate=False).open(good) as slide:
        assert slide.read(Region(0, 0, 0, 10, 10)).shape == (10, 10, 3)
        assert not reading_processes()
    with SlideAccess().open(good) as slide:
        assert len(reading_processes()) == 1
