"""Checks of the machine: system, processor, memory, load, threads, accelerators, folders."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide.doctor.findings import GIB, Finding, gib
from histoslide.doctor.limits import memory_limit, usable_cores
from histoslide.machine.processors import network_threads

if TYPE_CHECKING:
    import torch

LOW_MEMORY_GIB = 4.0
"""Below this, a large slide, its mask and the network may not fit side by side."""

LOW_DISK_GIB = 2.0
"""Below this, a folder is soon full."""

BUSY_SHARE = 0.5
"""Part of the machine's cores that others may use before measurements are doubted."""

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
        text=f"{cores:g} usable{less}",
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


def check_memory() -> Iterator[Finding]:
    """Memory, and how much of it this process may use."""
    import psutil

    memory, limit = psutil.virtual_memory(), memory_limit()
    usable = min(memory.total, limit or memory.total)
    limited = "" if limit is None or limit >= memory.total else f", limited to {gib(limit)} GiB"
    low = usable < LOW_MEMORY_GIB * GIB or memory.available < LOW_MEMORY_GIB * GIB / 2
    yield Finding(
        name="memory",
        state="warning" if low else "ok",
        text=f"{gib(memory.total)} GiB, {gib(memory.available)} GiB free{limited}",
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
    """Whether the network's threads fit the cores: it does not see a container's limit."""
    import torch

    in_torch, in_openvino, cores = torch.get_num_threads(), network_threads(), usable_cores()
    fitting = max(1, round(cores))
    many = max(in_torch, in_openvino) > fitting
    few = min(in_torch, in_openvino) < cores / 2
    threads = f"{in_torch}"
    if in_openvino != in_torch:
        threads += f" in torch and {in_openvino} in OpenVINO"
    yield Finding(
        name="threads",
        state="warning" if many or few else "ok",
        text=f"{threads} for the network, on {cores:g} usable cores",
        remedy=f"set the environment variable OMP_NUM_THREADS={fitting}" if many or few else None,
        facts={"threads": in_torch, "openvino_threads": in_openvino},
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
    text = f"{device}: {facts.name}, {gib(facts.total_memory)} GiB"
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


def check_folders() -> Iterator[Finding]:
    """Whether the cache and the temporary folder can be written."""
    from histoslide.machine.cache_folder import CACHE_VARIABLE, cache_folder

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
        text=f"{folder}, {gib(free)} GiB free",
        remedy=remedy if low else None,
        facts=facts | {"free": free},
    )
