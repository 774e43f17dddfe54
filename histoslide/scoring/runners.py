"""Who computes the blocks of a heatmap: threads of this process, or a cluster.

Each block is one small Dask graph that ends in its being written; a runner only decides where and
when each is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

from dask.delayed import Delayed
from dask.local import get_sync

from histoslide.machine.processors import usable_processors

BlockIndex = tuple[int, int]
"""Row and column of a block."""

_CPU_BLOCKS = 4
"""Blocks in work at a time on a CPU: enough to fill batches of sparse blocks, and few enough that
their pixels stay below 250 MB."""


class Runner(Protocol):
    """Computes blocks."""

    @property
    def slides_at_once(self) -> int:
        """Slides of a cohort that it wants to have in work at a time."""
        ...

    def run(
        self, blocks: Sequence[BlockIndex], task: Callable[[BlockIndex], Delayed]
    ) -> Generator[int, None, None]:
        """Compute blocks, in any order.

        Args:
            blocks: which.
            task: makes the graph of one block; computing it scores and writes the block.

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

    def run(
        self, blocks: Sequence[BlockIndex], task: Callable[[BlockIndex], Delayed]
    ) -> Generator[int, None, None]:
        """Compute blocks; see ``Runner.run``."""

        def compute(block: BlockIndex) -> int:
            # Its function, not its name: for a name, Dask first imports distributed.
            return int(task(block).compute(scheduler=get_sync))

        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="block")
        interrupted = False
        try:
            for future in as_completed([pool.submit(compute, block) for block in blocks]):
                yield future.result()
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            # After an error, no thread may go on writing into what the caller believes to be at
            # rest. After Ctrl-C nobody wants to wait for a block; what is written is whole anyway.
            pool.shutdown(wait=not interrupted, cancel_futures=True)
