"""A cache that forgets what was used longest ago once it holds too many bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock

from cachetools import LRUCache, cached


def byte_cache(limit: int) -> Callable[[Hashable, Callable[[], bytes]], bytes]:
    """A function of a key and of what makes its bytes; safe to use from several threads.

    Two threads may make the same, none waits for another. An error is not kept.

    Args:
        limit: bytes kept at most.
    """

    @cached(LRUCache(limit, getsizeof=len), key=lambda key, _: key, lock=Lock())
    def kept(key: Hashable, make: Callable[[], bytes]) -> bytes:  # noqa: ARG001 - for the cache
        return make()

    return kept
