"""Fixed batches for a network, filled with the work of several blocks and slides at once.

There is no thread that owns the network. Whichever thread waits for results, or sees between two
reads that a batch is full, takes it from the queue, its own items or others', and runs it; so
nothing has to be started or stopped, and an error surfaces in the threads whose items it concerns.
A batch is always of the same shape, so that an item's result does not depend on its company; one
that cannot be filled, because every thread waits and no more items will come, or none comes for a
while, is filled up with black.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histoslide.model.pixels import PixelMemory, Pixels

PATIENCE_S = 2.0
"""Seconds without any news after which a part-filled batch no longer waits for readers: one of them
may hang in a broken slide, and must not hold up the others' work."""

Scorer = Callable[[Pixels], NDArray[np.float32]]
"""Maps a batch of pixels to scores of shape (n, ...)."""


@dataclass(eq=False)
class Request:
    """Items of one caller that wait for their results."""

    items: Callable[[slice], Pixels]
    """Gives a range of the items, uint8 of shape (n, 3, side, side)."""
    count: int
    """Number of items."""
    taken: int = 0
    """Items that are in a batch."""
    missing: int = field(init=False)
    """Items without a result."""
    result: NDArray[np.float32] | None = None
    """Shape (count, ...) once the first batch is back."""
    error: BaseException | None = None
    """Why there will be no result."""

    def __post_init__(self) -> None:
        self.missing = self.count

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or self.missing == 0


@dataclass(frozen=True)
class _Piece:
    request: Request
    items: slice


class Batches:
    """The queue before one network."""

    def __init__(
        self, score: Scorer, *, memory: PixelMemory, size: int, in_flight: int = 1
    ) -> None:
        """Make an empty queue.

        Args:
            score: runs the network.
            memory: where it wants its pixels.
            size: items a batch.
            in_flight: batches under way at a time; on an accelerator a second one is prepared
                while the first is computed.
        """
        self._score, self._memory = score, memory
        self._size, self._in_flight = size, in_flight
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        self._queued = 0
        self._readers = 0
        self._running = 0
        self._last_news = time.monotonic()

    @property
    def size(self) -> int:
        """Items a batch."""
        return self._size

    @property
    def memory(self) -> PixelMemory:
        """Where the network wants its pixels."""
        return self._memory

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Say that this thread will bring items soon, so that others' part-filled batches wait."""
        self._count_readers(1)
        try:
            yield
        finally:
            self._count_readers(-1)

    def put(self, items: Callable[[slice], Pixels], count: int) -> Request:
        """Queue items.

        Args:
            items: gives a range of them as pixels in the network's memory; called once for every
                item, perhaps from another thread.
            count: how many there are.
        """
        request = Request(items, count)
        with self._changed:
            if count:
                self._queue.append(request)
                self._queued += count
            self._wake_waiting()
        return request

    def help(self) -> None:
        """Run a batch if one is full and nobody is about to: the network need not wait for readers.

        To be called inside ``reader``.
        """
        with self._changed:
            if self._queued < self._size or self._running >= self._in_flight:
                return
            self._running += 1
            pieces = self._take()
        self._run(pieces)

    def wait(self, requests: Sequence[Request]) -> None:
        """Work on the queue until the requests have their results.

        To be called inside ``reader``.

        Raises:
            Exception: what the network or ``items`` raised over these requests.
        """
        self._count_readers(-1)
        try:
            while pieces := self._next(requests):
                self._run(pieces)
        finally:
            self._count_readers(1)
        for request in requests:
            if request.error is not None:
                raise request.error

    def _count_readers(self, change: int) -> None:
        with self._changed:
            self._readers += change
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        """Let the waiting threads look again; to be called with the lock held."""
        self._last_news = time.monotonic()
        self._changed.notify_all()

    def _next(self, requests: Sequence[Request]) -> list[_Piece]:
        """The next batch to run, or nothing once the requests are done."""
        with self._changed:
            while not all(request.done for request in requests):
                patience = self._patience()
                if self._queued and self._running < self._in_flight and patience <= 0:
                    self._running += 1
                    return self._take()
                self._changed.wait(patience if self._queued and patience > 0 else None)
        return []

    def _patience(self) -> float:
        """Seconds that a batch may still wait for more items."""
        if self._queued >= self._size or not self._readers:
            return 0
        return PATIENCE_S - (time.monotonic() - self._last_news)

    def _take(self) -> list[_Piece]:
        pieces: list[_Piece] = []
        room = self._size
        while room and self._queue:
            request = self._queue[0]
            count = min(room, request.count - request.taken)
            pieces.append(_Piece(request, slice(request.taken, request.taken + count)))
            request.taken += count
            room -= count
            if request.taken == request.count:
                self._queue.popleft()
        self._queued -= self._size - room
        return pieces

    def _run(self, pieces: Sequence[_Piece]) -> None:
        try:
            scores = self._score(self._fill(pieces))
        except BaseException as error:
            with self._changed:
                self._running -= 1
                for piece in pieces:
                    self._fail(piece.request, error)
                self._wake_waiting()
            if not isinstance(error, Exception):
                raise
            return
        with self._changed:
            self._running -= 1
            start = 0
            for piece in pieces:
                count = piece.items.stop - piece.items.start
                request = piece.request
                if request.result is None:
                    shape = (request.count, *scores.shape[1:])
                    request.result = np.empty(shape, dtype=np.float32)
                request.result[piece.items] = scores[start : start + count]
                request.missing -= count
                start += count
            self._wake_waiting()

    def _fill(self, pieces: Sequence[_Piece]) -> Pixels:
        parts = [piece.request.items(piece.items) for piece in pieces]
        return self._memory.join(parts, self._size)

    def _fail(self, request: Request, error: BaseException) -> None:
        request.error = error
        if request in self._queue:
            self._queue.remove(request)
            self._queued -= request.count - request.taken
