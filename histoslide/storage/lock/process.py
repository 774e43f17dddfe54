"""Which process this is, on which machine, and whether another still runs."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import psutil


def this_machine() -> str:
    """This start of this machine, as far as its processes see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x} {psutil.boot_time():.0f}"


def started_when(pid: int) -> str | None:
    """When a process started; None where it has ended, empty where that cannot be known.

    On Linux in ticks since the machine started, which no change of the clock moves.
    """
    if not sys.platform.startswith("linux"):
        return _started_by_clock(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # of another user, where those are hidden; or it has just ended
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    # A zombie has ended, only nobody has asked how.
    return None if state in ("Z", "X") else fields[18]


def _started_by_clock(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return ""


def is_suspended(pid: int) -> bool:
    """Whether a process was stopped and may be continued."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
