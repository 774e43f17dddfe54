"""What will be needed later, begun while there is time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


def begin(work: Callable[[], object]) -> None:
    """Do something in the background whose result is kept by what does it, as imports are.

    Args:
        work: is done once more, in vain or in earnest, by whoever needs it; so what goes wrong
            here shows there.
    """

    def attempt() -> None:
        with suppress(Exception):
            work()

    threading.Thread(target=attempt, name="ahead", daemon=True).start()
