"""Blocks on a real scheduler and worker processes over TCP: killed, late, and one model each."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from histoslide_cli.main import main
from numpy.typing import NDArray

from histoslide.errors import HistoslideError
from histoslide.geometry import Mpp, Region
from histoslide.grid.status import Status
from histoslide.machine.gpu_seats import take_seat
from histoslide.model import load_model
from histoslide.scoring.cluster import Cluster, worker_device
from histoslide.scoring.lazy import BlockModel, LazyHeatmap, make_heatmap
from histoslide.slide import Slide, open_slide
from histoslide.store import open_heatmap, store_heatmap
from histoslide.synthetic import mosaic_slide
from histoslide.tissue.masks import METHODS, find_tissue


@dataclass
class Machines:
    """A scheduler and its workers, as processes."""

    folder: Path
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    def start(self) -> None:
        self.scheduler = self._run(
            "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)
        )
        deadline = time.monotonic() + 100
        while not self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def add_worker(self) -> subprocess.Popen[bytes]:
        worker = self._run(
            "worker", "--scheduler-file", str(self.file), "--no-nanny", "--nthreads", "1",
            "--no-dashboard", "--death-timeout", "100", "--local-directory", str(self.folder),
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                process.kill()
                process.wait()

    def _run(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (self.folder / f"{kind}-{len(self.workers)}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *options],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
            )


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    made = Machines(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (120, 96, 96, 3), dtype=np.uint8)
    return mosaic_slide(
        tmp_path_factory.mktemp("slide") / "noise.tif", patches, columns=12, mpp=0.972
    )


def lazy_heatmap(
    path: Path, model: BlockModel, block_cells: int = 4, slide: Slide | None = None
) -> LazyHeatmap:
    slide = open_slide(path, mpp=Mpp(value=0.972, source="test")) if slide is None else slide
    return make_heatmap(
        slide,
        model,
        tissue=find_tissue(slide, METHODS["none"]),
        tissue_threshold=0.0,
        block_cells=block_cells,
    )


def test_a_worker_dies_and_one_comes_late(
    tmp_path: Path, slide_path: Path, small_bundle: Path
) -> None:
    torch.set_num_threads(1)
    local = load_model(small_bundle, device="cpu")
    expected = store_heatmap(lazy_heatmap(slide_path, local), tmp_path / "local.zarr")
    with machines(tmp_path) as many:
        first = many.add_worker()
        with Cluster.connect(str(many.file)) as cluster:
            model = cluster.load_model(small_bundle)
            assert (str(model.engine), model.device) == ("torch fp32", "cpu")
            events: list[int] = []

            def on_block(done: int, total: int, scored: int) -> None:
                events.append(done)
                if len(events) == 5:
                    many.add_worker()  # comes late, and must be given the model
                    first.send_signal(signal.SIGKILL)

            heat = store_heatmap(
                lazy_heatmap(slide_path, model),
                tmp_path / "cluster.zarr",
                on_block=on_block,
                runner=cluster,
            )
    assert first.wait() == -signal.SIGKILL
    assert events == list(range(1, len(events) + 1))
    assert len(events) == np.prod(expected.grid.block_shape)
    assert heat.complete
    assert (heat.status == Status.SCORED).all()
    np.testing.assert_allclose(heat.probability(), expected.probability(), atol=1e-5)


def test_a_scheduler_that_is_gone_is_named_and_the_rest_can_be_done(
    tmp_path: Path, slide_path: Path, small_bundle: Path
) -> None:
    out = tmp_path / "h.zarr"
    with machines(tmp_path) as many:
        many.add_worker()
        with Cluster.connect(str(many.file)) as cluster:
            scheduler = many.scheduler
            assert scheduler is not None

            def on_block(done: int, total: int, scored: int) -> None:
                if done == 3:
                    scheduler.kill()

            lazy = lazy_heatmap(slide_path, cluster.load_model(small_bundle))
            with pytest.raises(HistoslideError, match="the scheduler of the cluster is gone"):
                store_heatmap(lazy, out, on_block=on_block, runner=cluster)
    scored = int((open_heatmap(out, allow_incomplete=True).status == Status.SCORED).sum())
    assert scored >= 3
    local = load_model(small_bundle, device="cpu")
    assert store_heatmap(lazy_heatmap(slide_path, local), out).complete


class FlakySlide(Slide):
    """In a worker, the first read of every second region raises what is no matter of the slide."""

    def __init__(self, path: Path) -> None:
        self._slide = open_slide(path, mpp=Mpp(value=0.972, source="test"))
        super().__init__(self._slide.facts)
        self.seen: set[Region] = set()
        self.flaky = False

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"flaky": True}

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        if self.flaky and region not in self.seen:
            self.seen.add(region)
            if len(self.seen) % 2:
                raise MemoryError("not now")
        return self._slide.read(region, shrink)


def test_a_block_that_fails_is_tried_again(
    tmp_path: Path, slide_path: Path, small_bundle: Path
) -> None:
    local = load_model(small_bundle, device="cpu")
    expected = store_heatmap(lazy_heatmap(slide_path, local), tmp_path / "local.zarr")
    with (
        LocalCluster(1, processes=False, threads_per_worker=2, dashboard_address=":0") as here,
        Client(here, set_as_default=False) as client,
        Cluster(client) as cluster,
    ):
        model = cluster.load_model(small_bundle)
        slide = FlakySlide(slide_path)
        lazy = lazy_heatmap(slide_path, model, slide=slide)
        heat = store_heatmap(lazy, tmp_path / "h.zarr", runner=cluster)
    assert (heat.status == Status.SCORED).all()
    np.testing.assert_allclose(heat.probability(), expected.probability(), atol=1e-5)


def test_score_on_local_workers(tmp_path: Path, slide_path: Path, small_bundle: Path) -> None:
    """The whole command, with worker processes that it starts itself."""
    out = tmp_path / "h.zarr"
    command = ["score", str(slide_path), "--out", str(out), "--model", str(small_bundle)]
    assert main([*command, "--tissue", "none", "--dask", "local:2", "--quiet"]) == 0
    heat = open_heatmap(out)
    local = load_model(small_bundle, device="cpu")
    expected = store_heatmap(lazy_heatmap(slide_path, local, 32), tmp_path / "local.zarr")
    np.testing.assert_allclose(heat.probability(), expected.probability(), atol=1e-5)
    # Another run, without a cluster, finds the same settings and leaves it alone.
    assert main([*command, "--tissue", "none", "--quiet"]) == 0


def test_a_local_cluster_is_reached_from_this_machine_only() -> None:
    """Dask's own default for the dashboard is every interface."""
    with closing(Cluster.connect("local:1")) as cluster:
        listening = {
            connection.laddr.ip
            for process in (psutil.Process(), *psutil.Process().children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        assert cluster.dashboard is not None
        assert cluster.dashboard.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("text", ['{"slides": []}', "[1, 2]", "7", "no JSON"])
def test_other_files_are_no_scheduler_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    for where in (tmp_path, tmp_path / "run.json"):
        with pytest.raises(HistoslideError, match="is no scheduler file: give one"):
            Cluster.connect(str(where))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("local:none", "--dask local:none: give a number of workers"),
        ("local:0", "--dask local:0: give a number of workers"),
        ("nowhere.json", "--dask nowhere.json is no scheduler file"),
    ],
)
def test_places_without_a_scheduler_are_refused(where: str, words: str) -> None:
    with pytest.raises(HistoslideError, match=words):
        Cluster.connect(where)


def test_workers_on_one_machine_spread_over_its_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also as dask-cuda shows them: each worker all of them, its own first."""
    monkeypatch.setattr("histoslide.scoring.cluster.pick_device", str)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=seen[index])
    )
    with ExitStack() as held:
        chosen = []
        for order in ("ab", "ba", "ab", "ab"):
            seen[:] = order
            device = worker_device("cuda", held)
            chosen.append(order[int(device.removeprefix("cuda:"))])
        assert chosen == ["a", "b", "a", "b"]
        assert worker_device("cuda:1", held) == "cuda:1"
        assert worker_device("cpu", held) == "cpu"
    with ExitStack() as held:  # all have been left
        assert [worker_device("cuda", held) for _ in seen] == ["cuda:0", "cuda:1"]


SITTER = """
import sys
from pathlib import Path
from histoslide.machine.gpu_seats import take_seat
seat = take_seat(sys.argv[2].split(","), Path(sys.argv[1]))
print(seat.index, flush=True)
sys.stdin.read()
"""


@contextmanager
def sitter(folder: Path, gpus: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A process that takes a seat, and where."""
    process = subprocess.Popen(
        [sys.executable, "-c", SITTER, str(folder), gpus],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


def test_the_seat_of_a_killed_worker_is_free_again(tmp_path: Path) -> None:
    with ExitStack() as sitters:
        seats = [sitters.enter_context(sitter(tmp_path, "a,b")) for _ in range(3)]
        assert [index for index, _ in seats] == [0, 1, 0]
        victim = seats[1][1]
        victim.kill()
        victim.wait()
        orders = ("a,b", "b,a")
        seats = [sitters.enter_context(sitter(tmp_path, order)) for order in orders]
        assert [index for index, _ in seats] == [1, 0]
    with sitter(tmp_path, "a,b") as (index, _):
        assert index == 0
        assert len(list(tmp_path.iterdir())) == 2  # its seat and the lock: others were swept away


def test_where_no_seats_can_be_kept_the_first_gpu_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with take_seat(["a", "b"], file) as first, take_seat(["a", "b"], file) as second:
        assert (first.index, second.index) == (0, 0)


def test_an_adaptive_cluster_may_have_no_worker_at_times(
    tmp_path: Path, slide_path: Path, small_bundle: Path
) -> None:
    """Workers start when there is work, and end when there is none."""
    local = load_model(small_bundle, device="cpu")
    expected = store_heatmap(lazy_heatmap(slide_path, local), tmp_path / "local.zarr")
    with (
        LocalCluster(
            n_workers=0, threads_per_worker=1, dashboard_address=":0", local_directory=tmp_path
        ) as adaptive,
        Client(adaptive, set_as_default=False) as watcher,
    ):
        adaptive.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2)
        with Cluster(Client(adaptive, set_as_default=False)) as cluster:
            model = cluster.load_model(small_bundle, backend="torch", precision="fp32")
            assert (str(model.engine), model.device) == ("torch fp32", "cpu")
            deadline = time.monotonic() + 100
            while watcher.nthreads():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            lazy = lazy_heatmap(slide_path, model)
            heat = store_heatmap(lazy, tmp_path / "h.zarr", runner=cluster)
    assert (heat.status == Status.SCORED).all()
    np.testing.assert_allclose(heat.probability(), expected.probability(), atol=1e-5)


def test_workers_keep_nothing_of_a_run(
    tmp_path: Path, slide_path: Path, small_bundle: Path
) -> None:
    with LocalCluster(1, processes=False, dashboard_address=":0") as lasting:
        (worker,) = lasting.workers.values()

        def kept() -> list[str]:
            files = Path(worker.local_directory).glob("histoslide-*")
            return [*(p for p in worker.plugins if "histoslide" in p), *(f.name for f in files)]

        with Cluster(Client(lasting, set_as_default=False)) as cluster:
            model = cluster.load_model(small_bundle)
            store_heatmap(lazy_heatmap(slide_path, model), tmp_path / "h.zarr", runner=cluster)
            assert model.plugin in kept()
            assert len(kept()) >= 2
        assert kept() == []
