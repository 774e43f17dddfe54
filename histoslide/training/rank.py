"""Which of the processes that train together this one is."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this process speaks and writes: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"
