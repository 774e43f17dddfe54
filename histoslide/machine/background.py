"""What will be needed later, begun while there is time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


def begin(work: Callable[[], object]) -> threading.Thread:
    """Do something in the background whose result is kept by what does it, as imports are.

    The interpreter waits for it at its end: libraries that are at work then would abort it.

    Args:
        work: is done once more, in vain or in earnest, by whoever needs it; so what goes wrong
            here shows there.

    Returns:
        The thread that does it.
    """

    def attempt() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, name="ahead")
    thread.start()
    return thread
