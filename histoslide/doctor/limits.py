"""What this process may use of the machine: its affinity, and its control groups' limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from histoslide.machine.processors import usable_processors


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
