"""Who computes the blocks of a heatmap: threads of this process, or a cluster.

Each block is one task that ends in its being written; a runner only decides where and when each is
done. Threads call it; a cluster is sent it as a small Dask graph.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from histoslide.machine.processors import usable_processors

if TYPE_CHECKING:
    from dask.delayed import Delayed

BlockIndex = tuple[int, int]
"""Row and column of a block."""

_CPU_BLOCKS = 4
"""Blocks in work at a time on a CPU: enough to fill batches of sparse blocks, and few enough that
their pixels stay below 250 MB."""


class BlockTask(Protocol):
    """Scores a block and writes it."""

    def __call__(self, block: BlockIndex) -> int:
        """Do it in this thread, and return how many cells were scored."""
        ...

    def graph(self, block: BlockIndex) -> Delayed:
        """The same as a graph, whose result is that number."""
        ...


class Runner(Protocol):
    """Computes blocks."""

    @property
    def slides_at_once(self) -> int:
        """Slides of a cohort that it wants to have in work at a time."""
        ...

    def run(self, blocks: Sequence[BlockIndex], task: BlockTask) -> Generator[int, None, None]:
        """Compute blocks, in any order.

        Args:
            blocks: which.
            task: scores and writes one.

        Yields:
            What each task returned, as soon as it has.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ThreadRunner:
    """Computes blocks in threads of this process; their batches are filled together."""

    workers: int
    """Blocks in work at a time."""
    slides_at_once: int = 2
    """Slides of a cohort in work at a time."""

    @classmethod
    def fitted(cls, device: str) -> ThreadRunner:
        """As many threads as a device can be kept busy with.

        Args:
            device: as torch names it.
        """
        return cls(
            workers=_CPU_BLOCKS if device == "cpu" else max(_CPU_BLOCKS, usable_processors())
        )

    def run(self, blocks: Sequence[BlockIndex], task: BlockTask) -> Generator[int, None, None]:
        """Compute blocks; see ``Runner.run``."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="block")
        interrupted = False
        try:
            for future in as_completed([pool.submit(task, block) for block in blocks]):
                yield future.result()
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            # After an error, no thread may go on writing into what the caller believes to be at
            # rest. After Ctrl-C nobody wants to wait for a block; what is written is whole anyway.
            pool.shutdown(wait=not interrupted, cancel_futures=True)
