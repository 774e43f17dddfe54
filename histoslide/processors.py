"""How many processors there are for us."""

from __future__ import annotations

import os

import psutil


def usable_processors() -> int:
    """Processors that this process may run on; all of the machine where the system does not say."""
    allowed = getattr(os, "sched_getaffinity", None)  # what the system leaves us, on Linux
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def network_threads() -> int:
    """Threads of a network on the CPU: ``OMP_NUM_THREADS``, or one for each core that is ours.

    Two threads on the halves of one core would wait for its arithmetic in turn.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    usable = usable_processors()
    return min(usable, psutil.cpu_count(logical=False) or usable)
