"""What happened to a cell."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What happened to a cell."""

    PENDING = 0
    """Not decided yet."""
    BACKGROUND = 1
    """Too little tissue in the label footprint; not read."""
    SCORED = 2
    """Has a probability."""
    UNREADABLE = 3
    """Should have been scored, but the slide could not be read there."""
    EXCLUDED = 4
    """Outside the region of interest."""
