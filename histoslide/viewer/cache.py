"""A cache that forgets what was used longest ago once it holds too many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class ByteCache:
    """Bytes by key, bounded in total; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        """Make an empty cache.

        Args:
            limit: bytes kept at most.
        """
        self._limit, self._held = limit, 0
        self._items: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """What is kept under a key, made if there is nothing; an error of ``make`` is not kept."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        made = make()  # outside the lock: two threads may make the same, none waits for another
        with self._lock:
            if key not in self._items:
                self._items[key] = made
                self._held += len(made)
            while self._held > self._limit and len(self._items) > 1:
                _, forgotten = self._items.popitem(last=False)
                self._held -= len(forgotten)
        return made
