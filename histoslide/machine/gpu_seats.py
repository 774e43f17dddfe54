"""Processes of one machine spread themselves over its GPUs, whoever started them.

Nothing else tells them apart: the names of workers are numbers here and text there, a variable that
hides GPUs may be set or not, and workers come and go. So each sits down at the GPU where the fewest
sit. A seat is a locked file in the machine's folder for temporary files; the system unlocks it
when the process ends, in whatever way.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Self

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)


class GpuSeat:
    """A place at a GPU, held until it is closed or the process ends."""

    def __init__(self, index: int, file: BinaryIO | None) -> None:
        self.index = index
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave it to others."""
        if self._file is not None:
            self._file.close()


def take_seat(gpus: Sequence[str], folder: Path | None = None) -> GpuSeat:
    """Sit down where the fewest sit, at the first such GPU.

    Args:
        gpus: what tells those apart that this process sees, the same in all processes, in the
            order in which this process sees them.
        folder: where the seats are; None for one in the machine's folder for temporary files.

    Returns:
        The seat; its ``index`` counts through ``gpus``. The first GPU where seats cannot be told:
        on Windows, or where the folder cannot be written.
    """
    if sys.platform == "win32":
        return GpuSeat(0, None)
    try:
        if folder is None:
            folder = Path(tempfile.gettempdir()) / f"histoslide-gpus-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "lock").open("ab") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            taken = [_taken(folder, gpu) for gpu in gpus]
            index = taken.index(min(taken))
            file = (folder / f"{gpus[index]}.{uuid.uuid4().hex}").open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            return GpuSeat(index, file)
    except OSError:
        logger.debug("no seats at the GPUs: the first is taken", exc_info=True)
        return GpuSeat(0, None)


def _taken(folder: Path, gpu: str) -> int:
    """How many sit at a GPU; what ended processes left is swept away."""
    count = 0
    for seat in folder.glob(f"{gpu}.*"):
        with seat.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                count += 1
            else:
                seat.unlink()
    return count
