"""Work on parts of something large, in as many threads as there are processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from histoslide.machine.processors import usable_processors

Part = TypeVar("Part")
Result = TypeVar("Result")

_MOST = 4
"""Threads: of more, those that hold Python's lock wait for one another."""


def side_by_side(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """What a function that lets go of Python's lock makes of each part, in their order.

    Args:
        work: is called in several threads at a time.
        parts: what to call it with; of one, no thread is started.

    Raises:
        Exception: what ``work`` raised for the first part that failed.
    """
    threads = min(_MOST, usable_processors(), len(parts))
    if threads < 2:
        return list(map(work, parts))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="part")
    try:
        return list(pool.map(work, parts))
    finally:  # after an error or Ctrl-C nobody wants to wait for a part that hangs
        pool.shutdown(wait=False, cancel_futures=True)
