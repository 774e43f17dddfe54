"""A slide read in processes of its own, so that a crash in a slide library is only a failed read.

Slide libraries are native code fed with files from anywhere: one bad tile can end a process that
holds hours of work, or hang it. ``IsolatedSlide`` hands every read to one of a few workers
(``histoslide.isolation_worker``). A worker that dies is replaced and the read tried once more; what
kills the second one too is a ``SlideReadError`` like any other part that cannot be read.

Workers are fresh interpreters, neither forks (a fork beside the threads of PyTorch may lock up) nor
children of ``multiprocessing`` (which runs the user's script again). They end when the process that
started them does, in whatever way.
"""

from histoslide.isolation.isolated_slide import (
    DEFAULT_OPENER,
    MAX_CRASHES,
    MAX_CRASHES_AT_FIRST,
    MAX_HANGS,
    MOST_WORKERS,
    READ_SECONDS,
    IsolatedSlide,
)
from histoslide.isolation.opening import begin_to_open, open_for_scoring

__all__ = [
    "DEFAULT_OPENER",
    "MAX_CRASHES",
    "MAX_CRASHES_AT_FIRST",
    "MAX_HANGS",
    "MOST_WORKERS",
    "READ_SECONDS",
    "IsolatedSlide",
    "begin_to_open",
    "open_for_scoring",
]
