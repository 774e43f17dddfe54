"""Shared fixtures: where real data lie, and small networks that need no training."""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import torch
from patches import make_tiny
from processes import reading_processes

from histoslide.model import ModelSpec, save_bundle
from histoslide.model.architectures import ARCHITECTURES, build_network

# Two processes of one thread each use two processors better than two threads of one process do;
# the programs that tests start inherit that.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

# A shell that starts a job in the background lets it ignore Ctrl-C, and what it starts inherits
# that; the tests of Ctrl-C are about programs that hear it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and patches; the test is skipped, visibly, where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HISTOSLIDE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set HISTOSLIDE_TEST_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained ResNet18 at 32 px: quick, and its probabilities mean nothing."""
    torch.manual_seed(0)
    spec = ModelSpec(
        name="small",
        architecture="resnet18",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        network_px=32,
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    path = tmp_path_factory.mktemp("bundle") / "small.safetensors"
    save_bundle(path, spec, build_network("resnet18", 2).state_dict(), half=True)
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is read of patches is kept apart from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOSLIDE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def add_tiny(patch: pytest.MonkeyPatch) -> None:
    """Add the architecture ``tiny``: a new network is one more entry."""
    patch.setitem(cast("dict[str, object]", ARCHITECTURES), "tiny", make_tiny)


@contextmanager
def one_thread() -> Iterator[None]:
    """Fastest for a tiny network; and sums of one thread are always rounded alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The architecture ``tiny``, on one thread."""
    add_tiny(monkeypatch)
    with one_thread():
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """What a module's tests open they close, or let go: others count the processes that read."""
    yield
    if reading_processes():
        gc.collect()
        assert not reading_processes()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command sets logging up for its process; the next test is another one."""
    yield
    logger = logging.getLogger("histoslide")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
