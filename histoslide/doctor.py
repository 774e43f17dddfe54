"""What this machine can do: a list of checks, each of which says what it found.

This module imports only the standard library at its top: where a library is broken, the doctor
must still be able to say so. A new check is one more function in ``CHECKS`` (facts, at once) or
``TESTS`` (measurements, some seconds).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histoslide.processors import usable_processors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from histoslide.model import Model

logger = logging.getLogger(__name__)

State = Literal["ok", "warning", "problem"]

GIB = 2**30

LOW_MEMORY_GIB = 4.0
"""Below this, a large slide, its mask and the network may not fit side by side."""

LOW_DISK_GIB = 2.0
"""Below this, a folder is soon full."""

BUSY_SHARE = 0.5
"""Part of the machine's cores that others may use before measurements are doubted."""

TYPICAL_TILES = 20_000
"""Tissue tiles of a large slide: 19 mm² of tissue in cells of 31 µm."""

INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "BF16": ("avx512_bf16",),
    "AMX": ("amx_tile",),
    "NEON": ("asimd",),
    "SVE": ("sve",),
}
"""Instruction sets that decide how fast a network runs, and Linux's names for them: of the first
five for x86, of the last two for ARM."""

REQUIRED = ("histoslide", "torch", "torchvision", "openslide-python", "zarr", "dask", "numpy")
"""Distributions without which nothing is scored."""

MENTIONED = ("openslide-bin", "tifffile", "imagecodecs", "fastai", "openvino", "distributed")
"""Distributions whose versions matter where they are there."""

_IMPORTED: Mapping[str, str] = {
    "torch": "torch",
    "torchvision": "torchvision",
    "openslide": "openslide-python openslide-bin",
    "zarr": "zarr",
    "dask.array": "dask",
}
"""Modules that must not only be installed but load, since they bring libraries of their own, and
the distributions to install again where they do not."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at, in a word or two."""
    state: State
    """``problem``: no slide can be scored until it is mended; ``warning``: scoring works, but
    slower or less than it could."""
    text: str
    """What was found, in one line."""
    remedy: str | None = None
    """The way out, or what to install for more."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs, JSON-ready."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    """Problems first, then warnings, then what is well; else in the order of the checks."""

    @property
    def works(self) -> bool:
        """Whether slides can be scored here."""
        return not _has_problem(self.findings)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a machine scores, measured in a short test."""

    read_mp_s: float
    """Level-0 megapixels a second, read through ``open_slide`` in one thread."""
    read_tiles_s: float
    """Tiles a second that this makes at 0.25 µm/px in tissue without gaps."""
    network_tiles_s: float
    """Tiles a second through the default model."""
    store_cells_s: float
    """Heatmap cells a second into a store."""

    def seconds(self, tiles: int) -> float:
        """Time for so many tiles, one step after the other: what overlaps comes as a bonus."""
        each = 1 / self.read_tiles_s + 1 / self.network_tiles_s + 1 / self.store_cells_s
        return tiles * each


Check = Callable[[], Iterator[Finding]]


def examine(*, device: str = "auto", quick: bool = False) -> Diagnosis:
    """Look at this machine.

    Args:
        device: to measure and to look at, as ``histoslide.model.pick_device`` names it.
        quick: leave the measurements out.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        # What cannot be imported after a library was found missing needs no second line.
        findings += _run(check.__name__, check, broken=_has_problem(findings))
    if not quick and not _has_problem(findings):
        for test in TESTS:
            findings += _run(test.__name__, partial(test, device), broken=False)
    order: Sequence[State] = ("problem", "warning", "ok")
    return Diagnosis(findings=tuple(sorted(findings, key=lambda found: order.index(found.state))))


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis as ``histoslide doctor --json`` prints it, JSON-ready."""
    return {
        "works": diagnosis.works,
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
    }


def _has_problem(findings: Sequence[Finding]) -> bool:
    return any(finding.state == "problem" for finding in findings)


def _run(name: str, check: Check, *, broken: bool) -> list[Finding]:
    """What a check finds. One that breaks has found something, too.

    Args:
        name: of the check.
        check: to run.
        broken: a problem is known already, and modules that are missing follow from it.
    """
    found = []
    try:
        for finding in check():
            found.append(finding)  # noqa: PERF402 - what came before an error is kept
    except Exception as error:  # whatever it is: a doctor does not fall ill
        if broken and isinstance(error, ImportError):
            return found
        logger.debug("%s", name, exc_info=True)
        reason = (str(error).splitlines() or [""])[0]
        found.append(
            Finding(
                name=name.removeprefix("check_").removeprefix("measure_").replace("_", " "),
                state="problem",
                text=f"{type(error).__name__}: {reason}",
                remedy="--verbose shows more; if the text does not help, please report it",
            )
        )
    return found


# ------------------------------------------------------------------------------ machine


def check_system() -> Iterator[Finding]:
    """Operating system and Python."""
    yield Finding(
        name="system",
        state="ok",
        text=f"{platform.system()} {platform.release()}, {platform.machine()}; "
        f"Python {platform.python_version()}",
        facts={
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
    )


def check_processor() -> Iterator[Finding]:
    """Model and instruction sets of the processor, and the cores that we may use."""
    model, flags = read_processor()
    found = [name for name, names in INSTRUCTIONS.items() if flags & set(names)]
    old = bool(flags) and platform.machine() in ("x86_64", "AMD64") and "AVX2" not in found
    known = (", ".join(found) or "no vector instructions") if flags else "instructions unknown"
    yield Finding(
        name="processor",
        state="warning" if old else "ok",
        text=f"{model}: {known}",
        remedy="without AVX2 a network runs several times slower: use a newer machine or a GPU"
        if old
        else None,
        facts={"model": model, "instructions": found if flags else None},
    )
    cores, there = usable_cores(), os.cpu_count() or 1
    less = "" if cores >= there else f" of {there} (affinity or the container's limit)"
    yield Finding(
        name="cores",
        state="ok",
        text=f"{_number(cores)} usable{less}",
        facts={"usable": cores, "there": there},
    )


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """Name and instruction flags of the processor; flags are empty where Linux does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    model = facts.get("model name") or platform.processor() or platform.machine()
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}"
    return model, frozenset(flags.split())


def usable_cores(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float:
    """Cores that this process may keep busy: its affinity, and its control group's quota.

    Args:
        root: where control groups are mounted.
        own: file that names this process's groups.
    """
    cores = float(usable_processors())
    for folder in _control_groups(root, own, "cpu"):
        words = _words(folder / "cpu.max")  # version 2: quota and period
        if not words:
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0] not in ("max", "-1"):
            cores = min(cores, int(words[0]) / int(words[1]))
    return cores


def memory_limit(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Bytes that this process's control groups allow; None where they do not limit it."""
    limits = []
    for folder in _control_groups(root, own, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [int(word) for word in _words(folder / name) if word != "max"]
    # Version 1 writes "no limit" as a number of almost 2⁶³.
    return min((limit for limit in limits if limit < 2**60), default=None)


def _control_groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, of both versions, up to the root's."""
    yield root
    yield root / controller
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        folder = (root / controller if controllers else root) / path.lstrip("/")
        while folder not in (root, root / controller) and folder.is_relative_to(root):
            yield folder
            folder = folder.parent


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def check_memory() -> Iterator[Finding]:
    """Memory, and how much of it this process may use."""
    import psutil

    memory, limit = psutil.virtual_memory(), memory_limit()
    usable = min(memory.total, limit or memory.total)
    limited = "" if limit is None or limit >= memory.total else f", limited to {_gib(limit)} GiB"
    low = usable < LOW_MEMORY_GIB * GIB or memory.available < LOW_MEMORY_GIB * GIB / 2
    yield Finding(
        name="memory",
        state="warning" if low else "ok",
        text=f"{_gib(memory.total)} GiB, {_gib(memory.available)} GiB free{limited}",
        remedy=f"end other programs or allow more than {LOW_MEMORY_GIB:g} GiB" if low else None,
        facts={"total": memory.total, "available": memory.available, "limit": limit},
    )


def check_load() -> Iterator[Finding]:
    """Whether other programs are at work, which would make every measurement too low."""
    if not hasattr(os, "getloadavg"):
        return  # as on Windows
    load, there = os.getloadavg()[0], os.cpu_count() or 1
    busy = load > BUSY_SHARE * there
    yield Finding(
        name="load",
        state="warning" if busy else "ok",
        text=f"{load:.1f} programs at work on {there} cores in the last minute",
        remedy="what is measured now is too low: measure again when they have ended"
        if busy
        else None,
        facts={"load": load},
    )


def check_threads() -> Iterator[Finding]:
    """Whether the network's threads fit the cores: torch does not see a container's limit."""
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    many, fitting = threads > max(1, round(cores)), max(1, round(cores))
    few = threads < cores / 2
    yield Finding(
        name="threads",
        state="warning" if many or few else "ok",
        text=f"{threads} for the network, on {_number(cores)} usable cores",
        remedy=f"set the environment variable OMP_NUM_THREADS={fitting}" if many or few else None,
        facts={"threads": threads},
    )


def check_accelerators() -> Iterator[Finding]:
    """GPUs, and whether this build of torch computes on them."""
    import torch

    found = False
    for index in range(torch.cuda.device_count()):
        found = True
        yield _look_at_gpu(torch.device("cuda", index))
    if torch.backends.mps.is_available():
        found = True
        yield Finding(
            name="accelerator", state="ok", text="mps: Apple GPU", facts={"device": "mps"}
        )
    if found:
        return
    driver = shutil.which("nvidia-smi") or (Path("/dev/nvidia0").exists() or None)
    yield Finding(
        name="accelerator",
        state="warning" if driver else "ok",
        text="there is an NVIDIA GPU or driver, but torch does not see it"
        if driver
        else "none: the CPU scores",
        remedy=f"install a torch that is built for CUDA (this is {torch.__version__}) and a driver "
        "that fits it"
        if driver
        else None,
        facts={"device": None},
    )


def _look_at_gpu(device: torch.device) -> Finding:
    import torch

    facts = torch.cuda.get_device_properties(device)
    text = f"{device}: {facts.name}, {_gib(facts.total_memory)} GiB"
    more = {
        "device": str(device),
        "name": facts.name,
        "memory": facts.total_memory,
        "capability": [facts.major, facts.minor],
    }
    try:
        bfloat16 = facts.major >= 8  # Ampere, which brought it to the hardware
        torch.ones(8, device=device).sum().item()
    except RuntimeError as error:
        return Finding(
            name="accelerator",
            state="warning",
            text=f"{text}, cannot be used: {str(error).splitlines()[0]}",
            remedy="install a torch that is built for it, or pass --device cpu",
            facts=more,
        )
    kinds = f"capability {facts.major}.{facts.minor}, bfloat16 {'yes' if bfloat16 else 'no'}"
    return Finding(
        name="accelerator", state="ok", text=f"{text}, {kinds}", facts=more | {"bfloat16": bfloat16}
    )


# ------------------------------------------------------------------------------ libraries


def check_libraries() -> Iterator[Finding]:
    """Versions of the libraries that matter, and whether they load."""
    import importlib

    versions = {name: _version(name) for name in (*REQUIRED, *MENTIONED)}
    for name in REQUIRED:
        if versions[name] is None:
            yield Finding(
                name=name, state="problem", text="is not installed", remedy=f"pip install {name}"
            )
    for module, distributions in _IMPORTED.items():
        if versions[distributions.split()[0]] is None:
            continue  # said above
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:  # OSError: a shared library is missing
            yield Finding(
                name=module,
                state="problem",
                text=f"cannot be loaded: {(str(error).splitlines() or [''])[0]}",
                remedy=f"install it again: pip install --force-reinstall {distributions}",
            )
    there = [f"{name} {number}" for name, number in versions.items() if number]
    yield Finding(name="libraries", state="ok", text=", ".join(there), facts={"versions": versions})


def check_extras() -> Iterator[Finding]:
    """Optional parts of histoslide, as its own metadata list them."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("histoslide") or ()]
    names = metadata("histoslide").get_all("Provides-Extra") or ()
    for extra in sorted(set(names) - {"dev", "docs"}):
        parts = [
            requirement.name
            for requirement in wanted
            if requirement.marker
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
        ]
        missing = [name for name in parts if _version(name) is None]
        yield Finding(
            name=f"extra {extra}",
            state="ok",
            text=f"not installed ({', '.join(missing)})" if missing else "installed",
            remedy=f'pip install "histoslide[{extra}]"' if missing else None,
            facts={"extra": extra, "missing": missing},
        )


def check_formats() -> Iterator[Finding]:
    """The library that opens slide files."""
    import openslide

    yield Finding(
        name="slide formats",
        state="ok",
        text=f"OpenSlide {openslide.__library_version__}",
        facts={"openslide": openslide.__library_version__},
    )


def check_bundle() -> Iterator[Finding]:
    """The model that ships: readable, and the weights it was written with."""
    from histoslide.errors import BundleError
    from histoslide.model import default_bundle, load_bundle

    try:
        spec, _ = load_bundle(default_bundle())
    except BundleError as error:
        yield Finding(
            name="default model",
            state="problem",
            text=str(error),
            remedy="install histoslide again, or pass --model with another bundle",
        )
        return
    yield Finding(
        name="default model",
        state="ok",
        text=f"{spec.name}, {spec.architecture}, whole",
        facts={"name": spec.name, "architecture": spec.architecture},
    )


def check_folders() -> Iterator[Finding]:
    """Whether the cache and the temporary folder can be written."""
    from histoslide.cache_folder import CACHE_VARIABLE, cache_folder

    for name, folder, variable in (
        ("cache", cache_folder(), CACHE_VARIABLE),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        yield _look_at_folder(name, folder, variable)


def _look_at_folder(name: str, folder: Path, variable: str) -> Finding:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    remedy = f"set the environment variable {variable} to a folder with room"
    facts: dict[str, Any] = {"folder": str(folder)}
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        text = f"{folder} cannot be written: {error.strerror}"
        return Finding(name=name, state="warning", text=text, remedy=remedy, facts=facts)
    low = free < LOW_DISK_GIB * GIB
    return Finding(
        name=name,
        state="warning" if low else "ok",
        text=f"{folder}, {_gib(free)} GiB free",
        remedy=remedy if low else None,
        facts=facts | {"free": free},
    )


# ------------------------------------------------------------------------------ measurements

_TEST_MPP = 0.25
"""Micrometres per pixel of the slide that is read: a scan at 40×, the dearest to read."""

_TEST_CELLS = 15
"""Cells a side that are read from it."""

_NETWORK_SECONDS = 3.0
"""How long the network runs."""


def measure_rates(device: str) -> Iterator[Finding]:
    """Read a slide, run the network, write a store, and say what that means for a slide."""
    import torch

    from histoslide.errors import HistoslideError
    from histoslide.model import load_model, pick_device

    try:
        model = load_model(device=pick_device(device))
        network = _network_rate(model)
    except (HistoslideError, RuntimeError) as error:
        yield Finding(
            name="self-test",
            state="problem",
            text=f"the default model does not run on {device}: {str(error).splitlines()[0]}",
            remedy="choose another --device; cpu works everywhere",
        )
        return
    with tempfile.TemporaryDirectory(prefix="histoslide-doctor-") as folder:
        read_mp, read_tiles, store = _file_rates(Path(folder), model)
    rates = Rates(
        read_mp_s=read_mp,
        read_tiles_s=read_tiles,
        network_tiles_s=network,
        store_cells_s=store,
    )
    minutes = rates.seconds(TYPICAL_TILES) / 60
    yield Finding(
        name="self-test",
        state="ok",
        text=f"network {network:,.0f} tiles/s on {model.device} ({model.batch_size} a batch, "
        f"{torch.get_num_threads()} threads), reading {read_mp:,.0f} MP/s "
        f"({read_tiles:,.0f} tiles/s at {_TEST_MPP} µm/px), storing {store:,.0f} cells/s",
        facts={**dataclasses.asdict(rates), "device": str(model.device)},
    )
    yield Finding(
        name="estimate",
        state="ok",
        text=f"a slide with {TYPICAL_TILES:,} tissue tiles takes about {_minutes(minutes)} here",
        facts={"tiles": TYPICAL_TILES, "minutes": minutes},
    )


def measure_backends(device: str) -> Iterator[Finding]:
    """Each way to compute the default model here: how fast, and whether it is used unasked."""
    from histoslide.errors import HistoslideError
    from histoslide.model import default_bundle, load_model, pick_device
    from histoslide.model.backends import supported
    from histoslide.model.fast_paths import choose_path, read_fast_paths
    from histoslide.model.prediction import file_sha256

    try:
        picked, bundle = pick_device(device), default_bundle()
    except HistoslideError:
        return  # the self-test has said so
    paths = read_fast_paths(bundle, sha256=file_sha256(bundle))
    chosen = choose_path(picked, paths)
    for backend, precision in supported(picked):
        name = f"{backend} {precision}"
        try:
            model = load_model(device=picked, backend=backend, precision=precision)
            rate = _network_rate(model)
        except (HistoslideError, RuntimeError) as error:
            text = f"does not run: {str(error).splitlines()[0]}"
            yield Finding(name=name, state="warning", text=text)
            continue
        gate = None if paths is None else paths.gates.get(precision)
        text = f"{rate:,.0f} tiles/s"
        if gate is not None:
            verdict = "passed" if gate.passed else "failed"
            text += f", {verdict} its gate (AUC {gate.auc:.4f}, float32 {gate.auc_fp32:.4f})"
        if (backend, precision) == chosen:
            text += ", used unless another is asked for"
        facts = {"tiles_s": rate, "default": (backend, precision) == chosen}
        yield Finding(name=name, state="ok", text=text, facts=facts)


def _network_rate(model: Model) -> float:
    """Tiles a second, each batch waited for."""
    import torch

    side = model.spec.input_px
    tiles = torch.randint(0, 256, (model.batch_size, 3, side, side), dtype=torch.uint8)
    for _ in range(2):  # the first batches choose kernels and fill caches
        model.probabilities(tiles).cpu()
    done, started = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - started < _NETWORK_SECONDS:
        model.probabilities(tiles).cpu()
        done += 1
    return done * len(tiles) / (time.perf_counter() - started)


def _file_rates(folder: Path, model: Model) -> tuple[float, float, float]:
    """Megapixels and tiles a second that are read, and cells a second that are stored."""
    from histoslide.geometry import CellRange
    from histoslide.heatmap import make_grid, make_heatmap
    from histoslide.slide import open_slide
    from histoslide.synthetic import write_slide
    from histoslide.tiles import read_window
    from histoslide.tissue import METHODS, find_tissue

    path = write_slide(folder / "test.tif", _test_pixels(model), mpp=_TEST_MPP, downsamples=(4,))
    with open_slide(path) as slide:
        cells = CellRange(0, 0, _TEST_CELLS, _TEST_CELLS)
        grid = make_grid(slide, model.spec)
        started = time.perf_counter()
        read_window(slide, grid, cells)
        seconds = time.perf_counter() - started
        box = grid.window_box_l0(cells)
        # Small cells: a heatmap of many, over a slide that takes no time to write.
        lazy = make_heatmap(slide, model, stride_px=3, tissue=find_tissue(slide, METHODS["none"]))
        store = _store_rate(lazy, folder / "test.zarr")
    megapixels = box.width * box.height / 1e6
    return megapixels / seconds, cells.rows * cells.cols / seconds, store


def _store_rate(lazy: Any, path: Path) -> float:
    """Cells a second that are stored, with blocks whose values are there already."""
    import dask.array as da
    import numpy as np

    from histoslide.scoring import Status
    from histoslide.store import store_heatmap

    side = lazy.grid.block_cells
    values = np.zeros(lazy.grid.shape, dtype=lazy.blocks.dtype)
    values["probability"] = np.random.default_rng(0).random(values["probability"].shape)
    values["status"] = Status.SCORED
    made = dataclasses.replace(lazy, blocks=da.from_array(values, chunks=(side, side)))
    started = time.perf_counter()
    store_heatmap(made, path)
    return values.size / (time.perf_counter() - started)


def _test_pixels(model: Model) -> NDArray[np.uint8]:
    """A piece of synthetic tissue, large enough for the cells that are read."""
    import numpy as np

    from histoslide.synthetic import scene

    side_um = ((_TEST_CELLS - 1) * model.spec.label_px + model.spec.input_px) * model.spec.mpp
    piece = scene(544, 544, mpp=_TEST_MPP, seed=1).pixels
    times = max(2, int(np.ceil(side_um / _TEST_MPP / piece.shape[0])))
    return np.tile(piece, (times, times, 1))


CHECKS: tuple[Check, ...] = (
    check_libraries,
    check_extras,
    check_formats,
    check_bundle,
    check_system,
    check_processor,
    check_memory,
    check_load,
    check_threads,
    check_accelerators,
    check_folders,
)
"""Looked at by ``examine``, in this order."""

TESTS: tuple[Callable[[str], Iterator[Finding]], ...] = (measure_rates, measure_backends)
"""Measured by ``examine`` on a device where no check found a problem."""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gib(number: float) -> str:
    return f"{number / GIB:.1f}"


def _number(value: float) -> str:
    return f"{value:g}"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(minutes * 60))} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
