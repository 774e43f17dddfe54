"""One worker process, seen from the process that started it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.slide.facts import SlideFacts
from histoslide.slide.isolated.channel import Channel
from histoslide.slide.isolated.process import Logged, Naming, Opening, Reading, Warned

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from histoslide.slide.isolated.process import main; main(int(sys.argv[1]))"
)


class WorkerDiedError(Exception):
    """A worker died of a read, or was killed because it hung."""

    def __init__(self, reason: str, *, hung: bool) -> None:
        super().__init__(reason)
        self.hung = hung


class _Process:
    """A fresh interpreter that listens; it ends when this object does, or the process we are in."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what a library prints is no result of ours
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C in the terminal is for the parent alone
                # One read, one core: a pool of threads in each worker would only cost memory.
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self.channel = Channel(ours)
        self.end = weakref.finalize(self, _end_process, self.channel, self.process, os.getpid())


_Surroundings = tuple[int, Path | None, tuple[str, ...]]

_ready: SimpleQueue[tuple[_Process, _Surroundings]] = SimpleQueue()
"""Processes that were started ahead, and where."""


def _surroundings() -> _Surroundings:
    """What decides what paths and names of modules mean to a process that is started here."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # it has been deleted
        folder = None
    return os.getpid(), folder, tuple(sys.path)


@contextmanager
def processes_ahead(count: int) -> Iterator[None]:
    """Start processes for the next slide to be opened, which then need not wait for their imports.

    Those that no slide has taken when the ``with`` block is left end.

    Args:
        count: how many.
    """
    try:
        with suppress(OSError):  # no more processes: who needs one says so
            for _ in range(count):
                _ready.put((_Process(), _surroundings()))
        yield
    finally:
        with suppress(Empty):
            for _ in range(count):
                _ready.get_nowait()[0].end()


def _take_process() -> _Process:
    """One that was started ahead from where we still are, or a new one."""
    while True:
        try:
            process, surroundings = _ready.get_nowait()
        except Empty:
            return _Process()
        if surroundings == _surroundings():
            return process
        process.end()


class Worker:
    """One process that has the slide open; used by one thread at a time."""

    def __init__(self, opening: Opening, *, silent: bool) -> None:
        """Let a process open the slide.

        Args:
            opening: what to open.
            silent: drop what it has to say at opening, because another one has said it.

        Raises:
            WorkerDiedError: the process died of it, or had to be killed.
        """
        self._started = _take_process()
        self.facts: SlideFacts
        try:
            self.facts, _ = self.ask(opening, opening.seconds, silent=silent)
        except BaseException:
            self.end()
            raise

    def ask(
        self, message: Opening | Reading | Naming, seconds: float, *, silent: bool = False
    ) -> tuple[Any, NDArray[np.uint8]]:
        """Send a message and wait for what it brings.

        Raises:
            WorkerDiedError: the process died, or had to be killed.
            Exception: whatever the slide's reader raised.
        """
        try:
            self._started.channel.send(message)
            while True:
                answer, pixels = self._started.channel.receive(seconds=seconds)
                if isinstance(answer, Exception):
                    raise answer
                if not isinstance(answer, Logged | Warned):
                    return answer, pixels
                if not silent:
                    _say(answer)
        except TimeoutError:
            self.end()
            raise WorkerDiedError(f"no answer in {seconds:.0f} s", hung=True) from None
        except (EOFError, ConnectionError):
            raise WorkerDiedError(self._cause_of_death(), hung=False) from None

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._started.end()

    def _cause_of_death(self) -> str:
        try:
            code = self._started.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.end()
        if code < 0:
            name = signal.Signals(-code).name
            return name + (", perhaps for want of memory" if name == "SIGKILL" else "")
        return f"exit code {code}"


def _end_process(channel: Channel, process: subprocess.Popen[bytes], owner: int) -> None:
    channel.close()
    if os.getpid() == owner:  # not in a fork, which only holds a copy
        process.kill()
        process.wait()


def _say(said: Logged | Warned) -> None:
    """Say in this process what a worker has to say."""
    if isinstance(said, Warned):
        warnings.warn_explicit(said.text, said.category, said.filename, said.line)
        return
    named = logging.getLogger(said.logger)
    if named.isEnabledFor(said.level):
        named.log(said.level, "%s", said.text)
