"""Exit codes, and the one place that decides which of them a command ends with."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from histoslide.errors import HistoslideError, ResolutionUnknownError

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NONE_SUCCEEDED = 4
EXIT_RESOLUTION = 5
EXIT_INTERRUPTED = 130


class Outcome(enum.Enum):
    """What became of one of the things that a command was asked for."""

    DONE = enum.auto()
    """As asked."""
    IN_PART = enum.auto()
    """There is something to show, but not all of it is as asked: parts could not be read, or two
    heatmaps that should be equal differ."""
    NOT_BEGUN = enum.auto()
    """The run stopped before."""
    NO_RESOLUTION = enum.auto()
    """Failed, because no resolution is known."""
    FAILED = enum.auto()
    """Failed."""
    BUG = enum.auto()
    """Failed with an error that nobody foresaw."""


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0 all done, 1 a bug, 3 some not or not wholly, 4 none, 5 none for want of a resolution."""
    seen = set(outcomes)
    if Outcome.BUG in seen:
        return EXIT_BUG
    if seen <= {Outcome.DONE}:
        return EXIT_DONE
    if seen & {Outcome.DONE, Outcome.IN_PART}:
        return EXIT_SOME_FAILED
    return EXIT_NONE_SUCCEEDED if Outcome.FAILED in seen else EXIT_RESOLUTION


def outcome_of(error: HistoslideError) -> Outcome:
    """What an error means for the slide that it speaks of."""
    unknown = isinstance(error, ResolutionUnknownError)
    return Outcome.NO_RESOLUTION if unknown else Outcome.FAILED


def error_exit_code(error: HistoslideError) -> int:
    """What a command ends with that an error has stopped: 2, or 5 for want of a resolution."""
    unknown = outcome_of(error) is Outcome.NO_RESOLUTION
    return EXIT_RESOLUTION if unknown else EXIT_USAGE
