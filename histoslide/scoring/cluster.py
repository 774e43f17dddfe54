"""Blocks on a cluster: a ``distributed`` scheduler, one model a worker, slides opened once each.

The graph is that of a single machine. What differs is that blocks carry only references: a worker
keeps the model, which it gets when it joins, also late, and the slides that it has opened.
"""

from __future__ import annotations

import itertools
import json
import logging
import pickle
import threading
import uuid
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import distributed
import numpy as np
from cachetools import LRUCache
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from numpy.typing import NDArray

from histoslide.errors import HistoslideError
from histoslide.geometry import Region
from histoslide.machine.gpu_seats import take_seat
from histoslide.machine.processors import network_threads
from histoslide.model import (
    Model,
    ModelSpec,
    default_bundle,
    file_sha256,
    load_bundle,
    load_model,
    pick_device,
)
from histoslide.model.engine import FULL_PRECISION, BackendName, Engine, Precision
from histoslide.model.fast_paths import (
    FastPaths,
    choose_engine,
    fast_paths_file,
    ranges_sha256,
    read_fast_paths,
)
from histoslide.model.work import Work
from histoslide.scoring.runners import BlockIndex, BlockTask
from histoslide.slide import Slide
from histoslide.slide.facts import SlideFacts

if TYPE_CHECKING:
    from distributed import Worker

logger = logging.getLogger(__name__)

RETRIES = 3
"""Times that a block is tried again after an error or on a worker that died."""

_TRIES = 3
"""Times that all workers are told of a model, of which one may leave at that moment."""

_BLOCKS_A_THREAD = 4
"""Blocks that wait at each thread of a worker: none runs dry, and the scheduler stays light."""

_THREADS_A_SLIDE = 16
"""Threads of workers that one slide keeps busy, from its first block to its last."""

_MOST_SLIDES = 32
"""Slides that one program opens, masks and completes at a time."""

_OPEN_SLIDES = _MOST_SLIDES
"""Slides that a worker keeps open, at about 60 MB each: with fewer than are in work at a time,
blocks of many slides would open and close them in turn."""

_FIRST_WORKER_S = 600
"""Seconds to wait for the first worker; a queue of a large cluster takes minutes."""

_Choice = tuple[str, Engine]
"""Device and engine that a worker would compute with."""

_LOCAL_HOST = "127.0.0.1"
"""Where a local cluster and its dashboard listen: no other machine can connect."""

_LOCAL_THREADS = 4
"""Blocks in work at a time in each local worker, as in ``histoslide.scoring.runners``."""


@dataclass(frozen=True, kw_only=True)
class _Bundle:
    """A model as it travels to workers: its files."""

    bundle: bytes
    fast_paths: bytes | None
    engine: Engine
    device: str

    @classmethod
    def of(cls, path: Path, *, engine: Engine, device: str) -> _Bundle:
        record = fast_paths_file(path)
        return cls(
            bundle=path.read_bytes(),
            fast_paths=record.read_bytes() if record.exists() else None,
            engine=engine,
            device=device,
        )

    def load(self, worker: Worker, held: ExitStack, *, threads: int | None) -> Model:
        """Load it from the worker's own folder.

        Args:
            worker: that computes.
            held: gets what must stay as long as the model does.
            threads: of the network on the CPU; None for all that are there.
        """
        path = Path(worker.local_directory) / f"histoslide-{uuid.uuid4().hex}.safetensors"
        for file, content in ((path, self.bundle), (fast_paths_file(path), self.fast_paths)):
            if content is not None:
                held.callback(file.unlink, missing_ok=True)
                file.write_bytes(content)
        return load_model(
            path,
            device=worker_device(self.device, held),
            backend=self.engine.backend,
            precision=self.engine.precision,
            threads=threads,
        )


class ModelPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Keeps a model and open slides in a worker."""

    def __init__(self, name: str, model: _Bundle, *, threads: int | None) -> None:
        self.name = name
        self._bundle, self._threads = model, threads

    def setup(self, worker: Worker) -> None:
        """Called by distributed in each worker, also in those that join late."""
        self._worker = worker
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._held = ExitStack()
        self._slides: LRUCache[str, Slide] = LRUCache(maxsize=_OPEN_SLIDES)
        if self._threads is not None and self._bundle.engine.backend == "torch":
            import torch  # noqa: PLC0415 - a worker of OpenVINO does without it

            torch.set_num_threads(self._threads)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - distributed's signature
        """Called by distributed when the run or the worker ends: nothing of a run stays behind."""
        with self._lock:
            self._model = None
            self._slides.clear()
            self._held.close()

    @property
    def model(self) -> Model:
        """The model, loaded when the first block needs it."""
        with self._lock:
            if self._model is None:
                with ExitStack() as held:
                    self._model = self._bundle.load(self._worker, held, threads=self._threads)
                    self._held = held.pop_all()
            return self._model

    def slide(self, key: str, packed: bytes) -> Slide:
        """The slide of a key, unpickled once."""
        with self._lock:
            if key not in self._slides:
                self._slides[key] = pickle.loads(packed)  # noqa: S301 - our own, of this run
            return self._slides[key]


def _plugin(name: str) -> ModelPlugin:
    try:
        plugin = distributed.get_worker().plugins[name]
    except (ValueError, KeyError) as error:
        raise HistoslideError("this block's model lives in the workers of a cluster") from error
    assert isinstance(plugin, ModelPlugin)
    return plugin


@dataclass(frozen=True, kw_only=True)
class ClusterModel:
    """A model whose network is in the workers; see ``histoslide.scoring.lazy.BlockModel``."""

    spec: ModelSpec
    """What it is."""
    sha256: str
    """Identifies the weights."""
    engine: Engine
    """What computes in the workers and how precisely."""
    ranges_sha256: str | None
    """Tells the ranges apart that int8 rounds by; None for other precisions."""
    device: str
    """Where."""
    plugin: str
    """Name of the plugin that holds it."""

    @property
    def first_look(self) -> None:
        """None looks first; see ``histoslide.scoring.cascade``."""
        return None

    def check(self, work: Work) -> None:
        """Nothing beyond what the spec tells: a worker that cannot do it says so."""
        work.check(self.spec)

    def here(self) -> Model:
        """The model of the worker that this is called in.

        Raises:
            HistoslideError: it is not called in a worker of that cluster.
        """
        return _plugin(self.plugin).model

    def share(self, slide: Slide) -> Slide:
        """A slide that is opened once a worker, however many blocks name it."""
        return WorkerSlide(slide, self.plugin)


class WorkerSlide(Slide):
    """A slide that is pickled as a reference to the one that its worker keeps."""

    def __init__(self, slide: Slide, plugin: str) -> None:
        self._key, self._plugin = uuid.uuid4().hex, plugin
        self._packed = pickle.dumps(slide)

    @property
    def facts(self) -> SlideFacts:
        """What the slide says of itself; a worker's to tell."""
        return self._kept().facts

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``histoslide.slide.Slide.read``."""
        return self._kept().read(region, shrink)

    def _kept(self) -> Slide:
        return _plugin(self._plugin).slide(self._key, self._packed)


class Cluster:
    """A connection to workers, and the runner of blocks on them."""

    def __init__(self, client: Client, *, local: LocalCluster | None = None) -> None:
        """Use a client of ``distributed``.

        Args:
            client: connected.
            local: the cluster behind it, where it is ours to close.
        """
        self._client, self._local = client, local
        self._plugins: list[str] = []
        self._threads: int | None = None
        if local is not None:
            self._threads = max(1, network_threads() // len(local.workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def connect(cls, where: str) -> Cluster:
        """Connect to a scheduler.

        Args:
            where: its address (``tcp://host:8786``), the path of its scheduler file, or
                ``local:N`` to start N worker processes on this machine.

        Raises:
            HistoslideError: nobody answers there, or no worker comes.
        """
        kind, _, rest = where.partition(":")
        if kind == "local":
            if not rest.isdecimal() or int(rest) < 1:
                raise HistoslideError(f"--dask {where}: give a number of workers, as in local:2")
            local = LocalCluster(
                n_workers=int(rest),
                threads_per_worker=_LOCAL_THREADS,
                host=_LOCAL_HOST,
                dashboard_address=f"{_LOCAL_HOST}:0",  # it asks for no password
            )
            return cls(Client(local, set_as_default=False), local=local)
        try:
            if "://" in where:
                client = Client(where, set_as_default=False)
            elif _is_scheduler_file(Path(where)):
                client = Client(scheduler_file=where, set_as_default=False)
            else:
                raise HistoslideError(
                    f"--dask {where} is no scheduler file: give one, an address such as "
                    "tcp://host:8786, or local:N"
                )
        except (OSError, ValueError, TimeoutError) as error:
            raise HistoslideError(f"no scheduler answers at {where}: {error}") from error
        return cls(client)

    def close(self) -> None:
        """Leave the scheduler and let its workers forget us, or end a cluster of our own."""
        if self._local is None and self._client.status == "running":
            for plugin in self._plugins:
                with suppress(OSError, ValueError):  # the scheduler goes just now, or is another
                    self._client.unregister_worker_plugin(plugin)
        self._client.close()
        if self._local is not None:
            # Workers of a busy machine may end too slowly for its patience; nothing is lost then.
            logging.getLogger("distributed.nanny").setLevel(logging.ERROR)
            self._local.close()

    @property
    def dashboard(self) -> str | None:
        """Link to the scheduler's web page, where it has one."""
        link = self._client.dashboard_link
        return str(link) if link else None

    def load_model(
        self,
        path: Path | None = None,
        *,
        device: str = "auto",
        backend: BackendName | None = None,
        precision: Precision | None = None,
    ) -> ClusterModel:
        """Give a bundle to all workers, those that are there and those that will join.

        Args:
            path: bundle file, read here; None for the one that ships.
            device: as ``histoslide.model.pick_device`` takes it, picked by each worker.
            backend: see ``histoslide.model.load_model``.
            precision: see ``histoslide.model.load_model``; where the present workers would choose
                differently, all use torch in float32.

        Raises:
            HistoslideError: the bundle cannot be read, no worker comes, or one cannot compute so.
        """
        path = default_bundle() if path is None else path
        spec, _ = load_bundle(path)  # refuses here what no worker could use
        sha256 = file_sha256(path)
        paths = read_fast_paths(path, sha256=sha256)
        answers = self._ask_workers(device, paths, backend, precision)
        chosen = {engine for _, engine in answers}
        engine = chosen.pop() if len(chosen) == 1 else FULL_PRECISION
        devices = sorted({name for name, _ in answers})
        model = _Bundle.of(path, engine=engine, device=device)
        name = f"histoslide-{uuid.uuid4().hex}"
        self._plugins.append(name)
        self._register(ModelPlugin(name, model, threads=self._threads))
        return ClusterModel(
            spec=spec,
            sha256=sha256,
            engine=engine,
            ranges_sha256=ranges_sha256(paths.ranges)
            if paths and engine.precision == "int8"
            else None,
            device=", ".join(devices),
            plugin=name,
        )

    def _ask_workers(
        self,
        device: str,
        paths: FastPaths | None,
        backend: BackendName | None,
        precision: Precision | None,
    ) -> list[_Choice]:
        """What the workers that are there would compute with.

        Raises:
            HistoslideError: none comes, or one cannot compute so.
        """
        asked = device, paths, backend, precision
        # A task, not only a wait: work is what makes an adaptive cluster start its first worker.
        first = self._client.submit(_choose, *asked, pure=False)
        try:
            answers = [first.result(timeout=_FIRST_WORKER_S)]
        except TimeoutError as error:
            raise HistoslideError(f"no worker came within {_FIRST_WORKER_S} s") from error
        for answer in self._client.run(_choose, *asked, on_error="return").values():
            if isinstance(answer, OSError):  # it left meanwhile
                continue
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def _register(self, plugin: ModelPlugin) -> None:
        for _ in range(_TRIES):
            try:
                self._client.register_plugin(plugin, name=plugin.name)
            except OSError as error:  # a worker left while it was told
                logger.debug("workers are told once more", exc_info=True)
                reason = error
            else:
                return
        raise HistoslideError(f"the workers cannot be reached: {reason}") from reason

    @property
    def slides_at_once(self) -> int:
        """Slides of a cohort in work at a time: one for so many threads as its blocks can fill."""
        threads = sum(self._client.nthreads().values())
        return min(_MOST_SLIDES, max(2, threads // _THREADS_A_SLIDE))

    def run(self, blocks: Sequence[BlockIndex], task: BlockTask) -> Generator[int, None, None]:
        """Compute blocks; see ``histoslide.scoring.runners.Runner``.

        Raises:
            HistoslideError: a block was given up because workers died over it again and again, or
                the scheduler is gone.
        """
        rest = iter(blocks)
        running: set[Any] = set()
        completed = distributed.as_completed(loop=self._client.loop)
        try:
            while True:
                for block in itertools.islice(rest, max(0, self._room() - len(running))):
                    future = self._client.compute(task.graph(block), retries=RETRIES)
                    running.add(future)
                    completed.add(future)
                if not running:
                    return
                future = next(completed)
                running.discard(future)
                yield int(future.result())
        except KilledWorker as error:
            raise HistoslideError(
                "a block was given up, for the workers that read it died one after the other: "
                f"look into the log of {error.last_worker.address}"
            ) from error
        except (CommClosedError, FutureCancelledError) as error:
            raise HistoslideError(
                "the scheduler of the cluster is gone: start one and run the same command again, "
                "it goes on from the last block that was stored"
            ) from error
        finally:
            self._client.cancel(list(running), force=True)

    def _room(self) -> int:
        """Blocks that may be under way, as many workers as there are now."""
        threads = sum(self._client.nthreads().values())
        return max(_BLOCKS_A_THREAD, threads * _BLOCKS_A_THREAD)


def _is_scheduler_file(path: Path) -> bool:
    """Whether a file is one that a scheduler wrote."""
    try:
        return "address" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _choose(
    device: str,
    paths: FastPaths | None,
    backend: BackendName | None,
    precision: Precision | None,
) -> _Choice:
    """What a worker would compute with; runs there."""
    picked = pick_device(device)
    return picked, choose_engine(picked, paths, backend=backend, precision=precision)


def worker_device(device: str, held: ExitStack) -> str:
    """The device of a worker: workers that share a machine spread over its GPUs.

    Args:
        device: as ``histoslide.model.pick_device`` takes it.
        held: gets the worker's seat at its GPU.
    """
    picked = pick_device(device)
    if picked != "cuda":  # not a GPU, or one that was named
        return picked
    import torch  # noqa: PLC0415

    gpus = [
        str(torch.cuda.get_device_properties(index).uuid)
        for index in range(torch.cuda.device_count())
    ]
    return f"cuda:{held.enter_context(take_seat(gpus)).index}"
