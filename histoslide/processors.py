"""How many processors there are for us."""

from __future__ import annotations

import os


def usable_processors() -> int:
    """Processors that this process may run on; all of the machine where the system does not say."""
    allowed = getattr(os, "sched_getaffinity", None)  # what the system leaves us, on Linux
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1
