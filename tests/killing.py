"""A run that dies at a chosen operation on the file system; started by test_durability.

``python killing.py FOLDER NGFF MODE STEP``: at every STEPth operation of a run a copy of the
process dies just before it (at a rename: with half of the file written), another runs the same
again, and what lies in the folder then must be what an uninterrupted run leaves. Copies are forked
before any thread starts, so that importing is paid for once.
"""

import itertools
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from heatmaps import lazy_of
from numpy.typing import NDArray

from histoslide.store import NgffVersion, store_heatmap

_WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}


def probabilities(seed: int) -> NDArray[Any]:
    values = np.random.default_rng(seed).random((70, 40))
    values[:32, 32:] = np.nan
    return values


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file by its path; of root metadata everything but the times."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "folder"
        elif path.parent.name == "heat.zarr" and path.name in ("zarr.json", ".zattrs"):
            document = json.loads(path.read_text())
            document.get("attributes", document)["histoslide"].pop("seconds")
            found[name] = json.dumps(document)
        else:
            found[name] = path.read_bytes()
    return found


def die_at(number: int, folder: Path) -> None:
    """Let the process die just before its n-th operation, counted from 1, inside a folder."""
    numbers = itertools.count(1)  # unlike adding one, safe in several threads

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _WATCHED or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if next(numbers) == number:
            if event == "os.rename" and Path(arguments[0]).is_file():
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)  # noqa: PTH202
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def run(folder: Path, ngff: NgffVersion, *, overwrite: bool, kill_at: int = 0) -> bool:
    """Store in a forked copy of this process; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if kill_at:
                die_at(kill_at, folder)
            lazy = lazy_of(probabilities(2), stride_px=32)
            store_heatmap(lazy, folder / "heat.zarr", ngff=ngff, overwrite=overwrite)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        sys.exit(f"run ended with {status} after the kill at {kill_at}")
    return True


def begin(folder: Path, ngff: NgffVersion) -> None:
    """An old store to be replaced, of other probabilities."""
    pid = os.fork()
    if pid == 0:
        try:
            lazy = lazy_of(probabilities(1), stride_px=32, quickhash="older")
            store_heatmap(lazy, folder / "heat.zarr", ngff=ngff)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def main(folder: Path, ngff: NgffVersion, *, overwrite: bool, step: int) -> None:
    whole = folder / "whole"
    whole.mkdir()
    run(whole, ngff, overwrite=False)
    expected = contents(whole)
    old = folder / "old"
    old.mkdir()
    if overwrite:
        begin(old, ngff)
    number = 1 - step
    while True:
        number += step
        killed = folder / f"{number}"
        shutil.copytree(old, killed)
        if run(killed, ngff, overwrite=overwrite, kill_at=number):
            break
        run(killed, ngff, overwrite=overwrite)
        found = contents(killed)
        if found != expected:
            names = {n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)}
            sys.exit(f"killed at {number}: {sorted(names)} differ")
        shutil.rmtree(killed)
    print(number)  # noqa: T201


if __name__ == "__main__":
    version: NgffVersion = "0.4" if sys.argv[2] == "0.4" else "0.5"
    logging.disable()  # that a dead run's lock is taken over need not be read a hundred times
    overwriting = sys.argv[3] == "overwrite"
    main(Path(sys.argv[1]), version, overwrite=overwriting, step=int(sys.argv[4]))
