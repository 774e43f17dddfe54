"""The extra ``openvino``: whether it is there, what it can do, and how to import it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

import numpy as np

_first_use = threading.Lock()
_used_before = threading.Event()


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Left alone, it reports each import and each conversion to a web analytics service from forks of
    the process that imports it, and waits for them at the end: with slides of patients in memory,
    and behind firewalls that keep the connection hanging. Where its module of that purpose cannot
    be imported, it takes a stub. Nothing on disk is changed, so other programs keep their setting.

    Raises:
        ImportError: it is not installed.
    """
    # None makes any import of that name fail; one that was imported before is not ours to remove.
    sys.modules.setdefault("openvino_telemetry", cast("ModuleType", None))
    with _first_use:
        import openvino  # noqa: PLC0415

        if not _used_before.is_set():
            _fill_tables(openvino)
    return cast("ModuleType", openvino)


def _fill_tables(openvino: Any) -> None:
    """Have the binding fill its tables of number types, before threads need them at once.

    Each is filled when first needed, under a lock of C++, and asks NumPy for what it holds, which
    may let go of the interpreter's lock. A second thread then takes that one and waits for the
    table, while the first waits for the interpreter: for ever, with no other thread of Python
    running (``ov_type_to_dtype`` and ``dtype_num_to_ov_type`` in its ``common.cpp``, OpenVINO
    2026.4).
    """
    _ = openvino.Tensor(np.zeros(1, dtype=np.uint8)).data


@contextmanager
def alone_at_first() -> Iterator[None]:
    """Let nobody else of this process ask for results until someone has got some.

    For whatever else the binding may do at its first use, as it fills its tables.
    """
    if _used_before.is_set():
        yield
        return
    with _first_use:
        yield
        _used_before.set()


def has_openvino() -> bool:
    """Whether the extra ``openvino`` is installed."""
    return find_spec("openvino") is not None


@cache
def has_cpu_bf16() -> bool:
    """Whether the CPU computes in bfloat16 itself, as OpenVINO sees it."""
    if not has_openvino():
        return False
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities
