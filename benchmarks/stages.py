"""Where the time of scoring goes: reading, cutting, the network, storing, and the rest.

    python benchmarks/stages.py                              # a slide of its own, on the CPU
    python benchmarks/stages.py --slide node.tiff --mpp 0.5 --stride 32
    python benchmarks/stages.py --device cuda --side 100000 --stride 32
    python benchmarks/stages.py --slide slide.tif --whole "--model light"

The slide is scored in this process as ``histoslide score`` does, with a clock around each step in
every thread. A step's seconds are summed over threads; its share of the wall time is what it would
take away if nothing ran beside it. ``busy`` is the part of the wall time in which the network had a
batch: on an accelerator it is what should be near 100 %. Cells per second exclude the start.

With ``--whole`` the whole command runs in this process, with its options in one string, from the
start of the process to the overlay and the lesions; then all of that counts as wall time.
"""

from __future__ import annotations

import argparse
import functools
import resource
import shlex
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil

import histoslide.grid.windows
import histoslide.pipeline.options
import histoslide.pipeline.preparation
import histoslide.pipeline.score
import histoslide.scoring.block
import histoslide.store.writing
from histoslide.geometry import Mpp
from histoslide.model import Batches, load_model
from histoslide.model.pixels import HostMemory
from histoslide.scoring.lazy import make_heatmap
from histoslide.scoring.mode import ScoreMode
from histoslide.slide.isolated.slide import IsolatedSlide
from histoslide.store import BlockTarget, store_heatmap
from histoslide.synthetic import scene, write_slide

MPP = 0.243
"""Micrometres per pixel of the slide that is made."""


class Clock:
    """Seconds by step, summed over threads, and the time in which any thread was in the network."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.busy = 0.0
        self._lock = threading.Lock()
        self._inside = 0
        self._since = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what runs in the block."""
        started = time.perf_counter()
        with self._lock:
            if name == "network":
                if not self._inside:
                    self._since = started
                self._inside += 1
        try:
            yield
        finally:
            ended = time.perf_counter()
            with self._lock:
                self.seconds[name] += ended - started
                if name == "network":
                    self._inside -= 1
                    if not self._inside:
                        self.busy += ended - self._since

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.step(name):
                return function(*args, **kwargs)

        return counted


ENGINE = ("reading", "cutting", "network", "storing")
"""Steps of scoring, in threads beside one another."""

AROUND = ("mask", "ruler", "plan", "scoring", "overlay", "lesions")
"""Steps of the whole command, one after the other but for what goes on beside them."""


@contextmanager
def clocked(clock: Clock, *, torch: bool) -> Iterator[None]:
    """Count the steps of the engine, and those around it, while the block runs."""
    steps: list[tuple[Any, str, str]] = [
        (histoslide.grid.windows, "read_window", "reading"),
        (histoslide.scoring.block, "read_window", "reading"),
        (HostMemory, "cut", "cutting"),
        (Batches, "_fill", "filling"),
        (Batches, "_run", "network"),
        (BlockTarget, "__setitem__", "storing"),
        (histoslide.store.writing, "_complete", "storing"),
        (histoslide.pipeline.options, "find_tissue", "mask"),
        (histoslide.pipeline.options, "read_ruler", "ruler"),
        (histoslide.pipeline.preparation, "make_heatmap", "plan"),
        (histoslide.pipeline.score, "store_heatmap", "scoring"),
        (histoslide.pipeline.score, "_draw_overlay", "overlay"),
        (histoslide.pipeline.score, "find_lesions", "lesions"),
        (histoslide.pipeline.score, "write_lesions", "lesions"),
    ]
    if torch:
        from histoslide.model.torch_backend import TensorMemory  # noqa: PLC0415 - takes seconds

        steps.append((TensorMemory, "cut", "cutting"))
    with ExitStack() as stack:
        for owner, name, step in steps:
            counted = clock.around(step, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, counted))
        yield


def made_slide(folder: Path, side: int) -> Path:
    """A slide of tissue from edge to edge, with the levels of a scanner."""
    tile = scene(1024, 1024, mpp=MPP, seed=1).pixels
    pixels = np.tile(tile, (-(-side // 1024), -(-side // 1024), 1))[:side, :side]
    path = folder / "slide.tif"
    write_slide(path, pixels, mpp=MPP, downsamples=(4.0, 16.0))
    return path


def main() -> None:
    """Score a slide and print where the time went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, help="a slide of yours (default: one is made)")
    parser.add_argument("--mpp", type=float, help="its resolution, if it records none")
    parser.add_argument("--side", type=int, default=16384, help="of the slide that is made, in px")
    parser.add_argument("--stride", type=int, default=96)
    parser.add_argument("--mode", choices=("exact", "cascade", "dense"), default="exact")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", choices=("torch", "openvino"))
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"))
    parser.add_argument("--whole", metavar="ARGS", help="run histoslide score with these options")
    given = parser.parse_args()
    if given.whole is not None:
        run_whole(given)
        return
    model = load_model(device=given.device, backend=given.backend, precision=given.precision)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = given.slide or made_slide(folder, given.side)
        mpp = None if given.mpp is None else Mpp(value=given.mpp, source="--mpp")
        mode = ScoreMode(mode=given.mode)
        clock = Clock()
        with IsolatedSlide(path, mpp=mpp) as slide:
            lazy = make_heatmap(slide, model, stride_px=given.stride, mode=mode)
            mode.compile(model, stride_px=given.stride)
            with clocked(clock, torch=True):
                started = time.perf_counter()
                heat = store_heatmap(lazy, folder / "heat.zarr")
                wall = time.perf_counter() - started
    cells = heat.counts.scored
    print(f"{path.name}: {cells:,} cells in {wall:.1f} s, {cells / wall:,.0f} a second, on")
    print(f"{model.device}, {model.engine}, {given.mode}, stride {given.stride}")
    show(clock, wall)


def run_whole(given: argparse.Namespace) -> None:
    """Run the command and print where its time went."""
    from histoslide_cli.main import main as main_of_command  # noqa: PLC0415 - of another root

    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        path = given.slide or made_slide(Path(name), given.side)
        where = ["score", str(path), "--out", f"{name}/heat.zarr", "--stride", str(given.stride)]
        where += [] if given.mpp is None else ["--mpp", str(given.mpp)]
        started = time.time()
        with clocked(clock, torch=False):
            code = main_of_command([*where, *shlex.split(given.whole)])
        ended = time.time()
    process = psutil.Process()
    # What is imported above, the command would import in its own time.
    imported = 0.0 if given.slide is None else started - process.create_time()
    wall = ended - started + imported
    print(f"{path.name}: {wall:.1f} s from the start of the process, exit code {code}")
    for step in AROUND:
        print(f"{step:8} {clock.seconds[step]:8.2f} s, {clock.seconds[step] / wall:6.1%}")
    rest = wall - sum(clock.seconds[step] for step in AROUND)
    print(f"{'rest':8} {rest:8.2f} s, {rest / wall:6.1%}, {imported:.2f} s of it imports\n")
    show(clock, wall)
    for who, kind in (("this process", resource.RUSAGE_SELF), ("others", resource.RUSAGE_CHILDREN)):
        use = resource.getrusage(kind)
        cpu, peak = use.ru_utime + use.ru_stime, use.ru_maxrss / 1024
        print(f"{who}: {cpu:.1f} s of processors, at most {peak:,.0f} MiB")


def show(clock: Clock, wall: float) -> None:
    """Print the steps of scoring."""
    # A batch is cut inside the network's turn, and counted there by itself.
    filling = clock.seconds.pop("filling", 0.0)
    clock.seconds["network"] -= filling
    clock.seconds["cutting"] += filling
    for step in ENGINE:
        seconds = clock.seconds[step]
        print(f"{step:8} {seconds:8.2f} s in all threads, {seconds / wall:6.1%} of the wall time")
    print(f"busy     {clock.busy:8.2f} s with a batch in the network, {clock.busy / wall:6.1%}")


if __name__ == "__main__":
    main()
