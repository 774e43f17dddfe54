"""What happened to a cell."""

from __future__ import annotations

from enum import IntEnum

Rgba = tuple[int, int, int, int]
"""Red, green, blue and opacity, 0-255 each."""

_CLEAR: Rgba = (0, 0, 0, 0)


class Status(IntEnum):
    """What happened to a cell.

    Attributes:
        rank: which status a coarser level shows, the highest of those it covers: zooming out never
            hides a failed read, nor what was scored.
        rgba: in which other viewers show it: background clear, unreadable loud.
        page_rgba: in which our own page lays it over the slide, where also what is still to come
            and what was passed over are looked for; ``viewer/web/status.js`` repeats it.
    """

    rank: int
    rgba: Rgba
    page_rgba: Rgba

    # The defaults are for type checkers alone: ``Status(2)`` looks a status up and makes none.
    def __new__(
        cls, number: int, rank: int = 0, rgba: Rgba = _CLEAR, page_rgba: Rgba = _CLEAR
    ) -> Status:
        """A status; see the class for the arguments."""
        status = int.__new__(cls, number)
        status._value_ = number
        status.rank, status.rgba, status.page_rgba = rank, rgba, page_rgba
        return status

    PENDING = 0, 0, (0, 0, 0, 0), (245, 166, 35, 150)
    """Not decided yet."""
    BACKGROUND = 1, 1, (230, 230, 230, 0), (150, 150, 150, 110)
    """Too little tissue in the label footprint; not read."""
    SCORED = 2, 3, (53, 132, 228, 60), (53, 132, 228, 90)
    """Has a probability."""
    UNREADABLE = 3, 4, (224, 27, 36, 255), (224, 27, 36, 200)
    """Should have been scored, but the slide could not be read there."""
    EXCLUDED = 4, 2, (119, 118, 123, 120), (60, 58, 66, 150)
    """Outside the region of interest."""

    @property
    def label(self) -> str:
        """Its name as files and people have it."""
        return self.name.lower()
