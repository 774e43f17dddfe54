"""How many processors there are for us."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def usable_processors() -> int:
    """Processors that this process may run on; all of the machine where the system does not say."""
    allowed = getattr(os, "sched_getaffinity", None)  # what the system leaves us, on Linux
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def network_threads() -> int:
    """Threads of a network on the CPU: ``OMP_NUM_THREADS``, or one for each core that is ours.

    Two threads on the halves of one core would wait for each other's arithmetic.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    return _usable_cores() or min(usable_processors(), psutil.cpu_count(logical=False) or 1)


def _usable_cores(system: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores with a processor that this process may run on; 0 where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return 0
    cores = set()
    for processor in os.sched_getaffinity(0):
        siblings = system / f"cpu{processor}" / "topology" / "thread_siblings_list"
        try:
            cores.add(siblings.read_text())
        except OSError:
            return 0
    return len(cores)
