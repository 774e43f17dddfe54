"""Reads damaged files of every format, and tells how each reading ended.

    python tests/fuzz.py --mutants 500

A reading may end in a result or in a ``HistoslideError`` of one line. Anything else is a bug: any
other exception, running out of memory, taking too long, a process that dies. Each format is read in
a process of its own, whose memory is limited; another one goes on after it. A slide at which a
native library dies is read once more as the commands read it: in a worker process, whose death is
an error of one line. A mutant is made anew from its seed: ``--format NAME --seed N --mutants 1``.
"""

import argparse
import ast
import faulthandler
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from formats import FORMATS, Read
from mutants import damage_of

from histoslide.errors import HistoslideError

RESULT = "result"
"""How a reading ends that gives something."""

SECONDS = 60
"""Longest time that a reading may take, on a machine that does many other things too."""

MEMORY_BYTES = 2 << 30
"""How much a process may take beyond what it begins with."""


class TooLongError(BaseException):
    """A reading took too long; nothing catches it."""


class Mutants:
    """Damaged files of a format in a folder, one mutant at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        """Write the good files.

        Args:
            name: of the format.
            folder: empty.
        """
        self.name, self.format, self.folder = name, FORMATS[name], folder
        self.format.make(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.good = {path: path.read_bytes() for path in files}

    def endings(self, seed: int, *, isolated: bool = False) -> Iterator[str]:
        """How each reading of a mutant ended: ``RESULT``, the class of an error, or a traceback.

        Args:
            seed: of the mutant.
            isolated: read it as the commands do, in a process that may die.
        """
        with self.mutant(seed):
            for read in self.format.isolated if isolated else self.format.reads:
                yield ending(read, self.folder)

    @contextmanager
    def mutant(self, seed: int) -> Iterator[None]:
        """The good files, one of them damaged or, rarely, gone."""
        chance = random.Random(f"{self.name} {seed}")
        path = chance.choice(list(self.good))
        if chance.random() < 0.01:
            path.unlink()
        else:
            path.write_bytes(damage_of(path)(self.good[path], chance))
        try:
            yield
        finally:
            path.write_bytes(self.good[path])


def ending(read: Read, folder: Path) -> str:
    """How a reading ended."""
    try:
        with warnings.catch_warnings(), time_limit():
            warnings.simplefilter("ignore")
            read(folder)
    except HistoslideError as error:
        lines = str(error).splitlines()
        return (
            type(error).__name__
            if len(lines) == 1
            else f"an error of {len(lines)} lines: {error!r}"
        )
    except (Exception, TooLongError):  # noqa: BLE001 - whatever comes is what we are after
        return traceback.format_exc()
    return RESULT


@contextmanager
def time_limit() -> Iterator[None]:
    """Ends what takes too long; the process, where even that does not end it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_bug(end: str) -> bool:
    """Whether a reading ended otherwise than it may."""
    return end != RESULT and not end.isidentifier()


def read_here(name: str, seeds: range, *, isolated: bool = False) -> None:
    """Read mutants in this process, and print how each reading ended."""
    logging.disable()
    folder = Path(tempfile.mkdtemp())
    try:
        mutants = Mutants(name, folder)
        _limit_memory()
        for seed in seeds:
            print(f"@begin {seed}", flush=True)
            for end in mutants.endings(seed, isolated=isolated):
                print(f"@end {end!r}", flush=True)
    finally:
        shutil.rmtree(folder)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_apart(name: str, seeds: range, *, isolated: bool = False) -> Counter[str]:
    """Read mutants in processes of their own; bugs are printed as they come."""
    ends: Counter[str] = Counter()
    first = seeds.start
    while first < seeds.stop:
        code, said = _in_a_child(name, range(first, seeds.stop), isolated=isolated)
        seed = first
        rest: list[str] = []
        for line in said.splitlines():
            what, _, told = line.partition(" ")
            if what == "@begin":
                seed, rest = int(told), []
            elif what == "@end":
                end = str(ast.literal_eval(told))
                ends["other" if is_bug(end) else end] += 1
                if is_bug(end):
                    print(f"{name}, seed {seed}: {end}", flush=True)
            else:
                rest.append(line)
        if code == 0:
            break
        if FORMATS[name].isolated and not isolated:
            ends += read_apart(name, range(seed, seed + 1), isolated=True)
        else:
            ends["other"] += 1
            print(f"{name}, seed {seed}: died ({code})", *rest[-30:], sep="\n", flush=True)
        first = seed + 1
    return ends


def _in_a_child(name: str, seeds: range, *, isolated: bool) -> tuple[int, str]:
    """How a process ended that read mutants, and all that it said."""
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        child = os.fork()  # it has imported everything
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code = 1
            try:
                faulthandler.enable()
                read_here(name, seeds, isolated=isolated)
                code = 0
            except Exception:
                traceback.print_exc()
                raise
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read()


def main() -> int:
    """Read mutants of all formats; 1 if any reading ended as it must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mutants", type=int, default=500, help="of each format")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant of each format")
    parser.add_argument("--format", choices=FORMATS, action="append", help="only this one")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.mutants)
    names = options.format or list(FORMATS)
    ends: dict[str, Counter[str]] = {}
    for name in names:
        ends[name] = read_apart(name, seeds)
        print(row(name, len(seeds), ends[name]), flush=True)
    print(table(ends, seeds))
    return 1 if sum(of["other"] for of in ends.values()) else 0


def table(ends: dict[str, Counter[str]], seeds: range) -> str:
    """What became of all mutants, as Markdown."""
    mutants = len(ends) * len(seeds)
    lines = [
        "",
        f"Seeds {seeds.start} to {seeds.stop - 1} of {len(ends)} formats:",
        "",
        "| Format | Mutants | Readings | Results | Errors by class | Other |",
        "|---|--:|--:|--:|---|--:|",
        *(row(name, len(seeds), of) for name, of in ends.items()),
        row("all", mutants, sum(ends.values(), Counter())),
    ]
    return "\n".join(lines)


def row(name: str, mutants: int, ends: Counter[str]) -> str:
    """What became of a format's mutants, as a row of ``table``."""
    errors = ", ".join(f"{e} {n:,}" for e, n in ends.most_common() if e not in (RESULT, "other"))
    cells = (name, f"{mutants:,}", f"{ends.total():,}", f"{ends[RESULT]:,}", errors)
    return "| " + " | ".join((*cells, f"{ends['other']:,}")) + " |"


if __name__ == "__main__":
    sys.exit(main())
