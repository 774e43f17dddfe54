"""The extra ``openvino``: whether it is there, what it can do, and how to import it."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import cast


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
    import openvino  # noqa: PLC0415

    return cast("ModuleType", openvino)


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
