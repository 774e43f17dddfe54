"""Slides whose library crashes or hangs; what they do is in their file name. Only for workers."""

import ctypes
import logging
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.errors import SlideReadError
from histoslide.geometry import Box, Mpp, Region
from histoslide.slide import OpenSlideSlide

BAD = Box(400, 300, 20, 20)
"""The part of level 0 that must not be read."""


class CrashingSlide(OpenSlideSlide):
    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        if (
            region.x < BAD.right
            and region.right > BAD.x
            and region.y < BAD.bottom
            and region.bottom > BAD.y
            and region.level == 0
        ):
            self._misbehave()
        return super().read(region, shrink)

    def _misbehave(self) -> None:
        name = self._path.stem
        if name.startswith("segv"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("null"):
            ctypes.string_at(0)
        if name.startswith("abort"):
            os.abort()
        if name.startswith("hang"):
            time.sleep(1000)
        if name.startswith("lock"):  # hangs and never lets go of Python's lock
            ctypes.PyDLL(None).sleep(1000)
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("refuse"):
            raise SlideReadError(f"{self.name}: refused")
        if name.startswith("bug"):
            raise ZeroDivisionError("a bug")
        if name.startswith("odd"):
            raise OddError(1, 2)
        if name.startswith("once"):
            marker = self._path.with_suffix(".marker")
            if not marker.exists():
                marker.touch()
                os.abort()


class OddError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("cannot be pickled")


def open_crashing(path: Path, *, mpp: Mpp | None = None, cache_bytes: int) -> CrashingSlide:
    os.write(1, b"noise on stdout")
    if path.stem.startswith("open-segv"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem.startswith("open-hang"):
        time.sleep(1000)
    logging.getLogger("histoslide.slide").warning("%s: said by the worker", path.name)
    warnings.warn("warned by the worker", UserWarning, stacklevel=1)
    return CrashingSlide(path, mpp=mpp, cache_bytes=cache_bytes)
