"""The process that reads a slide for another one; see ``histoslide.slide.isolated``.

It imports what reading needs and nothing else, so that it starts in a fraction of a second. Its
main thread reads, a second one listens: when the other process goes away, however it does, this
one ends at once, also in the middle of a read.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import queue
import signal
import socket
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from histoslide.geometry import Mpp, Region
from histoslide.slide.base import Slide
from histoslide.slide.isolated.channel import Channel

_GRACE_S = 5.0
"""How much longer than the parent's patience a read may take before the system ends the process:
only where the parent is gone and the read never lets go of Python's lock."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first message to a worker: what to open."""

    path: Path
    """Slide file."""
    mpp: Mpp | None
    """Resolution that replaces what the slide records."""
    cache_bytes: int
    """Bound on the decoded tiles that this worker keeps."""
    opener: str
    """``module:function`` that opens a slide, as ``histoslide.slide:open_slide``."""
    log_level: int
    """Messages below it need not be sent."""
    seconds: float
    """How long opening may take."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A message to a worker: read a region."""

    region: Region
    """Which."""
    shrink: int
    """See ``Slide.read``."""
    seconds: float
    """How long that may take."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """A message to a worker: name what reads each level."""

    seconds: float
    """How long that may take."""


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A message from a worker: something was logged."""

    logger: str
    """Name of the logger."""
    level: int
    """As in ``logging``."""
    text: str
    """What it said."""


@dataclass(frozen=True, kw_only=True)
class Warned:
    """A message from a worker: a Python warning."""

    text: str
    """Its text."""
    category: type[Warning]
    """Its class."""
    filename: str
    """Where it was given."""
    line: int
    """Likewise."""


def find_opener(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        ImportError: there is no such module.
        AttributeError: it has no such function.
    """
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def main(descriptor: int) -> None:
    """Open the slide that the first message names, then read what further messages ask for."""
    import resource  # noqa: PLC0415 - not on Windows, where this module is only looked at

    # A crash is reported by the parent: a core file for each would fill the folder.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(socket.socket(fileno=descriptor))
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, messages), daemon=True).start()
    opening: Opening = messages.get()
    _send_messages(channel, opening.log_level)
    with contextlib.suppress(ConnectionError):  # the parent went away
        slide = _answer(channel, opening.seconds, partial(_open, channel, opening))
        while slide is not None:
            asked: Reading | Naming = messages.get()
            _answer(channel, asked.seconds, partial(_act, channel, slide, asked))


def _listen(channel: Channel, messages: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            messages.put(channel.receive()[0])
    finally:
        os._exit(0)  # nobody is there to read for; the main thread may be stuck in a library


def _answer(channel: Channel, seconds: float, work: Callable[[], Any]) -> Any:
    """Do some work within a time; what goes wrong is sent instead of its answer."""
    # The default action of the signal ends the process whatever Python is doing.
    signal.setitimer(signal.ITIMER_REAL, min(seconds + _GRACE_S, 1e9))
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - any error is the parent's to judge
        channel.send(_sendable(error))
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _open(channel: Channel, opening: Opening) -> Slide:
    opener = find_opener(opening.opener)
    slide: Slide = opener(opening.path, mpp=opening.mpp, cache_bytes=opening.cache_bytes)
    channel.send(slide.facts)
    return slide


def _act(channel: Channel, slide: Slide, asked: Reading | Naming) -> None:
    if isinstance(asked, Naming):
        channel.send(slide.readers)
        return
    pixels = slide.read(asked.region, asked.shrink)
    channel.send(pixels.shape, pixels)


def _sendable(error: Exception) -> Exception:
    """The error itself with its traceback as a note, or its text where it cannot be pickled."""
    error.__cause__ = error.__context__ = None
    text = "".join(traceback.format_exception(error)).rstrip()
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001 - pickling runs the error's own code
        copy = None
    if type(copy) is not type(error) or str(copy) != str(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in the process that reads the slide:\n{text}")
    return error


class _SendingHandler(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        self._channel.send(Logged(logger=record.name, level=record.levelno, text=text))


def _send_messages(channel: Channel, log_level: int) -> None:
    """Let the parent say what is logged or warned of here."""
    root = logging.getLogger()
    root.addHandler(_SendingHandler(channel))
    root.setLevel(log_level)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG001 - the signature is Python's
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        channel.send(Warned(text=str(message), category=category, filename=filename, line=lineno))

    warnings.simplefilter("always")  # the parent's filters decide
    warnings.showwarning = show
