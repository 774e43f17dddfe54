"""Networks compiled by OpenVINO, kept so that the next run need not build, convert or compile them.

They lie in the cache folder as OpenVINO exports them. What a graph is kept under covers everything
that shaped it: the bundle, the precision and its ranges, OpenVINO, torch, our code that makes
graphs, and the processor; so nothing is ever out of date. Files that were damaged are not used, nor
is a folder that others than the user can write to: what lies there is computed with, and believed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from histoslide.errors import HistoslideError
from histoslide.machine.cache_folder import CACHE_VARIABLE, cache_folder, key_of
from histoslide.model.engine import ActivationRange
from histoslide.storage.records import from_json, to_json

logger = logging.getLogger(__name__)

KEPT_SETS = 8
"""Sets of graphs that are kept, those used last: about 33 MB a graph of a ResNet50 in int8, 95 in
float32."""

_GRAPH, _DIGEST = "graph.blob", "sha256.json"


@dataclass(frozen=True, kw_only=True)
class CompiledGraphs:
    """The graphs of one bundle at one precision."""

    folder: Path
    """Where; need not exist."""

    @classmethod
    def of(
        cls, *, weights_sha256: str, precision: str, ranges: Mapping[str, ActivationRange] | None
    ) -> CompiledGraphs | None:
        """Those of a bundle in the user's cache folder; None where others can write to it.

        Args:
            weights_sha256: of the bundle's file.
            precision: in which they compute.
            ranges: of ``histoslide.model.int8.activation_ranges``, where they matter.
        """
        key = key_of(
            weights_sha256,
            precision,
            json.dumps(dict(ranges or {}), sort_keys=True),
            version("openvino"),
            version("torch"),
            _source_digest(),
            _processor(),
        )
        folder = cache_folder() / "compiled"
        return cls(folder=folder / key) if _private(folder) else None

    @property
    def any_kept(self) -> bool:
        """Whether there is one: then the network has been built before, and found good."""
        return any(self.folder.glob(f"[!.]*/{_DIGEST}"))

    def has(self, name: str) -> bool:
        """Whether a graph is there, whole or damaged."""
        return (self.folder / name / _DIGEST).exists()

    def find(self, name: str) -> bytes | None:
        """A graph for ``openvino.Core.import_model``; None where it has to be made.

        Args:
            name: of ``keep``.
        """
        folder = self.folder / name
        try:
            kept = from_json((folder / _DIGEST).read_bytes(), dict[str, str], source=folder)
            graph = (folder / _GRAPH).read_bytes()
            os.utime(self.folder)  # used last
        except (OSError, HistoslideError):
            return None
        return graph if kept == _digest(graph) else None

    def keep(self, name: str, graph: bytes) -> None:
        """Keep a graph, and forget those of sets that were used longest ago.

        A cache folder that cannot be written only costs time.

        Args:
            name: for ``find``; tells its shape, its purpose, and what it was compiled for.
            graph: as ``openvino.CompiledModel.export_model`` gives it.
        """
        target = self.folder / name
        partial = self.folder / f".{name}.{socket.gethostname()}.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            try:
                (partial / _GRAPH).write_bytes(graph)
                (partial / _DIGEST).write_text(
                    to_json(_digest(graph), indent=None), encoding="utf-8"
                )
                shutil.rmtree(target, ignore_errors=True)  # damaged, or another run's equal one
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self._forget_others()
        except OSError as error:
            logger.debug("%s: a compiled network cannot be kept: %s", target, error)

    def _forget_others(self) -> None:
        sets = [folder for folder in self.folder.parent.iterdir() if folder.is_dir()]
        sets.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in sets[KEPT_SETS:]:
            shutil.rmtree(folder, ignore_errors=True)


def _private(folder: Path) -> bool:
    """Whether a folder, made if need be, is for nobody but this user to write to.

    A checksum beside a graph finds damage, not intent: who can edit the one can edit the other.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError:  # then nothing can be kept there either
        return True
    if not hasattr(os, "getuid"):  # Windows, where a user's cache folder is the user's
        return True
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022:
        return True
    logger.warning(
        "%s may be written to by others than you: compiled networks there are not used, which "
        "costs time at each start; remove it, or name another folder in %s",
        folder,
        CACHE_VARIABLE,
    )
    return False


def _digest(graph: bytes) -> dict[str, str]:
    return {_GRAPH: hashlib.sha256(graph).hexdigest()}


@cache
def _processor() -> str:
    """What a graph was compiled for: a home folder may be that of several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    if not told:  # nothing that tells one chip from the next: then no other machine's
        told = {platform.machine(), platform.processor(), platform.node()}
    # What oneDNN was told to leave unused changes what is compiled, too.
    limits = {f"{name}={value}" for name, value in os.environ.items() if "ONEDNN" in name}
    return "\n".join(sorted(told | limits))


@cache
def _source_digest() -> str:
    """Of the code that makes graphs, so that one of an older version is never taken."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
