"""One run at a time: the lock beside a store that is being written.

The lock of ``heat.zarr`` is ``.heat.zarr.lock`` beside it: a file, or an object in object storage,
that is there only while somebody writes. It says who: host, process, since when. Whoever comes
second is refused. A lock that nobody holds any more is taken over with a warning:

- on the same machine, when the process is gone, or another process has got its number;
- from another machine (or another container, which cannot see the process), when its heartbeat has
  been still for ``STALE_S`` by the clock, and then still does not move while we look on. Looking on
  is what makes clocks that differ harmless; of a heartbeat far in the future it is all there is, so
  that one is watched for ``STALE_S``.

A holder that was suspended so long that it was taken over finds out before it writes on: see
``StoreLock.check``. So do workers elsewhere that still write for it: see ``LockGuard.check``.
"""

from histoslide.storage.lock.holder import BEAT_S, Holder
from histoslide.storage.lock.holding import STALE_S, LockGuard, StoreLock, hold, lock_path

__all__ = ["BEAT_S", "STALE_S", "Holder", "LockGuard", "StoreLock", "hold", "lock_path"]
